"""Watches what becomes final at one node, and when each transaction of ours did."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import grpc

from node.bench.target import Node
from trellis.client.methods import SUBSCRIBE_BLOCKS
from trellis.v1 import subscription_service_pb2

RETRY_S: Final = 0.1
HEARTBEAT_MS: Final = 1_000


class Arrival(NamedTuple):
    at_s: float
    height: int
    proposer: str
    transactions: int


@dataclass(slots=True)
class Finals:
    """What the watched node announced, by transaction id (hex). Times are of `time.monotonic`."""

    at_s: dict[str, float] = field(default_factory=dict)
    twice: set[str] = field(default_factory=set)
    outcomes: Counter[str] = field(default_factory=Counter)
    blocks: list[Arrival] = field(default_factory=list)

    def add(self, height: int, proposer: str, transactions: list[tuple[str, str]], now_s: float) -> None:
        self.blocks.append(Arrival(now_s, height, proposer, len(transactions)))
        for txid, outcome in transactions:
            if txid in self.at_s:
                self.twice.add(txid)
            else:
                self.at_s[txid] = now_s
                self.outcomes[outcome] += 1

    @property
    def height(self) -> int:
        return self.blocks[-1].height if self.blocks else 0


class BlockWatch:
    """Follows the node's blocks from a height on, each once, over lost streams."""

    def __init__(self, node: Node, first_height: int) -> None:
        self._node = node
        self._next = first_height
        self.finals = Finals()
        self.interruptions = 0
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            request = subscription_service_pb2.SubscribeBlocksRequest(
                start_height=self._next, heartbeat_interval_ms=HEARTBEAT_MS
            )
            try:
                async for message in self._node.stream(SUBSCRIBE_BLOCKS, request):
                    self._take(message)
            except grpc.aio.AioRpcError:
                pass  # the node restarts, or dropped a slow reader: it goes on with the height that is due
            self.interruptions += 1
            await asyncio.sleep(RETRY_S)

    def _take(self, message: subscription_service_pb2.SubscribeBlocksResponse) -> None:
        if not message.HasField("block"):
            return
        now_s = time.monotonic()
        height = message.block.header.height
        if height != self._next:
            return  # the stream starts again with the height that is due
        self._next = height + 1
        transactions = [(each.txid, each.outcome.name) for each in message.block.transactions]
        self.finals.add(height, message.block.header.proposer, transactions, now_s)
        self._changed.set()

    async def next_block(self, within_s: float) -> bool:
        """Waits for news. False if there was none."""
        self._changed.clear()
        try:
            await asyncio.wait_for(self._changed.wait(), within_s)
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def failed(self) -> BaseException | None:
        """What ended the watch, if anything unexpected did."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None
