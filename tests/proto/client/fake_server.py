"""An in-process gRPC server over the real stubs that serves a `FakeChain`; it fails, lies or falls silent on demand."""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from tests.proto.client.fake_chain import Block, FakeChain
from trellis.address import format_address, parse_address
from trellis.client.errors import REASON_ERRORS, Reason
from trellis.encoding import DecodeError
from trellis.transaction import KIND_NAMES, Transaction
from trellis.types import Hash
from trellis.v1 import (
    chain_pb2,
    common_pb2,
    finality_service_pb2,
    finality_service_pb2_grpc,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    subscription_service_pb2,
    subscription_service_pb2_grpc,
    transaction_pb2,
    transaction_service_pb2,
    transaction_service_pb2_grpc,
)

STATUS = {
    "pending": chain_pb2.TRANSACTION_STATUS_PENDING,
    "final": chain_pb2.TRANSACTION_STATUS_FINAL,
    "expired": chain_pb2.TRANSACTION_STATUS_EXPIRED,
    "dropped": chain_pb2.TRANSACTION_STATUS_DROPPED,
}


@dataclass(frozen=True)
class Refusal:
    """A failed call, as the node makes it: code, ErrorInfo, RetryInfo."""

    reason: Reason | None = None
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_ms: int | None = None
    code: grpc.StatusCode | None = None
    message: str = "refused by the fake node"

    def status(self) -> Any:
        code = self.code or (REASON_ERRORS[self.reason][0] if self.reason else grpc.StatusCode.UNAVAILABLE)
        details = []
        if self.reason is not None:
            info = any_pb2.Any()
            info.Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain="trellis", metadata=self.metadata))
            details.append(info)
        if self.retry_after_ms is not None:
            delay = duration_pb2.Duration()
            delay.FromMilliseconds(self.retry_after_ms)
            retry = any_pb2.Any()
            retry.Pack(error_details_pb2.RetryInfo(retry_delay=delay))
            details.append(retry)
        return rpc_status.to_status(status_pb2.Status(code=code.value[0], message=self.message, details=details))


