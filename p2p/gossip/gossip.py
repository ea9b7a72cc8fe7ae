"""Topics: what this node says to all, what it hears, and its verdict on that before anybody else hears it.

    gossip = Gossip(host, genesis_hash, GossipLimits.of(genesis.parameters), book)
    gossip.on_message(Topic.BLOCKS, heard)      # heard(peer, data, token) -> Verdict; None: gossip.verdict later
    await nursery.start(gossip.run)             # while the host runs
    gossip.publish(Topic.BLOCKS, data)

Every message waits here until its verdict: ACCEPT sends it on to the mesh, IGNORE does not, REJECT is held against who
sent it. Gossip is lossy by design: whatever is needed can be pulled.
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NewType, assert_never

import trio
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossip.buckets import PeerBuckets
from p2p.gossip.pubsub import GuardedPubsub
from p2p.gossip.router import GuardedRouter
from p2p.gossip.rpc import MAX_CONTROL_BYTES, is_anonymous
from p2p.gossip.scoring import BookPort, GossipFault, Scores
from p2p.gossip.seen import SeenSet
from p2p.gossip.topics import ONE_HOP, Topic, TopicLimits, served_bytes_per_s, topic_limits, topic_name
from p2p.host import Host
from trellis.encoding import lp
from trellis.hashing import Tag, hash_tagged
from trellis.parameters import Parameters
from trellis.types import Hash, PeerId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

logger = logging.getLogger(__name__)

TICK_S: Final = 1
MAX_TRACKED_PEERS: Final = 1_024
"""Peers whose buckets are kept, connected or not: reconnecting refills none, and new identities fill no memory."""
RPC_UNIT_BYTES: Final = 4_096
"""An RPC counts once, and once more for each of these: hashing and decoding cost by the byte."""

Token = NewType("Token", int)
"""A message that waits for its verdict."""


class Verdict(Enum):
    ACCEPT = "accept"
    IGNORE = "ignore"
    """Not to be passed on, and nobody's fault."""
    REJECT = "reject"


Callback = Callable[[PeerId, bytes, Token], Verdict | None]
"""Says what is to become of a message, or None: then `Gossip.verdict` is called for its token later. Must not block."""


@dataclass(frozen=True, slots=True)
class GossipLimits:
    """Every cap of gossip that is not a constant beside its use; the comment of each names what it stops."""

    topics: Mapping[Topic, TopicLimits]
    served_bytes_per_s: int
    """Pulled by one peer: our uplink and disk."""
    rpcs_per_s: int = 2_000
    """Of one peer, large ones counted several times; more are read later, not dropped: a flood of small ones."""
    seen: int = 32_768
    """Message ids remembered of each topic: a flood on one topic forgets nothing of another."""
    held: int = 1_024
    """Messages that wait for a verdict: a flood of what is slow to check."""
    held_bytes: int = 32 << 20
    held_by_peer: int = 256
    """Of those: one peer's flood must leave places for others."""
    hold_s: int = 10

    @classmethod
    def of(cls, parameters: Parameters) -> GossipLimits:
        return cls(topic_limits(parameters), served_bytes_per_s(parameters))


@dataclass(slots=True)
class GossipCounters:
    """Read by metrics: `p2p_msgs_total{topic}`, `p2p_gossip_fanout`. Faults are in the host's `rejects`."""

    messages: Counter[str] = field(default_factory=Counter)
    """New messages heard, by topic."""
    published: Counter[str] = field(default_factory=Counter)
    duplicates: int = 0
    forwarded: int = 0
    """Sendings of messages, ours and others', to one peer each."""
    fanout: int = 0
    """How many peers the last message went to."""


@dataclass(frozen=True, slots=True)
class GossipHealth:
    """Queue depths, for the health snapshot."""

    peers: int
    mesh: Mapping[str, int]
    outbox_messages: int
    outbox_bytes: int
    held: int
    held_bytes: int
    seen: int
    cached_bytes: int
    with_demerits: int


@dataclass(slots=True)
class _Held:
    topic: Topic
    mid: bytes
    data: bytes
    senders: list[PeerId]
    """Who has the message already; the first one brought it."""
    at_s: float


def message_id(name: str, data: bytes) -> Hash:
    """Of the content alone: the same message is the same whoever sends it."""
    return hash_tagged(Tag.MESSAGE, lp(name.encode()), data)


