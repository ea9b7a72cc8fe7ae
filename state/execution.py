"""Executing one block on an overlay: the part that applying a block and building one share.

begin: remember the parent's hash, pay for the parent. run: each transaction. finish: what falls due, the epoch's end,
the next schedule, the totals.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from state.accounts import ACCOUNT_PREFIX, KEY_PREFIX, NO_ACCOUNT, credit, read_key, write_account, write_key
from state.chain import (
    HEAD_KEY,
    MMR_KEY,
    SCHEDULE_KEY,
    TOTALS_KEY,
    Head,
    Totals,
    read_head,
    read_mmr,
    read_network,
    read_schedule,
    read_totals,
)
from state.conservation import Held, following_totals, moved
from state.economy import reward_miner, reward_parent
from state.epoch import end_epoch, ends_epoch
from state.errors import InvalidReason, Refused
from state.overlay import Overlay
from state.proofs import difficulty_milli
from state.results import record_block, record_verdicts
from state.rules import RULES
from state.scope import BlockScope, Call, Due, Event, ProofCheck, Reward, SetChanged, Verdicts, due_key, read_due
from state.stake import PUNISHMENT_PREFIX, Unbonding, read_unbondings, write_unbondings
from state.statements import expire_statements, forget_commitments, forget_statements
from state.transactions import Candidate, place_fault
from state.validator_sets import require_set
from state.view import Changes, StateView
from trellis.block import transaction_leaf
from trellis.certificate import Certificate
from trellis.genesis import EngineKind
from trellis.merkle import merkle_root, proof_commitment
from trellis.outcome import Outcome
from trellis.schedule import Decided, next_schedule
from trellis.types import Address, Hash, Height, View
from trellis.validators import ValidatorSet


@dataclass(frozen=True, slots=True)
class BlockContext:
    """What executing needs that is not in the state."""

    genesis_hash: Hash
    parent_hash: Hash
    """The one thing that cannot lie under the parent's state root: the parent's hash covers that root."""
    verdicts: Verdicts
    root_of: Callable[[Changes], Hash]
    """The state root after these changes to the state before the block."""
    check_proof: ProofCheck


@dataclass(frozen=True, slots=True)
class Receipt:
    """What became of one transaction."""

    txid: Hash
    outcome: Outcome
    fee: int


@dataclass(frozen=True, slots=True)
class Executed:
    """A block's effects, before anyone compares them with a header."""

    receipts: tuple[Receipt, ...]
    tx_root: Hash
    proof_commitment: bytes
    validators: ValidatorSet
    """V(h)."""
    following: ValidatorSet
    """V(h+1)."""
    state_root: Hash
    changes: Changes
    totals: Totals
    events: tuple[Event, ...]
    participants: tuple[Address, ...]
    """Whose commit signatures of the parent the block carries."""


def _value_is_kept(held: Held, block: BlockScope) -> bool:
    return held.total == block.emitted - block.burned


VALUE_CHECKS: Final[tuple[tuple[InvalidReason, Callable[[Held, BlockScope], bool]], ...]] = (
    (InvalidReason.CONSERVATION, _value_is_kept),
)
"""The last line: it fails only where a rule is wrong, and then no block that uses that rule enters the chain."""


class _Remembered:
    """A view whose answers are kept for the length of a block: a transfer's rows are read when it executes, and again
    when the block's value is summed up; from the store that costs microseconds each."""

    __slots__ = ("_rows", "_view")

    def __init__(self, view: StateView) -> None:
        self._view = view
        self._rows: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        rows = self._rows
        if key in rows:
            return rows[key]
        row = rows[key] = self._view.get(key)
        return row


