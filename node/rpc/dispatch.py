"""Every call goes through here: who may call, how often, what it costs, how it fails, how it is counted.

Requests arrive as bytes and are parsed here, so that bytes that are no message are answered with INVALID_FIELD instead
of gRPC's UNKNOWN; answers leave as bytes, so that one serialised block can serve a thousand subscribers.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, Protocol

import grpc
import structlog
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from node.metrics import Metrics
from node.rpc.access import Access, Unauthenticated
from node.rpc.bridge import ShuttingDown
from node.rpc.errors import Reason, Refused, code_of, details_of
from node.rpc.policies import Need, Policy, policy_of
from node.rpc.port import Standing
from node.rpc.quotas import Quotas
from state.errors import StateCorrupt
from state.store.errors import CorruptStoreError, SnapshotExpiredError, StoreBusyError

BUSY_RETRY_MS: Final = 100
_CAPITAL: Final = re.compile(r"(?<!^)(?=[A-Z])")
FATAL: Final = (CorruptStoreError, StateCorrupt)
"""Broken invariants: a node that cannot trust its disk must stop, not answer."""


class RawContext(Protocol):
    """What is used of gRPC's context."""

    def peer(self) -> str: ...

    def auth_context(self) -> dict[str, list[bytes]]: ...

    def invocation_metadata(self) -> Any: ...

    def time_remaining(self) -> float | None: ...

    async def write(self, message: Any) -> None: ...

    async def abort(self, code: grpc.StatusCode, details: str = "", trailing_metadata: Any = ()) -> Any: ...


@dataclass(slots=True)
class Call:
    """One call in progress, as methods see it."""

    context: RawContext
    method: str
    client: str
    """Who is charged: the address without its port."""
    caller: str
    """Who it is, for the log."""
    policy: Policy
    quotas: Quotas

    def seconds_left(self) -> float | None:
        """Until the caller's deadline; None without one."""
        return self.context.time_remaining()

    def charge(self, units: int) -> None:
        """For what the request turned out to ask beyond its method's price."""
        self.quotas.charge(self.client, units)

    async def send(self, message: bytes) -> None:
        await self.quotas.hold(self.client, len(message))
        try:
            await self.context.write(message)
        finally:
            self.quotas.let_go(self.client, len(message))


def _snake(name: str) -> str:
    return _CAPITAL.sub("_", name).lower()


class Gate:
    """Whether the node takes calls of a kind now."""

    def __init__(self, standing: Callable[[], Standing], height: Callable[[], int]) -> None:
        self._standing = standing
        self._height = height
        self.closing = False
        """The server shuts down."""

    def check(self, need: Need) -> None:
        standing = self._standing()
        if need >= Need.READABLE and not standing.readable:
            raise self._syncing(standing, "its state is being replaced by a snapshot")
        if need is Need.STREAM and (self.closing or standing.draining):
            raise draining()
        if need is Need.SERVING:
            if self.closing or standing.draining:
                raise draining()
            if not standing.synced:
                raise self._syncing(standing, "it is catching up")
            if not standing.has_quorum:
                message = "no contact with validators of quorum power: wait, or use another node"
                raise Refused(Reason.NO_QUORUM, message)

    def _syncing(self, standing: Standing, why: str) -> Refused:
        height = self._height()
        metadata = {"height": str(height), "target_height": str(max(height, standing.target_height))}
        return Refused(Reason.SYNCING, f"the node cannot answer now, {why}: wait, or use another", metadata)


def draining() -> Refused:
    return Refused(Reason.DRAINING, "the node is being taken out of service: use another")


