"""Rule C2: who leads. One pure function of chain state, used by the ledger's transition and by the consensus core.

The leader of view 0 is sticky: whoever made the last block leads the next, until its turn ends or it failed. So a dead
leader costs one timeout, not one a rotation, and every replica at a height computes the same leader.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from trellis.constants import MAX_VALIDATORS
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.parameters import Parameters
from trellis.types import ZERO_HASH, Address, Height, View
from trellis.validators import ValidatorSet

MAX_STRIKE_DOUBLINGS: Final = 4
_PRIORITY_OFFSET: Final = 1 << 127
"""Priorities are signed; they are stored as u128 with this offset."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What the schedule remembers of one validator."""

    address: Address
    priority: int
    strikes: int


@dataclass(frozen=True, slots=True)
class Demotion:
    """A validator that let a view pass: out of the front of the order up to and with height `until`."""

    address: Address
    height: Height
    view: View
    until: Height


@dataclass(frozen=True, slots=True)
class Schedule:
    """Everything that decides the leaders of `height`. It lies under the state root of the block before."""

    height: Height
    leader: Address
    """leader(height, 0)."""
    led: int
    """Blocks that `leader` has led in a row in this turn, before `height`."""
    last_proposer: Address
    """header(height−1).proposer; zero before block 1."""
    last_view: View
    """header(height−1).view."""
    standings: tuple[Standing, ...]
    """One for each member of V(height), ascending by address."""
    demotions: tuple[Demotion, ...]
    """Ordered by (height, view): released from the front."""

    def is_demoted(self, address: Address) -> bool:
        return any(demotion.address == address for demotion in self.demotions)

    def order(self, validators: ValidatorSet) -> tuple[Address, ...]:
        """leader(h,0), then the other eligible ones, then the demoted, each cyclically by address after it."""
        start = validators.index(self.leader)
        if start is None:
            raise ValueError("the schedule's leader is not in the validator set it is asked about")
        ring = validators.addresses[start + 1 :] + validators.addresses[:start]
        demoted = {demotion.address for demotion in self.demotions}
        eligible = tuple(address for address in ring if address not in demoted)
        return (self.leader, *eligible, *(address for address in ring if address in demoted))

    def leader_of(self, view: View, validators: ValidatorSet) -> Address:
        order = self.order(validators)
        return order[view % len(order)]

    def encode(self) -> bytes:
        writer = Writer().u64(self.height).hash(self.leader).u64(self.led).hash(self.last_proposer).u64(self.last_view)
        writer.u32(len(self.standings))
        for standing in self.standings:
            writer.hash(standing.address).fixed((standing.priority + _PRIORITY_OFFSET).to_bytes(16, "big"), 16)
            writer.u32(standing.strikes)
        writer.u32(len(self.demotions))
        for demotion in self.demotions:
            writer.hash(demotion.address).u64(demotion.height).u64(demotion.view).u64(demotion.until)
        return writer.done()


def decode_schedule(data: bytes) -> Schedule:
    return decode_whole(data, "schedule", 128 + MAX_VALIDATORS * 128, _read_schedule)


def _read_schedule(reader: Reader) -> Schedule:
    height = Height(reader.u64("height"))
    leader = Address(reader.hash("leader"))
    led = reader.u64("led")
    last_proposer = Address(reader.hash("last proposer"))
    last_view = View(reader.u64("last view"))
    standings = tuple(_read_standing(reader) for _ in range(reader.count("standings", MAX_VALIDATORS, 52)))
    demotions = tuple(_read_demotion(reader) for _ in range(reader.count("demotions", MAX_VALIDATORS, 56)))
    addresses = [standing.address for standing in standings]
    if any(left >= right for left, right in pairwise(addresses)):
        raise DecodeError(Malformed.NOT_CANONICAL, "standings must ascend by address, each once")
    return Schedule(height, leader, led, last_proposer, last_view, standings, demotions)


def _read_standing(reader: Reader) -> Standing:
    address = Address(reader.hash("address"))
    priority = int.from_bytes(reader.fixed(16, "priority"), "big") - _PRIORITY_OFFSET
    return Standing(address, priority, reader.u32("strikes"))


def _read_demotion(reader: Reader) -> Demotion:
    return Demotion(
        Address(reader.hash("address")),
        Height(reader.u64("height")),
        View(reader.u64("view")),
        Height(reader.u64("until")),
    )


