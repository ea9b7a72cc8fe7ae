"""Overlays: writes that stay in memory until somebody keeps them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.overlay import Overlay


class Fixed:
    """A view over a dictionary."""

    def __init__(self, entries: dict[bytes, bytes]) -> None:
        self.entries = entries

    def get(self, key: bytes) -> bytes | None:
        return self.entries.get(key)


def test_reads_fall_through_to_the_parent_until_written_or_deleted() -> None:
    overlay = Overlay(Fixed({b"a": b"1", b"b": b"2"}))
    overlay.put(b"a", b"new")
    overlay.delete(b"b")
    assert [overlay.get(key) for key in (b"a", b"b", b"c")] == [b"new", None, None]


def test_changes_come_in_key_order_with_none_for_deletions() -> None:
    overlay = Overlay(Fixed({}))
    overlay.put(b"z", b"1")
    overlay.delete(b"m")
    overlay.put(b"a", b"2")
    assert list(overlay.changes().items()) == [(b"a", b"2"), (b"m", None), (b"z", b"1")]


def test_a_dropped_child_leaves_no_trace_and_a_merged_one_stays() -> None:
    block = Overlay(Fixed({b"a": b"1"}))
    failed = block.child()
    failed.put(b"a", b"failed")
    failed.drop()
    done = block.child()
    done.delete(b"a")
    done.merge()
    assert block.changes() == {b"a": None}
    assert len(done) == 0


def test_an_overlay_over_a_state_has_nowhere_to_merge() -> None:
    with pytest.raises(TypeError):
        Overlay(Fixed({})).merge()


def test_keys_and_values_no_proof_could_carry_are_refused() -> None:
    overlay = Overlay(Fixed({}))
    for key in (b"", b"k" * 257):
        with pytest.raises(ValueError, match="state key"):
            overlay.put(key, b"")
    with pytest.raises(ValueError, match="state value"):
        overlay.put(b"k", bytes((1 << 24) + 1))


WRITES = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.one_of(st.none(), st.binary(max_size=2))))


@given(st.lists(st.tuples(WRITES, st.booleans()), max_size=8))
def test_nested_overlays_equal_applying_what_was_kept(
    transactions: list[tuple[list[tuple[bytes, bytes | None]], bool]],
) -> None:
    start = {b"a": b"0"}
    expected: dict[bytes, bytes | None] = dict(start)
    block = Overlay(Fixed(start))
    for writes, kept in transactions:
        transaction = block.child()
        seen = dict(expected)
        for key, value in writes:
            seen[key] = value
            if value is None:
                transaction.delete(key)
            else:
                transaction.put(key, value)
            assert transaction.get(key) == value
        if kept:
            transaction.merge()
            expected = seen
        assert [block.get(key) for key in (b"a", b"b", b"c")] == [expected.get(key) for key in (b"a", b"b", b"c")]
