"""Messages of the last seconds, for peers that ask with IWANT: keyed by content, bounded by number and bytes.

libp2p's is keyed by sender and sequence number, which anonymous messages lack: all of them would be one. It has no
bound but time.
"""

from __future__ import annotations

from typing import Final

from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2

WINDOW_HEARTBEATS: Final = 3
HISTORY_HEARTBEATS: Final = 5
MAX_CACHED: Final = 4_096
MAX_CACHED_BYTES: Final = 32 << 20
"""A flood of large messages inside their buckets would otherwise be kept for five seconds, whatever its size."""


class ContentCache(MessageCache):
    def __init__(self) -> None:
        super().__init__(WINDOW_HEARTBEATS, HISTORY_HEARTBEATS)
        self.size_bytes = 0

    def keep(self, mid: bytes, message: rpc_pb2.Message) -> None:
        size = len(message.data)
        if mid in self.msgs or len(self.msgs) >= MAX_CACHED or self.size_bytes + size > MAX_CACHED_BYTES:
            return
        self.msgs[mid] = message
        self.size_bytes += size
        self.history[0].append(CacheEntry(mid, message.topicIDs))

    def shift(self) -> None:
        for entry in self.history[-1]:
            self.size_bytes -= len(self.msgs[entry.mid].data)
        super().shift()
