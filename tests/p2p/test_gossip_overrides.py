"""Each override of libp2p's gossipsub is necessary: put back what libp2p does, and the behaviour it is there for ends.

Each case is a scenario that holds with our code. It is run once more with the stock behaviour planted, and must not
hold then: an upgrade of libp2p that mends one of these shows here, and its override can go.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest
import trio
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.mcache import MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.utils import encode_varint_prefixed

from p2p.gossip import Topic, TopicLimits, outbox, topic_name
from p2p.gossip.cache import ContentCache
from p2p.gossip.outbox import Outbox, framed
from p2p.gossip.pubsub import GuardedPubsub
from p2p.gossip.router import MAX_WANTED_IDS, GuardedRouter
from p2p.streams import reset_quietly
from tests.p2p.gossiping import limits, meet, node, running, stranger
from tests.p2p.kit import GENESIS
from tests.p2p.net import config, hosts, run, until

BLOCKS = topic_name(GENESIS, Topic.BLOCKS)
HEADERS = topic_name(GENESIS, Topic.HEADERS)
PATIENCE_S = 15
"""How long a scenario waits for what is to come."""
SHORT_S = 2
"""How long it waits for what is not to come, in a scenario that holds or, with a fault planted, in any."""


async def soon(condition: Callable[[], bool], within_s: float | None = None) -> bool:
    with trio.move_on_after(PATIENCE_S if within_s is None else within_s):
        while not condition():
            await trio.sleep(0.01)
        return True
    return False


WIDE = limits(topics=dict.fromkeys(Topic, TopicLimits(4 << 20, 1_000, 100 << 20)))
"""Our own buckets are not in question here."""


async def burst() -> bool:
    one, other = node("a", WIDE), node("b", WIDE)
    async with running(one, other):
        await meet((one, other))
        for number in range(180):
            one.gossip.publish(Topic.BLOCKS, b"%d" % number)
        return await soon(lambda: len(other.heard) == 180)


async def large_message() -> bool:
    one, other = node("a", WIDE), node("b", WIDE)
    async with running(one, other):
        await meet((one, other))
        one.gossip.publish(Topic.BLOCKS, bytes(3 << 20))
        return await soon(lambda: len(other.heard) == 1)


async def small_hello() -> bool:
    one = node("a")
    async with running(one), stranger() as other:
        with trio.move_on_after(PATIENCE_S):
            await other.meet(one)
        return bool(other.rpcs) and not other.rpcs[0].HasField("senderRecord") and other.rpcs[0].ByteSize() < 400


async def small_control() -> bool:
    one = node("a")
    async with running(one), stranger() as other:
        await other.meet(one)
        await other.subscribe(one)
        await soon(lambda: any(rpc.control.graft for rpc in other.rpcs))
        return any(rpc.control.graft and not rpc.HasField("senderRecord") for rpc in other.rpcs)


async def malformed_is_attributed() -> bool:
    one = node("a")
    async with running(one), stranger() as other:
        await other.meet(one)
        await other.say(one, b"\xff" * 20)
        await soon(lambda: bool(one.host.counters.rejects))
        return one.rejects("gossip_malformed_rpc") == 1 and not one.rejects("stream_handler_failed")


async def lost_stream() -> bool:
    one, other = node("a"), node("b")
    async with running(one, other):
        await meet((one, other))
        (before,) = one.gossip._pubsub.peers.values()
        await reset_quietly(other.gossip._pubsub._inbound[one.peer].stream)
        await soon(lambda: before not in one.gossip._pubsub.peers.values() and bool(one.gossip._pubsub.peers))
        one.gossip.publish(Topic.BLOCKS, b"this one arrives")
        return await soon(lambda: (one.peer, b"this one arrives") in other.heard)


async def same_message_once() -> bool:
    one = node("a")
    async with running(one), stranger() as other:
        await other.meet(one)
        await other.subscribe(one)
        await soon(lambda: other.peer in one.gossip.mesh(Topic.BLOCKS))
        one.gossip.publish(Topic.BLOCKS, b"wanted")
        await soon(lambda: len(other.messages()) == 1)
        (mid,) = one.gossip._router.cache.msgs
        wants = rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=[mid] * 50)])
        await other.say(one, rpc_pb2.RPC(control=wants))
        await other.publish(one, Topic.BLOCKS, b"the end")
        await soon(lambda: len(one.heard) == 1)
        await soon(lambda: len(other.messages()) > 2, SHORT_S / 2)
        return len(other.messages()) == 2


async def few_are_wanted() -> bool:
    one = node("a")
    async with running(one), stranger() as other:
        await other.meet(one)
        offers = [number.to_bytes(32, "big") for number in range(1_500)]
        ihave = rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(topicID=BLOCKS, messageIDs=offers)])
        await other.say(one, rpc_pb2.RPC(control=ihave))
        await soon(lambda: any(rpc.control.iwant for rpc in other.rpcs))
        wanted = [mid for rpc in other.rpcs for iwant in rpc.control.iwant for mid in iwant.messageIDs]
        return 0 < len(wanted) <= MAX_WANTED_IDS


async def returning_is_cheap() -> bool:
    """Leaving a topic and coming back makes nobody send everything again."""
    one = node("a")
    async with running(one), stranger() as other:
        await other.meet(one)
        await other.subscribe(one)
        await soon(lambda: other.peer in one.gossip.mesh(Topic.BLOCKS))
        for number in range(5):
            one.gossip.publish(Topic.BLOCKS, b"%d" % number)
        await soon(lambda: len(other.messages()) == 5)
        for subscribe in (False, True):
            said = rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=BLOCKS)
            await other.say(one, rpc_pb2.RPC(subscriptions=[said]))
        await soon(lambda: len(other.messages()) > 5, SHORT_S / 2)
        return len(other.messages()) == 5


async def mesh_is_mended() -> bool:
    """A peer that left the mesh for a second is taken back when that is over."""
    one = node("a")
    async with running(one), stranger() as other:
        await other.meet(one)
        await other.subscribe(one)
        await soon(lambda: other.peer in one.gossip.mesh(Topic.BLOCKS))
        prune = rpc_pb2.ControlMessage(prune=[rpc_pb2.ControlPrune(topicID=BLOCKS, backoff=1)])
        await other.say(one, rpc_pb2.RPC(control=prune))
        await soon(lambda: other.peer not in one.gossip.mesh(Topic.BLOCKS))
        return await soon(lambda: other.peer in one.gossip.mesh(Topic.BLOCKS), PATIENCE_S + 2 * SHORT_S)


async def px_is_ignored() -> bool:
    one = node("a")
    called: list[object] = []

    async def connect_to(peers: object) -> None:
        called.append(peers)

    one.gossip._router._do_px = connect_to  # type: ignore[method-assign,assignment] # watched
    one.gossip._router.scorer = SimpleNamespace(allow_px_from=lambda *_: True, on_leave_mesh=lambda *_: None)  # type: ignore[assignment] # stock
    async with running(one), stranger() as other:
        await other.meet(one)
        one.gossip._router.scorer = SimpleNamespace(allow_px_from=lambda *_: True, on_leave_mesh=lambda *_: None)  # type: ignore[assignment] # stock
        px = rpc_pb2.ControlPrune(topicID=BLOCKS, peers=[rpc_pb2.PeerInfo(peerID=bytes(34))])
        await other.say(one, rpc_pb2.RPC(control=rpc_pb2.ControlMessage(prune=[px])))
        await until(lambda: ID(other.peer) in one.gossip._router.back_off.get(BLOCKS, {}), "the prune is heard")
        one.gossip._router.scorer = None
        return not called


async def grafts_are_each_peers_own() -> bool:
    router = _router()
    boxes = {ID(bytes([number]) * 34): Outbox() for number in (1, 2)}
    router.pubsub = SimpleNamespace(peer_queues=boxes, host=None)  # type: ignore[assignment] # all that sending needs
    one, other = boxes
    await router._emit_control_msgs({one: [BLOCKS], other: [HEADERS]}, {}, {})
    (said,) = boxes[other]._urgent
    control = rpc_pb2.RPC.FromString(said[1:]).control
    return [graft.topicID for graft in control.graft] == [HEADERS]


async def back_offs_end() -> bool:
    router = _router()
    router.back_off = {BLOCKS: {ID(number.to_bytes(34, "big")): 1 for number in range(100)}}
    router._periodic_security_cleanup()
    return not router.back_off[BLOCKS]


async def anonymous_messages_are_told_apart() -> bool:
    cache = ContentCache()
    for number in range(3):
        cache.keep(bytes([number]) * 32, rpc_pb2.Message(data=b"%d" % number, topicIDs=[BLOCKS]))
    return len(cache.window(BLOCKS)) == 3


def _router() -> GuardedRouter:
    return GuardedRouter(lambda _peer, _mid: False, frozenset({BLOCKS, HEADERS}), lambda _peer, _fault: None)


# What libp2p does, put back.


def refused_by(check: str) -> Callable[..., int]:
    """libp2p's `publish` asks this before it sends: ours does not."""
    ours = GuardedRouter.forward

    def forward(self: GuardedRouter, topic: str, mid: bytes, data: bytes, without: Any) -> int:
        self.spam_protection_enabled = True
        message = rpc_pb2.Message(data=data, topicIDs=[topic])
        asked = (message,) if check == "_check_equivocation" else (ID(bytes(34)), message)
        return ours(self, topic, mid, data, without) if getattr(GossipSub, check)(self, *asked) else 0

    return forward


