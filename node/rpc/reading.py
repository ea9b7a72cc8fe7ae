"""Reading the store beside the node: snapshots that never block the writer, here or on two threads of their own.

`now` is for a handful of rows, some microseconds each. `later` is for bodies of blocks, scans and receipts, which take
milliseconds: they would hold up every other call.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Final, TypeVar

from node.rpc.port import NodePort
from state.store.errors import SnapshotExpiredError
from state.store.reader import ChainReader

T = TypeVar("T")

READING_THREADS: Final = 2
_RETRIES: Final = 2
"""A map that grows ends open snapshots; it doubles, so it hardly grows twice in a row."""


class Reading:
    """Owns the reading threads."""

    def __init__(self, port: NodePort) -> None:
        self._port = port
        self._threads = ThreadPoolExecutor(READING_THREADS, thread_name_prefix="grpc-read")

    def now(self, look: Callable[[ChainReader], T]) -> T:
        for _ in range(_RETRIES):
            with self._port.read() as reader, suppress(SnapshotExpiredError):
                return look(reader)
        with self._port.read() as reader:
            return look(reader)

    async def later(self, look: Callable[[ChainReader], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._threads, self.now, look)

    async def compute(self, function: Callable[[], T]) -> T:
        """Work of milliseconds that reads nothing."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function)

    def close(self) -> None:
        self._threads.shutdown(wait=True, cancel_futures=True)
