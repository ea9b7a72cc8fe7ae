"""`apply_block`: the state and a block in, its effects or the reason against it out. Pure: same bytes, same answer.

Checks stand in tables, each under its `InvalidReason`: the header against the state, the body's witnesses, the caps,
each transaction at its place (`state.transactions`), value (`state.execution`), and the header against the effects.
Reading order of this file is the order of checking: cheap before dear, and nothing executes under a wrong header.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from state.chain import Head, Network, read_head, read_network, read_schedule
from state.claims import certificate_claim_key
from state.errors import InvalidBlock, InvalidReason, Refused
from state.execution import BlockContext, Executed, Execution
from state.transactions import Candidate, terms_of, transaction_bytes, witness_fault
from state.validator_sets import require_set
from state.view import StateView
from trellis.block import Block, certificate_hash, witness_root
from trellis.certificate import Certificate
from trellis.genesis import EngineKind
from trellis.header import NOTE_ROOT_EMPTY, SEAL_NONE, Header
from trellis.schedule import Schedule
from trellis.transaction import Transaction
from trellis.types import ZERO_HASH, Address, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind


@dataclass(frozen=True, slots=True)
class Applied:
    """A valid block and everything it does."""

    block: Block
    executed: Executed


@dataclass(frozen=True, slots=True)
class Facts:
    """What header checks compare a block with."""

    context: BlockContext
    network: Network
    parent: Head
    schedule: Schedule
    validators: ValidatorSet
    """V(h)."""
    before: ValidatorSet | None
    """V(h−1); none below block 1."""

    @property
    def is_pbft(self) -> bool:
        return self.network.engine is EngineKind.PBFT


def read_facts(view: StateView, context: BlockContext) -> Facts:
    parent = read_head(view)
    before = require_set(view, parent.height) if parent.height else None
    validators = require_set(view, parent.height + 1)
    return Facts(context, read_network(view), parent, read_schedule(view), validators, before)


def _chain(facts: Facts, block: Block) -> bool:
    return block.header.genesis_hash == facts.context.genesis_hash


def _height(facts: Facts, block: Block) -> bool:
    return block.header.height == facts.parent.height + 1


def _parent(facts: Facts, block: Block) -> bool:
    return block.header.parent_hash == facts.context.parent_hash


def _time(facts: Facts, block: Block) -> bool:
    """Against the parent's only: clocks are asked once, before the first PREPARE, and never in replay."""
    return block.header.timestamp_ms > facts.parent.timestamp_ms


def _seal(facts: Facts, block: Block) -> bool:
    """Whether the work suffices is the engine's to say; here the seal is the one that the header names."""
    if facts.is_pbft:
        return block.seal is None and block.header.engine_seal_hash == SEAL_NONE
    return block.seal is not None and block.header.engine_seal_hash == block.seal.hash


def _proposer(facts: Facts, block: Block) -> bool:
    header = block.header
    if facts.is_pbft:
        return header.proposer == facts.schedule.leader_of(header.view, facts.validators)
    return header.view == 0


def _validators_hash(facts: Facts, block: Block) -> bool:
    return block.header.validators_hash == facts.validators.hash


def _params_hash(facts: Facts, block: Block) -> bool:
    return block.header.params_hash == facts.network.params_hash


def _note_root(facts: Facts, block: Block) -> bool:
    return block.header.note_root == NOTE_ROOT_EMPTY


def _certificate_presence(facts: Facts, block: Block) -> bool:
    wanted = facts.is_pbft and facts.parent.height > 0
    return (block.parent_certificate is not None) is wanted


def _certificate_hash(facts: Facts, block: Block) -> bool:
    return block.header.parent_certificate_hash == certificate_hash(block.parent_certificate)


def _certificate_subject(facts: Facts, block: Block) -> bool:
    """COMMITs of the parent. The hash alone would do, were it not that a header does not prove its own place."""
    carried = block.parent_certificate
    if carried is None:
        return True
    return (carried.kind, carried.height, carried.block_hash) == (
        VoteKind.COMMIT,
        facts.parent.height,
        facts.context.parent_hash,
    )


def _certificate_view(facts: Facts, block: Block) -> bool:
    """No view before the block's own can have decided it."""
    carried = block.parent_certificate
    return carried is None or carried.view >= facts.schedule.last_view


