"""Transactions from node to node: announced by id in batches, pulled in batches, announced again by who took them.

    relay = TransactionRelay(gossip, requests, port, identify)
    await nursery.start(relay.run)
    relay.announce(ids)                              # this node is the first to have them
    relay.verdict(tx_id, TransactionVerdict.GOOD)    # on what `port.received` was given: now it is announced on

An announcement goes one hop. Who announces has checked, and can serve: a forwarder that has not could be asked in
vain, and an announcement of ids that do not exist would reach everybody.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol, assert_never

import trio

from p2p.gossip.announcement import (
    DATA_BYTES,
    Announcement,
    decode_announcement,
    decode_data,
    decode_ids,
    encode_announcement,
    encode_data,
    encode_ids,
)
from p2p.gossip.batches import Batches
from p2p.gossip.gossip import Gossip, Token, Verdict
from p2p.gossip.pull import PullTable
from p2p.gossip.scoring import GossipFault
from p2p.gossip.seen import SeenSet
from p2p.gossip.topics import MAX_ANNOUNCED_IDS, MAX_ANNOUNCED_PROOFS, MAX_RIDING_BYTES, Topic
from p2p.requests import RequestError, RequestFault
from p2p.serving import Handler
from trellis.encoding import DecodeError
from trellis.transaction import MAX_TX_BYTES
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

ASK_S: Final = 3
"""For a whole answer; then the next announcer is asked."""
MAX_ANSWER_BYTES: Final = MAX_TX_BYTES + (2 << 20)
"""Of one answer: what a peer can make us hold by answering. More is asked for again."""
MAX_ASKS: Final = 16
"""Questions at once, to all peers: that many answers can be in memory."""
MAX_UNJUDGED: Final = 16_384
MAX_UNJUDGED_BYTES: Final = 48 << 20
"""Transactions that wait for their verdict: nothing more is asked for, so a flood waits at its source."""
RIDING_BYTES: Final = 16 << 10
"""Payloads that ride along with one announcement, where this node was the first to have them: a transaction after idle
reaches the neighbours in one step, and under load most are pulled, once each."""
RECENT: Final = 1_024
"""Announced lately: told again to a peer that connects, or that was too slow to hear."""
REMEMBERED: Final = 65_536
"""Ids whose signature was bad: never pulled again while remembered."""
IGNORED_MS: Final = 5_000
"""What was ignored may be wanted later (a key that was missing): it is not pulled again for so long."""
TICK_S: Final = 1


class TransactionVerdict(Enum):
    GOOD = "good"
    """It is in the pool: announced to others now."""
    BAD_SIGNATURE = "bad_signature"
    IGNORE = "ignore"
    """Nobody's fault: it came too late, does not fit, or its sender's key is not known yet."""


class TransactionPort(Protocol):
    """The node's side. Ids are the witness-inclusive ones."""

    def have(self, item: bytes) -> bool:
        """In the pool or in a block."""
        ...

    def get(self, item: bytes) -> bytes | None: ...

    def received(self, peer: PeerId, transactions: Sequence[tuple[bytes, bytes]]) -> None:
        """(id, bytes), each wanted and with the right id. Each gets a `TransactionRelay.verdict`."""
        ...


class Asking(Protocol):
    """What the relay needs of `p2p.requests`."""

    async def ask(
        self, peer: PeerId, message_id: MessageId, payload: bytes, *, deadline_s: float, max_bytes: int
    ) -> list[Frame]: ...

    def serve(self, message_id: MessageId, handler: Handler) -> None: ...


@dataclass(frozen=True, slots=True)
class RelayHealth:
    """Queue depths, for the health snapshot."""

    to_announce: int
    wanted: int
    asking: int
    unjudged: int
    unjudged_bytes: int
    bad: int


