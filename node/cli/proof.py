"""`trellis proof`: the proof market. Anyone posts a statement with a bounty; whoever proves it first is paid."""

from __future__ import annotations

from typing import Final

import click

from node.cli.format import output_option
from node.cli.lazy import Commands, LazyGroup

_COMMANDS: Final[Commands] = {
    "post": ("node.cli.proof_market:post", "Post a statement with a bounty."),
    "list": ("node.cli.proof_market:list_", "List statements."),
    "submit": ("node.cli.proof_submit:submit", "Claim a bounty with a proof."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
@output_option
def proof() -> None:
    """Post statements with bounties, and claim bounties with proofs.

    Every validator checks every proof before it votes for its block. A claim takes two steps, a commitment and then the
    proof, so that a copied proof earns nothing; trellis proof submit does both.

    \b
    Examples:
      trellis proof post lrat.v1 problem.cnf --bounty 50 --from alice
      trellis proof list --status open
      trellis proof submit 77ab… refutation.lrat --from bob
    """
