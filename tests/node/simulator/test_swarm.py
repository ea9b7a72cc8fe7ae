"""The simulator itself: it repeats exactly, it shows enough, and its parts do what a campaign relies on."""

from __future__ import annotations

import random
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from consensus.guard import SignGuard
from consensus.records import HeightBegun, Voted
from node.simulator.campaign import Setting, replay_command, run_campaign
from node.simulator.disk import Disk
from node.simulator.heap import Heap
from node.simulator.network import Network, Weather
from node.simulator.swarm import Conditions, FaultKind, Result, Run, draw, minimise, run_seed
from trellis.types import ZERO_HASH, Hash, Height, View
from trellis.votes import Vote, VoteKind

REGRESSIONS = [
    tuple(map(int, line.split()))
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line and not line.startswith("#")
]


@pytest.fixture(scope="module")
def slice_of_seeds() -> list[Result]:
    settings = (Setting(4, 1), Setting(7, 2))
    results: list[Result] = []
    run_campaign(settings, range(16), workers=1, on_result=lambda setting, result: results.append(result))
    return results


def test_no_seed_of_the_slice_breaks_safety_or_stalls(slice_of_seeds: list[Result]) -> None:
    assert [(result.seed, result.violation, result.stalled) for result in slice_of_seeds if result.failed] == []


def test_most_seeds_show_enough_to_count(slice_of_seeds: list[Result]) -> None:
    counted = sum(result.counts for result in slice_of_seeds)
    assert counted >= 0.8 * len(slice_of_seeds)


def test_the_slice_reaches_every_kind_of_fault(slice_of_seeds: list[Result]) -> None:
    fired = Counter(kind for result in slice_of_seeds for kind in result.faults)
    assert set(fired) == set(FaultKind)


def test_faults_are_not_harmless(slice_of_seeds: list[Result]) -> None:
    """Views change, replicas restart in the middle of a height, and evidence is found: the swarm bites."""
    rules = Counter(rule for result in slice_of_seeds for rule in result.rules)
    for rule in ("TIMED_OUT", "JOINED", "RESTARTED", "RESTART_SIGNED_AGAIN", "EVIDENCE_CONFLICT", "BEHIND"):
        assert rules[rule] >= 5, rule
    assert rules["HIGHEST_PREPARED_WINS"] >= 5, "prepared blocks survive view changes"


@pytest.mark.parametrize(("nodes", "byzantine", "seed"), REGRESSIONS)
def test_a_seed_that_once_showed_a_fault_passes(nodes: int, byzantine: int, seed: int) -> None:
    result = run_seed(seed, nodes, byzantine)
    assert (result.violation, result.stalled) == ("", False)


def test_the_same_seed_runs_the_same_way_to_the_last_line() -> None:
    first, second = (run_seed(5, 4, 1, trace=True) for _ in range(2))
    assert first.lines == second.lines
    assert len(first.lines) > 500
    assert first == second


def test_watching_changes_nothing() -> None:
    seen, unseen = run_seed(6, 4, 1, trace=True), run_seed(6, 4, 1)
    assert (seen.heights, seen.messages, seen.virtual_ms) == (unseen.heights, unseen.messages, unseen.virtual_ms)


def test_different_seeds_run_differently() -> None:
    assert len({run_seed(seed, 4, 1).messages for seed in range(4)}) == 4


def test_the_corrupted_never_hold_a_third_of_stake() -> None:
    for seed in range(300):
        for nodes, byzantine in ((4, 1), (7, 2), (10, 3)):
            drawn = draw(seed, nodes, byzantine)
            held = sum(drawn.stakes[index] for index, _ in drawn.byzantine)
            assert 3 * held < sum(drawn.stakes)


def test_faults_that_are_left_out_do_not_fire() -> None:
    whole = run_seed(3, 4, 1)
    spared = run_seed(3, 4, 1, skip=frozenset(range(10_000)))
    assert set(whole.faults) > {FaultKind.BYZANTINE}
    assert set(spared.faults) == {FaultKind.BYZANTINE}


