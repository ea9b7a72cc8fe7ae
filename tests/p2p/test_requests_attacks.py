"""Peers that break the rules of requests, on either side: the request ends with a reason, the node lives and serves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio

from p2p.frames import head
from p2p.host import Host
from p2p.messages import Credit, Goodbye, encode_goodbye
from p2p.requests import RequestError, RequestFault, Requests
from p2p.serving import RequestLimits, ServeFault
from p2p.streams import Stream, StreamError
from tests.p2p.kit import GENESIS
from tests.p2p.net import ask, config, hosts, run, until
from trellis.types import PeerId
from trellis.wire import Flags, FrameDecoder, MessageId

LIMITS = RequestLimits(request_s=0.3, serve_s=2, stall_s=0.3, credit_s=0.3)
PROTOCOL = f"/trellis/{GENESIS[:4].hex()}/sync/1"
GET = MessageId.GET_BLOCKS
CRITICAL = int(Flags.CRITICAL)

Evil = Callable[[Stream], Awaitable[None]]


def frame(message_id: int, payload: bytes = b"", sequence: int = 0, flags: int = CRITICAL) -> bytes:
    return head(message_id, sequence, flags, len(payload)) + payload


def goodbye(reason: Goodbye, sequence: int = 1) -> bytes:
    return frame(MessageId.GOODBYE, encode_goodbye(reason), sequence)


def says(what: bytes) -> Evil:
    """A server that answers the first request with these bytes and then stands still."""

    async def serve(stream: Stream) -> None:
        await stream.read()
        await stream.write(what)
        await trio.sleep_forever()

    return serve


async def hangs_up(stream: Stream) -> None:
    await stream.read()
    await stream.write(frame(MessageId.BLOCKS, bytes(100))[:60])


async def resets(stream: Stream) -> None:
    await stream.read()
    await stream.reset()


async def drips(stream: Stream) -> None:
    for byte in frame(MessageId.BLOCKS, bytes(100)):
        await stream.write(bytes([byte]))
        await trio.sleep(0.1)


@pytest.mark.parametrize(
    ("evil", "reason"),
    [
        pytest.param(says(b"\xff\xff\xff\xff"), RequestFault.BAD_FRAME, id="a length of four gigabytes"),
        pytest.param(says(head(MessageId.BLOCKS, 0, 1, 10_001)), RequestFault.BAD_FRAME, id="a frame over the grant"),
        pytest.param(says(frame(MessageId.BLOCKS, bytes(6_000)) * 2), RequestFault.OVERRUN, id="two that sum over it"),
        pytest.param(says(frame(MessageId.BLOCKS) * 9), RequestFault.OVERRUN, id="more frames than were granted"),
        pytest.param(says(frame(60_000)), RequestFault.UNEXPECTED, id="an unknown critical message"),
        pytest.param(says(frame(MessageId.CHUNK)), RequestFault.UNEXPECTED, id="an answer to another request"),
        pytest.param(says(goodbye(Goodbye.DONE) * 2), RequestFault.UNEXPECTED, id="two ends"),
        pytest.param(says(goodbye(Goodbye.DONE) + b"\0"), RequestFault.UNEXPECTED, id="a byte after the end"),
        pytest.param(says(frame(MessageId.GOODBYE, b"\xfe")), RequestFault.BAD_FRAME, id="an end without a meaning"),
        pytest.param(says(frame(MessageId.BLOCKS, flags=0x40)), RequestFault.BAD_FRAME, id="an unknown flag"),
        pytest.param(says(b""), RequestFault.STALLED, id="silence"),
        pytest.param(says(frame(MessageId.BLOCKS)), RequestFault.STALLED, id="silence after the first frame"),
        pytest.param(hangs_up, RequestFault.CUT, id="an end in the middle of a frame"),
        pytest.param(resets, RequestFault.CUT, id="a reset"),
        pytest.param(drips, RequestFault.DEADLINE, id="a slow drip"),
    ],
)
def test_a_server_that_breaks_the_rules_costs_one_request(evil: Evil, reason: RequestFault) -> None:
    async def main() -> None:
        async with hosts(config("a"), config("evil"), config("good")) as (a, bad, good):
            requests, honest = Requests(a, GENESIS, LIMITS), Requests(good, GENESIS)
            honest.serve(GET, one_block)
            bad.serve(PROTOCOL, evil)
            await a.connect(bad.peer, bad.addresses[0])
            await a.connect(good.peer, good.addresses[0])
            with pytest.raises(RequestError) as failed:
                await requests.ask(bad.peer, GET, b"", deadline_s=1, max_bytes=10_000, max_frames=8)
            assert failed.value.reason is reason
            assert requests.desk.faults == {str(reason): 1}
            assert len(await requests.ask(good.peer, GET, b"", deadline_s=5, max_bytes=10_000)) == 1
            await ask(a, bad.peer)
            assert bad.peer not in requests._peers, "the stream was not kept"

    run(main)


def test_an_unknown_message_that_is_not_critical_is_skipped_and_counts_as_granted() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("evil")) as (a, bad):
            requests = Requests(a, GENESIS, LIMITS)
            new = frame(60_000, bytes(10), flags=0)
            bad.serve(PROTOCOL, says(new + frame(MessageId.BLOCKS, b"block", 1) + goodbye(Goodbye.DONE, 2)))
            await a.connect(bad.peer, bad.addresses[0])
            (block,) = await requests.ask(bad.peer, GET, b"", deadline_s=1, max_bytes=100)
            assert block.payload == b"block"
            assert requests.desk.gaps == 0

    run(main)


async def one_block(_peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
    for _ in range(int(payload or b"1")):
        yield MessageId.BLOCKS, bytes(1_000)


def credit(size_bytes: int = 10_000, frames: int = 10, *, last: bool = False, sequence: int = 0) -> bytes:
    return frame(MessageId.CREDIT, Credit(size_bytes, frames, last).encode(), sequence)


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        pytest.param(frame(GET), ServeFault.UNEXPECTED, id="a request without a credit"),
        pytest.param(credit() + frame(GET, b"90") + frame(GET), ServeFault.UNEXPECTED, id="two requests at once"),
        pytest.param(credit() + frame(60_000), ServeFault.UNKNOWN_CRITICAL, id="an unknown critical message"),
        pytest.param(frame(MessageId.CREDIT, b"\0" * 8), ServeFault.BAD_FRAME, id="a credit that is cut short"),
        pytest.param(frame(MessageId.CREDIT, b"\0" * 8 + b"\2"), ServeFault.BAD_FRAME, id="a flag of two"),
        pytest.param(head(GET, 0, 1, (64 << 10) + 1), ServeFault.BAD_FRAME, id="a request over the cap"),
        pytest.param((credit() + frame(GET))[:-1], ServeFault.SLOW_REQUEST, id="a request that never ends"),
    ],
)
def test_an_asker_that_breaks_the_rules_loses_its_stream(what: bytes, fault: ServeFault) -> None:
    async def main() -> None:
        async with hosts(config("evil"), config("b")) as (evil, b):
            requests = Requests(b, GENESIS, LIMITS)
            requests.serve(GET, one_block)
            await evil.connect(b.peer, b.addresses[0])
            stream = await evil.open_stream(b.peer, PROTOCOL)
            await stream.write(what)
            assert await ended(stream)
            assert requests.desk.faults[str(fault)] == 1
            await still_serves(evil, b, requests)

    run(main)


async def ended(stream: Stream) -> bool:
    with trio.move_on_after(5):
        try:
            while await stream.read():
                pass
        except StreamError:
            return True
    return False


async def still_serves(evil: Host, b: Host, requests: Requests) -> None:
    await until(lambda: not requests.desk.active, "nobody is being served")
    assert len(await Requests(evil, GENESIS).ask(b.peer, GET, b"5", deadline_s=5, max_bytes=10_000)) == 5


def test_a_server_never_sends_beyond_its_credit() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            requests = Requests(b, GENESIS, RequestLimits())
            requests.serve(GET, one_block)
            await a.connect(b.peer, b.addresses[0])
            stream = await a.open_stream(b.peer, PROTOCOL)
            decoder, heard = FrameDecoder(), []

            async def hear(number: int) -> None:
                while len(heard) < number:
                    heard.extend(decoder.feed(await stream.read()))

            await stream.write(credit(3_500, 100) + frame(GET, b"90", 1))
            await hear(3)
            await stream.write(credit(600, 100, sequence=2))
            await hear(4)
            await stream.write(credit(2_000, 0, sequence=3))
            await hear(6)
            # Bytes enough, but 95 of the 200 frames are spent only by 95 frames.
            await stream.write(credit(1_000_000, 0, sequence=4))
            await hear(91)
            assert [each.message_id for each in heard[-2:]] == [MessageId.BLOCKS, MessageId.GOODBYE]
            assert [each.sequence for each in heard] == list(range(91))
            # One frame a credit: the count holds as the bytes do.
            await stream.write(credit(1_000_000, 2, last=True, sequence=5) + frame(GET, b"90", 6))
            await hear(94)
            assert heard[93].payload == encode_goodbye(Goodbye.LIMIT)
            await stream.reset()

    run(main)


def test_an_asker_that_grants_nothing_is_counted_as_stalled() -> None:
    async def main() -> None:
        async with hosts(config("evil"), config("b")) as (evil, b):
            requests = Requests(b, GENESIS, LIMITS)
            requests.serve(GET, one_block)
            await evil.connect(b.peer, b.addresses[0])
            stream = await evil.open_stream(b.peer, PROTOCOL)
            await stream.write(credit(1_500, 10) + frame(GET, b"90", 1))
            assert await ended(stream)
            assert requests.desk.faults[str(ServeFault.STALLED)] == 1
            await still_serves(evil, b, requests)

    run(main)


def test_an_asker_that_reads_nothing_costs_no_more_than_the_time_of_one_answer() -> None:
    async def main() -> None:
        async with hosts(config("evil"), config("b")) as (evil, b):
            requests = Requests(b, GENESIS, RequestLimits(serve_s=1))
            requests.serve(GET, one_block)
            await evil.connect(b.peer, b.addresses[0])
            stream = await evil.open_stream(b.peer, PROTOCOL)
            await stream.write(credit(100_000_000, 100_000) + frame(GET, b"50000", 1))
            await until(lambda: requests.desk.faults.total() == 1, "the server gave up")
            assert requests.desk.faults == {str(ServeFault.TOO_SLOW): 1}
            await stream.reset()
            await still_serves(evil, b, requests)

    run(main)


def test_askers_that_open_and_reset_by_the_hundred_leave_nothing_behind() -> None:
    async def main() -> None:
        async with hosts(config("evil"), config("b")) as (evil, b):
            requests = Requests(b, GENESIS, LIMITS)
            requests.serve(GET, one_block)
            await evil.connect(b.peer, b.addresses[0])
            whole = credit(100_000, 100) + frame(GET, b"80", 1)
            for number in range(200):
                stream = await evil.open_stream(b.peer, PROTOCOL)
                await stream.write(whole[: 1 + number % len(whole)])
                await stream.reset()
            await still_serves(evil, b, requests)
            await until(lambda: b.peers()[0].streams <= 5, "no stream is left")

    run(main)
