"""Offences (a), (a2) and (b), found in any order, told once, never of the innocent."""

from __future__ import annotations

from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.evidence_detection import MAX_VOTES_REMEMBERED, EvidenceDetector, offences_among
from consensus.guard import SignGuard
from tests.chains import fake_members, set_of, some_hash
from tests.signing import fake_verify_all
from trellis.evidence import ConflictingVotes, LockLie, evidence_fault
from trellis.types import Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind

MEMBERS = fake_members([1] * 4)
VALIDATORS = set_of(MEMBERS)
G = some_hash("genesis")
P, C, PP = VoteKind.PREPARE, VoteKind.COMMIT, VoteKind.PRE_PREPARE


def ballot(kind: VoteKind, view: int, block: str) -> SignedVote:
    return MEMBERS[0].sign(Vote(kind, Height(1), View(view), some_hash(block)), G)


def change(view: int, prepared: tuple[int, str] | None = None) -> SignedVote:
    named = None if prepared is None else Prepared(View(prepared[0]), some_hash(prepared[1]))
    return MEMBERS[0].sign(Vote(VoteKind.VIEW_CHANGE, Height(1), View(view), prepared=named), G)


@pytest.mark.parametrize(
    ("votes", "kinds"),
    [
        ((ballot(P, 0, "A"), ballot(P, 0, "A")), []),
        ((ballot(P, 0, "A"), ballot(P, 1, "B")), []),
        ((ballot(P, 0, "A"), ballot(C, 0, "A")), []),
        ((ballot(PP, 0, "A"), ballot(P, 0, "B")), []),
        ((ballot(P, 0, "A"), ballot(P, 0, "B")), [ConflictingVotes]),
        ((ballot(PP, 0, "A"), ballot(PP, 0, "B")), [ConflictingVotes]),
        ((ballot(C, 0, "A"), ballot(C, 0, "B")), [ConflictingVotes]),
        ((ballot(P, 0, "A"), ballot(C, 0, "B")), [ConflictingVotes]),
        ((change(1), change(2)), []),
        ((change(1), change(1, (0, "A"))), [ConflictingVotes]),
        ((ballot(C, 0, "A"), change(1)), [LockLie]),
        ((ballot(C, 0, "A"), change(1, (0, "A"))), []),
        ((ballot(C, 2, "A"), change(4, (1, "A"))), [LockLie]),
        ((ballot(C, 2, "A"), change(4, (3, "B"))), []),
        ((ballot(C, 2, "A"), change(2)), []),
        ((ballot(C, 0, "A"), change(1), change(2)), [LockLie]),
        ((ballot(P, 0, "A"), ballot(P, 0, "B"), ballot(C, 0, "B")), [ConflictingVotes]),
        ((ballot(P, 0, "A"), ballot(P, 0, "B"), ballot(C, 0, "A"), change(1)), [ConflictingVotes, LockLie]),
    ],
)
def test_offences_are_found_in_any_order_and_each_kind_is_told_once(
    votes: tuple[SignedVote, ...], kinds: list[type]
) -> None:
    for order in permutations(votes):
        detector = EvidenceDetector(G)
        found = [evidence for signed in order for evidence in detector.examine(signed)]
        assert sorted(type(evidence).__name__ for evidence in found) == sorted(kind.__name__ for kind in kinds)
        for evidence in found:
            assert evidence_fault(evidence, G, VALIDATORS, fake_verify_all) is None
            assert evidence.offender == MEMBERS[0].address


def test_one_offence_has_one_form_whichever_vote_came_first() -> None:
    one, other = ballot(P, 0, "A"), ballot(P, 0, "B")
    assert offences_among([one, other], G) == offences_among([other, one], G)


def test_votes_of_different_heights_or_validators_never_conflict() -> None:
    heights = [MEMBERS[0].sign(Vote(P, Height(h), View(0), some_hash(h)), G) for h in range(1, 5)]
    signers = [member.sign(Vote(P, Height(9), View(0), some_hash(i)), G) for i, member in enumerate(MEMBERS)]
    assert offences_among([*heights, *signers], G) == []


def test_a_validator_that_signs_view_after_view_evicts_only_its_own_votes() -> None:
    detector = EvidenceDetector(G)
    other = MEMBERS[1].sign(Vote(P, Height(1), View(0), some_hash("A")), G)
    detector.examine(other)
    for view in range(3 * MAX_VOTES_REMEMBERED):
        detector.examine(ballot(P, view, "A"))
    assert detector.knows(other)
    assert not detector.knows(ballot(P, 0, "A"))
    assert detector.knows(ballot(P, 3 * MAX_VOTES_REMEMBERED - 1, "A"))
    assert not detector.knows(ballot(P, 3 * MAX_VOTES_REMEMBERED - 1, "B"))


votes = st.one_of(
    st.builds(ballot, st.sampled_from([PP, P, C]), st.integers(0, 3), st.sampled_from("AB")),
    st.builds(change, st.integers(1, 4), st.none() | st.tuples(st.integers(0, 2), st.sampled_from("AB"))),
)


@given(st.lists(votes, max_size=25), st.randoms(use_true_random=False))
def test_whoever_keeps_to_its_guard_is_never_accused(asked: list[SignedVote], order: object) -> None:
    guard = SignGuard(G)
    signed = []
    for vote in asked:
        if guard.check(vote.vote) is None:
            guard = guard.after(vote.vote)
            signed.append(vote)
    order.shuffle(signed)  # type: ignore[attr-defined]  # Hypothesis gives a Random
    assert offences_among(signed, G) == []
