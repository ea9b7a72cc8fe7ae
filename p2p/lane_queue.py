"""What waits to be sent to one validator: two bounded queues, and how deep they are."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import trio

from p2p.frames import FRAME_OVERHEAD_BYTES, PIECE_BYTES, head
from trellis.types import U32_MAX, PeerId
from trellis.wire import Flags

ACK_FRAMES: Final = 256
ACK_BYTES: Final = 4 << 20
"""After so many the next frame asks for an answer: it tells how far behind a peer's reader is."""


class Class(StrEnum):
    """What overtakes what. Each class of a lane is a stream of its own, and its name a part of the protocol's."""

    PRIORITY = "priority"
    BULK = "bulk"


@dataclass(frozen=True, slots=True)
class LaneLimits:
    """Caps of one lane; the comment of each names what it stops."""

    priority_bytes: int = 2 << 20
    """Queued for a validator that reads slowly. One frame is always taken, however large."""
    priority_frames: int = 4_096
    bulk_bytes: int = 8 << 20
    """The same of bodies and transactions; a broadcast's payload is shared by all queues."""
    bulk_frames: int = 4_096
    frame_s: float = 20
    """From the first byte of a large frame to its last: up to 16 MiB would be held for a slow drip."""


@dataclass(frozen=True, slots=True)
class LaneDepth:
    """One lane, as operators see it."""

    open: bool
    queued_frames: int
    queued_bytes: int
    unconfirmed_frames: int
    """Sent since the last acknowledgement: some hundreds are normal, thousands are a peer that does not keep up."""
    sent_frames: int
    dropped_frames: int


class LaneQueue:
    """What waits to be written to one stream. Numbers are given at `post`, so that the peer sees what was dropped."""

    __slots__ = (
        "_flags",
        "_lot",
        "_most_bytes",
        "_most_frames",
        "_unasked_bytes",
        "_unasked_frames",
        "_waiting",
        "confirmed",
        "sequence",
        "size_bytes",
    )

    def __init__(self, flags: Flags, most_bytes: int, most_frames: int) -> None:
        self._flags = int(flags)
        self._most_bytes = most_bytes
        self._most_frames = most_frames
        self._waiting: deque[tuple[int, int, bytes]] = deque()
        self._lot = trio.lowlevel.ParkingLot()
        self.clear()

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def unconfirmed(self) -> int:
        return ((self.sequence - self.confirmed) & U32_MAX) - len(self._waiting)

    def clear(self) -> int:
        """For a new stream; how many frames were dropped."""
        dropped = len(self._waiting)
        self._waiting.clear()
        self.sequence = self.confirmed = self.size_bytes = 0
        self._unasked_frames = self._unasked_bytes = 0
        return dropped

    def post(self, message_id: int, payload: bytes) -> bool:
        sequence, self.sequence = self.sequence, (self.sequence + 1) & U32_MAX
        waiting = self._waiting
        if waiting and (self.size_bytes + len(payload) > self._most_bytes or len(waiting) >= self._most_frames):
            return False
        waiting.append((message_id, sequence, payload))
        self.size_bytes += len(payload)
        self._lot.unpark()
        return True

    async def take(self) -> tuple[list[bytes], int]:
        """Heads and payloads for about one piece, and how many frames that is; waits until there is one."""
        waiting = self._waiting
        while not waiting:
            await self._lot.park()
        parts: list[bytes] = []
        frames = size_bytes = 0
        while waiting and size_bytes < PIECE_BYTES:
            message_id, sequence, payload = waiting.popleft()
            parts += (head(message_id, sequence, self._flags_of(len(payload)), len(payload)), payload)
            size_bytes += len(payload) + FRAME_OVERHEAD_BYTES
            self.size_bytes -= len(payload)
            frames += 1
        return parts, frames

    def _flags_of(self, payload_bytes: int) -> int:
        self._unasked_frames += 1
        self._unasked_bytes += payload_bytes
        if self._unasked_frames < ACK_FRAMES and self._unasked_bytes < ACK_BYTES:
            return self._flags
        self._unasked_frames = self._unasked_bytes = 0
        return self._flags | Flags.ACK


class Lane:
    """What we send to one validator."""

    def __init__(self, peer: PeerId, limits: LaneLimits) -> None:
        self.peer = peer
        self.scope = trio.CancelScope()
        self.connected = trio.Event()
        self.lost = trio.Event()
        self.open = False
        self.sent_frames = 0
        self.dropped_frames = 0
        self.queues = {
            Class.PRIORITY: LaneQueue(Flags.CRITICAL | Flags.PRIORITY, limits.priority_bytes, limits.priority_frames),
            Class.BULK: LaneQueue(Flags.CRITICAL, limits.bulk_bytes, limits.bulk_frames),
        }

    def depth(self) -> LaneDepth:
        queues = self.queues.values()
        return LaneDepth(
            self.open,
            sum(len(queue) for queue in queues),
            sum(queue.size_bytes for queue in queues),
            sum(queue.unconfirmed for queue in queues),
            self.sent_frames,
            self.dropped_frames,
        )
