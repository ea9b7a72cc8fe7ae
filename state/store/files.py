"""Files that survive a power cut, and the primitives they stand on.

`Files` is the port: everything a durable file needs of an operating system, and nothing that hides whether it is on
the disk yet. `RealFiles` is the system's; tests put one in its place that forgets whatever was not synced. Rules:

- data is durable after `datasync`; a file's existence, name or removal only after `sync_directory`;
- a new file is written and synced under a temporary name, then renamed, then the directory is synced: whoever looks
  after a crash finds the old content or the new, whole;
- after a failed sync the kernel may have dropped the pages, and a second sync may claim success: nobody retries one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, Protocol, Self

_TEMPORARY: Final = ".new"


class OpenFile(Protocol):
    """One file, open for reading and writing."""

    def write_at(self, offset: int, data: bytes) -> None: ...

    def read_at(self, offset: int, size: int) -> bytes: ...

    def truncate(self, size: int) -> None: ...

    def size(self) -> int: ...

    def datasync(self) -> None:
        """Content and size are on the disk when this returns."""
        ...

    def close(self) -> None: ...


class Files(Protocol):
    """The primitives of an operating system."""

    def open(self, path: Path, *, create: bool = False) -> OpenFile:
        """FileNotFoundError where there is none and `create` is not asked."""
        ...

    def exists(self, path: Path) -> bool: ...

    def rename(self, source: Path, target: Path) -> None:
        """Replaces the target, at once for whoever looks; durable only after `sync_directory`."""
        ...

    def remove(self, path: Path) -> None: ...

    def make_directory(self, path: Path) -> None: ...

    def sync_directory(self, path: Path) -> None:
        """Which names the directory holds is on the disk when this returns."""
        ...


class _RealFile:
    """An open file descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def write_at(self, offset: int, data: bytes) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._descriptor, view, offset)
            view, offset = view[written:], offset + written

    def read_at(self, offset: int, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            part = os.pread(self._descriptor, size, offset)
            if not part:
                break
            parts.append(part)
            size, offset = size - len(part), offset + len(part)
        return b"".join(parts)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def size(self) -> int:
        return os.fstat(self._descriptor).st_size

    def datasync(self) -> None:
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class RealFiles:
    """The operating system's own."""

    def open(self, path: Path, *, create: bool = False) -> OpenFile:
        flags = os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0)
        return _RealFile(os.open(path, flags, 0o600))

    def exists(self, path: Path) -> bool:
        return path.exists()

    def rename(self, source: Path, target: Path) -> None:
        source.replace(target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def make_directory(self, path: Path) -> None:
        path.mkdir(mode=0o700, exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


REAL_FILES: Final = RealFiles()


def make_durable_directory(files: Files, path: Path) -> None:
    """A directory, with its parents where they are missing, that is still there after a crash."""
    if files.exists(path):
        return
    if path.parent != path:
        make_durable_directory(files, path.parent)
    files.make_directory(path)
    files.sync_directory(path.parent)


def replace_file(files: Files, path: Path, data: bytes) -> None:
    """The file has the new content, whole and durable, when this returns; before that the old, whole."""
    temporary = path.with_name(path.name + _TEMPORARY)
    files.remove(temporary)
    file = files.open(temporary, create=True)
    try:
        file.write_at(0, data)
        file.datasync()
    finally:
        file.close()
    files.rename(temporary, path)
    files.sync_directory(path.parent)


def rename_durably(files: Files, source: Path, target: Path) -> None:
    """For a file that someone else wrote: its content, then its name."""
    file = files.open(source)
    try:
        file.datasync()
    finally:
        file.close()
    files.rename(source, target)
    files.sync_directory(target.parent)


def remove_durably(files: Files, path: Path) -> None:
    files.remove(path)
    files.sync_directory(path.parent)


def read_file(files: Files, path: Path, max_bytes: int) -> bytes | None:
    """None where there is no such file; ValueError where it is larger than its owner ever writes."""
    try:
        file = files.open(path)
    except FileNotFoundError:
        return None
    try:
        size = file.size()
        if size > max_bytes:
            raise ValueError(f"{path} has {size} bytes, the most is {max_bytes}")
        return file.read_at(0, size)
    finally:
        file.close()


class DurableFile:
    """A file to append to, or to overwrite in place: for logs and guards. Nothing is durable before `sync`."""

    def __init__(self, files: Files, path: Path, *, preallocate_bytes: int = 0) -> None:
        """Creates the file where there is none. Preallocated space makes later syncs cheaper: no size to write."""
        self._files = files
        self.path = path
        created = not files.exists(path)
        self._file = files.open(path, create=True)
        self._end = self._file.size()
        if self._end < preallocate_bytes:
            self._file.write_at(self._end, bytes(preallocate_bytes - self._end))
            self._file.datasync()
        if created:
            files.sync_directory(path.parent)

    @property
    def end(self) -> int:
        """Where the next append goes: the start of a new file, the end of an old one (preallocated space included, so
        whoever preallocates looks for the end of its records and seeks there)."""
        return self._end

    def seek(self, offset: int) -> None:
        """Appends go on from here; what stood behind is overwritten as they come. For preallocated files."""
        self._end = offset

    def append(self, data: bytes) -> int:
        """The offset at which the data stands."""
        at = self._end
        self._file.write_at(at, data)
        self._end = at + len(data)
        return at

    def write_at(self, offset: int, data: bytes) -> None:
        self._file.write_at(offset, data)

    def read_at(self, offset: int, size: int) -> bytes:
        """Fewer bytes at the end of the file."""
        return self._file.read_at(offset, size)

    def size(self) -> int:
        return self._file.size()

    def truncate(self, size: int) -> None:
        """Drops a torn tail; durable after `sync`."""
        self._file.truncate(size)
        self._end = min(self._end, size)

    def sync(self) -> None:
        self._file.datasync()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
