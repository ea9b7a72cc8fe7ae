"""The node's engine on the real ledger under the simulator: seeds pass, and mutants of the core are caught."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from unittest.mock import patch

import pytest

from node.simulator.campaign import Setting, replay_command, run_campaign
from node.simulator.checkers import SafetyViolation
from node.simulator.disk import Disk
from node.simulator.engine_chain import CLIENTS
from node.simulator.engine_host import EngineHost, EngineWorld, on_engine
from node.simulator.host import Host
from node.simulator.stage import Actor, EngineStage
from node.simulator.swarm import ADVERSARIES, Result, Run, draw, run_seed
from state import execution
from state.accounts import write_account
from state.execution import Execution
from tests.node.simulator.engine_mutants import MUTANTS_HERE, ON_ENGINE, SCRIPTS, try_hint
from tests.node.simulator.mutants import Mutant
from tests.node.simulator.test_swarm import REGRESSIONS
from trellis.messages import Ballot
from trellis.votes import VoteKind

QUICK_HINTS = {
    "the lock is dropped": "7/2/1",
    "duplicate votes count": "7/2/3",
    "half of power is a quorum": "4/1/18",
    "the log is forgotten at a restart": "4/1/0",
    "a restart forgets its votes": "4/1/0",
    "the guard is off and an old log is trusted": "7/2/11",
    "a third of PREPAREs is enough to COMMIT": "7/2/1",
    "anybody may propose": "7/2/13",
    "the vote need not name its header": "7/2/11",
    "signatures are not verified": "4/1/16",
    "nobody changes the view": "4/1/0",
}
"""Beside the scripts, which catch the same mutants here as on the core alone."""
SLOW = ("one validator's VIEW-CHANGE moves all",)
"""Half a minute until it shows."""
HINTS = [
    (mutant, QUICK_HINTS.get(mutant.name, mutant.hint))
    for mutant in MUTANTS_HERE
    if mutant.name in QUICK_HINTS or (mutant.hint in SCRIPTS and mutant.name not in SLOW)
]


@pytest.fixture(scope="module")
def slice_of_seeds() -> list[Result]:
    settings = (Setting(4, 1, ON_ENGINE), Setting(7, 2, ON_ENGINE))
    results: list[Result] = []
    run_campaign(settings, range(4), workers=1, on_result=lambda setting, result: results.append(result))
    return results


def test_no_seed_of_the_slice_breaks_safety_or_stalls(slice_of_seeds: list[Result]) -> None:
    assert [(result.seed, result.violation, result.stalled) for result in slice_of_seeds if result.failed] == []
    assert sum(result.counts for result in slice_of_seeds) >= 7


def test_faults_reach_the_engine(slice_of_seeds: list[Result]) -> None:
    rules = Counter(rule for result in slice_of_seeds for rule in result.rules)
    for rule in ("TIMED_OUT", "RESTARTED", "RESTART_SIGNED_AGAIN", "BEHIND", "EVIDENCE_CONFLICT"):
        assert rules[rule] >= 2, rule
    fired = {kind for result in slice_of_seeds for kind in result.faults}
    assert len(fired) >= 10


@pytest.mark.parametrize(("nodes", "byzantine", "seed"), REGRESSIONS[:6])
def test_a_seed_that_once_showed_a_fault_passes(nodes: int, byzantine: int, seed: int) -> None:
    result = run_seed(seed, nodes, byzantine, ON_ENGINE)
    assert (result.violation, result.stalled) == ("", False)


def test_the_same_seed_runs_the_same_way_to_the_last_line() -> None:
    first, second = (run_seed(4, 4, 1, ON_ENGINE, trace=True) for _ in range(2))
    assert first.lines == second.lines
    assert len(first.lines) > 500


@pytest.mark.parametrize(("mutant", "hint"), HINTS, ids=[mutant.name for mutant, _ in HINTS])
def test_a_checker_notices_the_engine_without(mutant: Mutant, hint: str) -> None:
    caught = try_hint(mutant, hint)
    assert caught is not None
    assert caught.said


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_engine_as_it_is_stands_every_script(name: str) -> None:
    assert SCRIPTS[name]() == ""


def test_transactions_are_executed_and_evidence_costs_an_equivocator_its_stake() -> None:
    """The engine's own duty brings the evidence to the ledger, paid from an account of the accuser."""
    drawn = replace(draw(1, 4, 1, ON_ENGINE), byzantine=((3, "equivocating_voter"),), chances_permille={})
    run = Run(drawn, least_ms=4_000, most_ms=4_000)
    assert not run.run().failed
    world = run.world
    assert isinstance(world, EngineWorld)
    assert sum(world.auditor.nonce(key.address) for key in world.ring.keys[-CLIENTS:]) >= 10
    first, last = (dict(world.auditor.states[height].stakes) for height in (0, -1))
    offender = world.hosts[3].me
    assert last[offender] < first[offender]
    assert {address for address in first if last[address] != first[address]} == {offender}


