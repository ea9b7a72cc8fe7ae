"""Unjail: a slashed validator asks to be a candidate again, after its time and with at least the minimum stake."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from state.rules.rule import Rule
from state.scope import Call
from state.stake import read_stake, write_stake
from trellis.outcome import Outcome
from trellis.transaction import Unjail


def _execute(call: Call, kind: Unjail) -> Outcome:
    stake = read_stake(call.state, call.sender)
    if stake is None:
        return Outcome.NOT_A_VALIDATOR
    if not stake.jailed_until:
        return Outcome.NOT_JAILED
    if call.block.height < stake.jailed_until:
        return Outcome.STILL_JAILED
    if stake.bonded < call.block.network.parameters.min_stake:
        return Outcome.BELOW_MINIMUM_STAKE
    write_stake(call.state, call.sender, replace(stake, jailed_until=0))
    return Outcome.OK


UNJAIL: Final = Rule(Unjail, _execute)
