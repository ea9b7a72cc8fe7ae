"""Quick streams between hosts: nothing is lost, nothing deadlocks, and a lone message costs one frame."""

from __future__ import annotations

import trio
from libp2p.stream_muxer.yamux import yamux

from p2p.muxstream import MAX_GROWN_BYTES
from p2p.streams import Stream
from tests.p2p.net import ECHO, STUCK, config, hosts, run, until

COUNT = "/trellis/test-count/1"


def test_a_transfer_larger_than_any_window_arrives_whole_both_ways() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            data = bytes(range(256)) * 40_000
            stream = await a.open_stream(b.peer, ECHO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.write, data)
                assert await stream.read_exactly(len(data)) == data
            await stream.close()

    run(main)


def test_a_reader_in_small_steps_never_starves_its_writer() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            heard = 0

            async def count(stream: Stream) -> None:
                nonlocal heard
                while data := await stream.read(997):
                    heard += len(data)

            b.serve(COUNT, count)
            await a.connect(b.peer, b.addresses[0])
            async with await a.open_stream(b.peer, COUNT) as stream:
                for size in (1, 65_524, 200_000, 262_144, 1_000_000):
                    await stream.write(bytes(size))
            await until(lambda: heard == 1_527_669, "all was heard")

    run(main)


def test_small_messages_one_way_bring_no_frame_back_each() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            heard = 0

            async def count(stream: Stream) -> None:
                nonlocal heard
                while data := await stream.read():
                    heard += len(data)

            b.serve(COUNT, count)
            await a.connect(b.peer, b.addresses[0])
            async with await a.open_stream(b.peer, COUNT) as stream:
                before = b.peers()[0].bytes_out
                for number in range(500):
                    await stream.write(bytes(100))
                    while heard < 100 * (number + 1):
                        await trio.sleep(0)
                # Pings, and identify with its key of 2 KB; an update each would be 500 records of 32 bytes.
                assert b.peers()[0].bytes_out - before < 8_000

    run(main)


def test_the_windows_of_one_connection_grow_within_one_bound() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            await until(lambda: b.connected(a.peer), "both know")
            muxed = b._connections[a.peer][0].muxed
            streams = [await a.open_stream(b.peer, ECHO) for _ in range(6)]
            served = [each for each in muxed.streams.values() if not each.is_initiator][-6:]
            for each in served:
                for _ in range(8):
                    # As after a window's worth was read within a round trip.
                    each.epoch_start = trio.current_time()
                    each._apply_autotune_epoch(0)
            windows = [each.target_recv_window for each in served]
            assert max(windows) == yamux.MAX_WINDOW_SIZE
            assert sum(windows) - len(windows) * yamux.DEFAULT_WINDOW_SIZE == muxed.grown_bytes <= MAX_GROWN_BYTES
            for stream in streams:
                await stream.reset()
            await until(lambda: muxed.grown_bytes == 0, "their room is given back")

    run(main)


def test_streams_that_end_leave_nothing_in_the_muxer_not_even_what_was_unread() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            await until(lambda: b.connected(a.peer), "both know")
            muxers = [a._connections[b.peer][0].muxed, b._connections[a.peer][0].muxed]
            await until(lambda: not any(muxed.streams for muxed in muxers), "identify is over")
            for _ in range(20):
                async with await a.open_stream(b.peer, ECHO) as stream:
                    await stream.write(b"hello")
                    assert await stream.read_exactly(5) == b"hello"
                stream = await a.open_stream(b.peer, STUCK)
                await stream.write(bytes(100_000))
                await stream.reset()
            await until(lambda: not any(muxed.streams for muxed in muxers), "no stream")
            await until(lambda: not any(muxed.stream_buffers for muxed in muxers), "no byte")
            assert not any(muxed.stream_events for muxed in muxers)

    run(main)


def test_a_stream_that_both_ends_closed_is_forgotten_with_what_was_unread() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            stream = await a.open_stream(b.peer, STUCK)
            muxed = b._connections[a.peer][0].muxed
            await stream.write(bytes(100_000))
            await stream.close_write()
            await until(lambda: 100_000 in map(len, muxed.stream_buffers.values()), "all has come, and is not read")
            (served,) = [
                each for each in muxed.streams.values() if len(muxed.stream_buffers[each.stream_id]) == 100_000
            ]
            await until(lambda: served.recv_closed, "the end has come")
            await served.close()
            await served.reset()
            assert served.stream_id not in muxed.stream_buffers

    run(main)
