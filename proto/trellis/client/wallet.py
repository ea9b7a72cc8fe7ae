"""What a wallet does, as flows: build, sign, submit, wait, prove, read. `blocking` and `aio` give them their faces.

Nothing that moves money rests on a node's word: chain id, fees' limits and exponents come from the trusted start,
finality and verified reads from certificates. And nothing is ever signed twice on a node's word either: the payment
that a node refused with "nonce too low", and relayed all the same, would be made twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from grpc import StatusCode

from trellis.client.amounts import Amount, base_units
from trellis.client.building import (
    DEFAULT_VALID_BLOCKS,
    NonceBook,
    UnsignedTransaction,
    at_least_minimum,
    build_transaction,
    check_key,
    price,
)
from trellis.client.calls import Answered, Caller, Fact
from trellis.client.chain import ChainReader
from trellis.client.effects import Flow, pause, sign
from trellis.client.errors import (
    REASON_ERRORS,
    Failure,
    NonceGap,
    NonceTooLow,
    NotIncluded,
    ProofInvalid,
    Reason,
    ServiceError,
    WaitTimeout,
    service_error,
)
from trellis.client.methods import (
    ESTIMATE_FEE,
    GET_RECEIPT,
    GET_TRANSACTION,
    SUBMIT,
    SUBMIT_MANY,
    WAIT_FOR_FINALITY,
)
from trellis.client.signers import Account as SigningAccount
from trellis.client.signers import AnySigner
from trellis.client.values import (
    ENDED,
    FeeEstimate,
    ProvenReceipt,
    Status,
    Submitted,
    TransactionInfo,
    TxidLike,
    address_from,
    transaction_message,
    txid_from,
)
from trellis.encoding import DecodeError
from trellis.genesis import Genesis
from trellis.receipt import Finality, ReceiptInvalid, decode_receipt, verify_receipt
from trellis.transaction import Kind, Output, Transaction, Transfer
from trellis.types import Address, Hash, Height
from trellis.v1 import transaction_service_pb2 as messages

WAIT_SLICE_S: Final = 20.0
"""One WaitForFinality asks for no more: a node that hangs is left for another after this."""

WAIT_GRACE_S: Final = 2.0
"""The node's own answer that the wait is over shall arrive before our deadline."""

EARLY_PAUSE_S: Final = 1.0

MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 4 << 20
"""What SubmitTransactions takes at once."""

DEFAULT_WAIT_S: Final = 60.0

Recipients = Sequence[tuple[Address | bytes | str, int | Amount]]


@dataclass(frozen=True, slots=True)
class Terms:
    """How a transaction is to be built, where the defaults do not do."""

    fee: int | Amount | None = None
    """Exactly this; else the node's suggestion within `max_fee`."""
    max_fee: int | Amount | None = None
    """Else ten times the chain's minimum."""
    nonce: int | None = None
    valid_for_blocks: int = DEFAULT_VALID_BLOCKS

    def __post_init__(self) -> None:
        if self.valid_for_blocks < 1:
            raise ValueError("a transaction is valid for one block at least")


DEFAULT_TERMS: Final = Terms()


def transfer(recipients: Recipients) -> Transfer:
    """The kind that pays all of them, in one transaction."""
    return Transfer(tuple(Output(address_from(to), base_units(amount)) for to, amount in recipients))


