"""How commands answer: a table for people, JSON for programs, chosen once by `--output`."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from node.cli.format import OutputFormat, current_format, is_interactive, output_option

__all__ = ["OutputFormat", "current_format", "emit_record", "emit_rows", "is_interactive", "output_option"]


def emit_record(
    ctx: click.Context, record: Mapping[str, Any], title: str = "", *, shown: Mapping[str, Any] | None = None
) -> None:
    """One thing with named fields. JSON carries `record`; the table `shown`, where that is not the same."""
    if current_format(ctx) is OutputFormat.JSON:
        click.echo(json.dumps(record, indent=2))
        return
    table = Table(show_header=False, title=title or None, title_justify="left", box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in (record if shown is None else shown).items():
        table.add_row(name.replace("_", " "), _cell(value))
    Console().print(table)


def emit_rows(
    ctx: click.Context,
    name: str,
    rows: Sequence[Mapping[str, Any]],
    columns: Sequence[str],
    more: Mapping[str, Any] | None = None,
    *,
    shown: Sequence[Mapping[str, Any]] | None = None,
) -> None:
    """Many things of one kind. JSON carries all of `rows`, and `more` beside them; the table has the `columns` of
    `shown`, where that is not the same."""
    if current_format(ctx) is OutputFormat.JSON:
        click.echo(json.dumps({**(more or {}), name: list(rows)}, indent=2))
        return
    if not rows:
        click.echo(f"no {name.replace('_', ' ')}")
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows if shown is None else shown:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    Console().print(table)


def _cell(value: Any) -> Text:
    """Text, never a string: rich would take brackets in somebody's label for markup, and fail on unmatched ones."""
    if value is None:
        return Text("-")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    if isinstance(value, list | tuple):
        return Text("\n".join(str(item) for item in value) or "-")
    return Text(str(value))
