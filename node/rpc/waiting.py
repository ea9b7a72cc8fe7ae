"""Waiting for transactions to end: woken by the block that holds them, or by a sweep for those that no block will hold.

What leaves the pool without a block (expired, replaced, dropped) makes no sound. One question in a while about all that
is waited for costs less than one question a wait and block.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

from node.rpc.backend import Backend
from node.rpc.dispatch import Gate
from node.rpc.encode import STATUS
from node.rpc.errors import Reason, Refused
from node.rpc.policies import Need
from node.rpc.port import Notice, TxFate, TxStatus
from trellis.types import Hash
from trellis.v1 import chain_pb2

SWEEP_S: Final = 0.5
SWEEP_SLICE: Final = 256
"""Looked up between two steps of the node: about a millisecond."""


class Waiting:
    """Belongs to the asyncio thread."""

    def __init__(self, backend: Backend, gate: Gate) -> None:
        self._backend = backend
        self._gate = gate
        self._waits: dict[Hash, set[asyncio.Event]] = {}
        self._sweeper: asyncio.Task[None] | None = None

    def notice(self, notice: Notice) -> None:
        for txid in notice.txids:
            self._wake(txid)

    def wake_all(self) -> None:
        """When the node drains, all waits end."""
        for txid in tuple(self._waits):
            self._wake(txid)

    def _wake(self, txid: Hash) -> None:
        for event in self._waits.get(txid, ()):
            event.set()

    async def until_end(self, txid: Hash, seconds: float) -> TxFate:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + seconds
        event = asyncio.Event()
        # Before the first look: what is committed between look and wait would be missed.
        self._waits.setdefault(txid, set()).add(event)
        if self._sweeper is None:
            self._sweeper = asyncio.ensure_future(self._sweep())
        try:
            while True:
                event.clear()
                fate = await self._backend.fate(txid)
                if fate is not None and has_ended(fate):
                    return fate
                self._gate.check(Need.SERVING)
                try:
                    async with asyncio.timeout_at(deadline):
                        await event.wait()
                except TimeoutError:
                    raise self._too_late(fate) from None
        finally:
            waits = self._waits[txid]
            waits.discard(event)
            if not waits:
                del self._waits[txid]

    def _too_late(self, fate: TxFate | None) -> Refused:
        status = "TRANSACTION_STATUS_UNSPECIFIED"
        if fate is not None:
            status = chain_pb2.TransactionStatus.Name(STATUS[fate.status])
        metadata = {"status": status, "latest_height": str(self._backend.height())}
        return Refused(Reason.WAIT_TIMEOUT, "it may still become final: wait again", metadata)

    async def _sweep(self) -> None:
        while self._waits:
            await asyncio.sleep(SWEEP_S)
            txids = list(self._waits)
            for start in range(0, len(txids), SWEEP_SLICE):
                piece = txids[start : start + SWEEP_SLICE]
                fates = await self._backend.bridge.call(self._backend.port.lookup, piece)
                for txid, fate in zip(piece, fates, strict=True):
                    if fate is not None and has_ended(fate):
                        self._wake(txid)
        self._sweeper = None

    async def close(self) -> None:
        self.wake_all()
        if self._sweeper is not None:
            self._sweeper.cancel()
            with suppress(asyncio.CancelledError):
                await self._sweeper


def has_ended(fate: TxFate) -> bool:
    return fate.status not in (TxStatus.PENDING, TxStatus.INCLUDED)
