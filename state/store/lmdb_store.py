"""The store on LMDB: one file, one writer, readers that block nobody.

What is relied upon: a commit writes new pages beside the old ones and syncs them (`sync=True`), then writes one of two
meta pages and syncs that (`metasync=True`), so a crash at any instant leaves the last acknowledged commit or the one
being written. Its I/O is its own, so no simulated file system can test that; killing processes does.

LMDB 0.9 keeps no checksums. Every value here ends with a CRC-32 of table, key and value (0.3 µs for a state row), which
finds any bit rot in what is read; `structural_faults` walks the pages themselves. The map grows when it is full:
snapshots open at that moment are closed under their readers (`SnapshotExpiredError`) rather than waited for.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Lock, RLock
from types import TracebackType
from typing import Final, Self
from zlib import crc32

import lmdb
import lmdb.verify

from state.store.errors import (
    CorruptStoreError,
    SnapshotExpiredError,
    StoreBusyError,
    StoreError,
    StoreFullError,
    StoreMissingError,
    StoreReadOnlyError,
)
from state.store.files import REAL_FILES, Files, make_durable_directory, rename_durably
from state.store.lock import DirectoryLock, is_locked
from state.store.pages import header_fault
from state.store.store import Batch, Table

DATA_NAME: Final = "data.mdb"
_COMPACT_NAME: Final = "compact.new"
_CHECKSUM_BYTES: Final = 4
_SCAN_ROWS: Final = 128
_SCAN_BYTES: Final = 1 << 20
"""Rows fetched at a time by a scan, and from what size on no further one: how long it can keep a growing map waiting,
and how much it holds where rows are whole blocks."""

DEFAULT_MAP_BYTES: Final = 1 << 34
"""Address space, not disk: large, so that growing (which ends snapshots) is rare."""
DEFAULT_MAX_MAP_BYTES: Final = 1 << 40
"""Stops a store that grows for ever from eating the host's address space unseen."""
_MAX_READERS: Final = 512
"""LMDB's own cap on snapshots open at once; services take one a request."""
_ENGINE: Final = 0
"""LMDB 0.9: what was measured. The binding carries 1.0 too."""

_SPARE_BYTES: Final = 1 << 20
"""What a commit may need beside its rows: copied pages of the trees."""

_SEEDS: Final = {table: crc32(table.value) for table in Table}
_COMMIT_KEY: Final = b"\0commit"
"""In the table META, below all names: the engine's number of the commit that wrote last. A damaged root pointer can
lead to an older tree that is whole, and would lose acknowledged commits without a word; this number gives it away."""

_REMEDY: Final = "Check the disk; restore a snapshot into an empty directory, or sync again from peers"


