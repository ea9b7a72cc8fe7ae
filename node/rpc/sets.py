"""Every validator set that was ever in force here, by its hash: what receipts and transitions hand out.

The state keeps the sets of the evidence window alone, and headers commit to hashes. A set is appended when its change
is committed; what a crash cut off is appended again at the next start, because the window still holds it.
"""

from __future__ import annotations

import os
from pathlib import Path
from threading import Lock
from typing import Final
from zlib import crc32

from trellis.encoding import DecodeError
from trellis.types import Hash
from trellis.validators import MAX_SET_BYTES, ValidatorSet, decode_validator_set

SETS_FILE: Final = "sets"
"""Its name in a node's data folder."""
_HEAD_BYTES: Final = 8
"""Length u32, CRC-32 of the set."""


class SetArchive:
    """An append-only file. Written on one thread, read on any."""

    def __init__(self, path: Path) -> None:
        self._lock = Lock()
        self._places: dict[Hash, tuple[int, int]] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._end = self._load()
        os.ftruncate(self._descriptor, self._end)

    def _load(self) -> int:
        """Indexes the whole records; answers where they end. A torn tail is cut off."""
        at = 0
        while len(head := os.pread(self._descriptor, _HEAD_BYTES, at)) == _HEAD_BYTES:
            size = int.from_bytes(head[:4], "big")
            if size > MAX_SET_BYTES:
                return at
            data = os.pread(self._descriptor, size, at + _HEAD_BYTES)
            if len(data) != size or crc32(data) != int.from_bytes(head[4:], "big"):
                return at
            try:
                self._places[decode_validator_set(data).hash] = (at + _HEAD_BYTES, size)
            except DecodeError:
                return at
            at += _HEAD_BYTES + size
        return at

    def __contains__(self, set_hash: object) -> bool:
        return set_hash in self._places

    def add(self, validators: ValidatorSet) -> None:
        """Durable when it returns. A set that is there already is not written twice."""
        with self._lock:
            if validators.hash in self._places:
                return
            data = validators.encode()
            record = len(data).to_bytes(4, "big") + crc32(data).to_bytes(4, "big") + data
            os.pwrite(self._descriptor, record, self._end)
            os.fdatasync(self._descriptor)
            self._places[validators.hash] = (self._end + _HEAD_BYTES, len(data))
            self._end += len(record)

    def get(self, set_hash: Hash) -> bytes | None:
        """The set in its canonical layout."""
        place = self._places.get(set_hash)
        return None if place is None else os.pread(self._descriptor, place[1], place[0])

    def close(self) -> None:
        os.close(self._descriptor)
