"""The control plane, put together: listeners, services, and their life beside the node.

    plane = ControlPlane(port, [Listener("127.0.0.1:26610"), operators("unix:admin.sock")], metrics)
    await nursery.start(plane.run)          # returns when it serves; raises ListenFault
    plane.addresses                         # what to connect to
    nursery.cancel_scope.cancel()           # calls in flight get a second, streams end with DRAINING

It hears of commits and of the node's standing through `port.watch`; whatever else it needs, it asks the port for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import grpc
import trio
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # the package ships no annotations
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # the same

from node.metrics import Metrics
from node.rpc.admin import AdminService
from node.rpc.backend import Backend
from node.rpc.blocks import BlockCache
from node.rpc.bridge import Bridge
from node.rpc.consensus import ConsensusService
from node.rpc.dispatch import FATAL, Dispatcher, Gate
from node.rpc.draining import Draining
from node.rpc.feed import Feed
from node.rpc.finality import FinalityService
from node.rpc.ledger import LedgerService
from node.rpc.listening import Bound, Listener, bind
from node.rpc.node_service import NodeService
from node.rpc.pages import Pager
from node.rpc.port import NodePort, Notice
from node.rpc.quotas import Quotas
from node.rpc.reading import Reading
from node.rpc.receipts import Receipts
from node.rpc.standard import REFLECTION_NAMES, HealthService, ReflectionService
from node.rpc.statements import Statements
from node.rpc.subscriptions import SubscriptionService
from node.rpc.transactions import TransactionService
from node.rpc.waiting import Waiting
from trellis.v1 import (
    admin_service_pb2,
    consensus_service_pb2,
    finality_service_pb2,
    ledger_service_pb2,
    node_service_pb2,
    subscription_service_pb2,
    transaction_service_pb2,
)

if TYPE_CHECKING:
    from trio_typing import TaskStatus

GRACE_S: Final = 1.0
"""What calls in flight get when the node stops; streams and waits have ended by then."""

MAX_CONCURRENT_STREAMS: Final = 256
"""On one connection."""

MAX_CONNECTIONS: Final = 4_096
MAX_METADATA_BYTES: Final = 16 << 10
HANDSHAKE_MS: Final = 10_000
"""Half-open connections are dropped after it."""

KEEPALIVE_MS: Final = 30_000
KEEPALIVE_TIMEOUT_MS: Final = 10_000
MIN_PING_INTERVAL_MS: Final = 10_000
MAX_PING_STRIKES: Final = 3
SEND_BUFFER_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class PlaneSettings:
    max_message_bytes: int = 8 << 20
    reflection: bool = True


def server_options(max_message_bytes: int) -> list[tuple[str, Any]]:
    return [
        ("grpc.so_reuseport", 0),  # a second node would share the port in silence
        ("grpc.max_receive_message_length", max_message_bytes),
        ("grpc.max_send_message_length", -1),  # our own blocks
        ("grpc.max_metadata_size", MAX_METADATA_BYTES),
        ("grpc.max_concurrent_streams", MAX_CONCURRENT_STREAMS),
        ("grpc.max_allowed_incoming_connections", MAX_CONNECTIONS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", MIN_PING_INTERVAL_MS),
        ("grpc.http2.max_ping_strikes", MAX_PING_STRIKES),
        ("grpc.http2.write_buffer_size", SEND_BUFFER_BYTES),
    ]


class ControlPlane:
    """All listeners of one node."""

    def __init__(
        self,
        port: NodePort,
        listeners: Sequence[Listener],
        metrics: Metrics,
        settings: PlaneSettings | None = None,
    ) -> None:
        self._port = port
        self._listeners = tuple(listeners)
        self._metrics = metrics
        self._settings = settings or PlaneSettings()
        self._bridge = Bridge(FATAL)
        self._servers: list[grpc.aio.Server] = []
        self._bound: list[Bound] = []
        self._dispatchers: list[Dispatcher] = []

    @property
    def addresses(self) -> tuple[str, ...]:
        """Of the listeners, in their order, with the ports that were taken."""
        return tuple(bound.address for bound in self._bound)

    @property
    def open_calls(self) -> int:
        return sum(dispatcher.open_calls for dispatcher in self._dispatchers)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """On the trio thread, until cancelled."""
        self._port.watch(lambda notice: self._bridge.post(self._notice, notice))
        await self._bridge.serve(self, task_status=task_status)

    # On the asyncio thread.

    async def start(self) -> None:
        self._reading = Reading(self._port)
        blocks = BlockCache(self._reading)
        backend = Backend(self._port, self._bridge, self._reading, blocks, Pager())
        self._gate = Gate(lambda: self._port.standing, backend.height)
        self._feed = Feed(backend)
        self._waiting = Waiting(backend, self._gate)
        self._draining = Draining(backend, self._gate, self._feed, self._waiting, lambda: self.open_calls)
        services = self._services(backend)
        names = [service.full_name for service, _ in services]
        self._health = HealthService(names, lambda: self._port.standing.serving)
        try:
            for listener in self._listeners:
                self._servers.append(self._make(listener, services))
            for server in self._servers:
                await server.start()
        except BaseException:
            await self._close(0)
            raise
        self._feed.start()

    def _services(self, backend: Backend) -> list[tuple[Any, object]]:
        receipts = Receipts(backend.validators)
        statements = Statements(backend)
        max_bytes = self._settings.max_message_bytes
        table: list[tuple[Any, str, object]] = [
            (
                transaction_service_pb2,
                "TransactionService",
                TransactionService(backend, self._gate, self._waiting, receipts),
            ),
            (ledger_service_pb2, "LedgerService", LedgerService(backend, statements, max_bytes)),
            (finality_service_pb2, "FinalityService", FinalityService(backend, receipts)),
            (consensus_service_pb2, "ConsensusService", ConsensusService(backend)),
            (subscription_service_pb2, "SubscriptionService", SubscriptionService(backend, self._feed)),
            (node_service_pb2, "NodeService", NodeService(backend)),
            (admin_service_pb2, "AdminService", AdminService(backend, self._draining)),
        ]
        return [(module.DESCRIPTOR.services_by_name[name], servicer) for module, name, servicer in table]

    def _make(self, listener: Listener, services: Sequence[tuple[Any, object]]) -> grpc.aio.Server:
        quotas = Quotas(listener.quotas)
        dispatcher = Dispatcher(self._metrics, self._gate, quotas, listener.access, self._bridge.fail)
        self._dispatchers.append(dispatcher)
        shown = [item for item in services if listener.admin or item[0].name != "AdminService"]
        handlers = [dispatcher.handler(service, servicer) for service, servicer in shown]
        health = health_pb2.DESCRIPTOR.services_by_name["Health"]
        handlers.append(dispatcher.handler(health, self._health))
        if self._settings.reflection:
            names = [service.full_name for service, _ in shown]
            reflection = ReflectionService([*names, health.full_name, *REFLECTION_NAMES])
            described = reflection_pb2.DESCRIPTOR.services_by_name["ServerReflection"]
            handlers += [dispatcher.handler(described, reflection, name) for name in REFLECTION_NAMES]
        server = grpc.aio.server(options=server_options(self._settings.max_message_bytes))
        server.add_generic_rpc_handlers(handlers)
        self._bound.append(bind(server, listener))
        return server

    def _notice(self, notice: Notice) -> None:
        self._waiting.notice(notice)
        self._feed.notice(notice)
        if not notice.txids:
            self._telling = asyncio.ensure_future(self._health.tell())

    async def stop(self) -> None:
        self._draining.end_streams()
        await self._health.close()
        await self._close(GRACE_S)
        self._feed.stop()
        await self._waiting.close()

    async def _close(self, grace_s: float) -> None:
        with suppress(asyncio.CancelledError):
            await asyncio.gather(*(server.stop(grace_s) for server in self._servers))
        for bound in self._bound:
            bound.close()
        self._reading.close()
