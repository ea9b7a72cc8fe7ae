"""Open-loop load: batches leave when they are due, whether or not the network keeps up."""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import grpc

from node.bench.blocks import BlockWatch
from node.bench.signing import Order, Signed
from node.bench.target import Node, SenderState
from trellis.v1 import chain_pb2

REGISTER_SHARE: Final = 0.5
"""Of the rate, while senders register their keys: those transactions are half as large again."""
DRAIN_S: Final = 30.0
"""Without anything becoming final any more, what is missing by then is lost."""
RETRIED: Final = frozenset(
    {"MEMPOOL_FULL", "RATE_LIMITED", "SYNCING", "NO_QUORUM", "NONCE_GAP", "KEY_MISSING", "UNAVAILABLE"}
)
"""Refusals that say "later": the transaction takes its sender's next turn."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What is asked of the network."""

    rate: int
    """Transactions a second."""
    seconds: int
    warm_up_s: int
    senders: int
    batch: int

    def orders(self, states: Sequence[SenderState]) -> list[Order]:
        """Transactions for the whole run, with some to spare for those that are refused and come later."""
        needed = self.rate * (self.seconds + self.warm_up_s)
        each = -(-needed * 51 // 50) // len(states) + 2
        return [
            Order(state.index, state.nonce + turn, turn == 0 and not state.key_known)
            for turn in range(each)
            for state in states
        ]


@dataclass(slots=True)
class Sent:
    """What became of the submissions. Times are of `time.monotonic`."""

    due_s: dict[str, float] = field(default_factory=dict)
    """By transaction id (hex): when it was due. A refused one is due again in its sender's next turn."""
    admitted: set[str] = field(default_factory=set)
    refused: Counter[str] = field(default_factory=Counter)
    late_s: float = 0.0
    """The most that a batch left after it was due: the generator's own fault, and it counts against the network."""
    starved: int = 0
    """Transactions that were due but not there: all senders waited for answers."""
    rpcs: int = 0
    rpc_s: float = 0.0


class Lane:
    """The senders that submit through one node, in turn, each in the order of its nonces."""

    def __init__(self, node: Node, queues: Iterable[deque[Signed]]) -> None:
        self.node = node
        self._ring: deque[deque[Signed]] = deque(queues)
        self._queue_of = {signed.order.index: queue for queue in self._ring for signed in queue}

    def take(self, number: int) -> list[Signed]:
        """At most one of each sender."""
        taken: list[Signed] = []
        for _ in range(len(self._ring)):
            if len(taken) == number:
                break
            queue = self._ring[0]
            self._ring.rotate(-1)
            if queue:
                taken.append(queue.popleft())
        return taken

    def give_back(self, signed: Signed) -> None:
        """To the sender's turn, before all with greater nonces."""
        queue = self._queue_of[signed.order.index]
        place = sum(1 for waiting in queue if waiting.order.nonce < signed.order.nonce)
        queue.insert(place, signed)


def make_lanes(nodes: Sequence[Node], signed: Iterable[Signed]) -> list[Lane]:
    """A sender keeps to one node: another might not have heard of its last transaction yet."""
    queues: dict[int, deque[Signed]] = {}
    for each in sorted(signed, key=lambda item: (item.order.nonce, item.order.index)):
        queues.setdefault(each.order.index, deque()).append(each)
    return [
        Lane(node, [queue for index, queue in queues.items() if index % len(nodes) == place])
        for place, node in enumerate(nodes)
    ]


class Generator:
    """Sends for a while at a rate. May be used for one phase after the other."""

    def __init__(self, lanes: Sequence[Lane], batch: int, sent: Sent) -> None:
        self._lanes = lanes
        self._batch = batch
        self._sent = sent
        self._turn = 0
        self._under_way: set[asyncio.Task[None]] = set()

    async def run(self, rate: float, transactions: int) -> None:
        """Until the last batch has left; answers may still be outstanding."""
        began_s = time.monotonic()
        for number in range(-(-transactions // self._batch)):
            due_s = began_s + number * self._batch / rate
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            size = min(self._batch, transactions - number * self._batch)
            lane = self._lanes[self._turn % len(self._lanes)]
            self._turn += 1
            self._send(lane, lane.take(size), size, due_s)
        await asyncio.sleep(max(0.0, began_s + transactions / rate - time.monotonic()))

    def _send(self, lane: Lane, batch: list[Signed], wanted: int, due_s: float) -> None:
        self._sent.starved += wanted - len(batch)
        self._sent.late_s = max(self._sent.late_s, time.monotonic() - due_s)
        if not batch:
            return
        for signed in batch:
            self._sent.due_s.setdefault(signed.txid.hex(), due_s)
        task = asyncio.create_task(self._submit(lane, batch))
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def _submit(self, lane: Lane, batch: list[Signed]) -> None:
        began_s = time.monotonic()
        try:
            results = await lane.node.submit(b"".join(signed.framed for signed in batch))
        except grpc.aio.AioRpcError as fault:
            # Whether the node took them is unknown. Submission is idempotent: they are sent again in their turn.
            self._sent.refused[fault.code().name] += len(batch)
            for signed in reversed(batch):
                lane.give_back(signed)
            return
        self._sent.rpcs += 1
        self._sent.rpc_s += time.monotonic() - began_s
        for signed, result in zip(batch, results, strict=True):
            self._settle(lane, signed, result)

    def _settle(self, lane: Lane, signed: Signed, result: Any) -> None:
        if result.status != chain_pb2.TRANSACTION_STATUS_REJECTED:
            self._sent.admitted.add(signed.txid.hex())
            return
        reason = result.error.reason or "UNKNOWN"
        self._sent.refused[reason] += 1
        del self._sent.due_s[signed.txid.hex()]
        if reason in RETRIED:
            lane.give_back(signed)

    async def answers(self) -> None:
        """All that is outstanding."""
        while self._under_way:
            await asyncio.gather(*self._under_way)


async def settle(watch: BlockWatch, sent: Sent, still_s: float = DRAIN_S) -> None:
    """Until everything that was admitted is final, or nothing has become final for a while."""
    left_s = time.monotonic() + still_s
    seen = -1
    while not sent.admitted <= watch.finals.at_s.keys():
        if len(watch.finals.at_s) != seen:
            seen, left_s = len(watch.finals.at_s), time.monotonic() + still_s
        if time.monotonic() > left_s or watch.failed() is not None:
            return
        await watch.next_block(1.0)


@dataclass(slots=True)
class Run:
    """A whole measurement, before it is summed up."""

    sent: Sent
    watch: BlockWatch
    window_s: tuple[float, float]
    """What was due in between counts."""


async def run_load(
    nodes: Sequence[Node],
    watch: BlockWatch,
    shape: Shape,
    signed: Iterable[Signed],
    *,
    phase: Callable[[str], None] = lambda _name: None,
    on_window: Callable[[bool], None] = lambda _begins: None,
) -> Run:
    """Registers the senders' keys, warms up, measures, and waits for what is under way."""
    sent = Sent()
    transactions = list(signed)
    generator = Generator(make_lanes(nodes, transactions), shape.batch, sent)
    newcomers = sum(1 for each in transactions if each.order.carries_key)
    if newcomers:
        phase(f"registering {newcomers} keys")
        await generator.run(shape.rate * REGISTER_SHARE, newcomers)
        await generator.answers()
        await settle(watch, sent)
    phase(f"warming up, {shape.warm_up_s} s")
    await generator.run(shape.rate, shape.rate * shape.warm_up_s)
    phase(f"measuring, {shape.seconds} s")
    on_window(True)
    began_s = time.monotonic()
    await generator.run(shape.rate, shape.rate * shape.seconds)
    ended_s = time.monotonic()
    on_window(False)
    phase("waiting for what is under way")
    await generator.answers()
    await settle(watch, sent)
    return Run(sent, watch, (began_s, ended_s))
