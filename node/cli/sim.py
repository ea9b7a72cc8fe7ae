"""`trellis sim`: the consensus core under faults, from seeds that replay exactly."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from node.cli.exits import CommandFailed, Exit
from node.cli.output import OutputFormat, current_format, emit_record, emit_rows, is_interactive, output_option
from node.cli.searches import report_search
from node.simulator.campaign import STANDARD, Setting, Tally, replay_command, run_campaign
from node.simulator.exhaustive import MAX_STATES
from node.simulator.swarm import Conditions, Result, corruptible, draw, minimise, run_seed

_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


def parse_seeds(text: str) -> range:
    """`A..B` is A up to and with B; a single number is one seed."""
    match = _RANGE.fullmatch(text)
    if match is None:
        raise CommandFailed(Exit.USAGE, f"{text!r} is no range of seeds", "write --seeds 0..299")
    first = int(match[1])
    last = first if match[2] is None else int(match[2])
    if last < first:
        raise CommandFailed(Exit.USAGE, f"the range {text} is empty", f"write --seeds {last}..{first}")
    return range(first, last + 1)


@click.command()
@click.option(
    "--nodes", type=click.IntRange(1, 100), help="Validators. Without it: 4, 7 and 10, each with f Byzantine."
)
@click.option("--byzantine", type=click.IntRange(0, 33), help="How many of them are Byzantine; by default f.")
@click.option("--stake", help="Stakes, one for each validator: 10,20,20,5. By default the seed draws them.")
@click.option("--latency", type=click.IntRange(0, 60_000), help="Milliseconds a hop, also after faults have stopped.")
@click.option("--loss", type=click.FloatRange(0, 90), help="Messages lost, in percent, until faults stop.")
@click.option(
    "--partition",
    type=click.IntRange(1, 3_600_000),
    help="Split the network for so many milliseconds, again and again.",
)
@click.option(
    "--hours", type=click.FloatRange(0.01, 1_000), help="Faults for so many virtual hours, a block every two minutes."
)
@click.option("--seeds", default="0..99", show_default=True, help="First and last seed: A..B.")
@click.option("--workers", type=click.IntRange(1, 64), help="Processes; by default one a core.")
@click.option(
    "--results", type=click.Path(dir_okay=False, path_type=Path), help="Keep results in this file; go on there."
)
@click.option("--replay", type=int, help="Run one seed again and print its trace.")
@click.option("--minimise", "shrink", is_flag=True, help="With --replay: leave out every fault that is not needed.")
@click.option("--engine", is_flag=True, help="The node's whole engine with its ledger, not the core alone: slower.")
@click.option("--exhaustive", is_flag=True, help="Instead of seeds: every behaviour of four validators, for --views.")
@click.option("--twins", is_flag=True, help="Instead of seeds: two copies of one validator, under every partition.")
@click.option("--views", type=click.IntRange(1, 4), help="Views to search: 2 (--exhaustive) or 4 (--twins) by default.")
@click.option(
    "--most-states", type=click.IntRange(1), default=MAX_STATES, show_default=True, help="Where --exhaustive is cut."
)
@output_option
@click.pass_context
def sim(
    ctx: click.Context,
    nodes: int | None,
    byzantine: int | None,
    stake: str | None,
    latency: int | None,
    loss: float | None,
    partition: int | None,
    hours: float | None,
    seeds: str,
    workers: int | None,
    results: Path | None,
    replay: int | None,
    shrink: bool,
    engine: bool,
    exhaustive: bool,
    twins: bool,
    views: int | None,
    most_states: int,
) -> None:
    """Run the production consensus core under faults that a seed draws.

    First anything may fail, and nothing wrong may be decided; then faults stop, and there must be progress. The exit
    code is the verdict: 0 if no seed failed, 1 otherwise. A failing seed comes with the command that replays it.
    """
    if exhaustive or twins:
        report_search(ctx, exhaustive=exhaustive, twins=twins, views=views, most_states=most_states)
        return
    stakes = None if stake is None else parse_stakes(stake)
    conditions = Conditions(
        stakes,
        latency,
        None if loss is None else round(10 * loss),
        partition,
        None if hours is None else round(hours * 3_600_000),
        engine,
    )
    number = nodes if stakes is None or nodes is not None else len(stakes)
    if replay is not None:
        _replay(ctx, _setting(number or 4, byzantine, conditions), replay, shrink=shrink)
        return
    if number is not None:
        settings: tuple[Setting, ...] = (_setting(number, byzantine, conditions),)
    elif byzantine is not None:
        raise CommandFailed(Exit.USAGE, "--byzantine without --nodes", "say of how many: --nodes 7 --byzantine 2")
    else:
        settings = tuple(replace(setting, conditions=conditions) for setting in STANDARD)
    span = parse_seeds(seeds)
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        disable=not is_interactive() or current_format(ctx) is OutputFormat.JSON,
    ) as bar:
        task = bar.add_task("seeds", total=len(span) * len(settings))
        failures = 0

        def seen(_setting: Setting, result: Result) -> None:
            nonlocal failures
            failures += result.failed
            bar.update(task, advance=1, description=f"seeds, {failures} failed")

        tallies = run_campaign(settings, span, workers=workers, on_result=seen, journal=results)
    _report(ctx, tallies)
    if any(tally.failed for tally in tallies):
        raise CommandFailed(Exit.NO, "the simulation found failures", _first_failure(tallies))


def parse_stakes(text: str) -> tuple[int, ...]:
    try:
        stakes = tuple(int(part) for part in text.split(","))
    except ValueError:
        stakes = ()
    if not stakes or min(stakes) < 1:
        raise CommandFailed(Exit.USAGE, f"{text!r} is no list of stakes", "write --stake 10,20,20,5")
    return stakes


def _setting(nodes: int, byzantine: int | None, conditions: Conditions) -> Setting:
    corrupted = (nodes - 1) // 3 if byzantine is None else byzantine
    stakes = conditions.stakes or (1,) * nodes
    if len(stakes) != nodes:
        raise CommandFailed(Exit.USAGE, f"{len(stakes)} stakes for {nodes} validators", "give one stake for each")
    try:
        corruptible(list(stakes), corrupted, Random(0))  # noqa: S311 - a check, no secret
    except ValueError as fault:
        raise CommandFailed(Exit.USAGE, str(fault), "the protocol promises nothing there: corrupt fewer") from fault
    return Setting(nodes, corrupted, conditions)


def _first_failure(tallies: list[Tally]) -> str:
    tally = next(tally for tally in tallies if tally.failed)
    seed = tally.violations[0][0] if tally.violations else tally.stalls[0]
    return f"see it with: {replay_command(tally.setting, seed)}"


def _report(ctx: click.Context, tallies: list[Tally]) -> None:
    rows: list[dict[str, Any]] = [
        {
            "network": tally.setting.name,
            "seeds": tally.seeds,
            "counted": tally.counted,
            "violations": len(tally.violations),
            "stalls": len(tally.stalls),
            "heights": _histogram(dict(tally.heights)),
            "fault_kinds": _histogram(dict(tally.kinds)),
            "faults": dict(sorted(tally.faults.items())),
            "failing_seeds": sorted({seed for seed, _ in tally.violations} | set(tally.stalls)),
        }
        for tally in tallies
    ]
    columns = ["network", "seeds", "counted", "violations", "stalls", "heights", "fault_kinds"]
    emit_rows(ctx, "networks", rows, columns)
    if current_format(ctx) is OutputFormat.TABLE:
        verdict = "FAILED" if any(tally.failed for tally in tallies) else "passed"
        counted, run = sum(t.counted for t in tallies), sum(t.seeds for t in tallies)
        click.echo(f"sim: {verdict}: {run} seeds, {counted} of them count (10 heights and 3 kinds of fault)")


def _histogram(counts: dict[int, int]) -> str:
    return " ".join(f"{value}:{times}" for value, times in sorted(counts.items()))


def _replay(ctx: click.Context, setting: Setting, seed: int, *, shrink: bool) -> None:
    skip: frozenset[int] = frozenset()
    if shrink:
        skip, _ = minimise(seed, setting.nodes, setting.byzantine, setting.conditions)
    result = run_seed(seed, setting.nodes, setting.byzantine, setting.conditions, trace=True, skip=skip)
    drawn = draw(seed, setting.nodes, setting.byzantine, setting.conditions)
    if current_format(ctx) is OutputFormat.TABLE:
        for line in result.lines:
            click.echo(line)
    record: dict[str, Any] = {
        "seed": seed,
        "network": setting.name,
        "byzantine": {str(index): strategy for index, strategy in drawn.byzantine},
        "heights": result.heights,
        "faults": {str(kind): times for kind, times in result.faults.items()},
        "faults_left_out": len(skip),
        "violation": result.violation or None,
        "stalled": result.stalled,
        "virtual_ms": result.virtual_ms,
    }
    emit_record(ctx, record)
    if result.failed:
        raise CommandFailed(Exit.NO, result.violation or "no progress after the faults stopped")