class FakeNode(
    transaction_service_pb2_grpc.TransactionServiceServicer,
    ledger_service_pb2_grpc.LedgerServiceServicer,
    finality_service_pb2_grpc.FinalityServiceServicer,
    subscription_service_pb2_grpc.SubscriptionServiceServicer,
):
    """`refusals` are used up call by call; `lies` rewrite answers; `scripts` tell what each new stream does."""

    def __init__(self, chain: FakeChain, credentials: grpc.ServerCredentials | None = None) -> None:
        self.chain = chain
        self.calls: Counter[str] = Counter()
        self.requests: list[tuple[str, Any]] = []
        self.tokens: list[str | None] = []
        self.refusals: dict[str, deque[Refusal]] = {}
        self.lies: dict[str, Callable[[Any], Any]] = {}
        self.scripts: deque[list[str]] = deque()
        self.before: dict[str, Callable[[], object]] = {}
        self.statuses: dict[Hash, str] = {}
        self.limit_height: int | None = None
        self.deaf_to_consistency = False
        self._credentials = credentials
        self._server: grpc.Server | None = None
        self.port = 0
        self._stopping = threading.Event()

    def start(self) -> FakeNode:
        self._stopping.clear()
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        transaction_service_pb2_grpc.add_TransactionServiceServicer_to_server(self, self._server)
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(self, self._server)
        finality_service_pb2_grpc.add_FinalityServiceServicer_to_server(self, self._server)
        subscription_service_pb2_grpc.add_SubscriptionServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()
        return self

    def stop(self) -> None:
        if self._server is not None:
            self._stopping.set()
            with self.chain.changed:
                self.chain.changed.notify_all()
            self._server.stop(None).wait()
            self._server = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def name(self) -> str:
        return f"{'http' if self._credentials is None else 'https'}://{self.address}"

    def refuse(self, method: str, *refusals: Refusal) -> None:
        self.refusals.setdefault(method, deque()).extend(refusals)

    def lie(self, method: str, rewrite: Callable[[Any], Any]) -> None:
        self.lies[method] = rewrite

    def requests_of(self, method: str) -> list[Any]:
        return [request for name, request in self.requests if name == method]

    def _enter(self, method: str, request: Any, context: Any) -> None:
        self.calls[method] += 1
        self.requests.append((method, request))
        self.tokens.append(dict(context.invocation_metadata()).get("authorization"))
        if method in self.before:
            self.before.pop(method)()
        waiting = self.refusals.get(method)
        if waiting:
            context.abort_with_status(waiting.popleft().status())

    def _answer(self, method: str, message: Any) -> Any:
        rewrite = self.lies.get(method)
        if rewrite is None:
            return message
        changed = rewrite(message)
        return message if changed is None else changed

    def _abort(self, context: Any, reason: Reason, **metadata: str) -> Any:
        return context.abort_with_status(Refusal(reason, metadata).status())

    @property
    def height(self) -> int:
        return self.chain.height if self.limit_height is None else min(self.limit_height, self.chain.height)

    def ref(self, height: int) -> common_pb2.BlockRef:
        return common_pb2.BlockRef(height=height, block_hash=self.chain.hash_at(height).hex(), final=True)

    def at(self) -> common_pb2.BlockRef:
        return self.ref(self.height)

    # TransactionService

    def SubmitTransaction(self, request: Any, context: Any) -> Any:
        self._enter("SubmitTransaction", request, context)
        result = self._admit(request.transaction)
        if isinstance(result, Refusal):
            return context.abort_with_status(result.status())
        answer = transaction_service_pb2.SubmitTransactionResponse(at=self.at(), result=result)
        return self._answer("SubmitTransaction", answer)

    def SubmitTransactions(self, request: Any, context: Any) -> Any:
        self._enter("SubmitTransactions", request, context)
        results = []
        for item in request.transactions:
            result = self._admit(item)
            if isinstance(result, Refusal):
                error = transaction_service_pb2.SubmissionError(
                    code=REASON_ERRORS[result.reason][0].value[0], reason=result.reason, metadata=result.metadata
                )
                result = transaction_service_pb2.SubmissionResult(
                    status=chain_pb2.TRANSACTION_STATUS_REJECTED, error=error
                )
            results.append(result)
        answer = transaction_service_pb2.SubmitTransactionsResponse(at=self.at(), results=results)
        return self._answer("SubmitTransactions", answer)

    def _admit(self, message: Any) -> Any:
        transaction = Transaction(message.body, message.alg_id, message.public_key, message.signature)
        try:
            body = transaction.parsed
        except DecodeError:
            return Refusal(Reason.MALFORMED_TX)
        txid = transaction.txid(self.chain.genesis.hash)
        known = txid in self.chain.pending or self.chain.find(txid) is not None
        if not known:
            nonce = self.pending_nonce(body.sender)
            if body.nonce < nonce:
                return Refusal(Reason.NONCE_TOO_LOW, {"expected_nonce": str(nonce)})
            if body.nonce > nonce:
                return Refusal(Reason.NONCE_GAP, {"expected_nonce": str(nonce)})
            self.chain.pending[txid] = transaction
        final = self.chain.find(txid) is not None
        return transaction_service_pb2.SubmissionResult(
            txid=txid.hex(), status=STATUS["final" if final else "pending"], duplicate=known
        )

    def pending_nonce(self, address: Any) -> int:
        waiting = sum(1 for item in self.chain.pending.values() if item.parsed.sender == address)
        return self.chain.state.account(address)[1] + waiting

    def EstimateFee(self, request: Any, context: Any) -> Any:
        self._enter("EstimateFee", request, context)
        answer = transaction_service_pb2.EstimateFeeResponse(at=self.at(), minimum_fee="200", suggested_fee="1500")
        return self._answer("EstimateFee", answer)

    def info(self, txid: Hash, include: bool = False) -> Any:
        found = self.chain.find(txid)
        transaction = self.chain.pending.get(txid)
        message = chain_pb2.TransactionInfo(txid=txid.hex(), status=STATUS["pending"])
        if found is not None:
            block, index = found
            item = block.included[index]
            transaction = item.transaction
            message.status = STATUS["final"]
            message.block.CopyFrom(self.ref(block.header.height))
            message.index = index
            message.outcome.code, message.outcome.name = item.outcome, item.outcome.name
        elif txid in self.statuses:
            message.status = STATUS[self.statuses[txid]]
        if transaction is None:
            return None
        body = transaction.parsed
        message.sender, message.nonce, message.fee = format_address(body.sender), body.nonce, str(body.fee)
        message.valid_until_height = body.valid_until_height
        message.kind = chain_pb2.TransactionKind.Value(f"TRANSACTION_KIND_{KIND_NAMES[type(body.kind)].upper()}")
        if include:
            message.transaction.CopyFrom(
                transaction_pb2.Transaction(
                    body=transaction.body,
                    alg_id=transaction.alg_id,
                    public_key=transaction.public_key,
                    signature=transaction.signature,
                )
            )
        return message

    def GetTransaction(self, request: Any, context: Any) -> Any:
        self._enter("GetTransaction", request, context)
        info = self.info(Hash(bytes.fromhex(request.txid)), request.include_transaction)
        if info is None:
            return self._abort(context, Reason.TX_UNKNOWN)
        answer = transaction_service_pb2.GetTransactionResponse(at=self.at(), transaction=info)
        return self._answer("GetTransaction", answer)

    def WaitForFinality(self, request: Any, context: Any) -> Any:
        self._enter("WaitForFinality", request, context)
        info = self.info(Hash(bytes.fromhex(request.txid)))
        if info is None or info.status == STATUS["pending"]:
            return self._abort(context, Reason.WAIT_TIMEOUT, status="TRANSACTION_STATUS_PENDING")
        answer = transaction_service_pb2.WaitForFinalityResponse(at=self.at(), transaction=info)
        return self._answer("WaitForFinality", answer)

    def GetReceipt(self, request: Any, context: Any) -> Any:
        self._enter("GetReceipt", request, context)
        receipt = self.chain.receipt(Hash(bytes.fromhex(request.txid)), request.checkpoint_height)
        if receipt is None:
            return self._abort(context, Reason.TX_UNKNOWN)
        answer = transaction_service_pb2.GetReceiptResponse(
            at=self.at(),
            receipt=receipt.encode(),
            block=self.ref(receipt.header.height),
            checkpoint_hash=self.chain.hash_at(request.checkpoint_height).hex(),
        )
        return self._answer("GetReceipt", answer)

    # LedgerService

    def GetServiceInfo(self, request: Any, context: Any) -> Any:
        self._enter("GetServiceInfo", request, context)
        answer = ledger_service_pb2.GetServiceInfoResponse(
            at=self.at(),
            chain_name=self.chain.genesis.chain_name,
            genesis_hash=self.chain.genesis.hash.hex(),
            unit_exponent=self.chain.genesis.parameters.unit_exponent,
            lowest_height=1,
            software_version="0.1.0",
        )
        return self._answer("GetServiceInfo", answer)

    def GetHeader(self, request: Any, context: Any) -> Any:
        self._enter("GetHeader", request, context)
        height = request.height if request.HasField("height") else self.height
        if height > self.height:
            return self._abort(context, Reason.HEIGHT_FUTURE, latest_height=str(self.height))
        block = self.chain.blocks[height - 1]
        answer = ledger_service_pb2.GetHeaderResponse(at=self.at(), header=self.header(block), final=True)
        return self._answer("GetHeader", answer)

    def header(self, block: Block) -> Any:
        return chain_pb2.Header(
            block_hash=block.header.hash.hex(), height=block.header.height, raw=block.header.encode()
        )

    def GetAccount(self, request: Any, context: Any) -> Any:
        self._enter("GetAccount", request, context)
        if request.consistency.min_height > self.height and not self.deaf_to_consistency:
            return self._abort(context, Reason.HEIGHT_FUTURE, latest_height=str(self.height))
        address = parse_address(request.address)
        block = self.chain.blocks[self.height - 1] if self.height else None
        state = block.state if block else self.chain.state
        balance, nonce = state.account(address)
        alg_id, public_key = state.key(address)
        stake = state.rows.get(b"v" + address, bytes(8))
        answer = ledger_service_pb2.GetAccountResponse(
            at=self.at(),
            account=ledger_service_pb2.Account(
                address=request.address,
                balance=str(balance),
                bonded=str(int.from_bytes(stake[:8], "big")),
                nonce=nonce,
                pending_nonce=max(nonce, self.pending_nonce(address)),
                alg_id=alg_id,
                public_key=public_key,
            ),
        )
        if request.include_proof and block is not None:
            answer.proof.CopyFrom(self.proof(block, [prefix + address for prefix in (b"a", b"k", b"u", b"v")]))
        return self._answer("GetAccount", answer)

    def proof(self, block: Block, keys: list[bytes]) -> Any:
        return chain_pb2.StateProof(
            state_root=block.header.state_root.hex(),
            entries=[
                chain_pb2.StateEntry(
                    key=key,
                    value=block.state.rows.get(key, b""),
                    present=key in block.state.rows,
                    proof=block.state.prove(key).encode(),
                )
                for key in keys
            ],
            header=block.header.encode(),
            certificate=block.certificate.encode(),
        )

    def GetParameters(self, request: Any, context: Any) -> Any:
        self._enter("GetParameters", request, context)
        answer = ledger_service_pb2.GetParametersResponse(
            at=self.at(),
            params_hash=self.chain.genesis.params_hash.hex(),
            parameters=[
                ledger_service_pb2.ChainParameter(name=name, value=value)
                for name, value in self.chain.genesis.parameters.to_json().items()
            ],
        )
        return self._answer("GetParameters", answer)

    # FinalityService

    def GetCertificate(self, request: Any, context: Any) -> Any:
        self._enter("GetCertificate", request, context)
        for block in self.chain.blocks:
            if block.header.hash.hex() == request.block_hash or block.header.height == request.height:
                answer = finality_service_pb2.GetCertificateResponse(
                    at=self.at(), block=self.ref(block.header.height), certificate=block.certificate.encode()
                )
                return self._answer("GetCertificate", answer)
        return self._abort(context, Reason.NOT_FOUND)

    def GetValidatorTransitions(self, request: Any, context: Any) -> Any:
        self._enter("GetValidatorTransitions", request, context)
        wanted = [t for t in self.chain.transitions if request.from_height < t.header.height <= request.to_height]
        answer = finality_service_pb2.GetValidatorTransitionsResponse(
            at=self.at(),
            transitions=[
                finality_service_pb2.ValidatorTransition(
                    height=t.header.height,
                    next_validators_hash=t.following.hash.hex(),
                    header=t.header.encode(),
                    certificate=t.certificate.encode(),
                    next_validators=t.following.encode(),
                )
                for t in wanted[:1]
            ],
            page=common_pb2.PageResponse(next_page_token="more" if len(wanted) > 1 else ""),
        )
        return self._answer("GetValidatorTransitions", answer)

    # SubscriptionService

    def SubscribeBlocks(self, request: Any, context: Any) -> Iterator[Any]:
        """A script is a list of steps; after its last step the stream goes on as an honest one."""
        self._enter("SubscribeBlocks", request, context)
        script = deque(self.scripts.popleft() if self.scripts else ())
        height = request.start_height or self.height + 1
        context.add_callback(self._wake)
        while context.is_active() and not self._stopping.is_set():
            match script.popleft() if script else "block":
                case "block":
                    if self._await_block(height, context):
                        yield self._answer("SubscribeBlocks", self._block(height, request.include_transactions))
                        height += 1
                case "commit":
                    self.chain.commit()
                case "skip":
                    height += 1
                case "heartbeat":
                    yield subscription_service_pb2.SubscribeBlocksResponse(at=self.at(), resume_height=height)
                case "gap":
                    self._abort(context, Reason.SUBSCRIPTION_GAP, resume_height=str(height + 5))
                case "drop":
                    context.abort(grpc.StatusCode.UNAVAILABLE, "connection lost")
                case "pruned":
                    self._abort(context, Reason.HEIGHT_PRUNED, lowest_height="100")
                case "end":
                    return
                case "silence":
                    self._await_block(1 << 60, context)

    def _wake(self) -> None:
        with self.chain.changed:
            self.chain.changed.notify_all()

    def _await_block(self, height: int, context: Any) -> bool:
        with self.chain.changed:
            self.chain.changed.wait_for(
                lambda: self.height >= height or self._stopping.is_set() or not context.is_active()
            )
        return self.height >= height

    def _block(self, height: int, include: bool) -> Any:
        block = self.chain.blocks[height - 1]
        return subscription_service_pb2.SubscribeBlocksResponse(
            at=self.at(),
            block=chain_pb2.Block(
                header=self.header(block),
                final=True,
                transactions=[self.info(item.txid, include) for item in block.included],
            ),
            resume_height=height + 1,
        )
