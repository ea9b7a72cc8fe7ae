"""How fast lanes and requests are on this machine: `python -m tests.bench lanes`.

The flood between two processes is what a pair of validators has, if each has a core. All other figures have both ends
in one process on one event loop and pay for both sides: encode, seal, socket, open, decode, callback. CPU figures hold
on a busy machine too, wall-clock ones do not.
"""

from __future__ import annotations

import argparse
import socket
import statistics
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import psutil
import trio

from p2p.host import Host, HostConfig
from p2p.lanes import Lanes
from p2p.requests import Requests
from tests.p2p.kit import GENESIS, key, network
from tests.p2p.lane_process import member, peer_of, started
from tests.p2p.net import LocalIdentity
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

VOTE_BYTES = 3_400
BODY_BYTES = 1 << 20


def made(name: str) -> Host:
    return Host(HostConfig(LocalIdentity.of(key(name)), network(), ("/ip4/127.0.0.1/tcp/0",)))


class Ends:
    """Two hosts with a lane each way; counts what the second one hears."""

    def __init__(self) -> None:
        self.hosts = made("lane-a"), made("lane-b")
        self.heard: dict[int, int] = {}
        self.delays_ms: list[float] = []
        self.opened = trio.Event()
        self.enough = trio.Event()
        self.wanted = (MessageId.CONSENSUS, 0)
        self.lanes = [Lanes(each, GENESIS, self._frame, self._change) for each in self.hosts]

    def _change(self, _peer: PeerId, is_open: bool) -> None:
        if is_open:
            self.opened.set()

    def _frame(self, _peer: PeerId, frame: Frame) -> None:
        kind = frame.message_id
        self.heard[kind] = self.heard.get(kind, 0) + 1
        if kind == MessageId.PING:
            sent_ns = int.from_bytes(frame.payload[:8], "big")
            self.delays_ms.append((time.perf_counter_ns() - sent_ns) / 1e6)
        if kind == self.wanted[0] and self.heard[kind] >= self.wanted[1]:
            self.enough.set()

    def want(self, kind: MessageId, number: int) -> None:
        self.heard.clear()
        self.wanted = (kind, number)
        self.enough = trio.Event()

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        one, other = self.hosts
        async with one.run(), other.run(), trio.open_nursery() as nursery:
            for lanes in self.lanes:
                lanes.set_peers(frozenset({one.peer, other.peer}))
                nursery.start_soon(lanes.run)
            await one.connect(other.peer, other.addresses[0])
            await self.opened.wait()
            while not all(depth.open for lanes in self.lanes for depth in lanes.depths().values()):
                await trio.sleep(0.01)
            yield
            nursery.cancel_scope.cancel()

    async def flood(self, kind: MessageId, size: int, number: int, *, priority: bool) -> tuple[float, float]:
        """Seconds and CPU seconds until `number` messages were heard; a poster that looks at its queue loses none."""
        self.want(kind, number)
        lanes, to = self.lanes[0], self.hosts[1].peer
        payload = bytes(size)
        started_s, cpu = time.perf_counter(), time.process_time()
        for _ in range(number):
            if not lanes.post(to, kind, payload, priority=priority):
                raise RuntimeError(
                    f"dropped: {dict(lanes.counters.drops)}, {[dict(each.counters.rejects) for each in self.hosts]}"
                )
            while lanes.depths()[to].queued_bytes > 1 << 20 or lanes.depths()[to].queued_frames > 2_000:
                await trio.sleep(0.001)
        await self.enough.wait()
        if lanes.counters.drops or self.lanes[1].counters.gaps:
            raise RuntimeError("messages were lost")
        return time.perf_counter() - started_s, time.process_time() - cpu

    async def paced(self, size: int, number: int) -> float:
        """CPU microseconds of one message when each goes alone."""
        lanes, to = self.lanes[0], self.hosts[1].peer
        payload = bytes(size)
        cpu = time.process_time()
        for _ in range(number):
            self.want(MessageId.CONSENSUS, 1)
            lanes.post(to, MessageId.CONSENSUS, payload, priority=True)
            await self.enough.wait()
        return (time.process_time() - cpu) / number * 1e6

    async def vote_delays_ms(self, bodies: int) -> list[float]:
        """How long votes take from post to callback while bodies flow on the same lane."""
        self.delays_ms.clear()
        self.want(MessageId.PING, 100)
        lanes, to = self.lanes[0], self.hosts[1].peer
        async with trio.open_nursery() as nursery:

            async def feed() -> None:
                while bodies:
                    if lanes.depths()[to].queued_bytes < 2 << 20:
                        lanes.post(to, MessageId.BODY_RESPONSE, bytes(4 << 20))
                    await trio.sleep(0.002)

            nursery.start_soon(feed)
            for _ in range(100):
                await trio.sleep(0.005)
                stamp = time.perf_counter_ns().to_bytes(8, "big")
                lanes.post(to, MessageId.PING, stamp + bytes(VOTE_BYTES), priority=True)
            await self.enough.wait()
            nursery.cancel_scope.cancel()
        return sorted(self.delays_ms)


