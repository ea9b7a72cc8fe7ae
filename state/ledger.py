"""The ledger as its host sees it: the committed chain, and the uncommitted blocks on top of it.

    ledger = Ledger(genesis, chain)                    # chain: state.store.chain.create_chain / load_chain
    claims = ledger.claims(block)                      # signatures to verify first, in one batch
    result = ledger.execute(block, verdicts)           # Applied | InvalidBlock | ParentUnknown; kept as a child
    built  = ledger.propose(proposal, pool, verdicts)  # a new block on top of any known one; kept as a child
    done   = ledger.commit(block.hash, certificate)    # durable when it returns; rivals are dropped

`execute` may be called again for the same block: the answer is remembered while the child lives. Blocks whose parent is
not known are the host's to keep: the ledger holds no orphans, because a bound on them needs to know who sent them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from state.chain import Head, Network, read_head, read_network, read_schedule
from state.claims import required_claims, required_proofs
from state.commitment.versions import CommittedState, SpeculativeState, StateVersion
from state.errors import InvalidBlock, InvalidReason, Refused
from state.events import encode_events
from state.execution import BlockContext, Execution, Receipt
from state.history import accepted_evidence, touched
from state.rules.reveal_proof import ProofWork
from state.scope import ClaimKey, ProofCheck, SignatureClaim, Verdicts, check_proof
from state.store.chain import BlockRecord
from state.store.rows import Tip, TxResult
from state.transactions import Candidate, terms_of, witness_fault
from state.transition import Applied, Built, Proposal, apply_block, build_block
from state.validator_sets import require_set
from state.view import Changes
from trellis.block import Block
from trellis.certificate import Certificate
from trellis.genesis import EngineKind, Genesis
from trellis.schedule import Schedule
from trellis.transaction import Transaction
from trellis.types import Hash, Height, View
from trellis.validators import ValidatorSet

MAX_CHILDREN: Final = 128
"""Uncommitted blocks that are kept: stops failing views, or endless forks under proof of work, from filling memory. The
oldest one without descendants goes first; its body is durable elsewhere, so it can be executed again."""


class CommittedChain(Protocol):
    """What the ledger needs of `state.store.chain.ChainStore`."""

    @property
    def tip(self) -> Tip: ...

    @property
    def state(self) -> CommittedState: ...

    def commit(self, version: SpeculativeState, record: BlockRecord) -> Tip: ...

    def rollback(self, blocks: int = 1, consensus: bytes | None = None) -> Tip: ...


@dataclass(frozen=True, slots=True)
class ParentUnknown:
    """The block may be fine: its parent is neither the head nor an uncommitted child."""

    parent_hash: Hash


@dataclass(frozen=True, slots=True)
class HeightFacts:
    """What consensus needs to start a height: all of it read from the state after the block before."""

    height: Height
    parent_hash: Hash
    parent_timestamp_ms: int
    validators: ValidatorSet
    """V(height)."""
    schedule: Schedule
    network: Network


@dataclass(frozen=True, slots=True)
class Committed:
    """What a commit changed: for the pool, for subscribers, for metrics."""

    applied: Applied
    tip: Tip
    dropped: tuple[Hash, ...]
    """Uncommitted rivals that can never be committed any more."""


@dataclass(frozen=True, slots=True)
class _Child:
    applied: Applied
    version: SpeculativeState
    parent: Hash


class Ledger:
    """One chain. Not for use by several threads; `state.store` gives readers their own views."""

    def __init__(
        self,
        genesis: Genesis,
        chain: CommittedChain,
        *,
        check: ProofCheck = check_proof,
        checkpoints: Mapping[int, Hash] | None = None,
    ) -> None:
        """`checkpoints`: blocks that the operator trusts, by height. A history that contradicts one is refused, however
        well stolen old keys have certified it."""
        self.genesis = genesis
        self._chain = chain
        self._check_proof = check
        self._checkpoints = dict(checkpoints or {})
        self._children: dict[Hash, _Child] = {}
        """In the order of their execution."""

    @property
    def tip(self) -> Tip:
        """The last committed block."""
        return self._chain.tip

    @property
    def head(self) -> Head:
        return read_head(self._chain.state)

    @property
    def state(self) -> CommittedState:
        return self._chain.state

    @property
    def children(self) -> tuple[Hash, ...]:
        return tuple(self._children)

    def applied(self, block_hash: Hash) -> Applied | None:
        """An uncommitted block that was found valid."""
        child = self._children.get(block_hash)
        return None if child is None else child.applied

    def state_after(self, block_hash: Hash) -> StateVersion | None:
        """Of the head or of an uncommitted block."""
        if block_hash == self._chain.tip.block_hash:
            return self._chain.state
        child = self._children.get(block_hash)
        return None if child is None else child.version

    def facts_after(self, block_hash: Hash) -> HeightFacts | None:
        """For the height that follows the head or an uncommitted block."""
        view = self.state_after(block_hash)
        if view is None:
            return None
        parent = read_head(view)
        height = Height(parent.height + 1)
        validators = require_set(view, height)
        return HeightFacts(height, block_hash, parent.timestamp_ms, validators, read_schedule(view), read_network(view))

    def claims(self, block: Block, known: Callable[[ClaimKey], bool] = lambda key: False) -> tuple[SignatureClaim, ...]:
        """Signatures that `execute` will ask about, but for most of those `known` to be valid; none where the parent is
        unknown."""
        view = self.state_after(block.header.parent_hash)
        return () if view is None else required_claims(view, self.genesis.hash, block, known)

    def proofs(self, block: Block) -> tuple[ProofWork, ...]:
        """Proofs that `execute` will check, for workers to check first."""
        view = self.state_after(block.header.parent_hash)
        return () if view is None else required_proofs(view, block)

    def execute(self, block: Block, verdicts: Verdicts) -> Applied | InvalidBlock | ParentUnknown:
        known = self._children.get(block.hash)
        if known is not None and known.applied.block == block:
            return known.applied
        header = block.header
        trusted = self._checkpoints.get(header.height)
        if trusted is not None and trusted != block.hash:
            return InvalidBlock(InvalidReason.CHECKPOINT, f"height {header.height} is checkpointed")
        tip = self._chain.tip
        if header.height <= tip.height:
            return InvalidBlock(InvalidReason.BELOW_FINAL, f"height {header.height}, final up to {tip.height}")
        view = self.state_after(header.parent_hash)
        if view is None:
            return ParentUnknown(header.parent_hash)
        kept: list[SpeculativeState] = []
        result = apply_block(view, block, self._context(view, header.parent_hash, verdicts, kept))
        if isinstance(result, Applied):
            self._keep(result, kept[-1])
        return result

    def propose(
        self, proposal: Proposal, offered: Iterable[Transaction], verdicts: Verdicts, parent: Hash | None = None
    ) -> Built:
        """A block on the head, or on an uncommitted block. Under proof of work it still lacks its seal."""
        parent_hash = self._chain.tip.block_hash if parent is None else parent
        view = self.state_after(parent_hash)
        if view is None:
            raise ValueError("cannot propose on a block that is neither the head nor known")
        kept: list[SpeculativeState] = []
        built = build_block(view, proposal, offered, self._context(view, parent_hash, verdicts, kept))
        if self.genesis.engine is EngineKind.PBFT:
            self._keep(built.applied, kept[-1])
        return built

    def simulate(self, transaction: Transaction, verdicts: Verdicts) -> Receipt | InvalidReason:
        """What would become of a transaction in the next block, alone. Changes nothing."""
        view = self._chain.state
        facts = self.facts_after(self._chain.tip.block_hash)
        if facts is None:
            raise ValueError("the head has no state")
        context = self._context(view, facts.parent_hash, verdicts, [])
        candidate = Candidate(transaction, view, terms_of(facts.network, self.genesis.hash, facts.height))
        fault = witness_fault(candidate, verdicts)
        if fault is not None:
            return fault
        leader = facts.schedule.leader
        execution = Execution(view, context, leader, View(0), facts.parent_timestamp_ms + 1, None)
        execution.begin()
        try:
            execution.run(candidate)
        except Refused as refused:
            return refused.reason
        return execution.receipts[0]

    def commit(self, block_hash: Hash, certificate: Certificate | None, consensus: bytes | None = None) -> Committed:
        """The block must be a child of the head. Durable when this returns, together with `consensus`."""
        child = self._children.get(block_hash)
        if child is None or child.parent != self._chain.tip.block_hash:
            raise ValueError("only an executed block on top of the head can be committed")
        block, executed = child.applied.block, child.applied.executed
        record = BlockRecord(
            header=block.header,
            block_bytes=block.encode(),
            results=tuple(TxResult(r.txid, r.outcome, r.fee) for r in executed.receipts),
            touched=touched(block.transactions),
            certificate=b"" if certificate is None else certificate.encode(),
            events=encode_events(executed.events),
            evidence=accepted_evidence(child.applied),
            consensus=consensus,
        )
        tip = self._chain.commit(child.version, record)
        return Committed(child.applied, tip, self._drop_rivals(block_hash))

    def rollback(self, blocks: int = 1, consensus: bytes | None = None) -> Tip:
        """Undoes committed blocks, for engines that reorganise and for operators; every child is dropped."""
        self._children.clear()
        return self._chain.rollback(blocks, consensus)

    def drop(self, block_hash: Hash) -> None:
        """Forgets an uncommitted block and everything on top of it. Dropping what is not there changes nothing."""
        doomed = [block_hash]
        for child_hash, child in self._children.items():
            if child.parent in doomed:
                doomed.append(child_hash)
        for gone in doomed:
            self._children.pop(gone, None)

    def _context(
        self, view: StateVersion, parent_hash: Hash, verdicts: Verdicts, kept: list[SpeculativeState]
    ) -> BlockContext:
        def root_of(changes: Changes) -> Hash:
            version = view.extend(changes)
            kept.append(version)
            return version.root

        return BlockContext(self.genesis.hash, parent_hash, verdicts, root_of, self._check_proof)

    def _keep(self, applied: Applied, version: SpeculativeState) -> None:
        parent = applied.block.header.parent_hash
        self._children[applied.block.hash] = _Child(applied, version, parent)
        if len(self._children) > MAX_CHILDREN:
            parents = {child.parent for child in self._children.values()}
            for candidate in self._children:
                if candidate not in parents and candidate != applied.block.hash:
                    del self._children[candidate]
                    break

    def _drop_rivals(self, committed: Hash) -> tuple[Hash, ...]:
        del self._children[committed]
        alive = {committed}
        for child_hash, child in self._children.items():
            if child.parent in alive:
                alive.add(child_hash)
        dropped = tuple(child_hash for child_hash in self._children if child_hash not in alive)
        for gone in dropped:
            del self._children[gone]
        return dropped
