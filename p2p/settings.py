"""What a host is told when it is made."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from random import SystemRandom

from p2p.dialing import Jitter, PeerAddress
from p2p.handshake import SESSION_LIFETIME_S, Clock, LocalIdentity, Network, Reject
from p2p.handshake.certificates import CertificateBook
from p2p.limits import Limits
from trellis.crypto.kem import HybridKem, KemProvider
from trellis.types import PeerId


def everyone(_peer: PeerId) -> Reject | None:
    """Admits whoever proves an identity: for open networks and tests. A permissioned node passes its allowlist."""
    return None


def system_clock() -> Clock:
    return Clock(steady_ms=lambda: int(time.monotonic() * 1_000), wall_s=lambda: int(time.time()))


@dataclass(frozen=True, slots=True)
class HostConfig:
    """All that a host is told; the last five have real sources and are injected by tests."""

    identity: LocalIdentity
    network: Network
    listen: tuple[str, ...] = ()
    """Multiaddresses: `/ip4/0.0.0.0/tcp/4001`, `/ip6/::/tcp/4001`, `/ip4/0.0.0.0/tcp/4002/ws`. None: dial only."""
    peers: tuple[PeerAddress, ...] = ()
    """Kept connected."""
    validators: frozenset[PeerId] = frozenset()
    """Places are reserved for them. `Host.set_validators` changes the set."""
    admit: Callable[[PeerId], Reject | None] = everyone
    limits: Limits = field(default_factory=Limits)
    certificates: CertificateBook | None = None
    """Cold certificates seen; None: an empty one."""
    agent: str = "trellis"
    clock: Clock = field(default_factory=system_clock)
    random: Callable[[int], bytes] = secrets.token_bytes
    jitter: Jitter = SystemRandom().random
    kem: KemProvider = field(default_factory=HybridKem)
    session_lifetime_s: int = SESSION_LIFETIME_S
