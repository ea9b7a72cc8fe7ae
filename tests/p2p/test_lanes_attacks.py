"""A validator that breaks the rules of lanes: it loses its stream, for a counted reason, and nothing else happens."""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.frames import head
from p2p.host import Host
from p2p.lane_queue import LaneLimits
from p2p.lanes import LaneFault, Lanes
from p2p.streams import Stream, StreamError
from tests.p2p.kit import GENESIS
from tests.p2p.net import ask, config, hosts, run, until
from trellis.types import PeerId
from trellis.wire import MAX_FRAME_PAYLOAD_BYTES, Flags, Frame, MessageId

PREFIX = f"/trellis/{GENESIS[:4].hex()}/lane"
ACCEPT_BYTES = 11
CRITICAL = int(Flags.CRITICAL)


@asynccontextmanager
async def victim() -> AsyncIterator[tuple[Host, Host, list[Frame]]]:
    """A host with lanes, and a validator that speaks to them by hand."""
    heard: list[Frame] = []
    async with hosts(config("a"), config("b")) as (evil, host), trio.open_nursery() as nursery:
        lanes = Lanes(host, GENESIS, lambda _peer, frame: heard.append(frame), ignore, LaneLimits(frame_s=0.3))
        lanes.set_peers(frozenset({evil.peer}))
        nursery.start_soon(lanes.run)
        await evil.connect(host.peer, host.addresses[0])
        yield evil, host, heard
        nursery.cancel_scope.cancel()


def ignore(_peer: PeerId, _open: bool) -> None:
    return


async def opened(evil: Host, host: Host, lane: str = "bulk") -> Stream:
    stream = await evil.open_stream(host.peer, f"{PREFIX}-{lane}/1")
    await stream.read_exactly(ACCEPT_BYTES)
    return stream


async def ended(stream: Stream) -> bool:
    """Whether the other side resets the stream."""
    with trio.move_on_after(5):
        try:
            while await stream.read():
                pass
        except StreamError:
            return True
    return False


def frame(sequence: int, payload: bytes = b"", message_id: int = MessageId.CONSENSUS, flags: int = CRITICAL) -> bytes:
    return head(message_id, sequence, flags, len(payload)) + payload


@pytest.mark.parametrize(
    ("what", "fault"),
    [
        pytest.param(b"\xff\xff\xff\xff", LaneFault.BAD_FRAME, id="a length of four gigabytes"),
        pytest.param(
            head(MessageId.CONSENSUS, 0, CRITICAL, MAX_FRAME_PAYLOAD_BYTES + 1),
            LaneFault.BAD_FRAME,
            id="a length one over the cap",
        ),
        pytest.param(b"\x00\x00\x00\x06" + bytes(6), LaneFault.BAD_FRAME, id="a frame shorter than its head"),
        pytest.param(frame(0, flags=0x80), LaneFault.BAD_FRAME, id="an unknown flag"),
        pytest.param(frame(0, message_id=60_000), LaneFault.UNKNOWN_CRITICAL, id="an unknown critical message"),
        pytest.param(frame(5) + frame(4), LaneFault.WENT_BACK, id="a sequence that goes back"),
        pytest.param(frame(0) + frame(0), LaneFault.WENT_BACK, id="a sequence that repeats"),
        pytest.param(frame(0, bytes(100))[:-1], LaneFault.SLOW_FRAME, id="a frame that never ends"),
    ],
)
def test_a_stream_that_breaks_the_rules_is_reset_and_counted(what: bytes, fault: LaneFault) -> None:
    async def main() -> None:
        async with victim() as (evil, host, heard):
            stream = await opened(evil, host)
            await stream.write(what)
            assert await ended(stream)
            assert host.counters.rejects[str(fault)] == 1
            async with await opened(evil, host) as again:
                heard.clear()
                await again.write(frame(0, b"behaves"))
                await until(lambda: [each.payload for each in heard] == [b"behaves"], "the lane serves again")
            await ask(evil, host.peer)

    run(main)


def test_an_unknown_message_that_is_not_critical_is_skipped() -> None:
    async def main() -> None:
        async with victim() as (evil, host, heard):
            async with await opened(evil, host) as stream:
                await stream.write(frame(0, b"new", 60_000, flags=0) + frame(1, b"known"))
                await until(lambda: [each.payload for each in heard] == [b"known"], "the known one was heard")
            assert not host.counters.rejects

    run(main)


