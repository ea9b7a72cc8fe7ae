"""Swarm: a seed draws the network, the weather, the faults and their probabilities; then the world runs in two phases.

Safety phase: everything may fail, and nothing wrong may be decided; it lasts until enough happened for the seed to say
something, within bounds. Then faults stop for a quorum, and there must be progress within ten capped timeouts.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Final

from node.simulator.adversary import ADVERSARIES, Adversary
from node.simulator.checkers import SafetyViolation
from node.simulator.engine_host import EngineWorld
from node.simulator.host import Host
from node.simulator.ledger import OperationKind
from node.simulator.network import US_PER_MS, Weather
from node.simulator.world import Scene, World
from trellis.parameters import Parameters
from trellis.types import Height

MIN_SAFETY_MS: Final = 8_000
MAX_SAFETY_MS: Final = 40_000
STEP_MS: Final = 400
"""A fault is drawn this often in the safety phase."""

WORK_MS: Final = 200
MIN_HEIGHTS: Final = 10
MIN_FAULT_KINDS: Final = 3
CAPPED_TIMEOUTS: Final = 10
MAX_EVENTS: Final = 2_000_000
"""Of one run. The busiest of thousands of ordinary seeds needs a quarter of it: who needs more multiplies messages."""


class FaultKind(StrEnum):
    CRASH = "crash"
    CRASH_IN_STEP = "crash_in_step"
    CLEAN_RESTART = "clean_restart"
    RESTART_ALL = "restart_all"
    PARTITION = "partition"
    LEADER_ALONE = "leader_alone"
    ONE_WAY = "one_way"
    LOSS = "loss"
    STORM = "storm"
    SLOW_NODE = "slow_node"
    CLOCK_SKEW = "clock_skew"
    LATENCY_STEP = "latency_step"
    SET_CHANGE = "set_change"
    WIPED_LOG = "wiped_log"
    BYZANTINE = "byzantine"


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is not left to the seed; None is."""

    stakes: tuple[int, ...] | None = None
    """One for each validator. The corrupted are chosen so that they hold less than a third."""
    latency_ms: int | None = None
    loss_permille: int | None = None
    partition_ms: int | None = None
    """The network is split in two at random for so long, again and again, with as long a pause."""
    duration_ms: int | None = None
    """A long run: faults for so long in virtual time, and a block every two minutes."""
    engine: bool = False
    """The node's engine with the real ledger, in place of the core on a stand-in."""


DRAWN: Final = Conditions()
LONG_BLOCK_MS: Final = 120_000
LONG_MOMENTS: Final = 1_000
"""Moments of a long run at which faults are drawn."""


@dataclass(frozen=True, slots=True)
class Draw:
    """What a seed stands for. `skip` leaves out the faults at those places, for minimising a failing schedule."""

    seed: int
    nodes: int
    byzantine: tuple[tuple[int, str], ...]
    """(index, strategy), ascending."""
    stakes: tuple[int, ...]
    weather: Weather
    chances_permille: Mapping[FaultKind, int]
    parameters: Parameters
    conditions: Conditions = DRAWN
    skip: frozenset[int] = frozenset()


@dataclass(slots=True)
class Result:
    """How a seed went."""

    seed: int
    heights: int = 0
    faults: dict[FaultKind, int] = field(default_factory=dict)
    rules: dict[str, int] = field(default_factory=dict)
    violation: str = ""
    stalled: bool = False
    drawn: int = 0
    """Faults drawn, counted in order: the places that `skip` names."""
    virtual_ms: int = 0
    messages: int = 0
    lines: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.violation) or self.stalled

    @property
    def counts(self) -> bool:
        """Enough happened for the seed to say something."""
        return self.heights >= MIN_HEIGHTS and len(self.faults) >= MIN_FAULT_KINDS