def test_every_adversary_runs_on_the_engine() -> None:
    for name, role in sorted(ADVERSARIES.items()):
        drawn = replace(draw(1, 4, 1, ON_ENGINE), byzantine=((3, name),), chances_permille={})
        run = Run(drawn, least_ms=1_500, most_ms=1_500)
        result = run.run()
        assert (name, result.violation, result.stalled) == (name, "", False)
        host = run.world.hosts[3]
        assert isinstance(host, EngineHost), name
        assert isinstance(host, role), name


def test_an_engine_that_loses_power_in_any_step_goes_on_from_its_disk() -> None:
    """Twelve cuts at each place of the work, with the store ahead of what anybody was told in some of them."""
    stage = EngineStage()
    stage.begin()
    stage.run_ms(300)
    for after in range(12):
        stage.hosts[after % 4].crash_after = after
        stage.run_ms(700)
    assert stage.progresses()
    assert all(host.life > 1 for host in stage.hosts)


def test_what_waited_in_the_pool_survives_a_clean_stop_alone() -> None:
    for clean in (True, False):
        stage = EngineStage()
        stage.start()
        stage.network.partition([0], [1], [2], [3])
        stage.run_ms(100)
        host = stage.hosts[0]
        assert isinstance(host, EngineHost)
        host.offer((stage.clients.next(stage.chance),))
        stage.run_ms(100)
        assert len(host.pool) == 1
        host.stop(clean=clean)
        stage.restart(host)
        stage.run_ms(100)
        assert len(host.pool) == clean


def _prepared_then_dark() -> bool:
    """All lock the first block and lose power before anybody hears a COMMIT; then every link works."""
    stage = EngineStage()
    stage.passes = lambda sender, receiver, packet: (
        not (isinstance(packet, Ballot) and packet.signed.vote.kind is VoteKind.COMMIT)
    )
    stage.begin()
    locked = stage.run_until(lambda: all(_lock(host) for host in stage.hosts), 5_000_000)
    assert locked
    for host in stage.hosts:
        host.stop()
        stage.recover_later(host)
    stage.passes = lambda sender, receiver, packet: True
    return stage.progresses()


def _lock(host: Host) -> bool:
    return host.replica is not None and host.replica.lock is not None


def test_a_prepared_block_outlives_the_loss_of_power_everywhere() -> None:
    assert _prepared_then_dark()


def test_a_log_that_power_took_though_it_was_synced_is_noticed() -> None:
    with patch.object(Disk, "records", lambda disk: []), pytest.raises(SafetyViolation, match="its own log"):
        _prepared_then_dark()


def test_the_auditor_sees_value_that_was_made_up() -> None:
    original = Execution.begin

    def generous(block: Execution) -> None:
        original(block)
        someone = stage.ring.keys[-1].address
        write_account(block.block.state, someone, 10**12 + 5, 0)

    stage = EngineStage()
    stage.begin()
    no_checks = patch.object(execution, "VALUE_CHECKS", ())
    with patch.object(Execution, "begin", generous), no_checks, pytest.raises(SafetyViolation, match="conservation"):
        stage.run_ms(2_000)


def test_an_honest_host_is_never_blamed_by_another() -> None:
    stage = EngineStage()
    stage.begin()
    stage.run_ms(200)
    host = stage.hosts[0]
    assert isinstance(host, EngineHost)
    with pytest.raises(SafetyViolation, match="blame: node 0 holds against the honest node 1"):
        host._suspect(1, "something")


def test_roles_stay_what_they_are_on_the_engine() -> None:
    assert on_engine(Host) is EngineHost
    assert issubclass(on_engine(Actor), (Actor, EngineHost))


def test_bodies_and_records_share_a_log_and_a_crash_takes_a_suffix_of_both() -> None:
    stage = EngineStage()
    stage.begin()
    stage.run_ms(1_000)
    disk: Disk = stage.hosts[0].durable.disk
    assert disk.records()
    assert all(block.header.height >= disk.records()[0].height for block in disk.bodies())


def test_the_command_that_replays_says_that_it_was_the_engine() -> None:
    assert replay_command(Setting(4, 1, ON_ENGINE), 9) == "trellis sim --nodes 4 --byzantine 1 --engine --replay 9"


def test_a_seed_draws_the_same_faults_on_core_and_engine() -> None:
    core, engine = draw(7, 4, 1), draw(7, 4, 1, ON_ENGINE)
    assert replace(engine, conditions=core.conditions) == core
