"""Requests over real sockets: whole answers, credits, deadlines, and a stream that serves again and again."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.host import Host
from p2p.requests import RequestError, RequestFault, Requests
from p2p.serving import RequestLimits
from tests.p2p.kit import GENESIS
from tests.p2p.net import config, hosts, run, until
from trellis.encoding import DecodeError, Malformed
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

QUICK = RequestLimits(request_s=0.5, serve_s=1, stall_s=0.8, credit_s=0.4)
GET = MessageId.GET_DATA
BODY = MessageId.DATA


async def repeat(_peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
    """`count` frames of `size` bytes each, numbered in their first bytes."""
    count, size = (int(part) for part in payload.split(b"x"))
    for number in range(count):
        yield BODY, number.to_bytes(4, "big") + bytes(size - 4)


@asynccontextmanager
async def pair(limits: RequestLimits = QUICK) -> AsyncIterator[tuple[Requests, Requests, Host, Host]]:
    """Who asks, who serves, and their hosts, connected."""
    async with hosts(config("a"), config("b")) as (a, b):
        one, other = Requests(a, GENESIS, limits), Requests(b, GENESIS, limits)
        other.serve(GET, repeat)
        await a.connect(b.peer, b.addresses[0])
        yield one, other, a, b


async def get(requests: Requests, peer: PeerId, payload: bytes, max_bytes: int = 1 << 20) -> list[Frame]:
    return await requests.ask(peer, GET, payload, deadline_s=10, max_bytes=max_bytes)


def numbers(frames: list[Frame]) -> list[int]:
    return [int.from_bytes(frame.payload[:4], "big") for frame in frames]


def test_an_answer_of_many_frames_arrives_whole_and_in_order() -> None:
    async def main() -> None:
        async with pair() as (one, other, _a, b):
            frames = await get(one, b.peer, b"300x1000")
            assert numbers(frames) == list(range(300))
            assert all(frame.message_id == BODY and len(frame.payload) == 1_000 for frame in frames)
            assert (await get(one, b.peer, b"0x4")) == []
            assert numbers(await get(one, b.peer, b"2x400000")) == [0, 1]
            await until(lambda: other.desk.served == 3, "three were served")
            assert not one.desk.gaps + other.desk.gaps
            assert not other.desk.active
            assert not one.desk.faults + other.desk.faults

    run(main)


def test_one_stream_carries_many_requests() -> None:
    async def main() -> None:
        async with pair() as (one, _other, a, b):
            await get(one, b.peer, b"1x4")
            streams = a.peers()[0].streams
            for number in range(50):
                assert len(await get(one, b.peer, b"%dx4" % number)) == number
                assert a.peers()[0].streams == streams

    run(main)


def test_concurrent_requests_do_not_wait_for_each_others_answers() -> None:
    async def main() -> None:
        async with pair(RequestLimits()) as (one, other, _a, b):
            release = trio.Event()

            async def held(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
                await release.wait()
                yield MessageId.CHUNK, b"late"

            other.serve(MessageId.GET_CHUNK, held)
            late: list[Frame] = []

            async def ask_late() -> None:
                late.extend(await one.ask(b.peer, MessageId.GET_CHUNK, b"", deadline_s=10, max_bytes=100))

            async def ask(number: int) -> None:
                assert numbers(await get(one, b.peer, b"%dx5000" % number)) == list(range(number))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask_late)
                async with trio.open_nursery() as others:
                    for number in range(40):
                        others.start_soon(ask, number)
                assert not late
                release.set()
            assert [frame.payload for frame in late] == [b"late"]
            assert not other.desk.faults, "an asker keeps to the server's cap by itself"

    run(main)


def test_a_kept_stream_that_ended_meanwhile_costs_no_request() -> None:
    async def main() -> None:
        async with pair() as (one, _other, a, b):
            await get(one, b.peer, b"1x4")
            await a.disconnect(b.peer)
            await until(lambda: not a.connected(b.peer), "disconnected")
            await a.connect(b.peer, b.addresses[0])
            assert len(await get(one, b.peer, b"3x4")) == 3
            # Kept, and then reset by the other side while the connection stays.
            for line in one._peers[b.peer].idle:
                await line.stream.reset()
            assert len(await get(one, b.peer, b"4x4")) == 4
            assert not one.desk.faults

    run(main)


def test_an_answer_stops_at_what_was_granted() -> None:
    async def main() -> None:
        async with pair() as (one, other, _a, b):
            assert numbers(await get(one, b.peer, b"100x1000", max_bytes=10_500)) == list(range(10))
            frames = await one.ask(b.peer, GET, b"100x1000", deadline_s=5, max_bytes=1 << 20, max_frames=7)
            assert numbers(frames) == list(range(7))
            with pytest.raises(RequestError) as too_large:
                await get(one, b.peer, b"1x1000", max_bytes=999)
            assert too_large.value.reason is RequestFault.TOO_LARGE
            await until(lambda: other.desk.served == 3, "the server sees nothing wrong in that")

    run(main)


def test_a_long_answer_flows_in_windows_and_no_more_than_one_is_unread() -> None:
    made: list[int] = []

    async def counted(_peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        for number in range(int(payload)):
            made.append(number)
            yield MessageId.BLOCKS, number.to_bytes(4, "big") + bytes(99_996)

    async def main() -> None:
        async with pair(RequestLimits()) as (one, other, _a, b):
            other.serve(MessageId.GET_BLOCKS, counted)
            async with one.asking(
                b.peer, MessageId.GET_BLOCKS, b"200", deadline_s=20, max_bytes=1 << 30, window_bytes=1_000_000
            ) as answer:
                read = 0
                async for frame in answer:
                    assert numbers([frame]) == [read]
                    read += 1
                    # Ten fit into the window; one more is made before it is known that it does not fit.
                    assert len(made) <= read + 11
                assert read == 200
                assert answer.ended
                assert not answer.truncated

    run(main)


def test_frames_larger_than_what_is_left_of_a_window_wait_and_do_not_deadlock() -> None:
    async def uneven(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        for size in [400_000, 10, 900_000, 1_000_000, 1, 999_999, 1_000_000, 500_000, 600_000]:
            yield MessageId.BLOCKS, bytes(size)

    async def main() -> None:
        async with pair() as (one, other, _a, b):
            other.serve(MessageId.GET_BLOCKS, uneven)
            async with one.asking(
                b.peer, MessageId.GET_BLOCKS, b"", deadline_s=20, max_bytes=1 << 30, window_bytes=1_000_000
            ) as answer:
                assert len([frame async for frame in answer]) == 9

    run(main)


def test_leaving_an_answer_early_stops_the_servers_work() -> None:
    stopped = trio.Event()

    async def endless(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        try:
            while True:
                yield MessageId.BLOCKS, bytes(1_000)
                await trio.sleep(0)
        finally:
            stopped.set()

    async def main() -> None:
        async with pair(RequestLimits()) as (one, other, _a, b):
            other.serve(MessageId.GET_BLOCKS, endless)
            async with one.asking(b.peer, MessageId.GET_BLOCKS, b"", deadline_s=20, max_bytes=1 << 30) as answer:
                async for _ in answer:
                    break
            await until(stopped.is_set, "the handler was stopped")
            await until(lambda: other.desk.faults["serve_cancelled"] == 1, "counted")
            await until(lambda: not other.desk.active, "nobody is being served")
            assert len(await get(one, b.peer, b"5x4")) == 5

    run(main)


@pytest.mark.parametrize(
    ("message", "reason", "served"),
    [
        (MessageId.GET_CHUNK, RequestFault.NOT_SERVED, "serve_not_served"),
        (MessageId.GET_HEADERS, RequestFault.CALLED_MALFORMED, "serve_malformed"),
        (MessageId.GET_BLOCKS, RequestFault.FAILED, "serve_handler_failed"),
        (MessageId.GET_SNAPSHOTS, RequestFault.DEADLINE, "serve_cancelled"),
        (MessageId.GET_PEERS, RequestFault.STALLED, "serve_cancelled"),
    ],
)
def test_a_request_that_gets_no_answer_ends_with_the_reason(
    message: MessageId, reason: RequestFault, served: str
) -> None:
    async def malformed(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        raise DecodeError(Malformed.TRUNCATED, "a locator of half a hash")
        yield MessageId.HEADERS, b""  # type: ignore[unreachable] # makes it a generator

    async def broken(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        yield MessageId.BLOCKS, b"one"
        raise ZeroDivisionError

    async def silent(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        await trio.sleep_forever()
        yield MessageId.PEERS, b""

    async def main() -> None:
        async with pair() as (one, other, _a, b):
            other.serve(MessageId.GET_HEADERS, malformed)
            other.serve(MessageId.GET_BLOCKS, broken)
            other.serve(MessageId.GET_SNAPSHOTS, silent)
            other.serve(MessageId.GET_PEERS, silent)
            deadline_s = 0.2 if reason is RequestFault.DEADLINE else 5
            with pytest.raises(RequestError) as failed:
                await one.ask(b.peer, message, b"", deadline_s=deadline_s, max_bytes=1_000)
            assert failed.value.reason is reason
            assert one.desk.faults[str(reason)] == 1
            await until(lambda: other.desk.faults[served] == 1, "the server counted it")
            await until(lambda: not other.desk.active, "nobody is being served")
            assert len(await get(one, b.peer, b"5x4")) == 5

    run(main)


def test_a_server_says_so_when_an_answer_takes_too_long() -> None:
    async def slow(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        await trio.sleep_forever()
        yield MessageId.BLOCKS, b""

    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one, other = Requests(a, GENESIS), Requests(b, GENESIS, RequestLimits(serve_s=0.2))
            other.serve(MessageId.GET_BLOCKS, slow)
            await a.connect(b.peer, b.addresses[0])
            with pytest.raises(RequestError) as failed:
                await one.ask(b.peer, MessageId.GET_BLOCKS, b"", deadline_s=5, max_bytes=1_000)
            assert failed.value.reason is RequestFault.FAILED
            assert other.desk.faults["serve_too_slow"] == 1

    run(main)


def test_who_is_refused_is_told_and_gets_nothing() -> None:
    async def main() -> None:
        async with pair() as (one, other, a, b):
            other.desk.refuses = lambda peer: peer == a.peer
            with pytest.raises(RequestError) as failed:
                await get(one, b.peer, b"1x4")
            assert failed.value.reason is RequestFault.REFUSED
            assert other.desk.faults["serve_refused"] == 1

    run(main)


def test_a_server_that_is_busy_says_so_at_once() -> None:
    async def held(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        await trio.sleep_forever()
        yield MessageId.CHUNK, b""

    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one, other = Requests(a, GENESIS), Requests(b, GENESIS, RequestLimits(requests_at_once=2))
            other.serve(MessageId.GET_CHUNK, held)
            await a.connect(b.peer, b.addresses[0])
            async with trio.open_nursery() as nursery:

                async def hold() -> None:
                    await one.ask(b.peer, MessageId.GET_CHUNK, b"", deadline_s=60, max_bytes=10)

                nursery.start_soon(hold)
                nursery.start_soon(hold)
                await until(lambda: other.desk.active[a.peer] == 2, "two are being served")
                with pytest.raises(RequestError) as failed:
                    await one.ask(b.peer, MessageId.GET_CHUNK, b"", deadline_s=60, max_bytes=10)
                assert failed.value.reason is RequestFault.BUSY
                nursery.cancel_scope.cancel()
            await until(lambda: not other.desk.active, "both were stopped")

    run(main)


def test_without_a_connection_or_a_server_there_is_a_reason() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one = Requests(a, GENESIS)
            with pytest.raises(RequestError) as failed:
                await get(one, b.peer, b"1x4")
            assert failed.value.reason is RequestFault.NOT_CONNECTED
            await a.connect(b.peer, b.addresses[0])
            with pytest.raises(RequestError) as failed:
                await get(one, b.peer, b"1x4")
            assert failed.value.reason is RequestFault.NOT_TAKEN
            assert one._peers == {}
            with pytest.raises(ValueError, match="no request"):
                await one.ask(b.peer, MessageId.CONSENSUS, b"", deadline_s=1, max_bytes=1)

    run(main)
