"""Counting power: votes by identity, and the highest view or height known of each validator."""

from __future__ import annotations

from enum import Enum, auto
from typing import Final

from trellis.certificate import Certificate, make_certificate
from trellis.types import Address, Hash, View
from trellis.validators import ValidatorSet
from trellis.votes import SignedVote

PAST_VIEWS_KEPT: Final = 16
"""Votes of older views are forgotten: at n = 100 a height that fails through hundreds of views would otherwise hold
100 MB of signatures. What is lost is a decision by COMMITs that are that late; the certificate answer replaces it."""


class Counted(Enum):
    """What a vote did to the tally."""

    REPEATED = auto()
    CONFLICTING = auto()
    """The validator voted for another block in this view: its first vote stands, this one counts for nothing."""
    COUNTED = auto()
    QUORUM = auto()
    """Counted, and it completed a quorum: told once for each view and hash."""


class Tally:
    """Votes of one kind at one height. One vote a validator and view, whoever delivered it."""

    __slots__ = ("_power", "_validators", "_votes")

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._votes: dict[View, dict[Address, SignedVote]] = {}
        self._power: dict[View, dict[Hash, int]] = {}

    def add(self, signed: SignedVote, block_hash: Hash) -> Counted:
        """The caller made sure that the signer is a member."""
        view = signed.vote.view
        votes = self._votes.get(view)
        if votes is None:
            votes = self._votes[view] = {}
            self._power[view] = {}
        known = votes.get(signed.signer)
        if known is not None:
            return Counted.REPEATED if known.vote.block_hash == block_hash else Counted.CONFLICTING
        votes[signed.signer] = signed
        powers = self._power[view]
        before = powers.get(block_hash, 0)
        after = powers[block_hash] = before + self._validators.power_of(signed.signer)
        validators = self._validators
        return Counted.QUORUM if validators.is_quorum(after) and not validators.is_quorum(before) else Counted.COUNTED

    def power(self, view: View, block_hash: Hash) -> int:
        powers = self._power.get(view)
        return 0 if powers is None else powers.get(block_hash, 0)

    def has_quorum(self, view: View, block_hash: Hash) -> bool:
        return self._validators.is_quorum(self.power(view, block_hash))

    def vote_of(self, view: View, signer: Address) -> SignedVote | None:
        votes = self._votes.get(view)
        return None if votes is None else votes.get(signer)

    def certificate(self, view: View, block_hash: Hash) -> Certificate:
        """Of all votes for that block in that view; the caller saw a quorum."""
        votes = self._votes.get(view, {})
        return make_certificate((v for v in votes.values() if v.vote.block_hash == block_hash), self._validators)

    def quorum_views(self, block_hash: Hash) -> list[View]:
        """Views in which that block has a quorum, ascending."""
        return sorted(view for view in self._power if self.has_quorum(view, block_hash))

    def forget_below(self, view: View) -> None:
        for old in sorted(known for known in self._votes if known < view):
            del self._votes[old], self._power[old]


class Ladder:
    """The highest rung (a view, or a height) known of each validator, and the power at each rung."""

    __slots__ = ("_power", "_rung", "_validators")

    def __init__(self, validators: ValidatorSet) -> None:
        self._validators = validators
        self._rung: dict[Address, int] = {}
        self._power: dict[int, int] = {}

    def raise_to(self, address: Address, rung: int) -> bool:
        """True if that is news. Nobody is ever lowered: a validator that reports less changes nothing."""
        power = self._validators.power_of(address)
        known = self._rung.get(address)
        if power == 0 or (known is not None and known >= rung):
            return False
        if known is not None:
            self._power[known] -= power
            if self._power[known] == 0:
                del self._power[known]
        self._rung[address] = rung
        self._power[rung] = self._power.get(rung, 0) + power
        return True

    def rung_of(self, address: Address) -> int | None:
        return self._rung.get(address)

    def power_from(self, rung: int) -> int:
        return sum(power for at, power in self._power.items() if at >= rung)

    def highest_blocking(self) -> int | None:
        """The highest rung that more than a third of power is at or above: an honest validator is among them."""
        power = 0
        for rung in sorted(self._power, reverse=True):
            power += self._power[rung]
            if self._validators.is_blocking(power):
                return rung
        return None

    def moved_to(self, validators: ValidatorSet) -> Ladder:
        """The same knowledge, weighed by another validator set."""
        ladder = Ladder(validators)
        for address in validators.addresses:
            rung = self._rung.get(address)
            if rung is not None:
                ladder.raise_to(address, rung)
        return ladder
