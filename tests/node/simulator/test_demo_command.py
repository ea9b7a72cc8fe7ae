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
    output = run("demo", "scalability", "--nodes", "25")
    assert "messages: n^2.0" in output
    rows = json.loads(run("-o", "json", "demo", "scalability", "--nodes", "25"))["networks"]
    assert [row["validators"] for row in rows] == [10, 20, 25]
    assert all(row["delivered"] == row["messages"] and not row["computed"] for row in rows)


def test_sampled_replicas_hear_all_validators_and_totals_are_labelled_as_computed() -> None:
    (_, row) = json.loads(run("-o", "json", "demo", "scalability", "--nodes", "19", "--replicas", "7"))["networks"]
    assert row["computed"]
    assert row["messages"] == 18 + 2 * 19 * 18
    heard_by_one = 2 * 18 + 1
    assert row["delivered"] == 7 * heard_by_one - 1, "the leader hears no proposal"
