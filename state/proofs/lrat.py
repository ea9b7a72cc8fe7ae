"""`lrat.v1`: refutations of CNF formulas as LRAT text, with RUP and RAT steps and deletions.

Each line either adds a clause, `<id> <literal>… 0 <hint>… 0`, or deletes some, `<id> d <id>… 0`. Ids of added clauses
rise; the formula's own clauses are 1…n. The last line adds the empty clause and nothing follows it.

- RUP: assume the clause false; each hint's clause must then be unit (its one literal left becomes true) or false
  (conflict: the step holds). A hint that is already satisfied changes nothing. Hints after the conflict must exist.
- RAT on the first literal p: where the leading hints give no conflict, every live clause with ¬p must either have
  another literal that is already true (its resolvent is a tautology) or be listed as `-<id> <hint>…` whose hints reach
  a conflict after that clause's other literals are assumed false too. Proofs may so define new variables.

Cost: one a byte of statement and proof; one a literal of the formula and of each clause that a hint names; four a
literal of an added clause; one an id deleted; eight a line of either text. A step that RUP does not show costs 24 more,
eight for each candidate, and the literals that it touches. It is charged before the work. The weights make every shape
of proof cost about the same a microsecond, so that a cap on cost is a cap on time: 7 to 20 units were measured.

Soundness needs no validation pass over the text: ids are looked up by their bytes, so a token that is not the canonical
decimal of a live clause is simply not found, and literals pass a strict table. Memory is linear in the input: 30 to 60
bytes a byte of proof at worst.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

from state.proofs.cnf import LINE_COST, Clause, LiteralTable, cnf_statement_code, cnf_statement_cost, read_statement
from state.proofs.verifier import Code, Limits, Meter, Refused, VerificationResult, run_check

_ID: Final = re.compile(rb"[1-9][0-9]{0,8}")
_DELETION_ID: Final = re.compile(rb"0|[1-9][0-9]{0,8}")
"""The number that opens a deletion is the id of some last addition; tools disagree on which, and nothing uses it."""

LEMMA_LITERAL_COST: Final = 4
RAT_STEP_COST: Final = 24
CANDIDATE_COST: Final = 8

Candidates = dict[bytes, list[Clause]]


class Lrat:
    """The verifier `lrat.v1`."""

    name: Final = "lrat.v1"
    version: Final = 1

    def check_statement(self, statement: bytes) -> Code:
        return cnf_statement_code(statement)

    def statement_cost(self, size_bytes: int) -> int:
        return cnf_statement_cost(size_bytes)

    def verify(self, statement: bytes, proof: bytes, limits: Limits) -> VerificationResult:
        return run_check(_refutes, statement, proof, limits)


def _refutes(statement: bytes, proof: bytes, meter: Meter) -> None:
    clauses = read_statement(statement, meter)
    lines = proof.split(b"\n")
    if lines.pop():
        raise Refused(Code.PROOF_FORM)
    if _Derivation(clauses, meter).run(lines) != len(lines):
        raise Refused(Code.TRAILING_BYTES)


class _Derivation:
    """The live clauses, keyed by the bytes of their ids."""

    __slots__ = ("_live", "_meter", "_occurrences")

    def __init__(self, clauses: list[Clause], meter: Meter) -> None:
        self._live: dict[bytes, Clause] = {b"%d" % (place + 1): clause for place, clause in enumerate(clauses)}
        self._meter = meter
        self._occurrences: dict[int, list[bytes]] | None = None

    def run(self, lines: list[bytes]) -> int:
        """The number of lines read, the empty clause's included. One function: this loop is all the time there is."""
        live, meter = self._live, self._meter
        clause_of = live.__getitem__
        literal_of = LiteralTable(Code.PROOF_LITERAL).__getitem__
        last_id = len(live)
        for count, line in enumerate(lines, 1):
            tokens = line.split(b" ")
            if len(tokens) < 3 or tokens.pop() != b"0":
                raise Refused(Code.PROOF_FORM)
            if tokens[1] == b"d":
                self._delete(tokens)
                continue
            try:
                end = tokens.index(b"0", 1)
            except ValueError:
                raise Refused(Code.PROOF_FORM) from None
            if _ID.fullmatch(tokens[0]) is None:
                raise Refused(Code.PROOF_FORM)
            clause_id = int(tokens[0])
            if clause_id <= last_id:
                raise Refused(Code.CLAUSE_ORDER)
            clause = tuple(map(literal_of, tokens[1:end]))
            false = set(clause)
            if len(false) != len(clause):
                raise Refused(Code.PROOF_LITERAL)
            hints = tokens[end + 1 :]
            try:
                antecedents = list(map(clause_of, hints))
            except KeyError:
                self._check_rat(clause, false, hints)
            else:
                meter.charge(LINE_COST + LEMMA_LITERAL_COST * len(clause) + sum(map(len, antecedents)))
                for antecedent in antecedents:
                    unit = 0
                    for literal in antecedent:
                        if literal not in false:
                            if unit:
                                raise Refused(Code.HINT_NOT_UNIT)
                            unit = literal
                    if not unit:
                        break
                    false.add(-unit)
                else:
                    self._check_candidates(clause, false, {})
            if not clause:
                return count
            live[tokens[0]] = clause
            last_id = clause_id
            if self._occurrences is not None:
                _index(self._occurrences, tokens[0], clause)
        raise Refused(Code.NO_EMPTY_CLAUSE)

    def _delete(self, tokens: list[bytes]) -> None:
        if _DELETION_ID.fullmatch(tokens[0]) is None:
            raise Refused(Code.PROOF_FORM)
        self._meter.charge(LINE_COST + len(tokens) - 2)
        for clause_id in tokens[2:]:
            if self._live.pop(clause_id, None) is None:
                raise Refused(Code.CLAUSE_UNKNOWN)

    def _check_rat(self, clause: Clause, false: set[int], hints: list[bytes]) -> None:
        """A step with a hint that is no live id: the marks of RAT candidates, or a fault."""
        leading, candidates = self._split_hints(hints)
        named = sum(map(len, leading)) + sum(len(other) for group in candidates.values() for other in group)
        self._meter.charge(LINE_COST + LEMMA_LITERAL_COST * len(clause) + CANDIDATE_COST * len(candidates) + named)
        if not _propagates_to_conflict(false, leading):
            self._check_candidates(clause, false, candidates)

    def _check_candidates(self, clause: Clause, false: set[int], candidates: Candidates) -> None:
        """No conflict so far: the step holds if every resolvent on the first literal does."""
        if not clause:
            raise Refused(Code.NO_CONFLICT)
        self._meter.charge(RAT_STEP_COST)
        pivot = clause[0]
        occurring = self._occurring(-pivot)
        if not candidates.keys() <= set(occurring):
            raise Refused(Code.RAT_CANDIDATE)
        for candidate_id in occurring:
            candidate = self._live[candidate_id]
            self._meter.charge(CANDIDATE_COST + len(candidate) + len(false))
            others = [literal for literal in candidate if literal != -pivot]
            if any(-literal in false for literal in others):
                continue
            hints = candidates.get(candidate_id)
            if hints is None:
                raise Refused(Code.RAT_CANDIDATE if candidates else Code.NO_CONFLICT)
            if not _propagates_to_conflict(false.union(others), hints):
                raise Refused(Code.NO_CONFLICT)

    def _split_hints(self, hints: list[bytes]) -> tuple[list[Clause], Candidates]:
        """The hints before the first candidate, and those of each candidate in turn."""
        leading: list[Clause] = []
        candidates: Candidates = {}
        group = leading
        for token in hints:
            marked = token[:1] == b"-"
            clause_id = token[1:] if marked else token
            antecedent = self._live.get(clause_id)
            if antecedent is None:
                raise Refused(Code.CLAUSE_UNKNOWN)
            if not marked:
                group.append(antecedent)
                continue
            if clause_id in candidates:
                raise Refused(Code.RAT_CANDIDATE)
            group = candidates[clause_id] = []
        return leading, candidates

    def _occurring(self, literal: int) -> list[bytes]:
        """Ids of live clauses with this literal, oldest first. Most proofs never ask, so the index waits for the first
        question. Ids of deleted clauses stay in it: ids never return, so `_live` tells."""
        occurrences = self._occurrences
        if occurrences is None:
            self._meter.charge(sum(map(len, self._live.values())))
            occurrences = self._occurrences = {}
            for clause_id, clause in self._live.items():
                _index(occurrences, clause_id, clause)
        ids = occurrences.get(literal, [])
        self._meter.charge(len(ids))
        return [clause_id for clause_id in ids if clause_id in self._live]


def _index(occurrences: dict[int, list[bytes]], clause_id: bytes, clause: Clause) -> None:
    for literal in clause:
        occurrences.setdefault(literal, []).append(clause_id)


def _propagates_to_conflict(false: set[int], hints: Iterable[Clause]) -> bool:
    """Adds to `false` what the hints imply, up to the conflict; refuses a hint that implies nothing."""
    for hint in hints:
        unassigned = [literal for literal in hint if literal not in false]
        if not unassigned:
            return True
        if len(unassigned) > 1:
            raise Refused(Code.HINT_NOT_UNIT)
        false.add(-unassigned[0])
    return False


LRAT: Final = Lrat()
