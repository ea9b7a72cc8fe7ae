"""The client for asyncio. Signers may be awaited, or block: those are called in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, assert_never, cast

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
from trellis.client.signers import AnySigner, Signer
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


class _AwaitedStream(Stream):
    __slots__ = ("_call", "_endpoint", "_method")

    def __init__(self, call: Any, endpoint: Endpoint, method: str) -> None:
        self._call = call
        self._endpoint = endpoint
        self._method = method

    async def next(self, within_s: float) -> Message | Failure | Quiet:
        """A silent stream is given up by the core, so it does no harm that the time limit cancels the call."""
        try:
            message = await asyncio.wait_for(self._call.read(), within_s)
        except TimeoutError:
            return Quiet.SILENCE
        except grpc.RpcError as error:
            return failure_of_error(self._endpoint, self._method, error)
        return Quiet.ENDED if message is grpc.aio.EOF else cast(Message, message)

    def close(self) -> None:
        self._call.cancel()


class _AsyncDriver:
    """Performs effects with coroutines. One event loop runs the core's steps, so they need no lock."""

    def __init__(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        self._sleep = sleep
        self._channels: dict[str, grpc.aio.Channel] = {}
        self._closed = False

    async def run(self, flow: Flow[T]) -> T:
        answer: Any = None
        error: BaseException | None = None
        while True:
            try:
                if self._closed:
                    raise ClientClosed("the client was closed: make a new one")
                effect = flow.send(answer) if error is None else flow.throw(error)
            except StopIteration as done:
                return cast(T, done.value)
            answer = error = None
            try:
                answer = await self._perform(effect)
            except Exception as fault:  # whatever a signer or a sleeper raises belongs to the flow that asked for it
                error = fault

    async def _perform(self, effect: Effect) -> Any:
        match effect:
            case Ask(calls):
                return list(await asyncio.gather(*(self._ask(call) for call in calls)))
            case Pause(seconds):
                return await self._sleep(seconds)
            case Sign(signer, message, context):
                if isinstance(signer, Signer):
                    return await asyncio.to_thread(signer.sign, message, context)
                return await signer.sign_async(message, context)
            case Open(endpoint, method, request):
                rpc = self._channel(endpoint).unary_stream(
                    method.path, method.request.SerializeToString, method.response.FromString
                )
                return _AwaitedStream(rpc(request, metadata=call_metadata(endpoint)), endpoint, method.name)
            case Receive(stream, within_s):
                return await cast(_AwaitedStream, stream).next(within_s)
            case Close(stream):
                return cast(_AwaitedStream, stream).close()
            case _:
                assert_never(effect)

    async def _ask(self, call: Call[Any, Any]) -> Message | Failure:
        rpc = self._channel(call.endpoint).unary_unary(
            call.method.path, call.method.request.SerializeToString, call.method.response.FromString
        )
        try:
            return cast(Message, await rpc(call.request, timeout=call.timeout_s, metadata=call_metadata(call.endpoint)))
        except grpc.RpcError as error:
            return failure_of_call(call, error)

    def _channel(self, endpoint: Endpoint) -> grpc.aio.Channel:
        if self._closed:
            raise ClientClosed("the client was closed: make a new one")
        if endpoint.name not in self._channels:
            options = channel_options(endpoint.tls)
            self._channels[endpoint.name] = (
                grpc.aio.insecure_channel(endpoint.target, options)
                if endpoint.tls is None
                else grpc.aio.secure_channel(endpoint.target, channel_credentials(endpoint.tls), options)
            )
        return self._channels[endpoint.name]

    async def close(self) -> None:
        self._closed = True
        channels, self._channels = self._channels, {}
        for channel in channels.values():
            await channel.close()


class AsyncBlockStream(AsyncIterator[ChainBlock]):
    """Iterates over final blocks, each height once. It never ends by itself: `close` it, or use it in `async with`.

    An error does not spoil it: iterating again goes on with the height that was due.
    """

    def __init__(self, driver: _AsyncDriver, follower: BlockFollower) -> None:
        self._driver = driver
        self._follower = follower

    @property
    def next_height(self) -> int:
        """Store it, and hand it to `follow` after a restart."""
        return self._follower.next_height

    async def __anext__(self) -> ChainBlock:
        return await self._driver.run(self._follower.next_block())

    async def close(self) -> None:
        await self._driver.run(self._follower.close())

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()


class AsyncClient:
    """`Client` with `await`: the same flows, the same errors. It belongs to the event loop that it is first used in.

        async with AsyncClient("127.0.0.1:9090", trust="genesis.json") as client:
            sent = await client.send(to="trl1…", amount=client.amount("1.5"), signer=signer)
            print((await client.wait(sent.txid)).outcome)

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
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._core = Core(endpoints, trust, agree, tls, token, retry or RetryPolicy(), around)
        self._driver = _AsyncDriver(sleep)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Ends all connections. Close streams first."""
        await self._driver.close()

    async def send(
        self, *, to: Address | bytes | str, amount: int | Amount, signer: AnySigner, terms: Terms = DEFAULT_TERMS
    ) -> Submitted:
        """Pays: builds, signs, submits. An int is base units; `client.amount("1.5")` reads the chain's unit."""
        return await self.execute(transfer([(to, amount)]), signer, terms)

    async def send_many(self, payments: Recipients, signer: AnySigner, terms: Terms = DEFAULT_TERMS) -> Submitted:
        """Pays several accounts in one transaction."""
        return await self.execute(transfer(payments), signer, terms)

    async def notarise(self, payload: bytes, signer: AnySigner, terms: Terms = DEFAULT_TERMS) -> Submitted:
        """Puts bytes on the chain: their receipt proves when they existed."""
        return await self.execute(Data(payload), signer, terms)

    async def execute(self, kind: Kind, signer: AnySigner, terms: Terms = DEFAULT_TERMS) -> Submitted:
        """Builds, signs and submits any kind of `trellis.transaction`."""
        return await self._driver.run(self._core.wallet.send(kind, signer, terms))

    async def build(self, kind: Kind, account: SigningAccount, terms: Terms = DEFAULT_TERMS) -> UnsignedTransaction:
        """The unsigned transaction, with nonce and fee; for signers elsewhere."""
        return await self._driver.run(self._core.wallet.build(kind, account, terms))

    async def sign(self, unsigned: UnsignedTransaction, signer: AnySigner) -> Transaction:
        return await self._driver.run(self._core.wallet.sign(unsigned, signer))

    async def submit(self, transaction: Transaction) -> Submitted:
        """Returns when a node has admitted it; submitting again does no harm."""
        return await self._driver.run(self._core.wallet.submit(transaction))

    async def submit_many(self, transactions: Sequence[Transaction]) -> list[Submitted | ServiceError]:
        """One answer for each, in order; a refused one does not stop the others."""
        return await self._driver.run(self._core.wallet.submit_many(transactions))

    async def estimate_fee(self, kind: Kind, account: SigningAccount) -> FeeEstimate:
        return await self._driver.run(self._core.wallet.estimate_fee(kind, account))

    def forget_nonces(self, address: Address | bytes | str) -> None:
        """Makes the next build ask for the nonce anew, when transactions built here were thrown away."""
        self._core.wallet.forget_nonces(address)

    async def status(self, txid: TxidLike, *, include_transaction: bool = False) -> TransactionInfo:
        """What nodes say about a transaction; `wait` and `receipt` prove it."""
        return await self._driver.run(self._core.wallet.status(txid, include_transaction=include_transaction))

    async def wait(self, txid: TxidLike, timeout_s: float = DEFAULT_WAIT_S) -> Finality:
        """Waits until the transaction is final, and proves it. Final is not successful: read `outcome`."""
        return await self._driver.run(self._core.wallet.wait(txid, timeout_s))

    async def receipt(self, txid: TxidLike) -> ProvenReceipt:
        """Fetches the finality receipt and verifies it here, against `trust` alone."""
        return await self._driver.run(self._core.wallet.receipt(txid))

    async def account(self, address: Address | bytes | str, *, verify: bool = False) -> Account:
        """With `verify`, proven under a certified state root."""
        return await self._driver.run(self._core.chain.account(address, verify=verify))

    async def balance(self, address: Address | bytes | str, *, verify: bool = False) -> int:
        """In base units."""
        return (await self.account(address, verify=verify)).balance

    async def header(self, height: int | None = None, *, verify: bool = False) -> Header:
        """The latest, or that of a height; with `verify` under a certificate that is checked here."""
        return await self._driver.run(self._core.chain.header(height, verify=verify))

    async def info(self) -> ServiceInfo:
        return await self._driver.run(self._core.chain.info())

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
    ) -> AsyncBlockStream:
        """Final blocks from a height on (0: the next), over lost connections and lagging nodes."""
        settings = FollowSettings(start_height, verify, include_transactions, heartbeat_ms, silence_s)
        return AsyncBlockStream(self._driver, self._core.follower(settings))

    async def call(self, method: Method[Req, Res], request: Req) -> Res:
        """Any other unary rpc of the schema, with this client's deadlines, errors and retries."""
        return await self._driver.run(self._core.call(method, request))
