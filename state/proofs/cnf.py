"""CNF statements: one strict, canonical subset of DIMACS, read byte by byte.

A statement is exactly

    p cnf <variables> <clauses>\\n
    <literal> … <literal> 0\\n          once a clause

with single spaces, no comments, numbers without leading zeros or plus signs, at least one clause, no empty clause, the
literals of a clause in ascending order of variable (so none is repeated and no clause is a tautology), `<variables>`
the greatest variable that occurs and `<clauses>` the number of lines that follow. So two texts of one list of clauses
are the same bytes, and the statement's hash finds a duplicate. The order of clauses is the poster's, because a proof
names clauses by their place. A formula whose variables were renamed is another statement; nothing cheap can see that.
"""

from __future__ import annotations

import re
from typing import Final

from state.proofs.verifier import Code, Meter, Refused

Clause = tuple[int, ...]

LINE_COST: Final = 8
"""What a line costs beside its bytes: measured, so that short lines are not the cheap way to take up time."""

_HEADER: Final = re.compile(rb"p cnf ([1-9][0-9]{0,6}) ([1-9][0-9]{0,6})")
_LITERAL: Final = re.compile(rb"-?[1-9][0-9]{0,6}")
"""Seven digits bound the variables. Tables here are keyed by what occurs, so a great number costs no memory."""


class LiteralTable(dict[bytes, int]):
    """Canonical token → literal. A token is parsed once, strictly; after that, knowing it is one dictionary read.

    `int()` alone would take `1_0`, `+1`, ` 1` and digits of other scripts.
    """

    __slots__ = ("_refusal",)

    def __init__(self, refusal: Code) -> None:
        super().__init__()
        self._refusal = refusal

    def __missing__(self, token: bytes) -> int:
        if _LITERAL.fullmatch(token) is None:
            raise Refused(self._refusal)
        literal = int(token)
        self[token] = literal
        return literal


def parse_cnf(statement: bytes) -> list[Clause]:
    """The clauses of a canonical statement; raises `Refused` for all other bytes."""
    lines = statement.split(b"\n")
    header = _HEADER.fullmatch(lines[0])
    if header is None:
        raise Refused(Code.STATEMENT_HEADER)
    if lines.pop():
        raise Refused(Code.STATEMENT_CLAUSE)
    literal_of = LiteralTable(Code.STATEMENT_CLAUSE).__getitem__
    clauses: list[Clause] = []
    greatest = 0
    for line in lines[1:]:
        tokens = line.split(b" ")
        if tokens.pop() != b"0" or not tokens:
            raise Refused(Code.STATEMENT_CLAUSE)
        clause = tuple(map(literal_of, tokens))
        before = 0
        for literal in clause:
            variable = abs(literal)
            if variable <= before:
                raise Refused(Code.STATEMENT_CLAUSE)
            before = variable
        greatest = max(greatest, before)
        clauses.append(clause)
    if (greatest, len(clauses)) != (int(header[1]), int(header[2])):
        raise Refused(Code.STATEMENT_COUNT)
    return clauses


def read_statement(statement: bytes, meter: Meter) -> list[Clause]:
    """`parse_cnf`, charged: its bytes are charged already, so this is for its clauses and their literals."""
    clauses = parse_cnf(statement)
    meter.charge(LINE_COST * len(clauses) + sum(map(len, clauses)))
    return clauses


def cnf_statement_cost(size_bytes: int) -> int:
    """Short clauses are the slowest: 0.35 µs a byte were measured."""
    return 4 * size_bytes


def cnf_statement_code(statement: bytes) -> Code:
    try:
        parse_cnf(statement)
    except Refused as refused:
        return refused.code
    return Code.OK


def canonical_cnf(dimacs: bytes) -> bytes:
    """What a poster does before solving: any common DIMACS text into the canonical statement.

    Comments go, literals are sorted and repeated ones dropped, tautologies go. So clause numbers may change: make the
    proof for the returned bytes. Raises `ValueError` with the reason; this reads the poster's own file, no stranger's.
    """
    tokens: list[bytes] = []
    for line in dimacs.splitlines():
        if line.startswith(b"%"):
            break  # the end mark of old benchmark files
        if not line.startswith((b"c", b"p")):
            tokens += line.split()
    clauses: list[list[int]] = []
    current: dict[int, int] = {}
    tautology = False
    for token in tokens:
        if token == b"0":
            if not current:
                raise ValueError("an empty clause makes the statement trivial")
            if not tautology:
                clauses.append([current[variable] for variable in sorted(current)])
            current, tautology = {}, False
            continue
        if _LITERAL.fullmatch(token) is None:
            raise ValueError(f"not a literal of at most 7 digits: {token[:20]!r}")
        literal = int(token)
        tautology |= current.setdefault(abs(literal), literal) != literal
    if current:
        raise ValueError("the last clause is not closed by 0")
    if not clauses:
        raise ValueError("no clause is left")
    variables = max(abs(clause[-1]) for clause in clauses)
    lines = [b"p cnf %d %d" % (variables, len(clauses))]
    lines += [b" ".join(b"%d" % literal for literal in [*clause, 0]) for clause in clauses]
    return b"\n".join(lines) + b"\n"
