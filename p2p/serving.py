"""The serving side of requests: one stream that a peer opened, its requests one after another, each within its credit.

The reader never stops while an answer is under way: it hears credits, and a reset ends the work at once. An answer is
sent as its handler makes it, and no byte of it is made before there is credit for the one before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from p2p.frames import PIECE_BYTES, head, pieces
from p2p.messages import Credit, Goodbye, decode_credit, encode_goodbye
from p2p.ownfaults import OwnFaults
from p2p.streams import Stream, StreamError
from trellis.encoding import DecodeError
from trellis.types import U32_MAX, PeerId
from trellis.wire import Flags, Frame, FrameDecoder, MessageId, next_sequence

CREDIT_FRAME_BYTES: Final = 9

Handler = Callable[[PeerId, bytes], AsyncIterator[tuple[MessageId, bytes]]]
"""Makes the answer to one request, frame by frame; `DecodeError` if the request's payload is malformed."""


class ServeFault(StrEnum):
    """Why a request was not answered whole. A closed set: it labels counters."""

    SLOW_REQUEST = "serve_slow_request"
    """The first bytes of a request came, the rest did not."""
    BAD_FRAME = "serve_bad_frame"
    UNKNOWN_CRITICAL = "serve_unknown_critical"
    UNEXPECTED = "serve_unexpected"
    """A second request before the first was answered, or a frame that is none of a request's."""
    NOT_SERVED = "serve_not_served"
    REFUSED = "serve_refused"
    BUSY = "serve_busy"
    MALFORMED = "serve_malformed"
    """The handler could not read the request's payload."""
    STALLED = "serve_stalled"
    """The asker granted no credit where one was needed."""
    TOO_SLOW = "serve_too_slow"
    HANDLER_FAILED = "serve_handler_failed"
    CANCELLED = "serve_cancelled"
    """The asker reset the stream, took no bytes, or lost its connection, in the middle of an answer."""


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """Every cap of requests, both sides; the comment of each names what it stops."""

    requests_per_peer: int = 8
    """At once, and kept by both sides: one peer's demand for everybody's disk and uplink."""
    requests_at_once: int = 64
    """Of all peers: each may hold one frame of an answer in memory."""
    request_bytes: int = 64 << 10
    """A request's payload: ids and locators. Checked on the frame's length."""
    request_s: float = 5
    """From a request's first byte to its last: a slow drip."""
    serve_s: float = 60
    """One answer, from first to last: an asker that takes a byte a second."""
    stall_s: float = 5
    """Without a byte of the answer: a silent server."""
    credit_s: float = 15
    """Without a new credit where one is needed: a stalled reader. Longer, as an honest one may be at work on blocks."""
    idle_streams: int = 2
    """Kept open to a peer for the next request; a fresh stream costs several round trips."""


def not_refused(_peer: PeerId) -> bool:
    """Answers everyone who is connected."""
    return False


@dataclass(slots=True)
class Desk:
    """What all streams of one node share: the handlers, who is being served, and the counts."""

    limits: RequestLimits
    faults: Counter[str]
    handlers: dict[MessageId, Handler] = field(default_factory=dict)
    own_faults: OwnFaults = field(default_factory=OwnFaults)
    refuses: Callable[[PeerId], bool] = not_refused
    active: Counter[PeerId] = field(default_factory=Counter)
    served: int = 0
    """Answers that were sent whole."""
    gaps: int = 0
    """Frames that sequences say were lost: the other side's fault, as streams lose nothing."""

    def refusal(self, peer: PeerId, message_id: MessageId) -> tuple[Goodbye, ServeFault] | None:
        if self.refuses(peer):
            return Goodbye.REFUSED, ServeFault.REFUSED
        if message_id not in self.handlers:
            return Goodbye.NOT_SERVED, ServeFault.NOT_SERVED
        busy = self.active[peer] >= self.limits.requests_per_peer
        if busy or self.active.total() >= self.limits.requests_at_once:
            return Goodbye.BUSY, ServeFault.BUSY
        return None

    def count(self, fault: ServeFault) -> None:
        self.faults[str(fault)] += 1

    def leave(self, peer: PeerId) -> None:
        self.active[peer] -= 1
        if not self.active[peer]:
            del self.active[peer]


class _NoCreditError(Exception):
    """The asker granted nothing for too long."""


class _Allowance:
    """The credit of one request."""

    __slots__ = ("_changed", "_last", "_most_bytes", "frames", "size_bytes")

    def __init__(self, credit: Credit) -> None:
        self.size_bytes = credit.size_bytes
        self.frames = credit.frames
        self._last = credit.last
        self._most_bytes = credit.size_bytes
        self._changed = trio.Event()

    def add(self, credit: Credit) -> None:
        """What is outstanding stays in 32 bits, whatever the peer adds up."""
        self.size_bytes = min(self.size_bytes + credit.size_bytes, U32_MAX)
        self.frames = min(self.frames + credit.frames, U32_MAX)
        self._last |= credit.last
        self._most_bytes = max(self._most_bytes, self.size_bytes)
        self._changed.set()
        self._changed = trio.Event()

    def suffices(self, size_bytes: int) -> bool:
        return self.frames > 0 and size_bytes <= self.size_bytes

    def take(self, size_bytes: int) -> None:
        self.frames -= 1
        self.size_bytes -= size_bytes

    async def wait_for(self, size_bytes: int, stall_s: float) -> bool:
        """False if there will never be enough."""
        while not self.suffices(size_bytes):
            if self._last or size_bytes > self._most_bytes:
                return False
            with trio.move_on_after(stall_s) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                raise _NoCreditError
        return True


