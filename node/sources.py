"""Whom to ask for headers and blocks: what peers say they have, how they answered so far, and who comes next.

What a peer says of its height is a hint. Who cannot give what it said is left alone for a while, ever longer; who gives
what is provably false is the peer book's to deal with, and is not asked again for much longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from trellis.types import Height, PeerId

MAX_JOBS_OF_SOURCE: Final = 4
"""Questions to one peer at once: enough to keep one good source busy, and below what it serves to one asker."""
REST_MS: Final = 1_000
"""After the first failure; doubled with each further one."""
MOST_REST_MS: Final = 60_000
LIE_STRIKES: Final = 6
MAX_SOURCES: Final = 256
"""Peers remembered: connections are capped below this, so only a fault of our own could reach it."""


@dataclass(slots=True, eq=False)
class Source:
    peer: PeerId
    height: Height
    """That it says, or is known, to have."""
    oldest: Height
    """The oldest block whose body it says to serve."""
    jobs: int = 0
    strikes: int = 0
    rests_until_ms: int = 0


class Sources:
    def __init__(self) -> None:
        self._known: dict[PeerId, Source] = {}

    def __len__(self) -> int:
        return len(self._known)

    def __iter__(self) -> Iterator[Source]:
        return iter(self._known.values())

    def get(self, peer: PeerId) -> Source | None:
        return self._known.get(peer)

    def stands(self, peer: PeerId, height: Height, oldest: Height) -> None:
        """Its own word. Both only grow, so an older word that comes late changes nothing."""
        known = self._known.get(peer)
        if known is None:
            if len(self._known) < MAX_SOURCES:
                self._known[peer] = Source(peer, height, oldest)
            return
        known.height = max(known.height, height)
        known.oldest = max(known.oldest, oldest)

    def left(self, peer: PeerId) -> None:
        self._known.pop(peer, None)

    def assume(self, height: Height) -> None:
        """More than a third of power decided this height: nearly every peer has it, whatever it said last."""
        for source in self._known.values():
            source.height = max(source.height, height)

    def highest(self) -> Height:
        return max((source.height for source in self._known.values()), default=Height(0))

    def for_headers(self, above: Height, now_ms: int) -> Source | None:
        """Somebody who has more than `above`: the one that failed least and has least to do."""
        return self._best(source for source in self._usable(now_ms) if source.height > above)

    def for_blocks(self, first: Height, now_ms: int) -> Source | None:
        return self._best(source for source in self._usable(now_ms) if source.oldest <= first <= source.height)

    def _is_resting(self, source: Source, now_ms: int) -> bool:
        """A clock that was set back must not make a rest longer than the longest there is."""
        return now_ms < source.rests_until_ms <= now_ms + MOST_REST_MS

    def next_rest_ends_ms(self, above: Height, now_ms: int) -> int | None:
        """When the first of those who have more, and rest, may be asked again."""
        resting = (each for each in self._known.values() if each.height > above and self._is_resting(each, now_ms))
        return min((each.rests_until_ms for each in resting), default=None)

    def served(self, source: Source) -> None:
        """It gave something good. The next question goes to somebody else, where there is one as good."""
        source.strikes = 0
        if self._known.get(source.peer) is source:
            self._known[source.peer] = self._known.pop(source.peer)

    def failed(self, source: Source, now_ms: int, strikes: int = 1) -> None:
        source.strikes += strikes
        source.rests_until_ms = now_ms + min(REST_MS << min(source.strikes - 1, 16), MOST_REST_MS)

    def _usable(self, now_ms: int) -> Iterator[Source]:
        for source in self._known.values():
            if not self._is_resting(source, now_ms) and source.jobs < MAX_JOBS_OF_SOURCE:
                yield source

    @staticmethod
    def _best(offered: Iterator[Source]) -> Source | None:
        return min(offered, key=lambda source: (source.strikes, source.jobs), default=None)
