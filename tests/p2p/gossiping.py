"""What the gossip tests share: hosts with gossip on loopback, a ledger of transactions, peers that misbehave."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from hashlib import sha3_256

import trio
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossip import Gossip, GossipLimits, Topic, TransactionRelay, TransactionVerdict, Verdict, topic_name
from p2p.gossip.announcement import Announcement, encode_announcement
from p2p.gossip.gossip import Token
from p2p.gossip.outbox import framed
from p2p.host import Host
from p2p.limits import Limits
from p2p.requests import Requests
from p2p.streams import Stream
from tests.p2p.kit import GENESIS
from tests.p2p.net import config, until
from trellis.parameters import Parameters
from trellis.types import PeerId

NAMES = ("a", "b", "c", "d")
CALM = Limits(close_timeout_s=1, stream_linger_s=1)


def item_of(transaction: bytes) -> bytes | None:
    """A stand-in for the witness-inclusive id, as cheap as can be: the codec of transactions is not under test."""
    return sha3_256(transaction).digest() if transaction else None


@dataclass
class Ledger:
    """A pool of transactions; a transaction that begins with `bad` has a bad signature."""

    transactions: dict[bytes, bytes] = field(default_factory=dict)
    came: list[tuple[PeerId, bytes]] = field(default_factory=list)
    relay: TransactionRelay | None = None
    verdicts: Callable[[bytes], TransactionVerdict | None] | None = None

    def put(self, *transactions: bytes) -> list[bytes]:
        ids = []
        for each in transactions:
            item = item_of(each)
            assert item is not None
            self.transactions[item] = each
            ids.append(item)
        return ids

    def have(self, item: bytes) -> bool:
        return item in self.transactions

    def get(self, item: bytes) -> bytes | None:
        return self.transactions.get(item)

    def received(self, peer: PeerId, transactions: Sequence[tuple[bytes, bytes]]) -> None:
        assert self.relay is not None
        for item, transaction in transactions:
            self.came.append((peer, item))
            verdict: TransactionVerdict | None = TransactionVerdict.GOOD
            if transaction.startswith(b"bad"):
                verdict = TransactionVerdict.BAD_SIGNATURE
            if self.verdicts is not None:
                verdict = self.verdicts(transaction)
            if verdict is TransactionVerdict.GOOD:
                self.transactions[item] = transaction
            if verdict is not None:
                self.relay.verdict(item, verdict)


@dataclass
class Node:
    host: Host
    gossip: Gossip
    requests: Requests
    ledger: Ledger
    relay: TransactionRelay
    heard: list[tuple[PeerId, bytes]] = field(default_factory=list)

    @property
    def peer(self) -> PeerId:
        return self.host.peer

    def rejects(self, fault: str) -> int:
        return self.host.counters.rejects[fault]


def limits(**changes: object) -> GossipLimits:
    return replace(GossipLimits.of(Parameters()), **changes)  # type: ignore[arg-type] # a test names a field and its value


def node(name: str, gossip_limits: GossipLimits | None = None, riding_bytes: int = 0, book: object = None) -> Node:
    host = Host(config(name, limits=CALM))
    gossip = Gossip(host, GENESIS, gossip_limits or limits(), book)  # type: ignore[arg-type] # a fake at a port
    requests = Requests(host, GENESIS)
    ledger = Ledger()
    relay = TransactionRelay(gossip, requests, ledger, item_of, riding_bytes=riding_bytes)
    ledger.relay = relay
    made = Node(host, gossip, requests, ledger, relay)

    def heard(peer: PeerId, data: bytes, _token: Token) -> Verdict:
        made.heard.append((peer, data))
        return Verdict.REJECT if data.startswith(b"reject") else Verdict.ACCEPT

    gossip.on_message(Topic.BLOCKS, heard)
    return made


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    async with AsyncExitStack() as stack:
        for each in nodes:
            await stack.enter_async_context(each.host.run())
        nursery = await stack.enter_async_context(trio.open_nursery())
        for each in nodes:
            await nursery.start(each.gossip.run)
            await nursery.start(each.relay.run)
        yield
        nursery.cancel_scope.cancel()


async def meet(*pairs: tuple[Node, Node]) -> None:
    """Connects, and waits until both are in each other's meshes."""
    for one, other in pairs:
        await one.host.connect(other.peer, other.host.addresses[0])
    for one, other in pairs:
        for topic in Topic:
            await until(
                lambda one=one, other=other, topic=topic: (  # type: ignore[misc] # bound here
                    other.peer in one.gossip.mesh(topic) and one.peer in other.gossip.mesh(topic)
                ),
                f"meshed on {topic}",
            )


def all_pairs(nodes: Sequence[Node]) -> list[tuple[Node, Node]]:
    return [(one, other) for at, one in enumerate(nodes) for other in nodes[at + 1 :]]


MESHSUB = "/meshsub/1.1.0"


@dataclass
class Stranger:
    """A member of the network that speaks gossipsub by hand: it hears every RPC, and says what a test wants."""

    host: Host
    requests: Requests
    rpcs: list[rpc_pb2.RPC] = field(default_factory=list)
    streams: dict[PeerId, Stream] = field(default_factory=dict)

    @property
    def peer(self) -> PeerId:
        return self.host.peer

    async def listen(self, stream: Stream) -> None:
        while True:
            size = shift = 0
            while True:
                byte = await stream.read(1)
                if not byte:
                    return
                size |= (byte[0] & 0x7F) << shift
                shift += 7
                if byte[0] < 0x80:
                    break
            self.rpcs.append(rpc_pb2.RPC.FromString(await stream.read_exactly(size)))

    async def meet(self, to: Node) -> None:
        await self.host.connect(to.peer, to.host.addresses[0])
        await until(lambda: bool(self.rpcs), "the node says hello")

    async def say(self, to: Node, rpc: rpc_pb2.RPC | bytes, *, raw: bool = False) -> None:
        """Raw: as it is, without a length before it."""
        if to.peer not in self.streams:
            self.streams[to.peer] = await self.host.open_stream(to.peer, MESHSUB)
        data = rpc if isinstance(rpc, bytes) else rpc.SerializeToString()
        await self.streams[to.peer].write(data if raw else framed(data))

    async def subscribe(self, to: Node, *topics: Topic) -> None:
        names = [topic_name(GENESIS, topic) for topic in topics or Topic]
        await self.say(
            to, rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=each) for each in names])
        )

    async def publish(self, to: Node, topic: Topic, *data: bytes) -> None:
        name = topic_name(GENESIS, topic)
        await self.say(to, rpc_pb2.RPC(publish=[rpc_pb2.Message(data=each, topicIDs=[name]) for each in data]))

    async def announce(self, to: Node, *ids: bytes, riding: tuple[tuple[int, bytes], ...] = ()) -> None:
        await self.publish(to, Topic.TXS, encode_announcement(Announcement(ids, riding)))

    def messages(self) -> list[rpc_pb2.Message]:
        return [message for rpc in self.rpcs for message in rpc.publish]


@asynccontextmanager
async def stranger(name: str = "stranger") -> AsyncIterator[Stranger]:
    host = Host(config(name, limits=CALM))
    made = Stranger(host, Requests(host, GENESIS))
    host.serve(MESHSUB, made.listen)
    async with host.run():
        yield made
