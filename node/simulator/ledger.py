"""The stand-in ledger: stakes that bond and unbond, validator sets that change at epoch ends, and C2's schedule.

Pure: a state and a block give the next state, or a reason to refuse the block. Small on purpose, so that thousands of
seeds run in minutes; what it does with sets and schedule is what the real ledger does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum, StrEnum
from functools import cached_property
from hashlib import sha3_256

from trellis.block import certificate_hash
from trellis.certificate import Certificate
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.header import NOTE_ROOT_EMPTY, PROOF_COMMITMENT_EMPTY, SEAL_NONE, Header
from trellis.parameters import Parameters
from trellis.schedule import Decided, Schedule, first_schedule, next_schedule
from trellis.types import ZERO_HASH, Address, Hash, Height, View
from trellis.validators import Validator, ValidatorSet, is_allowed_transition, make_validator_set


class OperationKind(IntEnum):
    DATA = 1
    BOND = 2
    UNBOND = 3
    EVIDENCE = 4


@dataclass(frozen=True, slots=True, order=True)
class Operation:
    """What a block contains. `serial` makes each one distinct; an operation is executed once."""

    serial: int
    kind: OperationKind
    subject: Address
    amount: int


def encode_body(operations: Sequence[Operation]) -> bytes:
    writer = Writer().u32(len(operations))
    for operation in operations:
        writer.u64(operation.serial).u8(operation.kind).hash(operation.subject).u64(operation.amount)
    return writer.done()


def decode_body(data: bytes) -> tuple[Operation, ...]:
    def read(reader: Reader) -> tuple[Operation, ...]:
        return tuple(_read_operation(reader) for _ in range(reader.count("operations", 10_000, 49)))

    return decode_whole(data, "body", 1 << 20, read)


def _read_operation(reader: Reader) -> Operation:
    serial, kind = reader.u64("serial"), reader.u8("kind")
    if kind not in OperationKind.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"operation {kind}")
    return Operation(serial, OperationKind(kind), Address(reader.hash("subject")), reader.u64("amount"))


@dataclass(frozen=True)
class ChainBlock:
    """A block as hosts store and send it."""

    header: Header
    parent_certificate: Certificate | None
    body: bytes

    @property
    def hash(self) -> Hash:
        return self.header.hash


class Refused(StrEnum):
    """Why the ledger refuses a block."""

    HEIGHT = "height"
    PARENT = "parent"
    PARENT_CERTIFICATE = "parent_certificate"
    TIME = "time"
    BODY = "body"
    REPEATED = "repeated"
    SETS = "sets"
    STATE_ROOT = "state_root"
    CONSTANT = "constant"


@dataclass(frozen=True)
class LedgerState:
    """The state after a block. `validators` is V(height + 1)."""

    genesis_hash: Hash
    parameters: Parameters
    height: Height
    tip_hash: Hash
    tip_time_ms: int
    root: Hash
    members: tuple[Validator, ...]
    """Everybody who may ever bond, with a power of 1 as a place-holder, ascending by address."""
    stakes: tuple[tuple[Address, int], ...]
    done: frozenset[int]
    """Serials that were executed."""
    validators: ValidatorSet
    schedule: Schedule
    certified: bool = True
    """Blocks carry a certificate of their parent; not so under proof of work."""

    @cached_property
    def params_hash(self) -> Hash:
        return self.parameters.hash_with({})


def genesis_state(
    genesis_hash: Hash, parameters: Parameters, members: Sequence[Validator], stakes: Sequence[tuple[Address, int]]
) -> LedgerState:
    members = tuple(sorted(members, key=lambda member: member.address))
    ordered = tuple(sorted(stakes))
    validators = _set_of(members, ordered)
    return LedgerState(
        genesis_hash=genesis_hash,
        parameters=parameters,
        height=Height(0),
        tip_hash=genesis_hash,
        tip_time_ms=0,
        root=Hash(sha3_256(b"root" + genesis_hash).digest()),
        members=members,
        stakes=ordered,
        done=frozenset(),
        validators=validators,
        schedule=first_schedule(validators),
    )


def _set_of(members: Sequence[Validator], stakes: Sequence[tuple[Address, int]]) -> ValidatorSet:
    powers = dict(stakes)
    return make_validator_set(
        replace(member, power=powers[member.address]) for member in members if powers.get(member.address, 0) > 0
    )


def make_block(
    state: LedgerState,
    view: View,
    proposer: Address,
    certificate: Certificate | None,
    operations: Sequence[Operation],
    clock_ms: int,
) -> ChainBlock:
    body = encode_body(operations)
    following = _execute(state, operations)
    header = Header(
        genesis_hash=state.genesis_hash,
        height=Height(state.height + 1),
        view=view,
        timestamp_ms=max(state.tip_time_ms + 1, clock_ms),
        parent_hash=state.tip_hash,
        parent_certificate_hash=certificate_hash(certificate),
        tx_root=Hash(sha3_256(body).digest()),
        witness_root=ZERO_HASH,
        state_root=_root_after(state, body),
        note_root=NOTE_ROOT_EMPTY,
        proof_commitment=PROOF_COMMITMENT_EMPTY,
        validators_hash=state.validators.hash,
        next_validators_hash=following[1].hash,
        params_hash=state.params_hash,
        engine_seal_hash=SEAL_NONE,
        proposer=proposer,
    )
    return ChainBlock(header, certificate, body)


def refusal(state: LedgerState, block: ChainBlock) -> Refused | None:
    """Everything but the parent certificate's signatures, which the host verifies against V(height)."""
    header = block.header
    if header.height != state.height + 1:
        return Refused.HEIGHT
    if header.parent_hash != state.tip_hash or header.genesis_hash != state.genesis_hash:
        return Refused.PARENT
    if header.parent_certificate_hash != certificate_hash(block.parent_certificate):
        return Refused.PARENT_CERTIFICATE
    if (block.parent_certificate is not None) != (state.certified and header.height > 1):
        return Refused.PARENT_CERTIFICATE
    if header.timestamp_ms <= state.tip_time_ms:
        return Refused.TIME
    try:
        operations = decode_body(block.body)
    except DecodeError:
        return Refused.BODY
    if header.tx_root != sha3_256(block.body).digest():
        return Refused.BODY
    serials = [operation.serial for operation in operations]
    if len(set(serials)) != len(serials) or not state.done.isdisjoint(serials):
        return Refused.REPEATED
    if header.validators_hash != state.validators.hash:
        return Refused.SETS
    if header.next_validators_hash != _execute(state, operations)[1].hash:
        return Refused.SETS
    if header.params_hash != state.params_hash or header.note_root != NOTE_ROOT_EMPTY:
        return Refused.CONSTANT
    return None if header.state_root == _root_after(state, block.body) else Refused.STATE_ROOT


