"""The verifiers by name: adding one touches its own module and this table."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from state.proofs.lrat import LRAT
from state.proofs.sat_model import SAT_MODEL
from state.proofs.smt_gate import Z3_ATTEST
from state.proofs.verifier import ProofVerifier, StatementKind

VERIFIERS: Final[Mapping[str, ProofVerifier]] = MappingProxyType({LRAT.name: LRAT, SAT_MODEL.name: SAT_MODEL})
"""Checked before PREPARE. Every version that a chain used stays here for its evidence window."""

STATEMENTS: Final[Mapping[str, StatementKind]] = MappingProxyType({**VERIFIERS, Z3_ATTEST.name: Z3_ATTEST})
"""May be posted."""
