"""Evidence on the chain: real accusations cost stake once, false ones their sender, and nothing else is touched."""

from __future__ import annotations

from dataclasses import replace

import pytest

from state.results import read_incidents
from state.stake import read_stake, read_unbondings, slashable
from tests.chains import Member, some_hash
from tests.state.kit import PARAMETERS, Chain, address, make_chain
from trellis.evidence import Evidence, LockLie, accuse_of_conflict, encode_evidence
from trellis.outcome import Outcome
from trellis.transaction import Bond, Data, SubmitEvidence, Unbond, Unjail
from trellis.types import Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind


def voted(chain: Chain, member: Member, kind: VoteKind, height: int, view: int, block: object) -> SignedVote:
    return member.sign(Vote(kind, Height(height), View(view), some_hash(block)), chain.genesis.hash)


def double_sign(chain: Chain, member: Member, height: int, view: int = 0) -> Evidence:
    one = voted(chain, member, VoteKind.PREPARE, height, view, "one")
    other = voted(chain, member, VoteKind.PREPARE, height, view, "other")
    return accuse_of_conflict(one, other, chain.genesis.hash)


def lock_lie(chain: Chain, member: Member, height: int, prepared: Prepared | None = None) -> Evidence:
    commit = voted(chain, member, VoteKind.COMMIT, height, 1, "locked")
    vote = Vote(VoteKind.VIEW_CHANGE, Height(height), View(2), prepared=prepared)
    return LockLie(commit, member.sign(vote, chain.genesis.hash))


def report(chain: Chain, evidence: Evidence) -> Outcome:
    return chain.outcome(chain.rich[0], SubmitEvidence(encode_evidence(evidence)))


def bonded(chain: Chain, member: Member) -> int:
    stake = read_stake(chain.state, member.address)
    return 0 if stake is None else stake.bonded


def test_a_double_vote_costs_a_fifth_of_stake_at_once_and_power_at_the_epochs_end() -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[1]
    burned = chain.totals.burned
    assert report(chain, double_sign(chain, offender, 2)) is Outcome.OK
    assert bonded(chain, offender) == 800
    assert chain.totals.burned >= burned + 200
    assert chain.validators.power_of(offender.address) == 1_000
    chain.run_to(10)
    assert chain.validators.power_of(offender.address) == 0
    incidents = read_incidents(chain.state, offender.address)
    assert incidents.count == 1
    assert incidents.latest[0].units == 200


def test_a_prepare_and_a_commit_of_one_view_for_different_blocks_are_a_double_vote() -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[0]
    one = voted(chain, offender, VoteKind.PREPARE, 3, 0, "x")
    other = voted(chain, offender, VoteKind.COMMIT, 3, 0, "y")
    assert report(chain, accuse_of_conflict(one, other, chain.genesis.hash)) is Outcome.OK


def test_a_lock_lie_costs_a_fifth_too() -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[2]
    assert report(chain, lock_lie(chain, offender, 3, Prepared(View(0), some_hash("older")))) is Outcome.OK
    assert bonded(chain, offender) == 800


def test_a_view_change_that_names_the_lock_is_no_offence() -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[2]
    honest = lock_lie(chain, offender, 3, Prepared(View(1), some_hash("locked")))
    assert report(chain, honest) is Outcome.EVIDENCE_INVALID
    assert bonded(chain, offender) == 1_000


def test_votes_for_different_blocks_in_different_views_are_no_offence() -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[2]
    one = voted(chain, offender, VoteKind.PREPARE, 3, 0, "x")
    other = voted(chain, offender, VoteKind.PREPARE, 3, 1, "y")
    assert report(chain, accuse_of_conflict(one, other, chain.genesis.hash)) is Outcome.EVIDENCE_INVALID


def test_one_offence_height_is_punished_once() -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[1]
    assert report(chain, double_sign(chain, offender, 2)) is Outcome.OK
    assert report(chain, double_sign(chain, offender, 2, view=1)) is Outcome.ALREADY_PUNISHED
    assert report(chain, lock_lie(chain, offender, 2)) is Outcome.ALREADY_PUNISHED
    assert bonded(chain, offender) == 800
    assert report(chain, double_sign(chain, offender, 3)) is Outcome.OK
    assert bonded(chain, offender) == 640


@pytest.mark.parametrize("part", ["first", "second"])
def test_a_forged_signature_in_evidence_costs_only_whoever_sent_it(part: str) -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[1]
    evidence = double_sign(chain, offender, 2)
    vote = getattr(evidence, part)
    forged = replace(evidence, **{part: replace(vote, signature=bytes(len(vote.signature)))})  # type: ignore[arg-type]  # a vote, by name
    before = chain.account(chain.rich[0]).balance
    assert report(chain, forged) is Outcome.EVIDENCE_INVALID
    assert bonded(chain, offender) == 1_000
    assert chain.account(chain.rich[0]).balance == before - 20_000


