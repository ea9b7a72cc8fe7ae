"""The client for threads. Several may share one `Client`: the core's steps take turns, calls run side by side."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, assert_never, cast

import grpc
from google.protobuf.message import Message

from trellis.client.amounts import Amount
from trellis.client.building import UnsignedTransaction
from trellis.client.core import DEFAULT_SURROUNDINGS, Core, Endpoints, Surroundings
from trellis.client.effects import Ask, Call, Close, Effect, Flow, Open, Pause, Quiet, Receive, Sign, Stream, T
from trellis.client.endpoints import Endpoint, RetryPolicy, Tls
from trellis.client.errors import ClientClosed, Failure, ServiceError
from trellis.client.follow import BlockFollower, FollowSettings
from trellis.client.methods import Method, Req, Res
from trellis.client.sealed import Trust
from trellis.client.signers import Account as SigningAccount
from trellis.client.signers import Signer
from trellis.client.transport import (
    call_metadata,
    channel_credentials,
    channel_options,
    failure_of_call,
    failure_of_error,
)
from trellis.client.values import (
    Account,
    ChainBlock,
    FeeEstimate,
    ProvenReceipt,
    ServiceInfo,
    Submitted,
    TransactionInfo,
    TxidLike,
)
from trellis.client.wallet import DEFAULT_TERMS, DEFAULT_WAIT_S, Recipients, Terms, transfer
from trellis.header import Header
from trellis.receipt import Finality
from trellis.transaction import Data, Kind, Transaction
from trellis.types import Address

STREAM_BUFFER: Final = 8
"""Messages read ahead of a slow consumer: beyond it the node feels the back-pressure, and memory stays flat."""

_JOIN_S: Final = 5.0


class _ReaderThread(Stream):
    """Reads a stream in a thread, because gRPC's blocking iterator knows no time limit."""

    __slots__ = ("_call", "_closed", "_endpoint", "_method", "_queue", "_thread")

    def __init__(self, call: Any, endpoint: Endpoint, method: str) -> None:
        self._call = call
        self._endpoint = endpoint
        self._method = method
        self._closed = threading.Event()
        self._queue: queue.Queue[Message | Failure | Quiet] = queue.Queue(STREAM_BUFFER)
        self._thread = threading.Thread(target=self._read, name="trellis-stream", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._call:
                self._queue.put(message)
                if self._closed.is_set():
                    return
            self._queue.put(Quiet.ENDED)
        except grpc.RpcError as error:
            self._queue.put(failure_of_error(self._endpoint, self._method, error))

    def next(self, within_s: float) -> Message | Failure | Quiet:
        try:
            return self._queue.get(timeout=within_s)
        except queue.Empty:
            return Quiet.SILENCE

    def close(self) -> None:
        """The thread puts at most two more items: emptying the queue once is enough to let it end."""
        self._closed.set()
        self._call.cancel()
        with suppress(queue.Empty):
            while True:
                self._queue.get_nowait()
        self._thread.join(_JOIN_S)


class _Driver:
    """Performs effects with blocking calls."""

    def __init__(self, sleep: Callable[[float], None]) -> None:
        self._sleep = sleep
        self._channels: dict[str, grpc.Channel] = {}
        self._steps = threading.RLock()
        self._closed = False

    def run(self, flow: Flow[T]) -> T:
        """The core runs under the lock, effects do not: threads share nonces and rests without sharing calls."""
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                with self._steps:
                    if self._closed:
                        raise ClientClosed("the client was closed: make a new one")
                    effect = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as done:
                return cast(T, done.value)
            answer = error = None
            try:
                answer = self._perform(effect)
            except Exception as fault:  # whatever a signer or a sleeper raises belongs to the flow that asked for it
                error = fault

    def _perform(self, effect: Effect) -> Any:
        match effect:
            case Ask(calls):
                return self._ask(calls)
            case Pause(seconds):
                return self._sleep(seconds)
            case Sign(signer, message, context):
                if not isinstance(signer, Signer):
                    raise TypeError("this signer must be awaited: use AsyncClient")
                return signer.sign(message, context)
            case Open(endpoint, method, request):
                rpc = self._channel(endpoint).unary_stream(
                    method.path, method.request.SerializeToString, method.response.FromString
                )
                return _ReaderThread(rpc(request, metadata=call_metadata(endpoint)), endpoint, method.name)
            case Receive(stream, within_s):
                return cast(_ReaderThread, stream).next(within_s)
            case Close(stream):
                return cast(_ReaderThread, stream).close()
            case _:
                assert_never(effect)

    def _ask(self, calls: Sequence[Call[Any, Any]]) -> list[Message | Failure]:
        started = [
            self._channel(call.endpoint)
            .unary_unary(call.method.path, call.method.request.SerializeToString, call.method.response.FromString)
            .future(call.request, timeout=call.timeout_s, metadata=call_metadata(call.endpoint))
            for call in calls
        ]
        return [_outcome(call, future) for call, future in zip(calls, started, strict=True)]

    def _channel(self, endpoint: Endpoint) -> grpc.Channel:
        with self._steps:
            if self._closed:
                raise ClientClosed("the client was closed: make a new one")
            if endpoint.name not in self._channels:
                options = channel_options(endpoint.tls)
                self._channels[endpoint.name] = (
                    grpc.insecure_channel(endpoint.target, options)
                    if endpoint.tls is None
                    else grpc.secure_channel(endpoint.target, channel_credentials(endpoint.tls), options)
                )
            return self._channels[endpoint.name]

    def close(self) -> None:
        with self._steps:
            self._closed = True
            channels, self._channels = self._channels, {}
        for channel in channels.values():
            channel.close()


def _outcome(call: Call[Any, Any], future: Any) -> Message | Failure:
    try:
        return cast(Message, future.result())
    except grpc.RpcError as error:
        return failure_of_call(call, error)
    except grpc.FutureCancelledError as error:
        raise ClientClosed("the client was closed while it waited for an answer") from error


class BlockStream(Iterator[ChainBlock]):
    """Iterates over final blocks, each height once. It never ends by itself: `close` it, or use it in `with`.

    An error does not spoil it: iterating again goes on with the height that was due.
    """

    def __init__(self, driver: _Driver, follower: BlockFollower) -> None:
        self._driver = driver
        self._follower = follower

    @property
    def next_height(self) -> int:
        """Store it, and hand it to `follow` after a restart."""
        return self._follower.next_height

    def __next__(self) -> ChainBlock:
        return self._driver.run(self._follower.next_block())

    def close(self) -> None:
        self._driver.run(self._follower.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Client:
    """Talks to one or several nodes of one chain.

    >>> client = Client("127.0.0.1:9090", trust=genesis)             # doctest: +SKIP
    >>> sent = client.send(to="trl1…", amount=client.amount("1.5"), signer=signer)  # doctest: +SKIP
    >>> client.wait(sent.txid).outcome                               # doctest: +SKIP
    <Outcome.OK: 0>
    >>> client.receipt(sent.txid).save("payment.receipt")            # doctest: +SKIP

    `trust` is the genesis or a checkpoint, as an object or as a file: what signing and every proof start from. With
    `agree=2` plain reads ask two endpoints and compare; proofs need only one honest endpoint in any case.
    """

    def __init__(
        self,
        endpoints: Endpoints,
        *,
        trust: Trust | str | Path | None = None,
        agree: int = 1,
        tls: Tls | None = None,
        token: str | None = None,
        retry: RetryPolicy | None = None,
        around: Surroundings = DEFAULT_SURROUNDINGS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._core = Core(endpoints, trust, agree, tls, token, retry or RetryPolicy(), around)
        self._driver = _Driver(sleep)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends all connections. Close streams first."""
        self._driver.close()

    def send(
        self, *, to: Address | bytes | str, amount: int | Amount, signer: Signer, terms: Terms = DEFAULT_TERMS
    ) -> Submitted:
        """Pays: builds, signs, submits. An int is base units; `client.amount("1.5")` reads the chain's unit."""
        return self.execute(transfer([(to, amount)]), signer, terms)

    def send_many(self, payments: Recipients, signer: Signer, terms: Terms = DEFAULT_TERMS) -> Submitted:
        """Pays several accounts in one transaction."""
        return self.execute(transfer(payments), signer, terms)

    def notarise(self, payload: bytes, signer: Signer, terms: Terms = DEFAULT_TERMS) -> Submitted:
        """Puts bytes on the chain: their receipt proves when they existed."""
        return self.execute(Data(payload), signer, terms)

    def execute(self, kind: Kind, signer: Signer, terms: Terms = DEFAULT_TERMS) -> Submitted:
        """Builds, signs and submits any kind of `trellis.transaction`."""
        return self._driver.run(self._core.wallet.send(kind, signer, terms))

    def build(self, kind: Kind, account: SigningAccount, terms: Terms = DEFAULT_TERMS) -> UnsignedTransaction:
        """The unsigned transaction, with nonce and fee; for signers elsewhere."""
        return self._driver.run(self._core.wallet.build(kind, account, terms))

    def sign(self, unsigned: UnsignedTransaction, signer: Signer) -> Transaction:
        return self._driver.run(self._core.wallet.sign(unsigned, signer))

    def submit(self, transaction: Transaction) -> Submitted:
        """Returns when a node has admitted it; submitting again does no harm."""
        return self._driver.run(self._core.wallet.submit(transaction))

    def submit_many(self, transactions: Sequence[Transaction]) -> list[Submitted | ServiceError]:
        """One answer for each, in order; a refused one does not stop the others."""
        return self._driver.run(self._core.wallet.submit_many(transactions))

    def estimate_fee(self, kind: Kind, account: SigningAccount) -> FeeEstimate:
        return self._driver.run(self._core.wallet.estimate_fee(kind, account))

    def forget_nonces(self, address: Address | bytes | str) -> None:
        """Makes the next build ask for the nonce anew, when transactions built here were thrown away."""
        self._core.wallet.forget_nonces(address)

    def status(self, txid: TxidLike, *, include_transaction: bool = False) -> TransactionInfo:
        """What nodes say about a transaction; `wait` and `receipt` prove it."""
        return self._driver.run(self._core.wallet.status(txid, include_transaction=include_transaction))

    def wait(self, txid: TxidLike, timeout_s: float = DEFAULT_WAIT_S) -> Finality:
        """Waits until the transaction is final, and proves it. Final is not successful: read `outcome`."""
        return self._driver.run(self._core.wallet.wait(txid, timeout_s))

    def receipt(self, txid: TxidLike) -> ProvenReceipt:
        """Fetches the finality receipt and verifies it here, against `trust` alone."""
        return self._driver.run(self._core.wallet.receipt(txid))

    def account(self, address: Address | bytes | str, *, verify: bool = False) -> Account:
        """With `verify`, proven under a certified state root."""
        return self._driver.run(self._core.chain.account(address, verify=verify))

    def balance(self, address: Address | bytes | str, *, verify: bool = False) -> int:
        """In base units."""
        return self.account(address, verify=verify).balance

    def header(self, height: int | None = None, *, verify: bool = False) -> Header:
        """The latest, or that of a height; with `verify` under a certificate that is checked here."""
        return self._driver.run(self._core.chain.header(height, verify=verify))

    def info(self) -> ServiceInfo:
        return self._driver.run(self._core.chain.info())

    def amount(self, text: str) -> Amount:
        """An amount in the chain's unit, as people write it; needs a genesis as `trust`."""
        return self._core.amount(text)

    def follow(
        self,
        start_height: int = 0,
        *,
        verify: bool = False,
        include_transactions: bool = False,
        heartbeat_ms: int = 15_000,
        silence_s: float | None = None,
    ) -> BlockStream:
        """Final blocks from a height on (0: the next), over lost connections and lagging nodes."""
        settings = FollowSettings(start_height, verify, include_transactions, heartbeat_ms, silence_s)
        return BlockStream(self._driver, self._core.follower(settings))

    def call(self, method: Method[Req, Res], request: Req) -> Res:
        """Any other unary rpc of the schema, with this client's deadlines, errors and retries."""
        return self._driver.run(self._core.call(method, request))