def apply(state: LedgerState, block: ChainBlock) -> LedgerState:
    """The state after a block that `refusal` found in order."""
    operations = decode_body(block.body)
    stakes, validators = _execute(state, operations)
    header, certificate = block.header, block.parent_certificate
    decided = Decided(header.view, header.proposer, None if certificate is None else certificate.view)
    return LedgerState(
        genesis_hash=state.genesis_hash,
        parameters=state.parameters,
        height=header.height,
        tip_hash=block.hash,
        tip_time_ms=header.timestamp_ms,
        root=header.state_root,
        members=state.members,
        stakes=stakes,
        done=state.done.union(operation.serial for operation in operations),
        validators=validators,
        schedule=next_schedule(state.schedule, state.validators, validators, decided, state.parameters),
        certified=state.certified,
    )


def _root_after(state: LedgerState, body: bytes) -> Hash:
    return Hash(sha3_256(state.root + state.height.to_bytes(8, "big") + body).digest())


def _execute(
    state: LedgerState, operations: Sequence[Operation]
) -> tuple[tuple[tuple[Address, int], ...], ValidatorSet]:
    """Stakes after the block, and V(height + 2): changed only where the block ends an epoch, by a third at the most."""
    stakes = dict(state.stakes)
    for operation in operations:
        held = stakes.get(operation.subject, 0)
        match operation.kind:
            case OperationKind.BOND:
                stakes[operation.subject] = held + operation.amount
            case OperationKind.UNBOND:
                stakes[operation.subject] = max(0, held - operation.amount)
            case OperationKind.EVIDENCE:
                stakes[operation.subject] = held - held // 5
            case OperationKind.DATA:
                pass
    ordered = tuple(sorted(stakes.items()))
    if (state.height + 1) % state.parameters.epoch_blocks:
        return ordered, state.validators
    return ordered, _allowed_part(state, ordered)


def _allowed_part(state: LedgerState, wanted: Sequence[tuple[Address, int]]) -> ValidatorSet:
    """Takes changes in the order of addresses while the whole stays a third of power and the set has members."""
    powers = {member.address: member.power for member in state.validators.members}
    accepted = state.validators
    for address, power in wanted:
        before = powers.get(address, 0)
        powers[address] = power
        if not any(powers.values()):
            powers[address] = before
            continue
        candidate = _set_of(state.members, sorted(powers.items()))
        if is_allowed_transition(state.validators, candidate):
            accepted = candidate
        else:
            powers[address] = before
    return accepted
