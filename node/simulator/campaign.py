"""Campaigns: many seeds over several processes, counted, with one verdict.

A seed counts only if at least ten heights were decided and at least three kinds of fault fired: one that shows nothing
must not be sold as evidence.
"""

from __future__ import annotations

import gc
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Final

from node.simulator.swarm import DRAWN, Conditions, FaultKind, Result, run_seed

CHUNK_SEEDS: Final = 8


@dataclass(frozen=True, slots=True)
class Setting:
    """A kind of network that seeds are run on."""

    nodes: int
    byzantine: int
    conditions: Conditions = DRAWN

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
    # A run makes and drops objects by the million; only its end leaves circles. Looking for those all the time costs a
    # tenth of it, never looking costs a gigabyte.
    gc.disable()
    try:
        return [(setting, run_seed(seed, setting.nodes, setting.byzantine, setting.conditions)) for seed in seeds]
    finally:
        gc.enable()
        gc.collect()


def _chunks(
    settings: Iterable[Setting], seeds: range, known: set[tuple[Setting, int]]
) -> Iterator[tuple[Setting, tuple[int, ...]]]:
    for start in range(seeds.start, seeds.stop, CHUNK_SEEDS):
        for setting in settings:
            span = range(start, min(start + CHUNK_SEEDS, seeds.stop))
            missing = tuple(seed for seed in span if (setting, seed) not in known)
            if missing:
                yield setting, missing


class Journal:
    """Results on file, one line each, so that an interrupted campaign goes on where it was.

    A line is worth what the code was worth that wrote it: begin a new file after a change.
    """

    def __init__(self, path: Path, settings: tuple[Setting, ...], seeds: range) -> None:
        self.path = path
        self.known: list[tuple[Setting, Result]] = []
        by_name = {_stored(setting): setting for setting in settings}
        for line in path.read_text().splitlines() if path.exists() else ():
            stored = json.loads(line)
            setting = by_name.get(stored["setting"])
            if setting is not None and stored["seed"] in seeds:
                faults = {FaultKind(kind): times for kind, times in stored["faults"].items()}
                result = Result(stored["seed"], stored["heights"], faults, {}, stored["violation"], stored["stalled"])
                self.known.append((setting, result))

    def add(self, batch: list[tuple[Setting, Result]]) -> None:
        with self.path.open("a") as file:
            for setting, result in batch:
                stored = {
                    "setting": _stored(setting),
                    "seed": result.seed,
                    "heights": result.heights,
                    "faults": result.faults,
                    "violation": result.violation,
                    "stalled": result.stalled,
                }
                file.write(json.dumps(stored) + "\n")


def _stored(setting: Setting) -> str:
    return setting.name if setting.conditions == DRAWN else f"{setting.name}, {setting.conditions}"


def run_campaign(
    settings: tuple[Setting, ...],
    seeds: range,
    *,
    workers: int | None = None,
    on_result: Callable[[Setting, Result], None] = lambda _setting, _result: None,
    journal: Path | None = None,
) -> list[Tally]:
    """Every seed on every setting. The results do not depend on the number of workers, nor on interruptions."""
    tallies = {setting: Tally(setting) for setting in settings}
    count = workers or os.cpu_count() or 1
    kept = None if journal is None else Journal(journal, settings, seeds)

    def collect(batches: Iterable[list[tuple[Setting, Result]]], *, is_new: bool) -> None:
        for batch in batches:
            if kept is not None and is_new:
                kept.add(batch)
            for setting, result in batch:
                tallies[setting].add(result)
                on_result(setting, result)

    known = [] if kept is None else kept.known
    collect([known], is_new=False)
    chunks = _chunks(settings, seeds, {(setting, result.seed) for setting, result in known})
    if count == 1:
        collect(map(_run_chunk, chunks), is_new=True)
    else:
        with ProcessPoolExecutor(count, mp_context=get_context("spawn")) as pool:
            collect(pool.map(_run_chunk, chunks), is_new=True)
    return list(tallies.values())


def replay_command(setting: Setting, seed: int) -> str:
    """The one command that shows a seed again."""
    fixed = setting.conditions
    words = ["trellis sim", f"--nodes {setting.nodes}", f"--byzantine {setting.byzantine}"]
    words += [f"--stake {','.join(map(str, fixed.stakes))}"] if fixed.stakes is not None else []
    words += [f"--latency {fixed.latency_ms}"] if fixed.latency_ms is not None else []
    words += [f"--loss {fixed.loss_permille / 10:g}"] if fixed.loss_permille is not None else []
    words += [f"--partition {fixed.partition_ms}"] if fixed.partition_ms is not None else []
    words += [f"--hours {fixed.duration_ms / 3_600_000:g}"] if fixed.duration_ms is not None else []
    words += ["--engine"] if fixed.engine else []
    return " ".join([*words, f"--replay {seed}"])