def slow_heartbeat(*arguments: Any, **named: Any) -> None:
    GOSSIPSUB_INIT(*arguments, **{**named, "heartbeat_interval": 120, "heartbeat_initial_delay": 0.0})


GOSSIPSUB_INIT = GossipSub.__init__
PUBSUB_INIT = GuardedPubsub.__init__


def with_one_mebibyte(self: GuardedPubsub, host: Any, router: Any, topics: Any, _most: int) -> None:
    PUBSUB_INIT(self, host, router, topics, 1 << 20)


async def stock_reader(self: GuardedPubsub, stream: Any) -> None:
    """libp2p's loop, as far as it gets."""
    self._manager = SimpleNamespace(is_running=True)  # type: ignore[assignment] # what its service would have
    await Pubsub.stream_handler(self, stream)


async def stock_subscription(self: GuardedPubsub, peer_id: ID, said: Any) -> None:
    """With libp2p's replay: everything of the last seconds again, for each subscription."""
    await OUR_HEED(self, peer_id, said)
    if said.subscribe:
        for mid in self.guarded.mcache.window(said.topicid):
            message = self.guarded.mcache.get(mid)
            if message is not None:
                self.guarded.send_rpc(peer_id, rpc_pb2.RPC(publish=[message]))


OUR_HEED = GuardedPubsub._heed


