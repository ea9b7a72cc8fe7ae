"""Metrics of a real node: their names, and that they tell what the node did."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import structlog.testing
import trio
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import Counter, Gauge, Histogram

from consensus.effects import Observe, Violation
from consensus.rules import Rule
from node.localnet.samples import Scrape, parse, total
from node.metrics import FINALITY_BUCKETS_MS, Metrics
from node.work import Accused, Seen
from state.chain import read_totals
from state.results import read_rewards
from tests.node.alert_rules import History, firing, read_rules
from tests.node.single import SingleNode, single_node
from tests.signing import fake_verify_all
from tests.strategies import GENESIS_HASH, evidence, members
from trellis.evidence import decode_evidence, evidence_checks, evidence_id
from trellis.types import Height, View
from trellis.validators import make_validator_set

ACCOUNTS = 40

NAMES = (
    "consensus_proposals_sent_total",
    "consensus_vertices_finalized_total",
    "consensus_prepares_sent_total",
    "consensus_commits_sent_total",
    "consensus_finality_time_ms",
    "consensus_byzantine_violations_total{kind}",
    "consensus_banned_nodes",
    "consensus_view_changes_total",
    "consensus_current_view",
    "consensus_current_sequence",
    "consensus_round_duration_seconds",
    "consensus_round_participants",
    "consensus_round_proofs",
    "consensus_verification_accuracy{validator}",
    "ledger_rewards_total{validator}",
    "mempool_transactions",
    "mempool_bytes",
    "mempool_proofs",
    "mempool_proofs_processed_total",
    "p2p_peers{state}",
    "p2p_bytes_total{dir}",
    "p2p_msgs_total{topic}",
    "p2p_gossip_fanout",
    "p2p_rtt_seconds",
    "p2p_rejects_total{reason}",
    "p2p_handshake_seconds",
    "p2p_handshake_failures_total{reason}",
    "ledger_height",
    "ledger_transactions_total{kind,outcome}",
    "ledger_commit_seconds",
    "ledger_supply_units",
    "grpc_requests_total{method,code}",
    "grpc_request_seconds{method}",
    "node_signature_checks_total{purpose}",
)
"""What dashboards rely on, with labels. The last one is for `trellis bench`."""


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SingleNode]:
    with single_node(tmp_path_factory.mktemp("single"), ACCOUNTS) as made:
        yield made


class Nonces:
    """The next transaction of each account, over all examples."""

    def __init__(self, node: SingleNode) -> None:
        self.node = node
        self.next = dict.fromkeys(range(ACCOUNTS), 0)

    def make(self, index: int, ahead: int = 0) -> Any:
        nonce = self.next[index] + ahead
        return self.node.transaction(index, nonce, first=nonce == 0)

    def used(self, index: int) -> None:
        self.next[index] += 1


@pytest.fixture(scope="module")
def nonces(node: SingleNode) -> Nonces:
    found = Nonces(node)
    node.submit(*(found.make(index) for index in range(ACCOUNTS)))
    node.wait_until_empty()
    for index in range(ACCOUNTS):
        found.used(index)
    return found


# Names.


def test_every_metric_exists_by_its_exact_name_with_its_labels_and_no_other() -> None:
    found = set()
    for metric in vars(Metrics()).values():
        if isinstance(metric, Counter | Gauge | Histogram):
            name = metric._name + ("_total" if isinstance(metric, Counter) else "")
            labels = ",".join(metric._labelnames)
            found.add(f"{name}{{{labels}}}" if labels else name)
    assert found == set(NAMES)


def test_finality_has_the_documented_buckets() -> None:
    metrics = Metrics()
    bounds = [float(line.split('"')[1]) for line in _lines(metrics, "consensus_finality_time_ms_bucket")]
    assert bounds == [*map(float, FINALITY_BUCKETS_MS), float("inf")]
    assert FINALITY_BUCKETS_MS == (10, 50, 100, 200, 300, 400, 500, 750, 1_000, 2_000, 5_000)


def _lines(metrics: Metrics, prefix: str) -> list[str]:
    return [line for line in metrics.exposition().decode().splitlines() if line.startswith(prefix)]


# What a node that runs says of itself.


def grown(name: str, before: Scrape, after: Scrape, **labels: str) -> float:
    return total(after, name, **labels) - total(before, name, **labels)


@given(st.lists(st.sets(st.integers(0, ACCOUNTS - 1), min_size=1, max_size=6), min_size=1, max_size=3))
@settings(max_examples=100)
def test_consensus_metrics_emission(node: SingleNode, nonces: Nonces, batches: list[set[int]]) -> None:
    """Votes, proposals, blocks and transactions are counted once each, and the gauges follow the chain."""
    before = node.scrape()
    for batch in batches:
        node.submit(*(nonces.make(index) for index in sorted(batch)))
        node.wait_until_empty()
        for index in batch:
            nonces.used(index)
    after = node.scrape()
    blocks = grown("ledger_height", before, after)
    assert 1 <= blocks <= sum(map(len, batches))
    assert total(after, "ledger_height") == node.runtime.ledger.tip.height
    for name in (
        "consensus_vertices_finalized_total",
        "consensus_proposals_sent_total",
        "consensus_prepares_sent_total",
        "consensus_commits_sent_total",
        "consensus_finality_time_ms_count",
        "consensus_round_duration_seconds_count",
        "ledger_commit_seconds_count",
    ):
        assert grown(name, before, after) == blocks, name
    number = sum(map(len, batches))
    assert grown("ledger_transactions_total", before, after) == number
    assert grown("ledger_transactions_total", before, after, kind="data", outcome="ok") == number
    assert grown("node_signature_checks_total", before, after, purpose="tx") == number
    assert total(after, "consensus_current_sequence") == total(after, "ledger_height") + 1
    assert total(after, "consensus_current_view") == 0
    assert total(after, "consensus_round_participants") == 1
    assert grown("consensus_view_changes_total", before, after) == 0


@given(st.dictionaries(st.integers(0, ACCOUNTS - 1), st.integers(1, 3), min_size=1, max_size=6))
@settings(max_examples=100)
def test_real_time_mempool_metrics(node: SingleNode, nonces: Nonces, waiting: dict[int, int]) -> None:
    """Each scrape shows the pool of that moment: what waits behind a missing nonce, and nothing once it came."""
    held = []
    for index, number in sorted(waiting.items()):
        for ahead in range(1, number + 1):
            held.append(nonces.make(index, ahead))
            node.submit(held[-1])
            scrape = node.scrape()
            assert total(scrape, "mempool_transactions") == len(held)
    assert total(scrape, "mempool_bytes") == node.runtime.pool.size_bytes
    assert total(scrape, "mempool_bytes") >= sum(len(transaction.encode()) for transaction in held)
    node.submit(*(nonces.make(index) for index in sorted(waiting)))
    node.wait_until_empty()
    for index, number in waiting.items():
        for _ in range(number + 1):
            nonces.used(index)
    scrape = node.scrape()
    assert total(scrape, "mempool_transactions") == total(scrape, "mempool_bytes") == 0


@given(st.integers(1, 4))
@settings(max_examples=100)
def test_reward_tracking_accuracy(node: SingleNode, nonces: Nonces, blocks: int) -> None:
    """What is counted as rewarded is, to the unit, what the ledger credited; and the supply is what it accounts for."""
    before = node.scrape()
    earned_before = _earned(node)
    for index in itertools.islice(itertools.cycle(range(ACCOUNTS)), blocks):
        node.submit(nonces.make(index))
        node.wait_until_empty()
        nonces.used(index)
    after = node.scrape()
    earned = _earned(node) - earned_before
    assert earned > 0
    assert grown("ledger_rewards_total", before, after, validator="0") == earned
    assert total(after, "ledger_rewards_total") == total(after, "ledger_rewards_total", validator="0")
    totals = read_totals(node.runtime.ledger.state)
    assert total(after, "ledger_supply_units") == totals.genesis_supply + totals.emitted - totals.burned


def _earned(node: SingleNode) -> int:
    return read_rewards(node.runtime.ledger.state, node.runtime.home.account).units


# Byzantine behaviour.


@given(st.data())
@settings(max_examples=100)
def test_byzantine_behaviour_logging_with_its_cryptographic_proof(node: SingleNode, data: st.DataObject) -> None:
    """The log line of an accusation holds the whole proof: whoever has the line can check it without the node."""
    member = data.draw(members(min_size=1, max_size=1))[0]
    accused = data.draw(evidence(member))
    with structlog.testing.capture_logs() as lines:
        node.runtime._seen(Seen(Accused(accused)))
    (line,) = [each for each in lines if each["event"] == "evidence"]
    assert line["log_level"] == "error"
    assert line["kind"] == accused.kind.name.lower()
    assert line["height"] == accused.height
    proof = decode_evidence(bytes.fromhex(line["proof"]))
    assert evidence_id(proof) == evidence_id(accused)
    offender = make_validator_set([member.validator]).members[0]
    assert proof.offender == offender.address
    checks = evidence_checks(proof, GENESIS_HASH, offender)
    assert checks
    assert all(fake_verify_all(checks))


@given(st.lists(st.sampled_from(Violation), max_size=5))
@settings(max_examples=100)
def test_violations_are_counted_by_kind(node: SingleNode, kinds: list[Violation]) -> None:
    before = node.scrape()
    for kind in kinds:
        seen = Observe(Rule.STARTED, Height(1), View(0), violation=kind)
        trio.from_thread.run_sync(node.runtime._seen, Seen(seen), trio_token=node.token)
    after = node.scrape()
    for kind in Violation:
        assert grown("consensus_byzantine_violations_total", before, after, kind=kind) == kinds.count(kind)


# Alerts.


def test_every_rule_looks_at_a_metric_that_exists_and_says_what_to_do() -> None:
    rules = read_rules()
    assert len({rule.name for rule in rules}) == len(rules) >= 10
    names = {name.partition("{")[0] for name in NAMES} | {"up"}
    for rule in rules:
        assert rule.metric in names, rule.name
        assert rule.severity in {"page", "warn"}
        assert len(rule.action) > 20
        firing(rule, _history(Metrics(), 3))


def _history(metrics: Metrics, scrapes: int, every_s: float = 30.0, step: Any = None) -> History:
    history = History()
    for number in range(scrapes):
        if step is not None:
            step(number)
        history.add(number * every_s, parse(metrics.exposition().decode()))
    return history


ALERTS = {rule.name: rule for rule in read_rules()}


@given(st.lists(st.integers(0, 1_000), min_size=1, max_size=7), st.integers(1, 6))
@settings(max_examples=100)
def test_low_accuracy_alerting(permille: list[int], scrapes: int) -> None:
    """The alert fires for exactly the validators below 95 %, once that has lasted for the rule's time."""
    metrics = Metrics()
    for place, value in enumerate(permille):
        metrics.accuracy.labels(validator=str(place)).set(value / 1_000)
    rule = ALERTS["TrellisLowVerificationAccuracy"]
    found = firing(rule, _history(metrics, scrapes))
    lasted = (scrapes - 1) * 30 >= rule.for_s
    wanted = {place for place, value in enumerate(permille) if value < 950} if lasted else set()
    assert {int(dict(labels)["validator"]) for labels in found} == wanted


