"""TransactionService: submit, follow to finality, take the receipt home."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Final

from node.rpc.backend import Backend, unknown_transaction
from node.rpc.dispatch import Call, Gate
from node.rpc.encode import STATUS, outcome_message, submission_error
from node.rpc.errors import Reason, Refused, invalid
from node.rpc.estimates import estimate
from node.rpc.fields import bounded, hash_field, require_height
from node.rpc.policies import Need
from node.rpc.port import Rejection, SubmitOutcome, TxStatus
from node.rpc.receipts import Receipts
from node.rpc.simulation import simulate, unsigned_parts
from node.rpc.waiting import Waiting
from trellis.constants import MAX_PUBLIC_KEY_BYTES, MAX_SIGNATURE_BYTES, MAX_TX_BODY_BYTES
from trellis.encoding import DecodeError
from trellis.transaction import Transaction
from trellis.types import U8_MAX, Height
from trellis.v1 import chain_pb2, transaction_pb2, transaction_service_pb2

_S = transaction_service_pb2

MAX_BATCH: Final = 256
MAX_BATCH_BYTES: Final = 4 << 20
STREAM_BATCH: Final = 64
"""Transactions of a stream that are verified together: what a verification worker takes at once."""

MAX_REPORTED_REJECTIONS: Final = 1_000
MAX_WAIT_MS: Final = 600_000
DEFAULT_WAIT_MS: Final = 30_000
WAIT_MARGIN_S: Final = 0.25
"""The wait ends so long before the caller's deadline, or an eighth of it, so that its last status still arrives."""

TRANSACTIONS_A_UNIT: Final = 8
"""Submissions are verified in workers: eight of them cost the node about as much as one ordinary call."""

REFUSED_ENDS: Final = (TxStatus.PENDING, TxStatus.INCLUDED)


