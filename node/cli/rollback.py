"""`trellis rollback`: a stopped node's last blocks, undone."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_home_config
from node.cli.format import is_interactive, output_option
from node.cli.options import home_option
from node.cli.output import emit_record
from node.cli.stopped import open_chain, require_stopped


@click.command()
@home_option
@click.option("--blocks", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@output_option
@click.pass_context
def rollback(ctx: click.Context, home: Path, blocks: int, yes: bool) -> None:
    """Undo the last blocks of a stopped node, whole or not at all.

    They stay final for the network: a started node fetches them again from its peers and executes them anew. That is
    what this is for: a node whose state went wrong by a fault of its software, after an update. Its sign guard stays as
    it is, so it signs nothing that contradicts what it signed before. trellis inspect tells how far back a node can go.

    \b
    Examples:
      trellis rollback --home /var/lib/trellis
      trellis rollback --home /var/lib/trellis --blocks 5 --yes

    Exit codes: 0 done, 2 not that far back, or nobody said yes, 7 the node runs.
    """
    loaded = load_home_config(home)
    require_stopped(loaded)
    with open_chain(loaded, read_only=False) as chain:
        before = chain.tip.height
        furthest = max(0, chain.bounds.first_undo - 1)
        if before - blocks < furthest:
            raise CommandFailed(
                Exit.USAGE,
                f"the node is at height {before} and can go back to {furthest}, not by {blocks} blocks",
                "undo fewer, or start over: an empty data folder syncs from peers",
            )
        _consent(home, before, before - blocks, yes)
        after = chain.rollback(blocks)
    emit_record(
        ctx,
        {
            "home": str(home),
            "height_before": before,
            "height": after.height,
            "block_hash": after.block_hash.hex(),
            "state_root": after.state_root.hex(),
        },
    )


def _consent(home: Path, before: int, after: int, yes: bool) -> None:
    if yes:
        return
    if not is_interactive():
        raise CommandFailed(Exit.USAGE, "nobody is there to ask; nothing was done", "add --yes if you mean it")
    if not click.confirm(f"Undo blocks {after + 1} to {before} of {home}?", err=True):
        raise click.Abort
