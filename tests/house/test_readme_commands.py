"""The README's table of commands names all that there are, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import click

from node.cli import trellis

ROOT = Path(__file__).resolve().parents[2]


def named() -> set[str]:
    """Commands as the table writes them, `{a,b}` taken apart."""
    section = (ROOT / "README.md").read_text().partition("\n## The command line\n")[2].partition("\n## ")[0]
    found: set[str] = set()
    for row in section.splitlines():
        if row.startswith("| "):
            for text in re.findall(r"`([^`]+)`", row):
                group, _, rest = text.partition(" ")
                found |= {f"{group} {name}" for name in rest.strip("{}").split(",")} if rest else {group}
    return found


def test_the_table_of_commands_is_the_tree_of_commands() -> None:
    table = named()
    context = click.Context(trellis)
    for name in trellis.list_commands(context):
        command = trellis.get_command(context, name)
        below = {text for text in table if text.startswith(f"{name} ")}
        if below:
            assert isinstance(command, click.Group), name
            assert below == {f"{name} {each}" for each in command.list_commands(click.Context(command))}
        else:
            assert name in table, f"the README's table lacks {name}"
    assert {text.partition(" ")[0] for text in table} == set(trellis.list_commands(context))
