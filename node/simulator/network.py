"""The simulated network: who reaches whom, how late, how often. All chance comes from the world's one generator."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

US_PER_MS: Final = 1_000


@dataclass(slots=True)
class Weather:
    """What the network does to a message. Probabilities in thousandths, times in milliseconds."""

    latency_ms: int = 10
    jitter_ms: int = 5
    loss_permille: int = 0
    duplicate_permille: int = 0
    straggler_permille: int = 0
    """Chance that a message takes `straggler_ms` more: reordering across heights and views."""
    straggler_ms: int = 2_000


CALM: Final = Weather()


@dataclass(slots=True)
class Network:
    """Links between hosts by index. A cut is directed; a partition is many cuts."""

    chance: random.Random
    weather: Weather = field(default_factory=Weather)
    cuts: set[tuple[int, int]] = field(default_factory=set)
    slow: dict[int, int] = field(default_factory=dict)
    """Extra milliseconds for everything that a host sends: slow drip."""

    def reaches(self, sender: int, receiver: int) -> bool:
        return (sender, receiver) not in self.cuts

    def delay_us(self, sender: int, receiver: int) -> int:
        """For one copy that arrives."""
        weather, chance = self.weather, self.chance
        delay_ms = weather.latency_ms + self.slow.get(sender, 0)
        if weather.straggler_permille and chance.randrange(1_000) < weather.straggler_permille:
            delay_ms += chance.randrange(weather.straggler_ms)
        jitter_us = chance.randrange(weather.jitter_ms * US_PER_MS) if weather.jitter_ms else 0
        return delay_ms * US_PER_MS + jitter_us

    def copies(self) -> int:
        """How many of a message arrive: 0 lost, 1, or 2."""
        weather, chance = self.weather, self.chance
        if weather.loss_permille and chance.randrange(1_000) < weather.loss_permille:
            return 0
        if weather.duplicate_permille and chance.randrange(1_000) < weather.duplicate_permille:
            return 2
        return 1

    def partition(self, *groups: list[int]) -> None:
        """Cuts everything between the groups, in both directions; what was cut before stays cut."""
        for place, group in enumerate(groups):
            for other in groups[place + 1 :]:
                for one in group:
                    for two in other:
                        self.cuts.add((one, two))
                        self.cuts.add((two, one))

    def heal(self) -> None:
        self.cuts.clear()
        self.slow.clear()
