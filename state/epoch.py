"""The end of an epoch: the next validator set, at most a third of power away from the old one.

What leaves (jailed, unbonded, outbid) and what joins each have a budget of a third of the old total. A change that does
not fit is made in part and goes on at the next epoch, so that even one validator with most of the power can leave. The
order is fixed: jailed first, then by address; everything is integer.
"""

from __future__ import annotations

from typing import NamedTuple

from state.chain import Network
from state.overlay import Overlay
from state.stake import (
    Stake,
    Unbonding,
    read_roster,
    read_stake,
    read_unbondings,
    remove_stake,
    write_roster,
    write_unbondings,
)
from state.validator_sets import append_set
from state.view import StateView
from trellis.parameters import Parameters
from trellis.types import Address, Height
from trellis.validators import Validator, ValidatorSet, make_validator_set


class Candidate(NamedTuple):
    address: Address
    stake: Stake


def epoch_end(height: int, parameters: Parameters) -> int:
    """The last height of the epoch that `height` belongs to."""
    return -(-height // parameters.epoch_blocks) * parameters.epoch_blocks


def ends_epoch(height: int, parameters: Parameters) -> bool:
    return height % parameters.epoch_blocks == 0


def wanted_powers(candidates: list[Candidate], parameters: Parameters) -> dict[Address, int]:
    """The free candidates with the most stake, ties to the smaller address."""
    able = [c for c in candidates if not c.stake.jailed_until and c.stake.bonded >= parameters.min_stake]
    able.sort(key=lambda c: (-c.stake.bonded, c.address))
    return {c.address: c.stake.bonded for c in able[: parameters.max_validators]}


def following_set(old: ValidatorSet, candidates: list[Candidate], parameters: Parameters) -> ValidatorSet:
    wanted = wanted_powers(candidates, parameters)
    stakes = {c.address: c.stake for c in candidates}
    powers = {member.address: member.power for member in old.members}
    budget = old.total_power // 3

    def jailed_first(address: Address) -> tuple[bool, bytes]:
        return (address not in stakes or not stakes[address].jailed_until, address)

    losing = sorted((a for a in powers if wanted.get(a, 0) < powers[a]), key=jailed_first)
    lost = 0
    for address in losing:
        step = min(powers[address] - wanted.get(address, 0), budget - lost)
        powers[address] -= step
        lost += step
        if not powers[address]:
            del powers[address]
    gained = 0
    # By wanted power, so that with few seats free the largest joins first.
    for address in sorted(wanted, key=lambda a: (-wanted[a], a)):
        power = powers.get(address, 0)
        if power >= wanted[address] or (not power and len(powers) >= parameters.max_validators):
            continue
        step = min(wanted[address] - power, budget - gained)
        if step:
            powers[address] = power + step
            gained += step
    if not powers:
        # Cannot follow from a loss of a third, but a chain without validators could never be mended.
        return old
    return make_validator_set(_member(old, stakes, address, powers[address]) for address in sorted(powers))


def _member(old: ValidatorSet, stakes: dict[Address, Stake], address: Address, power: int) -> Validator:
    """Its newest keys; a validator without a record keeps the keys of the old set until its power is gone."""
    stake = stakes.get(address)
    if stake is not None:
        return stake.as_validator(address, power)
    member = old.get(address)
    if member is None:
        raise ValueError("a member of a new set has a stake record or was in the old set")
    return Validator(address, member.alg_id, member.public_key, member.network_id, power)


def read_candidates(view: StateView) -> list[Candidate]:
    found: list[Candidate] = []
    for address in read_roster(view):
        stake = read_stake(view, address)
        if stake is not None:
            found.append(Candidate(address, stake))
    return found


class EpochEnd(NamedTuple):
    following: ValidatorSet
    """V(height + 1)."""
    postponed: tuple[Address, ...]
    """Whose unbondings now wait for `release`: the caller puts them on that height's due list."""
    release: int


def end_epoch(state: Overlay, network: Network, height: Height, old: ValidatorSet) -> EpochEnd:
    """Writes the set of height + 1, puts off unbondings whose power still votes, and forgets who has left."""
    parameters = network.parameters
    candidates = read_candidates(state)
    following = following_set(old, candidates, parameters)
    append_set(state, Height(height + 1), following, height - parameters.evidence_window_blocks)
    earliest = height + parameters.epoch_blocks + parameters.unbonding_blocks
    gone: set[Address] = set()
    postponed: list[Address] = []
    for address, stake in candidates:
        if following.power_of(address) > stake.bonded:
            if _postpone(state, address, earliest):
                postponed.append(address)
        elif not stake.bonded and address not in following and not read_unbondings(state, address):
            remove_stake(state, address, stake)
            gone.add(address)
    if gone:
        write_roster(state, tuple(c.address for c in candidates if c.address not in gone))
    return EpochEnd(following, tuple(postponed), earliest)


def _postpone(state: Overlay, address: Address, earliest: int) -> bool:
    """Power that the limit of a third keeps in the set must stay slashable for the whole delay after it goes."""
    entries = read_unbondings(state, address)
    late = sum(entry.amount for entry in entries if entry.release < earliest)
    if late:
        kept = [entry for entry in entries if entry.release >= earliest]
        merged = {entry.release: entry.amount for entry in kept}
        merged[earliest] = merged.get(earliest, 0) + late
        write_unbondings(state, address, tuple(Unbonding(*item) for item in sorted(merged.items())))
    return late > 0
