"""One writer a directory: two nodes on one store would each believe themselves the only one to vote from it."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from state.store.errors import StoreBusyError, StoreReadOnlyError

LOCK_NAME: Final = "LOCK"


class DirectoryLock:
    """Held until closed, or until the process ends in whatever way."""

    def __init__(self, directory: Path) -> None:
        path = directory / LOCK_NAME
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except PermissionError as fault:
            raise StoreReadOnlyError(
                str(directory), "this user may not write here", "Run as the directory's owner, or open it for reading"
            ) from fault
        except OSError as fault:
            raise StoreReadOnlyError(str(directory), f"no lock can be taken: {fault}", "Open it for reading") from fault
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as fault:
            holder = os.pread(self._descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(self._descriptor)
            raise StoreBusyError(
                str(directory),
                f"process {holder or 'unknown'} has it open",
                "Stop that node, or name another directory",
            ) from fault
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def is_locked(directory: Path) -> bool:
    """Whether some process holds the directory for writing."""
    try:
        descriptor = os.open(directory / LOCK_NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(descriptor)
    return False
