"""Difficulty is arithmetic on header timestamps."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from consensus.pow.work import MAX_STEP, MAX_TARGET, Spaced, first_target, next_target, work_of
from trellis.parameters import Parameters

PARAMETERS = Parameters(pow_retarget_blocks=8, block_interval_ms=1_000, pow_initial_target_log2=240)


def spaced(interval_ms: int, target: int, number: int = 9) -> list[Spaced]:
    return [Spaced(place * interval_ms, target) for place in range(number)]


def test_without_history_the_target_is_genesis() -> None:
    assert next_target([], PARAMETERS) == first_target(PARAMETERS) == 1 << 240
    assert next_target(spaced(1_000, 1 << 230, 1), PARAMETERS) == 1 << 240


def test_blocks_in_time_keep_the_target() -> None:
    assert next_target(spaced(1_000, 1 << 230), PARAMETERS) == 1 << 230


def test_blocks_twice_as_fast_halve_the_target() -> None:
    assert next_target(spaced(500, 1 << 230), PARAMETERS) == 1 << 229


def test_blocks_twice_as_slow_double_the_target() -> None:
    assert next_target(spaced(2_000, 1 << 230), PARAMETERS) == 1 << 231


def test_lying_timestamps_move_the_target_by_a_bounded_step() -> None:
    assert next_target(spaced(10**9, 1 << 230), PARAMETERS) == MAX_STEP << 230
    assert next_target(spaced(0, 1 << 230), PARAMETERS) == (1 << 230) // MAX_STEP


def test_only_the_window_counts() -> None:
    window = [Spaced(5_000 + block.timestamp_ms, block.target) for block in spaced(1_000, 1 << 230)]
    assert next_target([Spaced(0, 1 << 200), *window], PARAMETERS) == 1 << 230


@given(st.lists(st.tuples(st.integers(0, 10**12), st.integers(1, MAX_TARGET)), max_size=20))
def test_a_target_is_always_a_target(history: list[tuple[int, int]]) -> None:
    blocks = [Spaced(*item) for item in sorted(history)]
    assert 1 <= next_target(blocks, PARAMETERS) <= MAX_TARGET


@given(st.integers(1, MAX_TARGET), st.integers(1, MAX_TARGET))
def test_a_smaller_target_is_never_less_work(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert work_of(low) >= work_of(high) >= 1
