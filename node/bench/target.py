"""The network under test: its endpoints, its accounts, its metrics."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Self

import grpc

from node.localnet.layout import account_address, account_key
from node.localnet.samples import Scrape, ScrapeFault, fetch
from trellis.address import format_address
from trellis.client.endpoints import Endpoint
from trellis.client.methods import GET_HEADER, GET_SERVICE_INFO, Method, Req, Res, unary
from trellis.client.transport import call_metadata, channel_credentials, channel_options
from trellis.genesis import Genesis
from trellis.v1 import ledger_service_pb2, transaction_service_pb2

CALL_S: Final = 20.0
ACCOUNTS_A_CALL: Final = 100
"""The most that BatchGetAccounts takes."""

BATCH_GET_ACCOUNTS: Final = unary(
    "LedgerService",
    "BatchGetAccounts",
    ledger_service_pb2.BatchGetAccountsRequest,
    ledger_service_pb2.BatchGetAccountsResponse,
)


class BenchFault(Exception):
    """The measurement cannot be made, or its result means nothing; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class TargetPlan:
    """How to reach a network, and whose transactions to send."""

    genesis: Genesis
    endpoints: tuple[Endpoint, ...]
    """The last one is watched; transactions go to the others."""
    seed: bytes
    """Of the senders' keys: each must be funded."""
    metrics: tuple[str, ...] = ()
    """Addresses of the nodes' metrics, where they can be read."""

    def __post_init__(self) -> None:
        if len(self.endpoints) < 2:
            raise BenchFault(
                "one endpoint is not enough: what becomes final is counted at another node than the one submitted to",
                "name at least two, as --endpoint A --endpoint B",
            )


@dataclass(frozen=True, slots=True)
class SenderState:
    """A sender's account, as the chain has it."""

    index: int
    nonce: int
    key_known: bool
    balance: int


class Node:
    """A connection to one endpoint."""

    def __init__(self, endpoint: Endpoint) -> None:
        options = channel_options(endpoint.tls)
        self.endpoint = endpoint
        self._metadata = call_metadata(endpoint)
        self.channel: grpc.aio.Channel = (
            grpc.aio.insecure_channel(endpoint.target, options)
            if endpoint.tls is None
            else grpc.aio.secure_channel(endpoint.target, channel_credentials(endpoint.tls), options)
        )
        self._submit: Any = self.channel.unary_unary(
            "/trellis.v1.TransactionService/SubmitTransactions",
            # Requests are put together from signed bytes: building messages would cost the generator's core.
            request_serializer=None,
            response_deserializer=transaction_service_pb2.SubmitTransactionsResponse.FromString,
        )

    async def call(self, method: Method[Req, Res], request: Req, timeout_s: float = CALL_S) -> Res:
        rpc = self.channel.unary_unary(method.path, method.request.SerializeToString, method.response.FromString)
        answer: Res = await rpc(request, timeout=timeout_s, metadata=self._metadata)
        return answer

    async def submit(self, request: bytes, timeout_s: float = CALL_S) -> Sequence[Any]:
        """One result for each transaction, in order."""
        answer = await self._submit(request, timeout=timeout_s, metadata=self._metadata)
        results: Sequence[Any] = answer.results
        return results

    def stream(self, method: Method[Req, Res], request: Req) -> Any:
        rpc = self.channel.unary_stream(method.path, method.request.SerializeToString, method.response.FromString)
        return rpc(request, metadata=self._metadata)


class Target:
    """Connections to all endpoints, for the time of a measurement."""

    def __init__(self, plan: TargetPlan) -> None:
        self.plan = plan
        self._stack = AsyncExitStack()
        self.nodes: tuple[Node, ...] = ()

    async def __aenter__(self) -> Self:
        self.nodes = tuple(Node(endpoint) for endpoint in self.plan.endpoints)
        for node in self.nodes:
            await self._stack.enter_async_context(node.channel)
        await self._check_chain()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    @property
    def watched(self) -> Node:
        return self.nodes[-1]

    @property
    def submitted_to(self) -> tuple[Node, ...]:
        return self.nodes[:-1]

    async def _check_chain(self) -> None:
        wanted = self.plan.genesis.hash.hex()
        for node in self.nodes:
            request = ledger_service_pb2.GetServiceInfoRequest()
            try:
                info = await node.call(GET_SERVICE_INFO, request)
            except grpc.aio.AioRpcError as fault:
                raise BenchFault(
                    f"{node.endpoint.name} does not answer: {fault.code().name} {fault.details()}",
                    "is the network running? see: trellis localnet status",
                ) from fault
            if info.genesis_hash != wanted:
                raise BenchFault(
                    f"{node.endpoint.name} serves chain {info.genesis_hash[:16]}…, the genesis given is {wanted[:16]}…",
                    "give the genesis of this network: --genesis FILE",
                )

    async def senders(self, number: int) -> list[SenderState]:
        """The accounts as the watched node has them."""
        addresses = [format_address(account_address(account_key(self.plan.seed, index))) for index in range(number)]
        found: list[SenderState] = []
        for first in range(0, number, ACCOUNTS_A_CALL):
            request = ledger_service_pb2.BatchGetAccountsRequest(addresses=addresses[first : first + ACCOUNTS_A_CALL])
            answer = await self.watched.call(BATCH_GET_ACCOUNTS, request)
            for place, account in enumerate(answer.accounts):
                state = SenderState(first + place, account.nonce, account.alg_id != 0, int(account.balance))
                found.append(state)
        return found

    async def height(self) -> int:
        answer = await self.watched.call(GET_SERVICE_INFO, ledger_service_pb2.GetServiceInfoRequest())
        return int(answer.at.height)

    async def roots(self, height: int) -> dict[str, str]:
        """The state's root after a block, by endpoint. A node that is behind is waited for."""
        return dict(await asyncio.gather(*(self._root(node, height) for node in self.nodes)))

    async def _root(self, node: Node, height: int) -> tuple[str, str]:
        request = ledger_service_pb2.GetHeaderRequest(height=height)
        for _ in range(int(CALL_S / 0.1)):
            try:
                answer = await node.call(GET_HEADER, request)
            except grpc.aio.AioRpcError as fault:
                if fault.code() is not grpc.StatusCode.OUT_OF_RANGE:
                    return node.endpoint.name, f"{fault.code().name}: {fault.details()}"
                await asyncio.sleep(0.1)
            else:
                return node.endpoint.name, str(answer.header.state_root)
        return node.endpoint.name, f"behind height {height}"

    async def scrape(self) -> list[Scrape]:
        """All nodes' metrics, in the order of the plan. Raises `BenchFault` if one does not give them."""
        try:
            return list(await asyncio.gather(*(asyncio.to_thread(fetch, address) for address in self.plan.metrics)))
        except ScrapeFault as fault:
            raise BenchFault(str(fault), "is the node alive? see: trellis localnet status") from fault
