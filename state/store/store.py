"""The interface of a store: ordered tables, read snapshots, and batches that happen whole or not at all.

One thread writes. A snapshot shows the store as of one commit, may be used from any one thread at a time, and never
blocks the writer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from enum import Enum
from types import TracebackType
from typing import Protocol, Self


class Table(bytes, Enum):
    """What is kept, by what key. Integers in keys are big-endian, so that order is numeric."""

    META = b"meta"
    """Name → format, tip, bounds, consensus metadata."""
    STATE = b"state"
    """State key → value."""
    BUCKETS = b"buckets"
    """Bucket u32 → bucket (`state.commitment.bucket`)."""
    HEADERS = b"headers"
    """Height u64 → header; kept when bodies are pruned."""
    HEIGHTS = b"heights"
    """Block hash → height."""
    BLOCKS = b"blocks"
    """Height u64 → the whole block as it travelled."""
    CERTIFICATES = b"certificates"
    """Height u64 → a certificate of that block."""
    RESULTS = b"results"
    """Height u64 → txid, outcome and fee of each transaction, and the addresses touched."""
    TRANSACTIONS = b"transactions"
    """Txid → height, index, outcome, fee."""
    HISTORY = b"history"
    """Address ‖ height u64 ‖ index u32 → nothing: the key says it all."""
    EVENTS = b"events"
    """Height u64 → rewards, slashes and what else the block did (`state.events`)."""
    EVIDENCE = b"evidence"
    """Height u64 ‖ index u32 → the accusation that the block accepted there."""
    MMR = b"mmr"
    """Level u8 ‖ index u64 → root of a perfect tree of block hashes."""
    UNDO = b"undo"
    """Height u64 → the values that the block replaced."""


class Batch:
    """Writes to be done together. The last write to a key counts."""

    __slots__ = ("_writes",)

    def __init__(self) -> None:
        self._writes: dict[Table, dict[bytes, bytes | None]] = {}

    def put(self, table: Table, key: bytes, value: bytes) -> None:
        self._writes.setdefault(table, {})[key] = value

    def delete(self, table: Table, key: bytes) -> None:
        """Deleting what is not there is no error."""
        self._writes.setdefault(table, {})[key] = None

    def merge(self, table: Table, writes: Mapping[bytes, bytes | None]) -> None:
        """None deletes."""
        self._writes.setdefault(table, {}).update(writes)

    def tables(self) -> Iterator[tuple[Table, dict[bytes, bytes | None]]]:
        """In the order of `Table`."""
        for table in Table:
            writes = self._writes.get(table)
            if writes:
                yield table, writes

    def __len__(self) -> int:
        return sum(len(writes) for writes in self._writes.values())


class StoreSnapshot(Protocol):
    """The store as of one commit."""

    def get(self, table: Table, key: bytes) -> bytes | None: ...

    def scan(
        self, table: Table, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        """Rows with start ≤ key < end, in key order or against it."""
        ...

    def count(self, table: Table) -> int: ...

    def close(self) -> None:
        """Lets go of the version; further reads raise."""
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Store(Protocol):
    """Where a chain is kept."""

    @property
    def directory(self) -> str:
        """For messages."""
        ...

    @property
    def read_only(self) -> bool: ...

    def snapshot(self) -> StoreSnapshot: ...

    def commit(self, batch: Batch) -> None:
        """All of it, durable when this returns; or, where it raises, none of it."""
        ...

    def compact(self) -> None:
        """Gives free space back. No snapshot may be open."""
        ...

    def size_bytes(self) -> int:
        """What the store takes on the disk."""
        ...

    def close(self) -> None: ...
