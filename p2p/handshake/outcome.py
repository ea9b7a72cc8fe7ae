"""How a step of a handshake ends, and the session that a finished one hands over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NoReturn

from p2p.handshake.messages import PeerLimits
from p2p.handshake.reject import Reject
from trellis.crypto.aead import Suite
from trellis.crypto.algorithms import AlgId
from trellis.types import PeerId


@dataclass(frozen=True, slots=True)
class RemotePeer:
    """Who is at the other end, proved."""

    peer: PeerId
    alg: AlgId
    """Of the key that signed, which a certificate may have put in the cold key's place."""
    public_key: bytes = field(repr=False)
    certificate: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Established:
    """Keys for both directions. The listener's counter starts at 1: M4 used its 0."""

    remote: RemotePeer
    suite: Suite
    send_key: bytes = field(repr=False)
    receive_key: bytes = field(repr=False)
    exporter: bytes = field(repr=False)
    send_counter: int
    receive_counter: int
    limits: PeerLimits
    leftover: bytes = b""
    """What the listener sent right behind M4: the first records."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("session keys cannot be pickled or copied")


@dataclass(frozen=True, slots=True)
class Rejected:
    """The end. `by_peer`: the other side told us so in M4."""

    reason: Reject
    detail: str
    by_peer: bool = False
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class Step:
    """Send `send` (it may be empty), then act on the outcome; None: keep reading."""

    send: bytes = b""
    outcome: Established | Rejected | None = None
