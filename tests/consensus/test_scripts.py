"""Every transcript in `scripts/` happens exactly as it is written there."""

from __future__ import annotations

import pytest

from consensus import Rule
from tests.consensus.scripts import FOLDER, parse, render, run

SCRIPTS = sorted(path.stem for path in FOLDER.glob("*.txt"))


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_transcript_is_what_happens(name: str) -> None:
    text = (FOLDER / f"{name}.txt").read_text()
    happened, script = run(text)
    for step, lines in happened:
        assert lines == step.expected, f"{name}: {step.command}"
    assert render(happened) == text
    assert "error:" not in text
    assert not any(host.guard_refusals for host in script.network.hosts), (
        "an honest replica asked for what the guard forbids"
    )


def test_a_script_that_expects_something_else_does_not_match() -> None:
    text = (FOLDER / "happy_path.txt").read_text().replace("casts COMMIT 1/0 A", "casts COMMIT 1/1 A")
    happened, _ = run(text)
    assert any(lines != step.expected for step, lines in happened)
    assert render(happened) != text


def test_a_command_without_its_expectation_is_refused() -> None:
    with pytest.raises(ValueError, match="followed by ----"):
        parse("status\n\nstatus\n")


def test_names_of_rules_and_numbers_are_unique() -> None:
    numbers = [rule.number for rule in Rule]
    assert len(numbers) == len(set(numbers))
    assert all(rule.sentence and str(rule).startswith(rule.number) for rule in Rule)
