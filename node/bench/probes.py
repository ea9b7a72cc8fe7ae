"""Two measurements beside load: how long one transaction takes on an idle network, and how long a network stands still
when its leader dies."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import grpc

from node.bench.blocks import BlockWatch
from node.bench.signing import Signed
from node.bench.target import BenchFault, Node
from trellis.client.methods import unary
from trellis.v1 import chain_pb2, consensus_service_pb2

WAIT_S: Final = 30.0
PAUSE_S: Final = 0.25
"""Between two transactions: longer than a block interval, so that each finds the network idle."""
TRICKLE_S: Final = 0.02
"""Between submissions while a leader is about to die: there is always something to commit."""
GET_CONSENSUS_STATE: Final = unary(
    "ConsensusService",
    "GetConsensusState",
    consensus_service_pb2.GetConsensusStateRequest,
    consensus_service_pb2.GetConsensusStateResponse,
)


async def _submit(node: Node, signed: Signed) -> None:
    (result,) = await node.submit(signed.framed)
    if result.status == chain_pb2.TRANSACTION_STATUS_REJECTED:
        raise BenchFault(f"{node.endpoint.name} refused a transaction: {result.error.reason} {result.error.message}")


async def idle_latencies(
    nodes: Sequence[Node],
    watch: BlockWatch,
    signed: Sequence[Signed],
    progress: Callable[[int], None] = lambda _done: None,
) -> list[float]:
    """Seconds from the submission of one transaction to its finality at the watched node; one after the other."""
    found = []
    for place, each in enumerate(signed):
        began_s = time.monotonic()
        await _submit(nodes[place % len(nodes)], each)
        txid = each.txid.hex()
        while txid not in watch.finals.at_s:
            if not await watch.next_block(WAIT_S):
                raise BenchFault(f"transaction {txid} was admitted, and was not final within {WAIT_S:.0f} s")
        found.append(watch.finals.at_s[txid] - began_s)
        progress(place + 1)
        await asyncio.sleep(PAUSE_S)
    return found


@dataclass(frozen=True, slots=True)
class Failover:
    """One death of a leader."""

    leader: str
    height: int
    """That was committed last before."""
    until_next_s: float
    """From the kill to the arrival, at a node that lives, of the first block that another validator proposed. What the
    leader had proposed before it died may arrive in between, and does not count."""


async def leader_of(node: Node) -> str:
    """The address of the validator that leads the height in progress."""
    answer = await node.call(GET_CONSENSUS_STATE, consensus_service_pb2.GetConsensusStateRequest())
    return str(answer.leader)


async def failover(
    watch: BlockWatch,
    others: Sequence[Node],
    signed: Iterable[Signed],
    leader: str,
    kill: Callable[[], Awaitable[None]],
) -> Failover:
    """Keeps a little work coming through nodes that will live, kills, and waits for the next block."""
    supply = deque(signed)
    stopping = asyncio.Event()

    async def trickle() -> None:
        place = 0
        while supply and not stopping.is_set():
            with contextlib.suppress(grpc.aio.AioRpcError):  # busy just then: there is always the next transaction
                await _submit(others[place % len(others)], supply.popleft())
            place += 1
            await asyncio.sleep(TRICKLE_S)

    feeding = asyncio.create_task(trickle())
    try:
        for _ in range(3):  # the network is at work, not about to begin
            if not await watch.next_block(WAIT_S):
                raise BenchFault("the network makes no blocks: nothing to interrupt")
        height = watch.finals.height
        await kill()
        killed_s = time.monotonic()
        while True:
            for block in reversed(watch.finals.blocks):
                if block.at_s > killed_s and block.proposer != leader:
                    return Failover(leader, height, block.at_s - killed_s)
            if not await watch.next_block(WAIT_S):
                raise BenchFault(f"no block within {WAIT_S:.0f} s of the leader's death")
    finally:
        stopping.set()
        await feeding
