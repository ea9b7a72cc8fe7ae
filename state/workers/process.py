"""One worker process at the end of two pipes, and a fixed number of them to lease from."""

from __future__ import annotations

import math
import os
import queue
import select
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

import trellis
from state.workers.confinement import FRAME_HEADER_BYTES

MAX_ANSWER_BYTES: Final = 4 << 10
"""A worker that a hostile input took over cannot make the parent allocate."""

START_TIMEOUT_MS: Final = 60_000
"""An interpreter starts in 0.1 s, and in many seconds on a machine that is out of breath."""

JOBS_A_WORKER: Final = 500
"""Then a fresh one takes over: what a solver leaks, or a heap fragments, does not pile up over months."""

_BOOT: Final = (
    "import sys, importlib\n"
    "cut = sys.argv.index('--')\n"
    "sys.path[:0] = [root for root in sys.argv[2:cut] if root not in sys.path]\n"
    "importlib.import_module(sys.argv[1]).main(sys.argv[cut + 1 :])\n"
)
"""An isolated interpreter looks neither at the working directory nor at the environment for modules."""

T = TypeVar("T")


def _roots() -> list[str]:
    """Where this very code lives: a worker must run the same version as its parent."""
    return [str(Path(module).resolve().parents[depth]) for module, depth in ((__file__, 2), (trellis.__file__, 1))]


class Loss(StrEnum):
    """How a worker was lost."""

    DIED = "died"
    TIMED_OUT = "timed_out"
    GARBLED = "garbled"


class WorkerLost(Exception):
    """The worker is gone (it was killed if it was not dead); the job may be given to another."""

    def __init__(self, loss: Loss) -> None:
        super().__init__(f"worker lost: {loss}")
        self.loss = loss


class PoolClosed(RuntimeError):
    """The pool was closed before or while the call ran."""


class PoolSaturated(RuntimeError):
    """The pool holds as much unfinished work as it may; try again when some is done."""


class WorkerProcess:
    """A fresh interpreter that runs one of the modules beside this one and answers one frame with one frame."""

    def __init__(self, module: str, arguments: Sequence[str], directory: str) -> None:
        self._jobs_left = JOBS_A_WORKER
        # Isolated, no bytecode files, and none of the node's environment: a solver reads library paths from it.
        command = [sys.executable, "-I", "-B", "-c", _BOOT, module, *_roots(), "--", *arguments]
        environment = {key: os.environ[key] for key in ("LD_LIBRARY_PATH",) if key in os.environ}
        try:
            self._process = subprocess.Popen(
                command,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                cwd=directory,
                env=environment,
                start_new_session=True,  # a Ctrl-C at the terminal is the node's to handle
            )
        except OSError:
            raise WorkerLost(Loss.DIED) from None
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("the worker has no pipes")
        self._to_worker, self._from_worker = self._process.stdin, self._process.stdout
        os.set_blocking(self._to_worker.fileno(), False)
        os.set_blocking(self._from_worker.fileno(), False)

    @property
    def pid(self) -> int:
        return self._process.pid

    def greeting(self) -> bytes:
        """What the worker says once it is ready, before any job."""
        return self._receive(_deadline(START_TIMEOUT_MS))

    def request(self, payload: bytes, timeout_ms: int) -> bytes:
        """The worker's answer. After a fault this worker is of no more use: `close` it."""
        deadline = _deadline(timeout_ms)
        self._send(len(payload).to_bytes(FRAME_HEADER_BYTES, "big") + payload, deadline)
        answer = self._receive(deadline)
        self._jobs_left -= 1
        return answer

    @property
    def is_fresh(self) -> bool:
        """It has answered nothing yet, so what kills it is this job and not what an earlier one left behind."""
        return self._jobs_left == JOBS_A_WORKER

    @property
    def is_worn(self) -> bool:
        return self._jobs_left <= 0

    def retire(self) -> None:
        """Let this answer be its last."""
        self._jobs_left = 0

    def kill(self) -> None:
        """From any thread: whoever waits for an answer finds the worker dead."""
        self._process.kill()

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._to_worker.close()
        self._from_worker.close()

    def _send(self, data: bytes, deadline: float) -> None:
        view = memoryview(data)
        while view:
            _wait(self._to_worker.fileno(), select.POLLOUT, deadline)
            try:
                view = view[os.write(self._to_worker.fileno(), view) :]
            except BlockingIOError:
                continue
            except OSError:
                raise WorkerLost(Loss.DIED) from None

    def _receive(self, deadline: float) -> bytes:
        size = int.from_bytes(self._receive_exactly(FRAME_HEADER_BYTES, deadline), "big")
        if size > MAX_ANSWER_BYTES:
            raise WorkerLost(Loss.GARBLED)
        return self._receive_exactly(size, deadline)

    def _receive_exactly(self, size: int, deadline: float) -> bytes:
        received = b""
        while len(received) < size:
            _wait(self._from_worker.fileno(), select.POLLIN, deadline)
            part = os.read(self._from_worker.fileno(), size - len(received))
            if not part:
                raise WorkerLost(Loss.DIED)
            received += part
        return received


