"""C11's arithmetic."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.pacemaker import BASE_CEILING_MS, Pacemaker
from trellis.parameters import Parameters
from trellis.types import View

PLAIN = Parameters()


def settled(base_rtt_ms: int = 20) -> Pacemaker:
    pacemaker = Pacemaker(PLAIN)
    pacemaker.measured(base_rtt_ms)
    for _ in range(50):
        pacemaker.decided(View(0))
    return pacemaker


def test_without_a_measurement_the_base_starts_at_a_second_and_decays_to_the_minimum() -> None:
    pacemaker = Pacemaker(PLAIN)
    assert pacemaker.base_ms == BASE_CEILING_MS
    for _ in range(50):
        pacemaker.decided(View(0))
    assert pacemaker.base_ms == PLAIN.min_base_timeout_ms


@pytest.mark.parametrize(
    ("rtt_ms", "base_ms"), [(0, 200), (10, 200), (60, 240), (240, 960), (500, 1_000), (501, 2_004), (1_600, 4_000)]
)
def test_the_base_follows_the_quorum_round_trip_and_gives_way_past_half_a_second(rtt_ms: int, base_ms: int) -> None:
    pacemaker = settled()
    pacemaker.measured(rtt_ms)
    assert pacemaker.base_ms == base_ms


def test_the_base_grows_at_once_and_falls_slowly() -> None:
    pacemaker = settled()
    pacemaker.measured(1_600)
    assert pacemaker.base_ms == 4_000
    pacemaker.measured(10)
    assert pacemaker.base_ms == 4_000
    pacemaker.decided(View(0))
    assert pacemaker.base_ms == 3_600


def test_a_height_that_needed_a_view_change_doubles_the_base_up_to_the_cap() -> None:
    pacemaker = settled()
    bases = []
    for _ in range(6):
        pacemaker.decided(View(1))
        bases.append(pacemaker.base_ms)
    assert bases == [400, 800, 1_600, 3_200, 4_000, 4_000]


def test_timeouts_double_to_the_cap_and_grow_again_when_every_leader_failed_twice() -> None:
    pacemaker = settled()
    timeouts = [pacemaker.timeout_ms(View(view), 4) for view in range(17)]
    assert timeouts[:6] == [200, 400, 800, 1_600, 3_200, 4_000]
    assert timeouts[6:8] == [4_000, 4_000]
    assert timeouts[8:12] == [8_000] * 4
    assert timeouts[12:16] == [16_000] * 4
    assert timeouts[16] == 32_000


def test_a_view_beyond_all_reason_still_has_a_finite_timeout() -> None:
    assert settled().timeout_ms(View(2**63), 4) == 200 << 40


@given(st.integers(0, 10_000), st.lists(st.integers(0, 3), max_size=60))
def test_the_base_stays_between_the_minimum_and_the_cap_whatever_happens(rtt_ms: int, views: list[int]) -> None:
    pacemaker = Pacemaker(PLAIN)
    pacemaker.measured(rtt_ms)
    for view in views:
        pacemaker.decided(View(view))
        assert PLAIN.min_base_timeout_ms <= pacemaker.base_ms <= PLAIN.view_timer_cap_ms
        assert pacemaker.timeout_ms(View(view), 4) <= PLAIN.view_timer_cap_ms


def test_parameters_are_adopted_at_the_next_height() -> None:
    pacemaker = settled()
    pacemaker.adopt(Parameters(min_base_timeout_ms=900, view_timer_cap_ms=950))
    assert pacemaker.base_ms == 900
    pacemaker.decided(View(1))
    assert pacemaker.base_ms == 950
    pacemaker.adopt(Parameters(view_timer_cap_ms=300))
    assert pacemaker.base_ms == 300


def test_messages_are_sent_again_every_third_of_the_timeout() -> None:
    pacemaker = settled()
    assert pacemaker.resend_ms(View(0), 4) == 66
    pacemaker.adopt(Parameters(min_base_timeout_ms=10, view_timer_cap_ms=100))
    for _ in range(50):
        pacemaker.decided(View(0))
    assert pacemaker.resend_ms(View(0), 4) >= 20


def test_a_negative_round_trip_is_host_misuse() -> None:
    with pytest.raises(ValueError, match="negative"):
        settled().measured(-1)
