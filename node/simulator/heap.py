"""Virtual time: one heap of (time, sequence, item). A broadcast is one entry, expanded as its copies fall due."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

Deliver = Callable[[int, Any], None]


@dataclass(slots=True)
class Spread:
    """One message on its way to many: arrivals ascend, and only the next one stands in the heap."""

    arrivals: list[tuple[int, int]]
    """(time_us, receiver), descending, so that the next is popped from the end."""
    content: Any


class Heap:
    """Things to come, in the order of time; equal times in the order of scheduling."""

    __slots__ = ("_entries", "_sequence", "handled", "now_us")

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, Callable[[], None] | Spread, Deliver | None]] = []
        self._sequence = 0
        self.now_us = 0
        self.handled = 0

    def __len__(self) -> int:
        return len(self._entries)

    def _push(self, at_us: int, item: Callable[[], None] | Spread, deliver: Deliver | None) -> None:
        self._sequence += 1
        heapq.heappush(self._entries, (at_us, self._sequence, item, deliver))

    def after(self, delay_us: int, action: Callable[[], None]) -> None:
        self._push(self.now_us + max(0, delay_us), action, None)

    def spread(self, arrivals: list[tuple[int, int]], content: Any, deliver: Deliver) -> None:
        """`deliver(receiver, content)` at each arrival."""
        if arrivals:
            arrivals.sort(reverse=True)
            self._push(arrivals[-1][0], Spread(arrivals, content), deliver)

    def run_next(self) -> bool:
        """False when nothing is left."""
        if not self._entries:
            return False
        at_us, _, item, deliver = heapq.heappop(self._entries)
        self.now_us = at_us
        self.handled += 1
        if isinstance(item, Spread):
            _, receiver = item.arrivals.pop()
            if item.arrivals:
                self._push(item.arrivals[-1][0], item, deliver)
            if deliver is not None:
                deliver(receiver, item.content)
        else:
            item()
        return True
