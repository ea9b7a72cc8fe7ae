"""The sign guard: what is never signed, whatever the log says."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.guard import GUARD_BYTES, Quarantine, SignGuard, decode_sign_guard
from consensus.rules import Rule
from tests.chains import fake_members, set_of, some_hash
from trellis.encoding import DecodeError
from trellis.evidence import is_lock_lie, votes_conflict
from trellis.types import Height, View
from trellis.votes import Prepared, Vote, VoteKind

G = some_hash("genesis")
NAMES = ("A", "B")
BALLOTS = (VoteKind.PRE_PREPARE, VoteKind.PREPARE, VoteKind.COMMIT)


def ballot(kind: VoteKind, height: int, view: int, block: str = "A") -> Vote:
    return Vote(kind, Height(height), View(view), some_hash(block))


def change(height: int, view: int, prepared: tuple[int, str] | None = None) -> Vote:
    named = None if prepared is None else Prepared(View(prepared[0]), some_hash(prepared[1]))
    return Vote(VoteKind.VIEW_CHANGE, Height(height), View(view), prepared=named)


PREPARE, COMMIT, PRE_PREPARE = VoteKind.PREPARE, VoteKind.COMMIT, VoteKind.PRE_PREPARE


@pytest.mark.parametrize(
    ("signed", "asked", "refusal"),
    [
        pytest.param([], ballot(PREPARE, 1, 0), None, id="a first vote"),
        pytest.param([ballot(PREPARE, 5, 2)], ballot(PREPARE, 5, 2), None, id="the same vote again"),
        pytest.param([ballot(PREPARE, 5, 2)], ballot(PREPARE, 5, 2, "B"), Rule.GUARD_OTHER_HASH, id="another hash"),
        pytest.param([ballot(PREPARE, 5, 2)], ballot(COMMIT, 5, 2), None, id="the next step of one view"),
        pytest.param(
            [ballot(PREPARE, 5, 2)], ballot(COMMIT, 5, 2, "B"), Rule.GUARD_OTHER_HASH, id="PREPARE A, COMMIT B"
        ),
        pytest.param([ballot(PRE_PREPARE, 5, 2)], ballot(PREPARE, 5, 2, "B"), Rule.GUARD_OTHER_HASH, id="own proposal"),
        pytest.param([ballot(COMMIT, 5, 2)], ballot(PREPARE, 5, 2), None, id="an earlier step of the same content"),
        pytest.param([ballot(PREPARE, 5, 2)], ballot(PREPARE, 5, 1), Rule.GUARD_LOWER, id="one view lower"),
        pytest.param([ballot(PREPARE, 5, 2)], ballot(PREPARE, 5, 3, "B"), None, id="one view higher, another hash"),
        pytest.param([ballot(PREPARE, 5, 2)], ballot(PREPARE, 4, 9), Rule.GUARD_LOWER, id="one height lower"),
        pytest.param([ballot(PREPARE, 5, 2)], ballot(PREPARE, 6, 0, "B"), None, id="one height higher, view 0"),
        pytest.param([change(5, 2)], ballot(COMMIT, 5, 1), Rule.GUARD_LOWER, id="COMMIT after VIEW-CHANGE"),
        pytest.param([change(5, 2)], ballot(PREPARE, 5, 2), None, id="a vote of the view changed to"),
        pytest.param([change(5, 2)], change(5, 2), None, id="the same VIEW-CHANGE again"),
        pytest.param([change(5, 2)], change(5, 2, (1, "A")), Rule.GUARD_OTHER_VIEW_CHANGE, id="another VIEW-CHANGE"),
        pytest.param([change(5, 2)], change(5, 1), Rule.GUARD_LOWER, id="a lower VIEW-CHANGE"),
        pytest.param([change(5, 2)], change(5, 3), None, id="a higher VIEW-CHANGE"),
        pytest.param([ballot(COMMIT, 5, 1)], change(5, 2), Rule.GUARD_LOCK, id="a lock denied"),
        pytest.param([ballot(COMMIT, 5, 0)], change(5, 2), Rule.GUARD_LOCK, id="a lock of view 0 denied"),
        pytest.param([ballot(COMMIT, 5, 1)], change(5, 2, (0, "A")), Rule.GUARD_LOCK, id="a lower lock named"),
        pytest.param([ballot(COMMIT, 5, 1)], change(5, 2, (1, "B")), Rule.GUARD_LOCK, id="another lock of that view"),
        pytest.param([ballot(COMMIT, 5, 1)], change(5, 2, (1, "A")), None, id="the lock named"),
        pytest.param([ballot(COMMIT, 5, 1)], change(6, 2), None, id="the lock of an earlier height"),
        pytest.param(
            [ballot(COMMIT, 5, 1), change(5, 2, (1, "A"))], change(5, 3), Rule.GUARD_LOCK, id="a lock denied later"
        ),
        pytest.param([ballot(PREPARE, 5, 2)], change(5, 2), Rule.GUARD_STEP, id="VIEW-CHANGE after votes of its view"),
    ],
)
def test_the_guard(signed: list[Vote], asked: Vote, refusal: Rule | None) -> None:
    guard = SignGuard(G)
    for vote in signed:
        guard = guard.after(vote)
    assert guard.check(asked) is refusal
    if refusal is not None:
        with pytest.raises(ValueError, match="forbids"):
            guard.after(asked)


votes = st.one_of(
    st.builds(ballot, st.sampled_from(BALLOTS), st.integers(1, 2), st.integers(0, 3), st.sampled_from(NAMES)),
    st.builds(
        change,
        st.integers(1, 2),
        st.integers(1, 3),
        st.none() | st.tuples(st.integers(0, 2), st.sampled_from(NAMES)),
    ),
)


@given(st.lists(votes, max_size=30))
def test_nothing_that_the_guard_lets_through_is_ever_an_offence(asked: list[Vote]) -> None:
    guard = SignGuard(G)
    signed: list[Vote] = []
    for vote in asked:
        if guard.check(vote) is None:
            guard = guard.after(vote)
            signed.append(vote)
        assert decode_sign_guard(guard.encode()) == guard
    for one in signed:
        for other in signed:
            assert not votes_conflict(one, other)
            assert not is_lock_lie(one, other)


@given(st.lists(votes, max_size=12))
def test_what_was_signed_last_may_be_signed_again(asked: list[Vote]) -> None:
    guard = SignGuard(G)
    for vote in asked:
        if guard.check(vote) is None:
            guard = guard.after(vote)
            assert guard.check(vote) is None
            assert guard.after(vote) == guard


def test_a_guard_behind_an_intact_log_lets_the_log_finish() -> None:
    """The right order, log then guard: after a crash in between the guard lags one vote, and that vote is signed."""
    guard = SignGuard(G).after(ballot(PREPARE, 5, 0))
    logged = ballot(COMMIT, 5, 0)
    assert guard.check(logged) is None


def test_a_guard_ahead_of_the_log_refuses_what_the_log_would_sign_instead() -> None:
    """The wrong order, guard then log: after a crash in between the log knows nothing of the vote, and the guard stalls
    the replica exactly as it would with a lost log."""
    guard = SignGuard(G).after(ballot(PREPARE, 5, 0, "A"))
    assert guard.check(ballot(PREPARE, 5, 0, "B")) is Rule.GUARD_OTHER_HASH
    assert guard.after(change(5, 1)).check(ballot(PREPARE, 5, 0, "A")) is Rule.GUARD_LOWER


def test_the_state_has_one_size_and_one_encoding() -> None:
    guard = SignGuard(G).after(change(3, 1)).after(ballot(COMMIT, 3, 1))
    data = guard.encode()
    assert len(data) == len(SignGuard(G).encode()) == GUARD_BYTES
    assert decode_sign_guard(data) == guard


@pytest.mark.parametrize(
    ("at", "value"),
    [(0, 9), (49, 6), (50, 2), (50, 0), (83, 2), (84, 2), (84, 1), (125, 0)],
)
def test_bytes_that_are_no_guard_are_refused(at: int, value: int) -> None:
    data = bytearray(SignGuard(G).after(change(3, 1)).after(ballot(COMMIT, 3, 1)).encode())
    before = bytes(data)
    data[at] = value
    if at == 84 and value == 1:
        assert decode_sign_guard(bytes(data)) != decode_sign_guard(before)
        return
    with pytest.raises(DecodeError):
        decode_sign_guard(bytes(data))


def test_truncated_and_extended_state_is_refused() -> None:
    data = SignGuard(G).encode()
    for bad in (data[:-1], data + b"\0", b""):
        with pytest.raises(DecodeError):
            decode_sign_guard(bad)


def test_quarantine_waits_three_heights_beyond_what_quorum_power_reported() -> None:
    members = fake_members([1] * 4)
    me, *others = [member.address for member in members]
    quarantine = Quarantine(me, set_of(members))
    quarantine.report(me, Height(99))
    quarantine.report(fake_members([1], first_seed=50)[0].address, Height(99))
    quarantine.report(others[0], Height(7))
    quarantine.report(others[0], Height(5))
    quarantine.report(others[1], Height(9))
    assert quarantine.target is None
    assert not quarantine.is_over(Height(1_000))
    quarantine.report(others[2], Height(8))
    assert quarantine.target == 12
    quarantine.report(others[2], Height(80))
    assert quarantine.target == 12
    assert not quarantine.is_over(Height(11))
    assert quarantine.is_over(Height(12))