class TransactionRelay:
    def __init__(
        self,
        gossip: Gossip,
        requests: Asking,
        port: TransactionPort,
        identify: Callable[[bytes], bytes | None],
        *,
        riding_bytes: int = RIDING_BYTES,
    ) -> None:
        """`identify`: the witness-inclusive id of a transaction's bytes; None if they are no transaction.
        `riding_bytes`: payloads of one announcement that ride along, where this node was the first to have them."""
        self._gossip = gossip
        self._requests = requests
        self._port = port
        self._identify = identify
        self._riding_bytes = min(riding_bytes, MAX_RIDING_BYTES)
        self._batches = {Topic.TXS: Batches(MAX_ANNOUNCED_IDS), Topic.PROOFS: Batches(MAX_ANNOUNCED_PROOFS)}
        self._recent: dict[Topic, deque[bytes]] = {topic: deque(maxlen=RECENT) for topic in self._batches}
        self._pull = PullTable()
        self._unjudged: dict[bytes, tuple[PeerId, Topic, int]] = {}
        self._unjudged_bytes = 0
        self._bad = SeenSet(REMEMBERED)
        self._ignored = SeenSet(REMEMBERED, IGNORED_MS)
        self._to_greet: set[PeerId] = set()
        self._wake = trio.Event()
        self._ready = trio.Event()
        self.pulled = 0
        """Transactions that came on demand."""
        self.rode = 0
        """Transactions that came with their announcement, wanted."""
        for topic in self._batches:
            gossip.on_message(topic, self._heard(topic))
        requests.serve(MessageId.GET_DATA, self._serve)
        requests.serve(MessageId.INV, self._told)
        gossip.host.on_connect(self._greet_later)
        gossip.host.on_disconnect(self._left)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled, beside `Gossip.run`. Raises what the port raised."""
        async with trio.open_nursery() as nursery:
            for task in (self._announce_all, self._pull_all, self._tick):
                nursery.start_soon(task)
            task_status.started()

    # Announcing.

    def announce(self, ids: Iterable[bytes], topic: Topic = Topic.TXS) -> None:
        """This node is the first to have these, and serves them from now on."""
        self._say(ids, topic, first_hand=True)

    def _say(self, ids: Iterable[bytes], topic: Topic, *, first_hand: bool) -> None:
        batches = self._batches[topic]
        waited = len(batches)
        for item in ids:
            batches.add(item, first_hand=first_hand)
        if not waited or batches.due_in_ms(self._gossip.now_ms()) == 0:
            self._wake.set()

    async def _announce_all(self) -> None:
        while True:
            self._wake = trio.Event()
            now_ms = self._gossip.now_ms()
            wait_ms: int | None = None
            for topic, batches in self._batches.items():
                while (due_ms := batches.due_in_ms(now_ms)) == 0:
                    self._announce(topic, batches.take(now_ms))
                if due_ms is not None:
                    wait_ms = due_ms if wait_ms is None else min(wait_ms, due_ms)
            with trio.move_on_after(float("inf") if wait_ms is None else wait_ms / 1_000):
                await self._wake.wait()

    def _announce(self, topic: Topic, batch: Sequence[tuple[bytes, bool]]) -> None:
        riding = []
        left = self._riding_bytes if topic is Topic.TXS else 0
        for place, (item, first_hand) in enumerate(batch):
            transaction = self._port.get(item) if first_hand and left > 0 else None
            if transaction is not None and len(transaction) <= left:
                left -= len(transaction)
                riding.append((place, transaction))
        ids = tuple(item for item, _ in batch)
        self._recent[topic].extend(ids)
        self._gossip.publish(topic, encode_announcement(Announcement(ids, tuple(riding))))

    # Hearing announcements.

    def _heard(self, topic: Topic) -> Callable[[PeerId, bytes, Token], Verdict]:
        most = MAX_ANNOUNCED_PROOFS if topic is Topic.PROOFS else MAX_ANNOUNCED_IDS

        def heard(peer: PeerId, data: bytes, _token: Token) -> Verdict:
            try:
                announcement = decode_announcement(data, most)
            except DecodeError:
                self._gossip.fault(peer, GossipFault.MALFORMED_ANNOUNCEMENT)
                return Verdict.IGNORE
            self._note(peer, announcement, topic)
            # One hop: it is announced again by this node, when this node has what it names.
            return Verdict.IGNORE

        return heard

    def _note(self, peer: PeerId, announcement: Announcement, topic: Topic) -> tuple[bytes, ...]:
        """The ids that are wanted."""
        gossip = self._gossip
        if not gossip.buckets(peer).topics[topic].take_ids(len(announcement.ids), gossip.now_ms()):
            gossip.fault(peer, GossipFault.RATE_LIMITED)
            return ()
        have, unjudged, bad, ignored = self._port.have, self._unjudged, self._bad, self._ignored
        lacking = [
            each
            for each in announcement.ids
            if each not in unjudged and not have(each) and each not in bad and each not in ignored
        ]
        refused = self._pull.announced(peer, lacking, topic)
        if refused:
            gossip.scores.count(GossipFault.WANTED_FULL, refused)
        if announcement.riding:
            came = [(announcement.ids[place], transaction) for place, transaction in announcement.riding]
            wanted = [(item, transaction) for item, transaction in came if self._pull.wants(item)]
            self.rode += len(self._take(peer, wanted))
        self._ready.set()
        return tuple(lacking)

    def _take(self, peer: PeerId, came: Sequence[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """What is what it says goes to the port; a wrong one is held against the peer, and asked of the next."""
        good = []
        for item, transaction in came:
            if self._identify(transaction) != item:
                self._gossip.fault(peer, GossipFault.WRONG_BYTES)
                continue
            topic = self._pull.brought(item)
            if topic is None:
                continue
            self._unjudged[item] = (peer, topic, len(transaction))
            self._unjudged_bytes += len(transaction)
            good.append((item, transaction))
        if good:
            self._port.received(peer, good)
        return good

    def verdict(self, item: bytes, verdict: TransactionVerdict) -> None:
        found = self._unjudged.pop(item, None)
        if found is None:
            return
        peer, topic, size = found
        self._unjudged_bytes -= size
        self._ready.set()
        match verdict:
            case TransactionVerdict.GOOD:
                self._say((item,), topic, first_hand=False)
            case TransactionVerdict.BAD_SIGNATURE:
                self._bad.add(item)
                self._gossip.fault(peer, GossipFault.BAD_SIGNATURE)
            case TransactionVerdict.IGNORE:
                self._ignored.add(item)
            case _:
                assert_never(verdict)

    # Pulling.

    def _has_room(self) -> bool:
        return (
            self._pull.asking < MAX_ASKS
            and len(self._unjudged) < MAX_UNJUDGED
            and self._unjudged_bytes < MAX_UNJUDGED_BYTES
        )

    async def _pull_all(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                self._ready = trio.Event()
                while self._has_room() and (question := self._pull.next_question()) is not None:
                    nursery.start_soon(self._ask, *question)
                await self._ready.wait()

    async def _ask(self, peer: PeerId, items: tuple[bytes, ...]) -> None:
        gossip = self._gossip
        left = dict.fromkeys(items)
        came_bytes = 0
        try:
            if not gossip.host.connected(peer) or gossip.scores.throttled(peer, gossip.now_ms()):
                return
            frames = await self._requests.ask(
                peer, MessageId.GET_DATA, encode_ids(items), deadline_s=ASK_S, max_bytes=MAX_ANSWER_BYTES
            )
            came_bytes = self._read(peer, frames, left)
            if len(left) == len(items):
                gossip.fault(peer, GossipFault.CANNOT_SERVE)
        except RequestError as fault:
            if fault.reason in _ITS_FAULT:
                gossip.fault(peer, GossipFault.NO_ANSWER)
        except DecodeError:
            gossip.fault(peer, GossipFault.MALFORMED_ANSWER)
        finally:
            self._pull.answered(peer)
            if came_bytes > MAX_ANSWER_BYTES - MAX_TX_BYTES:
                # It was the grant that ended the answer; who sends a little at a time is not waited for.
                self._pull.again(peer, left)
            else:
                self._pull.elsewhere(peer, left)
            self._ready.set()

    def _read(self, peer: PeerId, frames: Sequence[Frame], left: dict[bytes, None]) -> int:
        """Takes the answer's transactions out of `left`; how many bytes it had."""
        for frame in frames:
            if frame.message_id == MessageId.NOT_FOUND:
                lacking = [item for item in decode_ids(frame.payload) if item in left]
                self._gossip.fault(peer, GossipFault.CANNOT_SERVE)
                for item in lacking:
                    del left[item]
                self._pull.elsewhere(peer, lacking)
                continue
            came = decode_data(frame.payload)
            asked = [(item, transaction) for item, transaction in came if item in left]
            if len(asked) < len(came):
                self._gossip.fault(peer, GossipFault.NOT_ASKED)
            for item, _ in self._take(peer, asked):
                del left[item]
                self.pulled += 1
            wrong = [item for item, _ in asked if item in left]
            for item in wrong:
                del left[item]
            self._pull.elsewhere(peer, wrong)
        return sum(len(frame.payload) for frame in frames)

    # Serving.

    async def _serve(self, peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        ids = decode_ids(payload)
        bucket = self._gossip.buckets(peer).served
        lacking: list[bytes] = []
        ready: list[tuple[bytes, bytes]] = []
        size = 0
        for item in ids:
            transaction = self._port.get(item)
            if transaction is None:
                lacking.append(item)
                continue
            if not bucket.take(len(transaction), self._gossip.now_ms()):
                self._gossip.scores.count(GossipFault.SERVED_TOO_MUCH)
                break
            if ready and size + len(transaction) > DATA_BYTES:
                yield MessageId.DATA, encode_data(ready)
                ready, size = [], 0
            ready.append((item, transaction))
            size += len(transaction)
        if ready:
            yield MessageId.DATA, encode_data(ready)
        if lacking:
            yield MessageId.NOT_FOUND, encode_ids(lacking)

    async def _told(self, peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        """INV: an announcement to us alone. The answer says what of it we will ask for."""
        announcement = decode_announcement(payload)
        wanted = self._note(peer, announcement, Topic.TXS) if self._gossip.trusts(peer) else ()
        if wanted:
            yield MessageId.GET_DATA, encode_ids(wanted)

    # Peers that missed something.

    def _greet_later(self, peer: PeerId) -> None:
        self._to_greet.add(peer)

    def _left(self, peer: PeerId) -> None:
        self._to_greet.discard(peer)
        self._pull.left(peer)
        self._ready.set()

    async def _tick(self) -> None:
        async with trio.open_nursery() as nursery:
            while True:
                await trio.sleep(TICK_S)
                self._ignored.age(self._gossip.now_ms())
                self._to_greet |= self._gossip.fell_behind()
                to_greet, self._to_greet = self._to_greet, set()
                for peer in sorted(to_greet):
                    nursery.start_soon(self._greet, peer)

    async def _greet(self, peer: PeerId) -> None:
        """What was announced lately and is still here, told to one peer; it pulls what it lacks."""
        recent = [item for item in dict.fromkeys(self._recent[Topic.TXS]) if self._port.get(item) is not None]
        for at in range(0, len(recent), MAX_ANNOUNCED_IDS):
            announcement = Announcement(tuple(recent[at : at + MAX_ANNOUNCED_IDS]))
            try:
                await self._requests.ask(
                    peer,
                    MessageId.INV,
                    encode_announcement(announcement),
                    deadline_s=ASK_S,
                    max_bytes=32 * MAX_ANNOUNCED_IDS + 64,
                )
            except RequestError:
                return

    def snapshot(self) -> RelayHealth:
        return RelayHealth(
            to_announce=sum(map(len, self._batches.values())),
            wanted=len(self._pull),
            asking=self._pull.asking,
            unjudged=len(self._unjudged),
            unjudged_bytes=self._unjudged_bytes,
            bad=len(self._bad),
        )


_ITS_FAULT: Final = frozenset(
    {
        RequestFault.DEADLINE,
        RequestFault.STALLED,
        RequestFault.BAD_FRAME,
        RequestFault.UNEXPECTED,
        RequestFault.OVERRUN,
        RequestFault.TOO_LARGE,
    }
)
"""Endings of a question that an honest, connected peer does not bring about."""
