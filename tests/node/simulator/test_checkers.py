"""Each checker is shown what it exists to find."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.effects import Halt, HaltReason
from consensus.rules import Rule
from node.simulator import ledger
from node.simulator.checkers import SafetyViolation
from node.simulator.host import Host
from node.simulator.stage import Actor, Stage
from trellis.evidence import LockLie
from trellis.messages import Ballot, Proposal, ViewChange
from trellis.types import Hash, Height, View
from trellis.votes import SignedVote, Vote, VoteKind

OTHER = Hash(b"o" * 32)


@pytest.fixture
def stage() -> Stage:
    """A network that has decided three heights."""
    stage = Stage()
    stage.begin()
    assert stage.run_until(lambda: stage.lowest_honest() >= 3, 60_000_000)
    return stage


def signed(host: Actor, vote: Vote) -> Ballot | ViewChange:
    message = host.sign(vote)
    return ViewChange(message) if vote.kind is VoteKind.VIEW_CHANGE else Ballot(message)


def next_vote(host: Host, kind: VoteKind, view: int = 0, block_hash: Hash | None = OTHER) -> Vote:
    return Vote(kind, Height(host.height + 1), View(view), block_hash)


def test_agreement_notices_another_block_at_a_decided_height(stage: Stage) -> None:
    host = stage.actors[0]
    block, certificate = host.durable.chain[-1]
    stage.checkers.committed_hash[block.header.height] = OTHER
    with pytest.raises(SafetyViolation, match="agreement"):
        stage.checkers.committed(host, block, certificate)


def test_state_notices_another_root(stage: Stage) -> None:
    host = stage.actors[0]
    block, certificate = host.durable.chain[-1]
    stage.checkers.roots[block.header.height] = OTHER
    with pytest.raises(SafetyViolation, match="state"):
        stage.checkers.committed(host, block, certificate)


def test_validity_notices_a_block_that_the_ledger_refuses(stage: Stage) -> None:
    host = stage.actors[0]
    block, certificate = host.durable.chain[-1]
    broken = ledger.ChainBlock(block.header, block.parent_certificate, b"\0\0\0\0")
    with pytest.raises(SafetyViolation, match="validity"):
        stage.checkers.committed(host, broken, certificate)


def test_certificates_are_verified_from_scratch(stage: Stage) -> None:
    host = stage.actors[0]
    block, certificate = host.durable.chain[-1]
    forged = replace(certificate, signatures=tuple(bytes(len(s)) for s in certificate.signatures))
    with pytest.raises(SafetyViolation, match="certificate"):
        stage.checkers.committed(host, block, forged)


@pytest.mark.parametrize("kind", [VoteKind.PRE_PREPARE, VoteKind.COMMIT])
def test_two_votes_of_one_kind_and_view_are_noticed(stage: Stage, kind: VoteKind) -> None:
    host = stage.actors[0]
    stage.checkers.released(host, signed(host, next_vote(host, kind, 7)))
    with pytest.raises(SafetyViolation, match="double vote"):
        stage.checkers.released(host, signed(host, next_vote(host, kind, 7, Hash(b"p" * 32))))


def test_a_vote_below_the_own_view_change_is_noticed(stage: Stage) -> None:
    host = stage.actors[0]
    stage.checkers.released(host, signed(host, next_vote(host, VoteKind.VIEW_CHANGE, 9, None)))
    with pytest.raises(SafetyViolation, match="C9"):
        stage.checkers.released(host, signed(host, next_vote(host, VoteKind.COMMIT, 8)))


def test_a_prepare_of_what_the_leader_never_signed_is_noticed(stage: Stage) -> None:
    host = stage.actors[0]
    with pytest.raises(SafetyViolation, match="PREPARE"):
        stage.checkers.released(host, signed(host, next_vote(host, VoteKind.PREPARE, 5)))


def test_a_proposal_counts_only_if_its_signature_holds(stage: Stage) -> None:
    host = stage.actors[0]
    order = host.state.schedule.order(host.state.validators)
    leader = stage.actors[stage.index_of(order[1])]
    header = host.durable.chain[-1][0].header
    vote = next_vote(host, VoteKind.PRE_PREPARE, 1)
    prepare = signed(host, replace(vote, kind=VoteKind.PREPARE))
    stage.checkers.sent(Proposal(SignedVote(vote, leader.me, bytes(3_309)), header, None, body=OTHER))
    with pytest.raises(SafetyViolation, match="PREPARE"):
        stage.checkers.released(host, prepare)
    stage.checkers.sent(Proposal(leader.sign(vote), header, None, body=OTHER))
    stage.checkers.released(host, prepare)


def test_evidence_against_the_honest_is_noticed_and_against_others_is_not(stage: Stage) -> None:
    host = stage.actors[0]
    commit = host.sign(next_vote(host, VoteKind.COMMIT))
    lie = LockLie(commit, host.sign(next_vote(host, VoteKind.VIEW_CHANGE, 1, None)))
    with pytest.raises(SafetyViolation, match="evidence"):
        stage.checkers.accused(stage.actors[1], lie)
    host.turn()
    stage.checkers.accused(stage.actors[1], lie)
    assert stage.checkers.accused_hosts == {0: lie}


def test_a_halt_of_an_honest_host_is_noticed(stage: Stage) -> None:
    with pytest.raises(SafetyViolation, match="halt"):
        stage.checkers.halted(stage.actors[0], Halt(HaltReason.FORK, ()))


def test_a_guard_that_refuses_is_noticed_unless_the_log_was_lost(stage: Stage) -> None:
    host = stage.actors[0]
    vote = next_vote(host, VoteKind.COMMIT)
    with pytest.raises(SafetyViolation, match="guard"):
        stage.checkers.guard_refused(host, vote, Rule.GUARD_LOWER)
    host.lost_log = True
    stage.checkers.guard_refused(host, vote, Rule.GUARD_LOWER)
    assert stage.checkers.guard_refusals == 2


def test_the_corrupted_may_do_all_that(stage: Stage) -> None:
    host = stage.actors[0]
    host.turn()
    stage.checkers.released(host, signed(host, next_vote(host, VoteKind.COMMIT, 7)))
    stage.checkers.released(host, signed(host, next_vote(host, VoteKind.COMMIT, 7, Hash(b"p" * 32))))
    stage.checkers.halted(host, Halt(HaltReason.FORK, ()))
