"""Token buckets, one set for each connection: how much of each topic one peer may send."""

from __future__ import annotations

from collections.abc import Mapping

from p2p.gossip.topics import Topic, TopicLimits


class Bucket:
    """`burst` at once, then `per_s` each second; any amount can be taken, all of it or nothing."""

    __slots__ = ("_at_ms", "_burst", "_milli", "_per_s")

    def __init__(self, per_s: int, burst: int, now_ms: int) -> None:
        self._per_s = per_s
        self._burst = burst * 1_000
        self._milli = self._burst
        self._at_ms = now_ms

    def _fill(self, now_ms: int) -> None:
        if now_ms > self._at_ms:
            self._milli = min(self._milli + (now_ms - self._at_ms) * self._per_s, self._burst)
            self._at_ms = now_ms

    def take(self, amount: int, now_ms: int) -> bool:
        self._fill(now_ms)
        if self._milli < amount * 1_000:
            return False
        self._milli -= amount * 1_000
        return True

    def owe(self, amount: int, now_ms: int) -> int:
        """Takes the amount in any case; how many ms until that is paid for."""
        self._fill(now_ms)
        self._milli -= amount * 1_000
        return 0 if self._milli >= 0 else -self._milli // max(self._per_s, 1)


class TopicBuckets:
    """What one connection may send on one topic."""

    __slots__ = ("_bytes", "_ids", "_messages")

    def __init__(self, limits: TopicLimits, now_ms: int) -> None:
        self._messages = Bucket(limits.messages_per_s, limits.burst_messages, now_ms)
        self._bytes = Bucket(limits.bytes_per_s, limits.burst_bytes, now_ms)
        self._ids = Bucket(limits.ids_per_s, limits.ids_per_s, now_ms)

    def take_message(self, size_bytes: int, now_ms: int) -> bool:
        return self._messages.take(1, now_ms) and self._bytes.take(size_bytes, now_ms)

    def take_ids(self, number: int, now_ms: int) -> bool:
        return self._ids.take(number, now_ms)


class PeerBuckets:
    """Everything that one connection is measured by."""

    __slots__ = ("rpcs", "served", "topics")

    def __init__(
        self, limits: Mapping[Topic, TopicLimits], rpcs_per_s: int, served_bytes_per_s: int, now_ms: int
    ) -> None:
        self.topics = {topic: TopicBuckets(each, now_ms) for topic, each in limits.items()}
        self.rpcs = Bucket(rpcs_per_s, rpcs_per_s, now_ms)
        self.served = Bucket(served_bytes_per_s, served_bytes_per_s, now_ms)