def test_bytes_that_are_no_evidence_are_charged() -> None:
    chain = make_chain()
    assert chain.outcome(chain.rich[0], SubmitEvidence(b"nonsense")) is Outcome.EVIDENCE_MALFORMED


def test_votes_of_strangers_and_of_heights_to_come_prove_nothing() -> None:
    chain = make_chain()
    chain.run_to(3)
    stranger = Member(chain.rich[3], 5)
    assert report(chain, double_sign(chain, stranger, 2)) is Outcome.EVIDENCE_INVALID
    assert report(chain, double_sign(chain, chain.members[0], 50)) is Outcome.EVIDENCE_INVALID
    assert report(chain, double_sign(chain, chain.members[0], 0)) is Outcome.EVIDENCE_INVALID


@pytest.mark.parametrize(("age", "outcome"), [(30, Outcome.OK), (31, Outcome.EVIDENCE_TOO_OLD)])
def test_evidence_counts_up_to_the_window_and_no_longer(age: int, outcome: Outcome) -> None:
    chain = make_chain()
    chain.run_to(2 + age - 1)
    assert report(chain, double_sign(chain, chain.members[1], 2)) is outcome


def test_stake_on_its_way_out_is_slashed_with_what_is_bonded() -> None:
    chain = make_chain()
    offender = chain.members[1]
    signer = offender.signer
    chain.step(chain.tx(signer, Unbond(500)))
    assert slashable(chain.state, offender.address) == 1_000
    assert report(chain, double_sign(chain, offender, 1)) is Outcome.OK
    assert bonded(chain, offender) == 400
    assert [entry.amount for entry in read_unbondings(chain.state, offender.address)] == [400]


def test_who_left_the_set_is_still_slashed_for_its_last_vote() -> None:
    """It unbonds everything, votes twice in its last block, and is reported when the window is about to close."""
    chain = make_chain()
    offender = chain.members[1]
    chain.step(chain.tx(offender.signer, Unbond(1_000)))
    chain.run_to(39)
    assert offender.address not in chain.validators
    assert report(chain, double_sign(chain, offender, 10)) is Outcome.OK
    assert slashable(chain.state, offender.address) == 800


def test_a_jailed_validator_comes_back_after_its_time_with_enough_stake() -> None:
    chain = make_chain(parameters=replace(PARAMETERS, min_stake=900))
    offender = chain.members[1]
    chain.run_to(3)
    assert report(chain, double_sign(chain, offender, 2)) is Outcome.OK
    signer = offender.signer
    assert chain.outcome(signer, Unjail()) is Outcome.STILL_JAILED
    chain.run_to(25)
    assert offender.address not in chain.validators
    assert chain.outcome(signer, Unjail()) is Outcome.BELOW_MINIMUM_STAKE
    more = read_stake(chain.state, offender.address)
    assert more is not None
    bond = Bond(200, more.alg_id, more.public_key, more.network_id)
    assert chain.outcome(signer, bond) is Outcome.OK
    assert chain.outcome(signer, Unjail()) is Outcome.OK
    assert chain.outcome(signer, Unjail()) is Outcome.NOT_JAILED
    chain.run_to(30)
    assert offender.address in chain.validators


def test_whoever_reports_gets_nothing() -> None:
    """A reward for reporting would let an offender take its own slash back."""
    chain = make_chain()
    chain.run_to(3)
    chain.outcome(chain.rich[0], Data(b"key"))
    before = chain.account(chain.rich[0]).balance
    report(chain, double_sign(chain, chain.members[1], 2))
    assert chain.account(chain.rich[0]).balance == before - 20_000


def test_a_punishment_is_forgotten_when_its_evidence_is_too_old_anyway() -> None:
    chain = make_chain()
    chain.run_to(3)
    offender = chain.members[1]
    report(chain, double_sign(chain, offender, 2))
    assert any(key.startswith(b"o") for key, _ in chain.state.items())
    chain.run_to(33)
    assert not any(key.startswith(b"o") for key, _ in chain.state.items())
    assert report(chain, double_sign(chain, offender, 2)) is Outcome.EVIDENCE_TOO_OLD


def test_reporting_is_open_to_everyone() -> None:
    chain = make_chain()
    chain.run_to(3)
    assert address(chain.rich[2]) not in chain.validators
    kind = SubmitEvidence(encode_evidence(double_sign(chain, chain.members[3], 1)))
    assert chain.outcome(chain.rich[2], kind) is Outcome.OK