def first_schedule(validators: ValidatorSet) -> Schedule:
    """Height 1 is a rotation from zeros."""
    zeros = tuple(Standing(address, 0, 0) for address in validators.addresses)
    leader, standings = _rotate(zeros, validators, ())
    return Schedule(Height(1), leader, 0, Address(ZERO_HASH), View(0), standings, ())


@dataclass(frozen=True, slots=True)
class Decided:
    """What the schedule must know of a block that was just decided."""

    view: View
    """header.view: the view in which the block was created."""
    proposer: Address
    """header.proposer."""
    parent_certificate_view: View | None
    """View of the certificate of the block before that this block carries; None for block 1."""


def next_schedule(
    current: Schedule, validators: ValidatorSet, following: ValidatorSet, block: Decided, parameters: Parameters
) -> Schedule:
    """The schedule of the next height, after `block` was decided at `current.height`.

    `validators` is V(h) of the decided height, `following` is V(h+1).
    """
    height = current.height
    standings = {standing.address: standing for standing in current.standings}
    demotions = [d for d in current.demotions if d.address != block.proposer]
    failed = _failed_leaders(current, validators, block)
    for view, address in failed:
        old = standings[address]
        span = parameters.demotion_heights << min(old.strikes, MAX_STRIKE_DOUBLINGS)
        demotions = [d for d in demotions if d.address != address]
        demotions.append(Demotion(address, height, view, Height(height + span)))
        standings[address] = Standing(address, old.priority, old.strikes + 1)
    proposer = standings[block.proposer]
    standings[block.proposer] = Standing(proposer.address, proposer.priority, 0)
    kept = _release(demotions, Height(height + 1), following)
    entering = tuple(standings.get(a, Standing(a, 0, 0)) for a in following.addresses)

    led = current.led + 1 if block.proposer == current.leader else 1
    stays = (
        block.proposer in following
        and all(demotion.address != block.proposer for demotion in kept)
        and led < parameters.rotation_blocks
        and not _let_go_quiet(current, block)
    )
    if stays:
        leader = block.proposer
    else:
        leader, entering = _rotate(entering, following, kept)
        led = 0
    return Schedule(Height(height + 1), leader, led, block.proposer, block.view, entering, kept)


def _failed_leaders(current: Schedule, validators: ValidatorSet, block: Decided) -> list[tuple[View, Address]]:
    """Each distinct leader of views 0…min(w,n)−1 but the proposer; who holds a third or more of power is skipped."""
    order = current.order(validators)
    return [
        (View(view), address)
        for view, address in enumerate(order[: min(block.view, len(order))])
        if address != block.proposer and 3 * validators.power_of(address) < validators.total_power
    ]


def _let_go_quiet(current: Schedule, block: Decided) -> bool:
    """The block before needed a later view than it was made in, and its proposer is this block's proposer too.

    Otherwise a leader that lets one replica lock and then goes quiet costs a timeout a block, unpunished.
    """
    return (
        block.parent_certificate_view is not None
        and block.parent_certificate_view > current.last_view
        and block.proposer == current.last_proposer
    )


def _release(demotions: Sequence[Demotion], height: Height, following: ValidatorSet) -> tuple[Demotion, ...]:
    """Drops who served or left, then releases from the front until the demoted hold less than a third of power."""
    kept = sorted(
        (d for d in demotions if d.until >= height and d.address in following), key=lambda d: (d.height, d.view)
    )
    power = sum(following.power_of(d.address) for d in kept)
    while kept and 3 * power >= following.total_power:
        power -= following.power_of(kept.pop(0).address)
    return tuple(kept)


def _rotate(
    standings: Sequence[Standing], validators: ValidatorSet, demotions: Sequence[Demotion]
) -> tuple[Address, tuple[Standing, ...]]:
    """Smooth weighted round robin over the non-demoted: counting the demoted would let one of them hoard priority."""
    demoted = {demotion.address for demotion in demotions}
    raised = [
        s if s.address in demoted else Standing(s.address, s.priority + validators.power_of(s.address), s.strikes)
        for s in standings
    ]
    eligible = [s for s in raised if s.address not in demoted]
    total = validators.power_of_all(s.address for s in eligible)
    # max() keeps the first of equals, and standings ascend by address: ties go to the smaller address.
    chosen = max(eligible, key=lambda s: s.priority)
    lowered = tuple(
        Standing(s.address, s.priority - total, s.strikes) if s.address == chosen.address else s for s in raised
    )
    return chosen.address, lowered
