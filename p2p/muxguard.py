"""What a peer may do inside yamux, sans-IO: it reads the frames that pass and says when one breaks the rules.

libp2p 0.8.1's yamux warns when a peer sends more than the window it was given, and stores it all; it opens as many
streams as are asked for, and never ends those that are left half open. A member of the network could fill our memory.
The guard sees both directions of one connection and stops that before a byte of the body is kept.
"""

from __future__ import annotations

import struct
from enum import StrEnum
from typing import Final

HEADER_BYTES: Final = 12
_HEADER: Final = struct.Struct("!BBHII")
DATA, WINDOW_UPDATE, PING, GO_AWAY = range(4)
SYN, ACK, FIN, RST = 1, 2, 4, 8
INITIAL_WINDOW_BYTES: Final = 256 << 10
MAX_BODY_BYTES: Final = 64 << 10
"""Of one data frame: what yamux itself writes at most. A frame is read whole before anybody else's turn comes."""
MAX_UNANSWERED_CONTROLS: Final = 4_096
"""Pings and empty frames without a byte of data: each costs us a task switch and an answer."""
CONTROLS_PER_OUR_DATA: Final = 2
"""A peer that only listens answers what it reads with window updates: at most one for each frame of ours. Nothing is
saved up, so whoever listens to much may not flood afterwards."""
CONTROLS_FORGIVEN_PER_S: Final = 32
"""Pings of a connection on which nobody speaks."""


class MuxFault(StrEnum):
    """Why a connection ends whose peer breaks yamux. A closed set: it labels counters."""

    BAD_FRAME = "mux_bad_frame"
    FRAME_TOO_LARGE = "mux_frame_too_large"
    WINDOW_OVERRUN = "mux_window_overrun"
    BAD_STREAM_ID = "mux_bad_stream_id"
    TOO_MANY_STREAMS = "mux_too_many_streams"
    CONTROL_FLOOD = "mux_control_flood"


class MuxError(Exception):
    """The peer broke yamux's rules: end the connection."""

    def __init__(self, fault: MuxFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault


class _Open:
    """One stream: what the peer may still send, and who has closed its end."""

    __slots__ = ("credit_bytes", "local_closed", "remote_closed", "theirs")

    def __init__(self, *, theirs: bool) -> None:
        self.theirs = theirs
        self.credit_bytes = INITIAL_WINDOW_BYTES
        self.local_closed = False
        self.remote_closed = False


class MuxGuard:
    """Feed it every byte that arrives (`arrived`) and every frame before it is sent (`sends`)."""

    def __init__(self, max_streams: int, *, dialer: bool) -> None:
        self._max_streams = max_streams
        self._their_parity = 0 if dialer else 1
        self._streams: dict[int, _Open] = {}
        self._last_theirs = 0
        self._theirs_open = 0
        self._header = b""
        self._body_left = 0
        self._controls = 0
        self.pongs = 0
        """Answers to our pings so far."""

    @property
    def streams(self) -> int:
        return len(self._streams)

    @property
    def their_streams(self) -> int:
        """Open streams that the peer opened."""
        return self._theirs_open

    def arrived(self, data: bytes) -> None:
        at, size = 0, len(data)
        while at < size:
            if self._body_left:
                taken = min(self._body_left, size - at)
                self._body_left -= taken
                at += taken
                continue
            lacking = HEADER_BYTES - len(self._header)
            self._header += data[at : at + lacking]
            at += lacking
            if len(self._header) == HEADER_BYTES:
                self._frame(*_HEADER.unpack(self._header))
                self._header = b""

    def _frame(self, version: int, kind: int, flags: int, stream_id: int, length: int) -> None:
        if version != 0 or kind > GO_AWAY or flags > SYN | ACK | FIN | RST:
            raise MuxError(MuxFault.BAD_FRAME, f"version {version}, type {kind}, flags {flags}")
        if kind == PING and flags & ACK:
            self.pongs += 1
        if kind == DATA and length:
            self._controls = 0
        else:
            self._controls += 1
            if self._controls > MAX_UNANSWERED_CONTROLS:
                raise MuxError(MuxFault.CONTROL_FLOOD, f"{self._controls} frames without data")
        if kind in {DATA, WINDOW_UPDATE}:
            self._stream_frame(kind, flags, stream_id, length)

    def _stream_frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        if kind == DATA:
            if length > MAX_BODY_BYTES:
                raise MuxError(MuxFault.FRAME_TOO_LARGE, f"a frame of {length} bytes")
            self._body_left = length
        if flags & SYN:
            self._opened_by_peer(stream_id)
        stream = self._streams.get(stream_id)
        if stream is None:
            # What was on its way when we reset the stream; yamux reads and drops it.
            return
        if kind == DATA:
            stream.credit_bytes -= length
            if stream.credit_bytes < 0:
                raise MuxError(MuxFault.WINDOW_OVERRUN, f"{-stream.credit_bytes} bytes more than were asked for")
        if flags & (FIN | RST):
            stream.remote_closed = True
            if flags & RST or stream.local_closed:
                self._forget(stream_id)

    def _opened_by_peer(self, stream_id: int) -> None:
        if stream_id % 2 != self._their_parity or stream_id <= self._last_theirs:
            raise MuxError(MuxFault.BAD_STREAM_ID, f"stream {stream_id} is not the peer's next one")
        if self._theirs_open >= self._max_streams:
            raise MuxError(MuxFault.TOO_MANY_STREAMS, f"more than {self._max_streams} streams are open")
        self._last_theirs = stream_id
        self._theirs_open += 1
        self._streams[stream_id] = _Open(theirs=True)

    def sends(self, frame: bytes) -> None:
        """One frame of ours, whole or at least its header."""
        _, kind, flags, stream_id, length = _HEADER.unpack_from(frame)
        if kind > WINDOW_UPDATE:
            return
        if kind == DATA and length:
            self._controls = max(0, self._controls - CONTROLS_PER_OUR_DATA)
        if flags & SYN:
            self._streams[stream_id] = _Open(theirs=False)
        stream = self._streams.get(stream_id)
        if stream is None:
            return
        if kind == WINDOW_UPDATE:
            stream.credit_bytes += length
            if length:
                # Our own reader made progress: the peer is sending data, not controls.
                self._controls = 0
        if flags & (FIN | RST):
            stream.local_closed = True
            if flags & RST or stream.remote_closed:
                self._forget(stream_id)

    def second_passed(self) -> None:
        """Called about once a second, never more often."""
        self._controls = max(0, self._controls - CONTROLS_FORGIVEN_PER_S)

    def _forget(self, stream_id: int) -> None:
        if self._streams.pop(stream_id).theirs:
            self._theirs_open -= 1
