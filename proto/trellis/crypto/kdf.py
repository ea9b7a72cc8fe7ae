"""HKDF (RFC 5869) and HMAC over SHA3-256."""

from __future__ import annotations

import hmac
from typing import Final

from cryptography.hazmat.primitives.hashes import SHA3_256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

KEY_BYTES: Final = 32
_HASH: Final = SHA3_256()


def extract(salt: bytes, ikm: bytes) -> bytes:
    """The pseudorandom key, 32 bytes."""
    return HKDF.extract(_HASH, salt, ikm)


def expand(prk: bytes, info: bytes, length: int = KEY_BYTES) -> bytes:
    """`length` bytes bound to `info`, at most 255 × 32."""
    return HKDFExpand(_HASH, length, info).derive(prk)


def hmac_sha3_256(key: bytes, data: bytes) -> bytes:
    """Compare the result with `hmac.compare_digest`, never with ==."""
    return hmac.digest(key, data, "sha3_256")
