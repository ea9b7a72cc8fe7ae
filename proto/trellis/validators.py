"""Validator sets and stake arithmetic: who may vote at a height, with which key and power, and what a quorum is.

All arithmetic is integer. A quorum is `3·power > 2·total`, a blocking minority `3·power > total`; both hold at every n
and every split of stake, not only at n = 3f + 1.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Final

from trellis.constants import MAX_PEER_ID_BYTES, MAX_VALIDATORS
from trellis.crypto.algorithms import VOTE_ALGORITHMS, check_key_size, single_alg
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.types import U64_MAX, Address, Hash, PeerId

VALIDATOR_MIN_BYTES: Final = 32 + 1 + 4 + 1_952 + 4 + 8
MAX_SET_BYTES: Final = 4 + MAX_VALIDATORS * (32 + 1 + 4 + 2_592 + 4 + MAX_PEER_ID_BYTES + 8)


@dataclass(frozen=True, slots=True)
class Validator:
    """One member of a set: its account, the key of its votes, its place in the network, its voting power."""

    address: Address
    alg_id: int
    public_key: bytes
    network_id: PeerId
    power: int

    def write(self, writer: Writer) -> None:
        writer.hash(self.address).u8(self.alg_id).lp(self.public_key).lp(self.network_id).u64(self.power)


def read_validator(reader: Reader) -> Validator:
    address = Address(reader.hash("validator address"))
    alg = single_alg(reader.u8("validator algorithm"), "validator algorithm")
    if alg not in VOTE_ALGORITHMS:
        raise DecodeError(Malformed.UNKNOWN_ALGORITHM, f"{alg.name} is too slow to sign votes")
    public_key = reader.lp("validator key", 2_592)
    check_key_size(alg, public_key, "validator key")
    network_id = PeerId(reader.lp("validator network id", MAX_PEER_ID_BYTES))
    power = reader.u64("validator power")
    if power == 0:
        raise DecodeError(Malformed.OUT_OF_RANGE, "a validator without power is not in the set")
    return Validator(address, alg, public_key, network_id, power)


@dataclass(frozen=True)
class ValidatorSet:
    """The validators of one height, ascending by address. Not empty; total power fits u64."""

    members: tuple[Validator, ...]
    _position: dict[Address, int] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        addresses = [member.address for member in self.members]
        if not addresses:
            raise ValueError("a validator set cannot be empty")
        if any(left >= right for left, right in pairwise(addresses)):
            raise ValueError("validators must ascend by address, each once")
        if any(member.power <= 0 for member in self.members):
            raise ValueError("every validator has power above zero")
        if sum(member.power for member in self.members) > U64_MAX:
            raise ValueError("total power must fit in 64 bits")
        object.__setattr__(self, "_position", {address: place for place, address in enumerate(addresses)})

    def __len__(self) -> int:
        return len(self.members)

    def __contains__(self, address: object) -> bool:
        return address in self._position

    @cached_property
    def total_power(self) -> int:
        return sum(member.power for member in self.members)

    @cached_property
    def addresses(self) -> tuple[Address, ...]:
        return tuple(member.address for member in self.members)

    def index(self, address: Address) -> int | None:
        return self._position.get(address)

    def get(self, address: Address) -> Validator | None:
        place = self._position.get(address)
        return None if place is None else self.members[place]

    def power_of(self, address: Address) -> int:
        """Zero for who is not a member."""
        place = self._position.get(address)
        return 0 if place is None else self.members[place].power

    def power_of_all(self, addresses: Iterable[Address]) -> int:
        """Power of distinct validators; the caller passes no address twice."""
        return sum(self.power_of(address) for address in addresses)

    def is_quorum(self, power: int) -> bool:
        return 3 * power > 2 * self.total_power

    def is_blocking(self, power: int) -> bool:
        """More than a third: at least one honest validator is in it, and no quorum forms without it."""
        return 3 * power > self.total_power

    def encode(self) -> bytes:
        writer = Writer().u32(len(self.members))
        for member in self.members:
            member.write(writer)
        return writer.done()

    @cached_property
    def hash(self) -> Hash:
        return hash_tagged(Tag.VALIDATORS, self.encode())


def read_validator_set(reader: Reader) -> ValidatorSet:
    number = reader.count("validators", MAX_VALIDATORS, VALIDATOR_MIN_BYTES)
    members = tuple(read_validator(reader) for _ in range(number))
    try:
        return ValidatorSet(members)
    except ValueError as fault:
        raise DecodeError(Malformed.NOT_CANONICAL, str(fault)) from fault


def decode_validator_set(data: bytes) -> ValidatorSet:
    return decode_whole(data, "validator set", MAX_SET_BYTES, read_validator_set)


def make_validator_set(members: Iterable[Validator]) -> ValidatorSet:
    """Sorts by address; every other rule of a set is the caller's to keep."""
    return ValidatorSet(tuple(sorted(members, key=lambda member: member.address)))


def changed_power(old: ValidatorSet, new: ValidatorSet) -> int:
    """How much power a transition moves: what all gain together, or what all lose, whichever is larger."""
    addresses = sorted({*old.addresses, *new.addresses})
    gained = sum(max(0, new.power_of(address) - old.power_of(address)) for address in addresses)
    lost = sum(max(0, old.power_of(address) - new.power_of(address)) for address in addresses)
    return max(gained, lost)


def is_allowed_transition(old: ValidatorSet, new: ValidatorSet) -> bool:
    """At most a third of the old set's power changes per epoch."""
    return 3 * changed_power(old, new) <= old.total_power
