"""A TCP proxy that the tests own: delay in each direction, silence, cuts in the middle, and recovery from all of them.

    async with proxied(port) as proxy:
        await host.connect(peer, proxy.address)
        proxy.freeze()

Some kernels cannot delay or drop on loopback; this needs nothing of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Final

import trio

CHUNK_BYTES: Final = 64 << 10
IN_FLIGHT_CHUNKS: Final = 256
"""Of one direction: a delay holds bytes back, it does not slow them down."""


class Direction(Enum):
    UP = auto()
    """From who dialled the proxy to who listens behind it."""
    DOWN = auto()


@dataclass
class Proxy:
    """Its settings may change at any time; they hold for connections that stand as well as for new ones."""

    target_port: int
    port: int = 0
    delay_s: dict[Direction, float] = field(default_factory=lambda: dict.fromkeys(Direction, 0.0))
    forwarded: dict[Direction, int] = field(default_factory=lambda: dict.fromkeys(Direction, 0))
    accepted: int = 0

    def __post_init__(self) -> None:
        self._flowing = trio.Event()
        self._flowing.set()
        self._refusing = False
        self._cut_at: dict[Direction, int] = {}
        self._connections: set[trio.CancelScope] = set()

    @property
    def address(self) -> str:
        return f"/ip4/127.0.0.1/tcp/{self.port}"

    def freeze(self) -> None:
        """Connections stay and no byte passes: what a peer that stands still looks like."""
        if self._flowing.is_set():
            self._flowing = trio.Event()

    def cut(self, *, refuse: bool = False) -> None:
        """Ends every connection at once; with `refuse`, new ones end as they come until `heal`."""
        self._refusing = refuse
        for scope in list(self._connections):
            scope.cancel()

    def cut_after(self, direction: Direction, more_bytes: int) -> None:
        """Ends the connections when so many more bytes have passed: in the middle of whatever it is then."""
        self._cut_at[direction] = self.forwarded[direction] + more_bytes

    def heal(self) -> None:
        self._refusing = False
        self._cut_at.clear()
        self._flowing.set()

    async def _serve(self, client: trio.SocketStream) -> None:
        self.accepted += 1
        async with client:
            if self._refusing:
                return
            async with await trio.open_tcp_stream("127.0.0.1", self.target_port) as server:
                with trio.CancelScope() as scope:
                    self._connections.add(scope)
                    try:
                        async with trio.open_nursery() as nursery:
                            nursery.start_soon(self._pump, client, server, Direction.UP, scope)
                            nursery.start_soon(self._pump, server, client, Direction.DOWN, scope)
                    finally:
                        self._connections.discard(scope)

    async def _pump(
        self, source: trio.SocketStream, sink: trio.SocketStream, direction: Direction, scope: trio.CancelScope
    ) -> None:
        """One direction: a reader that stamps what comes, a writer that waits until it is due."""
        send, receive = trio.open_memory_channel[tuple[float, bytes]](IN_FLIGHT_CHUNKS)

        async def read() -> None:
            async with send:
                try:
                    while data := await source.receive_some(CHUNK_BYTES):
                        await send.send((trio.current_time() + self.delay_s[direction], data))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            try:
                async for due_s, data in receive:
                    await trio.sleep_until(due_s)
                    await self._flowing.wait()
                    await sink.send_all(self._allowed(data, direction, scope))
                await sink.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                scope.cancel()

    def _allowed(self, data: bytes, direction: Direction, scope: trio.CancelScope) -> bytes:
        cut_at = self._cut_at.get(direction)
        if cut_at is not None and self.forwarded[direction] + len(data) >= cut_at:
            data = data[: max(cut_at - self.forwarded[direction], 0)]
            del self._cut_at[direction]
            scope.cancel()
        self.forwarded[direction] += len(data)
        return data


@asynccontextmanager
async def proxied(target_port: int) -> AsyncIterator[Proxy]:
    """A running proxy to a port of this machine."""
    proxy = Proxy(target_port)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listener.socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy._serve, [listener])
        yield proxy
        nursery.cancel_scope.cancel()
