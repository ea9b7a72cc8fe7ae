"""Plain byte streams to a peer. What a protocol reads and writes is bytes; libp2p's errors end here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum
from typing import Any, Final

import trio
from libp2p.abc import INetStream
from libp2p.exceptions import BaseLibp2pError
from libp2p.network.stream.exceptions import StreamClosed, StreamEOF, StreamReset
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError

from trellis.types import PeerId

READ_AHEAD_BYTES: Final = 64 << 10
"""Of one read from yamux, which takes locks and may send a window update each time."""
MAX_DISCARDED_BYTES: Final = 1 << 20
"""What a peer may still send into a stream that we have closed."""

LOST: Final = (BaseLibp2pError, OSError, ValueError, KeyError, trio.ClosedResourceError, trio.BrokenResourceError)
"""What libp2p raises from a stream whose peer, connection or bookkeeping is gone."""


class StreamEnd(StrEnum):
    """Why a stream cannot be used any more."""

    ENDED = "ended"
    """The peer closed its end before everything that was expected had come."""
    RESET = "reset"
    """The peer, or the connection under it, is gone."""
    BLOCKED = "blocked"
    """The peer takes no bytes."""
    CLOSED = "closed"
    """This side closed it."""


class StreamError(Exception):
    """The stream is over: a remote fault, or a network one. Not a reason to end anything else."""

    def __init__(self, end: StreamEnd, detail: str) -> None:
        super().__init__(f"{end}: {detail}")
        self.end = end


class ReadAhead:
    """A libp2p stream that is read in large pieces. Stock handlers take it for the stream itself."""

    def __init__(self, stream: INetStream) -> None:
        self.stream = stream
        # libp2p's stream guards a state with a lock, which costs a turn of the event loop for each read and write.
        self._muxed: Any = stream.muxed_stream  # type: ignore[attr-defined] # every stream that our swarm makes has one
        self._buffer = b""
        self._at = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    async def read(self, n: int | None = None) -> bytes:
        """At most n bytes; what libp2p's stream would raise at the end, it raises here."""
        if self._at >= len(self._buffer):
            try:
                self._buffer, self._at = await self._muxed.read(READ_AHEAD_BYTES), 0
            except MuxedStreamEOF:
                # yamux says "end" as well when the stream was reset or the whole connection is gone: what is cut must
                # not pass for what is complete.
                if self._muxed.reset_received or self._muxed.conn.event_shutting_down.is_set():
                    raise StreamReset("the stream was cut") from None
                raise StreamEOF from None
            except MuxedStreamError as lost:
                raise StreamReset(str(lost)) from None
        end = len(self._buffer) if n is None or n < 0 else min(self._at + n, len(self._buffer))
        taken = self._buffer[self._at : end]
        self._at = end
        return taken

    async def write(self, data: bytes) -> None:
        await self._muxed.write(data)

    async def read_exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            part = await self.read(size - len(got))
            if not part:
                raise StreamEOF("the stream ended in the middle")
            got += part
        return got

    async def drain(self, timeout_s: float) -> bool:
        """Waits for the peer to close its end, throwing away what it still says; False if it does not."""
        left = MAX_DISCARDED_BYTES
        with trio.move_on_after(timeout_s):
            try:
                while left > 0:
                    left -= len(await self.read())
            except LOST:
                return True
        return False


class Stream:
    """One stream of one protocol. Reads by one task at a time; writes by any number, never interleaved."""

    def __init__(
        self,
        ahead: ReadAhead,
        peer: PeerId,
        protocol: str,
        write_timeout_s: float,
        linger: Callable[[Stream], None],
    ) -> None:
        self.peer = peer
        self.protocol = protocol
        self.ahead = ahead
        self._write_timeout_s = write_timeout_s
        self._linger = linger
        self._write_lock = trio.Lock()
        self._over: StreamEnd | None = None
        self._ended = False

    def __repr__(self) -> str:
        return f"<stream {self.protocol} {'open' if self._over is None else self._over}>"

    async def read(self, max_bytes: int = READ_AHEAD_BYTES) -> bytes:
        """What is there, at least one byte; b"" once the peer has closed its end."""
        if self._ended:
            return b""
        if self._over is StreamEnd.RESET:
            raise StreamError(StreamEnd.RESET, "the stream is over")
        try:
            data = await self.ahead.read(max_bytes)
        except StreamEOF:
            data = b""
        except (StreamReset, *LOST) as lost:
            raise await self._lost(StreamEnd.RESET, lost) from None
        self._ended = not data
        return data

    async def read_exactly(self, size: int) -> bytes:
        """The caller has checked `size` against its cap: so much is held until it is complete."""
        parts: list[bytes] = []
        missing = size
        while missing:
            part = await self.read(missing)
            if not part:
                raise StreamError(StreamEnd.ENDED, f"{missing} of {size} bytes are missing")
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    async def write(self, data: bytes) -> None:
        """All of `data`, before any other writer's. A write that is cancelled or blocked ends the stream: nobody could
        tell how much of it has gone."""
        async with self._write_lock:
            if self._over is not None:
                raise StreamError(self._over, "the stream is over")
            done = False
            try:
                with trio.move_on_after(self._write_timeout_s) as scope:
                    await self.ahead.write(data)
                    done = True
            except (StreamReset, StreamClosed, *LOST) as lost:
                raise await self._lost(StreamEnd.RESET, lost) from None
            finally:
                if not done:
                    await self.reset()
            if scope.cancelled_caught:
                raise StreamError(StreamEnd.BLOCKED, f"the peer took no bytes for {self._write_timeout_s} s")

    async def close_write(self) -> None:
        """Nothing more will be written. What the peer still sends can be read."""
        if self._over is None:
            self._over = StreamEnd.CLOSED
            with suppress(*LOST):  # gone already
                await self.ahead.stream.close()

    async def close(self) -> None:
        """The stream is done with: what the peer still sends is thrown away; if it never ends, the stream is reset."""
        await self.close_write()
        if self._over is StreamEnd.CLOSED:
            self._linger(self)

    async def reset(self) -> None:
        """Ends both directions at once."""
        if self._over is not StreamEnd.RESET:
            self._over = StreamEnd.RESET
            await reset_quietly(self.ahead.stream)

    async def _lost(self, end: StreamEnd, cause: Exception) -> StreamError:
        if self._over is None:
            await self.reset()
        return StreamError(end, type(cause).__name__)

    async def __aenter__(self) -> Stream:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


async def reset_quietly(stream: INetStream) -> None:
    scope = trio.CancelScope(shield=True, deadline=trio.current_time() + 1)
    with scope, suppress(*LOST):  # the connection went first
        await stream.reset()
