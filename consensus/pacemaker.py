"""Rule C11's arithmetic: how long a view may take. Local only; integers; no clock."""

from __future__ import annotations

from typing import Final

from trellis.parameters import Parameters
from trellis.types import View

BASE_CEILING_MS: Final = 1_000
"""The base never exceeds this by measurement while round trips stay within SLOW_RTT_MS; it also starts here."""
SLOW_RTT_MS: Final = 500
RTT_MULTIPLE: Final = 4
"""A view takes three hops (1.5 round trips) and two validations: four round trips leave room for a slow quorum."""
CLOSED_LANE_MS: Final = 300
RESEND_DIVISOR: Final = 3
MIN_RESEND_MS: Final = 20
_MAX_DOUBLINGS: Final = 40
"""2^40 ms is 35 years: beyond it a doubling would only make integers grow."""


class Pacemaker:
    """The base timeout across heights: follows measurement up at once, and down slowly."""

    __slots__ = ("_cap_ms", "_min_ms", "_target_ms", "base_ms")

    def __init__(self, parameters: Parameters) -> None:
        self._min_ms = parameters.min_base_timeout_ms
        self._cap_ms = max(parameters.view_timer_cap_ms, self._min_ms)
        self._target_ms = self._min_ms
        self.base_ms = min(max(BASE_CEILING_MS, self._min_ms), self._cap_ms)

    def adopt(self, parameters: Parameters) -> None:
        """Parameters are read anew at every height."""
        self._min_ms = parameters.min_base_timeout_ms
        self._cap_ms = max(parameters.view_timer_cap_ms, self._min_ms)
        self._target_ms = min(max(self._target_ms, self._min_ms), self._cap_ms)
        self.base_ms = min(max(self.base_ms, self._min_ms), self._cap_ms)

    def measured(self, rtt_ms: int) -> None:
        """Quorum power answered within this. Past 500 ms the ceiling gives way: a second is too short for a view."""
        if rtt_ms < 0:
            raise ValueError("a round trip takes no negative time")
        ceiling = self._cap_ms if rtt_ms > SLOW_RTT_MS else min(max(BASE_CEILING_MS, self._min_ms), self._cap_ms)
        self._target_ms = min(max(RTT_MULTIPLE * rtt_ms, self._min_ms), ceiling)
        self.base_ms = max(self.base_ms, self._target_ms)

    def decided(self, view: View) -> None:
        """Doubled after a height decided in a view above 0, else decaying 10 % towards what was measured."""
        if view > 0:
            self.base_ms = min(2 * self.base_ms, self._cap_ms)
        else:
            self.base_ms = max(self._target_ms, self.base_ms * 9 // 10)

    def timeout_ms(self, view: View, number_of_validators: int) -> int:
        """min(base·2^v, cap·2^max(0, ⌊v/n⌋−1)): capped while views are few, growing again on a slower network."""
        doubled = self.base_ms << min(view, _MAX_DOUBLINGS)
        rounds = max(0, view // number_of_validators - 1)
        return min(doubled, self._cap_ms << min(rounds, _MAX_DOUBLINGS))

    def resend_ms(self, view: View, number_of_validators: int) -> int:
        return max(MIN_RESEND_MS, self.timeout_ms(view, number_of_validators) // RESEND_DIVISOR)