class ServedStream:
    """One stream's requests."""

    def __init__(self, stream: Stream, desk: Desk) -> None:
        self._stream = stream
        self._peer = stream.peer
        self._desk = desk
        self._sequence = 0
        self._expected = 0
        self._opening: Credit | None = None
        self._allowance: _Allowance | None = None
        self._out: list[bytes] = []
        self._out_bytes = 0

    async def run(self) -> None:
        """Until the peer closes the stream, or breaks the rules and loses it."""
        async with trio.open_nursery() as nursery:
            fault: ServeFault | None = None
            gone = False
            try:
                fault = await self._listen(nursery)
            except StreamError:
                gone = True
            if fault is not None:
                self._desk.count(fault)
                await self._stream.reset()
            if gone or fault is not None:
                nursery.cancel_scope.cancel()

    async def _listen(self, nursery: trio.Nursery) -> ServeFault | None:
        decoder = FrameDecoder(self._desk.limits.request_bytes)
        started_s = trio.current_time()
        while True:
            begun = decoder.buffered_bytes > 0
            deadline_s = started_s + self._desk.limits.request_s if begun else float("inf")
            with trio.move_on_at(deadline_s) as scope:
                data = await self._stream.read()
            if scope.cancelled_caught:
                return ServeFault.SLOW_REQUEST
            if not data:
                return None
            if not begun:
                started_s = trio.current_time()
            try:
                for frame in decoder.feed(data):
                    started_s = trio.current_time()
                    fault = await self._hear(frame, nursery)
                    if fault is not None:
                        return fault
            except DecodeError:
                return ServeFault.BAD_FRAME

    async def _hear(self, frame: Frame, nursery: trio.Nursery) -> ServeFault | None:
        self._desk.gaps += frame.sequence != self._expected
        self._expected = next_sequence(frame.sequence)
        if not frame.known:
            return ServeFault.UNKNOWN_CRITICAL if frame.flags & Flags.CRITICAL else None
        if frame.message_id == MessageId.CREDIT:
            self._credit(decode_credit(frame.payload))
            return None
        if self._allowance is not None or self._opening is None:
            return ServeFault.UNEXPECTED
        opening, self._opening = self._opening, None
        refusal = self._desk.refusal(self._peer, MessageId(frame.message_id))
        if refusal is not None:
            self._desk.count(refusal[1])
            await self._end(refusal[0])
            return None
        self._allowance = _Allowance(opening)
        self._desk.active[self._peer] += 1
        nursery.start_soon(self._answer, MessageId(frame.message_id), frame.payload, self._allowance)
        return None

    def _credit(self, credit: Credit) -> None:
        """Between requests the newest counts: one that was meant for an answer that has just ended is void."""
        if self._allowance is None:
            self._opening = credit
        else:
            self._allowance.add(credit)

    async def _answer(self, message_id: MessageId, payload: bytes, allowance: _Allowance) -> None:
        fault: ServeFault | None = ServeFault.CANCELLED
        goodbye = Goodbye.TOO_SLOW
        try:
            with trio.move_on_after(self._desk.limits.serve_s) as scope:
                goodbye, fault = await self._made(message_id, payload, allowance)
            if scope.cancelled_caught:
                fault = ServeFault.TOO_SLOW
            if fault is ServeFault.STALLED:
                await self._stream.reset()
                return
            await self._end(goodbye)
            self._desk.served += fault is None
        except StreamError:
            fault = fault or ServeFault.CANCELLED
        finally:
            self._desk.leave(self._peer)
            if fault is not None:
                self._desk.count(fault)

    async def _made(
        self, message_id: MessageId, payload: bytes, allowance: _Allowance
    ) -> tuple[Goodbye, ServeFault | None]:
        try:
            async with AsyncExitStack() as stack:
                answer = self._desk.handlers[message_id](self._peer, payload)
                if isinstance(answer, AsyncGenerator):
                    await stack.enter_async_context(aclosing(answer))
                async for kind, body in answer:
                    if not allowance.suffices(len(body)):
                        await self._flush()
                        if not await allowance.wait_for(len(body), self._desk.limits.credit_s):
                            return Goodbye.LIMIT, None
                    allowance.take(len(body))
                    await self._send(kind, body)
        except StreamError:
            raise
        except DecodeError:
            return Goodbye.MALFORMED, ServeFault.MALFORMED
        except _NoCreditError:
            return Goodbye.TOO_SLOW, ServeFault.STALLED
        except Exception as failed:  # whatever a handler raises ends its answer, never the stream of others
            self._desk.own_faults.note(message_id.name, failed)
            return Goodbye.FAILED, ServeFault.HANDLER_FAILED
        return Goodbye.DONE, None

    async def _send(self, message_id: MessageId, payload: bytes) -> None:
        """Small frames wait for company; nobody waits for them, as the answer's end flushes."""
        self._out += (head(message_id, self._sequence, Flags.CRITICAL, len(payload)), payload)
        self._sequence = next_sequence(self._sequence)
        self._out_bytes += len(payload)
        if self._out_bytes >= PIECE_BYTES:
            await self._flush()

    async def _flush(self) -> None:
        out, self._out, self._out_bytes = self._out, [], 0
        for piece in pieces(out):
            await self._stream.write(piece)

    async def _end(self, goodbye: Goodbye) -> None:
        """The next request may come as soon as this is on its way."""
        self._allowance = None
        await self._send(MessageId.GOODBYE, encode_goodbye(goodbye))
        await self._flush()
