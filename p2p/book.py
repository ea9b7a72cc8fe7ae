"""The peer book: where peers were found, how they behaved, who is banned and until when. Survives kill -9.

On disk it is an append-only log (`p2p.booklog`): a line is all that is known of one peer, and a peer's last line
counts. Bans are handed to the operating system at once, and `flush` hands over the rest: what it has, a killed
process does not lose. `sync` puts it on the disk, against power cuts; it alone may be called from another thread. The
owner does both every second or so (`p2p.discovery.service`). One process at a time may have the book open.

Who fills it is bounded: peers that never proved themselves are charged to whoever told of them (`Source`), at most
`PEERS_PER_SOURCE` for each, and a full book makes room at the expense of the source that filled it most.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import zip_longest
from pathlib import Path
from typing import Any, Final

from p2p.booklog import BookLog, PeerBookFault
from p2p.dialing import PeerAddress
from trellis.constants import MAX_MULTIADDR_BYTES
from trellis.encoding import DecodeError
from trellis.peerid import parse_peer_id, peer_id_text
from trellis.types import Hash, PeerId

logger = logging.getLogger(__name__)

FULL_SCORE: Final = 1_000
"""Thousandths. Everybody starts here; nobody gets above it."""
BAN_LINE: Final = 300
RECOVERY_MS: Final = 36_000
"""One thousandth comes back in this time: an offence of 100 is forgiven in an hour."""
BAN_MS: Final = 3_600_000
"""Of a peer whose score fell below the line; it starts again right above it."""

PEERS_PER_SOURCE: Final = 64
"""Unproven peers charged to one source: a gossiper that invents peers displaces only what it told itself."""
UNPROVEN_PEERS: Final = 1_024
"""Of all sources together: many gossipers that invent peers."""
PROVEN_PEERS: Final = 1_024
"""Peers that once completed a handshake: identities are free, so these are bounded too."""
BANNED_PEERS: Final = 4_096
"""Bans that outlive their peer's entry: identities made to be banned push out the ban that ends first."""
ADDRESSES_PER_PEER: Final = 8
MAX_REASON_CHARS: Final = 128
FORGET_MS: Final = 14 * 24 * 3_600_000
"""An unproven peer that nobody spoke of for so long is dropped."""
FORGET_FAILURES: Final = 12
"""Or after so many dials in a row that failed, hours of back-off."""
FIRST_RETRY_MS: Final = 1_000
LONGEST_RETRY_MS: Final = 3_600_000


class SourceKind(StrEnum):
    """How this node heard of an address."""

    STATIC = "static"
    """The configuration. Never displaced."""
    SEED = "seed"
    MDNS = "mdns"
    EXCHANGE = "exchange"
    """A record that its peer signed, told by another peer."""
    MET = "met"
    """The peer connected to us."""


@dataclass(frozen=True, slots=True)
class Source:
    """Who is charged for what it told: the seed's name, or the gossiper's network (a /24), not its free identity."""

    kind: SourceKind
    group: str = ""

    def __str__(self) -> str:
        return f"{self.kind}:{self.group}"


def _source(text: str) -> Source:
    kind, _, group = text.partition(":")
    return Source(SourceKind(kind), group)


@dataclass(frozen=True, slots=True)
class Ban:
    peer: PeerId
    reason: str
    until_ms: int


@dataclass(frozen=True, slots=True)
class KnownAddress:
    address: str
    kind: SourceKind
    heard_ms: int


@dataclass(slots=True)
class _Entry:
    """All that is known of one peer."""

    peer: PeerId
    source: Source
    addresses: list[KnownAddress] = field(default_factory=list)
    score: int = FULL_SCORE
    scored_ms: int = 0
    """When `score` was true: recovery is counted from then."""
    heard_ms: int = 0
    proven_ms: int = 0
    """The last handshake; 0: never."""
    failures: int = 0
    failed_ms: int = 0
    sequence: int = 0
    """Of the newest signed address record."""

    @property
    def static(self) -> bool:
        return any(each.kind is SourceKind.STATIC for each in self.addresses)


