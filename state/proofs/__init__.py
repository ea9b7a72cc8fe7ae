"""Proofs that validators re-check: which statements exist, which bytes prove them, and what checking costs.

`VERIFIERS` holds the checkers that run before a PREPARE: pure functions of (version, statement, proof, limits), so
that every validator reaches the same verdict at the same cost on any machine, now and in replay. `STATEMENTS` holds
every kind of statement that may be posted; it has one more member, `z3-attest.v1`, whose verdict comes from a solver
and therefore counts only as attested by quorum power in a later block. Nothing here starts a process or reads a clock:
that is `state.workers`.
"""

from state.proofs.difficulty import difficulty_milli
from state.proofs.registry import STATEMENTS, VERIFIERS
from state.proofs.verifier import (
    MAX_PROOF_BYTES,
    MAX_STATEMENT_BYTES,
    Code,
    Limits,
    ProofVerifier,
    StatementKind,
    Verdict,
    VerificationResult,
)

__all__ = [
    "MAX_PROOF_BYTES",
    "MAX_STATEMENT_BYTES",
    "STATEMENTS",
    "VERIFIERS",
    "Code",
    "Limits",
    "ProofVerifier",
    "StatementKind",
    "Verdict",
    "VerificationResult",
    "difficulty_milli",
]
