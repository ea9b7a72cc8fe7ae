"""Gossip among hosts of which one is not honest: what it does is counted by reason, and costs nobody else anything."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from hashlib import sha3_256

import pytest
import trio
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossip import GossipFault, Topic, TopicLimits, TransactionVerdict, topic_name
from p2p.gossip.announcement import DATA_BYTES, decode_ids, encode_data, encode_ids
from p2p.gossip.outbox import MAX_QUEUED_BYTES
from p2p.gossip.pull import MAX_WANTED_OF_PEER
from p2p.serving import Handler
from tests.p2p.gossiping import Node, Stranger, item_of, limits, meet, node, running, stranger
from tests.p2p.kit import GENESIS
from tests.p2p.net import run, until
from trellis.encoding import DecodeError, Malformed
from trellis.types import PeerId
from trellis.wire import MessageId

BLOCKS = topic_name(GENESIS, Topic.BLOCKS)
SMALL = TopicLimits(message_bytes=4_096, messages_per_s=50, bytes_per_s=1 << 20, ids_per_s=1_000)
FEW = limits(topics=dict.fromkeys(Topic, SMALL))


def message(data: bytes, **fields: bytes) -> rpc_pb2.RPC:
    return rpc_pb2.RPC(publish=[rpc_pb2.Message(data=data, topicIDs=[BLOCKS], **fields)])


HOSTILE: dict[str, tuple[bytes, bool, GossipFault]] = {
    "bytes that are no protobuf": (b"\xff" * 40, False, GossipFault.MALFORMED_RPC),
    "a message cut short": (b"\x12\x7f\x12", False, GossipFault.MALFORMED_RPC),
    "text that is no UTF-8 where a topic stands": (b"\x12\x04\x22\x02\xff\xfe", False, GossipFault.UNKNOWN_TOPIC),
    "a length of a gigabyte": (b"\x80\x80\x80\x80\x04", True, GossipFault.RPC_TOO_LARGE),
    "a length over the cap": (b"\xff\xff\xff\x07", True, GossipFault.RPC_TOO_LARGE),
    "four thousand empty messages": (b"\x12\x00" * 4_000, False, GossipFault.RPC_TOO_LARGE),
    "more control than an RPC may have": (
        rpc_pb2.RPC(
            control=rpc_pb2.ControlMessage(ihave=[rpc_pb2.ControlIHave(topicID=BLOCKS, messageIDs=[bytes(32)] * 2_000)])
        ).SerializeToString(),
        False,
        GossipFault.CONTROL_FLOOD,
    ),
    "a message with a sender": (message(b"x", from_id=b"me").SerializeToString(), False, GossipFault.SIGNED),
    "a message with a number": (message(b"x", seqno=b"1").SerializeToString(), False, GossipFault.SIGNED),
    "a message with a signature": (message(b"x", signature=b"s").SerializeToString(), False, GossipFault.SIGNED),
    "a message with a key": (message(b"x", key=b"k").SerializeToString(), False, GossipFault.SIGNED),
    "a message on a topic of another chain": (
        rpc_pb2.RPC(publish=[rpc_pb2.Message(data=b"x", topicIDs=["/trellis/00000000/blocks/1"])]).SerializeToString(),
        False,
        GossipFault.UNKNOWN_TOPIC,
    ),
    "a message on two topics": (
        rpc_pb2.RPC(publish=[rpc_pb2.Message(data=b"x", topicIDs=[BLOCKS, BLOCKS])]).SerializeToString(),
        False,
        GossipFault.UNKNOWN_TOPIC,
    ),
    "a subscription to a topic nobody has": (
        rpc_pb2.RPC(subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="spam")]).SerializeToString(),
        False,
        GossipFault.UNKNOWN_TOPIC,
    ),
    "a graft of a topic nobody has": (
        rpc_pb2.RPC(control=rpc_pb2.ControlMessage(graft=[rpc_pb2.ControlGraft(topicID="spam")])).SerializeToString(),
        False,
        GossipFault.UNKNOWN_TOPIC,
    ),
    "a message over its topic's cap": (message(bytes(5_000)).SerializeToString(), False, GossipFault.MESSAGE_TOO_LARGE),
    "a message that is rejected": (message(b"reject this").SerializeToString(), False, GossipFault.REJECTED),
    "an announcement that is none": (
        rpc_pb2.RPC(
            publish=[rpc_pb2.Message(data=b"\x01\xff\xff\xff\xff", topicIDs=[topic_name(GENESIS, Topic.TXS)])]
        ).SerializeToString(),
        False,
        GossipFault.MALFORMED_ANNOUNCEMENT,
    ),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_what_a_stranger_sends_is_refused_with_its_reason_and_others_are_served(case: str) -> None:
    data, raw, fault = HOSTILE[case]

    async def main() -> None:
        victim, honest = node("a", FEW), node("b", FEW)
        async with running(victim, honest), stranger() as bad:
            await meet((victim, honest))
            await bad.meet(victim)
            await bad.say(victim, data, raw=raw)
            await until(lambda: victim.rejects(fault) > 0, case)
            honest.gossip.publish(Topic.BLOCKS, b"as ever")
            await until(lambda: (honest.peer, b"as ever") in victim.heard, "the honest peer is heard")
            assert victim.gossip.scores.demerits(bad.peer, victim.gossip.now_ms()) > 0
            assert victim.gossip.scores.demerits(honest.peer, victim.gossip.now_ms()) == 0
            assert not victim.rejects("stream_handler_failed")

    run(main)


class Book:
    """Bans at the first thousand."""

    def __init__(self) -> None:
        self.taken: dict[PeerId, int] = {}
        self.reasons: list[str] = []

    def penalise(self, peer: PeerId, reason: str, amount: int) -> bool:
        self.taken[peer] = self.taken.get(peer, 0) + amount
        self.reasons.append(reason)
        return self.taken[peer] >= 1_000

    def is_banned(self, peer: PeerId) -> bool:
        return self.taken.get(peer, 0) >= 1_000


def test_a_flood_is_limited_throttled_and_told_to_the_book_while_others_are_heard() -> None:
    async def main() -> None:
        book = Book()
        victim, honest = node("a", FEW, book=book), node("b", FEW)
        async with running(victim, honest), stranger() as bad:
            await meet((victim, honest))
            await bad.meet(victim)
            for number in range(20):
                await bad.publish(victim, Topic.BLOCKS, *(b"flood %d %d" % (number, each) for each in range(50)))
            await until(lambda: victim.rejects(GossipFault.THROTTLED) > 0, "it is throttled")
            # What its bucket held, at most; the rest never came to the callback.
            assert len([data for _, data in victim.heard if data.startswith(b"flood")]) <= SMALL.burst_messages + 50
            await until(lambda: book.is_banned(bad.peer), "the book is told, and bans")
            assert set(book.reasons) == {GossipFault.RATE_LIMITED}
            assert victim.host.connected(bad.peer)  # whether a ban ends a connection is the node's to decide
            honest.gossip.publish(Topic.BLOCKS, b"as ever")
            await until(lambda: (honest.peer, b"as ever") in victim.heard, "the honest peer is heard")
            health = victim.gossip.snapshot()
            assert health.held == 0
            assert health.seen <= 2 * SMALL.burst_messages + 100

    run(main)


def test_what_one_peer_may_not_send_any_more_another_one_may() -> None:
    """A message that was refused for its sender's limits is not remembered as seen: nobody can censor it so."""

    async def main() -> None:
        victim, honest = node("a", FEW), node("b", FEW)
        async with running(victim, honest), stranger() as bad:
            await meet((victim, honest))
            await bad.meet(victim)
            for number in range(6):
                await bad.publish(victim, Topic.BLOCKS, *(b"flood %d %d" % (number, each) for each in range(25)))
            await bad.publish(victim, Topic.BLOCKS, b"the honest one's")
            await until(lambda: victim.rejects(GossipFault.RATE_LIMITED) > 20, "the flood is refused")
            honest.gossip.publish(Topic.BLOCKS, b"the honest one's")
            await until(lambda: (honest.peer, b"the honest one's") in victim.heard, "it is heard from the honest peer")

    run(main)


