"""`trellis sim`: verdicts, JSON, replay."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner, Result

from node.cli import trellis
from node.cli.exits import CommandFailed, Exit
from node.cli.sim import parse_seeds
from node.simulator.disk import Disk


def run(*arguments: str) -> Result:
    return CliRunner().invoke(trellis, arguments)


def code_of(result: Result) -> int:
    if isinstance(result.exception, CommandFailed):
        return result.exception.code
    return result.exit_code


def test_a_campaign_that_finds_nothing_says_passed() -> None:
    result = run("sim", "--nodes", "4", "--seeds", "0..3", "--workers", "1")
    assert code_of(result) == Exit.OK
    assert "sim: passed: 4 seeds" in result.output


def test_json_carries_counts_and_histograms() -> None:
    result = run("--output", "json", "sim", "--nodes", "4", "--seeds", "0..1", "--workers", "1")
    (network,) = json.loads(result.output)["networks"]
    assert (network["network"], network["seeds"], network["violations"], network["stalls"]) == ("n = 4, f = 1", 2, 0, 0)
    assert network["failing_seeds"] == []
    assert network["faults"]["byzantine"] == 2


def test_a_replay_prints_its_trace_and_what_it_came_to() -> None:
    first, second = (run("sim", "--nodes", "4", "--replay", "2") for _ in range(2))
    assert code_of(first) == Exit.OK
    assert first.output == second.output
    assert "C8.1 DECIDED" in first.output
    assert "healed" in first.output


def test_a_failing_seed_ends_with_no_and_the_command_that_shows_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disk, "records", lambda self: [])
    result = run("sim", "--nodes", "4", "--seeds", "0..0", "--workers", "1")
    assert code_of(result) == Exit.NO
    assert "trellis sim --nodes 4 --byzantine 1 --replay 0" in result.output
    replayed = run("--output", "json", "sim", "--nodes", "4", "--replay", "0")
    assert code_of(replayed) == Exit.NO
    assert json.loads(replayed.stdout)["violation"]


@pytest.mark.parametrize("text", ["", "5..3", "a..b", "-1..3", "1...3"])
def test_a_bad_range_of_seeds_is_wrong_usage(text: str) -> None:
    with pytest.raises(CommandFailed) as failure:
        parse_seeds(text)
    assert failure.value.code is Exit.USAGE


def test_ranges_include_both_ends() -> None:
    assert (parse_seeds("3..5"), parse_seeds("7")) == (range(3, 6), range(7, 8))
