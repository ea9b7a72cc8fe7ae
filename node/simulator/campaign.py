"""Campaigns: many seeds over several processes, counted, with one verdict.

A seed counts only if at least ten heights were decided and at least three kinds of fault fired: one that shows nothing
must not be sold as evidence.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from typing import Final

from node.simulator.swarm import Result, run_seed

CHUNK_SEEDS: Final = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind of network that seeds are run on."""

    nodes: int
    byzantine: int

    @property
    def name(self) -> str:
        return f"n = {self.nodes}, f = {self.byzantine}"


STANDARD: Final = (Setting(4, 1), Setting(7, 2), Setting(10, 3))


@dataclass(slots=True)
class Tally:
    """What the seeds of one setting showed."""

    setting: Setting
    seeds: int = 0
    counted: int = 0
    heights: Counter[int] = field(default_factory=Counter)
    """Histogram of decided heights, in tens."""
    faults: Counter[str] = field(default_factory=Counter)
    kinds: Counter[int] = field(default_factory=Counter)
    """How many kinds of fault fired in a seed."""
    violations: list[tuple[int, str]] = field(default_factory=list)
    stalls: list[int] = field(default_factory=list)

    def add(self, result: Result) -> None:
        self.seeds += 1
        self.counted += result.counts
        self.heights[result.heights // 10 * 10] += 1
        self.kinds[len(result.faults)] += 1
        for kind, times in result.faults.items():
            self.faults[str(kind)] += times
        if result.violation:
            self.violations.append((result.seed, result.violation))
        if result.stalled:
            self.stalls.append(result.seed)

    @property
    def failed(self) -> bool:
        return bool(self.violations or self.stalls)


def _run_chunk(work: tuple[Setting, tuple[int, ...]]) -> list[tuple[Setting, Result]]:
    setting, seeds = work
    return [(setting, run_seed(seed, setting.nodes, setting.byzantine)) for seed in seeds]


def _chunks(settings: Iterable[Setting], seeds: range) -> Iterator[tuple[Setting, tuple[int, ...]]]:
    for start in range(seeds.start, seeds.stop, CHUNK_SEEDS):
        for setting in settings:
            yield setting, tuple(range(start, min(start + CHUNK_SEEDS, seeds.stop)))


def run_campaign(
    settings: tuple[Setting, ...],
    seeds: range,
    *,
    workers: int | None = None,
    on_result: Callable[[Setting, Result], None] = lambda _setting, _result: None,
) -> list[Tally]:
    """Every seed on every setting. The results do not depend on the number of workers."""
    tallies = {setting: Tally(setting) for setting in settings}
    count = workers or os.cpu_count() or 1
    chunks = _chunks(settings, seeds)
    if count == 1:
        batches: Iterator[list[tuple[Setting, Result]]] = map(_run_chunk, chunks)
        _collect(batches, tallies, on_result)
    else:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            _collect(pool.map(_run_chunk, chunks), tallies, on_result)
    return list(tallies.values())


def _collect(
    batches: Iterator[list[tuple[Setting, Result]]],
    tallies: dict[Setting, Tally],
    on_result: Callable[[Setting, Result], None],
) -> None:
    for batch in batches:
        for setting, result in batch:
            tallies[setting].add(result)
            on_result(setting, result)


def replay_command(setting: Setting, seed: int) -> str:
    """The one command that shows a seed again."""
    return f"trellis sim --nodes {setting.nodes} --byzantine {setting.byzantine} --replay {seed}"
