"""The listener for /metrics, /health and /ready: what it answers, and what no client can do to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from node.http import (
    MAX_CONNECTIONS,
    MAX_REQUEST_HEAD_BYTES,
    REQUEST_S,
    HealthReport,
    ListenFault,
    parse_listen,
    serve_http,
)
from node.metrics import Metrics

WELL = HealthReport(synced=True, quorum=True, detail={"height": 7})


class Listener:
    def __init__(self, address: str, metrics: Metrics) -> None:
        self.host, port = address.rsplit(":", 1)
        self.port = int(port)
        self.metrics = metrics
        self.report = WELL

    async def connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(self.host, self.port)

    async def send(self, raw: bytes) -> bytes:
        """Everything that is answered to these bytes."""
        async with await self.connect() as stream:
            await stream.send_all(raw)
            return b"".join([part async for part in stream])

    async def get(self, target: str, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        answer = await self.send(f"{method} {target} HTTP/1.1\r\nHost: node\r\n\r\n".encode())
        head, _, body = answer.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.lower().split(": ", 1) for line in lines[1:])
        return int(lines[0].split()[1]), headers, body


@asynccontextmanager
async def listening() -> AsyncIterator[Listener]:
    metrics = Metrics()
    async with trio.open_nursery() as nursery:
        made: list[Listener] = []
        addresses = await nursery.start(serve_http, "127.0.0.1:0", metrics, lambda: made[0].report)
        made.append(Listener(addresses[0], metrics))
        yield made[0]
        nursery.cancel_scope.cancel()


def in_trio(scenario: Callable[[Listener], Awaitable[None]], clock: trio.abc.Clock | None = None) -> None:
    async def run() -> None:
        with trio.fail_after(60):
            async with listening() as listener:
                await scenario(listener)

    trio.run(run, clock=clock)


def test_metrics_are_served_in_the_text_format_with_what_was_just_counted() -> None:
    async def scenario(listener: Listener) -> None:
        listener.metrics.finalized.inc(3)
        status, headers, body = await listener.get("/metrics")
        assert status == 200
        assert headers["content-type"].startswith("text/plain")
        assert "consensus_vertices_finalized_total 3.0" in body.decode().splitlines()

    in_trio(scenario)


def test_samplers_run_before_each_scrape() -> None:
    async def scenario(listener: Listener) -> None:
        waiting = [5]
        listener.metrics.samplers.append(lambda: listener.metrics.mempool_transactions.set(waiting[0]))
        for number in (5, 9, 0):
            waiting[0] = number
            assert f"mempool_transactions {float(number)}" in (await listener.get("/metrics"))[2].decode()

    in_trio(scenario)


@pytest.mark.parametrize(
    ("report", "health", "ready", "problem"),
    [
        (WELL, 200, 200, ""),
        (HealthReport(synced=False, quorum=True), 200, 503, "catching up"),
        (HealthReport(synced=True, quorum=False), 200, 503, "quorum power"),
        (HealthReport(synced=True, quorum=True, draining=True), 200, 503, "draining"),
        (HealthReport(synced=True, quorum=True, alive=False), 503, 503, "stopping"),
    ],
)
def test_ready_only_when_synced_and_in_contact_with_a_quorum(
    report: HealthReport, health: int, ready: int, problem: str
) -> None:
    async def scenario(listener: Listener) -> None:
        listener.report = report
        for target, wanted in (("/health", health), ("/ready", ready)):
            status, _, body = await listener.get(target)
            assert status == wanted
            told = json.loads(body)
            assert told["ready"] is report.ready
            assert problem in " ".join(told["problems"])

    in_trio(scenario)


def test_health_shows_the_details_of_the_node() -> None:
    async def scenario(listener: Listener) -> None:
        assert json.loads((await listener.get("/health"))[2])["height"] == 7

    in_trio(scenario)


def test_other_targets_and_methods_are_refused_and_head_has_no_body() -> None:
    async def scenario(listener: Listener) -> None:
        assert (await listener.get("/"))[0] == 404
        assert (await listener.get("/metrics/../health"))[0] == 404
        assert (await listener.get("/metrics?name=x"))[0] == 200
        status, headers, _ = await listener.get("/metrics", "POST")
        assert (status, headers["allow"]) == (405, "get, head")
        status, headers, body = await listener.get("/health", "HEAD")
        assert (status, body) == (200, b"")
        assert int(headers["content-length"]) > 0

    in_trio(scenario)


def test_headers_without_end_are_refused_and_the_next_client_is_served() -> None:
    async def scenario(listener: Listener) -> None:
        head = b"GET /metrics HTTP/1.1\r\nHost: node\r\nX: " + b"a" * (MAX_REQUEST_HEAD_BYTES + 4_096)
        async with await listener.connect() as stream:
            await stream.send_all(head)
            answer = b""
            try:
                async for part in stream:
                    answer += part
            except trio.BrokenResourceError:
                pass  # it hung up with some of our bytes unread
        assert not answer or answer.startswith(b"HTTP/1.1 431")
        assert (await listener.get("/health"))[0] == 200

    in_trio(scenario)


def test_a_request_that_arrives_a_byte_at_a_time_is_hung_up_on() -> None:
    async def scenario(listener: Listener) -> None:
        began = trio.current_time()
        async with await listener.connect() as stream:
            await stream.send_all(b"GET /metr")
            assert await stream.receive_some(100) == b""
        assert REQUEST_S <= trio.current_time() - began < REQUEST_S + 1

    # The clock jumps only when nothing else can happen: no second is waited for.
    in_trio(scenario, trio.testing.MockClock(autojump_threshold=0.05))


def test_idle_connections_beyond_the_cap_are_closed_and_those_within_are_served() -> None:
    async def scenario(listener: Listener) -> None:
        idle = [await listener.connect() for _ in range(MAX_CONNECTIONS)]
        async with await listener.connect() as one_more:
            with pytest.raises((trio.BrokenResourceError, AssertionError)):
                assert await one_more.receive_some(1)
        await idle[0].send_all(b"GET /health HTTP/1.1\r\nHost: node\r\n\r\n")
        assert (await idle[0].receive_some(20)).startswith(b"HTTP/1.1 200")
        for stream in idle:
            await trio.aclose_forcefully(stream)
        await trio.testing.wait_all_tasks_blocked()
        assert (await listener.get("/health"))[0] == 200

    in_trio(scenario)


@given(st.binary(max_size=200), st.booleans())
def test_no_bytes_of_a_stranger_end_the_listener(raw: bytes, request_first: bool) -> None:
    async def scenario(listener: Listener) -> None:
        prefix = b"GET /metrics HTTP/1.1\r\nHost: node\r\n" if request_first else b""
        async with await listener.connect() as stream:
            await stream.send_all(prefix + raw)
            await stream.send_eof()
            try:
                async for part in stream:
                    assert part
            except trio.BrokenResourceError:
                pass  # a refused client's unread bytes make the close a reset
        assert (await listener.get("/health"))[0] == 200

    in_trio(scenario)


@pytest.mark.parametrize("listen", ["", "26620", "127.0.0.1:", "127.0.0.1:metrics", "127.0.0.1:70000"])
def test_an_address_that_is_none_is_refused_with_an_example(listen: str) -> None:
    with pytest.raises(ListenFault, match="host:port"):
        parse_listen(listen)


def test_a_taken_port_is_named() -> None:
    async def scenario(listener: Listener) -> None:
        with pytest.raises(ListenFault, match=str(listener.port)):
            await serve_http(f"127.0.0.1:{listener.port}", Metrics(), lambda: WELL)

    in_trio(scenario)
