"""What the commands of local networks share: the folder's option, and how its faults are told."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, Final

import click

from node.cli.exits import CommandFailed, Exit
from node.localnet.layout import Folder, LocalnetFault

DEFAULT_HOME: Final = Path("~/.trellis/localnet")


def _folder(_ctx: click.Context, _parameter: click.Parameter, value: Path) -> Folder:
    return Folder(value.expanduser().absolute())


home_option = click.option(
    "--home",
    "folder",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_HOME,
    show_default=True,
    envvar="TRELLIS_LOCALNET",
    callback=_folder,
    help="The network's folder.",
)


def reporting(command: Callable[..., Any]) -> Callable[..., Any]:
    """Ends a command that finds the folder wanting with what is wrong and what to do."""

    @wraps(command)
    def guarded(*arguments: Any, **settings: Any) -> Any:
        try:
            return command(*arguments, **settings)
        except LocalnetFault as fault:
            raise CommandFailed(Exit.LOCAL, str(fault), fault.hint) from fault

    return guarded
