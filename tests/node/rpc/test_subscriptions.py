"""Streams of what becomes final: resumable, filtered, never silently incomplete, and one serialisation for all."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import grpc
import pytest

from node.rpc import feed
from node.rpc.blocks import LoadedBlock
from node.rpc.listening import Listener
from node.rpc.quotas import QuotaLimits
from tests.node.rpc.calls import Caller, Refusal, Stream
from tests.node.rpc.rig import ALICE, BOB, CAROL, Rig, address, pay
from tests.node.rpc.test_reading import conflict
from tests.node.rpc.test_transactions import reached
from trellis.address import format_address
from trellis.transaction import Data, SubmitEvidence
from trellis.v1 import chain_pb2, subscription_service_pb2

BLOCKS = "SubscriptionService/SubscribeBlocks"
TRANSACTIONS = "SubscriptionService/SubscribeTransactions"
EVIDENCE = "SubscriptionService/SubscribeEvidence"


def ended(stream: Stream) -> Refusal:
    with pytest.raises(Refusal) as caught:
        list(stream)
    return caught.value


def streams_of(rig: Rig) -> int:
    return len(rig.plane._feed._streams)


def test_blocks_come_in_order_from_the_height_that_was_asked_for(rig: Rig, public: Caller) -> None:
    rig.commit(rig.tx(ALICE))
    rig.commit_to(5)
    stream = public.stream(BLOCKS, startHeight="2")
    seen = stream.take(4)
    assert [item.block.header.height for item in seen] == [2, 3, 4, 5]
    assert [item.resume_height for item in seen] == [3, 4, 5, 6]
    assert {item.at.height for item in seen} == {5}
    rig.commit()
    live = next(stream)
    assert (live.block.header.height, live.at.height, live.block.final) == (6, 6, True)
    again = public.stream(BLOCKS, startHeight=str(live.resume_height))
    rig.commit()
    assert next(again).block.header.height == next(stream).block.header.height == 7


def test_a_stream_without_a_start_begins_with_the_next_block(rig: Rig, public: Caller) -> None:
    rig.commit_to(3)
    stream = public.stream(BLOCKS, includeTransactions=True)
    reached(lambda: streams_of(rig) == 1)
    rig.commit(rig.tx(ALICE))
    item = next(stream)
    assert item.block.header.height == 4
    assert item.block.transactions[0].transaction.signature


def test_transactions_are_filtered_by_address_kind_and_id(rig: Rig, public: Caller) -> None:
    alice, bob, carol = (format_address(address(key)) for key in (ALICE, BOB, CAROL))
    to_carol, note = rig.tx(ALICE, pay(CAROL, 5), nonce=1), rig.tx(BOB, Data(b"n"), nonce=1)
    rig.commit(rig.tx(ALICE), rig.tx(BOB))
    rig.commit(type(to_carol)(to_carol.body, 1, b"", to_carol.signature), type(note)(note.body, 1, b"", note.signature))
    rig.commit_to(4)

    def heard(**filters: Any) -> list[tuple[int, list[str]]]:
        stream = public.stream(TRANSACTIONS, startHeight="1", heartbeatIntervalMs="1000", **filters)
        found = []
        for item in stream:
            if not item.HasField("block"):
                assert item.resume_height == 5
                stream.cancel()
                return found
            found.append((item.block.height, [info.sender for info in item.transactions]))
        return found

    assert heard(addresses=[carol]) == [(2, [alice])]
    assert heard(addresses=[bob], kinds=["TRANSACTION_KIND_DATA"]) == [(1, [bob]), (2, [bob])]
    assert heard(txids=[note.txid(rig.genesis.hash).hex()]) == [(2, [bob])]
    assert heard(kinds=["TRANSACTION_KIND_TRANSFER"], addresses=[bob]) == []
    assert [height for height, _ in heard()] == [1, 2]


def test_evidence_is_streamed_with_the_block_that_accepted_it(rig: Rig, public: Caller) -> None:
    rig.commit_to(3)
    stream = public.stream(EVIDENCE, startHeight="1")
    rig.commit(rig.tx(ALICE, SubmitEvidence(conflict(rig, 2))))
    item = next(stream)
    assert item.block.height == item.evidence[0].accepted_in.height == 4
    assert item.evidence[0].kind == chain_pb2.EVIDENCE_KIND_EQUIVOCATION
    quiet = public.stream(EVIDENCE, startHeight="4", heartbeatIntervalMs="1000", accused=[format_address(address(BOB))])
    assert not next(quiet).HasField("block")


def test_silence_is_filled_with_heartbeats_that_say_where_to_go_on(rig: Rig, public: Caller) -> None:
    rig.commit_to(2)
    stream = public.stream(BLOCKS, heartbeatIntervalMs="1000")
    beat = next(stream)
    assert (beat.HasField("block"), beat.resume_height, beat.at.height) == (False, 3, 2)


def test_starts_out_of_reach_and_bad_filters_are_refused(rig: Rig, public: Caller) -> None:
    rig.commit_to(2)
    future = ended(public.stream(BLOCKS, startHeight="4"))
    assert (future.reason, future.metadata) == ("HEIGHT_FUTURE", {"latest_height": "2"})
    for name, arguments, field in (
        (BLOCKS, {"heartbeatIntervalMs": "999"}, "heartbeat_interval_ms"),
        (BLOCKS, {"heartbeatIntervalMs": "300001"}, "heartbeat_interval_ms"),
        (TRANSACTIONS, {"kinds": [99]}, "kinds[0]"),
        (TRANSACTIONS, {"kinds": [0]}, "kinds[0]"),
        (TRANSACTIONS, {"txids": ["zz"]}, "txids[0]"),
        (TRANSACTIONS, {"addresses": ["x"] * 101}, "addresses"),
        (EVIDENCE, {"accused": ["x"]}, "accused[0]"),
    ):
        refusal = ended(public.stream(name, **arguments))
        assert (refusal.reason, refusal.metadata) == ("INVALID_FIELD", {"field": field}), (name, arguments)
    assert streams_of(rig) == 0


def test_a_block_is_serialised_once_for_all_who_follow(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = LoadedBlock.message

    def counted(self: LoadedBlock, **arguments: Any) -> Any:
        made.append(self.header.height)
        return original(self, **arguments)

    monkeypatch.setattr(LoadedBlock, "message", counted)
    with Caller(rig.channel()) as one, Caller(rig.channel()) as other:
        streams = [caller.stream(BLOCKS) for caller in (one, other) for _ in range(50)]
        reached(lambda: streams_of(rig) == 100)
        rig.commit(rig.tx(ALICE))
        assert {next(stream).block.header.height for stream in streams} == {1}
    assert made == [1]


class SlowReader:
    """A client that opens a stream and does not ask for its messages: the connection's window fills up."""

    def __init__(self, rig: Rig, start: int) -> None:
        options = [("grpc.http2.lookahead_bytes", 1_024), ("grpc.http2.bdp_probe", 0)]
        self.channel = grpc.insecure_channel(rig.address, options=options)
        self.stream = Caller(self.channel).stream(
            BLOCKS, timeout=None, startHeight=str(start), includeTransactions=True
        )


