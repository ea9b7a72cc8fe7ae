"""Mutated proofs and weakened formulas: nothing false is accepted, nothing raises, nothing is left behind."""

from __future__ import annotations

import os
import random
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from state.proofs import VERIFIERS, Code, Limits, Verdict
from state.proofs.cnf import parse_cnf
from tests.state.proofs.honest_prover import (
    Clauses,
    cnf_bytes,
    lrat_proof,
    pigeonhole,
    pigeonhole_by_extension,
    satisfiable,
)

LRAT = VERIFIERS["lrat.v1"]
MUTANTS = 1_000
COST_LIMIT = 200_000
PEAK_BYTES_A_BYTE = 80
PEAK_BYTES_FIXED = 256 << 10

Mutation = Callable[[random.Random, bytes], bytes]


def _lines(proof: bytes) -> list[bytes]:
    return proof.split(b"\n")


def _flip_a_byte(rng: random.Random, text: bytes) -> bytes:
    at = rng.randrange(len(text))
    return text[:at] + bytes([rng.randrange(256)]) + text[at + 1 :]


def _drop_a_line(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    del lines[rng.randrange(len(lines))]
    return b"\n".join(lines)


def _repeat_a_line(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    lines.insert(rng.randrange(len(lines)), rng.choice(lines))
    return b"\n".join(lines)


def _swap_lines(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    a, b = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[a], lines[b] = lines[b], lines[a]
    return b"\n".join(lines)


def _change_a_token(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    at = rng.randrange(len(lines))
    words = lines[at].split(b" ")
    odd = [b"0", b"-0", b"d", b"+1", b"1_0", b"01", "١".encode(), b"", b"9" * 5_000, b"-1", b"\x00", b"--1", b"1.0"]
    words[rng.randrange(len(words))] = rng.choice([*odd, b"%d" % rng.randrange(-60, 60), rng.choice(words)])
    lines[at] = b" ".join(words)
    return b"\n".join(lines)


def _shuffle_tokens(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    at = rng.randrange(len(lines))
    words = lines[at].split(b" ")
    rng.shuffle(words)
    lines[at] = b" ".join(words)
    return b"\n".join(lines)


def _truncate(rng: random.Random, text: bytes) -> bytes:
    return text[: rng.randrange(len(text))]


def _jump_to_the_end(rng: random.Random, text: bytes) -> bytes:
    """Claims the empty clause early, with random hints."""
    lines = _lines(text)
    kept = lines[: rng.randrange(len(lines))]
    hints = b" ".join(b"%d" % rng.randrange(1, 200) for _ in range(rng.randrange(1, 12)))
    return b"\n".join([*kept, b"999999 0 %s 0" % hints, b""])


def _delete_random_clauses(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    lines.insert(rng.randrange(len(lines)), b"1 d %d 0" % rng.randrange(1, 100))
    return b"\n".join(lines)


def _turn_a_hint_into_a_candidate(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    at = rng.randrange(len(lines))
    words = lines[at].split(b" ")
    place = rng.randrange(len(words))
    words[place] = b"-" + words[place]
    lines[at] = b" ".join(words)
    return b"\n".join(lines)


def _assert_a_random_clause_by_rat(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    lits = b" ".join(b"%d" % (rng.randrange(1, 40) * rng.choice((1, -1))) for _ in range(rng.randrange(1, 3)))
    lines.insert(rng.randrange(len(lines)), b"%d %s 0 0" % (rng.randrange(30, 90), lits))
    return b"\n".join(lines)


def _name_a_hint_twice(rng: random.Random, text: bytes) -> bytes:
    lines = _lines(text)
    at = rng.randrange(len(lines))
    words = lines[at].split(b" ")
    place = rng.randrange(len(words))
    words.insert(place, words[place])
    lines[at] = b" ".join(words)
    return b"\n".join(lines)


PROOF_MUTATIONS: list[Mutation] = [
    _flip_a_byte,
    _drop_a_line,
    _repeat_a_line,
    _swap_lines,
    _change_a_token,
    _shuffle_tokens,
    _truncate,
    _jump_to_the_end,
    _delete_random_clauses,
    _turn_a_hint_into_a_candidate,
    _assert_a_random_clause_by_rat,
    _name_a_hint_twice,
]


def _weakened(rng: random.Random, formula: Clauses) -> Clauses:
    """Drops a clause, widens one, or turns a literal round: mostly satisfiable then."""
    changed = [list(clause) for clause in formula]
    at = rng.randrange(len(changed))
    match rng.randrange(3):
        case 0:
            del changed[at]
        case 1:
            unused = set(range(1, 13)) - {abs(lit) for lit in changed[at]}
            changed[at].append(rng.choice(sorted(unused)) * rng.choice((1, -1)))
        case _:
            place = rng.randrange(len(changed[at]))
            changed[at][place] = -changed[at][place]
    return changed


def honest_cases() -> list[tuple[Clauses, bytes]]:
    cases = [(pigeonhole(3), pigeonhole_by_extension(3))]
    for holes, solver in ((2, "glucose4"), (3, "cadical195"), (3, "glucose4"), (4, "cadical103")):
        proof = lrat_proof(pigeonhole(holes), solver)
        assert proof is not None
        cases.append((pigeonhole(holes), proof))
    return cases


def test_mutated_inputs_are_refused_or_still_true_in_bounded_time_and_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rng = random.Random(4_1)
    cases = honest_cases()
    truth: dict[bytes, bool] = {}
    accepted = still_valid_false = 0
    tracemalloc.start()
    try:
        for number in range(MUTANTS):
            formula, proof = rng.choice(cases)
            statement = cnf_bytes(_weakened(rng, formula) if number % 3 == 0 else formula)
            for _ in range(rng.choice((1, 1, 2, 4)) if number % 3 else rng.randrange(2)):
                proof = rng.choice(PROOF_MUTATIONS)(rng, proof) if proof else proof
            if rng.randrange(20) == 0:
                statement = _flip_a_byte(rng, statement)
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            result = LRAT.verify(statement, proof, Limits(COST_LIMIT))
            _, peak = tracemalloc.get_traced_memory()
            assert peak - before < PEAK_BYTES_A_BYTE * (len(statement) + len(proof)) + PEAK_BYTES_FIXED
            # Work is bounded by the limit and by the one charge that passed it.
            assert result.cost <= COST_LIMIT + 1_000_000
            if result.verdict is Verdict.VALID:
                accepted += 1
                if statement not in truth:
                    truth[statement] = not satisfiable(parse_cnf(statement))
                still_valid_false += not truth[statement]
    finally:
        tracemalloc.stop()
    assert still_valid_false == 0
    assert 20 < accepted < MUTANTS // 2, "proofs are malleable, yet most mutants must fail"
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("holes", [3, 4])
def test_no_weakened_formula_is_accepted_with_the_strong_ones_proof(holes: int) -> None:
    formula = pigeonhole(holes)
    proofs = [proof for solver in ("cadical195", "glucose4") if (proof := lrat_proof(formula, solver))]
    proofs.append(pigeonhole_by_extension(holes))
    satisfiable_variants = 0
    for place, clause in enumerate(formula):
        for variable in range(1, holes * (holes + 1) + 1):
            if variable in map(abs, clause):
                continue
            weaker = [*formula[:place], [*clause, variable], *formula[place + 1 :]]
            if not satisfiable(weaker):
                continue
            satisfiable_variants += 1
            for proof in proofs:
                assert LRAT.verify(cnf_bytes(weaker), proof, Limits(10**9)).verdict is Verdict.INVALID
    assert satisfiable_variants > 50


def _quadratic_hints(size: int) -> tuple[bytes, bytes]:
    """One wide clause, named again and again: work far beyond the bytes that ask for it."""
    wide = b" ".join(b"%d" % variable for variable in range(1, size))
    statement = b"p cnf %d 2\n%s 0\n-1 0\n" % (size - 1, wide)
    return statement, b"3 %s 0 %s 0\n" % (wide, b" ".join([b"1"] * size))


def _quadratic_candidates(size: int) -> tuple[bytes, bytes]:
    """Every step looks at every clause."""
    statement = b"p cnf 2 %d\n%s" % (size, b"-1 2 0\n" * size)
    return statement, b"".join(b"%d 1 -2 0 0\n" % (size + 1 + step) for step in range(size))


@pytest.mark.parametrize("attack", [_quadratic_hints, _quadratic_candidates])
def test_work_beyond_the_bytes_is_paid_for_before_it_is_done(attack: Callable[[int], tuple[bytes, bytes]]) -> None:
    statement, proof = attack(10_000)
    result = LRAT.verify(statement, proof, Limits(cost=1_000_000))
    assert (result.verdict, result.code) == (Verdict.LIMIT, Code.COST_EXCEEDED)


@pytest.mark.parametrize(
    "proof",
    [
        b" " * 1_000_000,
        b"\n" * 1_000_000,
        b"5 " + b"1 " * 500_000,
        b"5 1 0 " + b"1 " * 400_000 + b"0\n",
        b"5 " + b" ".join(b"%d" % variable for variable in range(1, 140_000)) + b" 0 1 0\n",
        b"".join(b"%d 9 0 0\n" % clause_id for clause_id in range(5, 30_000)),
        b"5 d " + b"1 " * 400_000 + b"0\n",
        b"\x00" * 1_000_000,
        b"9" * 1_000_000,
    ],
    ids=["spaces", "lines", "literals", "hints", "a wide clause", "many clauses", "deletions", "NULs", "digits"],
)
def test_a_megabyte_of_anything_takes_memory_in_proportion(proof: bytes) -> None:
    statement = b"p cnf 3 4\n1 2 0\n1 -2 0\n-1 3 0\n-1 -3 0\n"
    tracemalloc.start()
    try:
        result = LRAT.verify(statement, proof, Limits(10**9))
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.verdict is Verdict.INVALID
    assert peak < PEAK_BYTES_A_BYTE * len(proof)
