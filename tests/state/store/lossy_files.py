"""A file system that forgets: after `crash` only what was synced is left.

It works on real files in a real directory, so that code which also hands paths to others (the storage engine copies
into one) can be tried on it. What a disk may do without being asked it may also have done: names can reach the disk
before contents. So there are two crashes: everything unsynced is gone, or names are there and contents are not.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

from state.store.files import REAL_FILES, OpenFile


class Crash(Enum):
    """What of the unsynced had reached the disk."""

    NOTHING = "nothing"
    NAMES = "names, but no contents"


class Op(Enum):
    """The calls that make things durable."""

    DATASYNC = "datasync"
    SYNC_DIRECTORY = "sync_directory"


@dataclass
class LossyFiles:
    """`Files` over `root`. `skip` is the number of the sync call that is left out, as a fault would."""

    root: Path
    skip: int | None = None
    calls: list[tuple[Op, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._contents: dict[int, bytes] = {}
        """Inode → synced content."""
        self._names: dict[Path, dict[str, int]] = {}
        """Directory → synced names."""
        self._pinned: list[object] = []
        self.settle()

    def settle(self) -> None:
        """All that is there now is durable."""
        for directory in [self.root, *(path for path in self.root.rglob("*") if path.is_dir())]:
            self._names[directory] = _names_in(directory)
        for path in self.root.rglob("*"):
            if path.is_file():
                self._contents[path.stat().st_ino] = path.read_bytes()

    def _skipped(self, op: Op, path: Path) -> bool:
        self.calls.append((op, path.name))
        return self.skip == len(self.calls) - 1

    def open(self, path: Path, *, create: bool = False) -> OpenFile:
        file = REAL_FILES.open(path, create=create)
        # An inode number must not be used again for another file while its content is remembered here.
        self._pinned.append(path.open("rb"))
        return _LossyFile(self, file, path)

    def exists(self, path: Path) -> bool:
        return path.exists()

    def rename(self, source: Path, target: Path) -> None:
        if target.is_file():
            self._pinned.append(target.open("rb"))
        source.rename(target)
        if target.is_dir():
            for known in [path for path in self._names if path == source or source in path.parents]:
                self._names[target / known.relative_to(source)] = self._names.pop(known)

    def remove(self, path: Path) -> None:
        if path.is_file():
            self._pinned.append(path.open("rb"))
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        path.mkdir(exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        if not self._skipped(Op.SYNC_DIRECTORY, path):
            self._names[path] = _names_in(path)

    def synced(self, path: Path) -> None:
        if not self._skipped(Op.DATASYNC, path):
            self._contents[path.stat().st_ino] = path.read_bytes()

    def crash(self, kind: Crash) -> None:
        """The directory as it is found after the power came back."""
        durable = self._image(self.root, kind)
        for path in self.root.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        for path, content in durable.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            if content is None:
                path.mkdir(exist_ok=True)
            else:
                path.write_bytes(content)
        for pin in self._pinned:
            pin.close()  # type: ignore[attr-defined]  # all of them are open files
        self._pinned.clear()

    def _image(self, directory: Path, kind: Crash) -> dict[Path, bytes | None]:
        names = _names_in(directory) if kind is Crash.NAMES else self._names.get(directory, {})
        image: dict[Path, bytes | None] = {}
        inodes = {path.stat().st_ino: path for path in self.root.rglob("*") if path.is_dir()}
        for name, inode in names.items():
            if inode in inodes:
                image[directory / name] = None
                inner = self._image(inodes[inode], kind)
                image.update({directory / name / path.relative_to(inodes[inode]): data for path, data in inner.items()})
            else:
                image[directory / name] = self._contents.get(inode, b"")
        return image


def _names_in(directory: Path) -> dict[str, int]:
    return {path.name: path.stat().st_ino for path in directory.iterdir()}


class _LossyFile:
    def __init__(self, files: LossyFiles, file: OpenFile, path: Path) -> None:
        self._files = files
        self._file = file
        self._path = path

    def write_at(self, offset: int, data: bytes) -> None:
        self._file.write_at(offset, data)

    def read_at(self, offset: int, size: int) -> bytes:
        return self._file.read_at(offset, size)

    def truncate(self, size: int) -> None:
        self._file.truncate(size)

    def size(self) -> int:
        return self._file.size()

    def datasync(self) -> None:
        self._files.synced(self._path)

    def close(self) -> None:
        self._file.close()
