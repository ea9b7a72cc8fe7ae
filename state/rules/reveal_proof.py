"""Reveal proof, the second step of a claim: the proof itself, checked by every validator before its PREPARE.

VALID closes the statement and pays. INVALID is a failed transaction: it pays for its checking and is recorded as what
it is; a block that claims it valid is an offence to PREPARE. LIMIT refuses the block: whoever proposed it let a proof
in that nobody can be asked to finish checking, and no verdict about it exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from state.accounts import credit
from state.errors import InvalidReason, Refused
from state.proofs import VERIFIERS, Limits, Verdict, VerificationResult, difficulty_milli
from state.rules.rule import Rule
from state.scope import Call, Due, StatementPaid
from state.statements import (
    Statement,
    Status,
    bytes_needed_until,
    close,
    delete_commitment,
    read_commitment,
    read_statement,
    read_statement_bytes,
    write_statement,
)
from state.view import StateView
from trellis.encoding import Writer, lp
from trellis.hashing import Tag, hash_tagged
from trellis.outcome import Outcome
from trellis.transaction import RevealProof
from trellis.types import Address, Hash


@dataclass(frozen=True, slots=True)
class ProofWork:
    """One proof to check, as a worker needs it."""

    verifier: str
    statement: bytes
    proof: bytes
    limits: Limits


def proof_entry(txid: Hash, kind: RevealProof, result: VerificationResult) -> bytes:
    """What proof_commitment commits of one proof: where it came from, its hash, and the verdict."""
    writer = Writer().hash(txid).hash(kind.statement_id).hash(hash_tagged(Tag.PROOF_ENTRY, lp(kind.proof)))
    return writer.u8(result.verdict).u16(result.code).u64(result.cost).done()


def _claimable(view: StateView, height: int, delay: int, sender: Address, kind: RevealProof) -> Outcome | Statement:
    record = read_statement(view, kind.statement_id)
    if record is None:
        return Outcome.STATEMENT_UNKNOWN
    if record.status is not Status.OPEN or record.verifier not in VERIFIERS:
        return Outcome.STATEMENT_CLOSED
    commitment = read_commitment(view, kind.statement_id, sender)
    if commitment is None or commitment.hash != kind.commitment(sender):
        return Outcome.COMMITMENT_UNKNOWN
    if height < commitment.height + delay:
        return Outcome.COMMITMENT_TOO_YOUNG
    return record


def proof_work(parent: StateView, height: int, delay: int, sender: Address, kind: RevealProof) -> ProofWork | None:
    """What executing this reveal will check, if nothing in its block comes before it: for workers to start early."""
    record = _claimable(parent, height, delay, sender, kind)
    content = read_statement_bytes(parent, kind.statement_id)
    if isinstance(record, Outcome) or content is None:
        return None
    return ProofWork(record.verifier, content, kind.proof, Limits(kind.cost_limit))


def _execute(call: Call, kind: RevealProof) -> Outcome:
    block, state = call.block, call.state
    parameters = block.network.parameters
    record = _claimable(state, block.height, parameters.proof_commit_blocks, call.sender, kind)
    if isinstance(record, Outcome):
        return record
    content = read_statement_bytes(state, kind.statement_id)
    if content is None:
        return Outcome.STATEMENT_UNKNOWN
    result = block.check_proof(record.verifier, content, kind.proof, Limits(kind.cost_limit))
    if result.verdict is Verdict.LIMIT:
        raise Refused(InvalidReason.PROOF_LIMIT, f"checking costs more than the declared {kind.cost_limit}")
    block.proof_entries.append(proof_entry(call.txid, kind, result))
    if result.verdict is Verdict.INVALID:
        return Outcome.PROOF_INVALID
    block.accepted_cost += result.cost
    block.accepted_bytes += len(kind.proof)
    hardness = difficulty_milli(result.cost, len(kind.proof))
    closed = close(record, Status.PROVEN, block.height, call.sender, hardness)
    write_statement(state, kind.statement_id, closed)
    delete_commitment(state, kind.statement_id, call.sender)
    credit(state, call.sender, record.escrow)
    until = bytes_needed_until(block.height, parameters.evidence_window_blocks)
    call.later(Due.STATEMENT_BYTES, until, kind.statement_id)
    call.events.append(StatementPaid(kind.statement_id, call.sender, record.escrow))
    return Outcome.OK


def _proof_cost(kind: RevealProof) -> int:
    return kind.cost_limit


REVEAL_PROOF: Final = Rule(RevealProof, _execute, proof_cost=_proof_cost)
