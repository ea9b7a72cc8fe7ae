"""Signature algorithms by number, and the signature checks that pure code hands to whoever can perform them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple

from trellis.encoding import DecodeError, Malformed


class AlgId(IntEnum):
    """One byte on the wire."""

    ML_DSA_65 = 1
    ML_DSA_87 = 2
    SLH_DSA_SHAKE_128S = 3
    MULTISIG = 16


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a key and a signature of an algorithm measure, in bytes."""

    public_key_bytes: int
    signature_bytes: int
    secret_bytes: int
    """ML-DSA: the seed, from which the key is expanded. SLH-DSA: the whole secret key."""


SIZES: Final[dict[AlgId, Sizes]] = {
    AlgId.ML_DSA_65: Sizes(public_key_bytes=1_952, signature_bytes=3_309, secret_bytes=32),
    AlgId.ML_DSA_87: Sizes(public_key_bytes=2_592, signature_bytes=4_627, secret_bytes=32),
    AlgId.SLH_DSA_SHAKE_128S: Sizes(public_key_bytes=32, signature_bytes=7_856, secret_bytes=64),
}
"""The single-key algorithms. A multi-signature has no sizes of its own: `trellis.address` knows its layout."""

VOTE_ALGORITHMS: Final = (AlgId.ML_DSA_65, AlgId.ML_DSA_87)
"""SLH-DSA signs in 0.3 to 0.8 s: far too slow for votes and handshakes."""


class SignatureCheck(NamedTuple):
    """A signature that somebody must verify before the object it came with counts.

    Pure modules build these; `trellis.crypto.schemes.verify_all` or a `Verifier` performs them. A NamedTuple because
    blocks of thousands are pickled to worker processes.
    """

    alg_id: int
    public_key: bytes
    message: bytes
    signature: bytes
    context: bytes


VerifyMany = Callable[[Sequence[SignatureCheck]], Sequence[bool]]
"""Performs checks and answers in their order. A malformed key or signature is False, never an exception."""


def single_alg(number: int, what: str) -> AlgId:
    """The single-key algorithm of that number, or a `DecodeError`."""
    if number not in SIZES:
        raise DecodeError(Malformed.UNKNOWN_ALGORITHM, f"{what}: {number}")
    return AlgId(number)


def check_key_size(alg: AlgId, public_key: bytes, what: str) -> None:
    wanted = SIZES[alg].public_key_bytes
    if len(public_key) != wanted:
        raise DecodeError(
            Malformed.WRONG_SIZE, f"{what}: a key of {alg.name} has {wanted} bytes, not {len(public_key)}"
        )
