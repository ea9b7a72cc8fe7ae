"""The searches over the production core: what they find, and that each would notice a core with a rule taken away."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest

from consensus import proposals
from consensus.effects import VotingMessage
from consensus.evidence_detection import EvidenceDetector
from consensus.instance import Instance
from node.simulator.exhaustive import Found, Scope, Search
from node.simulator.machine import Council, Machine
from node.simulator.twins import Twins, partitions
from tests.node.simulator.mutants import MUTANTS
from trellis.messages import Ballot
from trellis.types import View
from trellis.votes import Vote, VoteKind


def search(views: int, *byzantine: int, restarts: int = 0, most_states: int = 5_000_000) -> Found:
    return Search(Scope(views, frozenset(byzantine), restarts, most_states=most_states)).run()


@contextmanager
def mutant(name: str) -> Iterator[None]:
    (chosen,) = (mutant for mutant in MUTANTS if mutant.name == name)
    with chosen.alive():
        yield


@contextmanager
def prepares_twice() -> Iterator[None]:
    """A replica that takes a second proposal in a view, and PREPAREs it too."""
    accept = proposals.hear_proposal

    def hear_proposal(instance: Instance, message: Any) -> bool:
        known = instance.accepted.pop(message.signed.vote.view, None)
        taken = accept(instance, message)
        if not taken and known is not None:
            instance.accepted[message.signed.vote.view] = known
        if taken and known is not None:
            instance.votes.pop((VoteKind.PREPARE, message.signed.vote.view), None)
        return taken

    with patch.object(proposals, "hear_proposal", hear_proposal):
        yield


def test_two_views_are_searched_to_the_end_and_every_state_is_safe() -> None:
    found = search(2, 3)
    assert (found.violation, found.complete) == ("", True)
    assert found.states == 21_092, "the number stands in the README: say why, if it changes"
    assert found.decisions > 5_000, "the core was made to decide wherever a block could be decided"


def test_a_restart_anywhere_in_a_view_changes_nothing() -> None:
    found = search(1, 0, restarts=1)
    assert (found.violation, found.complete) == ("", True)
    assert found.states > 200


def test_after_every_fork_the_logs_of_the_honest_blame_more_than_a_third() -> None:
    """Two of four are corrupted: forks there are, and each leaves proof against both."""
    found = search(2, 2, 3)
    assert (found.violation, found.complete) == ("", True)
    assert found.forks >= 18


def test_a_search_that_is_cut_says_so_and_how_deep_it_came() -> None:
    found = search(3, 0, most_states=3_000)
    assert not found.complete
    assert found.violation == ""
    assert 3 <= found.depth <= 20


@pytest.mark.parametrize(
    ("name", "byzantine", "said"),
    [
        ("the lock is dropped", 3, "evidence: 0 accuses the honest 0"),
        ("half of power is a quorum", 0, "C7"),
        ("a third of PREPAREs is enough to COMMIT", 0, "C7"),
        ("duplicate votes count", 0, "C7"),
        ("COMMIT below the own VIEW-CHANGE (C9)", 3, "evidence: 0 accuses the honest 0"),
    ],
)
def test_the_search_catches_a_core_where(name: str, byzantine: int, said: str) -> None:
    with mutant(name):
        found = search(2, byzantine, most_states=60_000)
    assert found.violation.startswith(said), found
    assert 2 <= len(found.path) <= 3, "the shortest way there is told"


def test_the_search_catches_a_second_prepare() -> None:
    with prepares_twice():
        found = search(1, 0)
    assert found.violation == "evidence: 1 accuses the honest 1"
    assert found.path == ["1 hears a proposal of X0 in view 0", "1 hears a proposal of Y0 in view 0"]


def test_the_search_catches_a_restart_that_forgets_its_votes() -> None:
    with mutant("a restart forgets its votes"):
        found = search(1, 0, restarts=1)
    assert found.violation.startswith("double vote")


def test_the_search_catches_blame_that_was_thrown_away() -> None:
    """Without the archived justifications and certificates some fork would go unpunished."""
    with patch.object(EvidenceDetector, "_lock_lie", lambda self, signed, votes: ()):
        found = search(2, 0, 3)
    assert found.violation.startswith("accountability")


def test_twins_under_every_partition_of_two_views_stay_harmless() -> None:
    for twins_lead in range(4):
        found = Twins(twins_lead, views=2).run()
        assert (found.violation, found.scenarios) == ("", 16**2)
        assert found.forked_proposals > 100, "two copies of one key do contradict each other"
        assert found.decided > 100


@pytest.mark.parametrize(
    ("name", "views", "said"),
    [
        ("half of power is a quorum", 1, "agreement"),
        ("a third of PREPAREs is enough to COMMIT", 2, "no progress"),
    ],
)
def test_twins_catch_a_core_where(name: str, views: int, said: str) -> None:
    with mutant(name):
        found = [Twins(twins_lead, views).run() for twins_lead in (0, 3)]
    (caught,) = [one for one in found if one.violation.startswith(said)]
    assert len(caught.partitions) == views


def test_twins_catch_a_second_prepare() -> None:
    with prepares_twice():
        found = Twins(0, views=1).run()
    assert found.violation == "double vote: 1 signed two PREPARE in view 0"
    assert found.partitions == [[]], "all together, the twins among them"


def test_all_sixteen_ways_to_split_five_processes_are_tried_once() -> None:
    sides = list(partitions())
    assert len(sides) == len(set(sides)) == 16
    assert frozenset() in sides
    assert all(0 not in side for side in sides)


def test_a_copy_of_a_replica_goes_its_own_way() -> None:
    """Otherwise states would change after they were told apart."""
    council = Council()
    leader, follower = Machine(council, 0, 1), Machine(council, 1, 1)
    (proposal, _) = leader.first.sent
    before = follower.first
    after = follower.hears(before, council.delivery((proposal,), ""))
    assert after is not before
    assert [message.signed.vote.kind for message in after.sent] == [VoteKind.PREPARE]
    assert before.sent == ()
    assert follower.hears(before, council.delivery((proposal,), "")) is after
    assert follower.times_out(before).view == 1
    assert before.view == 0


def test_what_moves_nothing_is_no_new_state() -> None:
    council = Council()
    machine = Machine(council, 1, 1)
    ballot = council.one(_prepare(council, 2))
    assert machine.hears(machine.first, council.delivery((ballot,), "")) is machine.first


def _prepare(council: Council, who: int) -> VotingMessage:
    return Ballot(council.sign(who, Vote(VoteKind.PREPARE, council.started.height, View(0), council.block(0, 0).hash)))
