"""Amounts on the command line: in the chain's unit, as people write it; or in base units, where that is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import click

from node.cli.exits import CommandFailed, Exit
from trellis.client import Amount, Client, Trust
from trellis.genesis import Genesis

base_units_option: Final = click.option(
    "--base-units", is_flag=True, help="Amounts and fees are base units, not the chain's unit."
)


@dataclass(frozen=True, slots=True)
class Unit:
    """How amounts are read and shown."""

    exponent: int

    def parse(self, text: str, what: str = "amount") -> int:
        """Base units, more than zero."""
        try:
            units = Amount.parse(text, self.exponent).units
        except ValueError as fault:
            raise CommandFailed(
                Exit.USAGE, f"{what}: {fault}", "write it like 12.5; or in base units, with --base-units"
            ) from fault
        if units == 0:
            raise CommandFailed(Exit.USAGE, f"{what}: zero moves nothing", "name an amount above zero")
        return units

    def show(self, units: int | str) -> str:
        return str(Amount(int(units), self.exponent))


BASE: Final = Unit(0)


def unit_for_paying(trust: Trust | None, base_units: bool) -> Unit:
    """From genesis alone: a node's word could make a payment a thousand times larger."""
    if base_units:
        return BASE
    if not isinstance(trust, Genesis):
        raise CommandFailed(
            Exit.USAGE,
            "the chain's unit is not known",
            "name the network's genesis.json with --genesis (a checkpoint does not tell it), or pay in --base-units",
        )
    return Unit(trust.parameters.unit_exponent)


def unit_for_showing(client: Client, trust: Trust | None) -> Unit:
    """For display a node's word will do."""
    if isinstance(trust, Genesis):
        return Unit(trust.parameters.unit_exponent)
    return Unit(client.info().unit_exponent)