class Execution:
    """One block, from the state before it. Raises `Refused` where the block cannot be."""

    def __init__(
        self,
        before: StateView,
        context: BlockContext,
        proposer: Address,
        created_in: View,
        timestamp_ms: int,
        certificate: Certificate | None,
    ) -> None:
        self.context = context
        view = _Remembered(before)
        self.parent = read_head(view)
        self.before = read_totals(view)
        height = Height(self.parent.height + 1)
        self.certificate = certificate
        self.signers: tuple[Address, ...] = ()
        """Whose commit signatures of the parent the block carries."""
        if certificate is not None:
            self.signers = certificate.signer_addresses(require_set(view, self.parent.height))
        self.receipts: list[Receipt] = []
        self.block = BlockScope(
            parent=view,
            state=Overlay(view),
            genesis_hash=context.genesis_hash,
            network=read_network(view),
            height=height,
            timestamp_ms=timestamp_ms,
            proposer=proposer,
            view=created_in,
            validators=require_set(view, height),
            verdicts=context.verdicts,
            check_proof=context.check_proof,
        )

    def begin(self) -> None:
        block = self.block
        mmr = read_mmr(block.state).append(self.context.parent_hash)
        block.state.put(MMR_KEY, mmr.encode())
        if self.certificate is not None:
            before = require_set(block.parent, self.parent.height)
            reward_parent(block, self.certificate, self.parent, before, self.before)
            if self.parent.bears_proofs:
                record_verdicts(block.state, self.parent.height, self.certificate.signers)

    def run(self, candidate: Candidate) -> Outcome:
        """Pays, registers the key, executes. A refusal leaves no trace: the builder goes on without the transaction."""
        block, body = self.block, candidate.body
        state, sender = block.state, body.sender
        reason = place_fault(candidate, state)
        if reason is not None:
            raise Refused(reason)
        account = candidate.account
        write_account(state, sender, account.balance - body.fee, account.nonce + 1)
        registers = candidate.known is None and candidate.key is not None and read_key(state, sender) is None
        if registers and candidate.key is not None:
            # Not over a key that an earlier transaction of this block rotated to.
            write_key(state, sender, candidate.key)
        minimum = candidate.minimum_fee
        call = Call(block, state.child(), sender, body.nonce, candidate.txid, minimum)
        try:
            outcome = RULES[type(body.kind)].execute(call, body.kind)
        except Refused:
            if account == NO_ACCOUNT:
                state.delete(ACCOUNT_PREFIX + sender)
            else:
                write_account(state, sender, account.balance, account.nonce)
            if registers:
                state.delete(KEY_PREFIX + sender)
            raise
        if outcome is Outcome.OK:
            call.keep()
        block.burned += minimum
        block.tips += body.fee - minimum
        self.receipts.append(Receipt(candidate.txid, outcome, body.fee))
        return outcome

    def finish(self) -> Executed:
        block, state = self.block, self.block.state
        credit(state, block.proposer, block.tips)
        hardness = difficulty_milli(block.accepted_cost, block.accepted_bytes)
        if block.network.engine is EngineKind.POW:
            reward_miner(block, hardness, self.before)
        record_block(state, block.proposer, self.signers, (e for e in block.events if isinstance(e, Reward)))
        self._settle_due()
        following = self._end_epoch()
        block.write_due()
        if block.network.engine is EngineKind.PBFT:
            self._write_schedule(following)
        number = self.parent.transactions + len(self.receipts)
        head = Head(block.height, block.timestamp_ms, hardness, bool(block.proof_entries), number)
        state.put(HEAD_KEY, head.encode())
        return self._sum_up(following)

    def _settle_due(self) -> None:
        block, state = self.block, self.block.state
        for item in read_due(state, Due.UNBONDING, block.height):
            _mature(state, Address(item), block.height)
        expire_statements(block)
        forget_statements(block)
        forget_commitments(block)
        for item in read_due(state, Due.PUNISHMENT, block.height):
            state.delete(PUNISHMENT_PREFIX + item)
        for what in Due:
            key = due_key(what, block.height)
            if state.get(key) is not None:
                state.delete(key)

    def _end_epoch(self) -> ValidatorSet:
        block = self.block
        if not ends_epoch(block.height, block.network.parameters):
            return block.validators
        end = end_epoch(block.state, block.network, block.height, block.validators)
        for address in end.postponed:
            block.due.setdefault((Due.UNBONDING, end.release), []).append(address)
        if end.following.hash != block.validators.hash:
            block.events.append(SetChanged(Height(block.height + 1), end.following.hash))
        return end.following

    def _write_schedule(self, following: ValidatorSet) -> None:
        block = self.block
        carried = None if self.certificate is None else self.certificate.view
        decided = Decided(block.view, block.proposer, carried)
        current = read_schedule(block.parent)
        schedule = next_schedule(current, block.validators, following, decided, block.network.parameters)
        block.state.put(SCHEDULE_KEY, schedule.encode())

    def _sum_up(self, following: ValidatorSet) -> Executed:
        block = self.block
        changed = block.state.changes()
        held = moved(block.parent, changed)
        for reason, holds in VALUE_CHECKS:
            if not holds(held, block):
                raise Refused(reason, f"held {held.total:+}, emitted {block.emitted}, burned {block.burned}")
        totals = following_totals(self.before, held, block.emitted, block.burned)
        changes = dict(sorted({**changed, TOTALS_KEY: totals.encode()}.items()))
        return Executed(
            receipts=tuple(self.receipts),
            tx_root=merkle_root([transaction_leaf(r.txid, r.outcome, r.fee) for r in self.receipts]),
            proof_commitment=proof_commitment(block.proof_entries),
            validators=block.validators,
            following=following,
            state_root=self.context.root_of(changes),
            changes=changes,
            totals=totals,
            events=tuple(block.events),
            participants=self.signers,
        )


def _mature(state: Overlay, address: Address, height: int) -> None:
    """Pays out what is due by now. A list may name somebody twice, or whose entries were put off: then nothing is."""
    entries = read_unbondings(state, address)
    due = sum(entry.amount for entry in entries if entry.release <= height)
    if any(entry.release <= height for entry in entries):
        kept: tuple[Unbonding, ...] = tuple(entry for entry in entries if entry.release > height)
        write_unbondings(state, address, kept)
        credit(state, address, due)
