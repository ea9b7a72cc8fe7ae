"""Post statement: something to be proven, with a bounty in escrow until it is, or until it expires."""

from __future__ import annotations

from typing import Final

from state.accounts import debit
from state.proofs import STATEMENTS, VERIFIERS, Code
from state.rules.rule import Rule
from state.scope import Call, Due
from state.statements import (
    MAX_EXPIRIES_PER_HEIGHT,
    MAX_STATEMENT_LIFE_BLOCKS,
    Status,
    open_statement,
    read_statement,
    write_statement,
    write_statement_bytes,
)
from trellis.outcome import Outcome
from trellis.transaction import PostStatement
from trellis.types import Height


def _execute(call: Call, kind: PostStatement) -> Outcome:
    block, state = call.block, call.state
    verifier = STATEMENTS.get(kind.verifier)
    if verifier is None or kind.verifier not in block.network.verifiers:
        return Outcome.UNKNOWN_VERIFIER
    if not block.height < kind.expiry_height <= block.height + MAX_STATEMENT_LIFE_BLOCKS:
        return Outcome.EXPIRY_OUT_OF_RANGE
    expiry = kind.expiry_height
    if kind.verifier not in VERIFIERS:
        # Attested statements wait for validators, not for provers: they have k blocks, or what the poster asks if less.
        expiry = Height(min(expiry, block.height + block.network.parameters.attestation_expiry_blocks))
    if block.due_count(Due.STATEMENT, expiry) >= MAX_EXPIRIES_PER_HEIGHT:
        return Outcome.EXPIRY_OUT_OF_RANGE
    statement_id = kind.statement_id
    old = read_statement(state, statement_id)
    if old is not None and old.status is not Status.EXPIRED:
        return Outcome.STATEMENT_EXISTS
    if verifier.check_statement(kind.statement) is not Code.OK:
        return Outcome.STATEMENT_MALFORMED
    if not debit(state, call.sender, kind.bounty):
        return Outcome.INSUFFICIENT_FUNDS
    record = open_statement(kind.verifier, call.sender, kind.bounty, block.height, expiry)
    write_statement(state, statement_id, record)
    write_statement_bytes(state, statement_id, kind.statement)
    call.later(Due.STATEMENT, expiry, statement_id)
    return Outcome.OK


def _proof_cost(kind: PostStatement) -> int:
    """Reading a statement is work before PREPARE too, and each kind of statement takes its own time a byte."""
    statements = STATEMENTS.get(kind.verifier)
    return 0 if statements is None else statements.statement_cost(len(kind.statement))


POST_STATEMENT: Final = Rule(PostStatement, _execute, proof_cost=_proof_cost)
