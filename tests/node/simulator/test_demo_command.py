"""`trellis demo`: each tour shows what it says."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from node.cli import trellis


def run(*arguments: str) -> str:
    result = CliRunner().invoke(trellis, arguments)
    assert result.exit_code == 0, result.output
    return result.output


def test_four_nodes_commit_and_the_rules_are_shown() -> None:
    output = run("demo", "consensus", "--heights", "3")
    assert output.index("C4.1 PROPOSED") < output.index("C7.1 LOCKED") < output.index("C8.1 DECIDED")
    blocks = json.loads(run("--output", "json", "demo", "consensus", "--heights", "3"))["blocks"]
    assert [block["height"] for block in blocks][:3] == [1, 2, 3]
    assert all(len(block["committed_by"].split()) >= 3 for block in blocks)


def test_an_equivocator_is_accused_and_loses_stake_while_the_others_go_on() -> None:
    shown = json.loads(run("--output", "json", "demo", "byzantine"))
    assert shown["accused_of"] == "conflicting_votes"
    assert len(set(shown["it_signed"].split("; "))) == 2
    assert shown["honest_nodes_agree"]
    assert shown["stake_now"] < shown["stake_before"]
    assert shown["heights"] >= 12


@pytest.mark.parametrize("strategy", ["silent", "quiet_leader", "lock_liar", "equivocating_leader"])
def test_every_strategy_is_outvoted(strategy: str) -> None:
    assert json.loads(run("-o", "json", "demo", "byzantine", "--strategy", strategy, "--heights", "4"))["heights"] >= 4


def test_growth_is_measured_over_doubling_networks() -> None:
    output = run("demo", "scalability", "--nodes", "25", "--heights", "1")
    assert "deliveries a block: n^" in output
    rows = json.loads(run("-o", "json", "demo", "scalability", "--nodes", "25", "--heights", "1"))["networks"]
    assert [row["nodes"] for row in rows] == [10, 20, 25]
    assert rows[1]["deliveries_a_block"] > 3 * rows[0]["deliveries_a_block"]
