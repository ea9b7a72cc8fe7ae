"""A node's network side without a node: what `trellis p2p` runs. A host, requests, gossip, and a stub chain.

Two of them find each other on a test network of their own (`TOOL_NETWORK`), or on a real one whose genesis is given,
where they are admitted only if the other side's allowlist has their key.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from hashlib import sha3_256
from typing import Final

import trio

from node.stubchain import StubChain
from p2p.dialing import PeerAddress
from p2p.gossip.gossip import Gossip, GossipLimits, Token, Verdict
from p2p.gossip.topics import Topic
from p2p.handshake import LocalIdentity, Network
from p2p.health import Proven, proven
from p2p.host import Host, HostConfig
from p2p.requests import Requests
from p2p.streams import Stream, StreamEnd, StreamError
from trellis.parameters import Parameters
from trellis.types import Hash, PeerId

TOOL_NETWORK: Final = Network(
    Hash(sha3_256(b"trellis p2p: a network for trying things out").digest()),
    Hash(sha3_256(b"trellis p2p: its algorithm policy").digest()),
)
"""Nobody's chain: the same in every copy of this software, so that two shells understand each other."""

PING: Final = "/ipfs/ping/1.0.0"
PING_BYTES: Final = 32
RECEIPTS: Final = "/trellis/tool-receipts/1"
"""A stream on which a publisher asks how many of its messages arrived: RUN → number u32, how often it likes."""
RUN_BYTES: Final = 16
MAX_RUNS: Final = 1_024
"""Publishers that a listener keeps count for: each run is an identity that costs nothing."""
IDENTIFY_S: Final = 3


@dataclass(frozen=True, slots=True)
class Met:
    """A connection that stands."""

    proven: Proven
    address: str
    connect_ms: float
    """TCP, agreement on the protocol, handshake and muxer."""
    handshake_ms: float
    agent: str
    protocols: tuple[str, ...]


class Tool:
    """See the module's text."""

    def __init__(self, identity: LocalIdentity, network: Network, listen: tuple[str, ...]) -> None:
        self.network = network
        self.host = Host(HostConfig(identity, network, listen, agent="trellis-p2p"))
        self.requests = Requests(self.host, network.genesis_hash)
        self.gossip = Gossip(self.host, network.genesis_hash, GossipLimits.of(Parameters()))
        self.received: Counter[str] = Counter()
        """Gossip messages, by topic."""
        self._runs: OrderedDict[bytes, int] = OrderedDict()
        for topic in Topic:
            self.gossip.on_message(topic, self._heard(topic))
        self.host.serve(RECEIPTS, self._tell_receipts)

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """`OSError` if an address is taken."""
        async with self.host.run(), trio.open_nursery() as nursery:
            await nursery.start(self.gossip.run)
            yield
            nursery.cancel_scope.cancel()

    def serve_chain(self, heights: int, transactions: int) -> None:
        StubChain.make(self.network.genesis_hash, heights, transactions).serve(self.requests)

    async def meet(self, to: PeerAddress) -> Met:
        """`DialError` if the peer cannot be reached, or refuses."""
        (address,) = to.addresses
        began = time.perf_counter()
        await self.host.connect(to.peer, address)
        connect_ms = (time.perf_counter() - began) * 1_000
        handshake_ms = self.host.counters.handshake_us / max(self.host.counters.handshakes, 1) / 1_000
        with trio.move_on_after(IDENTIFY_S):
            while self.host.libp2p.introduction_of(to.peer) is None:
                await trio.sleep(0.005)
        told = self.host.libp2p.introduction_of(to.peer)
        return Met(
            proven=proven(self.host, to.peer),
            address=address,
            connect_ms=connect_ms,
            handshake_ms=handshake_ms,
            agent="" if told is None else told.agent,
            protocols=() if told is None else tuple(sorted(told.protocols)),
        )

    async def ping(
        self, peer: PeerId, count: int, interval_s: float, seen: Callable[[int, float], None]
    ) -> list[float]:
        """Round trips in milliseconds; `seen(number, ms)` is called for each as it comes back."""
        trips: list[float] = []
        async with await self.host.open_stream(peer, PING) as stream:
            for number in range(1, count + 1):
                if number > 1:
                    await trio.sleep(interval_s)
                sent = number.to_bytes(PING_BYTES, "big")
                began = time.perf_counter()
                await stream.write(sent)
                if await stream.read_exactly(PING_BYTES) != sent:
                    raise StreamError(StreamEnd.RESET, "the peer sent other bytes back")
                trips.append((time.perf_counter() - began) * 1_000)
                seen(number, trips[-1])
        return trips

    # Gossip.

    def _heard(self, topic: Topic) -> Callable[[PeerId, bytes, Token], Verdict]:
        def heard(_peer: PeerId, data: bytes, _token: Token) -> Verdict:
            self.received[topic] += 1
            run = data[:RUN_BYTES]
            self._runs[run] = self._runs.pop(run, 0) + 1
            if len(self._runs) > MAX_RUNS:
                self._runs.popitem(last=False)
            return Verdict.ACCEPT

        return heard

    async def _tell_receipts(self, stream: Stream) -> None:
        while True:
            run = await stream.read_exactly(RUN_BYTES)
            await stream.write(self._runs.get(run, 0).to_bytes(4, "big"))

    async def wait_for_mesh(self, topic: Topic, deadline_s: float) -> bool:
        """Whether a peer listens to the topic: libp2p needs a heartbeat to tell."""
        with trio.move_on_after(deadline_s):
            while not self.gossip.mesh(topic):
                await trio.sleep(0.02)
        return bool(self.gossip.mesh(topic))

    async def publish(self, topic: Topic, count: int, size_bytes: int, rate: int) -> bytes:
        """`count` different messages, `rate` a second; the run under which a listener counts them."""
        run = secrets.token_bytes(RUN_BYTES)
        began = trio.current_time()
        for number in range(count):
            await trio.sleep_until(began + number / rate)
            body = run + number.to_bytes(4, "big")
            self.gossip.publish(topic, body + bytes(size_bytes - len(body)))
        return run

    async def delivered(self, peer: PeerId, run: bytes, count: int, quiet_s: float) -> int:
        """How many of a run the peer has: asked until it has all, or no more have come for so long."""
        arrived, since = 0, trio.current_time()
        async with await self.host.open_stream(peer, RECEIPTS) as stream:
            while arrived < count and trio.current_time() < since + quiet_s:
                await stream.write(run)
                now = int.from_bytes(await stream.read_exactly(4), "big")
                if now > arrived:
                    arrived, since = now, trio.current_time()
                await trio.sleep(0.02)
        return arrived