def test_a_stranger_gets_no_lane() -> None:
    async def main() -> None:
        async with victim() as (_evil, host, heard), hosts(config("stranger", listen=())) as (stranger,):
            await stranger.connect(host.peer, host.addresses[0])
            stream = await stranger.open_stream(host.peer, f"{PREFIX}-priority/1")
            assert await ended(stream)
            assert host.counters.rejects["lane_stranger"] == 1
            assert heard == []
            await ask(stranger, host.peer)

    run(main)


def test_a_newer_stream_replaces_the_older_one_and_nothing_of_the_older_comes_after_it() -> None:
    async def main() -> None:
        async with victim() as (evil, host, heard):
            older = await opened(evil, host)
            await older.write(frame(0, b"older"))
            await until(lambda: len(heard) == 1, "heard")
            newer = await opened(evil, host)

            async def go_on() -> None:
                for sequence in range(1, 1_000):
                    await older.write(frame(sequence, b"late"))
                    await trio.sleep(0)

            with pytest.raises(StreamError):
                await go_on()
            await newer.write(frame(0, b"newer"))
            await until(lambda: heard[-1].payload == b"newer", "heard")
            assert [each.payload for each in heard] == [b"older", b"newer"]

    run(main)


def test_streams_opened_and_reset_by_the_hundred_leave_nothing_behind() -> None:
    async def main() -> None:
        async with victim() as (evil, host, heard):
            for number in range(200):
                stream = await evil.open_stream(host.peer, f"{PREFIX}-{('bulk', 'priority')[number % 2]}/1")
                if number % 3:
                    await stream.write(frame(0, bytes(100))[: number % 100])
                await stream.reset()
            async with await opened(evil, host) as stream:
                await stream.write(frame(0, b"still here"))
                await until(lambda: bool(heard) and heard[-1].payload == b"still here", "heard")
            await until(lambda: host.peers()[0].streams <= 6, "no stream is left")

    run(main)


def test_a_flood_of_empty_frames_grows_nothing() -> None:
    async def main() -> None:
        async with victim() as (evil, host, heard):
            stream = await opened(evil, host)
            number = 0
            for _ in range(20):
                burst = b"".join(frame(number + at) for at in range(5_000))
                number += 5_000
                await stream.write(burst)
                await until(lambda: heard[-1].sequence == number - 1 if heard else False, "heard")  # noqa: B023
                heard.clear()
            gc.collect()
            await ask(evil, host.peer)
            assert not host.counters.rejects
            await stream.reset()

    run(main)


def test_a_peer_that_asks_for_every_acknowledgement_and_reads_none_ends_its_own_stream_only() -> None:
    async def main() -> None:
        async with victim() as (evil, host, heard):
            stream = await opened(evil, host)
            both = CRITICAL | int(Flags.ACK)
            for sequence in range(2_000):
                await stream.write(frame(sequence, flags=both))
            await until(lambda: len(heard) == 2_000, "all were heard")
            await ask(evil, host.peer)
            await stream.reset()

    run(main)


def test_a_listener_that_speaks_out_of_turn_loses_the_lane() -> None:
    async def speak(stream: Stream) -> None:
        await stream.write(frame(0, message_id=MessageId.HELLO, flags=0))
        await stream.write(frame(1, b"not an acknowledgement"))
        await trio.sleep_forever()

    async def main() -> None:
        changes: list[bool] = []
        async with hosts(config("a"), config("b")) as (a, evil), trio.open_nursery() as nursery:
            for lane in ("bulk", "priority"):
                evil.serve(f"{PREFIX}-{lane}/1", speak)
            lanes = Lanes(a, GENESIS, lambda _peer, _frame: None, lambda _peer, is_open: changes.append(is_open))
            lanes.set_peers(frozenset({evil.peer}))
            nursery.start_soon(lanes.run)
            await a.connect(evil.peer, evil.addresses[0])
            await until(lambda: changes[:2] == [True, False], "the lane closed")
            assert a.counters.rejects["lane_spoke_back"] >= 1
            started_s = trio.current_time()
            await until(lambda: len(changes) >= 8, "it is tried again")
            assert trio.current_time() - started_s > 0.6, "ever more slowly: after 0.1, 0.2 and 0.4 s"
            await ask(a, evil.peer)
            nursery.cancel_scope.cancel()

    run(main)
