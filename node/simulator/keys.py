"""Stand-in signatures: a keyed hash, padded to the size of ML-DSA-65, that only its holder can make and anyone checks.

Whoever simulates an adversary gets the keys of the validators it corrupted and no others.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha3_256
from typing import Final

from trellis.address import address_of
from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck
from trellis.peerid import peer_id
from trellis.types import Address
from trellis.validators import Validator

_SIZES: Final = SIZES[AlgId.ML_DSA_65]
_PADDING: Final = bytes(_SIZES.signature_bytes - 32)


class SimulatedKey:
    """One validator's key."""

    __slots__ = ("_secret", "address", "public_key")

    def __init__(self, index: int) -> None:
        self._secret = sha3_256(b"simulated key %d" % index).digest()
        self.public_key = sha3_256(b"public" + self._secret).digest() + bytes(_SIZES.public_key_bytes - 32)
        self.address: Address = address_of(AlgId.ML_DSA_65, self.public_key)

    def sign(self, message: bytes, context: bytes) -> bytes:
        return _digest(self._secret, message, context) + _PADDING

    def validator(self, power: int) -> Validator:
        network_id = peer_id(AlgId.ML_DSA_65, self.public_key)
        return Validator(self.address, AlgId.ML_DSA_65, self.public_key, network_id, power)


def _digest(secret: bytes, message: bytes, context: bytes) -> bytes:
    return sha3_256(secret + len(context).to_bytes(1, "big") + context + message).digest()


class KeyRing:
    """All keys of a world; its `verify` is the `VerifyMany` of every host and checker."""

    def __init__(self, number: int) -> None:
        self.keys = tuple(SimulatedKey(index) for index in range(number))
        self._secrets = {key.public_key: key._secret for key in self.keys}

    def verify(self, checks: Sequence[SignatureCheck]) -> list[bool]:
        return [self._holds(check) for check in checks]

    def _holds(self, check: SignatureCheck) -> bool:
        secret = self._secrets.get(check.public_key)
        return secret is not None and check.signature == _digest(secret, check.message, check.context) + _PADDING
