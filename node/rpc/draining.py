"""Taking the node out of service: streams and waits end, new ones are refused, the pool is handed to peers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

from node.rpc.backend import Backend
from node.rpc.dispatch import Gate
from node.rpc.feed import Feed
from node.rpc.waiting import Waiting
from trellis.v1 import admin_service_pb2

POLL_S: Final = 0.02


class Draining:
    """Belongs to the asyncio thread. Draining again waits again, and changes nothing."""

    def __init__(
        self, backend: Backend, gate: Gate, feed: Feed, waiting: Waiting, open_calls: Callable[[], int]
    ) -> None:
        self._backend = backend
        self._gate = gate
        self._feed = feed
        self._waiting = waiting
        self._open_calls = open_calls

    def end_streams(self) -> None:
        """From here on nobody waits and nobody is streamed to."""
        self._gate.closing = True
        self._feed.close()
        self._waiting.wake_all()

    async def drain(self, timeout_ms: int) -> admin_service_pb2.DrainResponse:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_ms / 1_000
        self.end_streams()
        done = await self._backend.bridge.run(self._backend.port.drain, timeout_ms)
        # The call that drains is open itself.
        while self._open_calls() > 1 and loop.time() < deadline:
            await asyncio.sleep(POLL_S)
        still_open = max(0, self._open_calls() - 1)
        return admin_service_pb2.DrainResponse(
            complete=done.complete and not still_open,
            remaining_transactions=done.remaining_transactions,
            open_calls=still_open,
        )
