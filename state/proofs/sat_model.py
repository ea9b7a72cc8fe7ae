"""`sat-model.v1`: a CNF formula is satisfiable, shown by a model.

The proof is one line, `v <literal>… 0\\n`: literals in ascending order of variable, single spaces, canonical numbers.
The model may be partial: it holds if every clause has a literal in it. Variables that the formula does not name are
refused, so that a model carries nothing but itself.
Cost: one a byte of statement and proof, one a literal of the formula, `LINE_COST` a clause.
"""

from __future__ import annotations

from typing import Final

from state.proofs.cnf import LiteralTable, cnf_statement_code, cnf_statement_cost, read_statement
from state.proofs.verifier import Code, Limits, Meter, Refused, VerificationResult, run_check


class SatModel:
    """The verifier `sat-model.v1`."""

    name: Final = "sat-model.v1"
    version: Final = 1

    def check_statement(self, statement: bytes) -> Code:
        return cnf_statement_code(statement)

    def statement_cost(self, size_bytes: int) -> int:
        return cnf_statement_cost(size_bytes)

    def verify(self, statement: bytes, proof: bytes, limits: Limits) -> VerificationResult:
        return run_check(_satisfies, statement, proof, limits)


def _satisfies(statement: bytes, proof: bytes, meter: Meter) -> None:
    clauses = read_statement(statement, meter)
    named = {abs(literal) for clause in clauses for literal in clause}
    model = _parse_model(proof)
    if not model.keys() <= named:
        raise Refused(Code.PROOF_LITERAL)
    true = set(model.values())
    for clause in clauses:
        if true.isdisjoint(clause):
            raise Refused(Code.CLAUSE_NOT_SATISFIED)


def _parse_model(proof: bytes) -> dict[int, int]:
    """Variable → literal."""
    if not proof.startswith(b"v ") or not proof.endswith(b" 0\n"):
        raise Refused(Code.PROOF_FORM)
    literal_of = LiteralTable(Code.PROOF_LITERAL).__getitem__
    model: dict[int, int] = {}
    before = 0
    for literal in map(literal_of, proof[2:-3].split(b" ")):
        variable = abs(literal)
        if variable <= before:
            raise Refused(Code.PROOF_LITERAL)
        model[variable] = literal
        before = variable
    return model


SAT_MODEL: Final = SatModel()
