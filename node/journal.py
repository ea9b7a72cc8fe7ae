"""What must survive a crash beside the store: the write-ahead log, with the bodies of blocks, and the sign guard.

The log is two files used in turn: a height begins in the other file, so what the height before left is still there
until the new beginning is durable. A frame is u32 length ‖ u32 crc32 ‖ record; a torn tail ends the log. What begins
with `BODY_MARK` is a block of that height.

The guard lies in a directory of its own, ideally on another disk: two slots used in turn, each counter u64 ‖ crc32 ‖
state, so that a torn write leaves the slot before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zlib import crc32

from consensus.guard import GUARD_BYTES, SignGuard, decode_sign_guard
from consensus.records import MAX_RECORD_BYTES, HeightBegun, Record, decode_record, encode_record
from state.store.files import REAL_FILES, DurableFile, Files, make_durable_directory, replace_file
from trellis.block import MAX_ENCODED_BLOCK_BYTES, Block, decode_block
from trellis.encoding import DecodeError
from trellis.types import Hash
from trellis.votes import Vote

_FRAME_HEAD: Final = 8
_LOG_NAMES: Final = ("log.a", "log.b")
_LOG_BYTES: Final = 1 << 20
"""Preallocated, so that a sync writes data and no file size."""

_GUARD_NAME: Final = "guard"
_SLOT_HEAD: Final = 12
_SLOT_BYTES: Final = 512
"""One sector each: a torn write of one slot cannot touch the other."""


BODY_MARK: Final = 0xB0
"""No kind of the core's records has this number."""
_MAX_FRAME_BYTES: Final = max(MAX_RECORD_BYTES, 1 + MAX_ENCODED_BLOCK_BYTES)


_OBSERVING_NAME: Final = "observing"


class JournalFault(Exception):
    """The log or guard holds what this software never wrote; the message names the file and what to do."""


def log_is_missing(directory: Path, files: Files = REAL_FILES) -> bool:
    return not any(files.exists(directory / name) for name in _LOG_NAMES)


def guard_is_missing(directory: Path, files: Files = REAL_FILES) -> bool:
    return not files.exists(directory / _GUARD_NAME)


class Suspicion:
    """That this validator does not know what it signed before, kept beside the guard until its quarantine is over.

    Without it a second start would find log and guard, both made by the first, and vote at once.
    """

    def __init__(self, directory: Path, files: Files = REAL_FILES) -> None:
        self._path = directory / _OBSERVING_NAME
        self._files = files

    @property
    def stands(self) -> bool:
        return self._files.exists(self._path)

    def raise_(self) -> None:
        """Durable when it returns."""
        make_durable_directory(self._files, self._path.parent)
        replace_file(self._files, self._path, b"This validator observes: its log or sign guard was lost or is old.\n")

    def lift(self) -> None:
        """It may vote again. If a crash undoes this, it observes once more, which is harmless."""
        self._path.unlink(missing_ok=True)


@dataclass(slots=True)
class _Half:
    file: DurableFile
    records: list[Record]
    bodies: list[Block]


class Journal:
    """The write-ahead log of one node. Nothing is durable before `sync`."""

    def __init__(self, directory: Path, files: Files = REAL_FILES) -> None:
        make_durable_directory(files, directory)
        self.was_missing = log_is_missing(directory, files)
        """No log where one should be: unless the node is new, it must observe before it votes."""
        self._halves = [
            _open(DurableFile(files, directory / name, preallocate_bytes=_LOG_BYTES)) for name in _LOG_NAMES
        ]
        begun = [_begun_height(half.records) for half in self._halves]
        self._current = 0 if begun[0] >= begun[1] else 1
        self._dirty: set[int] = set()

    def records(self) -> list[Record]:
        """In the order in which they were written: the height before, then the height in progress."""
        older, newer = self._halves[1 - self._current], self._halves[self._current]
        return [*older.records, *newer.records]

    def bodies(self) -> list[Block]:
        """Of the height in progress; and of the one before, unless the height in progress began after it."""
        return [*self._halves[1 - self._current].bodies, *self._halves[self._current].bodies]

    def append(self, record: Record) -> None:
        if isinstance(record, HeightBegun):
            self._current = 1 - self._current
            self._halves[self._current].file.seek(0)
        self._append(encode_record(record))

    def append_body(self, block: bytes) -> None:
        """A body that is PREPAREd must be servable after a crash."""
        self._append(bytes((BODY_MARK,)) + block)

    def _append(self, data: bytes) -> None:
        # Zeros follow, so that what an earlier height left behind this frame can never pass for its continuation.
        frame = len(data).to_bytes(4, "big") + crc32(data).to_bytes(4, "big") + data
        half = self._halves[self._current].file
        at = half.append(frame)
        half.write_at(at + len(frame), bytes(_FRAME_HEAD))
        self._dirty.add(self._current)

    def sync(self) -> None:
        """Everything appended is durable when this returns."""
        for index in sorted(self._dirty):
            self._halves[index].file.sync()
        self._dirty.clear()

    def close(self) -> None:
        for half in self._halves:
            half.file.close()


