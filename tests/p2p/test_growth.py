"""Connections and streams that come and go leave nothing behind: no task, no socket, no memory.

The suite runs a slice; the whole of it is `pytest -m slow tests/p2p/test_growth.py`.
"""

from __future__ import annotations

import gc
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import psutil
import pytest
import trio

from p2p.host import Host
from p2p.lanes import Lanes
from p2p.requests import Requests
from p2p.streams import StreamError
from tests.p2p.kit import GENESIS
from tests.p2p.net import ECHO, QUICK, config, hosts, run, until
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

GROWTH_PERCENT = 5
PATIENT = replace(QUICK, knocks_per_address=1 << 20, knocks_per_network=1 << 20)
"""The same address dials a thousand times in a row."""


@dataclass(frozen=True)
class Footprint:
    tasks: int
    sockets: int
    objects: int
    resident_bytes: int

    @classmethod
    def now(cls) -> Footprint:
        gc.collect()
        process = psutil.Process()
        return cls(
            trio.lowlevel.current_statistics().tasks_living,
            process.num_fds(),
            len(gc.get_objects()),
            process.memory_info().rss,
        )


class Node:
    """A host with lanes and requests: what they keep of a peer must go with it."""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.open = False
        self.requests = Requests(host, GENESIS)
        self.requests.serve(MessageId.GET_DATA, answer)
        self.lanes = Lanes(host, GENESIS, self._frame, self._change)

    def _frame(self, _peer: PeerId, _frame: Frame) -> None:
        return

    def _change(self, _peer: PeerId, is_open: bool) -> None:
        self.open = is_open


async def answer(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
    yield MessageId.DATA, bytes(1_000)


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Node, Node]]:
    async with hosts(config("a", limits=PATIENT), config("b", limits=PATIENT)) as (a, b):
        nodes = Node(a), Node(b)
        async with trio.open_nursery() as nursery:
            for node in nodes:
                node.lanes.set_peers(frozenset({a.peer, b.peer}))
                nursery.start_soon(node.lanes.run)
            yield nodes
            nursery.cancel_scope.cancel()


async def without_growth(rounds: int, once: Callable[[int], Awaitable[None]], settled: Callable[[], bool]) -> None:
    """After the first tenth nothing grows by more than `GROWTH_PERCENT`."""
    for number in range(rounds // 10):
        await once(number)
    await until(settled, "the first tenth is over")
    before = Footprint.now()
    for number in range(rounds // 10, rounds):
        await once(number)

    def quiet() -> bool:
        """A peer that was not greeted greets by itself after two seconds: that task is no leak, and ends."""
        tasks = trio.lowlevel.current_statistics().tasks_living
        return settled() and tasks * 100 <= before.tasks * (100 + GROWTH_PERCENT)

    await until(quiet, "all of it is over, and the tasks are as few as before")
    after = Footprint.now()
    print(f"\n{rounds} rounds: {before} -> {after}")
    for what in ("tasks", "sockets", "objects", "resident_bytes"):
        small, large = getattr(before, what), getattr(after, what)
        assert large <= small * (100 + GROWTH_PERCENT) / 100, f"{what} grew from {small} to {large} in {rounds} rounds"


@pytest.mark.parametrize("rounds", [20, pytest.param(1_000, marks=pytest.mark.slow)])
def test_connecting_and_disconnecting_leaves_nothing_behind(rounds: int) -> None:
    async def main() -> None:
        async with pair() as (a, b):

            async def once(number: int) -> None:
                await a.host.connect(b.host.peer, b.host.addresses[0])
                await until(lambda: a.open and b.open, "the lanes are open")
                a.lanes.post(b.host.peer, MessageId.CONSENSUS, bytes(3_400), priority=True)
                await a.requests.ask(b.host.peer, MessageId.GET_DATA, b"", deadline_s=5, max_bytes=2_000)
                await (a, b)[number % 2].host.disconnect((b, a)[number % 2].host.peer)
                await until(lambda: not a.open and not b.open, "the lanes are closed")
                await until(
                    lambda: not a.host.connected(b.host.peer) and not b.host.connected(a.host.peer), "both are alone"
                )

            def settled() -> bool:
                return trio.lowlevel.current_statistics().tasks_living < 60

            await without_growth(rounds, once, settled)
            assert a.requests._peers == {}
            assert b.lanes._incoming == {}

    run(main, deadline_s=600)


@pytest.mark.parametrize("rounds", [400, pytest.param(10_000, marks=pytest.mark.slow)])
def test_opening_streams_leaves_nothing_behind(rounds: int) -> None:
    async def main() -> None:
        async with pair() as (a, b):
            await a.host.connect(b.host.peer, b.host.addresses[0])
            await until(lambda: a.open and b.open, "the lanes are open")
            lanes = a.host.peers()[0].streams

            async def once(number: int) -> None:
                one, other = ((a, b), (b, a))[number % 2]
                match number % 4:
                    case 0:
                        async with await one.host.open_stream(other.host.peer, ECHO) as stream:
                            await stream.write(b"hello")
                            assert await stream.read_exactly(5) == b"hello"
                    case 1:
                        stream = await one.host.open_stream(other.host.peer, ECHO)
                        await stream.write(b"never mind")
                        await stream.reset()
                    case 2:
                        frames = await one.requests.ask(
                            other.host.peer, MessageId.GET_DATA, b"", deadline_s=5, max_bytes=2_000
                        )
                        assert len(frames) == 1
                    case _:
                        with pytest.raises(StreamError):
                            await one.host.open_stream(other.host.peer, "/trellis/nothing/1")

            def settled() -> bool:
                # The lanes', and at most two each way that are kept for the next request.
                return max(each.streams for node in (a, b) for each in node.host.peers()) <= lanes + 4

            await without_growth(rounds, once, settled)
            assert a.open
            assert b.open

    run(main, deadline_s=600)
