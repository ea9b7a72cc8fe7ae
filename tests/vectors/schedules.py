"""Golden sequences of rule C2: who leads, height by height, while leaders fail, are demoted, released and replaced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tests.signing import FakeSigner
from trellis.parameters import DEFAULTS, Parameters
from trellis.peerid import peer_id
from trellis.schedule import Decided, Schedule, first_schedule, next_schedule
from trellis.types import Address, View
from trellis.validators import Validator, ValidatorSet, make_validator_set


@dataclass(frozen=True)
class Step:
    """The block of one height: made in `view`; `late` if the parent's certificate is of a later view than its header;
    `following` if the validator set changes after it."""

    view: int = 0
    late: bool = False
    following: dict[str, int] | None = None


@dataclass(frozen=True)
class Scenario:
    name: str
    powers: dict[str, int]
    steps: tuple[Step, ...]
    parameters: Parameters = field(default_factory=lambda: replace(DEFAULTS, rotation_blocks=4, demotion_heights=8))


def address_of_name(name: str) -> Address:
    """Validator "A" has the address 4141…41, so that names sort as addresses do."""
    return Address(name.encode() * 32)


def name_of(address: bytes) -> str:
    return address[:1].decode()


def named_set(powers: Mapping[str, int]) -> ValidatorSet:
    def member(name: str, power: int) -> Validator:
        signer = FakeSigner(ord(name))
        alg, key = signer.alg_id, signer.public_key
        return Validator(address_of_name(name), alg, key, peer_id(alg, key), power)

    return make_validator_set(member(name, power) for name, power in powers.items())


EQUAL = dict.fromkeys("ABCD", 10)
SEVEN = dict.fromkeys("ABCDEFG", 10)
QUICK = replace(DEFAULTS, rotation_blocks=1, demotion_heights=1)


def while_dead(dead: str, powers: dict[str, int], parameters: Parameters, heights: int) -> tuple[Step, ...]:
    """Blocks made by the first leader of each height that is not dead."""
    validators, steps = named_set(powers), []
    schedule = first_schedule(validators)
    for _ in range(heights):
        order = schedule.order(validators)
        view = next(place for place, address in enumerate(order) if name_of(address) not in dead)
        carried = None if schedule.height == 1 else View(schedule.last_view)
        block = Decided(View(view), order[view], carried)
        schedule = next_schedule(schedule, validators, validators, block, parameters)
        steps.append(Step(view=view))
    return tuple(steps)


SCENARIOS = (
    Scenario("the leader is sticky and turns rotate by stake", {"A": 10, "B": 20, "C": 30, "D": 40}, (Step(),) * 60),
    Scenario("equal stakes: ties go to the smaller address", EQUAL, (Step(),) * 20),
    Scenario("one validator alone", {"A": 7}, (Step(), Step(view=1), Step(view=2), Step(), Step(), Step())),
    Scenario(
        "a dead leader is demoted, returns, and is demoted for longer",
        SEVEN,
        while_dead("A", SEVEN, replace(DEFAULTS, rotation_blocks=4, demotion_heights=8), 60),
    ),
    Scenario("two dead of seven", SEVEN, while_dead("AB", SEVEN, QUICK, 40), QUICK),
    Scenario("two dead of four: one is always back in the order", EQUAL, while_dead("AB", EQUAL, QUICK, 40), QUICK),
    Scenario(
        "leading again clears strikes",
        SEVEN,
        tuple(Step(view=1 if h in (1, 2) else 6 if h == 4 else 0) for h in range(1, 30)),
    ),
    Scenario("strikes stop doubling after four", EQUAL, while_dead("A", EQUAL, QUICK, 110), QUICK),
    Scenario("several views fail in one height", SEVEN, (Step(view=3), *(Step(),) * 12)),
    Scenario("a whole round fails and the first leader makes it", EQUAL, (Step(view=4), *(Step(),) * 6)),
    Scenario("more than a round fails", EQUAL, (Step(view=6), *(Step(),) * 6)),
    Scenario(
        "demotions are released from the front below a third", EQUAL, (Step(view=1), Step(view=1), *(Step(),) * 10)
    ),
    Scenario("a third of power is never demoted", {"A": 34, "B": 33, "C": 33}, (Step(view=1), *(Step(),) * 12)),
    Scenario("exactly a third is never demoted", {"A": 1, "B": 1, "C": 1}, (Step(view=2), *(Step(),) * 8)),
    Scenario("a leader that goes quiet loses its turn", EQUAL, (Step(), Step(), Step(late=True), *(Step(),) * 6)),
    Scenario(
        "a late certificate of another proposer ends no turn",
        EQUAL,
        (Step(), Step(view=1), Step(late=True), *(Step(),) * 6),
    ),
    Scenario(
        "sets change: who leaves loses everything, who joins starts at zero",
        SEVEN,
        (
            *(Step(),) * 5,
            Step(view=1, following={**dict.fromkeys("BCDEFG", 10), "H": 5}),
            *(Step(),) * 6,
            Step(following={**dict.fromkeys("ABCDEFG", 10)}),
            *(Step(),) * 8,
        ),
    ),
    Scenario("the leader leaves the set", EQUAL, (Step(), Step(following=dict.fromkeys("BCD", 10)), *(Step(),) * 8)),
    Scenario(
        "a release is forced when the set shrinks",
        SEVEN,
        (Step(view=2), Step(), Step(following=dict.fromkeys("ABCD", 10)), *(Step(),) * 6),
    ),
    Scenario(
        "a demoted validator hoards no priority",
        EQUAL,
        (Step(view=1), *(Step(),) * 80),
        replace(DEFAULTS, rotation_blocks=1, demotion_heights=64),
    ),
    Scenario(
        "turns of one block",
        {"A": 1, "B": 2, "C": 4},
        (Step(),) * 21,
        QUICK,
    ),
)


def run(scenario: Scenario) -> list[Schedule]:
    """The schedule of each height from 1 to one after the last step."""
    validators = named_set(scenario.powers)
    schedule = first_schedule(validators)
    found = [schedule]
    for step in scenario.steps:
        order = schedule.order(validators)
        carried = None if schedule.height == 1 else View(schedule.last_view + step.late)
        block = Decided(View(step.view), order[step.view % len(order)], carried)
        following = validators if step.following is None else named_set(step.following)
        schedule = next_schedule(schedule, validators, following, block, scenario.parameters)
        validators = following
        found.append(schedule)
    return found


def powers_by_height(scenario: Scenario) -> list[dict[str, int]]:
    powers = [scenario.powers]
    for step in scenario.steps:
        powers.append(powers[-1] if step.following is None else step.following)
    return powers


def schedule_vectors() -> object:
    return [_vector(scenario) for scenario in SCENARIOS]


def _vector(scenario: Scenario) -> dict[str, Any]:
    heights = [
        {
            "height": schedule.height,
            "order": "".join(name_of(address) for address in schedule.order(named_set(powers))),
            "led": schedule.led,
            "priorities": {name_of(s.address): s.priority for s in schedule.standings},
            "strikes": {name_of(s.address): s.strikes for s in schedule.standings if s.strikes},
            "demoted_until": [[name_of(d.address), d.until] for d in schedule.demotions],
        }
        for schedule, powers in zip(run(scenario), powers_by_height(scenario), strict=True)
    ]
    return {
        "name": scenario.name,
        "rotation_blocks": scenario.parameters.rotation_blocks,
        "demotion_heights": scenario.parameters.demotion_heights,
        "powers": scenario.powers,
        "steps": [
            {"view": s.view, "parent_certificate_late": s.late, "following": s.following} for s in scenario.steps
        ],
        "heights": heights,
        "last_encoded": run(scenario)[-1].encode().hex(),
    }
