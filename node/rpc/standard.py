"""The two services that every gRPC tool knows: health, and reflection over the committed descriptor set.

The descriptor set carries the schema's comments, which generated code leaves out: `grpcurl describe` shows them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from importlib.resources import files
from typing import Any, Final

from google.protobuf import descriptor_pb2, duration_pb2, text_format
from google.protobuf.descriptor_pool import DescriptorPool
from google.rpc import error_details_pb2  # type: ignore[import-untyped]  # stubs without py.typed
from grpc_health.v1 import health_pb2  # type: ignore[import-untyped]  # the package ships no annotations
from grpc_reflection.v1alpha import reflection_pb2  # type: ignore[import-untyped]  # the same
from grpc_reflection.v1alpha.reflection import (  # type: ignore[import-untyped]  # the same
    aio as reflection_aio,
)

from node.rpc.dispatch import Call
from node.rpc.errors import Reason, Refused

REFLECTION_NAMES: Final = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
"""The same messages under two names; tools try the first one first."""

MAX_NAME_CHARACTERS: Final = 512
MAX_REFLECTION_REQUESTS: Final = 1_024
"""On one stream: a tool asks a few dozen times."""


class HealthService:
    """grpc.health.v1: SERVING while the node is synced, in contact with a quorum, and not on its way out."""

    def __init__(self, services: Iterable[str], serving: Callable[[], bool]) -> None:
        self._services = frozenset({"", *services})
        self._serving = serving
        self._changed = asyncio.Condition()
        self._closed = False

    def _status(self) -> Any:
        kinds = health_pb2.HealthCheckResponse
        return kinds.SERVING if self._serving() and not self._closed else kinds.NOT_SERVING

    async def check(self, request: Any, call: Call) -> Any:
        if request.service not in self._services:
            raise Refused(Reason.NOT_FOUND, "there is no such service here")
        return health_pb2.HealthCheckResponse(status=self._status())

    async def watch(self, request: Any, call: Call) -> None:
        """Never ends by itself; an unknown service is answered, as the protocol wants it, with SERVICE_UNKNOWN."""
        told = None
        while True:
            known = request.service in self._services
            status = self._status() if known else health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
            if status != told:
                await call.send(health_pb2.HealthCheckResponse(status=status).SerializeToString())
                told = status
            if self._closed:
                return
            async with self._changed:
                await self._changed.wait()

    async def tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def close(self) -> None:
        self._closed = True
        await self.tell()


class ReflectionService:
    """Server reflection by the library, over our own pool."""

    def __init__(self, services: Sequence[str]) -> None:
        self._inner = reflection_aio.ReflectionServicer(services, pool=CommentedPool())

    async def server_reflection_info(self, requests: AsyncIterator[Any], call: Call) -> None:
        counted = _counted(requests)
        async for answer in self._inner.ServerReflectionInfo(counted, call.context):
            await call.send(answer.SerializeToString())


async def _counted(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    seen = 0
    async for request in requests:
        seen += 1
        if seen > MAX_REFLECTION_REQUESTS or request.ByteSize() > MAX_NAME_CHARACTERS:
            raise Refused(Reason.RATE_LIMITED, "more reflection than any tool needs", retry_after_ms=1_000)
        yield request


class _CommentedFile:
    """A file of the pool as the reflection servicer uses it: its name, what it imports, its source with comments."""

    def __init__(self, proto: descriptor_pb2.FileDescriptorProto, pool: CommentedPool) -> None:
        self._proto = proto
        self._pool = pool
        self.name = proto.name

    @property
    def dependencies(self) -> list[_CommentedFile]:
        return [self._pool.FindFileByName(name) for name in self._proto.dependency]

    def CopyToProto(self, proto: descriptor_pb2.FileDescriptorProto) -> None:  # noqa: N802  # the library calls it so
        proto.CopyFrom(self._proto)


def _stable_reflection(alpha: descriptor_pb2.FileDescriptorProto) -> descriptor_pb2.FileDescriptorProto:
    """grpc.reflection.v1 is v1alpha under another package name; the library that we can have carries v1alpha alone."""
    text = text_format.MessageToString(alpha).replace("v1alpha", "v1")
    return text_format.Parse(text, descriptor_pb2.FileDescriptorProto())


class CommentedPool:
    """A descriptor pool whose files still have their comments: `google.protobuf`'s own drops them. With the details of
    errors, so that tools can show a reason instead of its bytes."""

    def __init__(self) -> None:
        data = files("trellis.v1").joinpath("descriptor.binpb").read_bytes()
        found = list(descriptor_pb2.FileDescriptorSet.FromString(data).file)
        for module in (duration_pb2, error_details_pb2, health_pb2, reflection_pb2):
            proto = descriptor_pb2.FileDescriptorProto()
            module.DESCRIPTOR.CopyToProto(proto)
            found.append(proto)
        found.append(_stable_reflection(found[-1]))
        self._protos = {proto.name: proto for proto in found}
        self._plain = DescriptorPool()
        for proto in found:
            self._plain.Add(proto)

    def FindFileByName(self, name: str) -> _CommentedFile:  # noqa: N802  # the library calls it so
        return _CommentedFile(self._protos[name], self)

    def FindFileContainingSymbol(self, symbol: str) -> _CommentedFile:  # noqa: N802  # the library calls it so
        return self.FindFileByName(self._plain.FindFileContainingSymbol(symbol).name)

    def FindMessageTypeByName(self, name: str) -> Any:  # noqa: N802  # the library calls it so
        return self._plain.FindMessageTypeByName(name)

    def FindExtensionByNumber(self, message: Any, number: int) -> Any:  # noqa: N802  # the library calls it so
        return self._plain.FindExtensionByNumber(message, number)

    def FindAllExtensions(self, message: Any) -> Any:  # noqa: N802  # the library calls it so
        return self._plain.FindAllExtensions(message)