class LmdbStore:
    """A directory with an LMDB environment and a lock. Opening creates both, unless `read_only`."""

    def __init__(
        self,
        directory: Path,
        *,
        read_only: bool = False,
        map_bytes: int = DEFAULT_MAP_BYTES,
        max_map_bytes: int = DEFAULT_MAX_MAP_BYTES,
        files: Files = REAL_FILES,
    ) -> None:
        self._path = directory
        self._read_only = read_only
        self._map_bytes = map_bytes
        self._max_map_bytes = max_map_bytes
        self._files = files
        self._live: dict[int, LmdbSnapshot] = {}
        self._registry = RLock()
        self._lock: DirectoryLock | None = None
        if read_only:
            if not (directory / DATA_NAME).exists():
                raise StoreMissingError(str(directory), "there is no store here", "Name a node's store directory")
        else:
            try:
                make_durable_directory(files, directory)
            except OSError as fault:
                raise self._reads_only(fault) from fault
            self._lock = DirectoryLock(directory)
        try:
            self._open()
        except BaseException:
            self._unlock()
            raise

    def _reads_only(self, fault: Exception) -> StoreReadOnlyError:
        return StoreReadOnlyError(str(self._path), str(fault), "Run as the directory's owner, or open it for reading")

    def _corrupt(self, what: str) -> CorruptStoreError:
        return CorruptStoreError(str(self._path), what, _REMEDY)

    def _open(self) -> None:
        fresh = not (self._path / DATA_NAME).exists()
        if not self._read_only:
            self._files.remove(self._path / _COMPACT_NAME)
        if not fresh:
            self._check_head()
        self._map_bytes = max(self._map_bytes, 0 if fresh else (self._path / DATA_NAME).stat().st_size)
        try:
            self._env = lmdb.open(
                str(self._path),
                map_size=self._map_bytes,
                max_dbs=len(Table),
                max_readers=_MAX_READERS,
                readonly=self._read_only,
                lock=not self._read_only or self._may_register_reader(),
                mode=0o600,
                readahead=False,
                lib_version=_ENGINE,
            )
            self._tables = {table: self._env.open_db(table.value, create=not self._read_only) for table in Table}
        except lmdb.ReadonlyError as fault:
            raise self._reads_only(fault) from fault
        except lmdb.Error as fault:
            raise self._translated(fault) from fault
        if fresh:
            self._files.sync_directory(self._path)
        else:
            self._check_commit()

    def _check_commit(self) -> None:
        with self.snapshot() as snapshot:
            row, number = snapshot.commit_numbers()
        if row is not None and row != number:
            self._env.close()
            raise self._corrupt(f"the file is at commit {number}, its tables at commit {row}")

    def _may_register_reader(self) -> bool:
        """On a read-only medium no reader can be registered, and nobody can be writing."""
        if os.access(self._path, os.W_OK):
            return True
        if is_locked(self._path):
            raise StoreBusyError(
                str(self._path), "a node is writing and this user cannot register as a reader", "Run as its owner"
            )
        return False

    def _check_head(self) -> None:
        try:
            fault = header_fault(self._path / DATA_NAME)
        except PermissionError as error:
            raise self._reads_only(error) from error
        if fault is not None:
            raise self._corrupt(f"{DATA_NAME}: {fault}")

    def _translated(self, fault: lmdb.Error) -> StoreError:
        """What an error of the engine means to whoever runs the node."""
        directory = str(self._path)
        if fault.code == errno.ENOSPC or isinstance(fault, lmdb.DiskError) or fault.code == errno.EDQUOT:
            return self._disk_full()
        if isinstance(fault, lmdb.MapFullError):
            return StoreFullError(
                directory, f"the map's cap of {self._max_map_bytes} bytes is reached", "Raise the cap, or prune"
            )
        if isinstance(fault, lmdb.ReadersFullError):
            return StoreBusyError(directory, f"{_MAX_READERS} snapshots are open", "Close some")
        if fault.code in {errno.EACCES, errno.EROFS, errno.EPERM}:
            return self._reads_only(fault)
        if isinstance(fault, lmdb.NotFoundError):
            return self._corrupt("a table is missing")
        return self._corrupt(f"the storage engine reports: {fault}")

    @property
    def directory(self) -> str:
        return str(self._path)

    @property
    def read_only(self) -> bool:
        return self._read_only

    def snapshot(self) -> LmdbSnapshot:
        with self._registry:
            try:
                transaction = self._env.begin()
            except lmdb.Error as fault:
                raise self._translated(fault) from fault
            snapshot = LmdbSnapshot(transaction, self._tables, str(self._path), self._forget)
            self._live[id(snapshot)] = snapshot
            return snapshot

    def _forget(self, snapshot: LmdbSnapshot) -> None:
        with self._registry:
            self._live.pop(id(snapshot), None)

    def commit(self, batch: Batch) -> None:
        if self._read_only:
            raise StoreReadOnlyError(str(self._path), "opened for reading", "Open it for writing")
        rows = [(self._tables[table], *_sorted_rows(table, writes)) for table, writes in batch.tables()]
        while True:
            try:
                self._write(rows)
            except lmdb.MapFullError as fault:
                self._grow(fault)
            except lmdb.Error as fault:
                if fault.code == errno.EIO and self._short_of_space(rows):
                    raise self._disk_full() from fault
                raise self._translated(fault) from fault
            else:
                return

    def _short_of_space(self, rows: list[tuple[lmdb._Database, list[tuple[bytes, bytes]], list[bytes]]]) -> bool:
        """The engine calls a write that a full disk cut short an I/O error: only the space that is left tells."""
        wanted = sum(len(key) + len(value) for _, puts, _ in rows for key, value in puts)
        disk = os.statvfs(self._path)
        return disk.f_bavail * disk.f_frsize < wanted + _SPARE_BYTES

    def _disk_full(self) -> StoreFullError:
        return StoreFullError(str(self._path), "the disk is full", "Free space; nothing that was acknowledged is lost")

    def _write(self, rows: list[tuple[lmdb._Database, list[tuple[bytes, bytes]], list[bytes]]]) -> None:
        with self._env.begin(write=True) as transaction:
            transaction.put(_COMMIT_KEY, *_numbered(transaction), db=self._tables[Table.META])
            for table, puts, deletes in rows:
                for key in deletes:
                    transaction.delete(key, db=table)
                if puts:
                    with transaction.cursor(table) as cursor:
                        cursor.putmulti(puts)

    def _grow(self, fault: lmdb.MapFullError) -> None:
        if self._map_bytes >= self._max_map_bytes:
            raise self._translated(fault) from fault
        self._map_bytes = min(self._map_bytes * 2, self._max_map_bytes)
        with self._registry:
            for snapshot in self._live.values():
                snapshot.expire()
            self._live.clear()
            try:
                self._env.set_mapsize(self._map_bytes)
            except lmdb.Error as error:
                raise self._translated(error) from error

    def compact(self) -> None:
        """Copies what is live into a new file and puts it in the old one's place. No snapshot may be open."""
        if self._read_only:
            raise StoreReadOnlyError(str(self._path), "opened for reading", "Open it for writing")
        with self._registry:
            if self._live:
                raise StoreBusyError(
                    str(self._path), f"{len(self._live)} snapshots are open", "Close readers before compacting"
                )
            target = self._path / _COMPACT_NAME
            try:
                self._copy_to(target)
            except lmdb.Error as fault:
                self._files.remove(target)
                raise self._translated(fault) from fault
            self._env.close()
            try:
                rename_durably(self._files, target, self._path / DATA_NAME)
            finally:
                self._open()

    def _copy_to(self, target: Path) -> None:
        self._files.remove(target)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            self._env.copyfd(descriptor, compact=True)
        finally:
            os.close(descriptor)
        # The copy counts its commits anew.
        with (
            lmdb.open(
                str(target), subdir=False, lock=False, map_size=self._map_bytes, max_dbs=1, lib_version=_ENGINE
            ) as copy,
            copy.begin(write=True) as transaction,
        ):
            table = copy.open_db(Table.META.value, txn=transaction, create=False)
            transaction.put(_COMMIT_KEY, *_numbered(transaction), db=table)

    def copy_to(self, directory: Path) -> None:
        """A compacted copy of the last commit, beside whatever the writer does meanwhile; durable when it returns."""
        make_durable_directory(self._files, directory)
        temporary = directory / _COMPACT_NAME
        try:
            self._copy_to(temporary)
        except lmdb.Error as fault:
            self._files.remove(temporary)
            raise self._translated(fault) from fault
        rename_durably(self._files, temporary, directory / DATA_NAME)

    def size_bytes(self) -> int:
        return (self._path / DATA_NAME).stat().st_size

    def close(self) -> None:
        with self._registry:
            for snapshot in self._live.values():
                snapshot.expire()
            self._live.clear()
        self._env.close()
        self._unlock()

    def _unlock(self) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None