def _certificate_shape(facts: Facts, block: Block) -> bool:
    carried = block.parent_certificate
    return carried is None or facts.before is None or carried.shape_fault(facts.before) is None


def _certificate_signatures(facts: Facts, block: Block) -> bool:
    carried = block.parent_certificate
    if carried is None or facts.before is None:
        return True
    return facts.context.verdicts(certificate_claim_key(carried, facts.before))


HEADER_CHECKS: Final[tuple[tuple[InvalidReason, Callable[[Facts, Block], bool]], ...]] = (
    (InvalidReason.WRONG_CHAIN, _chain),
    (InvalidReason.WRONG_HEIGHT, _height),
    (InvalidReason.WRONG_PARENT, _parent),
    (InvalidReason.TIME_NOT_AFTER_PARENT, _time),
    (InvalidReason.ENGINE_SEAL, _seal),
    (InvalidReason.WRONG_PROPOSER, _proposer),
    (InvalidReason.VALIDATORS_HASH, _validators_hash),
    (InvalidReason.PARAMS_HASH, _params_hash),
    (InvalidReason.NOTE_ROOT, _note_root),
    (InvalidReason.CERTIFICATE_PRESENCE, _certificate_presence),
    (InvalidReason.CERTIFICATE_HASH, _certificate_hash),
    (InvalidReason.CERTIFICATE_SUBJECT, _certificate_subject),
    (InvalidReason.CERTIFICATE_VIEW, _certificate_view),
    (InvalidReason.CERTIFICATE_SHAPE, _certificate_shape),
    (InvalidReason.CERTIFICATE_SIGNATURES, _certificate_signatures),
)
"""Each holds, or the block is refused with its reason."""


def _witness_root(block: Block) -> bool:
    return block.header.witness_root == witness_root(block.transactions)


BODY_CHECKS: Final[tuple[tuple[InvalidReason, Callable[[Block], bool]], ...]] = (
    (InvalidReason.WITNESS_ROOT, _witness_root),
)


@dataclass(frozen=True, slots=True)
class Load:
    """What a body weighs, against the caps."""

    transactions: int
    size_bytes: int
    proof_cost: int


CAP_CHECKS: Final[tuple[tuple[InvalidReason, Callable[[Load, Network], bool]], ...]] = (
    (InvalidReason.TOO_MANY_TRANSACTIONS, lambda load, net: load.transactions <= net.parameters.max_block_transactions),
    (InvalidReason.TOO_MANY_BYTES, lambda load, net: load.size_bytes <= net.parameters.max_block_bytes),
    (InvalidReason.PROOF_COST, lambda load, net: load.proof_cost <= net.parameters.max_block_proof_cost),
)
"""The costs are declared ones, so that the cap is checked before any proof is."""


def _tx_root(header: Header, executed: Executed) -> bool:
    return header.tx_root == executed.tx_root


def _proof_commitment(header: Header, executed: Executed) -> bool:
    return header.proof_commitment == executed.proof_commitment


def _next_validators_hash(header: Header, executed: Executed) -> bool:
    return header.next_validators_hash == executed.following.hash


def _state_root(header: Header, executed: Executed) -> bool:
    return header.state_root == executed.state_root


RESULT_CHECKS: Final[tuple[tuple[InvalidReason, Callable[[Header, Executed], bool]], ...]] = (
    (InvalidReason.TX_ROOT, _tx_root),
    (InvalidReason.PROOF_COMMITMENT, _proof_commitment),
    (InvalidReason.NEXT_VALIDATORS_HASH, _next_validators_hash),
    (InvalidReason.STATE_ROOT, _state_root),
)


def load_of(candidates: Iterable[Candidate]) -> Load:
    number = size = cost = 0
    for candidate in candidates:
        number += 1
        size += transaction_bytes(candidate.transaction)
        cost += candidate.proof_cost
    return Load(number, size, cost)


def cap_fault(load: Load, network: Network) -> InvalidReason | None:
    for reason, fits in CAP_CHECKS:
        if not fits(load, network):
            return reason
    return None


