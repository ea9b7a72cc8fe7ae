"""Unbond: stake leaves, slashable until the delay is over.

The delay counts from the end of the epoch, when the power goes: an offence by the last vote of a leaving validator must
find its stake. What remains is nothing, or at least the minimum.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from state.epoch import epoch_end
from state.rules.rule import Rule
from state.scope import Call, Due
from state.stake import Unbonding, add_unbonding, read_stake, write_stake
from trellis.outcome import Outcome
from trellis.transaction import Unbond


def _execute(call: Call, kind: Unbond) -> Outcome:
    state, parameters = call.state, call.block.network.parameters
    stake = read_stake(state, call.sender)
    if stake is None:
        return Outcome.NOT_A_VALIDATOR
    if kind.amount > stake.bonded:
        return Outcome.INSUFFICIENT_STAKE
    remains = stake.bonded - kind.amount
    if 0 < remains < parameters.min_stake:
        return Outcome.BELOW_MINIMUM_STAKE
    release = epoch_end(call.block.height, parameters) + parameters.unbonding_blocks
    if not add_unbonding(state, call.sender, Unbonding(release, kind.amount)):
        return Outcome.TOO_MANY_UNBONDINGS
    write_stake(state, call.sender, replace(stake, bonded=remains))
    call.later(Due.UNBONDING, release, call.sender)
    return Outcome.OK


UNBOND: Final = Rule(Unbond, _execute)
