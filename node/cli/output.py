"""How commands answer: a table for people, JSON for programs, chosen once by `--output`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text


class OutputFormat(StrEnum):
    TABLE = "table"
    JSON = "json"


def current_format(ctx: click.Context) -> OutputFormat:
    """The format given to `trellis`, or to the command itself, whichever is nearer."""
    found = ctx.find_object(OutputFormat)
    return OutputFormat.TABLE if found is None else found


def _set_format(ctx: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        ctx.obj = OutputFormat(value)


output_option = click.option(
    "--output",
    "-o",
    type=click.Choice([item.value for item in OutputFormat]),
    expose_value=False,
    is_eager=True,
    callback=_set_format,
    help="Answer as a table (for people) or as JSON (for programs).",
)
"""Every command takes `--output`, and so does `trellis` itself for all of them."""


def is_interactive() -> bool:
    """Prompts and progress bars are for terminals only."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def emit_record(ctx: click.Context, record: Mapping[str, Any], title: str = "") -> None:
    """One thing with named fields."""
    if current_format(ctx) is OutputFormat.JSON:
        click.echo(json.dumps(record, indent=2))
        return
    table = Table(show_header=False, title=title or None, title_justify="left", box=None, pad_edge=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in record.items():
        table.add_row(name.replace("_", " "), _cell(value))
    Console().print(table)


def emit_rows(ctx: click.Context, name: str, rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Many things of one kind. JSON carries all fields, the table only `columns`."""
    if current_format(ctx) is OutputFormat.JSON:
        click.echo(json.dumps({name: list(rows)}, indent=2))
        return
    if not rows:
        click.echo(f"no {name.replace('_', ' ')}")
        return
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*(_cell(row.get(column, "")) for column in columns))
    Console().print(table)


def _cell(value: Any) -> Text:
    """Text, never a string: rich would take brackets in somebody's label for markup, and fail on unmatched ones."""
    if value is None:
        return Text("-")
    if isinstance(value, bool):
        return Text("yes" if value else "no")
    return Text(str(value))
