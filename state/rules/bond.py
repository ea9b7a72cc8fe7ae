"""Bond: units become stake, and the sender a candidate for the validator set from the next epoch on.

Bonding more, with the same or a new consensus key, is the same transaction. Who is jailed may bond too: a slash can
leave less than the minimum, and without a way to add to it nobody could come back.
"""

from __future__ import annotations

from typing import Final

from state.accounts import debit
from state.rules.rule import Rule
from state.scope import Call
from state.stake import (
    CANDIDATES_PER_SEAT,
    Stake,
    claim_identity,
    free_identity,
    identity_holder,
    read_roster,
    read_stake,
    write_roster,
    write_stake,
)
from trellis.crypto.policy import Role
from trellis.outcome import Outcome
from trellis.transaction import Bond


def _execute(call: Call, kind: Bond) -> Outcome:
    state, network = call.state, call.block.network
    if not network.policy.allows(Role.CONSENSUS_VOTE, kind.consensus_alg_id, call.block.height):
        return Outcome.ALGORITHM_NOT_ALLOWED
    old = read_stake(state, call.sender)
    bonded, jailed_until = (0, 0) if old is None else (old.bonded, old.jailed_until)
    stake = Stake(bonded + kind.amount, jailed_until, kind.consensus_alg_id, kind.consensus_public_key, kind.network_id)
    if stake.bonded < network.parameters.min_stake:
        return Outcome.BELOW_MINIMUM_STAKE
    if identity_holder(state, stake) - {call.sender}:
        return Outcome.KEY_IN_USE
    if not debit(state, call.sender, kind.amount):
        return Outcome.INSUFFICIENT_FUNDS
    if old is None:
        roster = read_roster(state)
        if len(roster) >= CANDIDATES_PER_SEAT * network.parameters.max_validators:
            return Outcome.ROSTER_FULL
        write_roster(state, tuple(sorted((*roster, call.sender))))
    else:
        free_identity(state, old)
    claim_identity(state, call.sender, stake)
    write_stake(state, call.sender, stake)
    return Outcome.OK


BOND: Final = Rule(Bond, _execute)