def stock_dead_peer(self: GuardedPubsub, peer_id: ID) -> None:
    """libp2p's order: everything of the peer is forgotten, then the stream to it is opened again."""
    self._forget_all_subscriptions(peer_id)
    OUR_DEAD(self, peer_id)


OUR_DEAD = GuardedPubsub._handle_dead_peer


def recorded_hello(self: GuardedPubsub) -> rpc_pb2.RPC:
    return rpc_pb2.RPC(subscriptions=OUR_HELLO(self).subscriptions, senderRecord=bytes(5_300))


OUR_HELLO = GuardedPubsub.get_hello_packet


async def recorded_control(self: GuardedRouter, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
    self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg, senderRecord=bytes(5_300)))


async def stock_hear(self: GuardedRouter, control: rpc_pb2.ControlMessage, peer: ID, *, trusted: bool) -> None:
    for prune in control.prune:
        await GossipSub.handle_prune(self, prune, peer)


def stock_keep(self: ContentCache, _mid: bytes, message: rpc_pb2.Message) -> None:
    MessageCache.put(self, message)


CASES: dict[str, tuple[Callable[[], Awaitable[bool]], Any, str, Any]] = {
    "a limiter of ten messages a second": (burst, GuardedRouter, "forward", refused_by("_check_spam_protection")),
    "messages told apart by unauthenticated numbers": (
        burst,
        GuardedRouter,
        "forward",
        refused_by("_check_equivocation"),
    ),
    "a queue of 32": (burst, outbox, "MAX_QUEUED", 32),
    "RPCs of a mebibyte at most": (large_message, GuardedPubsub, "__init__", with_one_mebibyte),
    "a record of 5 KB in the hello": (small_hello, GuardedPubsub, "get_hello_packet", recorded_hello),
    "the record libp2p makes, in the hello": (
        small_hello,
        GuardedPubsub,
        "get_hello_packet",
        Pubsub.get_hello_packet,
    ),
    "a record of 5 KB in every control message": (
        small_control,
        GuardedRouter,
        "emit_control_message",
        recorded_control,
    ),
    "a reader that raises on malformed protobuf": (
        malformed_is_attributed,
        GuardedPubsub,
        "stream_handler",
        stock_reader,
    ),
    "subscriptions forgotten with our own stream": (lost_stream, GuardedPubsub, "_handle_dead_peer", stock_dead_peer),
    "a message sent as often as it is named": (
        same_message_once,
        GuardedRouter,
        "handle_iwant",
        GossipSub.handle_iwant,
    ),
    "every offered id wanted": (few_are_wanted, GuardedRouter, "handle_ihave", GossipSub.handle_ihave),
    "everything sent again to who comes back": (returning_is_cheap, GuardedPubsub, "_heed", stock_subscription),
    "a heartbeat every two minutes": (mesh_is_mended, GossipSub, "__init__", slow_heartbeat),
    "connections to whomever a peer names": (px_is_ignored, GuardedRouter, "hear", stock_hear),
    "grafts of other peers": (
        grafts_are_each_peers_own,
        GuardedRouter,
        "_emit_control_msgs",
        GossipSub._emit_control_msgs,
    ),
    "back-offs for ever": (
        back_offs_end,
        GuardedRouter,
        "_periodic_security_cleanup",
        GossipSub._periodic_security_cleanup,
    ),
    "messages without a number are one": (anonymous_messages_are_told_apart, ContentCache, "keep", stock_keep),
}


