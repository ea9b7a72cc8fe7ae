"""The codes under tx_root: each one is some rule's answer, and none is given twice."""

from __future__ import annotations

from pathlib import Path

import state.rules
from trellis.outcome import Outcome

UNUSED = {2, 7, 28}


def test_every_outcome_is_the_answer_of_some_rule() -> None:
    """A code that no rule can give would be a promise to wallets that nobody keeps."""
    sources = "".join(path.read_text() for path in Path(state.rules.__path__[0]).glob("*.py"))
    assert [outcome.name for outcome in Outcome if f"Outcome.{outcome.name}" not in sources] == []


def test_codes_are_the_numbers_up_to_the_last_but_those_that_mean_nothing() -> None:
    assert [int(outcome) for outcome in Outcome] == [code for code in range(31) if code not in UNUSED]
