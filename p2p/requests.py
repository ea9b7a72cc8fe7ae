"""Questions to peers and their answers: `/trellis/<8 hex digits of the genesis hash>/sync/1`.

    requests = Requests(host, genesis_hash)
    requests.serve(MessageId.GET_BLOCKS, handler)        # async def handler(peer, payload): yield MessageId.BLOCKS, ...
    frames = await requests.ask(peer, MessageId.GET_BLOCKS, payload, deadline_s=10, max_bytes=8 << 20)

One stream carries one request at a time and stays open for the next one; several requests to one peer use several
streams, so none waits behind another's answer. The asker grants what the server may send, frame by frame and byte by
byte; giving up resets the stream, which stops the server's work.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from enum import StrEnum
from typing import Final

import trio

from p2p.frames import head
from p2p.host import DialError, Host, NotConnectedError
from p2p.messages import Credit, Goodbye, decode_goodbye
from p2p.serving import Desk, Handler, RequestLimits, ServedStream
from p2p.streams import Stream, StreamEnd, StreamError
from trellis.encoding import DecodeError
from trellis.peerid import peer_id_text
from trellis.types import Hash, PeerId
from trellis.wire import MAX_FRAME_PAYLOAD_BYTES, Flags, Frame, FrameDecoder, MessageId, next_sequence

MAX_FRAMES: Final = 16_384
"""Of one answer, unless the asker says otherwise: each costs us an object however small it is."""
WINDOW_BYTES: Final = 8 << 20
"""Of an answer that is read as it comes: what may be on its way or unread."""

ANSWERS: Final[dict[MessageId, frozenset[MessageId]]] = {
    MessageId.HELLO: frozenset({MessageId.HELLO}),
    MessageId.STATUS: frozenset({MessageId.STATUS}),
    MessageId.PING: frozenset({MessageId.PONG}),
    MessageId.GOODBYE: frozenset(),
    MessageId.BODY_REQUEST: frozenset({MessageId.BODY_RESPONSE, MessageId.NOT_FOUND}),
    MessageId.GET_HEADERS: frozenset({MessageId.HEADERS}),
    MessageId.GET_BLOCKS: frozenset({MessageId.BLOCKS, MessageId.NOT_FOUND}),
    MessageId.GET_SNAPSHOTS: frozenset({MessageId.SNAPSHOTS}),
    MessageId.GET_CHUNK: frozenset({MessageId.CHUNK, MessageId.NOT_FOUND}),
    MessageId.INV: frozenset({MessageId.GET_DATA}),
    MessageId.GET_DATA: frozenset({MessageId.DATA, MessageId.NOT_FOUND}),
    MessageId.GET_PEERS: frozenset({MessageId.PEERS}),
}
"""What may be asked, and what an answer to it is made of."""


class RequestFault(StrEnum):
    """Why there is no answer. A closed set: it labels counters."""

    NOT_CONNECTED = "request_not_connected"
    NOT_TAKEN = "request_not_taken"
    """The peer takes no stream for requests."""
    CUT = "request_cut"
    DEADLINE = "request_deadline"
    STALLED = "request_stalled"
    BAD_FRAME = "request_bad_frame"
    UNEXPECTED = "request_unexpected"
    """A frame that is no part of such an answer, or bytes after its end."""
    OVERRUN = "request_overrun"
    """More than was granted."""
    TOO_LARGE = "request_too_large"
    """Not even the first frame of the answer fits into what was granted."""
    NOT_SERVED = "request_not_served"
    BUSY = "request_busy"
    REFUSED = "request_refused"
    CALLED_MALFORMED = "request_called_malformed"
    """The peer cannot read what we asked."""
    FAILED = "request_failed"
    """The peer says that it could not answer."""


_TOLD: Final = {
    Goodbye.NOT_SERVED: RequestFault.NOT_SERVED,
    Goodbye.BUSY: RequestFault.BUSY,
    Goodbye.REFUSED: RequestFault.REFUSED,
    Goodbye.MALFORMED: RequestFault.CALLED_MALFORMED,
    Goodbye.TOO_SLOW: RequestFault.FAILED,
    Goodbye.FAILED: RequestFault.FAILED,
}


class RequestError(Exception):
    """A request got no answer, or one that breaks the rules."""

    def __init__(self, reason: RequestFault, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.counted = False
        """Once, where several requests are nested."""


class _Line:
    """A stream to a peer that carries one request after another."""

    __slots__ = ("expected", "sequence", "stream")

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.sequence = 0
        self.expected = 0

    def encode(self, message_id: MessageId, payload: bytes) -> bytes:
        sequence, self.sequence = self.sequence, next_sequence(self.sequence)
        return head(message_id, sequence, Flags.CRITICAL, len(payload)) + payload


class Answer:
    """The frames of one answer as they come: `async for frame in answer`. What is not read is not granted again."""

    def __init__(
        self, line: _Line, desk: Desk, asked: MessageId, max_bytes: int, window_bytes: int, max_frames: int
    ) -> None:
        self.line = line
        self._desk = desk
        self._kinds = ANSWERS[asked]
        self._decoder = FrameDecoder(max(1, min(window_bytes, MAX_FRAME_PAYLOAD_BYTES)))
        self._ungranted_bytes = max_bytes - window_bytes
        self._granted_bytes = window_bytes
        self._granted_frames = max_frames
        self._read_bytes = 0
        self._read_frames = 0
        self._ready: deque[Frame] = deque()
        self._goodbye: Goodbye | None = None
        self._any = False
        self.heard = False
        """Anything at all came back."""
        self.ended = False
        """All of it came: the stream can carry the next request."""
        self.truncated = False
        """There is more than was granted."""

    async def send(self, message_id: MessageId, payload: bytes) -> None:
        """The request, and before it what its answer may have."""
        credit = Credit(self._granted_bytes, self._granted_frames, last=not self._ungranted_bytes)
        line = self.line
        sent = False
        try:
            await line.stream.write(line.encode(MessageId.CREDIT, credit.encode()) + line.encode(message_id, payload))
            sent = True
        except StreamError as lost:
            reason = RequestFault.STALLED if lost.end is StreamEnd.BLOCKED else RequestFault.CUT
            raise RequestError(reason, str(lost)) from None
        finally:
            if not sent:
                await line.stream.reset()

    async def begins_on_kept_stream(self, message_id: MessageId, payload: bytes) -> bool:
        """Sends and waits for the first bytes back; False if the stream had ended while it was idle."""
        begun = False
        try:
            await self.send(message_id, payload)
            await self._more()
            begun = True
        except RequestError as fault:
            if fault.reason is not RequestFault.CUT or self.heard:
                raise
        finally:
            if not begun:
                await self.line.stream.reset()
        return begun

    def __aiter__(self) -> Answer:
        return self

    async def __anext__(self) -> Frame:
        while not self._ready:
            if self._goodbye is not None:
                raise StopAsyncIteration
            await self._more()
        frame = self._ready.popleft()
        self._read_bytes += len(frame.payload)
        self._read_frames += 1
        return frame

    async def _more(self) -> None:
        try:
            with trio.move_on_after(self._desk.limits.stall_s) as scope:
                if self._ungranted_bytes and self._read_frames and not self._decoder.buffered_bytes:
                    # The server has sent whole frames and may be waiting for this.
                    await self._grant()
                data = await self.line.stream.read()
        except StreamError as lost:
            raise RequestError(RequestFault.CUT, str(lost)) from None
        if scope.cancelled_caught:
            raise RequestError(RequestFault.STALLED, f"nothing came for {self._desk.limits.stall_s} s")
        if not data:
            raise RequestError(RequestFault.CUT, "the peer closed the stream before the answer's end")
        self.heard = True
        try:
            for frame in self._decoder.feed(data):
                self._take(frame)
        except DecodeError as fault:
            raise RequestError(RequestFault.BAD_FRAME, fault.detail) from None
        if self._goodbye is not None:
            self._finish()

    async def _grant(self) -> None:
        more = min(self._read_bytes, self._ungranted_bytes)
        self._ungranted_bytes -= more
        credit = Credit(more, self._read_frames, last=not self._ungranted_bytes)
        self._granted_bytes += more
        self._granted_frames += self._read_frames
        self._read_bytes = self._read_frames = 0
        await self.line.stream.write(self.line.encode(MessageId.CREDIT, credit.encode()))

    def _take(self, frame: Frame) -> None:
        if self._goodbye is not None:
            raise RequestError(RequestFault.UNEXPECTED, "a frame after the answer's end")
        self._desk.gaps += frame.sequence != self.line.expected
        self.line.expected = next_sequence(frame.sequence)
        if frame.message_id == MessageId.GOODBYE:
            self._goodbye = decode_goodbye(frame.payload)
            return
        if frame.message_id not in self._kinds and (frame.known or frame.flags & Flags.CRITICAL):
            raise RequestError(RequestFault.UNEXPECTED, f"message {frame.message_id} in the answer")
        self._granted_bytes -= len(frame.payload)
        self._granted_frames -= 1
        if self._granted_bytes < 0 or self._granted_frames < 0:
            raise RequestError(RequestFault.OVERRUN, "the peer sent more than it was granted")
        if frame.known:
            self._any = True
            self._ready.append(frame)

    def _finish(self) -> None:
        if self._decoder.buffered_bytes:
            raise RequestError(RequestFault.UNEXPECTED, "bytes after the answer's end")
        self.ended = True
        if self._goodbye in _TOLD:
            raise RequestError(_TOLD[self._goodbye], f"the peer says {self._goodbye.name}")
        self.truncated = self._goodbye is Goodbye.LIMIT
        if self.truncated and not self._any:
            raise RequestError(RequestFault.TOO_LARGE, "the first frame of the answer is larger than the grant")


class _Peer:
    """What we have with one peer."""

    __slots__ = ("_most", "idle", "places")

    def __init__(self, limits: RequestLimits) -> None:
        self._most = limits.requests_per_peer
        self.places = trio.Semaphore(self._most)
        self.idle: list[_Line] = []

    @property
    def unused(self) -> bool:
        return not self.idle and self.places.value == self._most and not self.places.statistics().tasks_waiting


class Requests:
    """Both sides of requests: what this node asks, and what it serves."""

    def __init__(self, host: Host, genesis_hash: Hash, limits: RequestLimits | None = None) -> None:
        self.protocol = f"/trellis/{genesis_hash[:4].hex()}/sync/1"
        self.desk = Desk(limits or RequestLimits(), host.counters.rejects, own_faults=host.own_faults)
        """The serving side's state; `desk.refuses` is where the peer book says who is throttled."""
        self.asked = 0
        self._host = host
        self._peers: dict[PeerId, _Peer] = {}
        host.serve(self.protocol, self._serve)
        host.on_disconnect(self._forget)

    def serve(self, message_id: MessageId, handler: Handler) -> None:
        """Requests with this id are answered by what `handler(peer, payload)` yields."""
        if message_id not in ANSWERS:
            raise ValueError(f"{message_id.name} is no request")
        self.desk.handlers[message_id] = handler

    async def _serve(self, stream: Stream) -> None:
        await ServedStream(stream, self.desk).run()

    async def ask(
        self,
        peer: PeerId,
        message_id: MessageId,
        payload: bytes,
        *,
        deadline_s: float,
        max_bytes: int,
        max_frames: int = MAX_FRAMES,
    ) -> list[Frame]:
        """The answer's frames, all of them or as many as fit into `max_bytes` of payloads: who asks for many things
        looks which ones came. `RequestError` if there is no answer before the deadline, or not one frame of it fits."""
        async with self.asking(
            peer,
            message_id,
            payload,
            deadline_s=deadline_s,
            max_bytes=max_bytes,
            window_bytes=max_bytes,
            max_frames=max_frames,
        ) as answer:
            return [frame async for frame in answer]

    @asynccontextmanager
    async def asking(
        self,
        peer: PeerId,
        message_id: MessageId,
        payload: bytes,
        *,
        deadline_s: float,
        max_bytes: int,
        window_bytes: int = WINDOW_BYTES,
        max_frames: int = MAX_FRAMES,
    ) -> AsyncIterator[Answer]:
        """An answer to read frame by frame: at most `window_bytes` are under way or unread. Leaving early ends it."""
        if message_id not in ANSWERS:
            raise ValueError(f"{message_id.name} is no request")
        self.asked += 1
        known = self._peers.setdefault(peer, _Peer(self.desk.limits))
        try:
            with trio.move_on_after(deadline_s) as scope:
                async with known.places:
                    answer = await self._begin(
                        known, peer, message_id, payload, (max_bytes, min(window_bytes, max_bytes), max_frames)
                    )
                    try:
                        yield answer
                    finally:
                        await self._put_back(known, peer, answer)
            if scope.cancelled_caught:
                detail = f"no whole answer from {peer_id_text(peer)} in {deadline_s} s"
                raise RequestError(RequestFault.DEADLINE, detail)  # noqa: TRY301 - counted like the others
        except RequestError as fault:
            if not fault.counted:
                fault.counted = True
                self.desk.faults[str(fault.reason)] += 1
            raise
        finally:
            self._tidy(peer, known)

    async def _begin(
        self, known: _Peer, peer: PeerId, message_id: MessageId, payload: bytes, grant: tuple[int, int, int]
    ) -> Answer:
        """The request is on its way. A stream that was kept may have ended meanwhile: then another one is taken."""
        while known.idle:
            answer = Answer(known.idle.pop(), self.desk, message_id, *grant)
            if await answer.begins_on_kept_stream(message_id, payload):
                return answer
        answer = Answer(await self._fresh(peer), self.desk, message_id, *grant)
        await answer.send(message_id, payload)
        return answer

    async def _fresh(self, peer: PeerId) -> _Line:
        try:
            return _Line(await self._host.open_stream(peer, self.protocol))
        except (NotConnectedError, DialError) as fault:
            raise RequestError(RequestFault.NOT_CONNECTED, str(fault)) from None
        except StreamError as fault:
            raise RequestError(RequestFault.NOT_TAKEN, str(fault)) from None

    async def _put_back(self, known: _Peer, peer: PeerId, answer: Answer) -> None:
        line = answer.line
        if not answer.ended:
            # What was asked is not wanted any more: the reset tells the server.
            await line.stream.reset()
        elif len(known.idle) < self.desk.limits.idle_streams and self._peers.get(peer) is known:
            known.idle.append(line)
        else:
            await line.stream.reset()

    def _forget(self, peer: PeerId) -> None:
        known = self._peers.get(peer)
        if known is not None:
            known.idle.clear()
            self._tidy(peer, known)

    def _tidy(self, peer: PeerId, known: _Peer) -> None:
        if known.unused and self._peers.get(peer) is known:
            del self._peers[peer]
