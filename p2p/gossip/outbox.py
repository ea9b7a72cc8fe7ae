"""What waits to be written to one peer: serialised once for all peers, bounded, written in few large pieces.

libp2p's queue holds 32 messages and drops the rest, re-serialises a message for every peer, and writes each alone.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import trio
from libp2p.pubsub.rpc_queue import RpcQueue

MAX_QUEUED: Final = 4_096
"""Messages that wait for one peer; with the bytes below, what a peer that reads nothing can make us hold."""
MAX_QUEUED_BYTES: Final = 8 << 20
PIECE_BYTES: Final = 48 << 10
"""Small messages are written together up to this: one yamux frame, one seal, one system call."""


def framed(rpc: bytes) -> bytes:
    """With libp2p's length before it."""
    size = len(rpc)
    head = bytearray()
    while size >= 0x80:
        head.append(size & 0x7F | 0x80)
        size >>= 7
    head.append(size)
    return bytes(head) + rpc


class Outbox(RpcQueue):
    """Control messages go first: a mesh that cannot be pruned is what fills queues."""

    def __init__(self) -> None:
        super().__init__(0)
        self._urgent: deque[bytes] = deque()
        self._waiting: deque[bytes] = deque()
        self._more = trio.Event()
        self.size_bytes = 0
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._urgent) + len(self._waiting)

    def put(self, frame: bytes, *, urgent: bool = False) -> bool:
        """False if the peer is too far behind: gossip is lossy, and what is lost is pulled."""
        if self._closed or len(self) >= MAX_QUEUED or self.size_bytes + len(frame) > MAX_QUEUED_BYTES:
            self.dropped += 1
            return False
        (self._urgent if urgent else self._waiting).append(frame)
        self.size_bytes += len(frame)
        self._more.set()
        return True

    async def take(self) -> bytes:
        """What is to be written next; nothing once the box is closed."""
        while not self._closed:
            pieces: list[bytes] = []
            size = 0
            for queue in (self._urgent, self._waiting):
                while queue and (not pieces or size + len(queue[0]) <= PIECE_BYTES):
                    size += len(queue[0])
                    pieces.append(queue.popleft())
            if pieces:
                self.size_bytes -= size
                return b"".join(pieces)
            self._more = trio.Event()
            await self._more.wait()
        return b""

    def close(self) -> None:
        super().close()
        self._urgent.clear()
        self._waiting.clear()
        self.size_bytes = 0
        self._more.set()
