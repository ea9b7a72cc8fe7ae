"""The fuzzing campaign runs, says what it did in one line, and fails when a decoder does."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz import campaign
from tests.fuzz.campaign import Outcome, main


def test_a_short_campaign_of_one_target_says_what_it_did(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "1", "--target", "seal"]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith("fuzz: ")
    assert last.endswith("inputs through 1 targets: all decoders kept their promises")


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("seal", 10, 1.0, None, "Found: two readings disagree"),
        Outcome("seal", 0, 1.0, None, ""),
        Outcome("seal", 10, 1.0, Path("build/fuzz/seal/crash-1"), "Found: x"),
    ],
    ids=["a broken promise", "nothing ran", "an input to run again"],
)
def test_a_campaign_fails_if_any_target_did(
    outcome: Outcome, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(campaign, "run_target", lambda name, seconds: outcome)
    assert main(["--seconds", "1", "--target", "seal"]) == 1
    said = capsys.readouterr().out
    assert said.splitlines()[-1].endswith("1 targets FAILED")
    if outcome.found is not None:
        assert f"--target seal --input {outcome.found}" in said


def test_one_input_runs_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "input"
    path.write_bytes(bytes(40))
    assert main(["--target", "seal", "--input", str(path)]) == 0
    assert "accepted" in capsys.readouterr().out
    path.write_bytes(bytes(41))
    assert main(["--target", "seal", "--input", str(path)]) == 0
    assert "refused" in capsys.readouterr().out
