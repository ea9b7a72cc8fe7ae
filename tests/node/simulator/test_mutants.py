"""The quickest catches of the mutants; the whole table is a campaign: `python -m tests.node.simulator.mutants`."""

from __future__ import annotations

import pytest

from tests.node.simulator.mutants import MUTANTS, SCRIPTS, Mutant, try_hint


@pytest.mark.parametrize("mutant", [mutant for mutant in MUTANTS if mutant.hint], ids=lambda mutant: mutant.name)
def test_a_checker_notices_the_core_without(mutant: Mutant) -> None:
    caught = try_hint(mutant)
    assert caught is not None, f"{mutant.hint} says nothing any more: run the campaign, and give the mutant a new hint"
    assert caught.said


@pytest.mark.parametrize("name", sorted(SCRIPTS))
def test_the_core_as_it_is_stands_every_script(name: str) -> None:
    assert SCRIPTS[name]() == ""
