"""What was read or written last, kept in memory up to a number of bytes: most payments are between who paid lately."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Generic, TypeVar

K = TypeVar("K", bytes, int)

_OVERHEAD_BYTES: Final = 200
"""Of one row in memory, beside its bytes: key, objects, its place in a dictionary."""


class Recent(Generic[K]):
    """Two generations: what is asked for moves into the young one; when that is full it becomes the old one, and the
    one before is let go whole. Nothing is counted or linked at a read."""

    __slots__ = ("_half_bytes", "_old", "_room", "_young")

    def __init__(self, max_bytes: int) -> None:
        self._half_bytes = max_bytes // 2
        self._room = self._half_bytes
        self._young: dict[K, bytes] = {}
        self._old: dict[K, bytes] = {}

    def get(self, key: K) -> bytes | None:
        found = self._young.get(key)
        if found is None and (found := self._old.get(key)) is not None:
            self.put(key, found)
        return found

    def put(self, key: K, value: bytes) -> None:
        """A row that is too large to stand beside others is not kept; nor is what was known of it before."""
        size = len(value) + _OVERHEAD_BYTES
        if size > self._half_bytes // 4:
            self.drop(key)
            return
        self._room -= size
        self._young[key] = value
        self._turn()

    def put_all(self, rows: Mapping[K, bytes]) -> None:
        """What a block wrote, thousands of rows at once. It is kept whole: so much more than its room may be taken."""
        self._room -= sum(map(len, rows.values())) + len(rows) * _OVERHEAD_BYTES
        self._young.update(rows)
        self._turn()

    def _turn(self) -> None:
        if self._room < 0:
            self._old, self._young, self._room = self._young, {}, self._half_bytes

    def drop(self, key: K) -> None:
        self._young.pop(key, None)
        self._old.pop(key, None)

    def __len__(self) -> int:
        """Rows held; one that is in both generations counts twice."""
        return len(self._young) + len(self._old)
