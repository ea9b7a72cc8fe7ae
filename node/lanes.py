"""Lanes between validators: one stream each way, frames of `trellis.wire`, a bounded queue, one writer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import trio

from p2p.host import DialError, Host, NotConnectedError
from p2p.streams import Stream, StreamError
from trellis.encoding import DecodeError
from trellis.types import PeerId
from trellis.wire import Flags, Frame, FrameDecoder, MessageId, encode_frame, next_sequence

QUEUE_FRAMES: Final = 1_024
"""What a validator that reads slowly can make us hold; the core sends again what is dropped here."""
RETRY_S: Final = 0.2


class Lane:
    """What we send to one validator."""

    def __init__(self, host: Host, peer: PeerId, protocol: str, changed: Callable[[bool], None]) -> None:
        self._host = host
        self._peer = peer
        self._protocol = protocol
        self._changed = changed
        self._sequence = 0
        self._send, self._receive = trio.open_memory_channel[bytes](QUEUE_FRAMES)
        self.dropped = 0

    def post(self, message_id: MessageId, payload: bytes) -> None:
        frame = Frame(message_id, self._sequence, Flags.CRITICAL, payload)
        self._sequence = next_sequence(self._sequence)
        try:
            self._send.send_nowait(encode_frame(frame))
        except trio.WouldBlock:
            self.dropped += 1

    async def run(self) -> None:
        """Opens the stream, again and again; what was queued while it was closed is old news and is dropped."""
        while True:
            try:
                async with await self._host.open_stream(self._peer, self._protocol) as stream:
                    self._forget()
                    self._changed(True)
                    try:
                        await self._write(stream)
                    finally:
                        self._changed(False)
            except (NotConnectedError, DialError, StreamError):
                await trio.sleep(RETRY_S)

    def _forget(self) -> None:
        while True:
            try:
                self._receive.receive_nowait()
            except trio.WouldBlock:
                return

    async def _write(self, stream: Stream) -> None:
        while True:
            parts = [await self._receive.receive()]
            while True:
                try:
                    parts.append(self._receive.receive_nowait())
                except trio.WouldBlock:
                    break
            await stream.write(b"".join(parts))


async def read_frames(stream: Stream, take: Callable[[Frame], None]) -> None:
    """Until the stream ends; a frame that cannot be one, or an unknown critical one, resets it."""
    decoder = FrameDecoder()
    while data := await stream.read():
        try:
            for frame in decoder.feed(data):
                if frame.known:
                    take(frame)
                elif frame.flags & Flags.CRITICAL:
                    await stream.reset()
                    return
        except DecodeError:
            await stream.reset()
            return
