"""`lrat.v1`, step by step."""

from __future__ import annotations

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.proofs import VERIFIERS, Code, Limits, Verdict, VerificationResult
from tests.state.proofs.honest_prover import (
    Clauses,
    cnf_bytes,
    lrat_proof,
    pigeonhole,
    pigeonhole_by_extension,
    satisfiable,
)

LRAT = VERIFIERS["lrat.v1"]
UNLIMITED = Limits(cost=10**12)

# 1: a ∨ b, 2: a ∨ ¬b, 3: ¬a ∨ c, 4: ¬a ∨ ¬c. Unsatisfiable; no three of them are.
SQUARE = b"p cnf 3 4\n1 2 0\n1 -2 0\n-1 3 0\n-1 -3 0\n"
REFUTATION = b"5 1 0 1 2 0\n6 0 5 3 4 0\n"


def verify(statement: bytes, proof: bytes, limits: Limits = UNLIMITED) -> VerificationResult:
    return LRAT.verify(statement, proof, limits)


ACCEPTED = [
    ("a refutation", REFUTATION),
    ("ids with gaps", b"50 1 0 1 2 0\n600 0 50 3 4 0\n"),
    ("a deletion of what is not needed any more", b"5 1 0 1 2 0\n5 d 1 2 0\n6 0 5 3 4 0\n"),
    ("a deletion of nothing", b"4 d 0\n" + REFUTATION),
    ("a deletion before any addition", b"0 d 0\n" + REFUTATION),
    ("hints after the conflict", b"5 1 0 1 2 3 4 0\n6 0 5 3 4 1 0\n"),
    ("a hint that is satisfied already", b"5 1 0 1 1 2 0\n6 0 5 3 3 4 0\n"),
    ("a tautology on the way", b"5 1 -1 0 1 2 0\n6 1 0 1 2 0\n7 0 6 3 4 0\n"),
    ("a definition of a new variable", b"5 9 0 0\n6 1 0 1 2 0\n7 0 6 3 4 0\n"),
    (
        "a definition x = a and c, its resolvents tautologies, unlisted",
        b"5 9 -1 -3 0 0\n6 -9 1 0 0\n7 -9 3 0 0\n8 1 0 1 2 0\n9 0 8 3 4 0\n",
    ),
    (
        "the same definition, its candidates listed without hints",
        b"5 9 -1 -3 0 0\n6 -9 1 0 -5 0\n7 -9 3 0 -5 0\n8 1 0 1 2 0\n9 0 8 3 4 0\n",
    ),
    ("a RAT step whose candidates have hints", b"5 1 0 -3 1 2 -4 1 2 0\n6 0 5 3 4 0\n"),
]

