"""`trellis tx verify`: a finality receipt, checked with no network, by the client's own `python -m trellis verify`."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.format import OutputFormat, current_format, output_option
from trellis.__main__ import USAGE, main

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.argument("receipt", type=_FILE)
@click.option("--genesis", type=_FILE, envvar="TRELLIS_GENESIS", show_envvar=True, help="The chain's genesis.json.")
@click.option("--checkpoint", type=_FILE, help="Instead: a block that you trust by other means, as JSON.")
@output_option
@click.pass_context
def verify(ctx: click.Context, receipt: Path, genesis: Path | None, checkpoint: Path | None) -> None:
    """Check the finality receipt RECEIPT: that its transaction is final, and what became of it. Uses no network.

    From genesis it holds if no past set of validators was more than a third compromised; against stolen old keys use a
    checkpoint younger than the unbonding delay.

    \b
    Examples:
      trellis tx verify payment.receipt --genesis genesis.json
      trellis --output json tx verify payment.receipt --checkpoint checkpoint.json

    Exit codes: 0 it holds, 1 it does not, 7 a file cannot be used.
    """
    if genesis is None and checkpoint is None:
        raise CommandFailed(
            Exit.USAGE, "what is the receipt to be checked against?", "give --genesis FILE, or --checkpoint FILE"
        )
    trust = ["--genesis", str(genesis)] if checkpoint is None else ["--checkpoint", str(checkpoint)]
    form = "json" if current_format(ctx) is OutputFormat.JSON else "text"
    told, complaint = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(told), contextlib.redirect_stderr(complaint):
        code = main(["verify", "--output", form, *trust, "--", str(receipt)])
    if code == USAGE:
        message = complaint.getvalue().strip().removeprefix("error: ")
        raise CommandFailed(Exit.LOCAL, message, "name the receipt, and the genesis or checkpoint of its chain")
    click.echo(told.getvalue(), nl=False)
    # The exit code is part of the answer, which was given in full.
    ctx.exit(code)
