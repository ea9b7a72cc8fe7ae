"""How the network side of a node is, at one moment: for the status command, the gRPC service and metrics."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum

from p2p.book import Ban, PeerBook
from p2p.counters import ConnectionHealth, Counters
from p2p.host import Host
from trellis.crypto.aead import Suite
from trellis.crypto.algorithms import AlgId
from trellis.peerid import fingerprint
from trellis.types import Hash, PeerId


class PeerState(StrEnum):
    """A closed set: it labels a gauge. A peer may be in several."""

    CONNECTED = "connected"
    VALIDATOR = "validator"
    """Connected, and in the validator set."""
    DIALLED = "dialled"
    """Connected by this side."""
    KNOWN = "known"
    """In the peer book."""
    BANNED = "banned"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One moment."""

    own: PeerId
    listening: tuple[str, ...]
    connections: tuple[ConnectionHealth, ...]
    states: dict[PeerState, int]
    queues: dict[str, int]
    """Entries that wait, by queue: one that grows names what is too slow."""
    bans: tuple[Ban, ...]
    handshakes: int
    dials: int
    failed_dials: int
    bytes_in: int
    bytes_out: int
    rejects: dict[str, int]
    told: dict[str, int]
    """What peers told us when they refused us."""
    trouble: str
    """Why the peer book could not be written last; empty if it could."""


class Health:
    """Takes snapshots. Whoever has a queue registers its depth under a name of its own."""

    def __init__(self, host: Host, book: PeerBook | None = None) -> None:
        self._host = host
        self._book = book
        self._queues: dict[str, Callable[[], int]] = {}

    @property
    def counters(self) -> Counters:
        return self._host.counters

    def queue(self, name: str, depth: Callable[[], int]) -> None:
        if name in self._queues:
            raise ValueError(f"there is a queue {name!r} already")
        self._queues[name] = depth

    def snapshot(self) -> Snapshot:
        host, book, counters = self._host, self._book, self._host.counters
        connections = host.peers()
        bans = () if book is None else book.bans()
        return Snapshot(
            own=host.peer,
            listening=host.addresses,
            connections=connections,
            states={
                PeerState.CONNECTED: len({each.peer for each in connections}),
                PeerState.VALIDATOR: len({each.peer for each in connections if each.validator}),
                PeerState.DIALLED: len({each.peer for each in connections if each.dialled}),
                PeerState.KNOWN: 0 if book is None else len(book),
                PeerState.BANNED: len(bans),
            },
            queues={name: depth() for name, depth in sorted(self._queues.items())},
            bans=bans,
            handshakes=counters.handshakes,
            dials=counters.dials,
            failed_dials=counters.failed_dials,
            bytes_in=counters.bytes_in,
            bytes_out=counters.bytes_out,
            rejects=dict(sorted(counters.rejects.items())),
            told=dict(sorted(counters.told.items())),
            trouble="" if book is None else book.trouble,
        )


@dataclass(frozen=True, slots=True)
class Proven:
    """What the handshake with a connected peer settled."""

    peer: PeerId
    algorithm: AlgId
    """Of the key that signed."""
    fingerprint: Hash
    """Of that key: what people compare."""
    certified: bool
    """A cold key names the peer, and vouches for the one that signed."""
    suite: Suite
    max_streams: int
    """That the listener grants its dialer."""
    session_lifetime_s: int


def proven(host: Host, peer: PeerId) -> Proven:
    """`NotConnectedError` if there is no connection."""
    session = host.session(peer)
    remote = session.remote
    return Proven(
        peer=remote.peer,
        algorithm=remote.alg,
        fingerprint=fingerprint(remote.alg, remote.public_key),
        certified=bool(remote.certificate),
        suite=session.suite,
        max_streams=session.peer_limits.max_streams,
        session_lifetime_s=session.peer_limits.session_lifetime_s,
    )
