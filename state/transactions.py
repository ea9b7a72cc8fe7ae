"""What a block may ask of each transaction, as two tables of checks: one before anything executes, one at its place.

A transaction that fails one of these cannot be in a valid block. The tables are data, so that a test can take out any
one check and show that another test notices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from state.accounts import Account, AccountKey, make_account_key, read_account, read_key
from state.chain import Network
from state.errors import InvalidReason
from state.rules import RULES, Source
from state.rules.rotate_key import key_allowed
from state.rules.rule import no_claims
from state.scope import ClaimKey, SignatureClaim, Verdicts
from state.view import StateView
from trellis.address import address_of
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.crypto.policy import Role
from trellis.encoding import DecodeError
from trellis.fees import minimum_fee
from trellis.transaction import Transaction, TransactionBody
from trellis.types import Address, Hash, Height

_SIGNATURE_BYTES: Final[dict[int, int]] = {alg: sizes.signature_bytes for alg, sizes in SIZES.items()}


@dataclass(frozen=True, slots=True)
class Terms:
    """What is the same for all transactions of one block."""

    genesis_hash: Hash
    network: Network
    height: Height
    account_algorithms: frozenset[int]
    """Asked of the policy once a block, not once a transaction."""


def terms_of(network: Network, genesis_hash: Hash, height: Height) -> Terms:
    allowed = frozenset(alg for alg in AlgId if network.policy.allows(Role.ACCOUNT, alg, height))
    return Terms(genesis_hash, network, height, allowed)


def transaction_bytes(transaction: Transaction) -> int:
    """`len(transaction.encode())`, without encoding what came over the wire again for every block."""
    size = 2 if transaction.alg_id < 0x80 else 3
    for part in (transaction.body, transaction.public_key, transaction.signature):
        length = len(part)
        if length:
            size += 1 + length + (max(1, length.bit_length()) + 6) // 7
    return size


def without_known_key(transaction: Transaction, view: StateView) -> Transaction:
    """What a pool should look at. Between a wallet's look at the account, or a peer's, and now, the key that a
    transaction carries may have become known: the same signature without it is then what a block can have."""
    if not transaction.public_key:
        return transaction
    try:
        known = read_key(view, transaction.parsed.sender)
    except DecodeError:
        return transaction
    if known is None or address_of(transaction.alg_id, transaction.public_key) != Address(known.key_hash):
        return transaction
    return Transaction(transaction.body, transaction.alg_id, b"", transaction.signature)


class Candidate:
    """A transaction that wants to be in a block of one height, with what the state before that block says of it."""

    __slots__ = (
        "_minimum_fee",
        "account",
        "body",
        "key",
        "known",
        "malformed",
        "terms",
        "transaction",
        "txid",
    )

    def __init__(self, transaction: Transaction, parent: StateView, terms: Terms) -> None:
        self.transaction = transaction
        self.terms = terms
        self.txid = transaction.txid(terms.genesis_hash)
        self.account = Account(0, 0)
        """At its place in the block; whoever executes sets it."""
        self._minimum_fee: int | None = None
        self.known: AccountKey | None = None
        self.key: AccountKey | None = None
        self.body: TransactionBody
        try:
            self.body = transaction.parsed
        except DecodeError as fault:
            self.malformed = str(fault)
            return
        self.malformed = ""
        self.known = self.key = read_key(parent, self.body.sender)
        if self.key is None and transaction.public_key:
            self.key = make_account_key(transaction.alg_id, transaction.public_key)

    @property
    def minimum_fee(self) -> int:
        if self._minimum_fee is None:
            key = b"" if self.key is None else self.key.public_key
            self._minimum_fee = minimum_fee(self.terms.network.parameters, self.transaction, key)
        return self._minimum_fee

    @property
    def proof_cost(self) -> int:
        return RULES[type(self.body.kind)].proof_cost(self.body.kind)

    @property
    def is_plain(self) -> bool:
        """Its own signature is all that it needs verified."""
        return not self.malformed and RULES[type(self.body.kind)].claims is no_claims

    def claim_key(self) -> ClaimKey:
        """A verdict counts for this id, under the key in force, and for exactly this signature."""
        key_hash = self.txid if self.key is None else self.key.key_hash
        return ClaimKey(self.txid, self.transaction.alg_id, key_hash, self.transaction.witness_leaf)

    def claims(self, parent: StateView) -> tuple[SignatureClaim, ...]:
        """All signatures of a transaction that passes the checks before them; none for one that cannot be verified."""
        if self.malformed or self.key is None:
            return ()
        genesis_hash, body = self.terms.genesis_hash, self.body
        try:
            checks = self.transaction.checks(genesis_hash, self.key.public_key)
        except DecodeError:
            return ()
        source = Source(genesis_hash, self.terms.height, self.txid, body.sender, body.nonce)
        inner = RULES[type(body.kind)].claims(parent, source, body.kind)
        return (SignatureClaim(self.claim_key(), checks), *inner)


def _malformed(candidate: Candidate, verdicts: Verdicts) -> bool:
    return bool(candidate.malformed)


def _key_presence(candidate: Candidate, verdicts: Verdicts) -> bool:
    """A key is carried if and only if the state before the block has none: else one body would have two valid forms."""
    return bool(candidate.transaction.public_key) is (candidate.known is not None)


def _key_mismatch(candidate: Candidate, verdicts: Verdicts) -> bool:
    if candidate.known is not None:
        return candidate.known.alg_id != candidate.transaction.alg_id
    return candidate.key is None or Address(candidate.key.key_hash) != candidate.body.sender


def _signature_form(candidate: Candidate, verdicts: Verdicts) -> bool:
    transaction, key = candidate.transaction, candidate.key
    if key is None:
        return True
    if candidate.known is not None and key.alg_id != AlgId.MULTISIG:
        # The key was checked when it was stored: its algorithm has sizes.
        return len(transaction.signature) != _SIGNATURE_BYTES[key.alg_id]
    try:
        return not transaction.checks(candidate.txid, key.public_key)
    except DecodeError:
        return True


def _bad_signature(candidate: Candidate, verdicts: Verdicts) -> bool:
    return not verdicts(candidate.claim_key())


def _expired(candidate: Candidate) -> bool:
    return candidate.body.valid_until_height < candidate.terms.height


def _algorithm(candidate: Candidate) -> bool:
    key = candidate.key
    if key is None:
        return True
    if key.alg_id not in candidate.terms.account_algorithms:
        return True
    if key.alg_id != AlgId.MULTISIG:
        return False
    return not key_allowed(candidate.terms.network.policy, key.alg_id, key.public_key, candidate.terms.height)


def _fee_too_low(candidate: Candidate) -> bool:
    return candidate.body.fee < candidate.minimum_fee


def _nonce_too_low(candidate: Candidate) -> bool:
    """This is also what keeps a transaction from being in the chain, or in one block, twice."""
    return candidate.body.nonce < candidate.account.nonce


def _nonce_gap(candidate: Candidate) -> bool:
    return candidate.body.nonce > candidate.account.nonce


def _unpayable(candidate: Candidate) -> bool:
    return candidate.account.balance < candidate.body.fee


WITNESS_CHECKS: Final[tuple[tuple[InvalidReason, Callable[[Candidate, Verdicts], bool]], ...]] = (
    (InvalidReason.MALFORMED_TX, _malformed),
    (InvalidReason.KEY_PRESENCE, _key_presence),
    (InvalidReason.KEY_MISMATCH, _key_mismatch),
    (InvalidReason.SIGNATURE_FORM, _signature_form),
    (InvalidReason.BAD_SIGNATURE, _bad_signature),
)
"""Before anything executes: until they all pass, the body may be a stranger's (`InvalidReason.condemns_block`)."""

PLACE_CHECKS: Final[tuple[tuple[InvalidReason, Callable[[Candidate], bool]], ...]] = (
    (InvalidReason.TX_EXPIRED, _expired),
    (InvalidReason.ALGORITHM_NOT_ALLOWED, _algorithm),
    (InvalidReason.FEE_TOO_LOW, _fee_too_low),
    (InvalidReason.NONCE_TOO_LOW, _nonce_too_low),
    (InvalidReason.NONCE_GAP, _nonce_gap),
    (InvalidReason.UNPAYABLE_FEE, _unpayable),
)
"""At the transaction's place, after all before it have executed."""


def witness_fault(candidate: Candidate, verdicts: Verdicts) -> InvalidReason | None:
    for reason, faulty in WITNESS_CHECKS:
        if faulty(candidate, verdicts):
            return reason
    return None


def place_fault(candidate: Candidate, state: StateView) -> InvalidReason | None:
    candidate.account = read_account(state, candidate.body.sender)
    for reason, faulty in PLACE_CHECKS:
        if faulty(candidate):
            return reason
    return None
