"""When ids are announced: the first one after idle at once, under load in batches at most 50 ms old."""

from __future__ import annotations

from collections import deque
from typing import Final

BATCH_AGE_MS: Final = 50
MAX_WAITING: Final = 65_536
"""Ids that wait to be announced: a client that submits faster than announcements may go out. The oldest are dropped,
and pulled by peers from whoever else has them."""


class Batches:
    def __init__(self, most: int) -> None:
        self._most = most
        self._waiting: deque[tuple[bytes, bool]] = deque()
        self._last_ms = -BATCH_AGE_MS
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, item: bytes, *, first_hand: bool) -> None:
        self._waiting.append((item, first_hand))
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popleft()
            self.dropped += 1

    def due_in_ms(self, now_ms: int) -> int | None:
        """None while nothing waits; 0: now."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self._most:
            return 0
        return max(self._last_ms + BATCH_AGE_MS - now_ms, 0)

    def take(self, now_ms: int) -> list[tuple[bytes, bool]]:
        """The next batch: (id, whether this node was the first to have it)."""
        self._last_ms = now_ms
        return [self._waiting.popleft() for _ in range(min(self._most, len(self._waiting)))]