def test_who_reads_too_slowly_is_told_where_to_go_on_and_nobody_else_is_held_up(
    rig: Rig, public: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_LAG_BLOCKS", 8)
    slow = SlowReader(rig, 1)
    quick = public.stream(BLOCKS, startHeight="1")
    reached(lambda: streams_of(rig) == 2)
    for nonce in range(24):
        rig.commit(rig.tx(ALICE, Data(b"x" * 200_000), nonce=nonce, fee=400_000, carry_key=nonce == 0))
        assert next(quick).block.header.height == nonce + 1
    seen: list[int] = []
    with pytest.raises(Refusal) as caught:
        seen.extend(item.block.header.height for item in slow.stream)
    refusal = caught.value
    assert (refusal.reason, refusal.code.name) == ("SUBSCRIPTION_GAP", "DATA_LOSS")
    resume = int(refusal.metadata["resume_height"])
    assert seen == list(range(1, len(seen) + 1))
    assert resume <= len(seen) + 1
    assert resume < 24
    resumed = public.stream(BLOCKS, startHeight=str(resume))
    assert next(resumed).block.header.height == resume
    slow.channel.close()


def test_what_one_client_leaves_unread_is_bounded(tmp_path: Path) -> None:
    limits = QuotaLimits(units_per_second=0, unread_bytes_per_client=1 << 20)
    with Rig(tmp_path, listeners=[Listener("127.0.0.1:0", quotas=limits)]) as rig, Caller(rig.channel()) as public:
        for nonce in range(3):
            rig.commit(rig.tx(ALICE, Data(b"x" * 900_000), nonce=nonce, fee=1_000_000, carry_key=nonce == 0))
        stuck = [SlowReader(rig, 1) for _ in range(6)]
        reached(lambda: streams_of(rig) == 6)
        quotas = rig.plane._dispatchers[0]._quotas
        reached(lambda: sum(quotas._unread.values()) > 900_000)
        assert sum(quotas._unread.values()) < 1 << 20
        assert public.ask("NodeService/GetStatus").serving
        # Once they read, each gets everything.
        found: list[list[int]] = []

        def read(reader: SlowReader) -> None:
            found.append([item.block.header.height for item in reader.stream.take(3)])

        readers = [threading.Thread(target=read, args=(reader,)) for reader in stuck]
        for thread in readers:
            thread.start()
        for thread in readers:
            thread.join(20)
        assert found == [[1, 2, 3]] * 6
        for reader in stuck:
            reader.channel.close()
        reached(lambda: streams_of(rig) == 0)
        assert not quotas._unread


def test_a_client_that_catches_up_from_far_below_is_not_cut_off(
    rig: Rig, public: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feed, "MAX_LAG_BLOCKS", 4)
    rig.commit_to(40)
    stream = public.stream(BLOCKS, startHeight="1")
    assert [item.block.header.height for item in stream.take(40)] == list(range(1, 41))


def test_a_cancelled_stream_leaves_nothing_behind(rig: Rig, public: Caller) -> None:
    stream = public.stream(BLOCKS)
    reached(lambda: streams_of(rig) == 1)
    stream.cancel()
    reached(lambda: streams_of(rig) == 0)
    assert rig.plane.open_calls == 0


def test_streams_end_with_draining_when_the_node_drains_and_new_ones_are_refused(
    rig: Rig, public: Caller, operator: Caller
) -> None:
    stream = public.stream(BLOCKS)
    reached(lambda: streams_of(rig) == 1)
    done = operator.ask("AdminService/Drain", timeoutMs="5000")
    assert (done.complete, done.open_calls) == (True, 0)
    assert ended(stream).reason == "DRAINING"
    assert ended(public.stream(BLOCKS)).reason == "DRAINING"
    assert public.ask("NodeService/GetStatus").draining
    assert operator.ask("AdminService/Drain").complete


def test_a_thousand_followers_each_get_every_block(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig:
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [grpc.insecure_channel(rig.address, options=options) for _ in range(5)]
        callers = [Caller(channel) for channel in channels]
        counts = [0] * 1_000
        request = subscription_service_pb2.SubscribeBlocksRequest(start_height=1)
        calls = [callers[place % 5].raw(BLOCKS)(request, timeout=60) for place in range(1_000)]

        def read(places: range) -> None:
            for _ in range(5):
                for place in places:
                    next(calls[place])
                    counts[place] += 1

        readers = [threading.Thread(target=read, args=(range(start, 1_000, 8),)) for start in range(8)]
        for reader in readers:
            reader.start()
        reached(lambda: streams_of(rig) == 1_000, 30)
        for _ in range(5):
            rig.commit(*())
        for reader in readers:
            reader.join(30)
        assert counts == [5] * 1_000
        for channel in channels:
            channel.close()


def test_connections_that_say_nothing_do_no_harm(rig: Rig, public: Caller) -> None:
    host, _, port = rig.address.rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(50)]
    assert public.ask("NodeService/GetStatus").serving
    for connection in silent:
        connection.close()
