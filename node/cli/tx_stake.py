"""`trellis tx stake`: becoming a validator, staying one, and leaving."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_home_config
from node.cli.format import output_option
from node.cli.keyring import public_key_of, read_key
from node.cli.signing import Paying, carry_out, paying
from trellis.crypto.algorithms import VOTE_ALGORITHMS, AlgId
from trellis.peerid import peer_id, peer_id_text
from trellis.transaction import Bond, Unbond, Unjail


@click.group()
@output_option
def stake() -> None:
    """Bond stake to become a validator, take it back, return from jail.

    The set of validators changes at the ends of epochs. Bonded stake can be slashed for signing contradictions; being
    offline costs nothing but the reward.

    \b
    Examples:
      trellis tx stake bond 1000 --from operator --home /var/lib/trellis
      trellis tx stake unbond 250 --from operator
      trellis tx stake unjail --from operator
    """


@stake.command()
@click.argument("amount")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    help="A node's folder: its keys are to vote and to name it.",
)
@click.option("--consensus-key", help="Else: the key that votes, by name, key file, or public export.")
@click.option("--network-key", help="And the key that names the node, likewise.")
@output_option
@paying
@click.pass_context
def bond(
    ctx: click.Context,
    amount: str,
    home: Path | None,
    consensus_key: str | None,
    network_key: str | None,
    paying: Paying,
) -> None:
    """Put AMOUNT at stake for the account, and name the node that votes for it.

    A later bond adds to the stake, and may name other keys.

    \b
    Examples:
      trellis tx stake bond 1000 --from operator --home /var/lib/trellis
      trellis tx stake bond 1000 --from operator --consensus-key vote.pub.json --network-key net.pub.json
    """
    if home is not None and consensus_key is None and network_key is None:
        loaded = load_home_config(home)
        consensus = read_key(loaded.path(loaded.config.node.consensus_key))
        network = read_key(loaded.path(loaded.config.node.network_key))
        vote, name = (consensus.alg_id, consensus.public_key), (network.alg_id, network.public_key)
    elif home is None and consensus_key is not None and network_key is not None:
        directory = paying.path.parent
        vote, name = public_key_of(directory, consensus_key), public_key_of(directory, network_key)
    else:
        raise CommandFailed(
            Exit.USAGE, "which node is to vote?", "give --home DIR, or both --consensus-key and --network-key"
        )
    if vote[0] not in VOTE_ALGORITHMS:
        raise CommandFailed(
            Exit.USAGE, f"{AlgId(vote[0]).name} cannot vote", "make one: trellis keys new NAME --role consensus-vote"
        )
    units, network_id = paying.units(amount), peer_id(*name)
    details = {
        "amount": str(units),
        "consensus_algorithm": AlgId(vote[0]).name.lower().replace("_", "-"),
        "network_id": peer_id_text(network_id),
    }
    carry_out(ctx, paying, Bond(units, vote[0], vote[1], network_id), details)


@stake.command()
@click.argument("amount")
@output_option
@paying
@click.pass_context
def unbond(ctx: click.Context, amount: str, paying: Paying) -> None:
    """Take AMOUNT out of the stake. It returns to the balance after the unbonding delay, and can be slashed till then.

    \b
    Example:
      trellis tx stake unbond 250 --from operator
    """
    units = paying.units(amount)
    carry_out(ctx, paying, Unbond(units), {"amount": str(units)})


@stake.command()
@output_option
@paying
@click.pass_context
def unjail(ctx: click.Context, paying: Paying) -> None:
    """Return from jail once the sentence is over. trellis validators --all tells when that is.

    \b
    Example:
      trellis tx stake unjail --from operator
    """
    carry_out(ctx, paying, Unjail())
