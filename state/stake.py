"""Stake: who bonded what, what is on its way out, who is jailed, and what a slash takes.

Bonding and unbonding change this record at once; voting power follows at the epoch's end (`state.epoch`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from struct import Struct
from typing import Final, NamedTuple

from state.chain import require
from state.overlay import Overlay
from state.view import StateView
from trellis.hashing import Tag, hash_tagged
from trellis.types import HASH_BYTES, Address, PeerId
from trellis.validators import Validator

STAKE_PREFIX: Final = b"v"
UNBONDING_PREFIX: Final = b"u"
CONSENSUS_KEY_PREFIX: Final = b"x"
NETWORK_ID_PREFIX: Final = b"n"
ROSTER_KEY: Final = b"mroster"

CANDIDATES_PER_SEAT: Final = 4
"""Bounds the roster that each epoch's end walks: four times as many candidates as seats."""

MAX_UNBONDINGS: Final = 256
"""Bounds what one slash or one maturity walks. Requests of one epoch share an entry."""

_HEAD: Final = Struct(">QQBH")


@dataclass(frozen=True, slots=True)
class Stake:
    """A validator, or someone who wants to be one."""

    bonded: int
    jailed_until: int
    """Zero for who is free; otherwise `unjail` is refused below this height."""
    alg_id: int
    public_key: bytes
    network_id: PeerId

    def encode(self) -> bytes:
        head = _HEAD.pack(self.bonded, self.jailed_until, self.alg_id, len(self.public_key))
        return head + self.public_key + self.network_id

    def as_validator(self, address: Address, power: int) -> Validator:
        return Validator(address, self.alg_id, self.public_key, self.network_id, power)


def read_stake(view: StateView, address: Address) -> Stake | None:
    row = view.get(STAKE_PREFIX + address)
    if row is None:
        return None
    bonded, jailed_until, alg_id, key_bytes = _HEAD.unpack_from(row)
    middle = _HEAD.size + key_bytes
    return Stake(bonded, jailed_until, alg_id, row[_HEAD.size : middle], PeerId(row[middle:]))


def write_stake(state: Overlay, address: Address, stake: Stake) -> None:
    state.put(STAKE_PREFIX + address, stake.encode())


def bonded_in(row: bytes) -> int:
    """The value that a stake row holds."""
    return int.from_bytes(row[:8], "big")


class Unbonding(NamedTuple):
    release: int
    """Paid out at the end of this height."""
    amount: int


_UNBONDING: Final = Struct(">QQ")


def read_unbondings(view: StateView, address: Address) -> tuple[Unbonding, ...]:
    row = view.get(UNBONDING_PREFIX + address)
    return () if row is None else tuple(Unbonding._make(item) for item in _UNBONDING.iter_unpack(row))


def write_unbondings(state: Overlay, address: Address, entries: tuple[Unbonding, ...]) -> None:
    if entries:
        state.put(UNBONDING_PREFIX + address, b"".join(_UNBONDING.pack(*entry) for entry in entries))
    else:
        state.delete(UNBONDING_PREFIX + address)


def unbonding_in(row: bytes) -> int:
    """The value that a row of unbondings holds."""
    return sum(amount for _, amount in _UNBONDING.iter_unpack(row))


def add_unbonding(state: Overlay, address: Address, entry: Unbonding) -> bool:
    """False where the validator has too many already."""
    entries = list(read_unbondings(state, address))
    for place, old in enumerate(entries):
        if old.release == entry.release:
            entries[place] = Unbonding(old.release, old.amount + entry.amount)
            break
    else:
        if len(entries) >= MAX_UNBONDINGS:
            return False
        entries.append(entry)
    write_unbondings(state, address, tuple(sorted(entries)))
    return True


def read_roster(view: StateView) -> tuple[Address, ...]:
    """Everyone with a stake record, ascending."""
    row = require(view, ROSTER_KEY)
    return tuple(Address(row[at : at + HASH_BYTES]) for at in range(0, len(row), HASH_BYTES))


def write_roster(state: Overlay, roster: tuple[Address, ...]) -> None:
    state.put(ROSTER_KEY, b"".join(roster))


def _consensus_key_row(alg_id: int, public_key: bytes) -> bytes:
    return CONSENSUS_KEY_PREFIX + hash_tagged(Tag.ADDRESS, bytes((alg_id,)), public_key)


def identity_holder(view: StateView, stake: Stake) -> set[bytes]:
    """Addresses that already vote with this consensus key or answer under this network id."""
    rows = (_consensus_key_row(stake.alg_id, stake.public_key), NETWORK_ID_PREFIX + stake.network_id)
    return {holder for holder in map(view.get, rows) if holder is not None}


def claim_identity(state: Overlay, address: Address, stake: Stake) -> None:
    state.put(_consensus_key_row(stake.alg_id, stake.public_key), address)
    state.put(NETWORK_ID_PREFIX + stake.network_id, address)


def free_identity(state: Overlay, stake: Stake) -> None:
    state.delete(_consensus_key_row(stake.alg_id, stake.public_key))
    state.delete(NETWORK_ID_PREFIX + stake.network_id)


def remove_stake(state: Overlay, address: Address, stake: Stake) -> None:
    """The roster is the caller's: an epoch's end removes several at once."""
    free_identity(state, stake)
    state.delete(STAKE_PREFIX + address)


def slashable(view: StateView, address: Address) -> int:
    stake = read_stake(view, address)
    bonded = 0 if stake is None else stake.bonded
    return bonded + sum(entry.amount for entry in read_unbondings(view, address))


def take_stake(state: Overlay, address: Address, amount: int, jailed_until: int) -> int:
    """Takes `amount` off bonded and unbonding stake at once, in proportion, and jails. Answers what was there to take.

    Rounding falls on what is bonded first, then on what leaves last, so that the whole is exactly `amount`.
    """
    stake, entries = read_stake(state, address), read_unbondings(state, address)
    pieces = [0 if stake is None else stake.bonded, *(entry.amount for entry in reversed(entries))]
    there = sum(pieces)
    amount = min(amount, there)
    if there:
        left = [piece - piece * amount // there for piece in pieces]
        rest = amount - (there - sum(left))
        for place, piece in enumerate(left):
            taken = min(piece, rest)
            left[place] = piece - taken
            rest -= taken
        kept = tuple(Unbonding(entry.release, units) for entry, units in zip(entries, reversed(left[1:]), strict=True))
        if entries:
            write_unbondings(state, address, kept)
        pieces = left
    if stake is not None:
        jailed = max(stake.jailed_until, jailed_until)
        write_stake(state, address, replace(stake, bonded=pieces[0], jailed_until=jailed))
    return amount


_PUNISHMENT: Final = Struct(">HQQ")
PUNISHMENT_PREFIX: Final = b"o"


class Punishment(NamedTuple):
    """What one (validator, height) has cost so far. The larger of several slashes counts, not their sum."""

    permille: int
    base: int
    """Stake when the first of them was made."""
    taken: int


def punishment_key(offender: Address, height: int) -> bytes:
    return PUNISHMENT_PREFIX + offender + height.to_bytes(8, "big")


def read_punishment(view: StateView, offender: Address, height: int) -> Punishment | None:
    row = view.get(punishment_key(offender, height))
    return None if row is None else Punishment._make(_PUNISHMENT.unpack(row))


def write_punishment(state: Overlay, offender: Address, height: int, punishment: Punishment) -> None:
    state.put(punishment_key(offender, height), _PUNISHMENT.pack(*punishment))
