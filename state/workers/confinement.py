"""What a worker gives up before it reads its first job. Imports the standard library alone: workers load it by path."""

from __future__ import annotations

import math
import os
import resource
from pathlib import Path

FRAME_HEADER_BYTES = 4


def confine() -> None:
    """No core dumps, no byte written to any file, and no descriptor left to open one with.

    A file size limit alone still lets an empty file be created; at the descriptor limit `open` fails before it creates
    anything. Everything the worker will need must therefore be imported by now.
    """
    _lower(resource.RLIMIT_CORE, 0)
    _lower(resource.RLIMIT_FSIZE, 0)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    _lower(resource.RLIMIT_NOFILE, lowest_free)


def limit_memory(bytes_more: int) -> None:
    """This much address space beyond what is mapped now, where the platform tells; else this much in all."""
    statm = Path("/proc/self/statm")
    mapped = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    _lower(resource.RLIMIT_AS, mapped + bytes_more)


def limit_cpu(seconds_more: int) -> None:
    """The kernel kills the process when it has used this much more. Moves only the soft limit: the next job moves it
    again."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    used = math.ceil(usage.ru_utime + usage.ru_stime)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    wanted = used + seconds_more
    resource.setrlimit(resource.RLIMIT_CPU, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _lower(kind: int, value: int) -> None:
    _, hard = resource.getrlimit(kind)
    most = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (most, most))


class Channel:
    """Frames from the parent on descriptor 0, and to it on a copy of 1. What a library prints goes nowhere."""

    def __init__(self) -> None:
        self._out = os.dup(1)
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.close(nowhere)

    def receive(self) -> bytes | None:
        """The next job, or None when the parent is gone. The parent is trusted: no cap here."""
        header = _receive(FRAME_HEADER_BYTES)
        return None if header is None else _receive(int.from_bytes(header, "big"))

    def send(self, payload: bytes) -> None:
        view = memoryview(len(payload).to_bytes(FRAME_HEADER_BYTES, "big") + payload)
        while view:
            view = view[os.write(self._out, view) :]


def _receive(size: int) -> bytes | None:
    buffer = bytearray()
    while len(buffer) < size:
        part = os.read(0, size - len(buffer))
        if not part:
            return None
        buffer += part
    return bytes(buffer)