class TransactionService:
    """Each method as its comment in the schema says."""

    def __init__(self, backend: Backend, gate: Gate, waiting: Waiting, receipts: Receipts) -> None:
        self._backend = backend
        self._gate = gate
        self._waiting = waiting
        self._receipts = receipts

    # Submission.

    async def submit_transaction(
        self, request: _S.SubmitTransactionRequest, call: Call
    ) -> _S.SubmitTransactionResponse:
        if not request.HasField("transaction"):
            raise invalid("transaction", "it is missing")
        outcome = (await self._submit((request.transaction,)))[0]
        if outcome.rejection is not None:
            raise refused_by(outcome.rejection)
        return _S.SubmitTransactionResponse(at=self._backend.latest(), result=self._result(outcome))

    async def submit_transactions(
        self, request: _S.SubmitTransactionsRequest, call: Call
    ) -> _S.SubmitTransactionsResponse:
        bounded(len(request.transactions), 1, MAX_BATCH, "transactions")
        if request.ByteSize() > MAX_BATCH_BYTES:
            raise invalid("transactions", f"together more than {MAX_BATCH_BYTES} bytes")
        call.charge(len(request.transactions) // TRANSACTIONS_A_UNIT)
        outcomes = await self._submit(request.transactions)
        results = [self._result(outcome) for outcome in outcomes]
        return _S.SubmitTransactionsResponse(at=self._backend.latest(), results=results)

    async def submit_stream(
        self, requests: AsyncIterator[_S.SubmitStreamRequest], call: Call
    ) -> _S.SubmitStreamResponse:
        """Reads on while a batch is being verified, but only one more batch: the rest waits at the sender."""
        tally = _Tally(self)
        batch: list[transaction_pb2.Transaction] = []
        in_work: asyncio.Task[Sequence[SubmitOutcome]] | None = None
        try:
            async for request in requests:
                batch.append(request.transaction)
                if len(batch) >= STREAM_BATCH:
                    self._gate.check(Need.SERVING)
                    if in_work is not None:
                        tally.add(await in_work)
                    in_work, batch = asyncio.ensure_future(self._submit(batch)), []
            if in_work is not None:
                tally.add(await in_work)
            if batch:
                tally.add(await self._submit(batch))
        finally:
            if in_work is not None and not in_work.done():
                in_work.cancel()
        return tally.response()

    async def _submit(self, messages: Sequence[transaction_pb2.Transaction]) -> Sequence[SubmitOutcome]:
        """Parses here, so that the node's own thread sees well-formed transactions alone."""
        outcomes: list[SubmitOutcome | None] = [None] * len(messages)
        good: list[Transaction] = []
        places: list[int] = []
        for place, message in enumerate(messages):
            read = read_transaction(message)
            if isinstance(read, Rejection):
                outcomes[place] = SubmitOutcome(None, TxStatus.REJECTED, read)
            else:
                good.append(read)
                places.append(place)
        if good:
            answers = await self._backend.bridge.run(self._backend.port.submit, good)
            for place, answer in zip(places, answers, strict=True):
                outcomes[place] = answer
        return [outcome for outcome in outcomes if outcome is not None]

    def _result(self, outcome: SubmitOutcome) -> _S.SubmissionResult:
        result = _S.SubmissionResult(
            txid="" if outcome.txid is None else outcome.txid.hex(),
            status=STATUS[outcome.status],
            duplicate=outcome.duplicate,
        )
        if outcome.rejection is not None:
            result.error.CopyFrom(submission_error(outcome.rejection))
        if outcome.location is not None:
            height, code = outcome.location.height, outcome.location.outcome
            backend = self._backend
            ref = backend.reading.now(lambda reader: backend.ref(reader, height, reader.tip.height))
            result.block.CopyFrom(ref)
            result.outcome.CopyFrom(outcome_message(code))
        return result

    # Before submission.

    async def simulate_transaction(
        self, request: _S.SimulateTransactionRequest, call: Call
    ) -> _S.SimulateTransactionResponse:
        backend = self._backend
        if not request.HasField("transaction"):
            raise invalid("transaction", "it is missing")
        parts = unsigned_parts(request.transaction)
        backend.check_fresh(request.consistency, backend.height())
        signed = bool(parts.signature)
        genesis_hash = backend.genesis.hash
        told = await backend.reading.later(lambda reader: simulate(reader, genesis_hash, parts))
        complete = signed and (parts.public_key or not told.completed.public_key)
        refusal = await backend.bridge.call(backend.port.admission, told.completed, bool(complete))
        if refusal is None and signed and not await backend.bridge.run(backend.port.verify_signature, parts):
            refusal = Rejection(Reason.BAD_SIGNATURE, "the signature does not verify under the sender's key")
        answer = _S.SimulateTransactionResponse(
            at=backend.tip_ref(told.tip),
            txid=told.txid.hex(),
            minimum_fee=str(told.minimum_fee),
            balance_changes=[
                _S.BalanceChange(address=address, before=str(before), after=str(after))
                for address, before, after in told.changes
            ],
        )
        if told.outcome is not None:
            answer.outcome.CopyFrom(outcome_message(told.outcome))
        if refusal is not None:
            answer.admission_error.CopyFrom(submission_error(refusal))
        return answer

    async def estimate_fee(self, request: _S.EstimateFeeRequest, call: Call) -> _S.EstimateFeeResponse:
        return await estimate(self._backend, request)

    # Afterwards.

    async def get_transaction(self, request: _S.GetTransactionRequest, call: Call) -> _S.GetTransactionResponse:
        backend = self._backend
        txid = hash_field(request.txid, "txid")
        backend.check_fresh(request.consistency, backend.height())
        fate = await backend.fate(txid)
        if fate is None:
            raise unknown_transaction()
        info = await backend.info(txid, fate, include=request.include_transaction)
        return _S.GetTransactionResponse(at=backend.latest(), transaction=info)

    async def wait_for_finality(self, request: _S.WaitForFinalityRequest, call: Call) -> _S.WaitForFinalityResponse:
        backend = self._backend
        txid = hash_field(request.txid, "txid")
        bounded(request.timeout_ms, 0, MAX_WAIT_MS, "timeout_ms")
        fate = await self._waiting.until_end(txid, wait_seconds(request.timeout_ms, call.seconds_left()))
        info = await backend.info(txid, fate, include=False)
        return _S.WaitForFinalityResponse(at=backend.latest(), transaction=info)

    async def get_receipt(self, request: _S.GetReceiptRequest, call: Call) -> _S.GetReceiptResponse:
        backend = self._backend
        txid = hash_field(request.txid, "txid")
        if backend.is_mined:
            raise Refused(Reason.NOT_FOUND, "a proof-of-work chain has no certificates, and so no receipts")
        fate = await backend.fate(txid)
        if fate is None:
            raise unknown_transaction()
        location = fate.location
        if location is None or fate.status is not TxStatus.FINAL:
            metadata = {"status": chain_pb2.TransactionStatus.Name(STATUS[fate.status])}
            raise Refused(Reason.NOT_FINAL, "a receipt exists once the transaction is final", metadata)
        if request.checkpoint_height > location.height:
            require_height(request.checkpoint_height, location.height)
        checkpoint = Height(request.checkpoint_height)
        loaded = await backend.loaded(location.height)
        make, index = self._receipts.make, location.index
        receipt = await backend.reading.later(lambda reader: make(reader, loaded, index, checkpoint))
        return _S.GetReceiptResponse(
            at=backend.latest(),
            receipt=receipt,
            block=loaded.ref(final=True),
            checkpoint_hash=backend.reading.now(lambda reader: backend.ref(reader, checkpoint, 0).block_hash),
        )


class _Tally:
    """Counts what became of a stream."""

    def __init__(self, service: TransactionService) -> None:
        self._service = service
        self._seen = 0
        self._message = _S.SubmitStreamResponse()

    def add(self, outcomes: Sequence[SubmitOutcome]) -> None:
        message = self._message
        for outcome in outcomes:
            if outcome.rejection is not None:
                message.rejected_count += 1
                if len(message.rejections) < MAX_REPORTED_REJECTIONS:
                    result = self._service._result(outcome)
                    message.rejections.append(_S.StreamRejection(index=self._seen, result=result))
            elif outcome.duplicate:
                message.duplicate_count += 1
            else:
                message.admitted_count += 1
            self._seen += 1

    def response(self) -> _S.SubmitStreamResponse:
        self._message.at.CopyFrom(self._service._backend.latest())
        return self._message


def read_transaction(message: transaction_pb2.Transaction) -> Transaction | Rejection:
    """With the caps of `trellis.transaction.decode_transaction`: nothing larger reaches the node."""
    body, alg_id = message.body, message.alg_id
    if not 0 < len(body) <= MAX_TX_BODY_BYTES:
        return Rejection(Reason.MALFORMED_TX, f"a body has 1 to {MAX_TX_BODY_BYTES} bytes, not {len(body)}")
    if not 0 < alg_id <= U8_MAX:
        return Rejection(Reason.INVALID_FIELD, f"alg_id: there is no algorithm {alg_id}", {"field": "alg_id"})
    if len(message.public_key) > MAX_PUBLIC_KEY_BYTES:
        return Rejection(Reason.INVALID_FIELD, "public_key: larger than any key", {"field": "public_key"})
    if not 0 < len(message.signature) <= MAX_SIGNATURE_BYTES:
        return Rejection(Reason.BAD_SIGNATURE, "there is no signature, or one larger than any algorithm's")
    transaction = Transaction(body, alg_id, message.public_key, message.signature)
    try:
        _ = transaction.parsed
    except DecodeError as fault:
        return Rejection(Reason.MALFORMED_TX, f"{fault.detail}: build bodies with trellis.transaction")
    return transaction


def refused_by(rejection: Rejection) -> Refused:
    return Refused(rejection.reason, rejection.message, rejection.metadata, rejection.retry_after_ms)


def wait_seconds(timeout_ms: int, deadline_s: float | None) -> float:
    """The earlier of the request's time and the call's deadline, less a margin."""
    asked = timeout_ms / 1_000 if timeout_ms else None
    if deadline_s is None:
        return DEFAULT_WAIT_MS / 1_000 if asked is None else asked
    left = max(0.0, deadline_s - min(WAIT_MARGIN_S, deadline_s / 8))
    return left if asked is None else min(asked, left)
