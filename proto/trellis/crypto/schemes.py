"""Sign and verify: ML-DSA-65, ML-DSA-87 and SLH-DSA-SHAKE-128s behind one small interface.

ML-DSA comes from `cryptography`, which releases the GIL while it signs and verifies. SLH-DSA comes from `pqcrypto`,
which holds the GIL, and is imported on first use: a wallet that never meets a cold key never loads it.

ML-DSA signing is hedged: two signatures of one message differ, so nothing may compare or hash signature bytes to ask
whether the same thing was signed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Final, NoReturn, Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import mldsa

from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck, Sizes

PARSED_KEYS: Final = 1_024
"""Parsed ML-DSA public keys that are kept: 8 KB each, and parsing is 6 % of a verification (measured). A stranger who
sends ever new keys evicts others and costs them a parse, never memory."""


class SigningKey(Protocol):
    """A secret key that signs. It shows itself by its public half alone and refuses to be pickled or copied."""

    @property
    def alg_id(self) -> AlgId: ...

    @property
    def public_key(self) -> bytes: ...

    def sign(self, message: bytes, context: bytes) -> bytes: ...

    def secret(self) -> bytes:
        """The explicit export. ML-DSA: the 32-byte seed. SLH-DSA: the 64-byte secret key."""


class Scheme(Protocol):
    """A signature algorithm."""

    @property
    def alg_id(self) -> AlgId: ...

    @property
    def name(self) -> str: ...

    @property
    def sizes(self) -> Sizes: ...

    def generate(self) -> SigningKey: ...

    def from_secret(self, secret: bytes) -> SigningKey:
        """The key that `SigningKey.secret` exported; ValueError if the size is wrong."""

    def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        """Never raises, whatever bytes a stranger sent."""


class _Guarded:
    """What keeps a secret from leaving by accident: no repr of it, no pickle, no copy."""

    __slots__ = ("_alg_id", "_public_key")

    def __init__(self, alg_id: AlgId, public_key: bytes) -> None:
        self._alg_id = alg_id
        self._public_key = public_key

    @property
    def alg_id(self) -> AlgId:
        return self._alg_id

    @property
    def public_key(self) -> bytes:
        return self._public_key

    def __repr__(self) -> str:
        return f"<signing key {self._alg_id.name} {self._public_key[:8].hex()}…>"

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        raise TypeError("a signing key cannot be pickled or copied; export it on purpose with secret()")


MlDsaPrivate = mldsa.MLDSA65PrivateKey | mldsa.MLDSA87PrivateKey
MlDsaPublic = mldsa.MLDSA65PublicKey | mldsa.MLDSA87PublicKey


class MlDsaKey(_Guarded):
    """An ML-DSA signing key, held by the library; the seed is asked of it only on export."""

    __slots__ = ("_private",)

    def __init__(self, alg_id: AlgId, private: MlDsaPrivate) -> None:
        super().__init__(alg_id, private.public_key().public_bytes_raw())
        self._private = private

    def sign(self, message: bytes, context: bytes) -> bytes:
        return self._private.sign(message, context)

    def secret(self) -> bytes:
        return self._private.private_bytes_raw()


@lru_cache(maxsize=PARSED_KEYS)
def _parsed(alg_id: AlgId, public_key: bytes) -> MlDsaPublic:
    if alg_id is AlgId.ML_DSA_65:
        return mldsa.MLDSA65PublicKey.from_public_bytes(public_key)
    return mldsa.MLDSA87PublicKey.from_public_bytes(public_key)


@dataclass(frozen=True, slots=True)
class MlDsa:
    """FIPS 204."""

    alg_id: AlgId
    name: str

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.alg_id]

    def generate(self) -> SigningKey:
        private: MlDsaPrivate
        if self.alg_id is AlgId.ML_DSA_65:
            private = mldsa.MLDSA65PrivateKey.generate()
        else:
            private = mldsa.MLDSA87PrivateKey.generate()
        return MlDsaKey(self.alg_id, private)

    def from_secret(self, secret: bytes) -> SigningKey:
        _check_secret_size(self, secret)
        private: MlDsaPrivate
        if self.alg_id is AlgId.ML_DSA_65:
            private = mldsa.MLDSA65PrivateKey.from_seed_bytes(secret)
        else:
            private = mldsa.MLDSA87PrivateKey.from_seed_bytes(secret)
        return MlDsaKey(self.alg_id, private)

    def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        sizes = SIZES[self.alg_id]
        if len(signature) != sizes.signature_bytes or len(public_key) != sizes.public_key_bytes:
            return False
        try:
            _parsed(self.alg_id, public_key).verify(signature, message, context)
        except (InvalidSignature, ValueError):
            return False
        return True


def _slh_dsa() -> ModuleType:
    # Loaded late: 20 ms that most processes never need.
    from pqcrypto.sign import slh_dsa_shake_128s  # noqa: PLC0415 - the reason stands above

    module: ModuleType = slh_dsa_shake_128s
    return module


class SlhDsaKey(_Guarded):
    """An SLH-DSA signing key: SK.seed ‖ SK.prf ‖ PK.seed ‖ PK.root, 16 bytes each."""

    __slots__ = ("_secret",)

    def __init__(self, secret: bytes) -> None:
        super().__init__(AlgId.SLH_DSA_SHAKE_128S, secret[32:])
        self._secret = secret

    def sign(self, message: bytes, context: bytes) -> bytes:
        """Takes 0.8 to 2 s and holds the GIL for all of it: never call it in a node's event loop."""
        signature: bytes = _slh_dsa().sign(self._secret, message, context)
        return signature

    def secret(self) -> bytes:
        return self._secret


