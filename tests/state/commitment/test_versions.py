"""Speculative states: forks, commits, drops, and what is refused once a rival was committed."""

from __future__ import annotations

import pytest

from state.commitment.versions import (
    MAX_SPECULATIVE_DEPTH,
    MemoryState,
    SpeculativeState,
    StaleStateError,
    StateVersion,
)
from tests.state.commitment.reference import full_root


@pytest.fixture
def state() -> MemoryState:
    state = MemoryState(4)
    state.apply({b"a": b"1", b"b": b"2"})
    return state


def test_extending_leaves_the_parent_as_it_was(state: MemoryState) -> None:
    before = state.node
    after = state.extend({b"a": None, b"c": b"3"})
    assert state.node == before
    assert (state.get(b"a"), after.get(b"a"), after.get(b"b"), after.get(b"c")) == (b"1", None, b"2", b"3")


def test_rivals_do_not_see_each_other(state: MemoryState) -> None:
    one, other = state.extend({b"a": b"one"}), state.extend({b"a": b"other"})
    assert (one.get(b"a"), other.get(b"a")) == (b"one", b"other")
    assert one.root != other.root


def test_descendants_of_a_committed_state_live_on(state: MemoryState) -> None:
    first = state.extend({b"a": b"first"})
    second = first.extend({b"b": None})
    third = second.extend({b"c": b"third"})
    expected = third.node
    state.commit(first)
    assert second.get(b"a") == b"first"
    state.commit(second)
    assert third.node == expected
    state.commit(third)
    assert state.node == expected == full_root({b"a": b"first", b"c": b"third"}, 4)


def test_a_committed_state_answers_by_the_committed_one_until_the_next_commit(state: MemoryState) -> None:
    first = state.extend({b"a": b"first"})
    state.commit(first)
    assert first.get(b"a") == b"first"
    assert first.node == state.node
    state.apply({b"a": b"second"})
    with pytest.raises(StaleStateError):
        first.get(b"a")


def test_a_rival_of_a_committed_state_refuses_to_answer(state: MemoryState) -> None:
    winner, loser = state.extend({b"a": b"w"}), state.extend({b"b": b"l"})
    on_loser = loser.extend({b"c": b"l"})
    state.commit(winner)
    for stale in (loser, on_loser):
        with pytest.raises(StaleStateError):
            stale.get(b"a")
        with pytest.raises(StaleStateError):
            stale.extend({})
        with pytest.raises(StaleStateError):
            stale.prove(b"a")
        with pytest.raises(StaleStateError):
            state.commit(stale)


def test_only_the_next_state_can_be_committed(state: MemoryState) -> None:
    grandchild = state.extend({b"a": b"3"}).extend({b"a": b"4"})
    with pytest.raises(StaleStateError):
        state.commit(grandchild)


def test_branches_have_a_depth(state: MemoryState) -> None:
    tip: StateVersion = state
    for number in range(MAX_SPECULATIVE_DEPTH):
        tip = tip.extend({b"a": bytes([number])})
    with pytest.raises(ValueError, match="uncommitted blocks"):
        tip.extend({})


def test_committing_makes_room_for_deeper_branches(state: MemoryState) -> None:
    branch: list[SpeculativeState] = [state.extend({b"a": b"0"})]
    for number in range(3 * MAX_SPECULATIVE_DEPTH):
        branch.append(branch[-1].extend({b"a": number.to_bytes(2, "big")}))
        if len(branch) == MAX_SPECULATIVE_DEPTH:
            state.commit(branch.pop(0))
    assert branch[-1].node == full_root({b"a": (3 * MAX_SPECULATIVE_DEPTH - 1).to_bytes(2, "big"), b"b": b"2"}, 4)


def test_speculative_proofs_hold_under_the_speculative_root(state: MemoryState) -> None:
    after = state.extend({b"a": None}).extend({b"d": b"4"})
    assert after.prove(b"a").lookup(b"a", after.root, 4) == (True, None)
    assert after.prove(b"d").lookup(b"d", after.root, 4) == (True, b"4")
    assert after.prove(b"d").lookup(b"d", state.root, 4) == (False, None)
