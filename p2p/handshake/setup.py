"""What a handshake stands on: the network, one's own identity, whom to admit, and everything it may not draw itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Protocol

from p2p.handshake.messages import PeerLimits
from p2p.handshake.reject import Reject
from p2p.handshake.schedule import MAX_PSK_ID_BYTES, MIN_PSK_BYTES, first_transcript
from trellis.crypto.aead import Suite
from trellis.crypto.algorithms import VOTE_ALGORITHMS, AlgId
from trellis.crypto.kem import KemProvider
from trellis.peerid import peer_id
from trellis.types import HASH_BYTES, Hash, PeerId

HANDSHAKE_TIMEOUT_MS: Final = 10_000
"""For all of it: a slow or silent peer holds a slot no longer."""

SESSION_LIFETIME_S: Final = 24 * 3_600
"""After a day the dialer connects anew, for fresh KEM shares."""


@dataclass(frozen=True)
class Network:
    """What both sides must share before either says anything of worth."""

    genesis_hash: Hash
    policy_root: Hash
    """Of the immutable algorithm schedule in genesis."""
    psk: bytes | None = field(default=None, repr=False)
    psk_id: bytes = b""
    suites: tuple[Suite, ...] = (Suite.CHACHA20_POLY1305, Suite.AES_256_GCM)
    """In the order of preference."""
    algorithms: frozenset[AlgId] = frozenset(VOTE_ALGORITHMS)
    """That the policy allows as network identities. SLH-DSA signs far too slowly; its keys certify others."""

    def __post_init__(self) -> None:
        if len(self.genesis_hash) != HASH_BYTES or len(self.policy_root) != HASH_BYTES:
            raise ValueError(f"genesis hash and policy root have {HASH_BYTES} bytes")
        if (self.psk is None) != (self.psk_id == b""):
            raise ValueError("a pre-shared key has an id, and without one there is none")
        if self.psk is not None and len(self.psk) < MIN_PSK_BYTES:
            raise ValueError(f"a pre-shared key has at least {MIN_PSK_BYTES} bytes, not {len(self.psk)}")
        if len(self.psk_id) > MAX_PSK_ID_BYTES:
            raise ValueError(f"a pre-shared key's id has at most {MAX_PSK_ID_BYTES} bytes")
        if not self.suites or len(set(self.suites)) != len(self.suites):
            raise ValueError("at least one suite, and none twice")
        if not self.algorithms:
            raise ValueError("at least one signature algorithm must be allowed")

    @cached_property
    def th0(self) -> Hash:
        return first_transcript(self.genesis_hash, self.policy_root, self.psk_id)


class Signer(Protocol):
    """As much of `trellis.crypto.schemes.SigningKey` as a handshake needs; tests inject recorded signatures."""

    @property
    def alg_id(self) -> AlgId: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes, context: bytes) -> bytes: ...


@dataclass(frozen=True, slots=True)
class LocalIdentity:
    """The key that signs here and, where a cold key certified it, that certificate."""

    signer: Signer
    peer: PeerId
    """The cold key's where there is a certificate, else the signing key's own."""
    certificate: bytes = b""

    @classmethod
    def of(cls, signer: Signer) -> LocalIdentity:
        return cls(signer, peer_id(signer.alg_id, signer.public_key))


@dataclass(frozen=True, slots=True)
class Clock:
    """Time as a handshake sees it; both are functions, so that a test moves them by hand."""

    steady_ms: Callable[[], int]
    """Never goes back: the handshake's own deadline."""
    wall_s: Callable[[], int]
    """Seconds since 1970, for certificates."""


class CertificateJudge(Protocol):
    """Whether a certificate makes a hot key speak for a cold one: see `p2p.handshake.certificates`."""

    def judge(self, certificate: bytes, alg: AlgId, public_key: bytes, now_s: int) -> PeerId:
        """The cold key's peer id, or `RefusedError`."""

    def admitted(self, certificate: bytes) -> None:
        """The holder was let in: remember the serial, so that older ones are refused from now on."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One side's constants and providers. Shared by all its handshakes."""

    network: Network
    local: LocalIdentity
    clock: Clock
    random: Callable[[int], bytes]
    kem: KemProvider
    certificates: CertificateJudge
    admit: Callable[[PeerId], Reject | None]
    """Allowlist, bans, places left. Asked once a peer has proved who it is, before any muxer."""
    limits: PeerLimits
    """What a listener tells its dialers. `retry_after_ms` is sent with refusals only."""
