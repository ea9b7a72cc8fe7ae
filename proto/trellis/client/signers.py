"""Who signs: a key in this process, a device, or several parties of a multi-signature account.

A wallet implements `Signer` (or `AsyncSigner`) around its hardware: four members, no base class.

>>> from trellis.crypto.algorithms import AlgId
>>> signer = LocalSigner.generate(AlgId.ML_DSA_65)
>>> signature = signer.sign(b"message", b"trellis/tx/1")
>>> len(signature)
3309
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol, runtime_checkable

from trellis.address import MultisigPolicy, address_of, encode_member_signatures, format_address
from trellis.client.errors import SignerFault
from trellis.crypto.algorithms import AlgId, SignatureCheck
from trellis.crypto.schemes import SigningKey, scheme, verify_all
from trellis.types import Address


class Account(Protocol):
    """Whose transactions a signer signs, and the key that the chain knows, or will learn, for it."""

    @property
    def alg_id(self) -> int: ...

    @property
    def public_key(self) -> bytes:
        """For a multi-signature account the policy's bytes."""
        ...

    @property
    def address(self) -> Address:
        """Not always the hash of `public_key`: an account keeps its address when its key is rotated."""
        ...


@runtime_checkable
class Signer(Account, Protocol):
    """Signs here and now. `message` is the whole preimage, tag ‖ genesis hash ‖ body, so that a device can show what
    it signs; `context` is the FIPS 204 context and must be passed on to the algorithm."""

    def sign(self, message: bytes, context: bytes) -> bytes: ...


@runtime_checkable
class AsyncSigner(Account, Protocol):
    """The same for a device or a service that is awaited; only `AsyncClient` takes it."""

    async def sign_async(self, message: bytes, context: bytes) -> bytes: ...


AnySigner = Signer | AsyncSigner


@dataclass(frozen=True, slots=True)
class LocalSigner:
    """A key held by this process. For a rotated key give the account's `address`, which did not change."""

    key: SigningKey
    of: Address | None = None

    @classmethod
    def generate(cls, alg_id: AlgId = AlgId.ML_DSA_65) -> LocalSigner:
        """A new key. Keep `signer.key` in a keystore (`trellis.crypto.keystore`), or it is lost with the process."""
        return cls(scheme(alg_id).generate())

    @property
    def alg_id(self) -> int:
        return self.key.alg_id

    @property
    def public_key(self) -> bytes:
        return self.key.public_key

    @property
    def address(self) -> Address:
        return address_of(self.alg_id, self.public_key) if self.of is None else self.of

    def sign(self, message: bytes, context: bytes) -> bytes:
        return self.key.sign(message, context)


MULTISIG_ALG: Final = int(AlgId.MULTISIG)


@dataclass(frozen=True, slots=True)
class MultisigSigner:
    """A multi-signature account of which at least `threshold` members sign in this process.

    Where members sit on different machines, each signs `UnsignedTransaction.signing_bytes` there with `member_part`,
    and `combine_parts` joins what they sent.
    """

    policy: MultisigPolicy
    members: tuple[Signer, ...]
    of: Address | None = None

    def __post_init__(self) -> None:
        indices = {member_index(self.policy, member) for member in self.members}
        if len(indices) != len(self.members):
            raise ValueError("a member of a multi-signature account is given twice")
        if len(self.members) < self.policy.threshold:
            raise ValueError(f"{len(self.members)} members cannot meet a threshold of {self.policy.threshold}")

    @property
    def alg_id(self) -> int:
        return MULTISIG_ALG

    @property
    def public_key(self) -> bytes:
        return self.policy.encode()

    @property
    def address(self) -> Address:
        return self.policy.address if self.of is None else self.of

    def sign(self, message: bytes, context: bytes) -> bytes:
        signing = self.members[: self.policy.threshold]
        parts = [member_part(self.policy, member, message, context) for member in signing]
        return combine_parts(self.policy, parts, message, context)


@dataclass(frozen=True, slots=True)
class SignaturePart:
    """One member's signature, and which key of the policy made it."""

    index: int
    signature: bytes


def member_index(policy: MultisigPolicy, member: Account) -> int:
    wanted = (member.alg_id, member.public_key)
    for index, key in enumerate(policy.keys):
        if key == wanted:
            return index
    raise ValueError(f"the key of {format_address(member.address)} is not in the multi-signature policy")


def member_part(policy: MultisigPolicy, member: Signer, message: bytes, context: bytes) -> SignaturePart:
    return SignaturePart(member_index(policy, member), member.sign(message, context))


def combine_parts(policy: MultisigPolicy, parts: Iterable[SignaturePart], message: bytes, context: bytes) -> bytes:
    """The account's signature: exactly `threshold` of the parts, each of them checked, so that one bad member is named
    here instead of spoiling the transaction."""
    by_index: Mapping[int, SignaturePart] = {part.index: part for part in parts}
    for index, part in by_index.items():
        if not 0 <= index < len(policy.keys):
            raise SignerFault(f"member {index} is not in the policy of {len(policy.keys)} keys")
        alg, public_key = policy.keys[index]
        if not all(verify_all([SignatureCheck(alg, public_key, message, part.signature, context)])):
            raise SignerFault(f"the signature of member {index} does not verify: ask this member to sign again")
    if len(by_index) < policy.threshold:
        raise SignerFault(f"{len(by_index)} members signed, the account needs {policy.threshold}")
    chosen = sorted(by_index)[: policy.threshold]
    return encode_member_signatures((index, by_index[index].signature) for index in chosen)
