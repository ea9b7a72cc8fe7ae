"""What the tests of cryptography share: keys from public seeds, and checks that are known to hold."""

from __future__ import annotations

from functools import cache

from tests.signing import real_signer
from trellis.crypto.algorithms import AlgId, SignatureCheck
from trellis.crypto.schemes import SCHEMES, SigningKey

CONTEXT = b"trellis/tx/1"


@cache
def slh_key() -> SigningKey:
    """One SLH-DSA key a run: making one takes a while."""
    return SCHEMES[AlgId.SLH_DSA_SHAKE_128S].generate()


@cache
def slh_signature(message: bytes) -> bytes:
    """Takes 1 to 2 s the first time."""
    return slh_key().sign(message, CONTEXT)


@cache
def valid_check(number: int, alg: AlgId = AlgId.ML_DSA_65) -> SignatureCheck:
    message = b"message %d" % number
    if alg is AlgId.SLH_DSA_SHAKE_128S:
        return SignatureCheck(alg, slh_key().public_key, b"m", slh_signature(b"m"), CONTEXT)
    key = real_signer(number % 16, alg)
    return SignatureCheck(alg, key.public_key, message, key.sign(message, CONTEXT), CONTEXT)


def spoiled(check: SignatureCheck) -> SignatureCheck:
    """The same check with one bit of the signature flipped."""
    return check._replace(signature=bytes([check.signature[0] ^ 1]) + check.signature[1:])


def mixed_checks(number: int) -> tuple[list[SignatureCheck], list[bool]]:
    """Checks of which every third is wrong, and their verdicts."""
    checks = [valid_check(n % 48) for n in range(number)]
    verdicts = [n % 3 != 1 for n in range(number)]
    return [c if good else spoiled(c) for c, good in zip(checks, verdicts, strict=True)], verdicts