class Far:
    """The flooding side; the other one is a process of its own, which answers how much it has heard."""

    def __init__(self, ports: list[int]) -> None:
        addresses = [f"/ip4/127.0.0.1/tcp/{port}" for port in ports]
        self.host = member("near", addresses[0], "far", addresses[1])
        self.process = started("far", addresses[1], "near", addresses[0])
        self.to = peer_of("far")
        self.opened = trio.Event()
        self.answered = trio.Event()
        self.answer = b""
        self.lanes = Lanes(self.host, GENESIS, self._frame, self._change)
        self.lanes.set_peers(frozenset({self.to}))

    def _change(self, _peer: PeerId, is_open: bool) -> None:
        if is_open:
            self.opened.set()

    def _frame(self, _peer: PeerId, frame: Frame) -> None:
        self.answer = frame.payload
        self.answered.set()

    async def ask(self) -> tuple[int, int]:
        """Frames heard so far, and bytes of memory."""
        self.answered = trio.Event()
        self.lanes.post(self.to, MessageId.PING, b"", priority=True)
        await self.answered.wait()
        return int.from_bytes(self.answer[:8], "big"), int.from_bytes(self.answer[8:], "big")

    async def flood(self, messages: int) -> None:
        payload = bytes(VOTE_BYTES)
        for _ in range(messages):
            if not self.lanes.post(self.to, MessageId.CONSENSUS, payload, priority=True):
                raise RuntimeError(f"dropped: {dict(self.lanes.counters.drops)}")
            while self.lanes.depths()[self.to].queued_bytes > 1 << 20:
                await trio.sleep(0.001)


def cpu_s(pid: int) -> float:
    times = psutil.Process(pid).cpu_times()
    return times.user + times.system


async def measure_processes(messages: int) -> None:
    with socket.socket() as one, socket.socket() as other:
        for each in (one, other):
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in (one, other)]
    far = Far(ports)
    async with far.host.run(), far.process as process, trio.open_nursery() as nursery:
        nursery.start_soon(far.lanes.run)
        await far.opened.wait()
        await far.flood(messages // 10)
        before, before_bytes = await far.ask()
        near_cpu_s, far_cpu_s = time.process_time(), cpu_s(process.pid)
        started_s = time.perf_counter()
        await far.flood(messages)
        after, after_bytes = await far.ask()
        taken_s = time.perf_counter() - started_s
        near_cpu_s, far_cpu_s = time.process_time() - near_cpu_s, cpu_s(process.pid) - far_cpu_s
        if after - before != messages + 1:
            raise RuntimeError(f"{messages + 1 - (after - before)} messages were lost")
        grown = (after_bytes - before_bytes) / 1e6
        print(
            f"flood to a process, 3.4 KB {messages / taken_s:7,.0f} messages/s, none lost, {grown:+.1f} MB; CPU each "
            f"{near_cpu_s / messages * 1e6:.1f} us here, {far_cpu_s / messages * 1e6:.1f} us there   (goal >= 8,000)"
        )
        nursery.cancel_scope.cancel()


async def chunks(_peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
    chunk = bytes(BODY_BYTES)
    for _ in range(int(payload)):
        yield MessageId.BLOCKS, chunk


async def measure(messages: int, megabytes: int) -> None:
    await measure_processes(messages)
    ends = Ends()
    process = psutil.Process()
    async with ends.running():
        for size, kind in ((VOTE_BYTES, "3.4 KB"), (200, "200 B")):
            await ends.flood(MessageId.CONSENSUS, size, messages // 10, priority=True)
            before = process.memory_info().rss
            taken, cpu = await ends.flood(MessageId.CONSENSUS, size, messages, priority=True)
            grown = (process.memory_info().rss - before) / 1e6
            print(
                f"flood in one process, {kind:6} {messages / taken:6,.0f} messages/s, "
                f"{cpu / messages * 1e6:.1f} us CPU each, {grown:+.1f} MB"
            )
        print(f"a vote by itself           {await ends.paced(VOTE_BYTES, messages // 20):7,.0f} us CPU")
        taken, cpu = await ends.flood(MessageId.BODY_RESPONSE, BODY_BYTES, megabytes, priority=False)
        sent = megabytes * BODY_BYTES / 1e6
        print(f"bodies of 1 MiB            {sent / taken:7.1f} MB/s, {sent / cpu:.1f} MB a CPU second   (goal >= 80)")
        for bodies in (0, 1):
            delays = await ends.vote_delays_ms(bodies)
            what = "beside bodies of 4 MiB" if bodies else "on an idle lane"
            print(f"vote {what:21} {statistics.median(delays):8.2f} ms median, {delays[-2]:.2f} p99")
        await measure_requests(ends, megabytes)


async def measure_requests(ends: Ends, megabytes: int) -> None:
    one, other = (Requests(each, GENESIS) for each in ends.hosts)
    other.serve(MessageId.GET_BLOCKS, chunks)
    to = ends.hosts[1].peer
    for kept in (0, 2):
        trips = []
        for _ in range(300):
            if not kept:
                for line in one._peers[to].idle if to in one._peers else ():
                    await line.stream.reset()
            started_s = time.perf_counter()
            await one.ask(to, MessageId.GET_BLOCKS, b"0", deadline_s=5, max_bytes=1_000)
            trips.append((time.perf_counter() - started_s) * 1_000)
        trips.sort()
        what = "kept stream" if kept else "fresh stream"
        print(f"empty request, {what:12} {statistics.median(trips):7.2f} ms median, {trips[-3]:.2f} p99")
    started_s, cpu = time.perf_counter(), time.process_time()
    async with one.asking(
        to, MessageId.GET_BLOCKS, str(megabytes).encode(), deadline_s=60, max_bytes=megabytes * BODY_BYTES
    ) as answer:
        got = 0
        async for frame in answer:
            got += len(frame.payload)
    taken, cpu = time.perf_counter() - started_s, time.process_time() - cpu
    print(f"one answer of 1 MiB frames {got / 1e6 / taken:7.1f} MB/s, {got / 1e6 / cpu:.1f} MB a CPU second")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--megabytes", type=int, default=128)
    chosen = parser.parse_args(arguments or [])
    trio.run(measure, chosen.messages, chosen.megabytes)


if __name__ == "__main__":
    main(sys.argv[1:])
