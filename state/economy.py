"""Emission, rewards, fees, slashing: where value comes from and where it goes.

- Emission: `emission_per_block >> ((h − 1) // halving_blocks)`, times the difficulty of the block's proofs in
  thousandths, until `emission_cap` is reached. What a rule leaves over is not emitted.
- Rewards for block h are paid by block h+1, from the certificate it carries. The signers' pool is divided by the size
  of V(h), not by the number of signatures carried: a divisor that shrinks pays a proposer for leaving votes out (n = 4:
  its own share would grow by a third for each vote left out, and its bonus fall by a quarter). So nobody's share
  depends on who else is carried, and the proposer's bonus grows with every vote.
- Fees: the minimum fee pays for what every node does, and is burned; what the sender adds goes to the proposer. So a
  proposer cannot fill blocks for nothing, and still earns by taking the best payers first.
- Slashed units are burned: paid to whoever reports, an offender would report itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from state.accounts import credit
from state.chain import Head, Totals
from state.scope import BlockScope, Call, Due, Reward, RewardKind, Slash
from state.stake import Punishment, read_punishment, slashable, take_stake, write_punishment
from state.view import StateView
from trellis.certificate import Certificate
from trellis.evidence import Evidence, EvidenceKind
from trellis.parameters import Parameters
from trellis.types import Address
from trellis.validators import ValidatorSet

PERMILLE: Final = 1_000


def base_emission(height: int, parameters: Parameters) -> int:
    """Before the multiplier and the cap. Block 1 is the first of the first era."""
    return parameters.emission_per_block >> min((height - 1) // parameters.halving_blocks, 64)


def emission(height: int, difficulty_milli: int, emitted: int, parameters: Parameters) -> int:
    wanted = base_emission(height, parameters) * difficulty_milli // PERMILLE
    return min(wanted, parameters.emission_cap - emitted)


def shares(
    units: int, certificate: Certificate, validators: ValidatorSet, proposer: Address, parameters: Parameters
) -> list[Reward]:
    """Who gets what of `units`: every signer the same, and the proposer by the power that it carries."""
    signers = certificate.signer_addresses(validators)
    full_bonus = units * parameters.bonus_proposer_permille // PERMILLE
    share = (units - full_bonus) // len(validators)
    rewards = [Reward(address, share, RewardKind.COMMIT) for address in signers]
    bonus = full_bonus * validators.power_of_all(signers) // validators.total_power
    rewards.append(Reward(proposer, bonus, RewardKind.PROPOSER))
    return [reward for reward in rewards if reward.units]


def pay(block: BlockScope, rewards: Sequence[Reward]) -> None:
    for reward in rewards:
        credit(block.state, reward.address, reward.units)
        block.emitted += reward.units
        block.events.append(reward)


def reward_parent(
    block: BlockScope, certificate: Certificate, parent: Head, before: ValidatorSet, totals: Totals
) -> None:
    """Block h+1 pays for block h. `before` is V(h)."""
    parameters = block.network.parameters
    units = emission(parent.height, parent.difficulty_milli, totals.emitted, parameters)
    pay(block, shares(units, certificate, before, block.proposer, parameters))


def reward_miner(block: BlockScope, difficulty_milli: int, totals: Totals) -> None:
    """Proof of work has no certificates: the block pays whoever found it."""
    units = emission(block.height, difficulty_milli, totals.emitted, block.network.parameters)
    if units:
        pay(block, [Reward(block.proposer, units, RewardKind.MINED)])


def slash_permille(evidence: Evidence, parameters: Parameters) -> int:
    if evidence.kind is EvidenceKind.INVALID_PROOF_PREPARE:
        return parameters.slash_wrong_verdict_permille
    return parameters.slash_double_sign_permille


def is_punished(state: StateView, evidence: Evidence, permille: int) -> bool:
    """One slash for each (validator, height), the larger: a lighter or equal one adds nothing."""
    old = read_punishment(state, evidence.offender, evidence.height)
    return old is not None and old.permille >= permille


def slash(call: Call, evidence: Evidence, permille: int) -> Slash:
    """Takes what is still missing to `permille` of the stake at the first slash for this offence height, and jails."""
    state, network, height = call.state, call.block.network, call.block.height
    parameters = network.parameters
    old = read_punishment(state, evidence.offender, evidence.height)
    base, taken = (slashable(state, evidence.offender), 0) if old is None else (old.base, old.taken)
    wanted = max(0, base * permille // PERMILLE - taken)
    units = take_stake(state, evidence.offender, wanted, height + parameters.jail_blocks)
    call.burned += units
    write_punishment(state, evidence.offender, evidence.height, Punishment(permille, base, taken + units))
    if old is None:
        until = evidence.height + parameters.evidence_window_blocks + 1
        call.later(Due.PUNISHMENT, until, evidence.offender + evidence.height.to_bytes(8, "big"))
    done = Slash(evidence.offender, evidence.height, evidence.kind, permille, units)
    call.events.append(done)
    return done