def _wait(descriptor: int, event: int, deadline: float) -> None:
    """Until the descriptor is ready, or its other end is gone."""
    left_ms = math.ceil((deadline - time.monotonic()) * 1000)
    poll = select.poll()
    poll.register(descriptor, event)
    if left_ms <= 0 or not poll.poll(left_ms):
        raise WorkerLost(Loss.TIMED_OUT)


def _deadline(timeout_ms: int) -> float:
    return time.monotonic() + timeout_ms / 1000


class Crew:
    """At most `count` workers of one kind, started when first needed and replaced when lost.

    They work in an empty directory of their own, which they may not write to and which goes with the crew.
    """

    def __init__(self, module: str, arguments: Sequence[str], count: int, scratch: Path | None = None) -> None:
        if count < 1:
            raise ValueError("a crew needs at least one worker")
        self._module = module
        self._arguments = tuple(arguments)
        self._count = count
        self.directory: Final = Path(tempfile.mkdtemp(prefix="trellis-worker-", dir=scratch))
        self.directory.chmod(0o500)
        self._lock = threading.Lock()
        self._running: list[WorkerProcess] = []
        self._closed = False
        self._places: queue.SimpleQueue[WorkerProcess | None] = queue.SimpleQueue()
        for _ in range(count):
            self._places.put(None)

    @property
    def pids(self) -> list[int]:
        """Of the workers that run now."""
        with self._lock:
            return [worker.pid for worker in self._running]

    def run(self, job: Callable[[WorkerProcess, bytes | None], T]) -> T:
        """Waits for a place and gives its worker to `job`, with its greeting if it was started for this job.

        When `job` or the start raises `WorkerLost`, the worker is killed and the place emptied; the caller decides
        whether to try again. Raises `PoolClosed` once the crew is closed.
        """
        worker = self._places.get()
        try:
            if self._closed:
                raise PoolClosed(self._module)
            greeting = None
            if worker is None:
                worker = self._start()
                greeting = worker.greeting()
            return job(worker, greeting)
        except WorkerLost:
            if worker is not None:
                self._forget(worker)
                worker = None
            if self._closed:
                raise PoolClosed(self._module) from None
            raise
        finally:
            if worker is not None and worker.is_worn:
                self._forget(worker)
                worker = None
            self._places.put(worker)

    def _start(self) -> WorkerProcess:
        # Under the lock, so that `close` kills this worker or keeps it from starting; it may be killed while it greets.
        with self._lock:
            if self._closed:
                raise PoolClosed(self._module)
            worker = WorkerProcess(self._module, self._arguments, str(self.directory))
            self._running.append(worker)
            return worker

    def _forget(self, worker: WorkerProcess) -> None:
        worker.close()
        with self._lock:
            self._running.remove(worker)

    def close(self) -> None:
        """Kills every worker, waits until each place is back, and removes the directory. Calls in progress end with
        `PoolClosed`, and so do later ones."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for worker in self._running:
                worker.kill()
        for _ in range(self._count):
            left = self._places.get()
            if left is not None:
                self._forget(left)
        # Whoever waits for a place takes one, sees that the crew is closed, and puts it back.
        for _ in range(self._count):
            self._places.put(None)
        self.directory.chmod(0o700)
        self.directory.rmdir()
