"""How much one client may ask of the public listener: a token bucket each, and places for calls that stay open."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from node.rpc.errors import Reason, Refused

MAX_CLIENTS: Final = 10_000
"""Stops callers with many addresses from filling memory. Who is forgotten starts with a full bucket: that is why the
one that was idle longest goes first."""

PLACE_RETRY_MS: Final = 5_000


@dataclass(frozen=True, slots=True)
class QuotaLimits:
    """Of one listener."""

    units_per_second: int = 2_000
    """0: no limit. An ordinary call costs one unit."""
    burst_units: int = 4_000
    open_calls: int = 16_384
    """Waits and streams in all: each holds some 20 KB."""
    open_calls_per_client: int = 4_096
    unread_bytes_per_client: int = 64 << 20
    """Of streams whose client does not read: they would pile up in gRPC's buffers, a block a stream."""


UNLIMITED: Final = QuotaLimits(units_per_second=0, open_calls_per_client=16_384)


class Quotas:
    """Belongs to the asyncio thread."""

    def __init__(self, limits: QuotaLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self.limits = limits
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        """Client → (units left, when that was)."""
        self._open: Counter[str] = Counter()
        self._all_open = 0
        self._unread: Counter[str] = Counter()
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}

    def charge(self, client: str, units: int) -> None:
        """Takes the units, or refuses with the time until they are there."""
        rate = self.limits.units_per_second
        if not rate:
            return
        now = self._clock()
        left, since = self._buckets.pop(client, (float(self.limits.burst_units), now))
        left = min(float(self.limits.burst_units), left + (now - since) * rate)
        # What costs more than a whole bucket is let through once the bucket is full, and paid off afterwards.
        affordable = left >= min(units, self.limits.burst_units)
        self._buckets[client] = (left - units if affordable else left, now)
        if len(self._buckets) > MAX_CLIENTS:
            self._buckets.popitem(last=False)
        if not affordable:
            wait_ms = int(1_000 * (units - left) / rate) + 1
            raise Refused(
                Reason.RATE_LIMITED, f"the quota of {rate} units a second is used up: slow down", retry_after_ms=wait_ms
            )

    def enter(self, client: str) -> str:
        """Takes a place for a call that stays open; hand the answer to `leave`."""
        if self._all_open >= self.limits.open_calls or self._open[client] >= self.limits.open_calls_per_client:
            raise Refused(
                Reason.RATE_LIMITED, "too many open streams and waits: close some", retry_after_ms=PLACE_RETRY_MS
            )
        self._open[client] += 1
        self._all_open += 1
        return client

    def leave(self, client: str) -> None:
        self._all_open -= 1
        self._open[client] -= 1
        if not self._open[client]:
            del self._open[client]

    async def hold(self, client: str, size: int) -> None:
        """Waits until a message fits under what the client has not read yet. One always fits. Then `let_go`."""
        while (held := self._unread[client]) and held + size > self.limits.unread_bytes_per_client:
            turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.setdefault(client, set()).add(turn)
            try:
                await turn
            finally:
                self._waiting.get(client, set()).discard(turn)
        self._unread[client] += size

    def let_go(self, client: str, size: int) -> None:
        self._unread[client] -= size
        if not self._unread[client]:
            del self._unread[client]
        for turn in self._waiting.pop(client, ()):
            if not turn.done():
                turn.set_result(None)
