"""Authenticated encryption under a counter nonce: ChaCha20-Poly1305 and AES-256-GCM behind one interface."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NoReturn, assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305

from trellis.types import U64_MAX

KEY_BYTES: Final = 32
TAG_BYTES: Final = 16


class Suite(IntEnum):
    """u16 on the wire."""

    CHACHA20_POLY1305 = 1
    AES_256_GCM = 2


class AuthenticationError(Exception):
    """The bytes were not sealed under this key, counter and associated data. Nothing of them may be used."""


def nonce(counter: int) -> bytes:
    """4 zero bytes ‖ u64 big-endian counter. One key never sees a counter twice: the caller rekeys in time."""
    if not 0 <= counter <= U64_MAX:
        raise ValueError(f"a nonce counter has 64 bits, {counter} does not fit")
    return counter.to_bytes(12, "big")


class Aead:
    """One key of one suite."""

    __slots__ = ("_cipher", "suite")

    def __init__(self, suite: Suite, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"a key of {suite.name} has {KEY_BYTES} bytes, not {len(key)}")
        self.suite = suite
        self._cipher: ChaCha20Poly1305 | AESGCM
        match suite:
            case Suite.CHACHA20_POLY1305:
                self._cipher = ChaCha20Poly1305(key)
            case Suite.AES_256_GCM:
                self._cipher = AESGCM(key)
            case _:
                assert_never(suite)

    def seal(self, counter: int, plaintext: bytes, aad: bytes) -> bytes:
        """Ciphertext ‖ 16-byte tag."""
        return self._cipher.encrypt(nonce(counter), plaintext, aad)

    def open(self, counter: int, ciphertext: bytes, aad: bytes) -> bytes:
        try:
            return self._cipher.decrypt(nonce(counter), ciphertext, aad)
        except InvalidTag:
            raise AuthenticationError(f"{self.suite.name}: record {counter} does not authenticate") from None

    def __repr__(self) -> str:
        return f"<aead {self.suite.name}>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("an AEAD key cannot be pickled or copied")
