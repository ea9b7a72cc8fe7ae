"""The hybrid key encapsulation of the transport: ephemeral ML-KEM-768 beside ephemeral X25519.

The shared secret is ss_mlkem ‖ ss_x25519, so it holds while either of them does. Encapsulation draws its own randomness
and takes no seed, so whoever wants a transcript that replays byte for byte injects a `KemProvider` that returns what
was recorded once.

The ML-KEM secret is kept as its 64-byte seed, never as an expanded key from elsewhere (re-encapsulation attacks need
an expanded key of the attacker's making). Python cannot promise that freed memory is zeroed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, NoReturn, Protocol

from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

EK_BYTES: Final = 1_184
CIPHERTEXT_BYTES: Final = 1_088
X25519_BYTES: Final = 32
MLKEM_SEED_BYTES: Final = 64
SHARED_BYTES: Final = 64


class KemFault(StrEnum):
    """Why a peer's key or ciphertext was refused."""

    WRONG_SIZE = "wrong_size"
    MALFORMED_KEY = "malformed_key"
    SMALL_ORDER = "small_order"


class KemError(Exception):
    """The peer's share cannot be used: a remote fault."""

    def __init__(self, reason: KemFault, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Encapsulation:
    """What the listener answers (`ciphertext`, `x_public`) and what both then share."""

    ciphertext: bytes
    x_public: bytes
    shared: bytes = field(repr=False)
    """ss_mlkem ‖ ss_x25519."""

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a shared secret cannot be pickled or copied")


class DecapsulationKey(Protocol):
    """The dialer's ephemeral pair."""

    @property
    def ek(self) -> bytes: ...

    @property
    def x_public(self) -> bytes: ...

    def decapsulate(self, ciphertext: bytes, x_peer: bytes) -> bytes:
        """ss_mlkem ‖ ss_x25519, or `KemError`. A well-sized wrong ciphertext yields a different secret (FIPS 203)."""


class KemProvider(Protocol):
    """Where a handshake gets its ephemeral keys and encapsulations; tests inject recorded ones."""

    def generate(self) -> DecapsulationKey: ...

    def encapsulate(self, ek: bytes, x_peer: bytes) -> Encapsulation: ...


class KemKey:
    """An ephemeral ML-KEM-768 key and an ephemeral X25519 key. One handshake, then dropped."""

    __slots__ = ("_mlkem", "_x25519", "ek", "x_public")

    def __init__(self, mlkem: MLKEM768PrivateKey, x25519: X25519PrivateKey) -> None:
        self._mlkem = mlkem
        self._x25519 = x25519
        self.ek = mlkem.public_key().public_bytes_raw()
        self.x_public = x25519.public_key().public_bytes_raw()

    @classmethod
    def generate(cls) -> KemKey:
        return cls(MLKEM768PrivateKey.generate(), X25519PrivateKey.generate())

    @classmethod
    def from_seed(cls, mlkem_seed: bytes, x25519_secret: bytes) -> KemKey:
        """For vectors: FIPS 203's 64-byte seed d ‖ z, and a 32-byte X25519 secret."""
        if len(mlkem_seed) != MLKEM_SEED_BYTES or len(x25519_secret) != X25519_BYTES:
            raise ValueError(f"a seed has {MLKEM_SEED_BYTES} bytes and an X25519 secret {X25519_BYTES}")
        return cls(MLKEM768PrivateKey.from_seed_bytes(mlkem_seed), X25519PrivateKey.from_private_bytes(x25519_secret))

    def decapsulate(self, ciphertext: bytes, x_peer: bytes) -> bytes:
        if len(ciphertext) != CIPHERTEXT_BYTES:
            raise KemError(KemFault.WRONG_SIZE, f"a ciphertext has {CIPHERTEXT_BYTES} bytes, not {len(ciphertext)}")
        shared_x = _exchange(self._x25519, x_peer)
        return self._mlkem.decapsulate(ciphertext) + shared_x

    def __repr__(self) -> str:
        return f"<ephemeral kem key {self.x_public[:8].hex()}…>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an ephemeral key cannot be pickled or copied")


def encapsulate(ek: bytes, x_peer: bytes) -> Encapsulation:
    """Answers a dialer's shares with fresh ones. `KemError` if either share is malformed."""
    if len(ek) != EK_BYTES:
        raise KemError(KemFault.WRONG_SIZE, f"an encapsulation key has {EK_BYTES} bytes, not {len(ek)}")
    try:
        # FIPS 203 7.2: the library refuses coefficients that are not reduced modulo q.
        peer = MLKEM768PublicKey.from_public_bytes(ek)
    except ValueError:
        raise KemError(KemFault.MALFORMED_KEY, "the encapsulation key fails FIPS 203's modulus check") from None
    own = X25519PrivateKey.generate()
    shared_x = _exchange(own, x_peer)
    shared_mlkem, ciphertext = peer.encapsulate()
    return Encapsulation(ciphertext, own.public_key().public_bytes_raw(), shared_mlkem + shared_x)


def _exchange(own: X25519PrivateKey, x_peer: bytes) -> bytes:
    if len(x_peer) != X25519_BYTES:
        raise KemError(KemFault.WRONG_SIZE, f"an X25519 share has {X25519_BYTES} bytes, not {len(x_peer)}")
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(x_peer))
    except ValueError:
        # RFC 7748 6.1: a share of small order would leave the result to the peer alone.
        raise KemError(KemFault.SMALL_ORDER, "the X25519 share has small order") from None


class HybridKem:
    """The real `KemProvider`."""

    __slots__ = ()

    def generate(self) -> DecapsulationKey:
        return KemKey.generate()

    def encapsulate(self, ek: bytes, x_peer: bytes) -> Encapsulation:
        return encapsulate(ek, x_peer)
