"""`trellis tx`: transactions from the key that signs them to the receipt that proves them."""

from __future__ import annotations

from typing import Final

import click

from node.cli.format import output_option
from node.cli.lazy import Commands, LazyGroup

_COMMANDS: Final[Commands] = {
    "send": ("node.cli.tx_send:send", "Pay one account or several."),
    "data": ("node.cli.tx_send:data", "Put bytes, or a file's hash, on the chain."),
    "rotate-key": ("node.cli.tx_send:rotate_key", "Replace an account's key."),
    "stake": ("node.cli.tx_stake:stake", "Bond, unbond, leave jail."),
    "wait": ("node.cli.tx_read:wait", "Wait until a transaction is final, and prove it."),
    "show": ("node.cli.tx_read:show", "What a node knows of a transaction."),
    "receipt": ("node.cli.tx_read:receipt", "Fetch and check a finality receipt, and save it."),
    "verify": ("node.cli.tx_verify:verify", "Check a receipt, with no network."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
@output_option
def tx() -> None:
    """Send transactions, wait until they are final, and keep what proves it.

    Sending needs the network's genesis (--genesis, or TRELLIS_GENESIS) and a key of yours (trellis keys list). What is
    to be signed is shown before the password is asked for. Final is not successful: the exit code is 1 where a
    transaction is final and failed.

    \b
    Examples:
      export TRELLIS_GENESIS=genesis.json TRELLIS_ENDPOINT=node.example:26610
      trellis tx send trl1… 12.5 --from alice --receipt payment.receipt
      trellis tx data contract.pdf --digest --from alice
      trellis tx verify payment.receipt
    """
