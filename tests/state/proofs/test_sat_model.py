"""`sat-model.v1`: a model shows that a formula is satisfiable."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.proofs import VERIFIERS, Code, Limits, Verdict
from tests.state.proofs.honest_prover import Clauses, cnf_bytes

SAT_MODEL = VERIFIERS["sat-model.v1"]
FORMULA = b"p cnf 3 2\n1 -3 0\n2 3 0\n"

CASES = [
    ("a whole model", b"v 1 2 -3 0\n", Code.OK),
    ("a partial model", b"v 1 2 0\n", Code.OK),
    ("a model that leaves a clause", b"v 1 0\n", Code.CLAUSE_NOT_SATISFIED),
    ("a model of something else", b"v -1 -2 3 0\n", Code.CLAUSE_NOT_SATISFIED),
    ("nothing", b"", Code.PROOF_FORM),
    ("an empty model", b"v 0\n", Code.PROOF_LITERAL),
    ("no v", b"1 2 -3 0\n", Code.PROOF_FORM),
    ("no zero", b"v 1 2 -3\n", Code.PROOF_FORM),
    ("no line end", b"v 1 2 -3 0", Code.PROOF_FORM),
    ("CRLF", b"v 1 2 -3 0\r\n", Code.PROOF_FORM),
    ("two lines", b"v 1 2 0\nv -3 0\n", Code.PROOF_LITERAL),
    ("a status line first", b"s SATISFIABLE\nv 1 2 -3 0\n", Code.PROOF_FORM),
    ("two zeros", b"v 1 2 -3 0 0\n", Code.PROOF_LITERAL),
    ("two spaces", b"v 1  2 -3 0\n", Code.PROOF_LITERAL),
    ("both signs of a variable", b"v 1 -1 2 0\n", Code.PROOF_LITERAL),
    ("a repeated literal", b"v 1 1 2 0\n", Code.PROOF_LITERAL),
    ("literals out of order", b"v 2 1 0\n", Code.PROOF_LITERAL),
    ("a variable of nobody", b"v 1 2 4 0\n", Code.PROOF_LITERAL),
    ("a plus sign", b"v +1 2 0\n", Code.PROOF_LITERAL),
    ("an underscore", b"v 1 2_0 0\n", Code.PROOF_LITERAL),
    ("a leading zero", b"v 01 2 0\n", Code.PROOF_LITERAL),
    ("other digits", "v 1 ٢ 0\n".encode(), Code.PROOF_LITERAL),
    ("a NUL", b"v 1 2\x00 0\n", Code.PROOF_LITERAL),
    ("a huge number", b"v " + b"9" * 100_000 + b" 0\n", Code.PROOF_LITERAL),
]


@pytest.mark.parametrize(("proof", "code"), [row[1:] for row in CASES], ids=[row[0] for row in CASES])
def test_a_model_gets_its_verdict_and_reason(proof: bytes, code: Code) -> None:
    result = SAT_MODEL.verify(FORMULA, proof, Limits(10**6))
    assert (result.verdict, result.code) == (Verdict.VALID if code is Code.OK else Verdict.INVALID, code)


def test_the_limit_on_cost_is_exact() -> None:
    model = b"v 1 2 0\n"
    cost = len(FORMULA) + len(model) + 4 + 2 * 8
    assert SAT_MODEL.verify(FORMULA, model, Limits(cost)).cost == cost
    assert SAT_MODEL.verify(FORMULA, model, Limits(cost - 1)).code is Code.COST_EXCEEDED


@st.composite
def small_formulas(draw: st.DrawFn) -> Clauses:
    variables = draw(st.integers(1, 5))
    sizes = draw(st.lists(st.integers(1, min(3, variables)), min_size=1, max_size=12))
    return [
        [
            variable if draw(st.booleans()) else -variable
            for variable in sorted(draw(st.sets(st.integers(1, variables), min_size=size, max_size=size)))
        ]
        for size in sizes
    ]


@given(small_formulas())
@settings(max_examples=150, deadline=None)
def test_the_verdict_on_every_assignment_is_what_the_truth_table_says(formula: Clauses) -> None:
    statement = cnf_bytes(formula)
    variables = sorted({abs(lit) for clause in formula for lit in clause})
    for signs in itertools.product((0, 1, -1), repeat=len(variables)):
        chosen = {variable * sign for variable, sign in zip(variables, signs, strict=True) if sign}
        if not chosen:
            continue
        proof = b"v %s 0\n" % b" ".join(b"%d" % lit for lit in sorted(chosen, key=abs))
        # A partial assignment shows satisfiability if and only if each of its completions is a model.
        total = itertools.product((1, -1), repeat=len(variables))
        completions = [
            {v * s for v, s in zip(variables, values, strict=True)}
            for values in total
            if all(v * s in chosen or -v * s not in chosen for v, s in zip(variables, values, strict=True))
        ]
        models = all(all(any(lit in full for lit in clause) for clause in formula) for full in completions)
        assert (SAT_MODEL.verify(statement, proof, Limits(10**6)).verdict is Verdict.VALID) == models


@given(st.binary(max_size=60), st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_no_bytes_make_a_verifier_raise(statement: bytes, proof: bytes) -> None:
    for verifier in VERIFIERS.values():
        for text in (statement, FORMULA):
            result = verifier.verify(text, proof, Limits(10**6))
            assert (result.verdict is Verdict.VALID) == (result.code is Code.OK)
