"""`trellis sim`: verdicts, JSON, replay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from click.testing import CliRunner, Result

from node.cli import trellis
from node.cli.exits import CommandFailed, Exit
from node.cli.sim import parse_seeds
from node.simulator import campaign
from node.simulator.campaign import Setting, replay_command
from node.simulator.disk import Disk
from node.simulator.swarm import Conditions, FaultKind, draw, run_seed
from trellis.validators import ValidatorSet


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


def test_what_is_fixed_on_the_command_line_holds_for_every_seed() -> None:
    drawn = draw(3, 4, 1, Conditions(stakes=(10, 20, 20, 40), latency_ms=77, loss_permille=50))
    assert (drawn.stakes, drawn.weather.latency_ms, drawn.weather.loss_permille) == ((10, 20, 20, 40), 77, 50)
    corrupted = sum(drawn.stakes[index] for index, _ in drawn.byzantine)
    assert 3 * corrupted < 90, "never the one that holds almost half"
    result = run(
        "sim", "--stake", "10,20,20,15", "--latency", "150", "--loss", "2.5", "--seeds", "0..1", "--workers", "1"
    )
    assert code_of(result) == Exit.OK
    assert "n = 4, f = 1" in result.output


def test_a_network_can_be_split_again_and_again() -> None:
    result = run_seed(1, 4, 0, Conditions(partition_ms=700), skip=frozenset(range(10_000)))
    assert set(result.faults) == {FaultKind.PARTITION}
    assert 25 <= result.faults[FaultKind.PARTITION] <= 30, "40 s of 700 ms split and 700 ms whole"
    assert not result.failed


def test_a_long_run_makes_a_block_every_two_minutes_under_faults() -> None:
    result = run_seed(4, 4, 0, Conditions(duration_ms=3_600_000))
    assert (result.violation, result.stalled) == ("", False)
    assert result.virtual_ms >= 3_600_000
    assert 25 <= result.heights <= 250, "changes of stake make blocks too"
    assert sum(result.faults.values()) > 30


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--stake", "10,x"], "no list of stakes"),
        (["--stake", "10,10,10", "--nodes", "4"], "3 stakes for 4 validators"),
        (["--nodes", "4", "--byzantine", "2"], "a third of stake or more"),
        (["--byzantine", "1"], "without --nodes"),
    ],
)
def test_what_the_protocol_promises_nothing_about_is_wrong_usage(arguments: list[str], said: str) -> None:
    with pytest.raises(CommandFailed) as failure:
        trellis.main(["sim", *arguments], standalone_mode=False)
    assert failure.value.code is Exit.USAGE
    assert said in failure.value.message


def test_an_interrupted_campaign_goes_on_from_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "results"
    arguments = ("sim", "--nodes", "4", "--workers", "1", "--results", str(file), "--seeds")
    run(*arguments, "0..2")
    assert len(file.read_text().splitlines()) == 3
    ran: list[int] = []

    def counted(seed: int, *rest: Any) -> Any:
        ran.append(seed)
        return run_seed(seed, *rest)

    monkeypatch.setattr(campaign, "run_seed", counted)
    resumed = run(*arguments, "0..4")
    assert ran == [3, 4]
    assert resumed.output == run("sim", "--nodes", "4", "--workers", "1", "--seeds", "0..4").output


def test_the_replay_command_carries_the_conditions() -> None:
    setting = Setting(4, 1, Conditions((1, 2, 2, 2), 30, 25, 500, 1_800_000))
    assert replay_command(setting, 9) == (
        "trellis sim --nodes 4 --byzantine 1 --stake 1,2,2,2 "
        "--latency 30 --loss 2.5 --partition 500 --hours 0.5 --replay 9"
    )


def test_searches_say_how_much_they_saw_and_end_with_their_verdict() -> None:
    result = run("--output", "json", "sim", "--exhaustive", "--views", "1")
    assert code_of(result) == Exit.OK
    rows = json.loads(result.output)["searches"]
    assert all(row["complete"] and row["violation"] is None for row in rows)
    assert any(row["forks"] for row in rows), "with two of four corrupted there are forks, and all are blamed"
    twins = run("sim", "--twins", "--views", "1")
    assert "sim: passed: 64 scenarios" in twins.output


def test_a_search_that_finds_something_ends_with_no() -> None:
    with patch.object(ValidatorSet, "is_quorum", lambda self, power: 2 * power >= self.total_power):
        assert code_of(run("sim", "--exhaustive", "--views", "1")) == Exit.NO
        assert code_of(run("sim", "--twins", "--views", "1")) == Exit.NO
