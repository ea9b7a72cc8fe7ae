"""A store in memory, for tests, the simulator and tools. Keeps old versions of a row while a snapshot can see them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Self

from state.store.errors import StoreBusyError
from state.store.store import Batch, Table

_Versions = tuple[tuple[int, bytes | None], ...]
"""(version that wrote it, value), oldest first."""

_NO_VERSIONS: Final[_Versions] = ()


class MemoryStore:
    """Rows in dictionaries. Commits replace; nothing is durable."""

    def __init__(self, directory: str = "memory") -> None:
        self._directory = directory
        self._rows: dict[Table, dict[bytes, _Versions]] = {table: {} for table in Table}
        self._order: dict[Table, list[bytes] | None] = dict.fromkeys(Table)
        self._version = 0
        self._seen: dict[int, int] = {}
        """Version → how many snapshots show it."""

    @property
    def directory(self) -> str:
        return self._directory

    @property
    def read_only(self) -> bool:
        return False

    def snapshot(self) -> MemorySnapshot:
        self._seen[self._version] = self._seen.get(self._version, 0) + 1
        return MemorySnapshot(self, self._version)

    def commit(self, batch: Batch) -> None:
        version = self._version + 1
        oldest = min(self._seen, default=version)
        for table, writes in batch.tables():
            rows = self._rows[table]
            for key, value in writes.items():
                versions = rows.get(key, _NO_VERSIONS)
                if value is None and not versions:
                    continue
                if not versions:
                    self._order[table] = None
                kept = _visible_from(versions, oldest)
                if value is None and not kept:
                    del rows[key]
                    self._order[table] = None
                else:
                    rows[key] = (*kept, (version, value))
        self._version = version

    def compact(self) -> None:
        if self._seen:
            raise StoreBusyError(self._directory, "a snapshot is open", "Close readers before compacting")

    def size_bytes(self) -> int:
        return sum(
            len(key) + len(versions[-1][1] or b"") for rows in self._rows.values() for key, versions in rows.items()
        )

    def close(self) -> None:
        """Keeps the rows: whoever holds this object may open it again."""

    def release(self, version: int) -> None:
        self._seen[version] -= 1
        if not self._seen[version]:
            del self._seen[version]

    def row(self, table: Table, key: bytes, version: int) -> bytes | None:
        for written, value in reversed(self._rows[table].get(key, _NO_VERSIONS)):
            if written <= version:
                return value
        return None

    def keys(self, table: Table) -> list[bytes]:
        """Sorted; some may be deleted in the version that asks."""
        order = self._order[table]
        if order is None:
            order = sorted(self._rows[table])
            self._order[table] = order
        return order


def _visible_from(versions: _Versions, oldest: int) -> _Versions:
    """What a snapshot of version `oldest` or later can still see."""
    first = 0
    for place, (written, _) in enumerate(versions):
        if written <= oldest:
            first = place
    kept = versions[first:]
    if len(kept) == 1 and kept[0][1] is None:
        return _NO_VERSIONS
    return kept


class MemorySnapshot:
    """A `StoreSnapshot` of a `MemoryStore`."""

    def __init__(self, store: MemoryStore, version: int) -> None:
        self._store: MemoryStore | None = store
        self._version = version

    def _open(self) -> MemoryStore:
        if self._store is None:
            raise ValueError("this snapshot was closed")
        return self._store

    def get(self, table: Table, key: bytes) -> bytes | None:
        return self._open().row(table, key, self._version)

    def scan(
        self, table: Table, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        keys = self._open().keys(table)
        low = bisect_left(keys, start)
        high = len(keys) if end is None else bisect_left(keys, end)
        wanted = keys[low:high]
        for key in reversed(wanted) if reverse else wanted:
            value = self.get(table, key)
            if value is not None:
                yield key, value

    def count(self, table: Table) -> int:
        return sum(1 for _ in self.scan(table))

    def close(self) -> None:
        if self._store is not None:
            self._store.release(self._version)
            self._store = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
