"""Local reputation of validators, in integer thousandths. It throttles gossip and sync; consensus lanes are exempt.

It never touches the schedule, a vote or stake: only signed proofs do that.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from consensus.effects import Violation
from trellis.types import Address

FULL: Final = 1_000
PENALTY: Final = 100
BAN_LINE: Final = 300
"""Below it a peer is banned from gossip and sync."""
RECOVERY_A_HEIGHT: Final = 1
"""A full fall takes a thousand good heights to heal."""

_FORGIVABLE: Final = (Violation.TIMEOUT, Violation.NON_PARTICIPATION)
"""What a slow network or a crash looks like from here: it lowers no further than the ban line, never below."""


@dataclass(frozen=True, slots=True)
class Statistics:
    score: int
    is_banned: bool
    violations: tuple[tuple[Violation, int], ...]
    """Kind and number, in the kinds' order; kinds that never happened are left out."""


class Reputation:
    """Scores by validator. Unknown validators stand at full reputation."""

    __slots__ = ("_counts", "_scores")

    def __init__(self) -> None:
        self._scores: dict[Address, int] = {}
        self._counts: dict[Address, dict[Violation, int]] = {}

    def score(self, validator: Address) -> int:
        return self._scores.get(validator, FULL)

    def is_banned(self, validator: Address) -> bool:
        return self.score(validator) < BAN_LINE

    def violate(self, validator: Address, violation: Violation) -> None:
        score = self.score(validator)
        floor = min(score, BAN_LINE) if violation in _FORGIVABLE else 0
        self._scores[validator] = max(score - PENALTY, floor)
        counts = self._counts.setdefault(validator, {})
        counts[violation] = counts.get(violation, 0) + 1

    def recover(self) -> None:
        """A height was decided: everybody heals a little, whatever they did, so that coming back is always possible."""
        for validator in sorted(self._scores):
            self._scores[validator] = min(FULL, self._scores[validator] + RECOVERY_A_HEIGHT)

    def keep(self, validators: Iterable[Address]) -> None:
        """Forgets who left the set: otherwise a changing set would grow this table for ever."""
        members = frozenset(validators)
        for known in sorted(self._counts):
            if known not in members:
                del self._counts[known], self._scores[known]

    def statistics(self, validator: Address) -> Statistics:
        counts = self._counts.get(validator, {})
        listed = tuple((kind, counts[kind]) for kind in Violation if kind in counts)
        return Statistics(self.score(validator), self.is_banned(validator), listed)
