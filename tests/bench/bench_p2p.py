"""How fast the transport is on this machine: `python -m tests.bench.bench_p2p`.

Absolute figures drift with the machine; the ratio to py-libp2p's own Noise is from the same run. Both ends of
everything run in one process on one event loop, so that round trips and transfers pay for both sides.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Awaitable, Callable

import trio
from libp2p.abc import IRawConnection, ISecureTransport
from libp2p.connection_types import ConnectionType
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_x25519_key_pair
from libp2p.peer.id import ID
from libp2p.security.noise.transport import Transport as NoiseTransport
from multiaddr import Multiaddr

from p2p.counters import Counters
from p2p.host import Host, HostConfig
from p2p.limits import Limits
from p2p.streams import Stream
from p2p.transport import PqTransport
from tests.p2p.kit import key, network, setup
from tests.p2p.net import LocalIdentity

ECHO = "/trellis/bench-echo/1"
SINK = "/trellis/bench-sink/1"
MESSAGE_BYTES = 3_400
CHUNK_BYTES = 1 << 20


class MemoryConn(IRawConnection):
    """A raw connection without a kernel: what is left is the handshake."""

    def __init__(self, inbox: trio.MemoryReceiveChannel[bytes], outbox: trio.MemorySendChannel[bytes], dialled: bool):
        self.is_initiator = dialled
        self._inbox = inbox
        self._outbox = outbox
        self._buffer = b""

    async def read(self, n: int | None = None) -> bytes:
        if not self._buffer:
            self._buffer = await self._inbox.receive()
        size = len(self._buffer) if n is None else n
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    async def write(self, data: bytes) -> None:
        await self._outbox.send(data)

    async def close(self) -> None:
        self._outbox.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        return None

    def get_transport_addresses(self) -> list[Multiaddr]:
        return []

    def get_connection_type(self) -> ConnectionType:
        return ConnectionType.DIRECT


def memory_pair() -> tuple[MemoryConn, MemoryConn]:
    one_send, one_receive = trio.open_memory_channel[bytes](100)
    other_send, other_receive = trio.open_memory_channel[bytes](100)
    return MemoryConn(other_receive, one_send, True), MemoryConn(one_receive, other_send, False)


async def handshake_cpu_ms(dialer: ISecureTransport, listener: ISecureTransport, peer: ID, rounds: int) -> list[float]:
    """CPU of the process for one handshake, both sides and all threads."""
    spent = []
    for _ in range(rounds):
        one, other = memory_pair()
        started = time.process_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listener.secure_inbound, other)
            await dialer.secure_outbound(one, peer)
        spent.append((time.process_time() - started) * 1_000)
    return sorted(spent)


async def compare_handshakes(rounds: int) -> tuple[list[float], list[float]]:
    """Ours and Noise, in alternating batches: a noisy neighbour hits both."""
    a, b = setup("bench-a"), setup("bench-b")
    ours = [PqTransport(each, Limits(), Counters()) for each in (a, b)]
    pairs = [create_new_key_pair() for _ in range(2)]
    noise = [NoiseTransport(pair, noise_privkey=create_x25519_key_pair().private_key) for pair in pairs]
    noise_peer = ID.from_pubkey(pairs[1].public_key)
    pq_ms: list[float] = []
    noise_ms: list[float] = []
    await handshake_cpu_ms(ours[0], ours[1], ID(b.local.peer), 5)
    await handshake_cpu_ms(noise[0], noise[1], noise_peer, 5)
    for _ in range(max(rounds // 20, 1)):
        pq_ms += await handshake_cpu_ms(ours[0], ours[1], ID(b.local.peer), 20)
        noise_ms += await handshake_cpu_ms(noise[0], noise[1], noise_peer, 20)
    return sorted(pq_ms), sorted(noise_ms)


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def sink(stream: Stream) -> None:
    """Swallows everything, then says how much it was."""
    total = 0
    while data := await stream.read(CHUNK_BYTES):
        total += len(data)
    await stream.write(total.to_bytes(8, "big"))


async def round_trips_ms(host: Host, to: Host, rounds: int) -> list[float]:
    taken = []
    async with await host.open_stream(to.peer, ECHO) as stream:
        for _ in range(rounds):
            started = time.perf_counter()
            await stream.write(bytes(MESSAGE_BYTES))
            await stream.read_exactly(MESSAGE_BYTES)
            taken.append((time.perf_counter() - started) * 1_000)
    return sorted(taken)


async def fresh_streams_ms(host: Host, to: Host, rounds: int) -> list[float]:
    taken = []
    for _ in range(rounds):
        started = time.perf_counter()
        async with await host.open_stream(to.peer, ECHO) as stream:
            await stream.write(b"x")
            await stream.read_exactly(1)
        taken.append((time.perf_counter() - started) * 1_000)
    return sorted(taken)


async def bulk_mb_per_s(host: Host, to: Host, megabytes: int) -> float:
    chunk = bytes(CHUNK_BYTES)
    started = time.perf_counter()
    async with await host.open_stream(to.peer, SINK) as stream:
        for _ in range(megabytes):
            await stream.write(chunk)
        await stream.close_write()
        if int.from_bytes(await stream.read_exactly(8), "big") != megabytes * CHUNK_BYTES:
            raise RuntimeError("bytes were lost")
    return megabytes * CHUNK_BYTES / 1e6 / (time.perf_counter() - started)


def spread(taken_ms: list[float]) -> str:
    return f"{statistics.median(taken_ms):7.2f} ms median, {taken_ms[-1 - len(taken_ms) // 100]:.2f} p99"


def made(name: str) -> Host:
    host = Host(HostConfig(LocalIdentity.of(key(name)), network(), ("/ip4/127.0.0.1/tcp/0",)))
    host.serve(ECHO, echo)
    host.serve(SINK, sink)
    return host


async def measure(rounds: int, megabytes: int) -> None:
    pq_ms, noise_ms = await compare_handshakes(rounds)
    ours, theirs = statistics.median(pq_ms), statistics.median(noise_ms)
    print(f"handshake, CPU of both sides   {ours:7.2f} ms median, {pq_ms[-len(pq_ms) // 20]:.2f} p95   (goal < 10)")
    print(f"  py-libp2p Noise, Ed25519     {theirs:7.2f} ms median   ratio {ours / theirs:.1f}")
    host, other = made("bench-a"), made("bench-b")
    async with host.run(), other.run():
        started = time.perf_counter()
        await host.connect(other.peer, other.addresses[0])
        print(f"dial, handshake, muxer         {(time.perf_counter() - started) * 1_000:7.2f} ms, once")
        trips = await round_trips_ms(host, other, rounds * 5)
        print(f"round trip of 3.4 KB           {spread(trips)}   (goal < 1.5)")
        fresh = await fresh_streams_ms(host, other, rounds)
        print(f"fresh stream and one byte back {spread(fresh)}")
        await bulk_mb_per_s(host, other, 8)
        speeds = [await bulk_mb_per_s(host, other, megabytes) for _ in range(3)]
        print(f"bulk                           {statistics.median(speeds):7.1f} MB/s median of three   (goal >= 80)")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--megabytes", type=int, default=128)
    chosen = parser.parse_args(arguments or [])
    run: Callable[[int, int], Awaitable[None]] = measure
    trio.run(run, chosen.rounds, chosen.megabytes)


if __name__ == "__main__":
    main(sys.argv[1:])
