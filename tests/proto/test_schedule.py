"""Rule C2 as properties: fair, never led by the demoted, bounded, and what an independent model says."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn

from tests import strategies
from tests.proto.schedule_model import ScheduleModel
from tests.strategies import Turn
from tests.vectors.schedules import (
    EQUAL,
    QUICK,
    SEVEN,
    Scenario,
    Step,
    address_of_name,
    name_of,
    named_set,
    run,
    while_dead,
)
from trellis.parameters import DEFAULTS, Parameters
from trellis.schedule import Decided, Schedule, decode_schedule, first_schedule, next_schedule
from trellis.types import Address, View
from trellis.validators import ValidatorSet


@dataclass(frozen=True)
class History:
    """Stakes, what happens at each height, and when the set changes to what."""

    powers: dict[str, int]
    turns: tuple[Turn, ...]
    changes: dict[int, dict[str, int]]
    parameters: Parameters


@st.composite
def histories(draw: DrawFn, heights: int = 60, changing: bool = True) -> History:
    names = "ABCDEFGHIJ"[: draw(st.integers(1, 10))]
    stake = st.integers(1, draw(st.sampled_from([1, 3, 100, 2**40])))
    powers = {name: draw(stake) for name in names}
    turns = tuple(draw(st.lists(strategies.turns(len(names)), min_size=5, max_size=heights)))
    changes: dict[int, dict[str, int]] = {}
    if changing:
        for height in draw(st.lists(st.integers(1, heights), max_size=3, unique=True)):
            chosen = draw(st.lists(st.sampled_from("ABCDEFGHIJ"), min_size=1, unique=True))
            changes[height] = {name: draw(stake) for name in chosen}
    parameters = replace(DEFAULTS, rotation_blocks=draw(st.integers(1, 5)), demotion_heights=draw(st.integers(1, 8)))
    return History(powers, turns, changes, parameters)


def replay(history: History) -> list[tuple[Schedule, ValidatorSet]]:
    """The schedule and the set of each height."""
    validators = named_set(history.powers)
    schedule = first_schedule(validators)
    found = [(schedule, validators)]
    for turn in history.turns:
        block = strategies.decided(turn, schedule.order(validators), schedule.height, schedule.last_view)
        change = history.changes.get(schedule.height)
        following = validators if change is None else named_set(change)
        schedule = next_schedule(schedule, validators, following, block, history.parameters)
        validators = following
        found.append((schedule, validators))
    return found


@settings(max_examples=300)
@given(histories())
def test_the_schedule_is_what_an_independent_model_says(history: History) -> None:
    def raw(powers: dict[str, int]) -> dict[bytes, int]:
        return {bytes(address_of_name(name)): power for name, power in powers.items()}

    found = replay(history)
    model = ScheduleModel(raw(history.powers), history.parameters.rotation_blocks, history.parameters.demotion_heights)
    for place, (schedule, validators) in enumerate(found):
        assert tuple(model.order()) == schedule.order(validators)
        assert model.led == schedule.led
        assert model.priority == {s.address: s.priority for s in schedule.standings}
        assert model.strikes == {s.address: s.strikes for s in schedule.standings}
        assert [(d.address, d.last_height) for d in model.demoted] == [(d.address, d.until) for d in schedule.demotions]
        if place < len(history.turns):
            turn = history.turns[place]
            carried = None if model.height == 1 else model.made[model.height - 1].view + turn.parent_late
            change = history.changes.get(model.height)
            model.decide(turn.view, carried, None if change is None else raw(change))


@settings(max_examples=200)
@given(histories())
def test_what_must_hold_at_every_height(history: History) -> None:
    total_ever = max(v.total_power for _, v in replay(history))
    for schedule, validators in replay(history):
        order = schedule.order(validators)
        assert sorted(order) == list(validators.addresses)
        assert order[0] == schedule.leader
        assert not schedule.is_demoted(schedule.leader)
        demoted = [demotion.address for demotion in schedule.demotions]
        assert len(set(demoted)) == len(demoted)
        assert 3 * validators.power_of_all(demoted) < validators.total_power
        assert set(order[len(order) - len(demoted) :]) == set(demoted)
        assert tuple(s.address for s in schedule.standings) == validators.addresses
        assert schedule.led < history.parameters.rotation_blocks
        assert all(abs(s.priority) <= 4 * total_ever for s in schedule.standings)
        assert all(d.until >= schedule.height for d in schedule.demotions)
        longest = history.parameters.demotion_heights * 16
        assert all(d.until <= schedule.height - 1 + longest for d in schedule.demotions)
        assert decode_schedule(schedule.encode()) == schedule


@given(histories(heights=20))
def test_the_same_history_gives_the_same_leaders(history: History) -> None:
    assert replay(history) == replay(history)


@settings(max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=7), st.integers(1, 4))
def test_every_validator_leads_in_proportion_to_its_stake(stakes: list[int], rotation_blocks: int) -> None:
    """Over as many turns as there is stake, exactly; smooth round robin is periodic."""
    powers = dict(zip("ABCDEFG", stakes, strict=False))
    parameters = replace(DEFAULTS, rotation_blocks=rotation_blocks)
    steps = (Step(),) * (sum(stakes) * rotation_blocks - 1)
    led = Counter(name_of(schedule.leader) for schedule in run(Scenario("", powers, steps, parameters)))
    assert led == {name: power * rotation_blocks for name, power in powers.items()}


@settings(max_examples=40)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=7), st.integers(2, 60))
def test_no_prefix_of_a_long_run_is_unfair_by_more_than_two_turns(stakes: list[int], turns: int) -> None:
    powers = dict(zip("ABCDEFG", stakes, strict=False))
    led: Counter[str] = Counter()
    for count, schedule in enumerate(
        run(Scenario("", powers, (Step(),) * turns, replace(DEFAULTS, rotation_blocks=1))), 1
    ):
        led[name_of(schedule.leader)] += 1
        for name, power in powers.items():
            # In thousandths of a turn: what it led against what its stake deserves so far.
            assert abs(led[name] * 1_000 - count * power * 1_000 // sum(stakes)) <= 2_000


def test_a_dead_leader_costs_one_view_not_one_a_turn() -> None:
    views = [
        step.view for step in while_dead("A", SEVEN, replace(DEFAULTS, rotation_blocks=4, demotion_heights=8), 400)
    ]
    assert max(views) == 1
    # Demoted for 8, 16, 32, 64, 128, 128 … heights: it fails ever more rarely.
    failed = [height for height, view in enumerate(views, 1) if view]
    assert 4 <= len(failed) <= 8


def test_a_demoted_validator_that_hoards_priority_does_not_lead_for_long_when_it_returns() -> None:
    """If its priority grew while it was demoted, it would lead as many turns in a row as it had missed."""
    steps = (Step(view=1), *(Step(),) * 400)
    parameters = replace(DEFAULTS, rotation_blocks=1, demotion_heights=300)
    leaders = "".join(name_of(s.leader) for s in run(Scenario("", EQUAL, steps, parameters)))
    assert leaders[0] == "A"
    assert "A" not in leaders[1:301]
    assert "AA" not in leaders[301:]
    assert leaders[301:].count("A") <= 26


def test_a_quiet_leader_loses_its_turn_without_a_strike() -> None:
    scenario = Scenario("", EQUAL, (Step(), Step(), Step(late=True)), replace(DEFAULTS, rotation_blocks=32))
    schedules = run(scenario)
    assert [name_of(s.leader) for s in schedules] == ["A", "A", "A", "B"]
    assert schedules[-1].demotions == ()
    assert all(s.strikes == 0 for s in schedules[-1].standings)


def test_a_censoring_leader_is_bounded_by_its_turn() -> None:
    schedules = run(Scenario("", EQUAL, (Step(),) * 200, replace(DEFAULTS, rotation_blocks=32)))
    leaders = [s.leader for s in schedules]
    longest, current = 0, 0
    for before, after in pairwise(leaders):
        current = current + 1 if before == after else 0
        longest = max(longest, current + 1)
    assert longest == 32


@pytest.mark.parametrize("dead", ["A", "AB"])
def test_with_a_third_dead_every_block_is_made_within_as_many_views_as_are_dead(dead: str) -> None:
    views = [step.view for step in while_dead(dead, SEVEN, QUICK, 300)]
    assert max(views) <= len(dead)
    assert sum(1 for view in views if view) < 150


def test_a_schedule_that_is_asked_about_another_set_says_so() -> None:
    schedule = first_schedule(named_set(EQUAL))
    with pytest.raises(ValueError, match="not in the validator set"):
        schedule.order(named_set({"X": 1}))


def test_the_leader_of_a_view_wraps_around_the_order() -> None:
    validators = named_set(EQUAL)
    schedule = first_schedule(validators)
    order = schedule.order(validators)
    assert [schedule.leader_of(View(view), validators) for view in range(9)] == [*order, *order, order[0]]


def test_the_first_height_is_a_rotation_from_zeros() -> None:
    schedule = first_schedule(named_set({"A": 1, "B": 5, "C": 5}))
    assert name_of(schedule.leader) == "B"
    assert {name_of(s.address): s.priority for s in schedule.standings} == {"A": 1, "B": -6, "C": 5}
    assert schedule.led == 0


def test_a_block_of_view_zero_demotes_nobody_and_the_proposer_of_a_late_view_takes_the_turn() -> None:
    validators = named_set(SEVEN)
    schedule = first_schedule(validators)
    order = schedule.order(validators)
    quiet = next_schedule(schedule, validators, validators, Decided(View(0), order[0], None), DEFAULTS)
    assert (quiet.demotions, quiet.led, quiet.leader) == ((), 1, order[0])
    late = next_schedule(schedule, validators, validators, Decided(View(2), order[2], None), DEFAULTS)
    assert [d.address for d in late.demotions] == [order[0], order[1]]
    assert (late.leader, late.led) == (order[2], 1)
    assert isinstance(late.leader, bytes)
    assert Address(late.leader) == order[2]