def test_minimising_leaves_only_faults_that_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    from node.simulator import swarm

    def fake(
        seed: int, nodes: int, byzantine: int, conditions: Conditions, *, skip: frozenset[int] = frozenset()
    ) -> Result:
        return Result(seed, drawn=6, violation="" if {2, 4} & skip else "needs 2 and 4")

    monkeypatch.setattr(swarm, "run_seed", fake)
    skip, result = minimise(0, 4, 1)
    assert skip == {0, 1, 3, 5}
    assert result.failed


def test_a_run_that_multiplies_messages_ends_as_a_failure() -> None:
    run = Run(draw(5, 4, 1))
    run.world.most_events = 1_000
    result = run.run()
    assert result.failed
    assert result.violation.startswith("runaway: 1000 events were not enough")


def test_who_forgot_its_votes_at_the_height_in_progress_is_one_of_the_f_faults() -> None:
    """Its guard rightly refuses what could help; with f corrupted beside it nothing is owed, so one of them reforms."""
    result = run_seed(1_432, 4, 1, trace=True)
    assert not result.failed
    assert sum("reformed" in line for line in result.lines) == 1


def test_a_campaign_does_not_depend_on_its_workers() -> None:
    settings = (Setting(4, 1),)
    alone, together = (run_campaign(settings, range(40, 52), workers=workers) for workers in (1, 2))
    assert alone == together


def test_the_command_that_replays_names_network_and_seed() -> None:
    assert replay_command(Setting(7, 2), 99) == "trellis sim --nodes 7 --byzantine 2 --replay 99"


def test_a_broadcast_is_one_entry_that_expands_as_it_arrives() -> None:
    heap = Heap()
    seen: list[int] = []
    heap.spread([(10 * place, place) for place in range(1, 1_001)], "x", lambda receiver, _: seen.append(receiver))
    assert len(heap) == 1
    for expected in range(1, 1_001):
        assert heap.run_next()
        assert len(heap) <= 1
        assert seen[-1] == expected
        assert heap.now_us == 10 * expected
    assert not heap.run_next()


def test_equal_times_come_in_the_order_of_scheduling() -> None:
    heap = Heap()
    seen: list[str] = []
    for name in "abc":
        heap.after(5, partial(seen.append, name))
    while heap.run_next():
        pass
    assert seen == ["a", "b", "c"]


def test_a_crash_takes_what_was_not_synced_and_nothing_else() -> None:
    kept = set()
    for seed in range(30):
        disk = Disk(SignGuard(ZERO_HASH))
        disk.append(HeightBegun(Height(1), View(0)))
        disk.append(Voted(Vote(VoteKind.PREPARE, Height(1), View(0), Hash(b"a" * 32))))
        disk.sync()
        for view in (1, 2):
            disk.append(Voted(Vote(VoteKind.VIEW_CHANGE, Height(1), View(view))))
        before = disk.records()
        disk.crash(random.Random(seed))
        after = disk.records()
        assert after == before[: len(after)]
        kept.add(len(after))
    assert kept == {2, 3, 4}


def test_a_partition_cuts_both_ways_and_healing_ends_it() -> None:
    network = Network(random.Random(1))
    network.partition([0, 1], [2], [3])
    assert not network.reaches(0, 2)
    assert not network.reaches(3, 2)
    assert network.reaches(0, 1)
    network.heal()
    assert network.reaches(0, 2)


def test_loss_and_duplication_come_in_the_proportion_asked_for() -> None:
    network = Network(random.Random(1), Weather(loss_permille=300, duplicate_permille=100))
    copies = Counter(network.copies() for _ in range(10_000))
    assert 2_800 < copies[0] < 3_200
    assert 600 < copies[2] < 800, "of the 70 % that arrive"
