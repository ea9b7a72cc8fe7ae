"""`/metrics`, `/health` and `/ready` over HTTP, on the node's own loop: if the loop hangs, so does the answer.

One request a connection, answered and closed; GET and HEAD only. Nothing a client sends is kept, and how long it takes
and how many there are is bounded, so that whoever reaches the port can neither fill the memory nor slow consensus.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Final

import h11
import trio
from prometheus_client import CONTENT_TYPE_LATEST

from node.metrics import Metrics

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MAX_REQUEST_HEAD_BYTES: Final = 8 << 10
"""A request's first line and headers: stops a client that sends headers without end."""
MAX_CONNECTIONS: Final = 32
"""At once: stops a client that opens connections and says nothing from taking the process's file descriptors."""
REQUEST_S: Final = 5.0
"""For the whole head of a request: stops one that arrives a byte at a time."""
RESPONSE_S: Final = 10.0
"""For writing the answer: stops a client that does not read it."""
_READ_BYTES: Final = 4 << 10
_BACKLOG: Final = 64


class ListenFault(OSError):
    """The address cannot be listened at; the message says which and why."""


@dataclass(frozen=True, slots=True)
class HealthReport:
    """How the node is, as its runtime knows it at this moment."""

    synced: bool
    """At the height of the others, as far as it knows."""
    quorum: bool
    """In contact with validators of quorum power, itself counted."""
    alive: bool = True
    """False once the node has begun to stop."""
    draining: bool = False
    detail: Mapping[str, str | int | bool] = field(default_factory=dict)
    """Shown beside the verdicts: height, view, peers, …"""

    @property
    def ready(self) -> bool:
        return self.alive and self.synced and self.quorum and not self.draining

    @property
    def problems(self) -> tuple[str, ...]:
        """What stands between the node and readiness, one sentence each."""
        found = (
            (not self.alive, "the node is stopping"),
            (self.draining, "the operator is draining the node"),
            (not self.synced, "the node is catching up"),
            (not self.quorum, "there is no contact with validators of quorum power: check the peers and the network"),
        )
        return tuple(sentence for is_so, sentence in found if is_so)

    def to_json(self) -> dict[str, object]:
        return {
            "alive": self.alive,
            "ready": self.ready,
            "synced": self.synced,
            "quorum": self.quorum,
            "draining": self.draining,
            "problems": list(self.problems),
            **self.detail,
        }


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes


def parse_listen(listen: str) -> tuple[str, int]:
    """`host:port` or `[v6]:port`; port 0 takes a free one."""
    host, _, port = listen.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or int(port) > 65_535:
        raise ListenFault(f"{listen!r} is no address to listen at: write host:port, for example 127.0.0.1:26620")
    return host.strip("[]"), int(port)


async def serve_http(
    listen: str,
    metrics: Metrics,
    health: Callable[[], HealthReport],
    *,
    task_status: TaskStatus[tuple[str, ...]] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Until cancelled. Reports the addresses it listens at; raises `ListenFault` if it cannot."""
    host, port = parse_listen(listen)
    try:
        listeners = await trio.open_tcp_listeners(port, host=host, backlog=_BACKLOG)
    except OSError as fault:
        raise ListenFault(f"cannot listen at {listen} for /metrics: {fault.strerror or fault}") from fault
    connections = 0

    async def handle(stream: trio.SocketStream) -> None:
        nonlocal connections
        if connections >= MAX_CONNECTIONS:
            await trio.aclose_forcefully(stream)
            return
        connections += 1
        try:
            await _serve_one(stream, metrics, health)
        finally:
            connections -= 1

    task_status.started(tuple(_shown(listener) for listener in listeners))
    await trio.serve_listeners(handle, listeners)


def _shown(listener: trio.SocketListener) -> str:
    host, port = listener.socket.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


async def _serve_one(stream: trio.SocketStream, metrics: Metrics, health: Callable[[], HealthReport]) -> None:
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_REQUEST_HEAD_BYTES)
    async with stream:
        try:
            with trio.fail_after(REQUEST_S):
                method, answer = await _receive(stream, connection, metrics, health)
            with trio.fail_after(RESPONSE_S):
                await _send(stream, connection, method, answer)
        except trio.TooSlowError:
            return  # a client that dawdles is hung up on
        except (trio.BrokenResourceError, trio.ClosedResourceError, ConnectionError):
            return  # the client went away


async def _receive(
    stream: trio.SocketStream, connection: h11.Connection, metrics: Metrics, health: Callable[[], HealthReport]
) -> tuple[bytes, _Answer]:
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError as fault:
            return b"GET", _text(HTTPStatus(fault.error_status_hint), "this is no HTTP request\n")
        if isinstance(event, h11.Request):
            return event.method, _answer(event, metrics, health)
        if event is not h11.NEED_DATA:
            raise trio.ClosedResourceError("the client closed before it asked")
        connection.receive_data(await stream.receive_some(_READ_BYTES))


def _answer(request: h11.Request, metrics: Metrics, health: Callable[[], HealthReport]) -> _Answer:
    if request.method not in {b"GET", b"HEAD"}:
        return _text(HTTPStatus.METHOD_NOT_ALLOWED, "only GET and HEAD\n")
    match request.target.partition(b"?")[0]:
        case b"/metrics":
            return _Answer(HTTPStatus.OK, CONTENT_TYPE_LATEST, metrics.exposition())
        case b"/health":
            report = health()
            return _json(HTTPStatus.OK if report.alive else HTTPStatus.SERVICE_UNAVAILABLE, report)
        case b"/ready":
            report = health()
            return _json(HTTPStatus.OK if report.ready else HTTPStatus.SERVICE_UNAVAILABLE, report)
        case _:
            return _text(HTTPStatus.NOT_FOUND, "there are /metrics, /health and /ready\n")


def _text(status: HTTPStatus, text: str) -> _Answer:
    return _Answer(status, "text/plain; charset=utf-8", text.encode())


def _json(status: HTTPStatus, report: HealthReport) -> _Answer:
    return _Answer(status, "application/json", json.dumps(report.to_json()).encode() + b"\n")


async def _send(stream: trio.SocketStream, connection: h11.Connection, method: bytes, answer: _Answer) -> None:
    headers = [
        ("Content-Type", answer.content_type),
        ("Content-Length", str(len(answer.body))),
        ("Cache-Control", "no-store"),
        ("Connection", "close"),
    ]
    if answer.status is HTTPStatus.METHOD_NOT_ALLOWED:
        headers.append(("Allow", "GET, HEAD"))
    parts = [connection.send(h11.Response(status_code=answer.status, headers=headers, reason=answer.status.phrase))]
    if method != b"HEAD":
        parts.append(connection.send(h11.Data(data=answer.body)))
    parts.append(connection.send(h11.EndOfMessage()))
    await stream.send_all(b"".join(part for part in parts if part))