def parameters_of(chance: random.Random) -> Parameters:
    return Parameters(
        block_interval_ms=chance.choice((20, 100)),
        heartbeat_ms=chance.choice((500, 1_500)),
        min_base_timeout_ms=chance.choice((100, 200)),
        view_timer_cap_ms=chance.choice((1_000, 4_000)),
        rotation_blocks=chance.choice((1, 3, 8, 32)),
        demotion_heights=chance.choice((2, 16)),
        epoch_blocks=chance.choice((4, 9, 1_000)),
        evidence_window_blocks=1_000,
        unbonding_blocks=2_000,
    )


def draw(seed: int, nodes: int, byzantine: int, conditions: Conditions = DRAWN) -> Draw:
    """Everything but the moments of faults, which the world's own generator draws as it runs."""
    chance = random.Random(f"swarm {seed} {nodes} {byzantine}")  # noqa: S311 - repeatable, not secret
    kinds = [kind for kind in FaultKind if kind is not FaultKind.BYZANTINE]
    active = [kind for kind in kinds if chance.randrange(100) < 45]
    while len(active) < MIN_FAULT_KINDS:
        kind = chance.choice(kinds)
        if kind not in active:
            active.append(kind)
    chances: dict[FaultKind, int] = {kind: chance.choice((20, 60, 200)) for kind in active}
    corrupted = sorted(chance.sample(range(nodes), byzantine))
    strategies = [chance.choice(sorted(ADVERSARIES)) for _ in corrupted]
    uneven = chance.randrange(3) == 0
    stakes = [chance.randint(8, 12) if uneven else 10 for _ in range(nodes)]
    for index in corrupted:
        # A Byzantine third is the bound: uneven stakes must not give the corrupted more.
        stakes[index] = min(stakes)
    weather = Weather(
        latency_ms=chance.choice((1, 10, 40, 100)),
        jitter_ms=chance.choice((0, 5, 50)),
        loss_permille=chance.choice((0, 0, 10, 80)),
        duplicate_permille=chance.choice((0, 50)),
        straggler_permille=chance.choice((0, 0, 20)),
    )
    parameters = parameters_of(chance)
    if conditions.stakes is not None:
        stakes = list(conditions.stakes)
        corrupted = corruptible(stakes, byzantine, chance)
    if conditions.latency_ms is not None:
        weather = replace(weather, latency_ms=conditions.latency_ms)
    if conditions.loss_permille is not None:
        weather = replace(weather, loss_permille=conditions.loss_permille)
    if conditions.duration_ms is not None:
        parameters = replace(parameters, heartbeat_ms=LONG_BLOCK_MS)
    byzantine_nodes = tuple(zip(corrupted, strategies, strict=True))
    return Draw(seed, nodes, byzantine_nodes, tuple(stakes), weather, chances, parameters, conditions)


def corruptible(stakes: list[int], number: int, chance: random.Random) -> list[int]:
    """So many validators that together hold less than a third, ascending.

    Raises ValueError if even the smallest hold more.
    """
    order = list(range(len(stakes)))
    chance.shuffle(order)
    smallest = sorted(order, key=lambda index: stakes[index])
    for chosen in (order[:number], smallest[:number]):
        if 3 * sum(stakes[index] for index in chosen) < sum(stakes):
            return sorted(chosen)
    raise ValueError(f"any {number} of these validators hold a third of stake or more")


