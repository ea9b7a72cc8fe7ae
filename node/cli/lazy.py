"""Groups whose commands are imported when they are run: `trellis version` must not load libp2p, nor `--help` gRPC."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import click

Commands = Mapping[str, tuple[str, str]]
"""name → (module:attribute, the line in the group's help). The line stands here so that help imports no command."""


class LazyGroup(click.Group):
    """`lazy` names the commands; those that were added with decorators are there as well."""

    def __init__(self, *arguments: Any, lazy: Commands, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted({*self.commands, *self.lazy})

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in self.commands or cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, attribute = self.lazy[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        lines = {name: command.get_short_help_str(100) for name, command in self.commands.items()}
        lines |= {name: line for name, (_, line) in self.lazy.items()}
        with formatter.section("Commands"):
            formatter.write_dl([(name, lines[name]) for name in sorted(lines)])
