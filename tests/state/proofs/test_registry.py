"""What every kind of statement and every verifier promises."""

from __future__ import annotations

import pytest

from state.proofs import MAX_STATEMENT_BYTES, STATEMENTS, VERIFIERS


def test_the_names_are_those_of_the_protocol() -> None:
    assert set(VERIFIERS) == {"lrat.v1", "sat-model.v1"}
    assert set(STATEMENTS) == {*VERIFIERS, "z3-attest.v1"}
    assert all(kind.name == name and kind.version == 1 for name, kind in STATEMENTS.items())


@pytest.mark.parametrize("name", sorted(STATEMENTS))
def test_the_cost_of_a_statement_grows_with_its_size_and_covers_its_bytes(name: str) -> None:
    costs = [STATEMENTS[name].statement_cost(size) for size in (0, 1, 1_000, 65_536, MAX_STATEMENT_BYTES)]
    assert costs == sorted(costs)
    assert costs[:1] == [0]
    assert costs[3] >= 65_536