def apply_block(view: StateView, block: Block, context: BlockContext) -> Applied | InvalidBlock:
    """`view` is the state after the parent. Nothing is written: the changes are in the answer."""
    facts = read_facts(view, context)
    for reason, holds in HEADER_CHECKS:
        if not holds(facts, block):
            return InvalidBlock(reason)
    for reason, matches in BODY_CHECKS:
        if not matches(block):
            return InvalidBlock(reason)
    terms = terms_of(facts.network, context.genesis_hash, Height(facts.parent.height + 1))
    candidates: list[Candidate] = []
    for place, transaction in enumerate(block.transactions):
        candidate = Candidate(transaction, view, terms)
        fault = witness_fault(candidate, context.verdicts)
        if fault is not None:
            return InvalidBlock(fault, candidate.malformed, place)
        candidates.append(candidate)
    fault = cap_fault(load_of(candidates), facts.network)
    if fault is not None:
        return InvalidBlock(fault)
    header = block.header
    execution = Execution(view, context, header.proposer, header.view, header.timestamp_ms, block.parent_certificate)
    try:
        execution.begin()
        for candidate in candidates:
            execution.run(candidate)
        executed = execution.finish()
    except Refused as refused:
        return InvalidBlock(refused.reason, refused.detail, len(execution.receipts))
    for reason, agrees in RESULT_CHECKS:
        if not agrees(header, executed):
            return InvalidBlock(reason)
    return Applied(block, executed)


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a leader brings to a new block."""

    proposer: Address
    view: View
    timestamp_ms: int
    certificate: Certificate | None
    """Of the parent; none for block 1, and none under proof of work."""


@dataclass(frozen=True, slots=True)
class Dropped:
    """A transaction that was offered and cannot be in the block, for the pool to act upon."""

    transaction: Transaction
    reason: InvalidReason


@dataclass(frozen=True, slots=True)
class Built:
    applied: Applied
    dropped: tuple[Dropped, ...]


def build_block(view: StateView, proposal: Proposal, offered: Iterable[Transaction], context: BlockContext) -> Built:
    """The proposer's side of `apply_block`, by the same code: what it builds, every honest node applies.

    Under proof of work the header still lacks its seal. A certificate that does not verify is the caller's mistake.
    """
    facts = read_facts(view, context)
    execution = Execution(view, context, proposal.proposer, proposal.view, proposal.timestamp_ms, proposal.certificate)
    execution.begin()
    terms = terms_of(facts.network, context.genesis_hash, Height(facts.parent.height + 1))
    taken: list[Transaction] = []
    dropped: list[Dropped] = []
    load = Load(0, 0, 0)
    for transaction in offered:
        candidate = Candidate(transaction, view, terms)
        fault = witness_fault(candidate, context.verdicts)
        heavier = load
        if fault is None:
            own = load_of((candidate,))
            heavier = Load(load.transactions + 1, load.size_bytes + own.size_bytes, load.proof_cost + own.proof_cost)
            fault = cap_fault(heavier, facts.network)
        if fault is None:
            try:
                execution.run(candidate)
            except Refused as refused:
                fault = refused.reason
        if fault is None:
            taken.append(transaction)
            load = heavier
        else:
            dropped.append(Dropped(transaction, fault))
    executed = execution.finish()
    header = _header(facts, proposal, taken, executed)
    block = Block(header, proposal.certificate, tuple(taken))
    return Built(Applied(block, executed), tuple(dropped))


def _header(facts: Facts, proposal: Proposal, taken: list[Transaction], executed: Executed) -> Header:
    return Header(
        genesis_hash=facts.context.genesis_hash,
        height=Height(facts.parent.height + 1),
        view=proposal.view,
        timestamp_ms=proposal.timestamp_ms,
        parent_hash=facts.context.parent_hash,
        parent_certificate_hash=ZERO_HASH if proposal.certificate is None else proposal.certificate.hash,
        tx_root=executed.tx_root,
        witness_root=witness_root(taken),
        state_root=executed.state_root,
        note_root=NOTE_ROOT_EMPTY,
        proof_commitment=executed.proof_commitment,
        validators_hash=facts.validators.hash,
        next_validators_hash=executed.following.hash,
        params_hash=facts.network.params_hash,
        engine_seal_hash=SEAL_NONE,
        proposer=proposal.proposer,
    )