class Dispatcher:
    """Makes gRPC handlers of a listener's services."""

    def __init__(
        self, metrics: Metrics, gate: Gate, quotas: Quotas, access: Access, fail: Callable[[BaseException], None]
    ) -> None:
        self._metrics = metrics
        self._gate = gate
        self._quotas = quotas
        self._access = access
        self._fail = fail
        self._log = structlog.get_logger("node.rpc")
        self.open_calls = 0

    def handler(self, service: ServiceDescriptor, servicer: object, name: str = "") -> grpc.GenericRpcHandler:
        """All methods of the service, each by the servicer's coroutine of its name in lower case; under another name of
        the service if one is given."""
        methods = {each.name: self._method(each, getattr(servicer, _snake(each.name))) for each in service.methods}
        return grpc.method_handlers_generic_handler(name or service.full_name, methods)

    def _method(self, method: MethodDescriptor, run: Callable[..., Awaitable[Any]]) -> grpc.RpcMethodHandler[Any, Any]:
        name = f"{method.containing_service.name}/{method.name}"
        policy = policy_of(name)
        parse = _parser(method)
        seconds = self._metrics.grpc_seconds.labels(method=name)

        async def unary_request(raw: bytes, context: RawContext) -> bytes | None:
            return await self._guarded(name, policy, seconds, context, lambda call: run(parse(raw), call))

        async def stream_request(raw: AsyncIterator[bytes], context: RawContext) -> bytes | None:
            return await self._guarded(name, policy, seconds, context, lambda call: run(_parsed(raw, parse), call))

        match method.client_streaming, method.server_streaming:
            case False, False:
                return grpc.unary_unary_rpc_method_handler(unary_request)
            case False, True:
                return grpc.unary_stream_rpc_method_handler(unary_request)
            case True, False:
                return grpc.stream_unary_rpc_method_handler(stream_request)
            case _:
                return grpc.stream_stream_rpc_method_handler(stream_request)

    async def _guarded(
        self, name: str, policy: Policy, seconds: Any, context: RawContext, run: Callable[[Call], Awaitable[Any]]
    ) -> bytes | None:
        began = time.perf_counter()
        code = grpc.StatusCode.OK
        self.open_calls += 1
        place = ""
        try:
            caller = self._access.check(context, policy)
            client = client_of(context.peer())
            call = Call(context, name, client, caller, policy, self._quotas)
            self._quotas.charge(client, policy.cost)
            self._gate.check(policy.need)
            if policy.long:
                place = self._quotas.enter(client)
            answer = await run(call)
        except asyncio.CancelledError:
            code = grpc.StatusCode.CANCELLED
            raise
        except Exception as fault:  # whatever it is must become a status, and be counted
            code, details, trailers = self._verdict(name, fault)
            await context.abort(code, details, trailers)
        else:
            return answer.SerializeToString() if isinstance(answer, Message) else None
        finally:
            self.open_calls -= 1
            if place:
                self._quotas.leave(place)
            seconds.observe(time.perf_counter() - began)
            self._metrics.grpc_requests.labels(method=name, code=code.name).inc()
        return None

    def _verdict(self, name: str, fault: Exception) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
        match fault:
            case Refused():
                refused = fault
            case ShuttingDown():
                refused = draining()
            case StoreBusyError() | SnapshotExpiredError():
                refused = Refused(
                    Reason.RATE_LIMITED, "too many reads at once: try again", retry_after_ms=BUSY_RETRY_MS
                )
            case Unauthenticated():
                return grpc.StatusCode.UNAUTHENTICATED, str(fault), ()
            case _:
                if isinstance(fault, FATAL):
                    self._fail(fault)
                self._log.error("a call failed by a fault of this node", method=name, exc_info=fault)
                return grpc.StatusCode.INTERNAL, "a fault of this node, which is in its log", ()
        return code_of(refused.reason), refused.message, details_of(refused)


def client_of(peer: str) -> str:
    """gRPC's name of the other end without its port; one network of IPv6 customers counts as one client."""
    kind, _, rest = peer.partition(":")
    if kind == "ipv4":
        return rest.rpartition(":")[0]
    if kind == "ipv6":
        host = rest.replace("%5B", "[").replace("%5D", "]").rpartition(":")[0].strip("[]")
        return ":".join(host.split(":")[:4])
    return kind


def _parser(method: MethodDescriptor) -> Callable[[bytes], Message]:
    kind = GetMessageClass(method.input_type)

    def parse(raw: bytes) -> Message:
        try:
            return kind.FromString(raw)
        except DecodeError as fault:
            message = f"the request is no {method.input_type.full_name}"
            raise Refused(Reason.INVALID_FIELD, message, {"field": ""}) from fault

    return parse


async def _parsed(raw: AsyncIterator[bytes], parse: Callable[[bytes], Message]) -> AsyncIterator[Message]:
    async for data in raw:
        yield parse(data)