REFUSED = [
    ("nothing", b"", Code.NO_EMPTY_CLAUSE),
    ("an empty line", b"\n", Code.PROOF_FORM),
    ("no line end", REFUTATION[:-1], Code.PROOF_FORM),
    ("no empty clause", b"5 1 0 1 2 0\n", Code.NO_EMPTY_CLAUSE),
    ("a line after the empty clause", REFUTATION + b"7 1 0 1 2 0\n", Code.TRAILING_BYTES),
    ("a deletion after the empty clause", REFUTATION + b"6 d 5 0\n", Code.TRAILING_BYTES),
    ("an empty line after the empty clause", REFUTATION + b"\n", Code.TRAILING_BYTES),
    ("CRLF", REFUTATION.replace(b"\n", b"\r\n"), Code.PROOF_FORM),
    ("a NUL", REFUTATION.replace(b"5 1", b"5\x001"), Code.PROOF_FORM),
    ("tabs", REFUTATION.replace(b" ", b"\t"), Code.PROOF_FORM),
    ("two spaces", b"5  1 0 1 2 0\n6 0 5 3 4 0\n", Code.PROOF_LITERAL),
    ("two spaces among the hints", b"5 1 0 1  2 0\n6 0 5 3 4 0\n", Code.CLAUSE_UNKNOWN),
    ("a space before the line end", b"5 1 0 1 2 0 \n6 0 5 3 4 0\n", Code.PROOF_FORM),
    ("a comment", b"c\n" + REFUTATION, Code.PROOF_FORM),
    ("a long comment", b"c hello there 0\n" + REFUTATION, Code.PROOF_FORM),
    ("one zero only", b"5 1 0\n6 0 5 3 4 0\n", Code.PROOF_FORM),
    ("a line that ends in ten", b"5 1 0 1 2 10\n6 0 5 3 4 0\n", Code.PROOF_FORM),
    ("no zero after the literals", b"5 1 1 2\n", Code.PROOF_FORM),
    ("three zeros", b"5 1 0 1 2 0 0\n6 0 5 3 4 0\n", Code.CLAUSE_UNKNOWN),
    ("an id with a leading zero", b"05 1 0 1 2 0\n6 0 5 3 4 0\n", Code.PROOF_FORM),
    ("an id with a plus sign", b"+5 1 0 1 2 0\n6 0 5 3 4 0\n", Code.PROOF_FORM),
    ("a negative id", b"-5 1 0 1 2 0\n6 0 5 3 4 0\n", Code.PROOF_FORM),
    ("an id with an underscore", b"5_0 1 0 1 2 0\n60 0 5_0 3 4 0\n", Code.PROOF_FORM),
    ("an id in Arabic-Indic digits", "٥ 1 0 1 2 0\n6 0 5 3 4 0\n".encode(), Code.PROOF_FORM),
    ("an id of ten digits", b"1000000000 1 0 1 2 0\n", Code.PROOF_FORM),
    ("an id of a million digits", b"9" * 1_000_000 + b" 1 0 1 2 0\n", Code.PROOF_FORM),
    ("an id that does not rise", b"4 1 0 1 2 0\n", Code.CLAUSE_ORDER),
    ("an id that repeats", b"5 1 0 1 2 0\n5 0 5 3 4 0\n", Code.CLAUSE_ORDER),
    ("a literal with a plus sign", b"5 +1 0 1 2 0\n6 0 5 3 4 0\n", Code.PROOF_LITERAL),
    ("a literal with an underscore", b"5 1_0 0 1 2 0\n6 0 5 3 4 0\n", Code.PROOF_LITERAL),
    ("minus zero as a literal", b"5 1 -0 0 1 2 0\n", Code.PROOF_LITERAL),
    ("a literal of eight digits", b"5 10000000 0 1 2 0\n", Code.PROOF_LITERAL),
    ("a repeated literal", b"5 1 1 0 1 2 0\n", Code.PROOF_LITERAL),
    ("d as a literal", b"5 1 d 0 1 2 0\n", Code.PROOF_LITERAL),
    ("a hint that never was", b"5 1 0 1 9 0\n", Code.CLAUSE_UNKNOWN),
    ("a hint that comes later", b"5 1 0 1 6 0\n6 0 5 3 4 0\n", Code.CLAUSE_UNKNOWN),
    ("a hint at itself", b"5 1 0 5 0\n", Code.CLAUSE_UNKNOWN),
    ("a hint with a leading zero", b"5 1 0 01 2 0\n", Code.CLAUSE_UNKNOWN),
    ("a hint with a plus sign", b"5 1 0 +1 2 0\n", Code.CLAUSE_UNKNOWN),
    ("a hint that was deleted", b"5 1 0 1 2 0\n5 d 3 0\n6 0 5 3 4 0\n", Code.CLAUSE_UNKNOWN),
    ("an unknown hint after the conflict", b"5 1 0 1 2 9 0\n6 0 5 3 4 0\n", Code.CLAUSE_UNKNOWN),
    ("a hint that is not unit", b"5 3 0 1 2 0\n", Code.HINT_NOT_UNIT),
    ("no hints", b"5 1 0 0\n6 0 5 3 4 0\n", Code.NO_CONFLICT),
    ("hints without a conflict", b"5 1 0 1 0\n6 0 5 3 4 0\n", Code.NO_CONFLICT),
    ("the empty clause without a conflict", b"5 1 0 1 2 0\n6 0 5 3 0\n", Code.NO_CONFLICT),
    ("the empty clause by RAT", b"5 0 -1 0\n", Code.NO_CONFLICT),
    ("a deletion of nothing that lives", b"4 d 9 0\n" + REFUTATION, Code.CLAUSE_UNKNOWN),
    ("a deletion twice", b"4 d 4 4 0\n" + REFUTATION, Code.CLAUSE_UNKNOWN),
    ("a deletion by an odd name", b"4 d 04 0\n" + REFUTATION, Code.CLAUSE_UNKNOWN),
    ("a deletion with an odd number before it", b"+4 d 4 0\n" + REFUTATION, Code.PROOF_FORM),
    ("a deletion without a closing zero", b"4 d 4\n" + REFUTATION, Code.PROOF_FORM),
    ("a RAT step with one candidate of two", b"5 1 0 -3 1 2 0\n6 0 5 3 4 0\n", Code.RAT_CANDIDATE),
    ("a RAT candidate with another literal than the pivot's", b"5 -3 0 -4 0\n", Code.RAT_CANDIDATE),
    ("a RAT candidate without the pivot", b"5 1 0 -1 0\n", Code.RAT_CANDIDATE),
    ("a RAT candidate too many", b"5 1 0 -1 -3 1 2 -4 1 2 0\n", Code.RAT_CANDIDATE),
    (
        "a RAT step that is right once a candidate is deleted",
        b"5 9 0 0\n5 d 4 0\n6 1 0 -3 1 2 0\n",
        Code.NO_EMPTY_CLAUSE,
    ),
    ("a RAT candidate twice", b"5 1 0 -3 1 2 -3 1 2 -4 1 2 0\n", Code.RAT_CANDIDATE),
    ("a RAT candidate whose hints do not conflict", b"5 -2 0 -1 1 0\n", Code.NO_CONFLICT),
    ("a RAT candidate whose hint is not unit", b"5 1 0 -3 4 -4 1 2 0\n", Code.HINT_NOT_UNIT),
    ("a RAT candidate that was deleted", b"4 d 3 0\n5 1 0 -3 1 2 -4 1 2 0\n", Code.CLAUSE_UNKNOWN),
    ("a RAT candidate that never was", b"5 1 0 -9 0\n", Code.CLAUSE_UNKNOWN),
    ("a RAT mark alone", b"5 1 0 - 0\n", Code.CLAUSE_UNKNOWN),
    ("two RAT marks", b"5 1 0 --3 0\n", Code.CLAUSE_UNKNOWN),
    ("binary LRAT", b"a\x0a\x02\x00\x02\x04\x00", Code.PROOF_FORM),
]


