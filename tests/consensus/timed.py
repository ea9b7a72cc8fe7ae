"""The same nodes on a virtual clock: messages take time, timers fire when they are due."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from random import Random
from typing import Any

from consensus import ArmTimer, Effect, QuorumRtt, TimerFired, TimerKind
from tests.consensus.network import Envelope, Host, Network
from trellis.messages import Message


class TimedNetwork(Network):
    """`latency_ms(sender, to)` says how long a message takes; None loses it."""

    def __init__(self, *args: Any, latency_ms: int = 10, seed: int = 0, **options: Any) -> None:
        super().__init__(*args, **options)
        self.now_ms = 0
        self.random = Random(seed)
        self.latency: Callable[[int, int], int | None] = lambda _sender, _to: latency_ms
        self._heap: list[tuple[int, int, Envelope | tuple[Host, ArmTimer]]] = []
        self._sequence = 0
        self.decided_at_ms: dict[int, int] = {}
        self.trace = self._watch

    def _watch(self, host: Host, effect: Effect) -> None:
        if isinstance(effect, ArmTimer):
            self._push(effect.delay_ms, (host, effect))

    def _push(self, delay_ms: int, item: Envelope | tuple[Host, ArmTimer]) -> None:
        self._sequence += 1
        heapq.heappush(self._heap, (self.now_ms + delay_ms, self._sequence, item))

    def post(self, sender: int, to: int, message: Message) -> None:
        if (sender, to) in self.cut:
            return
        delay = self.latency(sender, to)
        if delay is not None:
            self._posted += 1
            self._push(delay, Envelope(self._posted, sender, to, message))

    def tell_rtt(self, rtt_ms: int) -> None:
        for host in self.up():
            host.feed(QuorumRtt(rtt_ms))

    def run(self, for_ms: int, until: Callable[[], bool] | None = None) -> int:
        """Until the time is over or the condition holds; the milliseconds that passed."""
        begun = self.now_ms
        end = begun + for_ms
        while self._heap and self._heap[0][0] <= end:
            if until is not None and until():
                return self.now_ms - begun
            self.now_ms, _, item = heapq.heappop(self._heap)
            if isinstance(item, Envelope):
                if (item.sender, item.to) not in self.cut:
                    self.deliver(item)
            else:
                self._fire(*item)
            for host in self.hosts:
                self.decided_at_ms.setdefault(len(host.disk.chain), self.now_ms)
        if until is None or not until():
            self.now_ms = end
        return self.now_ms - begun

    def _fire(self, host: Host, armed: ArmTimer) -> None:
        if host.is_up and host.halted is None and host.timers.get(armed.timer.kind) == armed:
            del host.timers[armed.timer.kind]
            host.feed(TimerFired(armed.timer))

    def all_at(self, height: int) -> Callable[[], bool]:
        return lambda: all(len(host.disk.chain) >= height for host in self.up())

    def view_timers(self) -> list[int]:
        return [host.index for host in self.up() if TimerKind.VIEW in host.timers]
