"""Exit codes of `trellis`, and the error that carries one. They are part of the interface: scripts rely on them."""

from __future__ import annotations

import enum
from typing import IO, Any

import click


class Exit(enum.IntEnum):
    """What a script may conclude from the exit code."""

    OK = 0
    NO = 1
    """The command worked and its answer is no: a receipt that does not verify, a check or a simulation that failed."""
    USAGE = 2
    """The command line is wrong; nothing was done."""
    NOT_FOUND = 3
    UNREACHABLE = 4
    """No node answered."""
    REFUSED = 5
    """A node or the network answered, and refused."""
    TIMEOUT = 6
    LOCAL = 7
    """A file or key on this machine: missing, corrupt, wrong password, not permitted."""
    DISHONEST = 8
    """A node answered what no honest node of this chain answers: rely on nothing that it said."""
    INTERNAL = 70
    """A broken invariant of our own. Please report it."""
    INTERRUPTED = 130


class CommandFailed(click.ClickException):
    """Ends a command with a message that says what happened, to what, and what to do next."""

    def __init__(self, exit_code: Exit, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.code = exit_code
        self.hint = hint

    def show(self, file: IO[Any] | None = None) -> None:
        click.secho(f"error: {self.message}", fg="red", err=True, file=file)
        if self.hint:
            click.echo(f"hint: {self.hint}", err=True, file=file)
