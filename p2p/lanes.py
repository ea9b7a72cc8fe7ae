"""Lanes: long-lived streams between validators, for consensus messages and block bodies.

    lanes = Lanes(host, genesis_hash, on_frame, on_change)
    lanes.set_peers(frozenset(validators))
    nursery.start_soon(lanes.run)
    lanes.post_all(MessageId.CONSENSUS, vote, priority=True)

To each validator a lane has two streams, `…/lane-priority/1` and `…/lane-bulk/1`, each with a bounded queue and one
writer: a vote never waits for a block body, neither in a queue nor in the middle of a frame, and within a class the
order is that of `post`. A lane is open once the peer has taken both streams; `on_change` says so.

What cannot be sent is dropped and counted, never waited for: posts to a closed lane, posts beyond a queue's cap, and
what was queued when a lane was cut. Consensus sends its current messages again when a lane opens, and now and then;
bodies are asked for again. Lanes know nothing of scores or bans.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import trio

from p2p.frames import pieces
from p2p.host import Host, NotConnectedError
from p2p.lane_queue import Class, Lane, LaneDepth, LaneLimits, LaneQueue
from p2p.streams import Stream, StreamEnd, StreamError
from trellis.encoding import DecodeError, Malformed
from trellis.types import U32_MAX, Hash, PeerId
from trellis.wire import Flags, Frame, FrameDecoder, MessageId, encode_frame, next_sequence

FIRST_RETRY_S: Final = 0.1
LONGEST_RETRY_S: Final = 1.0
"""A connected peer that takes no lane: it may not know yet that we are a validator."""
ACCEPT_S: Final = 5
MAX_STEP_BACK: Final = 1 << 31
"""A sequence that is further ahead than this went backwards."""


class LaneFault(StrEnum):
    """Why a stream of a lane was reset that a peer had opened. A closed set: it labels counters."""

    STRANGER = "lane_stranger"
    """The peer is no validator that we know."""
    BAD_FRAME = "lane_bad_frame"
    UNKNOWN_CRITICAL = "lane_unknown_critical"
    WENT_BACK = "lane_went_back"
    """A sequence lower than one before it."""
    SLOW_FRAME = "lane_slow_frame"
    SPOKE_BACK = "lane_spoke_back"
    """Something else than acknowledgements from the side that only listens."""


class Drop(StrEnum):
    """Why something that was posted was not sent. A closed set: it labels counters."""

    CLOSED = "lane_drop_closed"
    FULL = "lane_drop_full"
    CUT = "lane_drop_cut"
    """It was queued when the lane ended."""


@dataclass(slots=True)
class LaneCounters:
    sent_frames: int = 0
    sent_bytes: int = 0
    received_frames: int = 0
    received_bytes: int = 0
    gaps: int = 0
    """Frames that the other side numbered and did not send: its queue was full."""
    drops: Counter[str] = field(default_factory=Counter)


OnFrame = Callable[[PeerId, Frame], None]
OnChange = Callable[[PeerId, bool], None]
Gate = Callable[[PeerId], Awaitable[None]]


class _Incoming:
    """A stream on which a validator sends to us."""

    __slots__ = ("done", "scope")

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()


class Lanes:
    """See the module's text. What `on_frame` or `on_change` raises ends `run`: it is our own fault."""

    def __init__(
        self,
        host: Host,
        genesis_hash: Hash,
        on_frame: OnFrame,
        on_change: OnChange,
        limits: LaneLimits | None = None,
        gate: Gate | None = None,
    ) -> None:
        self.counters = LaneCounters()
        self._host = host
        self._on_frame = on_frame
        self._on_change = on_change
        self._limits = limits or LaneLimits()
        self._gate = gate
        self._protocols = {each: f"/trellis/{genesis_hash[:4].hex()}/lane-{each}/1" for each in Class}
        self._lanes: dict[PeerId, Lane] = {}
        self._incoming: dict[tuple[PeerId, str], _Incoming] = {}
        self._nursery: trio.Nursery | None = None
        self._broken: Exception | None = None
        self._breaks = trio.Event()
        for protocol in self._protocols.values():
            host.serve(protocol, self._serve)
        host.on_connect(self._connected)
        host.on_disconnect(self._lost)

    # What the node calls.

    def set_peers(self, peers: frozenset[PeerId]) -> None:
        """The validators but for this node, from now on."""
        for peer in sorted(self._lanes.keys() - peers):
            self._lanes.pop(peer).scope.cancel()
            for each in Class:
                incoming = self._incoming.get((peer, self._protocols[each]))
                if incoming is not None:
                    incoming.scope.cancel()
        for peer in sorted(peers - self._lanes.keys() - {self._host.peer}):
            lane = self._lanes[peer] = Lane(peer, self._limits)
            if self._nursery is not None:
                self._nursery.start_soon(self._keep, lane)

    def post(self, peer: PeerId, message_id: MessageId, payload: bytes, *, priority: bool = False) -> bool:
        """Queues a message; False if it was dropped. `payload` is not copied before it is written."""
        lane = self._lanes.get(peer)
        return lane is not None and self._post(lane, message_id, payload, priority)

    def post_all(self, message_id: MessageId, payload: bytes, *, priority: bool = False) -> int:
        """To all validators; how many lanes took it."""
        return sum([self._post(lane, message_id, payload, priority) for lane in self._lanes.values()])

    def _post(self, lane: Lane, message_id: MessageId, payload: bytes, priority: bool) -> bool:
        if lane.open and lane.queues[Class.PRIORITY if priority else Class.BULK].post(message_id, payload):
            return True
        self._drop(lane, Drop.FULL if lane.open else Drop.CLOSED, 1)
        return False

    def _drop(self, lane: Lane, reason: Drop, frames: int) -> None:
        if frames:
            lane.dropped_frames += frames
            self.counters.drops[str(reason)] += frames

    def depths(self) -> dict[PeerId, LaneDepth]:
        """Every lane, in the order of peer ids."""
        return {peer: self._lanes[peer].depth() for peer in sorted(self._lanes)}

    async def run(self) -> None:
        """Opens lanes and keeps them open, until it is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for lane in self._lanes.values():
                    nursery.start_soon(self._keep, lane)
                await self._breaks.wait()
                if self._broken is not None:
                    raise self._broken
            finally:
                self._nursery = None

    # Sending.

    def _connected(self, peer: PeerId) -> None:
        lane = self._lanes.get(peer)
        if lane is not None:
            lane.connected.set()

    def _lost(self, peer: PeerId) -> None:
        lane = self._lanes.get(peer)
        if lane is not None:
            lane.lost.set()

    async def _keep(self, lane: Lane) -> None:
        wait_s = FIRST_RETRY_S
        with lane.scope:
            while True:
                lane.connected, lane.lost = trio.Event(), trio.Event()
                try:
                    streams = await self._open(lane)
                except NotConnectedError:
                    # The host calls only for a first connection: one that stands before the last is forgotten is none.
                    with trio.move_on_after(FIRST_RETRY_S if self._host.connected(lane.peer) else LONGEST_RETRY_S):
                        await lane.connected.wait()
                    continue
                except StreamError:
                    pass
                else:
                    since_s = trio.current_time()
                    await self._send(lane, streams)
                    if trio.current_time() - since_s > LONGEST_RETRY_S:
                        wait_s = FIRST_RETRY_S
                        continue
                # A connected peer that takes no lane, or ends each at once, is not asked in a tight loop.
                with trio.move_on_after(wait_s):
                    await lane.lost.wait()
                wait_s = FIRST_RETRY_S if lane.lost.is_set() else min(2 * wait_s, LONGEST_RETRY_S)

    async def _open(self, lane: Lane) -> dict[Class, Stream]:
        """Both streams, taken by the peer."""
        streams: dict[Class, Stream] = {}
        done = False
        try:
            for each in Class:
                stream = streams[each] = await self._host.open_stream(lane.peer, self._protocols[each])
                with trio.move_on_after(ACCEPT_S) as scope:
                    # The peer's word that we are a validator to it, and that an older stream of ours is over.
                    await stream.read_exactly(len(_ACCEPTED))
                if scope.cancelled_caught:
                    raise StreamError(StreamEnd.BLOCKED, f"{self._protocols[each]} was not taken in {ACCEPT_S} s")
            done = True
        finally:
            if not done:
                await _reset(streams.values())
        return streams

    async def _send(self, lane: Lane, streams: dict[Class, Stream]) -> None:
        lane.open = True
        self._on_change(lane.peer, True)
        try:
            async with trio.open_nursery() as nursery:
                for each, stream in streams.items():
                    nursery.start_soon(self._write, lane, lane.queues[each], stream, nursery.cancel_scope)
                    nursery.start_soon(self._watch, lane.queues[each], stream, nursery.cancel_scope)
        finally:
            lane.open = False
            self._drop(lane, Drop.CUT, sum(queue.clear() for queue in lane.queues.values()))
            await _reset(streams.values())
            self._on_change(lane.peer, False)

    async def _write(self, lane: Lane, queue: LaneQueue, stream: Stream, end: trio.CancelScope) -> None:
        counters, frames = self.counters, 0
        try:
            while True:
                parts, frames = await queue.take()
                for piece in pieces(parts):
                    await stream.write(piece)
                    counters.sent_bytes += len(piece)
                counters.sent_frames += frames
                lane.sent_frames += frames
        except StreamError:
            self._drop(lane, Drop.CUT, frames)
            end.cancel()

    async def _watch(self, queue: LaneQueue, stream: Stream, end: trio.CancelScope) -> None:
        """Acknowledgements, and the end of the stream."""
        decoder = FrameDecoder(_CONFIRMATION_BYTES)
        try:
            while data := await stream.read():
                for frame in decoder.feed(data):
                    if frame.message_id != MessageId.PONG or len(frame.payload) != _CONFIRMATION_BYTES:
                        raise DecodeError(Malformed.UNKNOWN_KIND, "only acknowledgements are expected")  # noqa: TRY301
                    queue.confirmed = next_sequence(int.from_bytes(frame.payload, "big"))
        except StreamError:
            pass
        except DecodeError:
            self._count(LaneFault.SPOKE_BACK)
        end.cancel()

    # Receiving.

    def _count(self, fault: LaneFault) -> None:
        self._host.counters.rejects[str(fault)] += 1

    async def _serve(self, stream: Stream) -> None:
        key = (stream.peer, stream.protocol)
        if stream.peer not in self._lanes:
            self._count(LaneFault.STRANGER)
            await stream.reset()
            return
        own = _Incoming()
        older, self._incoming[key] = self._incoming.get(key), own
        try:
            if older is not None:
                # The peer lost that one, whether we know it yet or not. Nothing of it may come after what comes now.
                older.scope.cancel()
                await older.done.wait()
            with own.scope:
                fault = await self._receive(stream)
                if fault is not None:
                    self._count(fault)
        except StreamError:
            pass
        finally:
            await stream.reset()
            own.done.set()
            if self._incoming.get(key) is own:
                del self._incoming[key]

    async def _receive(self, stream: Stream) -> LaneFault | None:
        await stream.write(_ACCEPTED)
        counters, peer, gate, on_frame = self.counters, stream.peer, self._gate, self._on_frame
        decoder = FrameDecoder()
        expected = 0
        begun_s = 0.0
        while True:
            if gate is not None:
                await gate(peer)
            with trio.move_on_at(begun_s + self._limits.frame_s if decoder.buffered_bytes else math.inf) as scope:
                data = await stream.read()
            if scope.cancelled_caught:
                return LaneFault.SLOW_FRAME
            if not data:
                return None
            counters.received_bytes += len(data)
            before, confirm = counters.received_frames, None
            if not decoder.buffered_bytes:
                begun_s = trio.current_time()
            try:
                for frame in decoder.feed(data):
                    if frame.sequence != expected:
                        skipped = (frame.sequence - expected) & U32_MAX
                        if skipped >= MAX_STEP_BACK:
                            return LaneFault.WENT_BACK
                        counters.gaps += skipped
                    expected = next_sequence(frame.sequence)
                    counters.received_frames += 1
                    if frame.flags & Flags.ACK:
                        confirm = frame.sequence
                    if frame.known:
                        on_frame(peer, frame)
                    elif frame.flags & Flags.CRITICAL:
                        return LaneFault.UNKNOWN_CRITICAL
                if counters.received_frames != before:
                    begun_s = trio.current_time()
                if confirm is not None:
                    payload = confirm.to_bytes(_CONFIRMATION_BYTES, "big")
                    await stream.write(encode_frame(Frame(MessageId.PONG, 0, Flags.NONE, payload)))
            except DecodeError:
                return LaneFault.BAD_FRAME
            except StreamError:
                raise
            except Exception as fault:  # ours: the host would only reset the stream, and nobody would know
                self._broken = fault
                self._breaks.set()
                raise


async def _reset(streams: Iterable[Stream]) -> None:
    for stream in streams:
        await stream.reset()


_CONFIRMATION_BYTES: Final = 4
_ACCEPTED: Final = encode_frame(Frame(MessageId.HELLO, 0, Flags.NONE, b""))
"""What the listening side of a stream says, once: the stream is taken."""
