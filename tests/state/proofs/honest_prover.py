"""An honest prover for the tests: formulas, a real solver's DRUP proof, and its translation to LRAT.

The translation shares no code with the checker: two watched literals, a trail with reasons, and hints read off the
conflict's implication graph.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pysat.solvers import Solver

Clauses = list[list[int]]


def pigeonhole(holes: int) -> Clauses:
    """holes + 1 pigeons do not fit: unsatisfiable, and hard for resolution."""

    def sits(pigeon: int, hole: int) -> int:
        return pigeon * holes + hole + 1

    clauses = [[sits(pigeon, hole) for hole in range(holes)] for pigeon in range(holes + 1)]
    for hole in range(holes):
        for second in range(holes + 1):
            clauses += [[-sits(first, hole), -sits(second, hole)] for first in range(second)]
    return clauses


def cnf_bytes(clauses: Sequence[Sequence[int]]) -> bytes:
    """The canonical statement of a formula whose clauses name no variable twice."""
    variables = max((abs(lit) for clause in clauses for lit in clause), default=0)
    lines = [f"p cnf {variables} {len(clauses)}"]
    lines += [" ".join(map(str, [*sorted(clause, key=abs), 0])) for clause in clauses]
    return ("\n".join(lines) + "\n").encode()


def satisfiable(clauses: Iterable[Sequence[int]]) -> bool:
    with Solver(name="cadical153", bootstrap_with=[list(clause) for clause in clauses]) as solver:
        return bool(solver.solve())


def refute(clauses: Clauses, solver: str = "cadical195") -> list[str] | None:
    """The solver's DRUP lines, or None if the formula is satisfiable."""
    with Solver(name=solver, bootstrap_with=clauses, with_proof=True) as engine:
        if engine.solve():
            return None
        lines = [str(line) for line in engine.get_proof() or []]
    return lines if lines and lines[-1] == "0" else [*lines, "0"]


class NotRup(Exception):
    """Propagation alone does not show the lemma."""


