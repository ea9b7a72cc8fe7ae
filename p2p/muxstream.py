"""yamux streams without the turns of the event loop that nobody needs, and without what they leave behind.

libp2p 0.8.1 guards each stream's counters with locks although nothing is awaited between their uses, and answers every
read with a window update: of the CPU of a lone vote of 3.4 KB that is nearly half, on both sides. Here a window is
given back when half of it was read, and the common cases of read and write take no lock; all others are libp2p's own.
A stream that was reset is forgotten with every byte of it, and all windows of a connection grow within one bound.
"""

from __future__ import annotations

import struct
from typing import Any, Final

import trio
from libp2p.stream_muxer.yamux import yamux

from p2p.muxguard import DATA

MAX_BODY_BYTES: Final = yamux.MAX_MESSAGE_SIZE - yamux.HEADER_SIZE
MAX_GROWN_BYTES: Final = 8 << 20
"""By which all windows of one connection together grow beyond their first 256 KiB: a peer that has many streams read
quickly, and then sends into all of them at once, would otherwise fill as many of the largest windows."""


class QuickStream(yamux.YamuxStream):
    """`yamux.YamuxStream = QuickStream` before the first connection makes every stream one of these."""

    async def write(self, data: bytes) -> None:
        size = len(data)
        if not size or self.send_closed or self.closed or size > min(self.send_window, MAX_BODY_BYTES):
            await super().write(data)
            return
        self.send_window -= size
        await self.conn._write_frame(struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, DATA, 0, self.stream_id, size) + data)

    async def read(self, n: int | None = -1) -> bytes:
        if n is None or n <= 0:
            return await super().read(n)
        conn, stream_id = self.conn, self.stream_id
        while not (self.closed or self.recv_closed or self.reset_received or conn.event_shutting_down.is_set()):
            buffer = conn.stream_buffers.get(stream_id)
            if buffer is None:
                break
            if buffer:
                data = bytes(buffer[:n])
                del buffer[:n]
                await self._auto_tune_and_send_window_update(bytes_read=len(data))
                return data
            await conn.stream_events[stream_id].wait()
            if stream_id in conn.stream_events:
                conn.stream_events[stream_id] = trio.Event()
        return await super().read(n)

    async def reset(self) -> None:
        """libp2p's does nothing once both ends were closed, and keeps what was not read for up to 90 s."""
        await super().reset()
        self.reset_received = True
        await self.conn._finalize_stream(self, fully_closed=True)

    async def _auto_tune_and_send_window_update(self, *, bytes_read: int = 0) -> None:
        self._pending_recv_release += bytes_read
        released = self._pending_recv_release
        if not bytes_read or 2 * released < self.target_recv_window:
            return
        if self.closed or self.recv_closed:
            # The peer sends no more: nobody would use the window.
            return
        self._pending_recv_release = 0
        self.recv_window += released
        grown = self._apply_autotune_epoch(len(self.conn.stream_buffers.get(self.stream_id, b"")))
        await self.send_window_update(released + grown)

    def _apply_autotune_epoch(self, buffered: int) -> int:
        """libp2p's doubles a window that is read quickly; here only as long as the connection has room for it."""
        conn: Any = self.conn
        if conn.grown_bytes + self.target_recv_window > MAX_GROWN_BYTES:
            return 0
        before = self.target_recv_window
        grown = super()._apply_autotune_epoch(buffered)
        conn.grown_bytes += self.target_recv_window - before
        return grown


class QuickYamux(yamux.Yamux):
    """A connection that forgets a reset stream at once. libp2p keeps what the peer had sent into it for up to 90 s, out
    of sight of every cap: a peer that fills a window, resets and starts again could make us hold gigabytes."""

    grown_bytes = 0
    """Of all windows together, beyond what every stream starts with."""

    def _finalize_stream_locked(self, stream: yamux.YamuxStream, *, fully_closed: bool) -> None:
        unread = self.stream_buffers.get(stream.stream_id)
        if stream.reset_received and unread:
            unread.clear()
        super()._finalize_stream_locked(stream, fully_closed=fully_closed)
        if fully_closed and stream.stream_id not in self.streams:
            self.grown_bytes -= stream.target_recv_window - yamux.DEFAULT_WINDOW_SIZE
            stream.target_recv_window = yamux.DEFAULT_WINDOW_SIZE