@pytest.mark.parametrize("case", CASES)
def test_an_override_is_necessary(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    scenario, where, name, stock = CASES[case]
    outcomes: list[bool] = []

    async def main() -> None:
        outcomes.append(await scenario())

    run(main)
    assert outcomes == [True], "it holds with our code"
    monkeypatch.setattr(where, name, stock)
    monkeypatch.setattr(f"{__name__}.PATIENCE_S", SHORT_S)
    try:
        run(main, deadline_s=20)
    except Exception:
        outcomes.append(False)
    assert outcomes == [True, False], "and does not hold with libp2p's"


def test_a_host_whose_gossip_does_not_run_yet_connects_all_the_same() -> None:
    """libp2p's watcher waits for pubsub inside the swarm. Planted, it hangs the host beyond any deadline: this
    scenario is not run both ways."""
    one = node("a")

    async def main() -> None:
        async with hosts(config("b")) as (other,), one.host.run():
            await one.host.connect(other.peer, other.addresses[0])
            await until(lambda: bool(one.host.libp2p.agent_of(other.peer)), "identified")

    run(main)


def test_what_is_framed_here_is_what_libp2p_frames() -> None:
    for size in (0, 1, 127, 128, 20_000):
        assert framed(bytes(size)) == encode_varint_prefixed(bytes(size))
