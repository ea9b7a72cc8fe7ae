"""Calling any method by its name, over a real channel, and reading how it failed."""

from __future__ import annotations

import importlib
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

import grpc
from google.protobuf.json_format import ParseDict
from google.protobuf.message_factory import GetMessageClass

from trellis.client.endpoints import Endpoint
from trellis.client.errors import Failure
from trellis.client.transport import failure_of_error

SERVICES = ("transaction", "ledger", "finality", "consensus", "subscription", "node", "admin")


def methods() -> dict[str, Any]:
    """Descriptors of all methods, by "Service/Method"."""
    found: dict[str, Any] = {}
    for name in SERVICES:
        module = importlib.import_module(f"trellis.v1.{name}_service_pb2")
        for service in module.DESCRIPTOR.services_by_name.values():
            found.update({f"{service.name}/{method.name}": method for method in service.methods})
    return found


METHODS = methods()


class Refusal(Exception):
    """A failed call, read as the client reads it."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.method}: {failure.code.name} {failure.reason}: {failure.details}")
        self.failure = failure

    @property
    def reason(self) -> str:
        return str(self.failure.reason)

    @property
    def code(self) -> grpc.StatusCode:
        return self.failure.code

    @property
    def metadata(self) -> dict[str, str]:
        return dict(self.failure.metadata)

    @property
    def retry_after_ms(self) -> int | None:
        return self.failure.retry_after_ms


def failure(error: grpc.RpcError, method: str = "") -> Refusal:
    return Refusal(failure_of_error(Endpoint("test"), method, error))


class Caller:
    """`ask("LedgerService/GetBlock", height=3)`; raises `Refusal`."""

    def __init__(self, channel: grpc.Channel, metadata: Iterable[tuple[str, str]] = ()) -> None:
        self.channel = channel
        self.metadata = tuple(metadata)

    def raw(self, name: str) -> Any:
        method = METHODS[name]
        kinds = {
            (False, False): self.channel.unary_unary,
            (False, True): self.channel.unary_stream,
            (True, False): self.channel.stream_unary,
        }
        response = GetMessageClass(method.output_type)
        return kinds[method.client_streaming, method.server_streaming](
            f"/{method.containing_service.full_name}/{method.name}",
            request_serializer=lambda message: message if isinstance(message, bytes) else message.SerializeToString(),
            response_deserializer=response.FromString,
        )

    def request(self, name: str, **fields: Any) -> Any:
        return ParseDict(fields, GetMessageClass(METHODS[name].input_type)())

    def ask(self, name: str, request: Any = None, timeout: float = 20, **fields: Any) -> Any:
        request = self.request(name, **fields) if request is None else request
        try:
            return self.raw(name)(request, timeout=timeout, metadata=self.metadata)
        except grpc.RpcError as error:
            raise failure(error, name) from None

    def stream(self, name: str, timeout: float | None = 20, **fields: Any) -> Stream:
        return Stream(self.raw(name)(self.request(name, **fields), timeout=timeout, metadata=self.metadata), name)

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Stream:
    """An open server stream; iterating raises `Refusal` where it ends with a fault."""

    def __init__(self, call: Any, name: str) -> None:
        self.call = call
        self.name = name

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        try:
            return next(self.call)
        except grpc.RpcError as error:
            raise failure(error, self.name) from None

    def take(self, count: int) -> list[Any]:
        return [next(self) for _ in range(count)]

    def cancel(self) -> None:
        self.call.cancel()