def serving(answer: Callable[[tuple[bytes, ...]], list[tuple[MessageId, bytes]]], asked: list[bytes]) -> Handler:
    async def serve(_peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        ids = decode_ids(payload)
        asked.extend(ids)
        for frame in answer(ids):
            yield frame

    return serve


def nothing(ids: tuple[bytes, ...]) -> list[tuple[MessageId, bytes]]:
    return [(MessageId.NOT_FOUND, encode_ids(ids))]


def silence(_ids: tuple[bytes, ...]) -> list[tuple[MessageId, bytes]]:
    return []


def wrong_bytes(ids: tuple[bytes, ...]) -> list[tuple[MessageId, bytes]]:
    return [(MessageId.DATA, encode_data([(each, b"not what it says") for each in ids]))]


def other_ids(_ids: tuple[bytes, ...]) -> list[tuple[MessageId, bytes]]:
    return [(MessageId.DATA, encode_data([(sha3_256(b"unasked").digest(), b"unasked")]))]


def rubbish(_ids: tuple[bytes, ...]) -> list[tuple[MessageId, bytes]]:
    return [(MessageId.DATA, b"\xff" * 50)]


def failing(_ids: tuple[bytes, ...]) -> list[tuple[MessageId, bytes]]:
    raise DecodeError(Malformed.TRUNCATED, "a lie")


LIARS: dict[str, tuple[Callable[[tuple[bytes, ...]], list[tuple[MessageId, bytes]]], GossipFault | None]] = {
    "says that it has nothing": (nothing, GossipFault.CANNOT_SERVE),
    "answers nothing at all": (silence, GossipFault.CANNOT_SERVE),
    "serves other bytes": (wrong_bytes, GossipFault.WRONG_BYTES),
    "serves what was not asked": (other_ids, GossipFault.NOT_ASKED),
    "serves rubbish": (rubbish, GossipFault.MALFORMED_ANSWER),
    "says that the question is malformed": (failing, None),
}


async def announced_by_both(victim: Node, liar: Stranger, honest: Node, transactions: list[bytes]) -> None:
    """The liar is first: it is asked first."""
    ids = [each for each in map(item_of, transactions) if each is not None]
    await liar.announce(victim, *ids)
    await until(lambda: victim.relay.snapshot().wanted > 0 or bool(victim.ledger.came), "the liar's word is heard")
    honest.ledger.put(*transactions)
    honest.relay.announce(ids)


@pytest.mark.parametrize("case", LIARS)
def test_who_announces_and_does_not_serve_delays_nobody(case: str) -> None:
    answer, fault = LIARS[case]

    async def main() -> None:
        victim, honest = node("a"), node("b")
        async with running(victim, honest), stranger() as liar:
            asked: list[bytes] = []
            gate = trio.Event()
            serve = serving(answer, asked)

            async def once_the_honest_one_announced(
                peer: PeerId, payload: bytes
            ) -> AsyncIterator[tuple[MessageId, bytes]]:
                await gate.wait()
                async for frame in serve(peer, payload):
                    yield frame

            liar.requests.serve(MessageId.GET_DATA, once_the_honest_one_announced)
            await meet((victim, honest))
            await liar.meet(victim)
            await announced_by_both(victim, liar, honest, [b"one", b"two", b"three"])
            await until(lambda: victim.gossip.counters.messages[Topic.TXS] == 2, "both announced")
            gate.set()
            await until(lambda: len(victim.ledger.transactions) == 3, "it comes from the honest peer")
            assert len(asked) == 3
            assert {peer for peer, _ in victim.ledger.came} == {honest.peer}
            assert fault is None or victim.rejects(fault) > 0
            assert victim.relay.snapshot().wanted == 0

    run(main)


def test_a_forged_signature_first_does_not_stand_in_the_way_of_the_good_one() -> None:
    """The variants of one body have different ids: the forger is held to account, the good one is pulled and kept."""

    async def main() -> None:
        victim, honest = node("a"), node("b")
        async with running(victim, honest), stranger() as forger:
            asked: list[bytes] = []
            forged = b"bad signature of a body"
            bad_id, good_id = item_of(forged), item_of(b"good signature of a body")
            assert bad_id is not None
            assert good_id is not None
            forger.requests.serve(
                MessageId.GET_DATA,
                serving(lambda ids: [(MessageId.DATA, encode_data([(each, forged) for each in ids]))], asked),
            )
            await meet((victim, honest))
            await forger.meet(victim)
            await forger.announce(victim, bad_id)
            await until(lambda: victim.rejects(GossipFault.BAD_SIGNATURE) == 1, "the forgery is found out")
            honest.ledger.put(b"good signature of a body")
            honest.relay.announce([good_id])
            await until(lambda: victim.ledger.have(good_id), "the good one comes")
            # The forgery is not pulled twice, whoever announces it; a second announcement needs other bytes.
            await forger.announce(victim, bad_id, sha3_256(b"another").digest())
            await until(lambda: victim.relay.snapshot().wanted == 0 and len(asked) > 1, "asked for the other one only")
            assert asked.count(bad_id) == 1
            assert not victim.ledger.have(bad_id)
            assert victim.relay.snapshot().bad == 1

    run(main)


def test_a_payload_that_rides_along_with_another_id_is_held_against_its_sender() -> None:
    async def main() -> None:
        victim = node("a")
        async with running(victim), stranger() as liar:
            await liar.meet(victim)
            true_id, lie_id = item_of(b"true"), sha3_256(b"something else").digest()
            assert true_id is not None
            await liar.announce(victim, true_id, lie_id, riding=((0, b"true"), (1, b"a lie")))
            await until(lambda: victim.rejects(GossipFault.WRONG_BYTES) == 1, "the lie is found out")
            assert [item for _, item in victim.ledger.came] == [true_id]
            assert victim.relay.rode == 1

    run(main)


def test_ids_that_nobody_has_fill_no_more_than_one_peers_share() -> None:
    async def main() -> None:
        victim = node("a", limits(topics=dict.fromkeys(Topic, TopicLimits(16_384, 1_000, 32 << 20, 100_000))))
        async with running(victim), stranger() as liar:
            stuck = trio.Event()

            async def never(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
                await stuck.wait()
                yield MessageId.NOT_FOUND, encode_ids([bytes(32)])

            liar.requests.serve(MessageId.GET_DATA, never)
            await liar.meet(victim)
            for number in range(MAX_WANTED_OF_PEER // 256 + 20):
                await liar.announce(
                    victim, *(number.to_bytes(16, "big") + each.to_bytes(16, "big") for each in range(256))
                )
            await until(lambda: victim.rejects(GossipFault.WANTED_FULL) >= 20 * 256, "its share is full")
            assert victim.relay.snapshot().wanted <= MAX_WANTED_OF_PEER
            assert victim.relay.snapshot().asking <= 2

    run(main)


def test_a_peer_that_reads_nothing_costs_its_outbox_and_no_more() -> None:
    async def main() -> None:
        wide = limits(topics=dict.fromkeys(Topic, TopicLimits(1 << 20, 10_000, 1 << 30)))
        victim, honest = node("a", wide), node("b", wide)
        async with running(victim, honest), stranger() as deaf:
            stuck = trio.Event()

            async def never_reads(_stream: object) -> None:
                await stuck.wait()

            deaf.host.serve("/meshsub/1.1.0", never_reads)
            await meet((victim, honest))
            await deaf.host.connect(victim.peer, victim.host.addresses[0])
            await deaf.subscribe(victim)
            await until(lambda: deaf.peer in victim.gossip.mesh(Topic.BLOCKS), "it is in the mesh")
            sent = 40
            for number in range(sent):
                victim.gossip.publish(Topic.BLOCKS, number.to_bytes(4, "big") + bytes(600_000))
                await until(lambda n=number: len(honest.heard) == n + 1, "the honest peer hears all")  # type: ignore[misc] # bound here
                assert victim.gossip.snapshot().outbox_bytes <= 2 * MAX_QUEUED_BYTES
            assert victim.rejects(GossipFault.OUTBOX_FULL) > 0
            assert victim.gossip.snapshot().cached_bytes <= 32 << 20

    run(main)


def test_messages_without_a_verdict_are_bounded_and_given_up() -> None:
    async def main() -> None:
        victim = node("a", limits(held=8, held_by_peer=4, hold_s=1))
        victim.gossip.on_message(Topic.BLOCKS, lambda _peer, _data, _token: None)
        async with running(victim), stranger() as one, stranger("another") as another:
            for each in (one, another):
                await each.meet(victim)
                await each.publish(victim, Topic.BLOCKS, *(each.peer + b"%d" % number for number in range(10)))
            await until(lambda: victim.rejects(GossipFault.HELD_FULL) == 12, "four of each are held")
            assert victim.gossip.snapshot().held == 8
            await until(lambda: victim.gossip.snapshot().held == 0, "and given up in the end")
            assert victim.rejects(GossipFault.UNDECIDED) == 8
            assert victim.gossip.snapshot().held_bytes == 0

    run(main)


def test_a_slow_verifier_stops_pulling() -> None:
    """Transactions without a verdict are bounded: what is not judged is not added to."""

    async def main() -> None:
        victim, honest = node("a"), node("b")
        victim.ledger.verdicts = lambda _transaction: None
        async with running(victim, honest):
            await meet((victim, honest))
            ids = honest.ledger.put(*(number.to_bytes(4, "big") + bytes(900_000) for number in range(80)))
            honest.relay.announce(ids)
            await until(lambda: victim.relay.snapshot().unjudged_bytes >= 48 << 20, "the bound is reached")
            await until(lambda: victim.relay.snapshot().asking == 0, "nothing more is asked")
            health = victim.relay.snapshot()
            assert health.unjudged_bytes <= (48 << 20) + 2 * (4 << 20)
            assert health.wanted > 0
            for _, item in list(victim.ledger.came):
                victim.relay.verdict(item, TransactionVerdict.IGNORE)
            await until(lambda: len(victim.ledger.came) > health.unjudged, "and goes on after verdicts")

    run(main)


def test_a_question_is_answered_in_frames_that_fit() -> None:
    async def main() -> None:
        server = node("a")
        async with running(server), stranger() as asker:
            await asker.meet(server)
            ids = server.ledger.put(*(number.to_bytes(4, "big") + bytes(100_000) for number in range(8)))
            missing = sha3_256(b"missing").digest()
            frames = await asker.requests.ask(
                server.peer, MessageId.GET_DATA, encode_ids([*ids, missing]), deadline_s=5, max_bytes=4 << 20
            )
            assert [frame.message_id for frame in frames] == [MessageId.DATA] * 4 + [MessageId.NOT_FOUND]
            assert all(len(frame.payload) <= DATA_BYTES for frame in frames[:-1])
            assert decode_ids(frames[-1].payload) == (missing,)

    run(main)
