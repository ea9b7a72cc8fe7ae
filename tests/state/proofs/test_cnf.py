"""The statement format: one byte string a formula."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.proofs import VERIFIERS, Code
from state.proofs.cnf import canonical_cnf, parse_cnf

GOOD = b"p cnf 3 2\n1 -3 0\n2 3 0\n"

REFUSED = [
    ("nothing", b"", Code.STATEMENT_HEADER),
    ("a header alone, unfinished", b"p cnf 1 1", Code.STATEMENT_CLAUSE),
    ("a header without clauses", b"p cnf 1 1\n", Code.STATEMENT_COUNT),
    ("no clauses promised", b"p cnf 1 0\n", Code.STATEMENT_HEADER),
    ("no variables", b"p cnf 0 1\n0\n", Code.STATEMENT_HEADER),
    ("a comment first", b"c hello\n" + GOOD, Code.STATEMENT_HEADER),
    ("a comment inside", b"p cnf 1 1\nc hello\n1 0\n", Code.STATEMENT_CLAUSE),
    ("two spaces in the header", b"p  cnf 3 2\n1 -3 0\n2 3 0\n", Code.STATEMENT_HEADER),
    ("a space after the header", b"p cnf 3 2 \n1 -3 0\n2 3 0\n", Code.STATEMENT_HEADER),
    ("a leading zero in the header", b"p cnf 03 2\n1 -3 0\n2 3 0\n", Code.STATEMENT_HEADER),
    ("more variables than occur", b"p cnf 4 2\n1 -3 0\n2 3 0\n", Code.STATEMENT_COUNT),
    ("fewer variables than occur", b"p cnf 2 2\n1 -3 0\n2 3 0\n", Code.STATEMENT_COUNT),
    ("more clauses than promised", b"p cnf 3 1\n1 -3 0\n2 3 0\n", Code.STATEMENT_COUNT),
    ("fewer clauses than promised", b"p cnf 3 3\n1 -3 0\n2 3 0\n", Code.STATEMENT_COUNT),
    ("an empty clause", b"p cnf 1 2\n1 0\n0\n", Code.STATEMENT_CLAUSE),
    ("an empty line", b"p cnf 1 1\n\n1 0\n", Code.STATEMENT_CLAUSE),
    ("an empty line at the end", b"p cnf 1 1\n1 0\n\n", Code.STATEMENT_CLAUSE),
    ("no line end", b"p cnf 1 1\n1 0", Code.STATEMENT_CLAUSE),
    ("CRLF", b"p cnf 1 1\r\n1 0\r\n", Code.STATEMENT_HEADER),
    ("CRLF in a clause", b"p cnf 1 1\n1 0\r\n", Code.STATEMENT_CLAUSE),
    ("a tab", b"p cnf 2 1\n1\t2 0\n", Code.STATEMENT_CLAUSE),
    ("two spaces", b"p cnf 2 1\n1  2 0\n", Code.STATEMENT_CLAUSE),
    ("a leading space", b"p cnf 2 1\n 1 2 0\n", Code.STATEMENT_CLAUSE),
    ("a trailing space", b"p cnf 2 1\n1 2 0 \n", Code.STATEMENT_CLAUSE),
    ("no closing zero", b"p cnf 2 1\n1 2\n", Code.STATEMENT_CLAUSE),
    ("a zero inside", b"p cnf 2 1\n1 0 2 0\n", Code.STATEMENT_CLAUSE),
    ("a clause over two lines", b"p cnf 2 1\n1\n2 0\n", Code.STATEMENT_CLAUSE),
    ("a plus sign", b"p cnf 2 1\n+1 2 0\n", Code.STATEMENT_CLAUSE),
    ("an underscore", b"p cnf 10 1\n1_0 0\n", Code.STATEMENT_CLAUSE),
    ("a leading zero", b"p cnf 2 1\n01 2 0\n", Code.STATEMENT_CLAUSE),
    ("minus zero", b"p cnf 2 1\n-0 2 0\n", Code.STATEMENT_CLAUSE),
    ("two minus signs", b"p cnf 2 1\n--1 2 0\n", Code.STATEMENT_CLAUSE),
    ("Arabic-Indic digits", "p cnf 2 1\n١ 2 0\n".encode(), Code.STATEMENT_CLAUSE),
    ("fullwidth digits in the header", "p cnf ２ 1\n1 2 0\n".encode(), Code.STATEMENT_HEADER),
    ("a NUL", b"p cnf 2 1\n1\x002 0\n", Code.STATEMENT_CLAUSE),
    ("a hexadecimal number", b"p cnf 2 1\n0x1 2 0\n", Code.STATEMENT_CLAUSE),
    ("an exponent", b"p cnf 10 1\n1e1 0\n", Code.STATEMENT_CLAUSE),
    ("literals out of order", b"p cnf 2 1\n2 1 0\n", Code.STATEMENT_CLAUSE),
    ("a repeated literal", b"p cnf 1 1\n1 1 0\n", Code.STATEMENT_CLAUSE),
    ("a tautology", b"p cnf 1 1\n1 -1 0\n", Code.STATEMENT_CLAUSE),
    ("a variable of eight digits", b"p cnf 10000000 1\n10000000 0\n", Code.STATEMENT_HEADER),
    ("a literal of a thousand digits", b"p cnf 1 1\n" + b"9" * 1000 + b" 0\n", Code.STATEMENT_CLAUSE),
]


@pytest.mark.parametrize("name", ["lrat.v1", "sat-model.v1"])
@pytest.mark.parametrize(("statement", "code"), [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_statement_that_is_not_canonical_is_refused_with_its_reason(name: str, statement: bytes, code: Code) -> None:
    assert VERIFIERS[name].check_statement(statement) is code


def test_a_canonical_statement_is_read_as_written() -> None:
    assert VERIFIERS["lrat.v1"].check_statement(GOOD) is Code.OK
    assert parse_cnf(GOOD) == [(1, -3), (2, 3)]


FORMULAS = st.lists(
    st.lists(st.integers(1, 30), min_size=1, max_size=5, unique=True).flatmap(
        lambda variables: st.tuples(*[st.sampled_from((v, -v)) for v in variables])
    ),
    min_size=1,
    max_size=12,
)


@given(FORMULAS, st.randoms(use_true_random=False))
@settings(max_examples=150, deadline=None)
def test_every_layout_of_a_formula_becomes_one_canonical_statement(formula: list[tuple[int, ...]], random) -> None:  # type: ignore[no-untyped-def]  # Hypothesis' own random type
    def layout() -> bytes:
        words = [b"c a comment\np cnf 99 99\n"]
        for clause in formula:
            shuffled = [*clause, random.choice(clause)]
            random.shuffle(shuffled)
            words += [b"%d%s" % (lit, random.choice([b" ", b"\n", b"\t", b"\r\n", b"  "])) for lit in shuffled]
            words.append(random.choice([b"0\n", b" 0 ", b"0 \nc more\n"]))
        return b"".join(words)

    first, second = canonical_cnf(layout()), canonical_cnf(layout())
    assert first == second == canonical_cnf(first)
    assert parse_cnf(first) == [tuple(sorted(clause, key=abs)) for clause in formula]


@given(FORMULAS, st.data())
@settings(max_examples=150, deadline=None)
def test_no_other_bytes_mean_the_same_clauses(formula: list[tuple[int, ...]], data: st.DataObject) -> None:
    statement = canonical_cnf(b"".join(b"%s 0\n" % b" ".join(b"%d" % lit for lit in c) for c in formula))
    at = data.draw(st.integers(0, len(statement)))
    extra = data.draw(st.binary(max_size=3))
    drop = data.draw(st.integers(0, 3))
    other = statement[:at] + extra + statement[at + drop :]
    if other != statement and VERIFIERS["lrat.v1"].check_statement(other) is Code.OK:
        assert parse_cnf(other) != parse_cnf(statement)


@pytest.mark.parametrize(
    ("dimacs", "why"),
    [
        (b"p cnf 1 1\n1", "not closed"),
        (b"p cnf 1 1\n0\n", "empty clause"),
        (b"p cnf 1 1\n1 x 0\n", "not a literal"),
        (b"p cnf 1 1\n1 -1 0\n", "no clause is left"),
    ],
)
def test_the_posters_own_file_is_refused_with_words(dimacs: bytes, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        canonical_cnf(dimacs)