def _seal(table: Table, key: bytes, value: bytes) -> bytes:
    return value + crc32(value, crc32(key, _SEEDS[table])).to_bytes(_CHECKSUM_BYTES, "big")


def _numbered(transaction: lmdb.Transaction[bytes]) -> tuple[bytes]:
    return (_seal(Table.META, _COMMIT_KEY, transaction.id().to_bytes(8, "big")),)


def _sorted_rows(table: Table, writes: dict[bytes, bytes | None]) -> tuple[list[tuple[bytes, bytes]], list[bytes]]:
    """Puts in key order, which halves the pages a commit touches at random keys, each sealed with its checksum."""
    seed = _SEEDS[table]
    ordered = sorted(writes.items())
    # `_seal`, written out: thousands of rows a block.
    puts = [
        (key, value + crc32(value, crc32(key, seed)).to_bytes(_CHECKSUM_BYTES, "big"))
        for key, value in ordered
        if value is not None
    ]
    return puts, [key for key, value in ordered if value is None] if len(puts) < len(ordered) else []


class LmdbSnapshot:
    """A read transaction. Its lock is against a growing map, not for use by several threads at once."""

    __slots__ = ("_directory", "_forget", "_lock", "_tables", "_transaction")

    def __init__(
        self,
        transaction: lmdb.Transaction[bytes],
        tables: dict[Table, lmdb._Database],
        directory: str,
        forget: Callable[[LmdbSnapshot], None],
    ) -> None:
        self._transaction: lmdb.Transaction[bytes] | None = transaction
        self._tables = tables
        self._directory = directory
        self._forget = forget
        self._lock = Lock()

    def _open(self) -> lmdb.Transaction[bytes]:
        if self._transaction is None:
            raise SnapshotExpiredError(
                self._directory, "this snapshot was closed, or the map grew under it", "Take a new one"
            )
        return self._transaction

    def _unsealed(self, table: Table, key: bytes, row: bytes) -> bytes:
        value = row[:-_CHECKSUM_BYTES]
        if crc32(value, crc32(key, _SEEDS[table])).to_bytes(_CHECKSUM_BYTES, "big") != row[-_CHECKSUM_BYTES:]:
            raise CorruptStoreError(
                self._directory, f"table {table.value.decode()}: row {key.hex()} fails its checksum", _REMEDY
            )
        return value

    def _failed(self, table: Table, fault: Exception) -> CorruptStoreError:
        return CorruptStoreError(self._directory, f"table {table.value.decode()} cannot be read: {fault}", _REMEDY)

    def get(self, table: Table, key: bytes) -> bytes | None:
        with self._lock:
            try:
                row = (self._transaction or self._open()).get(key, db=self._tables[table])
            except lmdb.Error as fault:
                raise self._failed(table, fault) from fault
        return None if row is None else self._unsealed(table, key, row)

    def scan(
        self, table: Table, start: bytes = b"", end: bytes | None = None, *, reverse: bool = False
    ) -> Iterator[tuple[bytes, bytes]]:
        if table is Table.META:
            start = max(start, _COMMIT_KEY + b"\0")
        fetch = self._fetch_backwards if reverse else self._fetch
        while True:
            rows, more = fetch(table, start, end)
            for key, row in rows:
                yield key, self._unsealed(table, key, row)
            if not more:
                return
            if reverse:
                end = rows[-1][0]
            else:
                start = rows[-1][0] + b"\0"

    def _fetch(self, table: Table, start: bytes, end: bytes | None) -> tuple[list[tuple[bytes, bytes]], bool]:
        """Some rows, and whether there may be more."""
        rows: list[tuple[bytes, bytes]] = []
        room = _SCAN_BYTES
        with self._lock, self._cursor(table) as cursor:
            try:
                found = cursor.set_range(start) if start else cursor.first()
                while found and len(rows) < _SCAN_ROWS and room > 0 and (end is None or cursor.key() < end):
                    rows.append(cursor.item())
                    room -= len(rows[-1][1])
                    found = cursor.next()
            except lmdb.Error as fault:
                raise self._failed(table, fault) from fault
        return rows, len(rows) == _SCAN_ROWS or room <= 0

    def _fetch_backwards(self, table: Table, start: bytes, end: bytes | None) -> tuple[list[tuple[bytes, bytes]], bool]:
        rows: list[tuple[bytes, bytes]] = []
        room = _SCAN_BYTES
        with self._lock, self._cursor(table) as cursor:
            try:
                beyond = end is not None and cursor.set_range(end)
                found = cursor.prev() if beyond else cursor.last()
                while found and len(rows) < _SCAN_ROWS and room > 0 and cursor.key() >= start:
                    rows.append(cursor.item())
                    room -= len(rows[-1][1])
                    found = cursor.prev()
            except lmdb.Error as fault:
                raise self._failed(table, fault) from fault
        return rows, len(rows) == _SCAN_ROWS or room <= 0

    def _cursor(self, table: Table) -> lmdb.Cursor[bytes]:
        try:
            return self._open().cursor(self._tables[table])
        except lmdb.Error as fault:
            raise self._failed(table, fault) from fault

    def count(self, table: Table) -> int:
        with self._lock:
            try:
                entries = self._open().stat(self._tables[table])["entries"]
            except lmdb.Error as fault:
                raise self._failed(table, fault) from fault
        return entries - (table is Table.META and self.get(table, _COMMIT_KEY) is not None)

    def commit_numbers(self) -> tuple[int | None, int]:
        """What the tables say was the last commit, and what the engine says."""
        row = self.get(Table.META, _COMMIT_KEY)
        with self._lock:
            return None if row is None else int.from_bytes(row, "big"), self._open().id()

    def close(self) -> None:
        self.expire()
        self._forget(self)

    def expire(self) -> None:
        with self._lock:
            if self._transaction is not None:
                self._transaction.abort()
                self._transaction = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def structural_faults(directory: Path) -> list[str]:
    """What is wrong with the file itself: walks every page without the engine. For stopped nodes."""
    try:
        return list(lmdb.verify.verify(str(directory)))  # type: ignore[no-untyped-call]  # the package is not annotated
    except lmdb.verify.VerifyError as fault:
        return [str(fault)]
