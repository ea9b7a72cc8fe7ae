"""Virtual time: one heap of (time, sequence, item). A broadcast is one entry, expanded as its copies fall due."""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

Deliver = Callable[[int, Any], None]


_RECEIVER_BITS: Final = 20


@dataclass(slots=True)
class Spread:
    """One message on its way to many: only the next arrival stands in the heap."""

    arrivals: array[int]
    """time_us and receiver in one number, descending, so that the next is popped from the end. As pairs, the two
    million arrivals of a block of a thousand validators would take 300 MB."""
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
            packed = array("q", [at_us << _RECEIVER_BITS | receiver for at_us, receiver in arrivals])
            self._push(arrivals[-1][0], Spread(packed, content), deliver)

    def run_next(self) -> bool:
        """False when nothing is left."""
        if not self._entries:
            return False
        at_us, _, item, deliver = heapq.heappop(self._entries)
        self.now_us = at_us
        self.handled += 1
        if isinstance(item, Spread):
            receiver = item.arrivals.pop() & (1 << _RECEIVER_BITS) - 1
            if item.arrivals:
                self._push(item.arrivals[-1] >> _RECEIVER_BITS, item, deliver)
            if deliver is not None:
                deliver(receiver, item.content)
        else:
            item()
        return True
