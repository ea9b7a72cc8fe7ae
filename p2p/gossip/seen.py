"""What was seen, remembered in bounded memory: two generations of ids, the older one forgotten as a whole.

An id is remembered for at least half of the capacity of newer ids. A flood of fresh ids shortens memory and never
grows it; what is forgotten may be processed once more, which costs time and does no harm.
"""

from __future__ import annotations


class SeenSet:
    __slots__ = ("_born_ms", "_half", "_lives_ms", "_new", "_old")

    def __init__(self, capacity: int, lives_ms: int = 0) -> None:
        """`lives_ms`: ids are forgotten after at most twice this, however few they are; 0: never for their age."""
        self._half = max(capacity // 2, 1)
        self._lives_ms = lives_ms
        self._born_ms = 0
        self._new: set[bytes] = set()
        self._old: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._new) + len(self._old)

    def __contains__(self, item: bytes) -> bool:
        return item in self._new or item in self._old

    def add(self, item: bytes) -> bool:
        """False if it was known already."""
        if item in self._new or item in self._old:
            return False
        self._new.add(item)
        if len(self._new) >= self._half:
            self._turn()
        return True

    def discard(self, item: bytes) -> None:
        self._new.discard(item)
        self._old.discard(item)

    def age(self, now_ms: int) -> None:
        """Call it now and then, where ids are to be forgotten for their age."""
        if self._lives_ms and now_ms - self._born_ms >= self._lives_ms:
            self._born_ms = now_ms
            self._turn()

    def _turn(self) -> None:
        self._old = self._new
        self._new = set()