def _begun_height(records: list[Record]) -> int:
    return records[0].height if records and isinstance(records[0], HeightBegun) else -1


def _open(file: DurableFile) -> _Half:
    at = 0
    records: list[Record] = []
    bodies: list[Block] = []
    for data, end in _frames(file):
        try:
            if data[0] == BODY_MARK:
                bodies.append(decode_block(data[1:]))
            else:
                records.append(decode_record(data))
        except DecodeError as fault:
            raise JournalFault(
                f"{file.path}: a record with a right checksum is none of ours ({fault}): restore the file, or move it "
                "away and start again (the node then observes before it votes)"
            ) from fault
        at = end
    file.seek(at)
    return _Half(file, records, bodies)


def _frames(file: DurableFile) -> Iterator[tuple[bytes, int]]:
    """Record bytes, and where each frame ends; stops at the first frame that is not whole."""
    at = 0
    while True:
        head = file.read_at(at, _FRAME_HEAD)
        if len(head) < _FRAME_HEAD:
            return
        size = int.from_bytes(head[:4], "big")
        if not 0 < size <= _MAX_FRAME_BYTES:
            return
        data = file.read_at(at + _FRAME_HEAD, size)
        if len(data) < size or crc32(data) != int.from_bytes(head[4:], "big"):
            return
        at += _FRAME_HEAD + size
        yield data, at


class GuardFile:
    """The durable sign guard. `admit` makes a vote's state durable, and only then may it be signed."""

    def __init__(self, directory: Path, genesis_hash: Hash, files: Files = REAL_FILES) -> None:
        make_durable_directory(files, directory)
        self.was_missing = guard_is_missing(directory, files)
        self._file = DurableFile(files, directory / _GUARD_NAME, preallocate_bytes=2 * _SLOT_BYTES)
        self._counter, found = self._newest()
        if found is not None and found.genesis_hash != genesis_hash:
            raise JournalFault(
                f"{self._file.path} guards another network's votes: give this node a guard directory of its own"
            )
        if found is None and not self.was_missing and self._file.read_at(0, 2 * _SLOT_BYTES).strip(b"\0"):
            raise JournalFault(
                f"{self._file.path} is damaged: move it away and start again (the node then observes before it votes)"
            )
        self.guard = SignGuard(genesis_hash) if found is None else found

    def _newest(self) -> tuple[int, SignGuard | None]:
        best: tuple[int, SignGuard | None] = (0, None)
        for slot in range(2):
            raw = self._file.read_at(slot * _SLOT_BYTES, _SLOT_HEAD + GUARD_BYTES)
            counter, check, state = int.from_bytes(raw[:8], "big"), int.from_bytes(raw[8:12], "big"), raw[12:]
            if counter > best[0] and check == crc32(raw[:8] + state):
                best = (counter, decode_sign_guard(state))
        return best

    def admit(self, vote: Vote) -> None:
        """Call after `guard.check(vote)` allowed it, and sign only when this has returned."""
        after = self.guard.after(vote)
        if after == self.guard:
            return
        state, counter = after.encode(), self._counter + 1
        head = counter.to_bytes(8, "big")
        slot = counter % 2 * _SLOT_BYTES
        self._file.write_at(slot, head + crc32(head + state).to_bytes(4, "big") + state)
        self._file.sync()
        self.guard, self._counter = after, counter

    def close(self) -> None:
        self._file.close()