class Wallet:
    """The flows of one client."""

    def __init__(self, caller: Caller, chain: ChainReader) -> None:
        self._caller = caller
        self._chain = chain
        self._nonces = NonceBook()

    def forget_nonces(self, address: Address | bytes | str) -> None:
        self._nonces.forget(address_from(address))

    def build(self, kind: Kind, account: SigningAccount, terms: Terms = DEFAULT_TERMS) -> Flow[UnsignedTransaction]:
        genesis_hash = self._chain.require_sets("building a transaction").genesis_hash
        parameters = yield from self._chain.parameters()
        known = yield from self._chain.account(account.address, verify=False)
        carries_key = check_key(known, account)
        valid_until = Height(known.at.height + terms.valid_for_blocks)
        draft = build_transaction(
            kind,
            account,
            genesis_hash,
            nonce=known.pending_nonce,
            fee=0,
            valid_until_height=valid_until,
            carries_key=carries_key,
        )
        if terms.fee is not None:
            draft = draft.with_fee(base_units(terms.fee))
        else:
            asked = yield from self._suggested_fee(draft)
            limit = None if terms.max_fee is None else base_units(terms.max_fee)
            draft = price(draft, parameters, asked, limit)
        # The nonce is reserved last: until then nothing that fails has to be undone.
        nonce = self._nonces.reserve(known, valid_until) if terms.nonce is None else terms.nonce
        draft = draft.with_nonce(nonce)
        return draft if terms.fee is not None else at_least_minimum(draft, draft.body.fee, parameters)

    def _suggested_fee(self, draft: UnsignedTransaction) -> Flow[int]:
        request = messages.EstimateFeeRequest(body=draft.encoded_body, alg_id=draft.alg_id)
        answered = yield from self._caller.call(ESTIMATE_FEE, request)
        return answered.reader.units(answered.message.suggested_fee, "a fee")

    def estimate_fee(self, kind: Kind, account: SigningAccount) -> Flow[FeeEstimate]:
        genesis_hash = self._chain.require_sets("estimating a fee").genesis_hash
        parameters = yield from self._chain.parameters()
        known = yield from self._chain.account(account.address, verify=False)
        draft = build_transaction(
            kind,
            account,
            genesis_hash,
            nonce=known.pending_nonce,
            fee=0,
            valid_until_height=known.at.height + DEFAULT_VALID_BLOCKS,
            carries_key=check_key(known, account),
        )
        least = price(draft, parameters, 0, None).body.fee
        asked = yield from self._suggested_fee(draft)
        return FeeEstimate(minimum=least, suggested=max(asked, least))

    def sign(self, unsigned: UnsignedTransaction, signer: AnySigner) -> Flow[Transaction]:
        """Nothing is sent unless the signature verifies."""
        try:
            signature = yield from sign(signer, unsigned.signing_bytes, unsigned.context)
            return unsigned.complete(signature)
        except BaseException:
            # Whatever went wrong with the device: the nonce was not used.
            self._nonces.forget(unsigned.body.sender)
            raise

    def send(self, kind: Kind, signer: AnySigner, terms: Terms = DEFAULT_TERMS) -> Flow[Submitted]:
        unsigned = yield from self.build(kind, signer, terms)
        transaction = yield from self.sign(unsigned, signer)
        return (yield from self.submit(transaction))

    def submit(self, transaction: Transaction) -> Flow[Submitted]:
        """Safe to repeat: the node knows a transaction again by its id."""
        txid = transaction.txid(self._chain.require_sets("submitting a transaction").genesis_hash)
        sender = transaction.parsed.sender
        request = messages.SubmitTransactionRequest(transaction=transaction_message(transaction))
        try:
            answered = yield from self._caller.call(SUBMIT, request)
        except (NonceTooLow, NonceGap):
            self._nonces.forget(sender)
            raise
        return answered.reader.submitted(answered.message.result, transaction, txid)

    def submit_many(self, transactions: Sequence[Transaction]) -> Flow[list[Submitted | ServiceError]]:
        """Any number of transactions, in batches; one answer for each, in their order."""
        genesis_hash = self._chain.require_sets("submitting a transaction").genesis_hash
        results: list[Submitted | ServiceError] = []
        for batch in _batches(transactions):
            request = messages.SubmitTransactionsRequest(transactions=[transaction_message(item) for item in batch])
            answered = yield from self._caller.call(SUBMIT_MANY, request)
            if len(answered.message.results) != len(batch):
                raise answered.reader.bad(f"{len(answered.message.results)} results for {len(batch)} transactions")
            for transaction, result in zip(batch, answered.message.results, strict=True):
                if result.HasField("error"):
                    results.append(_item_error(answered, result.error))
                else:
                    results.append(answered.reader.submitted(result, transaction, transaction.txid(genesis_hash)))
        return results

    def status(self, txid: TxidLike, *, include_transaction: bool = False) -> Flow[TransactionInfo]:
        wanted = txid_from(txid)
        request = messages.GetTransactionRequest(txid=wanted.hex(), include_transaction=include_transaction)

        def fact(answered: Answered[messages.GetTransactionResponse]) -> Fact:
            info = self._info(answered, wanted)
            if info.block is None or not info.block.final:
                # Below every final word: nodes may differ about what is on its way.
                return Fact(-1, "not final")
            return Fact(0, f"{info.status} in block {info.block} with outcome {info.outcome and info.outcome.name}")

        answered = yield from self._caller.agreed(GET_TRANSACTION, request, fact, f"transaction {wanted.hex()}")
        return self._info(answered, wanted)

    def _info(
        self,
        answered: Answered[messages.GetTransactionResponse] | Answered[messages.WaitForFinalityResponse],
        txid: Hash,
    ) -> TransactionInfo:
        info = answered.reader.transaction_info(answered.message.transaction, self._chain.genesis_hash, txid)
        if info.status is Status.FINAL and (info.block is None or info.outcome is None):
            raise answered.reader.bad("a final transaction without a block or an outcome")
        if info.block is not None:
            self._caller.note_block(answered.endpoint, info.block)
        return info

    def wait(self, txid: TxidLike, timeout_s: float = DEFAULT_WAIT_S) -> Flow[Finality]:
        """Returns what a receipt proves. A node that says "final" proves it; a node that says "never" must be joined by
        all others."""
        wanted = txid_from(txid)
        self._chain.require_sets("waiting for proven finality")
        until_s = self._caller.now_s() + timeout_s
        deniers: dict[str, Status] = {}
        while True:
            answered, info = yield from self._settled(wanted, until_s, deniers)
            if info.status is Status.FINAL:
                break
            deniers[answered.endpoint] = info.status
            if len(deniers) == len(self._caller.roster.seats):
                raise NotIncluded(wanted.hex(), info.status, tuple(deniers))
        return (yield from self.receipt(wanted)).finality

    def _settled(
        self, txid: Hash, until_s: float, deniers: dict[str, Status]
    ) -> Flow[tuple[Answered[messages.WaitForFinalityResponse], TransactionInfo]]:
        """A node's word that the transaction has ended, from one that has not denied it yet."""
        while True:
            began_s = self._caller.now_s()
            slice_s = max(0.001, min(WAIT_SLICE_S, until_s - began_s))
            request = messages.WaitForFinalityRequest(txid=txid.hex(), timeout_ms=max(1, round(slice_s * 1_000)))
            try:
                answered = yield from self._caller.call(
                    WAIT_FOR_FINALITY,
                    request,
                    exclude=deniers,
                    budget_s=slice_s + WAIT_GRACE_S,
                    attempt_s=slice_s + WAIT_GRACE_S,
                )
            except WaitTimeout:
                now_s = self._caller.now_s()
                if now_s >= until_s:
                    raise
                # A node that answers too early is not asked again at once: it could keep us busy for nothing.
                yield from pause(max(0.0, min(EARLY_PAUSE_S, until_s - now_s, began_s + slice_s - now_s)))
                continue
            info = self._info(answered, txid)
            if info.status not in ENDED:
                raise answered.reader.bad(f"a wait that ended with status {info.status}")
            return answered, info

    def receipt(self, txid: TxidLike) -> Flow[ProvenReceipt]:
        """Fetches a receipt and verifies it here, from the client's trusted start."""
        wanted = txid_from(txid)
        sets = self._chain.require_sets("verifying a receipt")
        trust = self._chain.require_trust("verifying a receipt")
        start = 0 if isinstance(trust, Genesis) else sets.start
        request = messages.GetReceiptRequest(txid=wanted.hex(), checkpoint_height=start)

        def check(answered: Answered[messages.GetReceiptResponse]) -> Flow[ProvenReceipt]:
            try:
                receipt = decode_receipt(answered.message.receipt)
                finality = verify_receipt(receipt, trust, self._chain.verify)
            except (DecodeError, ReceiptInvalid) as fault:
                raise ProofInvalid(answered.endpoint, "receipt", str(fault)) from fault
            if finality.txid != wanted:
                told = f"it proves another transaction, {finality.txid.hex()}"
                raise ProofInvalid(answered.endpoint, "receipt", told)
            yield from ()  # a flow that asks for nothing
            return ProvenReceipt(receipt, finality)

        return (yield from self._caller.proven(GET_RECEIPT, request, check))


def _batches(transactions: Sequence[Transaction]) -> list[list[Transaction]]:
    batches: list[list[Transaction]] = [[]]
    size = 0
    for transaction in transactions:
        weight = len(transaction.encode()) + 8
        if batches[-1] and (len(batches[-1]) == MAX_BATCH or size + weight > MAX_BATCH_BYTES):
            batches.append([])
            size = 0
        batches[-1].append(transaction)
        size += weight
    return [batch for batch in batches if batch]


def _item_error(
    answered: Answered[messages.SubmitTransactionsResponse], error: messages.SubmissionError
) -> ServiceError:
    reason = Reason(error.reason) if error.reason in Reason.__members__ else None
    code = StatusCode.UNKNOWN if reason is None else REASON_ERRORS[reason][0]
    return service_error(
        Failure(
            answered.endpoint,
            SUBMIT_MANY.name,
            code,
            error.message,
            reason,
            dict(error.metadata),
            error.retry_after_ms or None,
        )
    )
