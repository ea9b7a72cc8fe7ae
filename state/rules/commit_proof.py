"""Commit proof, the first step of a claim: the hash of a proof that nobody has seen, bound to its sender.

A later commitment of the same sender replaces the former and starts its delay anew. Another sender's commitment is
another row: whoever copies a revealed proof has committed to nothing yet, and comes too late.
"""

from __future__ import annotations

from typing import Final

from state.proofs import VERIFIERS
from state.rules.rule import Rule
from state.scope import Call, Due
from state.statements import (
    COMMITMENT_LIFE_BLOCKS,
    Commitment,
    Status,
    read_commitment,
    read_statement,
    write_commitment,
)
from trellis.outcome import Outcome
from trellis.transaction import CommitProof


def _execute(call: Call, kind: CommitProof) -> Outcome:
    record = read_statement(call.state, kind.statement_id)
    if record is None:
        return Outcome.STATEMENT_UNKNOWN
    if record.status is not Status.OPEN or record.verifier not in VERIFIERS:
        return Outcome.STATEMENT_CLOSED
    old = read_commitment(call.state, kind.statement_id, call.sender)
    if old is not None and old.hash == kind.commitment:
        return Outcome.COMMITMENT_EXISTS
    height = call.block.height
    write_commitment(call.state, kind.statement_id, call.sender, Commitment(kind.commitment, height))
    call.later(Due.COMMITMENT, height + COMMITMENT_LIFE_BLOCKS, kind.statement_id + call.sender)
    return Outcome.OK


COMMIT_PROOF: Final = Rule(CommitProof, _execute)
