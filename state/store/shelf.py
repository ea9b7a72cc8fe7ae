"""The snapshots that a node keeps in one directory, as peers ask for them: the list, and any piece by its state root.

Peers name snapshots by the certified root, never by a path. What is read is handed over as it stands: whoever takes a
piece verifies it (`state.store.snapshots.SnapshotImport`), so a damaged file costs a peer one refused piece.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from state.store.errors import StoreError
from state.store.files import REAL_FILES, Files
from state.store.snapshots import SnapshotFiles
from trellis.records import SignedManifest
from trellis.types import U32_MAX, Hash

INDEX_PIECE: Final = U32_MAX
"""The number by which the index is asked for; no snapshot has so many chunks."""

MAX_LISTED: Final = 16
"""Bounds an answer: older snapshots than these are not offered."""


class SnapshotShelf:
    """Looks at the directory again whenever its names change: whoever makes or removes a snapshot need not say so."""

    def __init__(self, directory: Path, files: Files = REAL_FILES) -> None:
        self._directory = directory
        self._files = files
        self._names: frozenset[str] = frozenset()
        self._offered: dict[Hash, tuple[SignedManifest, SnapshotFiles]] = {}
        """By state root, newest first."""

    def manifests(self) -> tuple[SignedManifest, ...]:
        """Newest first. One that is being written, or whose manifest is damaged, is not offered."""
        self._look()
        return tuple(signed for signed, _ in self._offered.values())

    def piece(self, state_root: Hash, index: int) -> bytes | None:
        """A chunk, or the index for `INDEX_PIECE`; None for what is not here, or not any more."""
        self._look()
        found = self._offered.get(state_root)
        if found is None:
            return None
        signed, files = found
        try:
            if index == INDEX_PIECE:
                return files.index()
            return files.chunk(index) if 0 <= index < signed.manifest.chunk_count else None
        except StoreError:
            return None

    def _look(self) -> None:
        """A listing for each request, so that a stranger's unknown roots cost no more than that."""
        try:
            names = frozenset(path.name for path in self._directory.iterdir() if path.suffix != ".new")
        except FileNotFoundError:
            names = frozenset()
        if names == self._names:
            return
        found: list[tuple[SignedManifest, SnapshotFiles]] = []
        for name in sorted(names):
            files = SnapshotFiles(self._directory / name, self._files)
            try:
                found.append((files.manifest(), files))
            except (StoreError, OSError):
                continue
        found.sort(key=lambda item: item[0].manifest.height, reverse=True)
        self._offered = {signed.manifest.state_root: (signed, files) for signed, files in found[:MAX_LISTED]}
        self._names = names
