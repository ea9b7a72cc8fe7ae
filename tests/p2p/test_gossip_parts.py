"""The parts of gossip that need no socket: codecs, buckets, scores, batches, what is wanted of whom."""

from __future__ import annotations

import contextlib
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossip.announcement import (
    Announcement,
    decode_announcement,
    decode_data,
    decode_ids,
    encode_announcement,
    encode_data,
    encode_ids,
)
from p2p.gossip.batches import BATCH_AGE_MS, MAX_WAITING, Batches
from p2p.gossip.buckets import Bucket, TopicBuckets
from p2p.gossip.outbox import MAX_QUEUED, Outbox, framed
from p2p.gossip.pull import MAX_ANNOUNCERS, MAX_ASKS_OF_PEER, MAX_WANTED_OF_PEER, PullTable
from p2p.gossip.rpc import RpcError, decode_rpc
from p2p.gossip.scoring import DEMERITS, HALF_LIFE_MS, MAX_REMEMBERED, THROTTLE_LINE, GossipFault, Scores
from p2p.gossip.seen import SeenSet
from p2p.gossip.topics import MAX_ANNOUNCED_IDS, MAX_RIDING_BYTES, Topic, topic_limits, topic_name
from tests.p2p.kit import GENESIS
from tests.p2p.net import run
from trellis.encoding import DecodeError, Malformed, Writer
from trellis.parameters import Parameters
from trellis.types import PeerId

IDS = tuple(number.to_bytes(32, "big") for number in range(300))
A, B, C = PeerId(b"a"), PeerId(b"b"), PeerId(b"c")

ids = st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=20, unique=True).map(tuple)


@given(ids, st.data())
def test_announcements_survive_their_encoding(named: tuple[bytes, ...], data: st.DataObject) -> None:
    places = sorted(data.draw(st.sets(st.sampled_from(range(len(named))))))
    said = Announcement(named, tuple((place, data.draw(st.binary(max_size=50))) for place in places))
    assert decode_announcement(encode_announcement(said)) == said
    assert decode_ids(encode_ids(named)) == named


@given(st.lists(st.tuples(st.binary(min_size=32, max_size=32), st.binary(min_size=1, max_size=50)), max_size=10))
def test_data_survives_its_encoding(items: list[tuple[bytes, bytes]]) -> None:
    assert decode_data(encode_data(items)) == items


MALFORMED: dict[str, tuple[bytes, Malformed]] = {
    "no ids": (encode_announcement(Announcement(())), Malformed.INCONSISTENT),
    "an id twice": (encode_announcement(Announcement((IDS[0], IDS[0]))), Malformed.INCONSISTENT),
    "one id more than the cap": (encode_announcement(Announcement(IDS[: MAX_ANNOUNCED_IDS + 1])), Malformed.TOO_MANY),
    "a count that promises more than follows": (Writer().u8(1).u32(200).raw(bytes(64)).done(), Malformed.TRUNCATED),
    "another version": (b"\x02" + encode_announcement(Announcement(IDS[:1]))[1:], Malformed.UNKNOWN_VERSION),
    "a payload for no id": (encode_announcement(Announcement(IDS[:1], ((1, b"x"),))), Malformed.INCONSISTENT),
    "payloads out of order": (
        encode_announcement(Announcement(IDS[:2], ((1, b"x"), (0, b"y")))),
        Malformed.INCONSISTENT,
    ),
    "two payloads for one id": (
        encode_announcement(Announcement(IDS[:2], ((0, b"x"), (0, b"y")))),
        Malformed.INCONSISTENT,
    ),
    "payloads that are together too large": (
        encode_announcement(Announcement(IDS[:2], ((0, bytes(MAX_RIDING_BYTES)), (1, b"y")))),
        Malformed.TOO_LARGE,
    ),
    "bytes after the end": (encode_announcement(Announcement(IDS[:1])) + b"x", Malformed.TRAILING_BYTES),
    "nothing": (b"", Malformed.TRUNCATED),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_announcements_are_refused_with_their_reason(case: str) -> None:
    data, reason = MALFORMED[case]
    with pytest.raises(DecodeError) as refused:
        decode_announcement(data)
    assert refused.value.reason is reason


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_decoders_raise_nothing_but_their_own_error(data: bytes) -> None:
    for decoder in (decode_announcement, decode_ids, decode_data):
        with contextlib.suppress(DecodeError):
            decoder(data)
    with contextlib.suppress(RpcError):
        decode_rpc(data)


@given(st.binary(max_size=60), st.binary(max_size=20))
def test_what_libp2p_writes_is_read(data: bytes, mid: bytes) -> None:
    said = rpc_pb2.RPC(
        publish=[rpc_pb2.Message(data=data, topicIDs=["t"])],
        subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid="t")],
        control=rpc_pb2.ControlMessage(iwant=[rpc_pb2.ControlIWant(messageIDs=[mid])]),
    )
    assert decode_rpc(said.SerializeToString()) == said