class PeerBook:
    """See the module's text. `now_ms` is wall time: bans must mean the same after a restart."""

    def __init__(self, path: Path, genesis_hash: Hash, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._entries: dict[PeerId, _Entry] = {}
        self._bans: dict[PeerId, Ban] = {}
        self._dirty: set[PeerId] = set()
        self._log = BookLog(path, genesis_hash)
        for document in self._log.read(now_ms()):
            self._restore(document)

    # What was heard.

    def note(self, peer: PeerId, addresses: Iterable[str], source: Source, *, sequence: int = 0) -> bool:
        """Remembers where a peer may be. A signed record (`sequence` above 0) replaces what earlier records said; one
        that is not newer changes nothing, and the answer is False."""
        now_ms = self._now_ms()
        entry = self._entries.get(peer)
        if entry is not None and 0 < sequence <= entry.sequence:
            return False
        fresh = [each for each in addresses if len(each.encode()) <= MAX_MULTIADDR_BYTES]
        if entry is None:
            if not fresh:
                return False
            entry = self._enter(peer, source)
        kept = [
            each
            for each in entry.addresses
            if each.address not in fresh and not (sequence and each.kind is SourceKind.EXCHANGE)
        ]
        static = {each.address for each in entry.addresses if each.kind is SourceKind.STATIC}
        heard = [
            KnownAddress(each, SourceKind.STATIC if each in static else source.kind, now_ms)
            for each in dict.fromkeys(fresh)
        ]
        # Static addresses, then the freshest: a flood of hearsay pushes out hearsay.
        ordered = sorted([*heard, *kept], key=lambda each: (each.kind is not SourceKind.STATIC, -each.heard_ms))
        entry.addresses = ordered[:ADDRESSES_PER_PEER]
        entry.heard_ms = now_ms
        entry.sequence = max(entry.sequence, sequence)
        self._dirty.add(peer)
        return True

    def proven(self, peer: PeerId, address: str | None = None) -> None:
        """A handshake proved that the peer exists; `address` is where it was dialled."""
        now_ms = self._now_ms()
        entry = self._entries.get(peer)
        if entry is None:
            entry = self._enter(peer, Source(SourceKind.MET))
        if not entry.proven_ms:
            self._make_room_for_proven()
        if address is not None:
            found = [each for each in entry.addresses if each.address == address]
            first = KnownAddress(address, found[0].kind if found else SourceKind.MET, now_ms)
            entry.addresses = [first, *(each for each in entry.addresses if each.address != address)]
            del entry.addresses[ADDRESSES_PER_PEER:]
        entry.proven_ms = entry.heard_ms = now_ms
        entry.failures = 0
        self._dirty.add(peer)

    def failed(self, peer: PeerId) -> None:
        """A dial failed: the next one waits, longer each time."""
        entry = self._entries.get(peer)
        if entry is not None:
            entry.failures += 1
            entry.failed_ms = self._now_ms()
            self._dirty.add(peer)

    def candidates(self, n: int, exclude: frozenset[PeerId] = frozenset()) -> tuple[PeerAddress, ...]:
        """Whom to dial next: configured peers, then proven and unproven ones in turn, these from every source in turn.

        Banned peers are left out, and those whose last dial failed too recently.
        """
        now_ms = self._now_ms()
        usable = [
            entry
            for entry in self._entries.values()
            if entry.addresses
            and entry.peer not in exclude
            and not self.is_banned(entry.peer)
            and now_ms >= entry.failed_ms + _retry_ms(entry.failures)
        ]
        usable.sort(key=lambda each: (-self._score(each), -max(each.proven_ms, each.heard_ms), each.peer))
        static = [each for each in usable if each.static]
        proven = [each for each in usable if not each.static and each.proven_ms]
        groups: dict[Source, list[_Entry]] = {}
        for each in usable:
            if not each.static and not each.proven_ms:
                groups.setdefault(each.source, []).append(each)
        unproven = _in_turn(*groups.values())
        chosen = [*static, *_in_turn(proven, unproven)][:n]
        return tuple(PeerAddress(each.peer, tuple(at.address for at in each.addresses)) for each in chosen)

    def addresses(self, peer: PeerId) -> tuple[KnownAddress, ...]:
        entry = self._entries.get(peer)
        return () if entry is None else tuple(entry.addresses)

    def sequence(self, peer: PeerId) -> int:
        """Of the newest signed address record that was noted; 0: none."""
        entry = self._entries.get(peer)
        return 0 if entry is None else entry.sequence

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, peer: PeerId) -> bool:
        return peer in self._entries

    # How peers behave.

    def score(self, peer: PeerId) -> int:
        entry = self._entries.get(peer)
        return FULL_SCORE if entry is None else self._score(entry)

    def penalise(self, peer: PeerId, reason: str, amount: int) -> bool:
        """Takes `amount` thousandths; True if that led to a ban, which the host is to be told of."""
        if amount < 0:
            raise ValueError("a penalty takes, it does not give")
        entry = self._entries.get(peer) or self._enter(peer, Source(SourceKind.MET))
        self._set_score(entry, self._score(entry) - amount)
        if entry.score >= BAN_LINE or self.is_banned(peer):
            return False
        self.ban(peer, reason, self._now_ms() + BAN_MS)
        # After the ban it may try again, and one more offence bans it again.
        self._set_score(entry, BAN_LINE)
        return True

    def reward(self, peer: PeerId, amount: int) -> None:
        """Gives back, up to the full score, what recovery would give back more slowly."""
        if amount < 0:
            raise ValueError("a reward gives, it does not take")
        entry = self._entries.get(peer)
        if entry is not None:
            self._set_score(entry, self._score(entry) + amount)

    def decay(self) -> None:
        """Forgets: bans that are over, peers that nobody spoke of or that never answer. Call it every minute or so."""
        now_ms = self._now_ms()
        for peer in [each.peer for each in self._bans.values() if each.until_ms <= now_ms]:
            del self._bans[peer]
            self._dirty.add(peer)
        for entry in list(self._entries.values()):
            unheard = now_ms - entry.heard_ms > FORGET_MS
            unreachable = not entry.proven_ms and entry.failures >= FORGET_FAILURES
            if not entry.static and (unheard or unreachable):
                self._drop(entry)

    def _score(self, entry: _Entry) -> int:
        recovered = max(0, self._now_ms() - entry.scored_ms) // RECOVERY_MS
        return min(FULL_SCORE, entry.score + recovered)

    def _set_score(self, entry: _Entry, score: int) -> None:
        entry.score = max(0, min(FULL_SCORE, score))
        entry.scored_ms = self._now_ms()
        self._dirty.add(entry.peer)

    # Bans. They throttle gossip and sync; whether a validator keeps its consensus lane is the node's to decide.

    def ban(self, peer: PeerId, reason: str, until_ms: int) -> None:
        """Replaces an earlier ban. Survives a kill of this process from the moment this returns."""
        if not reason or len(reason) > MAX_REASON_CHARS or not reason.isprintable():
            raise ValueError(f"a ban has a reason of 1 to {MAX_REASON_CHARS} printable characters")
        self._bans[peer] = Ban(peer, reason, until_ms)
        if len(self._bans) > BANNED_PEERS:
            soonest = min(self._bans.values(), key=lambda each: (each.until_ms, each.peer)).peer
            del self._bans[soonest]
            self._dirty.add(soonest)
        self._append_now(peer)

    def unban(self, peer: PeerId) -> bool:
        """False if there was no ban."""
        if self._bans.pop(peer, None) is None:
            return False
        self._append_now(peer)
        return True

    def is_banned(self, peer: PeerId) -> bool:
        ban = self._bans.get(peer)
        return ban is not None and ban.until_ms > self._now_ms()

    def bans(self) -> tuple[Ban, ...]:
        """Those in force, the first to end first."""
        now_ms = self._now_ms()
        running = [each for each in self._bans.values() if each.until_ms > now_ms]
        return tuple(sorted(running, key=lambda each: (each.until_ms, each.peer)))

    # On disk.

    def flush(self) -> None:
        """Hands everything noted so far to the operating system; the file is rewritten when most lines are outdated."""
        peers, self._dirty = self._dirty, set()
        if not self._log.append([self._document(each) for each in sorted(peers)]):
            self._dirty |= peers
        known = self._entries.keys() | self._bans.keys()
        if self._log.is_mostly_outdated(len(known)):
            self._log.rewrite([self._document(each) for each in sorted(known)])

    def sync(self) -> None:
        """What was flushed is on the disk when this returns. Not while `flush` or `close` runs."""
        self._log.sync()

    @property
    def trouble(self) -> str:
        """Why the file could not be written last, for operators; empty if it could."""
        return self._log.trouble

    def close(self) -> None:
        self.flush()
        self.sync()
        self._log.close()

    def _append_now(self, peer: PeerId) -> None:
        self._dirty.discard(peer)
        if not self._log.append([self._document(peer)]):
            self._dirty.add(peer)

    def _document(self, peer: PeerId) -> dict[str, Any]:
        """What a line says. A peer that is neither known nor banned any more has a line without either."""
        document: dict[str, Any] = {"peer": peer_id_text(peer)}
        ban = self._bans.get(peer)
        if ban is not None:
            document["ban"] = [ban.reason, ban.until_ms]
        entry = self._entries.get(peer)
        if entry is not None:
            document |= {
                "source": str(entry.source),
                "addresses": [[each.address, str(each.kind), each.heard_ms] for each in entry.addresses],
                "score": [entry.score, entry.scored_ms],
                "heard_ms": entry.heard_ms,
                "proven_ms": entry.proven_ms,
                "failures": [entry.failures, entry.failed_ms],
                "sequence": entry.sequence,
            }
        return document

    def _restore(self, document: dict[str, Any]) -> None:
        """A line with a right checksum is ours: one that says something impossible is a fault worth a stop."""
        try:
            peer = parse_peer_id(document["peer"])
            self._bans.pop(peer, None)
            self._entries.pop(peer, None)
            if "ban" in document:
                reason, until_ms = document["ban"]
                self._bans[peer] = Ban(peer, str(reason), int(until_ms))
            if "source" in document:
                self._entries[peer] = _entry(peer, document)
        except (KeyError, TypeError, ValueError, DecodeError) as fault:
            raise PeerBookFault(
                f"{self._log.path}: a line with a right checksum is none of ours ({fault}): it was written by another "
                "version; move the file away and start again (addresses, scores and bans are then learned anew)"
            ) from fault

    # Room.

    def _enter(self, peer: PeerId, source: Source) -> _Entry:
        unproven = [each for each in self._entries.values() if not each.proven_ms and not each.static]
        same = [each for each in unproven if each.source == source]
        if source.kind is not SourceKind.STATIC:
            if len(same) >= PEERS_PER_SOURCE:
                self._drop(_stalest(same))
            elif len(unproven) >= UNPROVEN_PEERS:
                charged = Counter(each.source for each in unproven)
                largest = max(charged, key=lambda each: (charged[each], str(each)))
                self._drop(_stalest([each for each in unproven if each.source == largest]))
        now_ms = self._now_ms()
        entry = self._entries[peer] = _Entry(peer, source, scored_ms=now_ms, heard_ms=now_ms)
        self._dirty.add(peer)
        return entry

    def _make_room_for_proven(self) -> None:
        proven = [each for each in self._entries.values() if each.proven_ms and not each.static]
        if len(proven) >= PROVEN_PEERS:
            self._drop(min(proven, key=lambda each: (self._score(each), each.proven_ms, each.peer)))

    def _drop(self, entry: _Entry) -> None:
        del self._entries[entry.peer]
        self._dirty.add(entry.peer)


def _entry(peer: PeerId, document: dict[str, Any]) -> _Entry:
    score, scored_ms = document["score"]
    failures, failed_ms = document["failures"]
    addresses = [
        KnownAddress(str(address), SourceKind(kind), int(heard_ms))
        for address, kind, heard_ms in document["addresses"]
        # The configuration says anew at each start what is static.
        if kind != SourceKind.STATIC
    ]
    return _Entry(
        peer=peer,
        source=_source(document["source"]),
        addresses=addresses,
        score=int(score),
        scored_ms=int(scored_ms),
        heard_ms=int(document["heard_ms"]),
        proven_ms=int(document["proven_ms"]),
        failures=int(failures),
        failed_ms=int(failed_ms),
        sequence=int(document["sequence"]),
    )


def _stalest(entries: list[_Entry]) -> _Entry:
    return min(entries, key=lambda each: (each.heard_ms, each.peer))


def _retry_ms(failures: int) -> int:
    return min(FIRST_RETRY_MS << min(failures - 1, 20), LONGEST_RETRY_MS) if failures else 0


def _in_turn(*several: Iterable[_Entry]) -> Iterator[_Entry]:
    """One of each, then the next of each."""
    for row in zip_longest(*several):
        yield from (each for each in row if each is not None)
