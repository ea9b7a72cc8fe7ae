"""`trellis sim --exhaustive` and `--twins`: what the searches over the production core found, and how much they saw."""

from __future__ import annotations

import time
from typing import Any

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.output import OutputFormat, current_format, emit_rows
from node.simulator.exhaustive import Scope, Search
from node.simulator.twins import MEMBERS, VIEWS, Twins

_COLUMNS = [
    "views",
    "corrupted",
    "restarts",
    "states",
    "complete",
    "depth",
    "decisions",
    "forks",
    "seconds",
    "violation",
]
_TWINS_COLUMNS = ["views", "twins_lead", "scenarios", "situations", "contradictions", "decided", "seconds", "violation"]


def report_search(ctx: click.Context, *, exhaustive: bool, twins: bool, views: int | None, most_states: int) -> None:
    """Exit code 1 if a search found a violation; one that was cut says how deep it came, and is no violation."""
    failed = False
    if exhaustive:
        rows = [_exhaust(scope) for scope in scopes(views or 2, most_states)]
        failed = _tell(ctx, "searches", rows, _COLUMNS, "states")
    if twins:
        rows = [_twins(twins_lead, views or VIEWS) for twins_lead in range(MEMBERS)]
        failed = _tell(ctx, "twins", rows, _TWINS_COLUMNS, "scenarios") or failed
    if failed:
        raise CommandFailed(Exit.NO, "the search found a violation", "`--output json` shows the moves that lead there")


def scopes(views: int, most_states: int) -> list[Scope]:
    """One corrupted, whichever view it leads; then two, where forks must be blamed on both; then a restart."""
    alone = [frozenset({number}) for number in (*range(views), 3) if number < 4]
    found = [Scope(views, byzantine, most_states=most_states) for byzantine in dict.fromkeys(alone)]
    if views <= 2:
        pairs = (frozenset({0, 3}), frozenset({1, 2}), frozenset({2, 3}), frozenset({0, 1}))
        found += [Scope(views, pair, most_states=most_states) for pair in pairs]
        found += [Scope(views, byzantine, restarts=1, most_states=most_states) for byzantine in dict.fromkeys(alone)]
    return found


def _tell(ctx: click.Context, name: str, rows: list[dict[str, Any]], columns: list[str], counted: str) -> bool:
    emit_rows(ctx, name, rows, columns)
    failed = any(row["violation"] for row in rows)
    if current_format(ctx) is OutputFormat.TABLE:
        total = sum(row[counted] for row in rows)
        click.echo(f"sim: {'FAILED' if failed else 'passed'}: {total} {counted}")
    return failed


def _exhaust(scope: Scope) -> dict[str, Any]:
    began = time.perf_counter()
    found = Search(scope).run()
    return {
        "views": scope.views,
        "corrupted": " ".join(f"leader {number}" for number in sorted(scope.byzantine)),
        "restarts": scope.restarts,
        "states": found.states,
        "moves": found.moves,
        "complete": found.complete,
        "depth": found.depth,
        "decisions": found.decisions,
        "forks": found.forks,
        "seconds": round(time.perf_counter() - began, 1),
        "violation": found.violation or None,
        "path": found.path,
    }


def _twins(twins_lead: int, views: int) -> dict[str, Any]:
    began = time.perf_counter()
    found = Twins(twins_lead, views).run()
    return {
        "views": views,
        "twins_lead": twins_lead,
        "scenarios": found.scenarios,
        "situations": found.situations,
        "contradictions": found.forked_proposals,
        "decided": found.decided,
        "seconds": round(time.perf_counter() - began, 1),
        "violation": found.violation or None,
        "partitions": found.partitions,
    }