def test_topics_are_named_after_the_chain() -> None:
    assert topic_name(GENESIS, Topic.TXS) == f"/trellis/{GENESIS.hex()[:8]}/txs/1"


def test_limits_follow_what_blocks_can_hold_and_are_stricter_for_proofs() -> None:
    wide, narrow = Parameters(), replace(Parameters(), max_block_transactions=40, block_interval_ms=1_000)
    for parameters in (wide, narrow):
        limits = topic_limits(parameters)
        assert limits[Topic.PROOFS].ids_per_s < limits[Topic.TXS].ids_per_s
        assert limits[Topic.PROOFS].bytes_per_s < limits[Topic.TXS].bytes_per_s
        capacity = min(parameters.max_block_transactions, parameters.max_block_bytes // 3_400)
        assert limits[Topic.TXS].ids_per_s >= capacity * 1_000 // parameters.block_interval_ms
        assert all(each.messages_per_s > 0 and each.message_bytes > 0 for each in limits.values())
    assert topic_limits(narrow)[Topic.TXS].ids_per_s == 80


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = Bucket(per_s=10, burst=20, now_ms=0)
    assert bucket.take(15, 0)
    assert not bucket.take(6, 0)
    assert bucket.take(5, 0)
    assert not bucket.take(1, 99)
    assert bucket.take(1, 100)
    assert bucket.take(20, 100_000)
    assert not bucket.take(1, 100_000)
    assert not bucket.take(1, 50_000)  # a clock that goes back gives nothing


def test_what_is_owed_is_waited_for() -> None:
    bucket = Bucket(per_s=1_000, burst=1_000, now_ms=0)
    assert bucket.owe(1_000, 0) == 0
    assert bucket.owe(500, 0) == 500
    assert bucket.owe(1, 1_000) == 0


def test_a_topics_bucket_counts_messages_bytes_and_ids() -> None:
    limits = replace(topic_limits(Parameters())[Topic.TXS], messages_per_s=5, bytes_per_s=1_000, message_bytes=1_000)
    buckets = TopicBuckets(replace(limits, ids_per_s=100), 0)
    assert [buckets.take_message(10, 0) for _ in range(11)] == [True] * 10 + [False]
    assert not TopicBuckets(limits, 0).take_message(5_000, 0)
    assert buckets.take_ids(100, 0)
    assert not buckets.take_ids(1, 0)


@given(st.lists(st.integers(0, 50)), st.integers(1, 20))
def test_the_seen_set_never_outgrows_its_capacity_and_knows_the_newest(items: list[int], capacity: int) -> None:
    seen = SeenSet(capacity)
    for item in items:
        new = bytes([item])
        known = new in seen
        assert seen.add(new) is not known
        assert len(seen) <= max(capacity, 2)
        if capacity > 3:
            assert new in seen


def test_the_seen_set_forgets_by_age_where_it_is_told_to() -> None:
    seen = SeenSet(100, lives_ms=1_000)
    seen.age(1_000)
    seen.add(b"x")
    seen.age(1_999)
    assert b"x" in seen
    seen.age(2_000)
    assert b"x" in seen
    seen.age(3_000)
    assert b"x" not in seen


def test_the_first_id_after_idle_goes_at_once_and_the_next_ones_in_batches() -> None:
    batches = Batches(most=4)
    assert batches.due_in_ms(0) is None
    batches.add(IDS[0], first_hand=True)
    assert batches.due_in_ms(1_000) == 0
    assert batches.take(1_000) == [(IDS[0], True)]
    batches.add(IDS[1], first_hand=False)
    assert batches.due_in_ms(1_010) == BATCH_AGE_MS - 10
    assert batches.due_in_ms(1_000 + BATCH_AGE_MS) == 0
    for item in IDS[2:7]:
        batches.add(item, first_hand=True)
    assert batches.due_in_ms(1_011) == 0
    assert [item for item, _ in batches.take(1_011)] == list(IDS[1:5])
    assert batches.due_in_ms(1_012) == BATCH_AGE_MS - 1


def test_ids_that_wait_are_bounded() -> None:
    batches = Batches(most=256)
    for number in range(MAX_WAITING + 5):
        batches.add(number.to_bytes(32, "big"), first_hand=True)
    assert len(batches) == MAX_WAITING
    assert batches.dropped == 5


# What is wanted of whom.


def test_an_id_is_asked_of_one_announcer_and_then_of_the_next() -> None:
    table = PullTable()
    assert table.announced(A, IDS[:2], Topic.TXS) == 0
    assert table.next_question() == (A, IDS[:2])
    table.announced(B, IDS[:2], Topic.TXS)
    table.announced(B, IDS[:2], Topic.TXS)
    assert table.next_question() is None
    table.answered(A)
    assert table.brought(IDS[0]) is Topic.TXS
    table.elsewhere(A, IDS[:2])
    assert table.next_question() == (B, (IDS[1],))
    table.answered(B)
    table.elsewhere(B, (IDS[1],))
    assert table.next_question() is None
    assert len(table) == 0
    table.announced(B, (IDS[1],), Topic.PROOFS)
    assert table.next_question() == (B, (IDS[1],))
    assert table.brought(IDS[1]) is Topic.PROOFS
    assert table.brought(IDS[1]) is None


def test_who_has_time_is_asked_for_what_another_one_is_too_slow_for() -> None:
    table = PullTable()
    table.announced(A, IDS, Topic.TXS)
    assert table.next_question() == (A, IDS[:256])
    assert table.next_question() == (A, IDS[256:])
    table.announced(A, (b"z" * 32,), Topic.TXS)
    assert table.next_question() is None, "no more than its questions at once"
    assert table.asking == MAX_ASKS_OF_PEER
    table.announced(B, (b"z" * 32,), Topic.TXS)
    assert table.next_question() == (B, (b"z" * 32,))


def test_what_was_cut_off_is_asked_of_the_same_peer_again() -> None:
    table = PullTable()
    table.announced(A, IDS[:3], Topic.TXS)
    table.next_question()
    table.brought(IDS[0])
    table.answered(A)
    table.again(A, IDS[1:3])
    assert table.next_question() == (A, IDS[1:3])


def test_a_peer_that_left_is_not_waited_for() -> None:
    table = PullTable()
    table.announced(A, IDS[:2], Topic.TXS)
    table.announced(B, IDS[:1], Topic.TXS)
    table.left(A)
    assert table.next_question() == (B, IDS[:1])
    assert len(table) == 1


def test_peers_are_asked_in_turn() -> None:
    table = PullTable()
    table.announced(A, [number.to_bytes(32, "big") for number in range(1_000)], Topic.TXS)
    table.announced(B, [b"b" * 32], Topic.TXS)
    table.announced(C, [b"c" * 32], Topic.TXS)
    asked = [question[0] for _ in range(3) if (question := table.next_question()) is not None]
    assert asked == [A, B, C]


def test_a_peers_share_and_an_ids_announcers_are_bounded() -> None:
    table = PullTable()
    many = [number.to_bytes(32, "big") for number in range(MAX_WANTED_OF_PEER + 7)]
    assert table.announced(A, many, Topic.TXS) == 7
    assert table.announced(B, [b"b" * 32], Topic.TXS) == 0
    for number in range(50):
        table.announced(PeerId(b"%d" % number), many[:1], Topic.TXS)
    asked = []
    while (question := table.next_question()) is not None:
        asked.append(question[0])
        table.answered(question[0])
        table.elsewhere(question[0], question[1])
        if len(table) == 0:
            break
    assert len(table) == 0
    assert len([peer for peer in asked if peer not in {A, B}]) == MAX_ANNOUNCERS - 1
    assert table.queued() == 0


# Scores.


class Book:
    def __init__(self, ban_from: int = 10_000) -> None:
        self.told: list[tuple[PeerId, str, int]] = []
        self.ban_from = ban_from

    def penalise(self, peer: PeerId, reason: str, amount: int) -> bool:
        self.told.append((peer, reason, amount))
        return sum(taken for _, _, taken in self.told) >= self.ban_from

    def is_banned(self, peer: PeerId) -> bool:
        return any(each == peer for each, _, _ in self.told) and self.ban_from <= 0


def test_demerits_throttle_and_are_forgotten() -> None:
    scores = Scores(None, Counter(), lambda _peer: None)
    for _ in range(3):
        scores.fault(A, GossipFault.MALFORMED_RPC, 0)
    assert scores.throttled(A, 0)
    assert not scores.throttled(B, 0)
    before = scores.demerits(A, 0)
    assert scores.demerits(A, HALF_LIFE_MS) == before // 2
    assert before > scores.demerits(A, HALF_LIFE_MS) > 0
    assert not scores.throttled(A, 3 * HALF_LIFE_MS)
    scores.tell(40 * HALF_LIFE_MS)
    assert len(scores) == 0


def test_decay_is_steady_between_the_halvings() -> None:
    scores = Scores(None, Counter(), lambda _peer: None)
    for _ in range(20):
        scores.fault(A, GossipFault.MALFORMED_RPC, 0)
    seen = [scores.demerits(A, at) for at in range(0, 2 * HALF_LIFE_MS, 10)]
    assert seen == sorted(seen, reverse=True)
    assert seen[0] > THROTTLE_LINE
    assert scores.demerits(A, 2 * HALF_LIFE_MS) == seen[0] // 4


def test_the_book_hears_the_sum_and_the_gravest_reason_and_bans() -> None:
    book, banned = Book(ban_from=400), list[PeerId]()
    rejects: Counter[str] = Counter()
    scores = Scores(book, rejects, banned.append)
    for _ in range(30):
        scores.fault(A, GossipFault.RATE_LIMITED, 5_000)
    scores.fault(A, GossipFault.WRONG_BYTES, 5_000)
    scores.fault(A, GossipFault.OUTBOX_FULL, 5_000)
    scores.tell(5_000)
    scores.tell(5_500)
    scores.tell(6_500)
    total = 30 * DEMERITS[GossipFault.RATE_LIMITED] + DEMERITS[GossipFault.WRONG_BYTES]
    assert book.told == [(A, str(GossipFault.WRONG_BYTES), total)]
    assert banned == [A]
    assert rejects[GossipFault.RATE_LIMITED] == 30


def test_scores_of_ever_new_peers_fill_no_memory_and_the_book_hears_of_them_all_the_same() -> None:
    book = Book()
    scores = Scores(book, Counter(), lambda _peer: None)
    for number in range(MAX_REMEMBERED + 3):
        scores.fault(PeerId(b"%d" % number), GossipFault.REJECTED, 0)
    assert len(scores) == MAX_REMEMBERED
    assert [peer for peer, _, _ in book.told] == [b"0", b"1", b"2"]


# What waits to be written.


def test_an_outbox_writes_small_messages_together_and_urgent_ones_first() -> None:
    async def main() -> None:
        box = Outbox()
        assert box.put(b"one")
        assert box.put(b"two")
        assert box.put(b"control", urgent=True)
        assert box.put(bytes(100_000))
        assert await box.take() == b"controlonetwo"
        assert await box.take() == bytes(100_000)
        assert box.size_bytes == 0
        box.close()
        assert await box.take() == b""
        assert not box.put(b"late")

    run(main)


def test_an_outbox_is_bounded_by_number_and_bytes() -> None:
    box = Outbox()
    assert all(box.put(b"x") for _ in range(MAX_QUEUED))
    assert not box.put(b"x")
    large = Outbox()
    taken = sum(large.put(bytes(1 << 20)) for _ in range(20))
    assert taken == 8
    assert large.dropped == 12


@given(st.integers(0, 70_000))
def test_lengths_are_written_as_libp2p_reads_them(size: int) -> None:
    frame = framed(bytes(size))
    value = shift = at = 0
    while True:
        byte = frame[at]
        value |= (byte & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if byte < 0x80:
            break
    assert value == size == len(frame) - at
