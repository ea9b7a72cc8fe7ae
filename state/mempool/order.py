"""Rows kept in order while they come and go by the hundred thousand."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import Any, Final, Generic, Protocol, TypeVar


class Comparable(Protocol):
    def __lt__(self, other: Any, /) -> bool: ...


R = TypeVar("R", bound=Comparable)

RUN_ROWS: Final = 512
"""A run this long is moved in a microsecond; at 100,000 rows there are a few hundred runs."""


class SortedRows(Generic[R]):
    """Ascending, each row once: short sorted runs, found by the last row of each. No operation walks all rows."""

    __slots__ = ("_count", "_lasts", "_runs")

    def __init__(self) -> None:
        self._runs: list[list[R]] = []
        self._lasts: list[R] = []
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, row: R) -> None:
        self._count += 1
        if not self._runs:
            self._runs.append([row])
            self._lasts.append(row)
            return
        place = min(bisect_left(self._lasts, row), len(self._runs) - 1)
        run = self._runs[place]
        insort(run, row)
        if len(run) > RUN_ROWS:
            half = len(run) // 2
            self._runs[place : place + 1] = [run[:half], run[half:]]
            self._lasts[place : place + 1] = [run[half - 1], run[-1]]
        else:
            self._lasts[place] = run[-1]

    def remove(self, row: R) -> None:
        """The row must be there: its absence is a broken index, never something to pass over."""
        place = bisect_left(self._lasts, row)
        run = self._runs[place] if place < len(self._runs) else []
        at = bisect_left(run, row)
        if at >= len(run) or run[at] != row:
            raise KeyError("the pool's order has lost a row")
        del run[at]
        self._count -= 1
        if run:
            self._lasts[place] = run[-1]
        else:
            del self._runs[place], self._lasts[place]

    def first(self) -> R | None:
        return self._runs[0][0] if self._runs else None

    def __iter__(self) -> Iterator[R]:
        for run in self._runs:
            yield from run

    def __reversed__(self) -> Iterator[R]:
        for run in reversed(self._runs):
            yield from reversed(run)
