"""What subscribers are woken by: the last final height, and the blocks up to it in the forms that streams carry.

A stream pulls. It holds one number, the next height it wants, so a thousand of them hold a thousand numbers; the blocks
themselves are read, decoded and serialised once. A stream whose client left a message lying while more than
`MAX_LAG_BLOCKS` blocks became final, or that had caught up and fell back so far, ends and is told where to go on. What
lies about unread is bounded for each client (`node.rpc.quotas`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from node.rpc.backend import Backend
from node.rpc.blocks import LoadedBlock
from node.rpc.dispatch import Call, draining
from node.rpc.errors import Reason, Refused
from node.rpc.fields import require_height
from node.rpc.port import Notice
from trellis.types import Height
from trellis.v1 import subscription_service_pb2

MAX_LAG_BLOCKS: Final = 128
"""At ten blocks a second: a client may pause for 13 s. Less than the cache of blocks keeps, so that whoever is within
it costs no reading."""

TURN_STREAMS: Final = 32
"""Streams that are woken at once; then everybody else has a turn. A thousand woken together would hold up the calls of
wallets, and the interpreter's lock, for tens of milliseconds."""

TURN_S: Final = 0.002
RECENT_BLOCKS: Final = 8


class Stream:
    """One subscriber's place."""

    __slots__ = ("caught_up", "next", "wake")

    def __init__(self, first: int) -> None:
        self.next = first
        self.caught_up = False
        self.wake: asyncio.Future[bool] | None = None


class Feed:
    """Belongs to the asyncio thread."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self.height = 0
        self._streams: set[Stream] = set()
        self._waiting: list[Stream] = []
        self._closed = False
        self._at_field = (-1, b"")
        self._recent: dict[int, LoadedBlock] = {}
        self._waker: asyncio.Task[None] | None = None

    def start(self) -> None:
        self.height = self._backend.final_height()

    def notice(self, notice: Notice) -> None:
        before = self.height
        self.height = self._backend.final_height()
        if self.height != before and self._waiting and self._waker is None:
            self._waker = asyncio.ensure_future(self._wake_in_turns())

    async def _wake_in_turns(self) -> None:
        try:
            while self._waiting:
                turn, self._waiting = self._waiting[:TURN_STREAMS], self._waiting[TURN_STREAMS:]
                for stream in turn:
                    if stream.wake is not None and not stream.wake.done():
                        stream.wake.set_result(True)
                if self._waiting:
                    await asyncio.sleep(TURN_S)
        finally:
            self._waker = None

    def close(self) -> None:
        """Ends every stream with DRAINING."""
        self._closed = True
        for stream in self._waiting:
            if stream.wake is not None and not stream.wake.done():
                stream.wake.set_result(True)
        self._waiting.clear()

    def stop(self) -> None:
        if self._waker is not None:
            self._waker.cancel()

    # One stream.

    async def follow(
        self,
        call: Call,
        start: int,
        heartbeat_s: float,
        message_of: Callable[[LoadedBlock], Awaitable[bytes | None]],
        heartbeat: Callable[[int], bytes],
    ) -> None:
        """Sends, block by block, what `message_of` makes of it, if anything, and `heartbeat(next height)` in silence;
        the field `at` is put in front of both."""
        if start:
            require_height(start - 1, self.height)
            self._backend.check_body(start)
        stream = Stream(start or self.height + 1)
        self._streams.add(stream)
        loop = asyncio.get_running_loop()
        last_sent = loop.time()
        try:
            while True:
                if self._closed:
                    raise draining()
                if stream.caught_up and self.height - stream.next > MAX_LAG_BLOCKS:
                    raise self._gap(stream)
                if stream.next <= self.height:
                    body = await message_of(await self._block(stream.next))
                    began = self.height
                    if body is not None:
                        await call.send(self._at() + body)
                        last_sent = loop.time()
                    stream.next += 1
                    stream.caught_up = stream.caught_up or stream.next > self.height
                    if self.height - began > MAX_LAG_BLOCKS:
                        raise self._gap(stream)
                    if loop.time() - last_sent < heartbeat_s:
                        continue
                elif await self._news(stream, last_sent + heartbeat_s):
                    continue
                await call.send(self._at() + heartbeat(stream.next))
                last_sent = loop.time()
        finally:
            self._streams.discard(stream)

    async def _news(self, stream: Stream, until: float) -> bool:
        """Waits for the next final block; False if the time came first."""
        loop = asyncio.get_running_loop()
        stream.wake = loop.create_future()
        timer = loop.call_at(until, self._expire, stream)
        self._waiting.append(stream)
        try:
            return await stream.wake
        finally:
            timer.cancel()

    def _expire(self, stream: Stream) -> None:
        if stream.wake is not None and not stream.wake.done():
            stream.wake.set_result(False)
        if stream in self._waiting:
            self._waiting.remove(stream)

    async def _block(self, height: int) -> LoadedBlock:
        """A final block. The newest are at hand: what a thousand streams ask for must not be looked up each time."""
        found = self._recent.get(height)
        if found is None:
            self._backend.check_body(height)
            found = await self._backend.loaded(Height(height))
            if self.height - height < RECENT_BLOCKS:
                self._recent[height] = found
                while len(self._recent) > RECENT_BLOCKS:
                    del self._recent[min(self._recent)]
        return found

    def _at(self) -> bytes:
        """The field `at`, which has number 1 in every response: of the last final block."""
        if self._at_field[0] != self.height:
            ref = self._backend.final_ref(Height(self.height))
            self._at_field = (self.height, subscription_service_pb2.SubscribeBlocksResponse(at=ref).SerializeToString())
        return self._at_field[1]

    def _gap(self, stream: Stream) -> Refused:
        message = f"the stream fell more than {MAX_LAG_BLOCKS} blocks behind: subscribe again from {stream.next}"
        return Refused(Reason.SUBSCRIPTION_GAP, message, {"resume_height": str(stream.next)})