def test_an_accuracy_that_recovers_ends_the_alert() -> None:
    metrics = Metrics()

    def step(number: int) -> None:
        metrics.accuracy.labels(validator="0").set(0.9 if number < 4 else 1.0)

    assert firing(ALERTS["TrellisLowVerificationAccuracy"], _history(metrics, 4, step=step))
    assert not firing(ALERTS["TrellisLowVerificationAccuracy"], _history(metrics, 5, step=step))


@pytest.mark.parametrize(("finality_ms", "fires"), [(90, False), (480, False), (900, True)])
def test_slow_finality_alerts(finality_ms: float, fires: bool) -> None:
    metrics = Metrics()
    found = firing(
        ALERTS["TrellisSlowFinality"],
        _history(metrics, 25, step=lambda _: [metrics.finality_ms.observe(finality_ms) for _ in range(10)]),
    )
    assert bool(found) is fires


@pytest.mark.parametrize(("stops_at", "fires"), [(100, False), (3, True)])
def test_a_chain_that_stands_still_alerts(stops_at: int, fires: bool) -> None:
    metrics = Metrics()
    found = firing(
        ALERTS["TrellisNoBlocks"],
        _history(metrics, 14, step=lambda number: metrics.finalized.inc() if number < stops_at else None),
    )
    assert bool(found) is fires


@pytest.mark.parametrize(("kind", "fires"), [(Violation.EQUIVOCATION, True), (Violation.TIMEOUT, False)])
def test_only_what_can_be_proven_is_told_as_byzantine(kind: Violation, fires: bool) -> None:
    metrics = Metrics()
    rule = ALERTS["TrellisByzantineBehaviour"]
    step = lambda number: metrics.violations.labels(kind=kind).inc() if number == 2 else None  # noqa: E731 - one line
    assert bool(firing(rule, _history(metrics, 3, step=step))) is fires