@dataclass(frozen=True, slots=True)
class SlhDsa:
    """FIPS 205, SHAKE-128s: slow to sign and small to keep, for cold keys. Its key generation takes no seed.

    The library refuses contexts of 254 and 255 bytes, which FIPS 205 allows; the protocol's are far shorter.
    """

    alg_id: AlgId = AlgId.SLH_DSA_SHAKE_128S
    name: str = "SLH-DSA-SHAKE-128s"

    @property
    def sizes(self) -> Sizes:
        return SIZES[self.alg_id]

    def generate(self) -> SigningKey:
        _, secret = _slh_dsa().keygen()
        return SlhDsaKey(bytes(secret))

    def from_secret(self, secret: bytes) -> SigningKey:
        """Checks the size only: whether the public half inside belongs to the secret one, `proves_itself` tells."""
        _check_secret_size(self, secret)
        return SlhDsaKey(bytes(secret))

    def verify(self, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
        sizes = SIZES[self.alg_id]
        if len(signature) != sizes.signature_bytes or len(public_key) != sizes.public_key_bytes:
            return False
        try:
            _slh_dsa().verify(public_key, message, signature, context)
        except ValueError:  # the library's InvalidSignatureError is one too
            return False
        return True


def _check_secret_size(of: Scheme, secret: bytes) -> None:
    wanted = of.sizes.secret_bytes
    if len(secret) != wanted:
        raise ValueError(f"the secret of {of.name} has {wanted} bytes, not {len(secret)}")


SCHEMES: Final[dict[AlgId, Scheme]] = {
    AlgId.ML_DSA_65: MlDsa(AlgId.ML_DSA_65, "ML-DSA-65"),
    AlgId.ML_DSA_87: MlDsa(AlgId.ML_DSA_87, "ML-DSA-87"),
    AlgId.SLH_DSA_SHAKE_128S: SlhDsa(),
}


def scheme(alg_id: AlgId) -> Scheme:
    """The scheme of a single-key algorithm. A multi-signature is a list of those: `trellis.transaction` expands it."""
    found = SCHEMES.get(alg_id)
    if found is None:
        raise ValueError(f"{alg_id!r} is no single-key signature algorithm")
    return found


def proves_itself(key: SigningKey) -> bool:
    """Signs and verifies once: says whether an imported secret and the public key it carries belong together."""
    message, context = b"a key proves itself", b"trellis/self-test/1"
    return scheme(key.alg_id).verify(key.public_key, message, key.sign(message, context), context)


def verify_one(check: SignatureCheck) -> bool:
    """Never raises. An algorithm without a scheme of its own (multi-signature, unknown numbers) is False."""
    found = SCHEMES.get(check.alg_id)  # type: ignore[call-overload] # a stranger's number is looked up as it came
    return found is not None and found.verify(check.public_key, check.message, check.signature, check.context)


def verify_all(checks: Sequence[SignatureCheck]) -> list[bool]:
    """`VerifyMany`, here and now, one after the other."""
    return [verify_one(check) for check in checks]
