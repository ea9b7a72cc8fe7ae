"""The load bench: what it sends, how it counts, and when it refuses to give figures."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections import deque
from itertools import pairwise
from pathlib import Path

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from node.bench.figures import LoadFigures, latency
from node.bench.load import Generator, Lane, Sent, Shape, make_lanes
from node.bench.session import Means, measure_idle, measure_load
from node.bench.signing import Cache, Order, Recipe, prepare, recipe_for, sign, varint
from node.bench.target import BenchFault, TargetPlan
from node.bench.usage import UsageMeter, children, measure_verify_us, read_process
from node.cli import trellis
from node.cli.exits import Exit
from node.localnet.layout import account_address, account_key
from tests.node.fake_network import SEED, fake_network
from tests.proto.client.fake_chain import FakeChain
from tests.proto.client.fake_server import Refusal
from trellis.client.endpoints import Endpoint
from trellis.client.errors import Reason
from trellis.crypto.schemes import verify_all
from trellis.fees import minimum_fee
from trellis.transaction import Data, Transaction, decode_transaction
from trellis.v1 import transaction_service_pb2

SHAPE = Shape(rate=200, seconds=1, warm_up_s=0, senders=12, batch=8)
RECIPE = recipe_for(FakeChain("recipe").genesis, SEED, 512)


def load(plan: TargetPlan, shape: Shape = SHAPE, means: Means | None = None) -> LoadFigures:
    return asyncio.run(measure_load(plan, shape, 512, means or Means(workers=1)))


# Signing.


@given(st.integers(0, 1_000), st.integers(0, 2**40), st.booleans(), st.integers(128, 4_096))
@settings(max_examples=100)
def test_each_transaction_is_valid_pays_exactly_its_fee_and_has_the_size_asked_for(
    index: int, nonce: int, carries_key: bool, size: int
) -> None:
    recipe = Recipe(SEED, RECIPE.genesis_hash, RECIPE.parameters, size)
    signed = sign(recipe, Order(index, nonce, carries_key))
    (message,) = transaction_service_pb2.SubmitTransactionsRequest.FromString(signed.framed).transactions
    transaction = decode_transaction(message.SerializeToString())
    key = account_key(SEED, index)
    assert len(transaction.body) == size
    assert isinstance(transaction.parsed.kind, Data)
    assert (transaction.parsed.sender, transaction.parsed.nonce) == (account_address(key), nonce)
    assert transaction.parsed.fee == minimum_fee(recipe.parameters, transaction, key.public_key)
    assert (transaction.public_key == key.public_key) is carries_key
    assert all(verify_all(transaction.checks(recipe.genesis_hash, key.public_key)))
    assert transaction.txid(recipe.genesis_hash) == signed.txid


@given(st.integers(0, 2**63))
def test_lengths_are_written_as_protobuf_does(value: int) -> None:
    encoded = varint(value)
    assert sum((byte & 0x7F) << 7 * place for place, byte in enumerate(encoded)) == value
    assert all(byte & 0x80 for byte in encoded[:-1])
    assert not encoded[-1] & 0x80


def test_joined_items_are_a_request_of_all_of_them() -> None:
    signed = [sign(RECIPE, Order(index, 0, True)) for index in range(3)]
    request = transaction_service_pb2.SubmitTransactionsRequest.FromString(b"".join(each.framed for each in signed))
    made = [decode_transaction(item.SerializeToString()).txid(RECIPE.genesis_hash) for item in request.transactions]
    assert made == [each.txid for each in signed]


def test_what_was_signed_and_not_sent_is_kept_for_the_next_run(tmp_path: Path) -> None:
    cache = Cache(tmp_path, RECIPE)
    orders = [Order(index, nonce, nonce == 0) for index in range(2) for nonce in range(3)]
    first = prepare(RECIPE, orders, workers=1, cache=cache)
    steps: list[int] = []
    later = [order for order in orders if order.nonce > 0] + [Order(0, 3, False)]
    second = prepare(RECIPE, later, workers=1, cache=cache, progress=steps.append)
    assert steps == [4, 5]
    assert all(second[order] == first[order] for order in later[:-1])
    assert set(cache.load(later)) == set(later)


def test_a_cache_of_which_nothing_is_of_use_is_removed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, RECIPE)
    cache.store([sign(RECIPE, Order(0, 0, True))])
    assert cache.load([Order(0, 7, False)]) == {}
    assert not cache.path.exists()


def test_half_a_record_at_the_end_of_the_cache_is_left_out(tmp_path: Path) -> None:
    cache = Cache(tmp_path, RECIPE)
    orders = [Order(index, 0, True) for index in range(2)]
    cache.store([sign(RECIPE, order) for order in orders])
    whole = cache.path.read_bytes()
    cache.path.write_bytes(whole[:-1])
    assert set(cache.load(orders)) == {orders[0]}


# Sending.


def test_a_sender_keeps_to_one_node_and_to_the_order_of_its_nonces() -> None:
    signed = [sign(RECIPE, Order(index, nonce, False)) for nonce in (1, 0, 2) for index in range(4)]
    nodes = [object(), object()]
    lanes = make_lanes(nodes, signed)  # type: ignore[arg-type] # lanes only hand the node on
    seen: dict[int, list[int]] = {}
    for place, lane in enumerate(lanes):
        for _ in range(3):
            taken = lane.take(10)
            assert len({each.order.index for each in taken}) == len(taken) == 2
            for each in taken:
                assert each.order.index % 2 == place
                seen.setdefault(each.order.index, []).append(each.order.nonce)
        assert lane.take(10) == []
    assert seen == {index: [0, 1, 2] for index in range(4)}


def test_a_refused_transaction_takes_its_senders_next_turn() -> None:
    signed = [sign(RECIPE, Order(0, nonce, False)) for nonce in range(3)]
    lane = Lane(None, [deque(signed)])  # type: ignore[arg-type] # not sent to anybody here
    first, second = lane.take(1)[0], lane.take(1)[0]
    lane.give_back(second)
    lane.give_back(first)
    assert [lane.take(1)[0].order.nonce for _ in range(3)] == [0, 1, 2]


def test_batches_leave_when_they_are_due_though_the_node_does_not_answer() -> None:
    class Deaf:
        def __init__(self) -> None:
            self.asked = 0
            self.release = asyncio.Event()

        async def submit(self, _request: bytes) -> list[object]:
            self.asked += 1
            await self.release.wait()
            return [transaction_service_pb2.SubmissionResult(status=1)] * 2

    async def scenario() -> None:
        deaf, sent = Deaf(), Sent()
        signed = [sign(RECIPE, Order(index, 0, False)) for index in range(10)]
        generator = Generator(make_lanes([deaf], signed), 2, sent)  # type: ignore[list-item] # a stand-in for a node
        await generator.run(rate=500, transactions=10)
        assert deaf.asked == 5
        assert not sent.admitted
        deaf.release.set()
        await generator.answers()
        assert len(sent.admitted) == 10
        times = sorted(set(sent.due_s.values()))
        assert [round(after - before, 6) for before, after in pairwise(times)] == [0.004] * 4

    asyncio.run(scenario())


# Whole runs.


def test_a_run_counts_what_became_final_at_the_other_node() -> None:
    with fake_network(SHAPE.senders) as (plan, chain, nodes):
        figures = load(plan)
    assert figures.problems == []
    assert figures.admitted == figures.final == SHAPE.rate * SHAPE.seconds + SHAPE.senders
    assert figures.outcomes == {"OK": figures.admitted}
    assert sum(len(block.included) for block in chain.blocks) == figures.admitted
    assert nodes[1].calls["SubmitTransactions"] == 0
    assert nodes[0].calls["SubscribeBlocks"] == 0
    assert figures.finality is not None
    assert 0 < figures.finality.p50 <= figures.finality.p99 <= figures.finality.most
    assert figures.due == SHAPE.rate * SHAPE.seconds


def test_refusals_are_counted_by_reason_and_what_was_refused_comes_later() -> None:
    with fake_network(SHAPE.senders) as (plan, _, nodes):
        full = Refusal(Reason.MEMPOOL_FULL, retry_after_ms=10)
        real, left = nodes[0]._admit, deque([full] * 5)
        nodes[0]._admit = lambda message: left.popleft() if left else real(message)  # type: ignore[method-assign]
        figures = load(plan)
    assert figures.refused == {"MEMPOOL_FULL": 5}
    assert figures.problems == []
    assert figures.final == figures.admitted


def test_a_call_that_failed_is_repeated_and_counts_once() -> None:
    with fake_network(SHAPE.senders) as (plan, _, nodes):
        nodes[0].refuse("SubmitTransactions", Refusal(Reason.SYNCING))
        figures = load(plan)
    assert figures.refused == {"UNAVAILABLE": SHAPE.batch}
    assert figures.problems == []


def test_a_lost_transaction_makes_the_run_worthless(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.bench.load.settle.__defaults__", (0.5,))

    def commit(chain: FakeChain, pending: list[Transaction]) -> None:
        if chain.height == 3:
            del chain.pending[pending[0].txid(chain.genesis.hash)]
            pending = pending[1:]
        chain.commit(*pending)

    with fake_network(SHAPE.senders, commit) as (plan, _, _nodes):
        figures = load(plan)
    assert len(figures.problems) == 1
    assert figures.problems[0].startswith("1 admitted transactions never became final")


def test_a_transaction_that_is_final_twice_makes_the_run_worthless() -> None:
    def commit(chain: FakeChain, pending: list[Transaction]) -> None:
        again = [chain.blocks[1].included[0].transaction] if chain.height == 3 else []
        chain.commit(*pending, *again)

    with fake_network(SHAPE.senders, commit) as (plan, _, _nodes):
        figures = load(plan)
    assert [problem.split(":")[0] for problem in figures.problems] == ["1 transactions became final twice"]


def test_nodes_with_different_states_make_the_run_worthless() -> None:
    with fake_network(SHAPE.senders) as (plan, _, nodes):

        def forge(answer: object) -> None:
            answer.header.state_root = "ab" * 32  # type: ignore[attr-defined] # a message of the schema

        nodes[0].lie("GetHeader", forge)
        figures = load(plan)
    assert [problem.split(":")[0] for problem in figures.problems] == ["the nodes do not agree on the state"]


def test_a_lost_stream_goes_on_without_missing_a_block() -> None:
    with fake_network(SHAPE.senders) as (plan, _, nodes):
        nodes[1].scripts.extend([["block", "drop"], ["block", "block", "end"], ["block", "gap"]])
        figures = load(plan)
    assert figures.problems == []
    assert nodes[1].calls["SubscribeBlocks"] >= 4


def test_another_chain_is_refused_before_anything_is_sent() -> None:
    with fake_network(2) as (plan, _, nodes):
        wrong = TargetPlan(FakeChain("another").genesis, plan.endpoints, SEED)
        with pytest.raises(BenchFault, match="serves chain"):
            load(wrong)
        assert nodes[0].calls["SubmitTransactions"] == 0


def test_senders_without_funds_are_refused_with_the_remedy() -> None:
    with fake_network(2) as (plan, _, _nodes), pytest.raises(BenchFault, match="10 of 12 senders") as fault:
        load(plan)
    assert "--accounts 12" in fault.value.hint


def test_one_endpoint_is_not_enough() -> None:
    with pytest.raises(BenchFault, match="one endpoint"):
        TargetPlan(FakeChain("one").genesis, (Endpoint.parse("127.0.0.1:1"),), SEED)


def test_an_idle_network_is_measured_one_transaction_at_a_time() -> None:
    with fake_network(1) as (plan, chain, _nodes):
        times = asyncio.run(measure_idle(plan, 3, 512, Means(workers=1)))
    assert len(times) == 3
    assert [len(block.included) for block in chain.blocks] == [1] * 4


def test_the_command_refuses_figures_with_its_exit_code_and_gives_json_otherwise(tmp_path: Path) -> None:
    seed, genesis = tmp_path / "seed", tmp_path / "genesis.json"
    seed.write_text(SEED.hex())
    with fake_network(SHAPE.senders) as (_, chain, nodes):
        genesis.write_text(json.dumps(chain.genesis.to_json()))
        arguments = ["bench", "--genesis", str(genesis), "--seed-file", str(seed), "--rate", "100", "--seconds", "1"]
        arguments += ["--warm-up", "0", "--senders", str(SHAPE.senders), "--batch", "8", "--output", "json"]
        for node in nodes:
            arguments += ["--endpoint", node.address]
        answer = CliRunner().invoke(trellis, arguments, standalone_mode=False)
        assert answer.exception is None
        told = json.loads(answer.output)
        assert told["final"] == told["admitted"] == 100 + SHAPE.senders
        nodes[0].lie("GetHeader", lambda message: setattr(message.header, "state_root", "00"))
        failed = CliRunner().invoke(trellis, arguments, standalone_mode=False)
    assert getattr(failed.exception, "code", None) == Exit.NO
    assert "no figures" in str(failed.exception)


# Figures.


@given(st.lists(st.floats(0.0001, 100), min_size=1, max_size=300))
def test_each_figure_of_a_latency_was_measured_and_at_least_its_share_is_no_longer(samples: list[float]) -> None:
    found = latency(samples)
    assert found is not None
    milliseconds = [round(1_000 * sample, 1) for sample in samples]
    for share, figure in ((0.5, found.p50), (0.9, found.p90), (0.99, found.p99), (1.0, found.most)):
        assert figure in milliseconds
        assert sum(each <= figure for each in milliseconds) >= share * len(samples)
    assert found.most == max(milliseconds)


def test_usage_of_a_process_and_its_workers_is_read_from_the_kernel() -> None:
    own = read_process(os.getpid())
    assert own is not None
    assert own.uss_bytes > 1 << 20
    meter = UsageMeter({"me": os.getpid()})
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        assert child.pid in children(os.getpid())
        (usage,) = meter.read()
        assert usage.workers_uss_bytes > 0
        child.communicate(b"\n")
    assert read_process(child.pid) is None
    assert UsageMeter({"gone": child.pid}).read() == []


def test_verification_is_measured_in_microseconds() -> None:
    assert 10 < measure_verify_us() < 50_000


def test_a_closed_port_is_told_as_such() -> None:
    async def scenario() -> None:
        plan = TargetPlan(
            FakeChain("closed").genesis, (Endpoint.parse("127.0.0.1:1"), Endpoint.parse("127.0.0.1:2")), SEED
        )
        await measure_load(plan, SHAPE, 512, Means(workers=1))

    with pytest.raises(BenchFault, match="does not answer"):
        asyncio.run(scenario())


def test_a_batch_needs_as_many_senders_at_each_node() -> None:
    with fake_network(6) as (plan, _, _nodes), pytest.raises(BenchFault, match="8 senders"):
        load(plan, Shape(rate=200, seconds=1, warm_up_s=0, senders=6, batch=8))
