"""Whom to call and when: back-off and the order of a pair. No clock, no randomness of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from trellis.types import PeerId

FIRST_WAIT_MS: Final = 100
LONGEST_WAIT_MS: Final = 5_000
"""A peer that comes back is called again within this, unless it calls first."""
PATIENCE_MS: Final = 1_000
"""How long the side that should be called waits before it calls itself: the other may not know our address."""

Jitter = Callable[[], float]
"""A number from 0 to 1, so that a network that restarts does not dial in step."""


@dataclass(frozen=True, slots=True)
class PeerAddress:
    """A peer that this node keeps a connection to, and where it may be found."""

    peer: PeerId
    addresses: tuple[str, ...]
    """Multiaddresses without the peer id: `/ip4/192.0.2.1/tcp/4001`, `/dns4/node.example/tcp/4002/ws`."""


def dials_first(own: PeerId, other: PeerId) -> bool:
    """Of a pair, the smaller peer id dials; of two connections, the one it dialled stays."""
    return own < other


def wait_ms(failures: int, jitter: Jitter) -> int:
    """After so many failures in a row: doubling, capped, between half and all of it."""
    most = min(FIRST_WAIT_MS << min(failures, 16), LONGEST_WAIT_MS)
    return most // 2 + int(most / 2 * jitter())