class Gossip:
    """See the module's text. Make it before the host listens."""

    def __init__(
        self,
        host: Host,
        genesis_hash: Hash,
        limits: GossipLimits,
        book: BookPort | None = None,
        *,
        banned: Callable[[PeerId], None] = lambda _peer: None,
    ) -> None:
        """`banned`: the book has just banned this peer. Whether its connection ends is the node's to decide."""
        self.host = host
        self.limits = limits
        self.counters = GossipCounters()
        self.scores = Scores(book, host.counters.rejects, banned)
        self._names = {topic: topic_name(genesis_hash, topic) for topic in Topic}
        self._topics = {name: topic for topic, name in self._names.items()}
        self._callbacks: dict[Topic, Callback] = {}
        self._seen = {topic: SeenSet(limits.seen) for topic in Topic}
        self._held: dict[Token, _Held] = {}
        self._held_ids: dict[bytes, Token] = {}
        self._held_by: Counter[PeerId] = Counter()
        self._held_bytes = 0
        self._tokens = itertools.count(1)
        self._buckets: OrderedDict[PeerId, PeerBuckets] = OrderedDict()
        self._behind: set[PeerId] = set()
        self._failure: Exception | None = None
        self._failed = trio.Event()
        names = frozenset(self._topics)
        self._router = GuardedRouter(self._knows, names, self._fault_of)
        most = max(each.message_bytes for each in limits.topics.values()) + MAX_CONTROL_BYTES
        self._pubsub = GuardedPubsub(host.libp2p, self._router, names, most)
        self._pubsub.wire(self._hear, self._pace, self.trusts, self._fault_of)
        host.on_connect(self._pubsub.connected)
        host.on_disconnect(self._pubsub.disconnected)

    def on_message(self, topic: Topic, callback: Callback) -> None:
        self._callbacks[topic] = callback

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises what a callback raised: that is our own fault, never a peer's."""
        async with trio.open_nursery() as nursery:
            try:
                await self._pubsub.start(nursery)
                for peer in {each.peer for each in self.host.peers()}:
                    self._pubsub.connected(peer)
                nursery.start_soon(self._beat)
                nursery.start_soon(self._tick)
                task_status.started()
                await self._failed.wait()
                if self._failure is not None:
                    raise self._failure
            finally:
                self._pubsub.stop()

    async def _beat(self) -> None:
        """libp2p's heartbeat; it is given up and begun again where something in it fails."""
        while True:
            try:
                await self._router.heartbeat()
            except Exception as fault:  # libp2p's tables may be inconsistent in ways that peers bring about
                logger.debug("heartbeat failed: %s", fault)
                self.scores.count(GossipFault.BROKEN)
                await trio.sleep(TICK_S)

    async def _tick(self) -> None:
        while True:
            await trio.sleep(TICK_S)
            self.scores.tell(self.now_ms())
            expired_s = trio.current_time() - self.limits.hold_s
            for token in [token for token, held in self._held.items() if held.at_s <= expired_s]:
                self.scores.count(GossipFault.UNDECIDED)
                self._release(token)

    @staticmethod
    def now_ms() -> int:
        return int(trio.current_time() * 1_000)

    # Saying.

    def publish(self, topic: Topic, data: bytes) -> int:
        """To the mesh; how many peers it was handed to. Nothing is retried: whoever misses it pulls."""
        if len(data) > self.limits.topics[topic].message_bytes:
            raise ValueError(f"{len(data)} bytes on {topic}: peers take {self.limits.topics[topic].message_bytes}")
        name = self._names[topic]
        mid = message_id(name, data)
        self._seen[topic].add(mid)
        self.counters.published[topic] += 1
        return self._send(name, mid, data, ())

    def _send(self, name: str, mid: bytes, data: bytes, without: tuple[PeerId, ...]) -> int:
        sent = self._router.forward(name, mid, data, tuple(map(ID, without)))
        self.counters.fanout = sent
        self.counters.forwarded += sent
        return sent

    # Hearing.

    def buckets(self, peer: PeerId) -> PeerBuckets:
        known = self._buckets.get(peer)
        if known is None:
            limits = self.limits
            known = PeerBuckets(limits.topics, limits.rpcs_per_s, limits.served_bytes_per_s, self.now_ms())
            self._buckets[peer] = known
            if len(self._buckets) > MAX_TRACKED_PEERS:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(peer)
        return known

    def _pace(self, peer: PeerId, size_bytes: int) -> float:
        return self.buckets(peer).rpcs.owe(1 + size_bytes // RPC_UNIT_BYTES, self.now_ms()) / 1_000

    def trusts(self, peer: PeerId) -> bool:
        """Whether the peer's gossip is listened to."""
        return not self.scores.throttled(peer, self.now_ms())

    def _knows(self, peer: ID, mid: bytes) -> bool:
        from_peer = mid + peer.to_bytes()
        return any((from_peer if topic in ONE_HOP else mid) in seen for topic, seen in self._seen.items())

    def _fault_of(self, peer: ID | None, fault: GossipFault) -> None:
        if peer is None:
            self.scores.count(fault)
        else:
            if fault is GossipFault.OUTBOX_FULL:
                self._behind.add(PeerId(peer.to_bytes()))
            self.fault(PeerId(peer.to_bytes()), fault)

    def fell_behind(self) -> set[PeerId]:
        """Peers that missed messages since this was asked last, because they did not read."""
        behind, self._behind = self._behind, set()
        return behind

    def fault(self, peer: PeerId, fault: GossipFault, number: int = 1) -> None:
        self.scores.fault(peer, fault, self.now_ms(), number)

    def _hear(self, peer: PeerId, rpc: rpc_pb2.RPC) -> None:
        now_ms = self.now_ms()
        for message in rpc.publish:
            if self.scores.throttled(peer, now_ms):
                self.scores.count(GossipFault.THROTTLED)
                continue
            fault = self._take(peer, message, now_ms)
            if fault is not None:
                self.scores.fault(peer, fault, now_ms)

    def _take(self, peer: PeerId, message: rpc_pb2.Message, now_ms: int) -> GossipFault | None:
        """A message is marked as seen only when it is taken: what one peer's limits refuse another may bring."""
        if not is_anonymous(message):
            return GossipFault.SIGNED
        name = message.topicIDs[0] if len(message.topicIDs) == 1 else ""
        topic = self._topics.get(name)
        if topic is None:
            return GossipFault.UNKNOWN_TOPIC
        data = message.data
        if len(data) > self.limits.topics[topic].message_bytes:
            return GossipFault.MESSAGE_TOO_LARGE
        mid = message_id(name, data)
        seen_as = mid + peer if topic in ONE_HOP else mid
        if seen_as in self._seen[topic]:
            self.counters.duplicates += 1
            self._also_has(mid, peer)
            return None
        if not self.buckets(peer).topics[topic].take_message(len(data), now_ms):
            return GossipFault.RATE_LIMITED
        full = len(self._held) >= self.limits.held or self._held_bytes + len(data) > self.limits.held_bytes
        if full or self._held_by[peer] >= self.limits.held_by_peer:
            return GossipFault.HELD_FULL
        self._seen[topic].add(seen_as)
        self.counters.messages[topic] += 1
        callback = self._callbacks.get(topic)
        if callback is not None:
            self._judge(callback, topic, mid, peer, data)
        return None

    def _judge(self, callback: Callback, topic: Topic, mid: bytes, peer: PeerId, data: bytes) -> None:
        token = Token(next(self._tokens))
        self._held[token] = _Held(topic, mid, data, [peer], trio.current_time())
        self._held_ids.setdefault(mid, token)
        self._held_by[peer] += 1
        self._held_bytes += len(data)
        try:
            verdict = callback(peer, data, token)
        except Exception as failure:  # ours: it must end the node, not the stream of whoever sent this
            logger.debug("a callback failed: %s", failure)
            self.fail(failure)
            return
        if verdict is not None:
            self.verdict(token, verdict)

    def fail(self, failure: Exception) -> None:
        """Something of ours is broken: `run` raises it."""
        self._failure = self._failure or failure
        self._failed.set()

    def _also_has(self, mid: bytes, peer: PeerId) -> None:
        """A second sender needs not be sent what it has; the list cannot outgrow our connections."""
        token = self._held_ids.get(mid)
        if token is not None and peer not in self._held[token].senders:
            self._held[token].senders.append(peer)

    def verdict(self, token: Token, verdict: Verdict) -> None:
        """Late verdicts, for messages that were given up already, are ignored."""
        held = self._release(token)
        if held is None:
            return
        match verdict:
            case Verdict.ACCEPT:
                self._send(self._names[held.topic], held.mid, held.data, tuple(held.senders))
            case Verdict.IGNORE:
                pass
            case Verdict.REJECT:
                self.fault(held.senders[0], GossipFault.REJECTED)
            case _:
                assert_never(verdict)

    def _release(self, token: Token) -> _Held | None:
        held = self._held.pop(token, None)
        if held is not None:
            if self._held_ids.get(held.mid) == token:
                del self._held_ids[held.mid]
            self._held_bytes -= len(held.data)
            self._held_by[held.senders[0]] -= 1
            if not self._held_by[held.senders[0]]:
                del self._held_by[held.senders[0]]
        return held

    # What operators see.

    def mesh(self, topic: Topic) -> frozenset[PeerId]:
        return frozenset(PeerId(each.to_bytes()) for each in self._router.mesh.get(self._names[topic], ()))

    def snapshot(self) -> GossipHealth:
        boxes = [box for box in map(self._router.outbox, list(self._pubsub.peer_queues)) if box is not None]
        return GossipHealth(
            peers=len(boxes),
            mesh={str(topic): len(self.mesh(topic)) for topic in Topic},
            outbox_messages=sum(map(len, boxes)),
            outbox_bytes=sum(box.size_bytes for box in boxes),
            held=len(self._held),
            held_bytes=self._held_bytes,
            seen=sum(map(len, self._seen.values())),
            cached_bytes=self._router.cache.size_bytes,
            with_demerits=len(self.scores),
        )
