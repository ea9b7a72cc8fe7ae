"""A verification worker as its parent sees it: one process, started afresh, and the two pipes to it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import sys
from io import FileIO
from pathlib import Path
from typing import Final, cast

import trellis
from trellis.crypto import verify_worker as wire

PIPE_BYTES: Final = 1 << 20
"""Takes two chunks of the usual size, so that handing one over does not wait for the worker to read."""

READY_WITHIN_MS: Final = 30_000
END_WITHIN_S: Final = 1.0
REAP_WITHIN_S: Final = 5.0


class WorkerProcess:
    """One worker process and its two pipes."""

    __slots__ = ("_answers", "_process", "_requests", "_unread")

    def __init__(self) -> None:
        if not sys.executable:
            raise FileNotFoundError("this interpreter does not know its own path, so it cannot start another")
        # The parent's own import path, which an embedding or a test runner may have changed. -P: the working directory
        # is not on it unless the parent had it there.
        path = os.pathsep.join([str(Path(trellis.__file__).parent.parent), *sys.path])
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", wire.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={**os.environ, "PYTHONPATH": path},
        )
        self._requests = cast("FileIO", self._process.stdin)
        self._answers = cast("FileIO", self._process.stdout)
        self._unread = b""
        with contextlib.suppress(OSError, AttributeError):  # only Linux can, and only up to its pipe-max-size
            fcntl.fcntl(self._requests.fileno(), fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    @property
    def pid(self) -> int:
        return self._process.pid

    def is_ready(self) -> bool:
        """Waits for the first byte: False if the worker died or said nothing in time."""
        # poll, not select: a node with many connections has descriptors above 1,023.
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        return bool(poll.poll(READY_WITHIN_MS)) and self._answers.read(1) == wire.READY

    def send(self, frame: bytes) -> bool:
        """False if the worker is gone."""
        rest = memoryview(frame)
        try:
            while rest:
                rest = rest[self._requests.write(rest) :]
        except OSError:
            return False
        return True

    def receive(self) -> tuple[int, bytes] | None:
        """The next answer: chunk number and verdicts. None if the worker is gone."""
        while (answer := wire.decode_answer(self._unread)) is None:
            # One system call an answer where it can be: each gives up the GIL, and a busy thread keeps it for 5 ms.
            some = self._answers.read(select.PIPE_BUF)
            if not some:
                return None
            self._unread += some
        number, verdicts, self._unread = answer
        return number, verdicts

    def kill(self) -> None:
        self._process.kill()

    def reap(self) -> None:
        """Ends the process for certain and leaves neither zombie nor open pipe."""
        self._requests.close()
        try:
            # Without input it ends by itself; and one that is failing gets to say why on its error output.
            self._process.wait(END_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(REAP_WITHIN_S)
        self._answers.close()
