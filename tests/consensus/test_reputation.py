"""Local reputation in integer thousandths."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.effects import Violation
from consensus.reputation import BAN_LINE, FULL, Reputation
from tests.chains import some_hash
from trellis.types import Address

ONE, OTHER = Address(some_hash("one")), Address(some_hash("other"))


def test_everybody_starts_at_full_reputation() -> None:
    reputation = Reputation()
    assert reputation.score(ONE) == FULL
    assert not reputation.is_banned(ONE)
    assert reputation.statistics(ONE).violations == ()


def test_the_eighth_violation_bans_and_patience_lifts_the_ban() -> None:
    reputation = Reputation()
    banned = []
    for _ in range(8):
        reputation.violate(ONE, Violation.EQUIVOCATION)
        banned.append(reputation.is_banned(ONE))
    assert banned == [False] * 7 + [True]
    assert reputation.score(ONE) == 200
    assert not reputation.is_banned(OTHER)
    for _ in range(100):
        reputation.recover()
    assert not reputation.is_banned(ONE)


@pytest.mark.parametrize("violation", [Violation.TIMEOUT, Violation.NON_PARTICIPATION])
def test_slowness_and_silence_never_ban(violation: Violation) -> None:
    reputation = Reputation()
    for _ in range(100):
        reputation.violate(ONE, violation)
    assert reputation.score(ONE) == BAN_LINE
    assert not reputation.is_banned(ONE)


def test_silence_does_not_lift_who_is_already_banned() -> None:
    reputation = Reputation()
    for _ in range(9):
        reputation.violate(ONE, Violation.EQUIVOCATION)
    reputation.violate(ONE, Violation.NON_PARTICIPATION)
    assert reputation.score(ONE) == 100


@given(st.lists(st.sampled_from([*Violation, None]), max_size=200))
def test_scores_stay_within_bounds_and_coming_back_is_always_possible(story: list[Violation | None]) -> None:
    reputation = Reputation()
    for happened in story:
        if happened is None:
            reputation.recover()
        else:
            reputation.violate(ONE, happened)
        assert 0 <= reputation.score(ONE) <= FULL
    for _ in range(FULL):
        reputation.recover()
    assert reputation.score(ONE) == FULL


def test_statistics_count_by_kind() -> None:
    reputation = Reputation()
    for violation in (Violation.TIMEOUT, Violation.EQUIVOCATION, Violation.TIMEOUT):
        reputation.violate(ONE, violation)
    statistics = reputation.statistics(ONE)
    assert statistics.score == 700
    assert statistics.violations == ((Violation.EQUIVOCATION, 1), (Violation.TIMEOUT, 2))


def test_who_leaves_the_set_is_forgotten() -> None:
    reputation = Reputation()
    reputation.violate(ONE, Violation.MALFORMED)
    reputation.violate(OTHER, Violation.MALFORMED)
    reputation.keep([OTHER])
    assert reputation.score(ONE) == FULL
    assert reputation.score(OTHER) == 900