@pytest.mark.parametrize("proof", [row[1] for row in ACCEPTED], ids=[row[0] for row in ACCEPTED])
def test_a_proof_is_accepted(proof: bytes) -> None:
    result = verify(SQUARE, proof)
    assert (result.verdict, result.code) == (Verdict.VALID, Code.OK)


@pytest.mark.parametrize(("proof", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_proof_is_refused_with_its_reason(proof: bytes, code: Code) -> None:
    result = verify(SQUARE, proof)
    assert (result.verdict, result.code) == (Verdict.INVALID, code)


def test_cost_counts_bytes_lines_and_literals() -> None:
    reading = len(SQUARE) + len(REFUTATION) + 4 * 8 + 8  # bytes, four lines, eight literals
    # Line 5: itself, one literal added, hints of 2 + 2. Line 6: itself, hints of 1 + 2 + 2.
    assert verify(SQUARE, REFUTATION).cost == reading + (8 + 4 + 4) + (8 + 5)
    # A deletion costs its bytes, its line and its ids.
    deletion = b"5 d 1 2 0\n"
    deleting = REFUTATION.replace(b"6 0", deletion + b"6 0")
    assert verify(SQUARE, deleting).cost == verify(SQUARE, REFUTATION).cost + len(deletion) + 8 + 2
    # A definition: its line, its literal, and a RAT step over no candidates, before which 8 literals are indexed.
    definition = b"5 9 0 0\n"
    defining = definition + b"6 1 0 1 2 0\n7 0 6 3 4 0\n"
    assert verify(SQUARE, defining).cost == verify(SQUARE, REFUTATION).cost + len(definition) + 8 + 4 + 24 + 8
    # A RAT step: its line and literal; the step, 8 literals indexed, two found; each candidate is named (8, and
    # hints of 2 + 2) and looked at (8, its 2 literals, 1 assumed).
    step = b"5 1 0 -3 1 2 -4 1 2 0\n"
    by_rat = verify(SQUARE, step + REFUTATION.splitlines()[1] + b"\n").cost
    first_line = REFUTATION.splitlines(keepends=True)[0]
    rup_step = len(first_line) + 8 + 4 + 4
    rat_step = len(step) + 8 + 4 + (24 + 8 + 2) + 2 * (8 + 2 + 2) + 2 * (8 + 2 + 1)
    assert by_rat - verify(SQUARE, REFUTATION).cost == rat_step - rup_step


def test_sizes_are_limits_and_come_before_everything_else() -> None:
    small = Limits(cost=10**9, proof_bytes=len(REFUTATION), statement_bytes=len(SQUARE))
    assert verify(SQUARE, REFUTATION, small).verdict is Verdict.VALID
    too_long = verify(SQUARE, REFUTATION + b"x", small)
    assert too_long == VerificationResult(Verdict.LIMIT, 0, Code.PROOF_TOO_LARGE)
    assert verify(SQUARE + b"x", b"", small) == VerificationResult(Verdict.LIMIT, 0, Code.STATEMENT_TOO_LARGE)
    assert verify(b"x" * ((1 << 20) + 1), b"", UNLIMITED).code is Code.STATEMENT_TOO_LARGE
    assert verify(SQUARE, b"x" * ((1 << 20) + 1), UNLIMITED).code is Code.PROOF_TOO_LARGE


def test_a_bad_statement_makes_every_proof_invalid() -> None:
    assert verify(SQUARE[:-1], REFUTATION).code is Code.STATEMENT_CLAUSE


def test_limits_that_cannot_be_are_refused_as_misuse() -> None:
    with pytest.raises(ValueError, match="negative"):
        Limits(cost=-1)
    with pytest.raises(ValueError, match="at most"):
        Limits(cost=2**64)


@pytest.mark.parametrize("solver", ["cadical103", "cadical153", "cadical195", "glucose4", "lingeling"])
@pytest.mark.parametrize("holes", [2, 3, 4, 5])
def test_a_solvers_refutation_of_the_pigeonhole_principle_is_accepted(holes: int, solver: str) -> None:
    formula = pigeonhole(holes)
    proof = lrat_proof(formula, solver)
    assert proof is not None
    assert verify(cnf_bytes(formula), proof).verdict is Verdict.VALID


@pytest.mark.parametrize("holes", [2, 5, 9])
def test_a_refutation_by_extension_variables_is_accepted(holes: int) -> None:
    assert verify(cnf_bytes(pigeonhole(holes)), pigeonhole_by_extension(holes)).verdict is Verdict.VALID


def random_formula(draw: st.DrawFn, variables: int, clauses: int, width: int) -> Clauses:
    return [
        [
            variable if draw(st.booleans()) else -variable
            for variable in sorted(draw(st.sets(st.integers(1, variables), min_size=width, max_size=width)))
        ]
        for _ in range(clauses)
    ]


@st.composite
def formulas(draw: st.DrawFn) -> Clauses:
    variables = draw(st.integers(4, 9))
    return random_formula(draw, variables, draw(st.integers(6, 9)) * variables, 3)


@given(formulas(), st.sampled_from(["cadical195", "glucose4"]))
@settings(max_examples=120, deadline=None)
def test_proof_verification_completeness(formula: Clauses, solver: str) -> None:
    """Every honest proof is accepted, within exactly the cost that it reports, and not within less."""
    statement, proof = cnf_bytes(formula), lrat_proof(formula, solver)
    if proof is None:
        assert satisfiable(formula)
        return
    result = verify(statement, proof)
    assert result.verdict is Verdict.VALID
    assert verify(statement, proof, Limits(result.cost)) == result
    short = verify(statement, proof, Limits(result.cost - 1))
    assert (short.verdict, short.code) == (Verdict.LIMIT, Code.COST_EXCEEDED)


def holds(formula: Clauses, assignment: dict[int, bool]) -> bool:
    return all(any(assignment[abs(lit)] == (lit > 0) for lit in clause) for clause in formula)


def brute_force_satisfiable(formula: Clauses) -> bool:
    variables = sorted({abs(lit) for clause in formula for lit in clause})
    values = itertools.product((False, True), repeat=len(variables))
    return any(holds(formula, dict(zip(variables, value, strict=True))) for value in values)


def random_step(rng: random.Random) -> tuple[Clauses, list[int], bytes]:
    """A small formula and one step over it: RUP hints and RAT candidates that are often right and often not."""

    def clause(variables: int, size: int) -> list[int]:
        return [variable * rng.choice((1, -1)) for variable in sorted(rng.sample(range(1, variables + 1), size))]

    def some_ids() -> list[int]:
        return [rng.randint(1, len(formula)) for _ in range(rng.randrange(3))]

    variables = rng.randint(2, 4)
    formula = [clause(variables, rng.randint(1, min(3, variables))) for _ in range(rng.randint(2, 8))]
    lemma = clause(variables + 1, rng.randint(1, min(3, variables)))
    rng.shuffle(lemma)
    hints = some_ids()
    for place, other in enumerate(formula, 1):
        listed = -lemma[0] in other and rng.random() < 0.9
        if listed or rng.random() < 0.05:
            hints += [-place, *some_ids()]
    return formula, lemma, f"{len(formula) + 1} {' '.join(map(str, [*lemma, 0, *hints, 0]))}\n".encode()


def test_an_accepted_step_never_turns_a_satisfiable_formula_unsatisfiable() -> None:
    rng = random.Random(7)
    accepted = by_rat = 0
    for _ in range(20_000):
        formula, lemma, line = random_step(rng)
        # NO_EMPTY_CLAUSE is the only fault left: the step itself was accepted.
        if verify(cnf_bytes(formula), line).code is not Code.NO_EMPTY_CLAUSE:
            continue
        accepted += 1
        if brute_force_satisfiable(formula):
            assert brute_force_satisfiable([*formula, lemma])
            # A step that removes models is RAT's alone.
            by_rat += brute_force_satisfiable([*formula, *([-lit] for lit in lemma)])
    assert accepted > 2_000
    assert by_rat > 300
