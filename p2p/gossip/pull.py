"""Who announced what, and whom to ask for it: a table without clock, sockets or tasks.

An id is wanted from its first announcement until somebody brings what hashes to it. It is asked of one announcer at a
time, the next one when that one does not bring it; with none left it is forgotten, and a later announcement begins
anew. Ids are witness-inclusive: a forged signature makes another id, which never stands in the way of the good one.
"""

from __future__ import annotations

from collections import Counter, OrderedDict, deque
from collections.abc import Iterable
from typing import Final

from p2p.gossip.announcement import MAX_ASKED_IDS
from p2p.gossip.topics import Topic
from trellis.types import PeerId

MAX_WANTED: Final = 65_536
"""Ids wanted at once, of all peers: about 20 MB. A flood of ids that do not exist."""
MAX_WANTED_OF_PEER: Final = 16_384
"""Ids that one peer was the first to announce: its flood must leave places for others."""
MAX_ANNOUNCERS: Final = 6
"""Remembered of one id."""
MAX_ASKS_OF_PEER: Final = 2
"""Questions to one peer at once: its answer to one is on its way while the next is asked."""


class _Want:
    __slots__ = ("announcers", "asked", "first", "topic")

    def __init__(self, first: PeerId, topic: Topic) -> None:
        self.first = first
        self.topic = topic
        self.announcers: list[PeerId] = [first]
        """Those not asked yet, in the order in which they announced it."""
        self.asked: PeerId | None = None


class PullTable:
    def __init__(self) -> None:
        self._wants: dict[bytes, _Want] = {}
        self._first_of: Counter[PeerId] = Counter()
        self._queues: OrderedDict[PeerId, deque[bytes]] = OrderedDict()
        """Ids to ask of each peer; an id that was settled meanwhile is skipped when its turn comes."""
        self._asking: Counter[PeerId] = Counter()

    def __len__(self) -> int:
        return len(self._wants)

    @property
    def asking(self) -> int:
        return self._asking.total()

    def queued(self) -> int:
        return sum(map(len, self._queues.values()))

    def wants(self, item: bytes) -> bool:
        return item in self._wants

    def announced(self, peer: PeerId, items: Iterable[bytes], topic: Topic) -> int:
        """Notes an announcement of ids that are not here; how many of them there was no place for."""
        refused = 0
        wants, first_of = self._wants, self._first_of
        queue = self._queues.get(peer)
        if queue is None:
            queue = self._queues[peer] = deque()
        for item in items:
            want = wants.get(item)
            if want is None:
                if first_of[peer] >= MAX_WANTED_OF_PEER or len(wants) >= MAX_WANTED:
                    refused += 1
                    continue
                wants[item] = _Want(peer, topic)
                first_of[peer] += 1
                queue.append(item)
            elif len(want.announcers) < MAX_ANNOUNCERS and want.asked != peer and peer not in want.announcers:
                want.announcers.append(peer)
                if want.asked is None:
                    # Whoever has time first is asked.
                    queue.append(item)
        if not queue:
            del self._queues[peer]
        return refused

    def next_question(self) -> tuple[PeerId, tuple[bytes, ...]] | None:
        """Peers in turn, so that one with many ids delays nobody else's."""
        for peer in list(self._queues):
            if self._asking[peer] >= MAX_ASKS_OF_PEER:
                continue
            items = self._take(peer)
            if items:
                self._asking[peer] += 1
                return peer, items
        return None

    def _take(self, peer: PeerId) -> tuple[bytes, ...]:
        queue = self._queues[peer]
        items: list[bytes] = []
        while queue and len(items) < MAX_ASKED_IDS:
            item = queue.popleft()
            want = self._wants.get(item)
            if want is not None and want.asked is None and peer in want.announcers:
                want.announcers.remove(peer)
                want.asked = peer
                items.append(item)
        if queue:
            self._queues.move_to_end(peer)
        else:
            del self._queues[peer]
        return tuple(items)

    def answered(self, peer: PeerId) -> None:
        """A question to the peer is over, however it ended. What it did not bring goes to `again` or `elsewhere`."""
        self._asking[peer] -= 1
        if not self._asking[peer]:
            del self._asking[peer]

    def brought(self, item: bytes) -> Topic | None:
        """Here it is, with the topic on which it was announced; None if nobody wants it, or not any more."""
        want = self._wants.pop(item, None)
        if want is None:
            return None
        self._forget_first(want)
        return want.topic

    def again(self, peer: PeerId, items: Iterable[bytes]) -> None:
        """The peer sent as much as it was granted: the rest is asked of it once more."""
        for item in items:
            want = self._wants.get(item)
            if want is not None and want.asked == peer:
                want.asked = None
                want.announcers.insert(0, peer)
                self._queue(peer, item)

    def elsewhere(self, peer: PeerId, items: Iterable[bytes]) -> None:
        """The peer does not bring them: the next announcer is asked."""
        for item in items:
            want = self._wants.get(item)
            if want is None or want.asked != peer:
                continue
            want.asked = None
            if want.announcers:
                self._queue(want.announcers[0], item)
            else:
                del self._wants[item]
                self._forget_first(want)

    def left(self, peer: PeerId) -> None:
        """The peer is gone; what was asked of it ends with its question."""
        for item in self._queues.pop(peer, ()):
            want = self._wants.get(item)
            if want is not None and peer in want.announcers:
                want.announcers.remove(peer)
                if want.asked is None:
                    want.asked = peer
                    self.elsewhere(peer, (item,))

    def _queue(self, peer: PeerId, item: bytes) -> None:
        self._queues.setdefault(peer, deque()).append(item)

    def _forget_first(self, want: _Want) -> None:
        self._first_of[want.first] -= 1
        if not self._first_of[want.first]:
            del self._first_of[want.first]