class Run:
    """One draw, from genesis to verdict."""

    def __init__(
        self, drawn: Draw, *, trace: bool = False, least_ms: int = MIN_SAFETY_MS, most_ms: int = MAX_SAFETY_MS
    ) -> None:
        world_kind = EngineWorld if drawn.conditions.engine else World
        self.drawn = drawn
        duration_ms = drawn.conditions.duration_ms
        self.least_ms = least_ms if duration_ms is None else duration_ms
        self.most_ms = most_ms if duration_ms is None else duration_ms
        self.result = Result(drawn.seed)
        strategies = dict(drawn.byzantine)
        scene = Scene(drawn.nodes, drawn.seed, drawn.stakes, drawn.parameters, frozenset(strategies))

        def make(world: World, index: int) -> Host:
            return world.cast(ADVERSARIES[strategies[index]] if index in strategies else Host, index)

        self.world = world_kind(scene, make)
        self.world.network.weather = replace(drawn.weather)
        self.world.most_events = MAX_EVENTS if duration_ms is None else None
        self._failing = True
        if trace:
            self.world.lines = self.result.lines

    def run(self) -> Result:
        result, world = self.result, self.world
        if self.drawn.byzantine:
            result.faults[FaultKind.BYZANTINE] = len(self.drawn.byzantine)
        try:
            world.start()
            self._keep_working()
            self._keep_failing()
            self._keep_splitting()
            world.run_until(self._has_shown_enough, self.most_ms * US_PER_MS)
            self._failing = False
            self._heal()
            if self._is_long:
                # A long run has to show now that it goes on, not in two minutes.
                self._keep_working()
            result.stalled = not self._progresses()
        except SafetyViolation as violation:
            result.violation = str(violation)
        result.heights = max((len(host.durable.chain) for host in world.honest()), default=0)
        result.rules = {rule.name: times for rule, times in world.rules.items()}
        result.virtual_ms = world.heap.now_us // US_PER_MS
        result.messages = world.heap.handled
        return result

    def _has_shown_enough(self) -> bool:
        world = self.world
        if world.heap.now_us < self.least_ms * US_PER_MS:
            return False
        return world.highest_honest() >= MIN_HEIGHTS and len(self.result.faults) >= MIN_FAULT_KINDS

    @property
    def _is_long(self) -> bool:
        return self.drawn.conditions.duration_ms is not None

    def _keep_working(self) -> None:
        world = self.world
        pause_ms = LONG_BLOCK_MS if self._is_long and self._failing else WORK_MS

        def more() -> None:
            world.new_work(OperationKind.DATA, world.chance.choice(world.hosts).me, 1)
            world.heap.after(pause_ms * US_PER_MS, more)

        more()

    def _keep_splitting(self) -> None:
        world, split_ms = self.world, self.drawn.conditions.partition_ms
        if split_ms is None:
            return

        def split() -> None:
            if self._failing:
                self.result.faults[FaultKind.PARTITION] = self.result.faults.get(FaultKind.PARTITION, 0) + 1
                world.trace(-1, f"split for {split_ms} ms")
                _partition(world, split_ms)
                world.heap.after(2 * split_ms * US_PER_MS, split)

        world.heap.after(split_ms * US_PER_MS, split)

    def _keep_failing(self) -> None:
        world = self.world
        step_ms = max(STEP_MS, (self.drawn.conditions.duration_ms or 0) // LONG_MOMENTS)

        def step() -> None:
            if not self._failing:
                return
            for kind in FaultKind:
                per_mille = self.drawn.chances_permille.get(kind, 0)
                if per_mille and world.chance.randrange(1_000) < per_mille:
                    place = self.result.drawn
                    self.result.drawn += 1
                    if place not in self.drawn.skip:
                        self.result.faults[kind] = self.result.faults.get(kind, 0) + 1
                        world.trace(-1, f"fault {place}: {kind}")
                        _FAULTS[kind](world)
            world.heap.after(step_ms * US_PER_MS, step)

        world.heap.after(step_ms * US_PER_MS, step)

    def _heal(self) -> None:
        """Every honest host runs, every link works, at a moderate latency; the Byzantine stay as they are."""
        world = self.world
        world.trace(-1, "healed")
        world.network.heal()
        fixed_ms = self.drawn.conditions.latency_ms
        latency_ms = min(self.drawn.weather.latency_ms, 40) if fixed_ms is None else fixed_ms
        world.network.weather = Weather(latency_ms=latency_ms, jitter_ms=5)
        for host in world.hosts:
            host.crash_after = None
            host.clock_skew_ms = 0
            host.timer_rate_permille = 1_000
            if not host.running:
                world.restart(host)
            if host.suspicious:
                # With f corrupted, quorum needs every honest validator: the operator's override. The guard is intact.
                host.override_quarantine()
        self._reform()
        world.lanes_changed()

    def _reform(self) -> None:
        """Who forgot its votes at the height in progress is a faulty one of f there: as many corrupted turn honest."""
        world = self.world
        mute = sum(host.is_mute for host in world.honest())
        corrupted = [host.index for host in world.hosts if not host.honest]
        for index in corrupted[:mute]:
            world.trace(index, "reformed")
            world.replace(world.cast(Adversary, index))

    def _progresses(self) -> bool:
        """Two more heights at every honest host within ten capped timeouts, for each height that has to be made up."""
        world, drawn = self.world, self.drawn
        longest_ms = max(drawn.parameters.view_timer_cap_ms, 1_000)
        worst = max((host.replica.view for host in world.honest() if host.replica is not None), default=0)
        growth = max(0, worst // drawn.nodes - 1)
        limit_us = world.heap.now_us + CAPPED_TIMEOUTS * (longest_ms << min(growth, 10)) * US_PER_MS
        target = Height(world.highest_honest() + 2)
        return world.run_until(lambda: world.lowest_honest() >= target, limit_us)


def run_seed(
    seed: int,
    nodes: int,
    byzantine: int,
    conditions: Conditions = DRAWN,
    *,
    trace: bool = False,
    skip: frozenset[int] = frozenset(),
) -> Result:
    return Run(replace(draw(seed, nodes, byzantine, conditions), skip=skip), trace=trace).run()


def minimise(seed: int, nodes: int, byzantine: int, conditions: Conditions = DRAWN) -> tuple[frozenset[int], Result]:
    """Leaves out fault after fault as long as the seed still fails; what is not skipped is needed."""
    skip: frozenset[int] = frozenset()
    best = run_seed(seed, nodes, byzantine, conditions)
    for place in range(best.drawn):
        tried = run_seed(seed, nodes, byzantine, conditions, skip=skip | {place})
        if tried.failed:
            skip, best = skip | {place}, tried
    return skip, best


# The faults. Each draws whom it strikes and how long from the world's own generator.


def _some_host(world: World) -> Host:
    return world.chance.choice(world.hosts)


def _crash(world: World) -> None:
    host = _some_host(world)
    host.stop()
    world.lanes_changed()
    world.heap.after(world.chance.randint(50, 3_000) * US_PER_MS, lambda: world.restart(host))


def _crash_in_step(world: World) -> None:
    """Power is lost between two effects of one tuple: between log, guard, signature and sending."""
    host = _some_host(world)
    host.crash_after = world.chance.randint(0, 12)


def _clean_restart(world: World) -> None:
    host = _some_host(world)
    host.stop(clean=True)
    world.restart(host)


def _restart_all(world: World) -> None:
    for host in world.hosts:
        host.stop()
    for host in world.hosts:
        world.heap.after(world.chance.randint(10, 500) * US_PER_MS, _restarter(world, host))


def _restarter(world: World, host: Host) -> Callable[[], None]:
    return lambda: world.restart(host)


def _mend_later(world: World, least_ms: int, most_ms: int) -> None:
    def mend() -> None:
        world.network.heal()
        world.lanes_changed()

    world.lanes_changed()
    world.heap.after(world.chance.randint(least_ms, most_ms) * US_PER_MS, mend)


def _partition(world: World, lasts_ms: int | None = None) -> None:
    indices = list(range(len(world.hosts)))
    world.chance.shuffle(indices)
    cut = world.chance.randint(1, len(indices) - 1)
    world.network.partition(indices[:cut], indices[cut:])
    _mend_later(world, lasts_ms or 200, lasts_ms or 4_000)


def _leader_alone(world: World) -> None:
    running = [host for host in world.hosts if host.running and host.replica is not None and host.replica.height]
    if not running:
        return
    replica = running[0].replica
    if replica is None:
        return
    leader = world.index_of(replica.leader)
    world.network.partition([leader], world.others(leader))
    _mend_later(world, 300, 3_000)


def _one_way(world: World) -> None:
    one = _some_host(world).index
    for other in world.others(one):
        if world.chance.randrange(2):
            world.network.cuts.add((one, other))
    _mend_later(world, 200, 3_000)


def _weather_for_a_while(world: World, weather: Weather) -> None:
    before = world.network.weather
    world.network.weather = weather

    def back() -> None:
        if world.network.weather is weather:
            world.network.weather = before

    world.heap.after(world.chance.randint(300, 2_500) * US_PER_MS, back)


def _loss(world: World) -> None:
    _weather_for_a_while(world, replace(world.network.weather, loss_permille=world.chance.choice((100, 300, 600))))


def _storm(world: World) -> None:
    stormy = replace(world.network.weather, straggler_permille=300, straggler_ms=1_500, duplicate_permille=200)
    _weather_for_a_while(world, stormy)


def _slow_node(world: World) -> None:
    world.network.slow[_some_host(world).index] = world.chance.choice((50, 300, 1_200))


_TOLERATED_SKEW_MS: Final = 1_500


def _clock_skew(world: World) -> None:
    host = _some_host(world)
    for other in world.hosts:
        if abs(other.clock_skew_ms) > _TOLERATED_SKEW_MS:
            # A quorum of fast clocks would commit a time that no healthy clock accepts a successor of: out of scope.
            other.clock_skew_ms = 0
    host.clock_skew_ms = world.chance.choice((-600_000, -1_500, 1_500, 600_000))
    host.timer_rate_permille = world.chance.choice((700, 1_000, 1_400))


def _latency_step(world: World) -> None:
    _weather_for_a_while(world, replace(world.network.weather, latency_ms=world.chance.choice((10, 400, 800))))


def _set_change(world: World) -> None:
    host = _some_host(world)
    kind = world.chance.choice((OperationKind.BOND, OperationKind.UNBOND))
    if host.honest:
        # Only the honest move stake: the corrupted share must stay below a third.
        amount = world.chance.randint(1, 3)
        if kind is OperationKind.BOND or dict(host.state.stakes).get(host.me, 0) > amount + 7:
            world.new_work(kind, host.me, amount)


def _wiped_log(world: World) -> None:
    """Somebody restores an older log, or loses it: the guard is ahead, so the validator observes first."""
    host = _some_host(world)
    if not host.honest or any(h.suspicious for h in world.hosts):
        return
    host.stop()
    # At once: another fault may already have scheduled a restart, which must not take the wiped log for an intact one.
    host.suspicious = host.lost_log = True
    host.forgot_votes_of = host.durable.disk.guard.height
    host.durable.disk.log.clear()
    host.durable.disk.durable = 0
    world.lanes_changed()
    world.heap.after(200 * US_PER_MS, lambda: world.restart(host, suspicious=True))


_FAULTS: Final[dict[FaultKind, Callable[[World], None]]] = {
    FaultKind.CRASH: _crash,
    FaultKind.CRASH_IN_STEP: _crash_in_step,
    FaultKind.CLEAN_RESTART: _clean_restart,
    FaultKind.RESTART_ALL: _restart_all,
    FaultKind.PARTITION: _partition,
    FaultKind.LEADER_ALONE: _leader_alone,
    FaultKind.ONE_WAY: _one_way,
    FaultKind.LOSS: _loss,
    FaultKind.STORM: _storm,
    FaultKind.SLOW_NODE: _slow_node,
    FaultKind.CLOCK_SKEW: _clock_skew,
    FaultKind.LATENCY_STEP: _latency_step,
    FaultKind.SET_CHANGE: _set_change,
    FaultKind.WIPED_LOG: _wiped_log,
}

__all__ = ["ADVERSARIES", "Adversary", "Draw", "FaultKind", "Result", "Run", "draw", "minimise", "run_seed"]
