"""Difficulty is an integer function of cost and size."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.proofs import VERIFIERS, Limits, difficulty_milli
from tests.state.proofs.honest_prover import cnf_bytes, lrat_proof, pigeonhole

COSTS = st.integers(0, 2**50)


@given(COSTS, COSTS, st.integers(0, 2**20), st.integers(0, 2**20))
@settings(max_examples=500, deadline=None)
def test_difficulty_monotonicity(cost: int, more: int, size: int, larger: int) -> None:
    assert difficulty_milli(cost, size) <= difficulty_milli(cost + more, size)
    assert difficulty_milli(cost, size) <= difficulty_milli(cost, size + larger)


@given(COSTS, st.integers(0, 2**20))
@settings(max_examples=300, deadline=None)
def test_doubling_the_work_never_gains_more_than_one(cost: int, size: int) -> None:
    gain = difficulty_milli(2 * cost, 2 * size) - difficulty_milli(cost, size)
    assert 0 <= gain <= 1_001


def test_the_documented_points_of_the_scale() -> None:
    assert difficulty_milli(0, 0) == 1_000
    assert difficulty_milli(1_024, 0) == difficulty_milli(0, 1_024) == 2_000
    assert difficulty_milli(1_536, 0) == 2_250
    assert difficulty_milli(1_023 << 10, 0) == 11_000


def test_a_harder_theorem_is_more_difficult() -> None:
    difficulties = []
    for holes in (2, 3, 4, 5):
        statement, proof = cnf_bytes(pigeonhole(holes)), lrat_proof(pigeonhole(holes))
        assert proof is not None
        cost = VERIFIERS["lrat.v1"].verify(statement, proof, Limits(10**9)).cost
        difficulties.append(difficulty_milli(cost, len(proof)))
    assert difficulties == sorted(set(difficulties))


@pytest.mark.parametrize(("cost", "size"), [(-1, 0), (0, -1)])
def test_what_cannot_be_is_misuse(cost: int, size: int) -> None:
    with pytest.raises(ValueError, match="negative"):
        difficulty_milli(cost, size)
