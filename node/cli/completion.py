"""`trellis completion`: what a shell needs to complete commands and options."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click
from click.shell_completion import get_completion_class

from node.cli.exits import CommandFailed, Exit
from node.cli.format import OutputFormat, current_format, output_option
from node.cli.output import emit_record

_PLACES: Final = {
    "bash": "~/.local/share/bash-completion/completions/trellis",
    "zsh": "~/.zfunc/_trellis",
    "fish": "~/.config/fish/completions/trellis.fish",
}
_THEN: Final = {
    "bash": "open a new shell (it needs the package bash-completion)",
    "zsh": "have these lines in ~/.zshrc, and open a new shell: fpath+=~/.zfunc; autoload -Uz compinit; compinit",
    "fish": "open a new shell",
}


@click.command()
@click.argument("shell", type=click.Choice(list(_PLACES)), required=False)
@click.option("--install", is_flag=True, help="Write it to where the shell looks for it, for this user alone.")
@output_option
@click.pass_context
def completion(ctx: click.Context, shell: str | None, install: bool) -> None:
    """Print the completion script of SHELL, or install it. Without SHELL: that of $SHELL.

    \b
    Examples:
      trellis completion --install
      trellis completion bash > /etc/bash_completion.d/trellis
      trellis completion fish | source
    """
    shell = shell or Path(os.environ.get("SHELL", "")).name
    if shell not in _PLACES:
        raise CommandFailed(Exit.USAGE, f"no completion for {shell or 'an unknown shell'}", "name bash, zsh or fish")
    kind = get_completion_class(shell)
    if kind is None:
        raise CommandFailed(Exit.INTERNAL, f"click knows no completion for {shell}", "report this")
    script = kind(ctx.find_root().command, {}, "trellis", "_TRELLIS_COMPLETE").source()
    if not install:
        if current_format(ctx) is OutputFormat.JSON:
            emit_record(ctx, {"shell": shell, "script": script})
        else:
            click.echo(script)
        return
    place = Path(_PLACES[shell]).expanduser()
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(script + "\n")
    except OSError as fault:
        raise CommandFailed(
            Exit.LOCAL, f"cannot write {place}: {fault.strerror}", f"print it instead: trellis completion {shell}"
        ) from fault
    emit_record(ctx, {"shell": shell, "written": str(place), "then": _THEN[shell]})
