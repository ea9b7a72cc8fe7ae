"""All timers of a node in one task: the engine arms dozens a block, a task for each would cost more."""

from __future__ import annotations

from collections.abc import Callable
from heapq import heappop, heappush
from typing import Final

import trio

from consensus.effects import TimerId, TimerKind
from node.work import WaitId

_IDLE_S: Final = 3_600.0


class Timers:
    """`fire` is called in the task that runs `run`, once for each armed timer that nothing replaced or disarmed."""

    def __init__(self, fire: Callable[[TimerId | WaitId], None]) -> None:
        self._fire = fire
        self._heap: list[tuple[float, int, TimerId | WaitId]] = []
        self._armed: dict[TimerKind, TimerId] = {}
        self._count = 0
        self._sooner = trio.Event()

    def __len__(self) -> int:
        return len(self._heap)

    def arm(self, timer: TimerId | WaitId, delay_ms: int) -> None:
        if isinstance(timer, TimerId):
            self._armed[timer.kind] = timer
        self._count += 1
        at = trio.current_time() + delay_ms / 1_000
        if not self._heap or at < self._heap[0][0]:
            self._sooner.set()
        heappush(self._heap, (at, self._count, timer))

    def disarm(self, kind: TimerKind) -> None:
        self._armed.pop(kind, None)

    def _is_live(self, timer: TimerId | WaitId) -> bool:
        if isinstance(timer, WaitId):
            return True
        if self._armed.get(timer.kind) != timer:
            return False
        del self._armed[timer.kind]
        return True

    async def run(self) -> None:
        while True:
            self._sooner = trio.Event()
            at = self._heap[0][0] if self._heap else trio.current_time() + _IDLE_S
            with trio.move_on_at(at):
                await self._sooner.wait()
            while self._heap and self._heap[0][0] <= trio.current_time():
                timer = heappop(self._heap)[2]
                if self._is_live(timer):
                    self._fire(timer)
