"""Counting: votes by identity, thresholds told once, rungs that never fall; and what quorums guarantee."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.tally import Counted, Ladder, Tally
from tests.chains import Member, fake_members, set_of, some_hash
from trellis.types import Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import SignedVote, Vote, VoteKind

A, B = some_hash("A"), some_hash("B")
G = some_hash("genesis")


def members_of(powers: list[int]) -> tuple[tuple[Member, ...], ValidatorSet]:
    members = tuple(sorted(fake_members(powers), key=lambda member: member.address))
    return members, set_of(members)


def prepare(member: Member, block_hash: Hash, view: int = 0) -> SignedVote:
    return member.sign(Vote(VoteKind.PREPARE, Height(1), View(view), block_hash), G)


def test_a_quorum_is_told_once_and_only_for_one_block_in_one_view() -> None:
    members, validators = members_of([1] * 4)
    tally = Tally(validators)
    told = [tally.add(prepare(member, A), A) for member in members]
    assert told == [Counted.COUNTED, Counted.COUNTED, Counted.QUORUM, Counted.COUNTED]
    assert tally.has_quorum(View(0), A)
    assert not tally.has_quorum(View(1), A)
    assert not tally.has_quorum(View(0), B)


def test_one_validator_counts_once_however_often_its_vote_arrives() -> None:
    members, validators = members_of([1] * 4)
    tally = Tally(validators)
    assert tally.add(prepare(members[0], A), A) is Counted.COUNTED
    for _ in range(5):
        assert tally.add(prepare(members[0], A), A) is Counted.REPEATED
    assert tally.power(View(0), A) == 1


def test_a_second_different_vote_counts_for_nothing() -> None:
    members, validators = members_of([1] * 4)
    tally = Tally(validators)
    tally.add(prepare(members[0], A), A)
    assert tally.add(prepare(members[0], B), B) is Counted.CONFLICTING
    assert tally.power(View(0), B) == 0
    assert tally.add(prepare(members[0], B, view=1), B) is Counted.COUNTED


@pytest.mark.parametrize(
    ("powers", "voters", "quorum"),
    [
        ([1, 1, 1], [0, 1], False),
        ([1, 1, 1], [0, 1, 2], True),
        ([1, 1, 1, 1], [0, 1], False),
        ([1, 1, 1, 1], [0, 1, 2], True),
        ([2, 2, 2], [0, 1], False),
        ([3, 3, 3, 1], [0, 1], False),
        ([3, 3, 3, 1], [0, 1, 3], True),
        ([67, 33], [0], True),
        ([66, 33], [0], False),
        ([2**62, 2**62, 2**62], [0, 1], False),
        ([1], [0], True),
    ],
)
def test_the_boundary_of_a_quorum_is_exactly_above_two_thirds(
    powers: list[int], voters: list[int], quorum: bool
) -> None:
    members = fake_members(powers)
    validators = set_of(members)
    tally = Tally(validators)
    for voter in voters:
        tally.add(prepare(members[voter], A), A)
    assert tally.has_quorum(View(0), A) is quorum


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8))
def test_two_quorums_share_more_than_a_third_at_every_size_and_split_of_stake(powers: list[int]) -> None:
    """So with less than a third faulty every two quorums share an honest validator."""
    members = fake_members(powers)
    validators = set_of(members)
    everyone = range(len(powers))
    sets = [
        frozenset(chosen)
        for size in range(1, len(powers) + 1)
        for chosen in combinations(everyone, size)
        if validators.is_quorum(sum(powers[index] for index in chosen))
    ]
    smallest = [one for one in sets if not any(other < one for other in sets)]
    for one, other in combinations(smallest, 2):
        assert validators.is_blocking(sum(powers[index] for index in one & other))
    for one in smallest:
        rest = sum(powers) - sum(powers[index] for index in one)
        assert not validators.is_quorum(rest)


def test_a_certificate_joins_exactly_the_votes_for_that_block() -> None:
    members, validators = members_of([1] * 4)
    tally = Tally(validators)
    for member, block_hash in zip(members, (A, B, A, A), strict=True):
        tally.add(prepare(member, block_hash), block_hash)
    certificate = tally.certificate(View(0), A)
    assert certificate.signer_addresses(validators) == tuple(members[i].address for i in (0, 2, 3))
    assert certificate.shape_fault(validators) is None


def test_the_signers_that_are_verified_are_the_signers_that_are_rewarded() -> None:
    members, validators = members_of([1] * 7)
    tally = Tally(validators)
    for member in members[1:]:
        tally.add(prepare(member, A), A)
    certificate = tally.certificate(View(0), A)
    keys = [check.public_key for check in certificate.checks(G, validators)]
    rewarded = [validators.get(address) for address in certificate.signer_addresses(validators)]
    assert keys == [member.public_key for member in rewarded if member is not None]
    assert len(keys) == len(certificate.signatures) == 6


def test_old_views_are_forgotten_and_later_ones_stay() -> None:
    members, validators = members_of([1] * 4)
    tally = Tally(validators)
    for view in range(4):
        for member in members:
            tally.add(prepare(member, A, view), A)
    assert tally.quorum_views(A) == [0, 1, 2, 3]
    tally.forget_below(View(2))
    assert tally.quorum_views(A) == [2, 3]
    assert tally.vote_of(View(1), members[0].address) is None
    assert tally.vote_of(View(3), members[0].address) is not None


def test_a_rung_never_falls_and_strangers_have_no_power() -> None:
    members, validators = members_of([1] * 4)
    ladder = Ladder(validators)
    assert ladder.raise_to(members[0].address, 5)
    assert not ladder.raise_to(members[0].address, 3)
    assert not ladder.raise_to(members[0].address, 5)
    assert not ladder.raise_to(fake_members([1], first_seed=99)[0].address, 9)
    assert ladder.rung_of(members[0].address) == 5
    assert (ladder.power_from(5), ladder.power_from(6)) == (1, 0)


@pytest.mark.parametrize(
    ("rungs", "highest"),
    [
        ([], None),
        ([9], None),
        ([9, 1], 1),
        ([9, 5, 1], 5),
        ([3, 3, 9, 9], 9),
        ([2, 4, 6, 8], 6),
    ],
)
def test_the_highest_blocking_rung_is_one_that_more_than_a_third_is_at_or_above(
    rungs: list[int], highest: int | None
) -> None:
    members, validators = members_of([1] * 4)
    ladder = Ladder(validators)
    for member, rung in zip(members, rungs, strict=False):
        ladder.raise_to(member.address, rung)
    assert ladder.highest_blocking() == highest


def test_another_validator_set_weighs_the_same_knowledge_anew() -> None:
    members, validators = members_of([1, 1, 1, 1])
    ladder = Ladder(validators)
    ladder.raise_to(members[0].address, 7)
    assert ladder.highest_blocking() is None
    heavier = set_of([Member(members[0].signer, 5), *members[1:]])
    assert ladder.moved_to(heavier).highest_blocking() == 7
    assert ladder.moved_to(set_of(members[1:])).rung_of(members[0].address) is None
