"""Whose gossip is listened to: demerits for each fault, forgotten with time, and what the peer book is told.

Scores are local and throttle gossip alone: a throttled peer's announcements are dropped and it is asked for nothing.
Connections, and the consensus lanes on them, are not touched from here; whether a peer is banned, with which reason and
until when, is the peer book's to decide and to keep.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from typing import Final, Protocol

from trellis.types import PeerId

HALF_LIFE_MS: Final = 20_000
"""Demerits halve in this time: who stops misbehaving is heard again within a minute."""
THROTTLE_LINE: Final = 1_000
"""Demerits, in thousandths, from which a peer is throttled."""
MOST_DEMERITS: Final = 8_000
"""However much a peer does, it is forgiven after three half-lives without a fault."""
TOLD_EVERY_MS: Final = 1_000
"""The book hears of a peer's faults this often, summed: a flood of faults must not become a flood of entries."""
MAX_REMEMBERED: Final = 4_096
"""Peers with demerits, connected or not: leaving and coming back forgives nothing; new identities fill no memory."""


class GossipFault(StrEnum):
    """Why a message, or what was asked for, was thrown away. A closed set: it labels counters."""

    MALFORMED_RPC = "gossip_malformed_rpc"
    RPC_TOO_LARGE = "gossip_rpc_too_large"
    SIGNED = "gossip_signed"
    """A message with a sender, sequence number, key or signature: nobody checks them, so nobody may rely on them."""
    UNKNOWN_TOPIC = "gossip_unknown_topic"
    MESSAGE_TOO_LARGE = "gossip_message_too_large"
    RATE_LIMITED = "gossip_rate_limited"
    CONTROL_FLOOD = "gossip_control_flood"
    REJECTED = "gossip_rejected"
    """The verdict of whoever the topic belongs to."""
    MALFORMED_ANNOUNCEMENT = "gossip_malformed_announcement"
    CANNOT_SERVE = "gossip_cannot_serve"
    """It announced what it does not have."""
    NO_ANSWER = "gossip_no_answer"
    MALFORMED_ANSWER = "gossip_malformed_answer"
    NOT_ASKED = "gossip_not_asked"
    """An answer with something that was not asked for."""
    WRONG_BYTES = "gossip_wrong_bytes"
    """Not what hashes to that id."""
    BAD_SIGNATURE = "gossip_bad_signature"
    SERVED_TOO_MUCH = "gossip_served_too_much"
    """It asks for more than blocks could ever take, and is answered later."""
    THROTTLED = "gossip_throttled"
    """Dropped because of earlier faults."""
    HELD_FULL = "gossip_held_full"
    """Too many messages wait for a verdict: our slowness, or a flood."""
    WANTED_FULL = "gossip_wanted_full"
    """It announced more than we keep in mind of one peer."""
    OUTBOX_FULL = "gossip_outbox_full"
    """The peer reads more slowly than we gossip."""
    UNDECIDED = "gossip_undecided"
    """No verdict came in time."""
    BROKEN = "gossip_broken"
    """libp2p failed unexpectedly: what it was doing was given up. Look into the debug log."""


DEMERITS: Final[dict[GossipFault, int]] = {
    GossipFault.MALFORMED_RPC: 400,
    GossipFault.RPC_TOO_LARGE: 400,
    GossipFault.SIGNED: 100,
    GossipFault.UNKNOWN_TOPIC: 20,
    GossipFault.MESSAGE_TOO_LARGE: 200,
    GossipFault.RATE_LIMITED: 10,
    GossipFault.CONTROL_FLOOD: 50,
    GossipFault.REJECTED: 200,
    GossipFault.MALFORMED_ANNOUNCEMENT: 200,
    GossipFault.CANNOT_SERVE: 20,
    GossipFault.NO_ANSWER: 100,
    GossipFault.MALFORMED_ANSWER: 400,
    GossipFault.NOT_ASKED: 200,
    GossipFault.WRONG_BYTES: 400,
    GossipFault.BAD_SIGNATURE: 250,
}
"""In thousandths. Faults that are not here may be our own or the network's, and cost a peer nothing."""


class BookPort(Protocol):
    """What gossip needs of the peer book."""

    def penalise(self, peer: PeerId, reason: str, amount: int) -> bool:
        """Takes `amount` thousandths of the peer's standing; True if that led to a ban."""
        ...

    def is_banned(self, peer: PeerId) -> bool: ...


class _Standing:
    __slots__ = ("at_ms", "demerits", "reason", "untold")

    def __init__(self, now_ms: int) -> None:
        self.demerits = 0
        self.at_ms = now_ms
        self.untold = 0
        self.reason = GossipFault.RATE_LIMITED


class Scores:
    """Demerits of peers. What is forgotten here the book may still know."""

    def __init__(
        self,
        book: BookPort | None,
        rejects: Counter[str],
        banned: Callable[[PeerId], None],
    ) -> None:
        self._book = book
        self._rejects = rejects
        self._banned = banned
        self._peers: dict[PeerId, _Standing] = {}
        self._told_ms = 0

    def count(self, fault: GossipFault, number: int = 1) -> None:
        """Nobody's fault, or nobody's that is known."""
        self._rejects[str(fault)] += number

    def fault(self, peer: PeerId, fault: GossipFault, now_ms: int, number: int = 1) -> None:
        self._rejects[str(fault)] += number
        taken = DEMERITS.get(fault, 0) * number
        if not taken:
            return
        standing = self._peers.get(peer)
        if standing is None:
            standing = self._peers[peer] = _Standing(now_ms)
            if len(self._peers) > MAX_REMEMBERED:
                oldest = next(iter(self._peers))
                self._tell(oldest, self._peers.pop(oldest))
        standing.demerits = min(_left(standing, now_ms) + taken, MOST_DEMERITS)
        standing.at_ms = now_ms
        if taken >= DEMERITS.get(standing.reason, 0) or not standing.untold:
            standing.reason = fault
        standing.untold = min(standing.untold + taken, MOST_DEMERITS)

    def demerits(self, peer: PeerId, now_ms: int) -> int:
        standing = self._peers.get(peer)
        return 0 if standing is None else _left(standing, now_ms)

    def throttled(self, peer: PeerId, now_ms: int) -> bool:
        if self._book is not None and self._book.is_banned(peer):
            return True
        return self.demerits(peer, now_ms) >= THROTTLE_LINE

    def tell(self, now_ms: int) -> None:
        """Passes on what happened since the last time."""
        if now_ms - self._told_ms < TOLD_EVERY_MS:
            return
        self._told_ms = now_ms
        for peer, standing in list(self._peers.items()):
            self._tell(peer, standing)
            if not _left(standing, now_ms):
                del self._peers[peer]

    def _tell(self, peer: PeerId, standing: _Standing) -> None:
        taken, standing.untold = standing.untold, 0
        if taken and self._book is not None and self._book.penalise(peer, str(standing.reason), taken):
            self._banned(peer)

    def __len__(self) -> int:
        return len(self._peers)


def _left(standing: _Standing, now_ms: int) -> int:
    """Straight lines between the halvings. Looking changes nothing, or looking often enough would stop the clock."""
    halvings, rest_ms = divmod(max(now_ms - standing.at_ms, 0), HALF_LIFE_MS)
    left = standing.demerits >> min(halvings, 31)
    return left - left * rest_ms // (2 * HALF_LIFE_MS)
