"""Transactions before they are sent: unsigned, with all that a signer or a cold wallet needs; fees; nonces.

Pure: nothing here talks to a node.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from trellis.address import account_checks, address_of
from trellis.client.errors import FeeTooHigh, KeyNotInForce, SignerFault
from trellis.client.signers import Account as SigningAccount
from trellis.client.values import Account
from trellis.constants import Context
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.fees import minimum_fee
from trellis.parameters import Parameters
from trellis.transaction import Kind, Transaction, TransactionBody, signing_bytes, txid_of
from trellis.types import Address, Hash, Height

DEFAULT_VALID_BLOCKS: Final = 1_000
"""How long a transaction may wait: under a minute and a half at full speed, and it is never forgotten for ever."""

FEE_LIMIT_FACTOR: Final = 10
"""A node that suggests more than ten times the chain's minimum is asked no further without the caller's consent."""


@dataclass(frozen=True, slots=True)
class UnsignedTransaction:
    """A body with what signing it needs. `signing_bytes` may be carried to another machine, and the signature back."""

    body: TransactionBody
    genesis_hash: Hash
    alg_id: int
    public_key: bytes
    """The key that signs, whether it is carried or not."""
    carries_key: bool
    """True while the chain does not know the sender's key."""

    @property
    def encoded_body(self) -> bytes:
        return self.body.encode()

    @property
    def signing_bytes(self) -> bytes:
        return signing_bytes(self.genesis_hash, self.encoded_body)

    @property
    def context(self) -> bytes:
        return Context.TX.value

    @property
    def txid(self) -> Hash:
        return txid_of(self.genesis_hash, self.encoded_body)

    def with_fee(self, fee: int) -> UnsignedTransaction:
        return replace(self, body=replace(self.body, fee=fee))

    def with_nonce(self, nonce: int) -> UnsignedTransaction:
        return replace(self, body=replace(self.body, nonce=nonce))

    def minimum_fee(self, parameters: Parameters) -> int:
        return minimum_fee(parameters, self._with(b""), self.public_key)

    def complete(self, signature: bytes) -> Transaction:
        """Checks the signature first: a device's fault shows here, not as a refusal by the node."""
        message = self.signing_bytes
        try:
            checks = account_checks(self.alg_id, self.public_key, message, signature, self.context)
        except DecodeError as fault:
            raise SignerFault(f"the signature does not have the form of its algorithm: {fault.detail}") from fault
        if not all(verify_all(checks)):
            raise SignerFault("the signature does not verify under the signer's own key: nothing was sent")
        return self._with(signature)

    def _with(self, signature: bytes) -> Transaction:
        return Transaction(self.encoded_body, self.alg_id, self.public_key if self.carries_key else b"", signature)


def build_transaction(
    kind: Kind,
    signer: SigningAccount,
    genesis_hash: Hash,
    *,
    nonce: int,
    fee: int,
    valid_until_height: int,
    carries_key: bool,
) -> UnsignedTransaction:
    """Builds without asking anybody, for cold wallets and load generators."""
    body = TransactionBody(signer.address, nonce, Height(valid_until_height), fee, kind)
    if carries_key and address_of(signer.alg_id, signer.public_key) != signer.address:
        raise KeyNotInForce("only the key that an address was made from can be registered for it")
    return UnsignedTransaction(body, genesis_hash, signer.alg_id, signer.public_key, carries_key)


def check_key(account: Account, signer: SigningAccount) -> bool:
    """Whether the transaction must carry the key. Raises `KeyNotInForce` where the signer cannot sign for it."""
    if account.alg_id == 0:
        if address_of(signer.alg_id, signer.public_key) != signer.address:
            raise KeyNotInForce("the chain knows no key for this account yet: sign first with the key of its address")
        return True
    if (account.alg_id, account.public_key) != (signer.alg_id, signer.public_key):
        raise KeyNotInForce(
            "the chain knows another key for this account: was it rotated? Sign with the new key, and pass the "
            "account's address to the signer (LocalSigner(key, of=address))."
        )
    return False


def at_least_minimum(draft: UnsignedTransaction, fee: int, parameters: Parameters) -> UnsignedTransaction:
    """The draft with this fee, or with the least that the chain accepts: the fee's own digits cost too."""
    priced = draft.with_fee(fee)
    while (least := priced.minimum_fee(parameters)) > priced.body.fee:
        priced = draft.with_fee(least)
    return priced


def price(
    draft: UnsignedTransaction, parameters: Parameters, suggested: int, max_fee: int | None
) -> UnsignedTransaction:
    """The node's suggestion, never below the chain's minimum and never above the limit."""
    least = at_least_minimum(draft, 0, parameters)
    limit = FEE_LIMIT_FACTOR * least.body.fee if max_fee is None else max_fee
    priced = at_least_minimum(draft, suggested, parameters)
    if priced.body.fee > limit:
        raise FeeTooHigh(priced.body.fee, limit)
    return priced


@dataclass(slots=True)
class _Reserved:
    next: int
    valid_until: int


class NonceBook:
    """The nonces handed out here, so that sends in a row do not wait for each other. It knows own accounts alone."""

    def __init__(self) -> None:
        self._reserved: dict[Address, _Reserved] = {}

    def reserve(self, account: Account, valid_until: int) -> int:
        """The next nonce: after those handed out here, unless all of them have expired unused."""
        mine = self._reserved.get(account.address)
        nonce = account.pending_nonce
        if mine is not None and account.at.height <= mine.valid_until:
            nonce = max(nonce, mine.next)
        self._reserved[account.address] = _Reserved(nonce + 1, valid_until)
        return nonce

    def forget(self, address: Address) -> None:
        """The next nonce is what the node says: after a refusal, a failed signature, or on the caller's word."""
        self._reserved.pop(address, None)
