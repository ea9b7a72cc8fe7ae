"""Which form a command answers in, chosen once by `--output`. Apart from what draws tables: help must be quick."""

from __future__ import annotations

import sys
from enum import StrEnum

import click


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
