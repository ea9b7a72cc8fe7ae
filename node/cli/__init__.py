"""The command line: `trellis`. Each command group lives in its own module and is loaded only when it is used."""

from __future__ import annotations

import importlib
import sys
from typing import Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.output import output_option

_COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "demo": ("node.cli.demo:demo", "Guided tours of consensus: four nodes, a traitor, a thousand."),
    "keys": ("node.cli.keys:keys", "Make, import, export, list and certify keys."),
    "sim": ("node.cli.sim:sim", "Simulate consensus under faults, from seeds that replay."),
    "start": ("node.cli.start:start", "Run a node."),
    "testnet": ("node.cli.testnet:testnet", "Make the folders of a test network."),
    "version": ("node.cli.version:version", "Show the versions of Trellis and of what it stands on."),
}
"""name → (module:attribute, the line in `trellis --help`). Kept here so that `--help` imports no command."""


class LazyGroup(click.Group):
    """Finds a command's module when it is asked for: `trellis version` must not load libp2p."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        entry = _COMMANDS.get(cmd_name)
        if entry is None:
            return None
        module, attribute = entry[0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name][1]) for name in sorted(_COMMANDS)])


@click.group(
    cls=LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "auto_envvar_prefix": "TRELLIS", "max_content_width": 110},
)
@output_option
def trellis() -> None:
    """A permissioned, post-quantum BFT ledger node.

    Exit codes: 0 done · 1 the answer is no · 2 wrong usage · 3 not found · 4 no node answered · 5 refused ·
    6 timed out · 7 a local file or key · 70 a fault of ours · 130 interrupted.
    """


def main() -> None:
    """The console script. Errors end with one line that says what to do, never with a traceback."""
    try:
        code = trellis.main(standalone_mode=False)
    except CommandFailed as failure:
        failure.show()
        sys.exit(failure.code)
    except click.UsageError as misuse:
        misuse.show()
        sys.exit(Exit.USAGE)
    except click.ClickException as failure:
        failure.show()
        sys.exit(Exit.LOCAL)
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        sys.exit(Exit.INTERRUPTED)
    sys.exit(code if isinstance(code, int) else Exit.OK)