class DrupTranslator:
    """Forward unit propagation over the live clauses; every lemma gets the hints that its conflict used."""

    def __init__(self, clauses: Clauses) -> None:
        self._clauses: dict[int, list[int]] = {}
        self._watches: dict[int, list[int]] = {}
        self._by_content: dict[tuple[int, ...], list[int]] = {}
        self._reason: dict[int, int] = {}
        self._trail: list[int] = []
        self._conflict: int | None = None
        self._last_id = 0
        self.lines: list[str] = []
        for clause in clauses:
            self._add(clause)

    def translate(self, drup: Iterable[str]) -> bytes:
        for line in drup:
            words = line.split()
            if words[0] == "d":
                self._delete([int(word) for word in words[1:-1]])
                continue
            lits = list(dict.fromkeys(int(word) for word in words[:-1]))
            try:
                hints = self._hints(lits)
            except NotRup:
                hints = []  # a definition: every resolvent on its first literal is a tautology
            self._add(lits)
            self.lines.append(" ".join(map(str, [self._last_id, *lits, 0, *hints, 0])))
            if not lits:
                break
        return ("\n".join(self.lines) + "\n").encode()

    def _delete(self, lits: list[int]) -> None:
        ids = self._by_content.get(tuple(sorted(lits)))
        # A reason of a top-level assignment stays: later hints still need it.
        if not ids or ids[-1] in self._reason.values():
            return
        gone = ids.pop()
        del self._clauses[gone]
        self.lines.append(f"{self._last_id} d {gone} 0")

    def _add(self, lits: list[int]) -> None:
        self._last_id += 1
        clause = sorted(lits, key=lambda lit: -lit in self._reason)
        self._clauses[self._last_id] = clause
        self._by_content.setdefault(tuple(sorted(lits)), []).append(self._last_id)
        for lit in clause[:2]:
            self._watches.setdefault(lit, []).append(self._last_id)
        if self._conflict is not None:
            return
        if all(-lit in self._reason for lit in clause):
            self._conflict = self._last_id
        elif (len(clause) == 1 or -clause[1] in self._reason) and clause[0] not in self._reason:
            start = len(self._trail)
            self._assign(clause[0], self._last_id)
            self._conflict = self._propagate(start)

    def _assign(self, lit: int, reason: int) -> None:
        self._reason[lit] = reason
        self._trail.append(lit)

    def _propagate(self, start: int) -> int | None:
        at = start
        while at < len(self._trail):
            false = -self._trail[at]
            at += 1
            watching, kept = self._watches.get(false, []), []
            conflict = None
            for place, clause_id in enumerate(watching):
                clause = self._clauses.get(clause_id)
                if clause is None:
                    continue
                if clause[0] == false:
                    clause[0], clause[1:2] = clause[1] if len(clause) > 1 else false, [false][: len(clause) - 1]
                if len(clause) > 1 and clause[0] in self._reason:
                    kept.append(clause_id)
                    continue
                for other in range(2, len(clause)):
                    if -clause[other] not in self._reason:
                        clause[1], clause[other] = clause[other], clause[1]
                        self._watches.setdefault(clause[1], []).append(clause_id)
                        break
                else:
                    kept.append(clause_id)
                    if -clause[0] in self._reason:
                        conflict = clause_id
                        kept += watching[place + 1 :]
                        break
                    if clause[0] not in self._reason:
                        self._assign(clause[0], clause_id)
            self._watches[false] = kept
            if conflict is not None:
                return conflict
        return None

    def _hints(self, lits: list[int]) -> list[int]:
        """Propagate the lemma's negation, read the antecedents off the trail, and undo."""
        start = len(self._trail)
        conflict = self._conflict
        seeds: set[int] = set()
        if conflict is None:
            for lit in lits:
                if lit in self._reason:
                    # True at top level: its own reason is the conflict.
                    conflict = self._reason[lit]
                    seeds = {-lit}
                    break
                if -lit not in self._reason:
                    self._assign(-lit, 0)
            else:
                conflict = self._propagate(start)
        if conflict is None:
            for lit in self._trail[start:]:
                del self._reason[lit]
            del self._trail[start:]
            raise NotRup
        needed = {-lit for lit in self._clauses[conflict]} - {-seed for seed in seeds} - seeds
        chain = [conflict]
        for lit in reversed(self._trail):
            reason = self._reason[lit]
            if lit in needed and reason and reason != conflict:
                chain.append(reason)
                needed |= {-other for other in self._clauses[reason] if other != lit}
        for lit in self._trail[start:]:
            del self._reason[lit]
        del self._trail[start:]
        return chain[::-1]


def lrat_proof(clauses: Clauses, solver: str = "cadical195") -> bytes | None:
    """A complete LRAT proof of an unsatisfiable formula; None if it is satisfiable."""
    drup = refute(clauses, solver)
    return None if drup is None else DrupTranslator(clauses).translate(drup)


def pigeonhole_by_extension(holes: int) -> bytes:
    """Cook's short refutation of `pigeonhole(holes)`: new variables reduce n holes to n - 1, again and again.

    q[i][j] stands for p[i][j] or (p[i][last] and p[last pigeon][j]). Resolution alone needs exponential proofs.
    """
    lemmas: list[list[int]] = []
    sits = [[pigeon * holes + hole + 1 for hole in range(holes)] for pigeon in range(holes + 1)]
    fresh = holes * (holes + 1)
    for size in range(holes - 1, 0, -1):
        last = sits[size + 1]
        smaller = [[fresh + pigeon * size + hole + 1 for hole in range(size)] for pigeon in range(size + 1)]
        fresh += size * (size + 1)
        for pigeon in range(size + 1):
            for hole in range(size):
                q, p, p_last = smaller[pigeon][hole], sits[pigeon][hole], sits[pigeon][size]
                lemmas += [[q, -p], [q, -p_last, -last[hole]], [-q, p, p_last], [-q, p, last[hole]]]
        lemmas += smaller
        for hole in range(size):
            for second in range(size + 1):
                for first in range(second):
                    a, b = smaller[first][hole], smaller[second][hole]
                    lemmas += [[-a, -b, -sits[first][hole]], [-a, -b, -sits[second][hole]], [-a, -b]]
        sits = smaller
    drup = [" ".join(map(str, [*lemma, 0])) for lemma in [*lemmas, []]]
    return DrupTranslator(pigeonhole(holes)).translate(drup)
