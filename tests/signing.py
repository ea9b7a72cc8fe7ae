"""Signers for tests: deterministic stand-ins by default, real ML-DSA where a test is about cryptography.

A stand-in has keys and signatures of the real sizes. Its signature is a hash of key, context and message, so a verifier
can check it by equality, and the same test writes the same bytes on every run. It protects nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import shake_256
from typing import Protocol

from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck
from trellis.crypto.schemes import SigningKey, scheme


class Signer(Protocol):
    """What signs in tests: a stand-in, or a real key."""

    @property
    def alg_id(self) -> AlgId: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes, context: bytes) -> bytes: ...


@lru_cache(maxsize=4_096)
def _fake_public_key(alg_id: AlgId, seed: int) -> bytes:
    return shake_256(b"fake key" + bytes([alg_id]) + seed.to_bytes(8, "big")).digest(SIZES[alg_id].public_key_bytes)


def fake_signature(alg_id: int, public_key: bytes, message: bytes, context: bytes) -> bytes:
    parts = b"".join(len(part).to_bytes(4, "big") + part for part in (public_key, context, message))
    return shake_256(b"fake signature" + bytes([alg_id]) + parts).digest(SIZES[AlgId(alg_id)].signature_bytes)


@dataclass(frozen=True, slots=True)
class FakeSigner:
    """A deterministic stand-in for a signing key."""

    seed: int
    alg_id: AlgId = AlgId.ML_DSA_65

    @property
    def public_key(self) -> bytes:
        return _fake_public_key(self.alg_id, self.seed)

    def sign(self, message: bytes, context: bytes) -> bytes:
        return fake_signature(self.alg_id, self.public_key, message, context)


def fake_verify_one(check: SignatureCheck) -> bool:
    if check.alg_id not in SIZES:
        return False
    return check.signature == fake_signature(check.alg_id, check.public_key, check.message, check.context)


def fake_verify_all(checks: Sequence[SignatureCheck]) -> list[bool]:
    """`VerifyMany` for stand-ins."""
    return [fake_verify_one(check) for check in checks]


@lru_cache(maxsize=256)
def real_signer(seed: int, alg_id: AlgId = AlgId.ML_DSA_65) -> SigningKey:
    """An ML-DSA key expanded from a public seed; generated once a run."""
    return scheme(alg_id).from_secret(b"trellis test".ljust(24, b"\0") + seed.to_bytes(8, "big"))
