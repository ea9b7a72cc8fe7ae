"""Many signatures in one call, verified by worker processes.

    with Verifier(workers=2) as verifier:
        verdicts = verifier.verify_batch(checks)      # from a plain thread: it blocks
        batch = verifier.submit(checks)               # or a handle: batch.cancel(), batch.result(timeout_ms=500)

Why processes: with a busy main thread, a Python thread that verifies one signature after the other gets the GIL back a
few hundred times a second at most. Here a thread per worker hands over chunks of up to 64 checks with one write and
reads one answer; the lattice arithmetic happens elsewhere. The processes are started afresh, never forked: the parent
has threads. They need no importable `__main__`.

A worker that dies is replaced and its chunks are done again. A worker ends by itself when the parent does: its input
pipe closes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from types import TracebackType
from typing import Final, Self

from trellis.crypto import verify_worker as wire
from trellis.crypto.algorithms import SignatureCheck
from trellis.crypto.schemes import verify_all
from trellis.crypto.worker_process import WorkerProcess

CHUNK_CHECKS: Final = 64
"""What a worker gets at once: long enough (15 to 30 ms) to hide the hand-over, short enough to share a block evenly."""

MIN_CHUNK_CHECKS: Final = 8
"""A small batch is split over the workers for its latency, but not finer than this."""

CHUNK_BYTES: Final = 512 << 10
"""A chunk of large messages ends early: two in flight fit into a worker's pipe, so that writing does not wait."""

IN_FLIGHT_CHUNKS: Final = 2
"""One in work and one waiting in the pipe, so that a worker never waits for the parent's GIL."""

MAX_PENDING_CHECKS: Final = 16_384
MAX_PENDING_BYTES: Final = 256 << 20
"""Stop a flood of transactions from piling up here: beyond them `QueueFull`, and the host pushes back on its peers."""

INLINE_BELOW: Final = 4
"""Fewer checks are done at once in the calling thread: handing them over costs more than it saves."""

MAX_ATTEMPTS: Final = 3
"""A chunk that was in work when this many workers died is taken for the cause: its batch fails."""

MAX_FAILED_STARTS: Final = 3
"""In a row, of one worker: then the cause is not chance, and the whole verifier gives up with a reason."""

ANSWER_WITHIN_MS: Final = 30_000
"""A chunk takes 0.2 s at the worst. A worker that is silent for this long hangs: it is killed and its chunks redone."""

RESTART_PAUSE_S: Final = 0.1


class VerifierError(Exception):
    """The batch has no verdicts. Nothing is known about its signatures: neither True nor False may be assumed."""


class QueueFull(VerifierError):
    """More is waiting than the bound allows. Try again later, or refuse the work."""


class VerifierStopped(VerifierError):
    """Not started, or stopped before the batch was done."""


class BatchCancelled(VerifierError):
    """Somebody called `cancel`."""


class WorkersFailed(VerifierError):
    """Workers do not start, or keep dying on this batch."""


STOPPED: Final = "the verifier was stopped"


class _State(Enum):
    NEW = "new"
    RUNNING = "running"
    STOPPED = "stopped"


class Batch:
    """The handle of submitted checks."""

    __slots__ = ("_checks", "_done", "_fault", "_lock", "_on_done", "_remaining", "_verdicts", "size_bytes")

    def __init__(self, checks: tuple[SignatureCheck, ...], on_done: Callable[[Batch], None] | None) -> None:
        self._checks = checks
        self._verdicts = [False] * len(checks)
        self._remaining = len(checks)
        self._fault: VerifierError | None = None
        self._done = threading.Event()
        self._lock = threading.Lock()
        self._on_done = on_done
        self.size_bytes = sum(len(c.public_key) + len(c.message) + len(c.signature) for c in checks)

    def __len__(self) -> int:
        return len(self._checks)

    @property
    def done(self) -> bool:
        return self._done.is_set()

    def cancel(self) -> None:
        """Drops what no worker has begun. `result` raises `BatchCancelled`, unless the batch was done before."""
        self._fail(BatchCancelled("the batch was cancelled"))

    def result(self, timeout_ms: int | None = None) -> list[bool]:
        """The verdicts in the order of the checks; TimeoutError leaves the batch running: cancel it or ask again."""
        if not self._done.wait(None if timeout_ms is None else timeout_ms / 1_000):
            raise TimeoutError(f"{len(self._checks)} checks are not done after {timeout_ms} ms")
        if self._fault is not None:
            raise self._fault
        return list(self._verdicts)

    def _fill(self, start: int, verdicts: Sequence[bool]) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._verdicts[start : start + len(verdicts)] = verdicts
            self._remaining -= len(verdicts)
            if self._remaining:
                return
            self._done.set()
        self._announce()

    def _fail(self, fault: VerifierError) -> None:
        with self._lock:
            if self._done.is_set():
                return
            self._fault = fault
            self._done.set()
        self._announce()

    def _announce(self) -> None:
        if self._on_done is not None:
            self._on_done(self)


@dataclass(slots=True, eq=False)
class _Chunk:
    """A part of a batch that one worker does at once."""

    batch: Batch
    start: int
    stop: int
    size_bytes: int
    attempts: int = 0

    def encode(self, number: int) -> bytes:
        return wire.encode_chunk(number, self.batch._checks[self.start : self.stop])


def _cut(batch: Batch, chunk_checks: int) -> list[_Chunk]:
    chunks: list[_Chunk] = []
    start = size_bytes = 0
    for at, check in enumerate(batch._checks):
        own_bytes = len(check.public_key) + len(check.message) + len(check.signature)
        if at > start and (at - start >= chunk_checks or size_bytes + own_bytes > CHUNK_BYTES):
            chunks.append(_Chunk(batch, start, at, size_bytes))
            start, size_bytes = at, 0
        size_bytes += own_bytes
    chunks.append(_Chunk(batch, start, len(batch), size_bytes))
    return chunks


def _reap_all(workers: Sequence[WorkerProcess]) -> None:
    for worker in workers:
        worker.reap()


class _Lane:
    """One worker at a time, and the thread that feeds it."""

    __slots__ = ("busy_since_s", "in_flight", "next_number", "thread", "worker")

    def __init__(self, worker: WorkerProcess) -> None:
        self.worker = worker
        self.thread: threading.Thread | None = None
        self.in_flight: deque[tuple[int, _Chunk]] = deque()
        self.next_number = 0
        self.busy_since_s: float | None = None

    def send(self, chunk: _Chunk) -> bool:
        """Hands a chunk over; False if the worker is gone."""
        number = self.next_number
        self.next_number = (number + 1) % 2**32
        if not self.in_flight:
            self.busy_since_s = time.monotonic()
        self.in_flight.append((number, chunk))
        return self.worker.send(chunk.encode(number))

    def receive(self) -> bool:
        """Settles the oldest chunk in flight; False if the worker is gone."""
        answer = self.worker.receive()
        if answer is None:
            return False
        number, chunk = self.in_flight[0]
        if answer[0] != number or len(answer[1]) != chunk.stop - chunk.start:
            raise RuntimeError(
                f"a worker answered chunk {answer[0]} when {number} was asked: verdicts would be mixed up"
            )
        self.in_flight.popleft()
        self.busy_since_s = time.monotonic() if self.in_flight else None
        chunk.batch._fill(chunk.start, [verdict == 1 for verdict in answer[1]])
        return True


class Verifier:
    """`VerifyMany` over worker processes. Thread-safe; `workers=0` does everything in the calling thread."""

    def __init__(
        self,
        workers: int,
        *,
        max_pending_checks: int = MAX_PENDING_CHECKS,
        max_pending_bytes: int = MAX_PENDING_BYTES,
        answer_within_ms: int = ANSWER_WITHIN_MS,
    ) -> None:
        if workers < 0:
            raise ValueError(f"{workers} workers")
        self._worker_count = workers
        self._max_pending_checks = max_pending_checks
        self._max_pending_bytes = max_pending_bytes
        self._answer_within_ms = answer_within_ms
        self._changed = threading.Condition()
        """Only lanes wait on it: a notification that reached anybody else would be a chunk that nobody takes."""
        self._stopped = threading.Event()
        self._state = _State.NEW
        self._broken: str | None = None
        self._lanes: list[_Lane] = []
        self._idle_lanes = 0
        self._urgent: deque[_Chunk] = deque()
        self._bulk: deque[_Chunk] = deque()
        self._pending_checks = 0
        self._pending_bytes = 0
        self._replaced = 0

    def start(self) -> Self:
        """Starts the workers and waits until they are ready; `WorkersFailed` if they are not."""
        if self._state is not _State.NEW:
            raise VerifierStopped("a verifier starts once")
        started: list[WorkerProcess] = []
        try:
            started.extend(WorkerProcess() for _ in range(self._worker_count))
        except OSError as fault:
            _reap_all(started)
            raise WorkersFailed(f"cannot start a verification worker: {fault}") from fault
        if not all(worker.is_ready() for worker in started):
            _reap_all(started)
            raise WorkersFailed("a verification worker did not start: its own error output says why")
        self._state = _State.RUNNING
        for index, worker in enumerate(started):
            lane = _Lane(worker)
            lane.thread = threading.Thread(
                target=self._drive, args=(lane,), name=f"trellis-verify-{index}", daemon=True
            )
            self._lanes.append(lane)
            lane.thread.start()
        if self._lanes:
            threading.Thread(target=self._watch, name="trellis-verify-watch", daemon=True).start()
        return self

    def stop(self) -> None:
        """Ends the workers. Batches that are not done fail with `VerifierStopped`. Again is harmless."""
        with self._changed:
            self._state = _State.STOPPED
            left = self._empty_queues()
            for lane in self._lanes:
                lane.worker.kill()
        for chunk in left:
            chunk.batch._fail(VerifierStopped(STOPPED))
        for lane in self._lanes:
            if lane.thread is not None and lane.thread is not threading.current_thread():
                lane.thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def worker_pids(self) -> tuple[int, ...]:
        return tuple(lane.worker.pid for lane in self._lanes)

    @property
    def replaced_workers(self) -> int:
        """How many workers died and were replaced since the start."""
        return self._replaced

    @property
    def pending_checks(self) -> int:
        """Checks that wait for a worker."""
        return self._pending_checks

    def verify_batch(self, checks: Sequence[SignatureCheck], *, urgent: bool = False) -> list[bool]:
        """The verdicts in the order of the checks. Blocks: call it from a thread. `VerifierError` means no verdicts."""
        return self.submit(checks, urgent=urgent).result()

    def submit(
        self,
        checks: Sequence[SignatureCheck],
        *,
        urgent: bool = False,
        on_done: Callable[[Batch], None] | None = None,
    ) -> Batch:
        """Queues the checks and returns at once (but for the few that are done inline).

        `urgent` goes before everything that is not: votes before transactions. `on_done` is called once, when the batch
        is done, failed or cancelled, from whichever thread found out: it must be quick and must not raise.
        A batch larger than the bound is accepted when nothing else waits, so that no block is too large to verify.
        """
        batch = Batch(tuple(checks), on_done)
        if len(batch) < INLINE_BELOW or not self._worker_count:
            self._check_running()
            batch._fill(0, verify_all(batch._checks))
            return batch
        chunk_checks = min(CHUNK_CHECKS, max(MIN_CHUNK_CHECKS, -(-len(batch) // self._worker_count)))
        chunks = _cut(batch, chunk_checks)
        with self._changed:
            self._check_running()
            if self._is_full(batch):
                self._drop_settled()
            if self._is_full(batch):
                raise QueueFull(f"{self._pending_checks} checks wait, {len(batch)} more are too many")
            (self._urgent if urgent else self._bulk).extend(chunks)
            self._pending_checks += len(batch)
            self._pending_bytes += batch.size_bytes
            self._changed.notify(len(chunks))
        return batch

    def _check_running(self) -> None:
        if self._broken is not None:
            raise WorkersFailed(self._broken)
        if self._state is not _State.RUNNING:
            raise VerifierStopped(f"the verifier is {self._state.value}, not running")

    def _is_full(self, more: Batch) -> bool:
        return self._pending_checks > 0 and (
            self._pending_checks + len(more) > self._max_pending_checks
            or self._pending_bytes + more.size_bytes > self._max_pending_bytes
        )

    def _drop_settled(self) -> None:
        """Chunks of batches that were cancelled or failed still take room until somebody looks."""
        for queue in (self._urgent, self._bulk):
            live = [chunk for chunk in queue if not chunk.batch.done]
            queue.clear()
            queue.extend(live)
        waiting = [*self._urgent, *self._bulk]
        self._pending_checks = sum(chunk.stop - chunk.start for chunk in waiting)
        self._pending_bytes = sum(chunk.size_bytes for chunk in waiting)

    def _take(self, *, wait: bool) -> _Chunk | None:
        """The next live chunk. None: there is none for this lane now, or (after waiting) the verifier stops."""
        with self._changed:
            while self._state is _State.RUNNING:
                # A second chunk for a busy lane only if the idle ones have theirs.
                spare = 0 if wait else self._idle_lanes
                while len(self._urgent) + len(self._bulk) > spare:
                    chunk = (self._urgent or self._bulk).popleft()
                    self._pending_checks -= chunk.stop - chunk.start
                    self._pending_bytes -= chunk.size_bytes
                    if not chunk.batch.done:
                        return chunk
                if not wait:
                    return None
                self._idle_lanes += 1
                self._changed.wait()
                self._idle_lanes -= 1
            return None

    def _drive(self, lane: _Lane) -> None:
        """A lane's thread: hand over, wait for the answer, replace the worker when it is gone."""
        try:
            while self._state is _State.RUNNING:
                chunk = self._take(wait=not lane.in_flight)
                alive = True
                if chunk is not None:
                    alive = lane.send(chunk)
                    if alive and len(lane.in_flight) < IN_FLIGHT_CHUNKS:
                        continue
                if alive and lane.in_flight:
                    alive = lane.receive()
                if not alive and self._state is _State.RUNNING:
                    self._replace(lane)
        finally:
            # Reached by stopping, or by a fault of our own, which must not leave anybody waiting.
            lane.worker.reap()
            stopped = self._state is _State.STOPPED and self._broken is None
            if not stopped:
                self._break("a lane failed")
            for _, chunk in lane.in_flight:
                chunk.batch._fail(VerifierStopped(STOPPED) if stopped else WorkersFailed(self._broken))

    def _watch(self) -> None:
        """Kills workers that hang; their lanes then see the end of the pipe and replace them."""
        # A thread of its own that looks now and then: asking the pipe before each read would cost every chunk the GIL.
        pause_s = self._answer_within_ms / 4_000
        while not self._stopped.wait(pause_s):
            late_s = time.monotonic() - self._answer_within_ms / 1_000
            for lane in self._lanes:
                busy_since_s = lane.busy_since_s
                if busy_since_s is not None and busy_since_s < late_s:
                    lane.worker.kill()

    def _replace(self, lane: _Lane) -> None:
        """Another worker for a lane whose worker died; what was in flight goes back to the front of the queue."""
        lane.worker.reap()
        lane.busy_since_s = None
        again = [chunk for _, chunk in lane.in_flight]
        lane.in_flight.clear()
        if again:
            again[0].attempts += 1
            if again[0].attempts >= MAX_ATTEMPTS:
                culprit = again.pop(0)
                culprit.batch._fail(WorkersFailed(f"{MAX_ATTEMPTS} workers died, one after the other, on this batch"))
        with self._changed:
            self._urgent.extendleft(reversed(again))
            self._pending_checks += sum(chunk.stop - chunk.start for chunk in again)
            self._pending_bytes += sum(chunk.size_bytes for chunk in again)
            self._changed.notify(len(again))
        for failed in range(MAX_FAILED_STARTS):
            if self._stopped.wait(RESTART_PAUSE_S * failed):
                return
            try:
                worker = WorkerProcess()
            except OSError:
                continue
            with self._changed:
                # From here on `stop` finds and kills it; before, the lane ends it on its own way out.
                lane.worker = worker
                if self._state is not _State.RUNNING:
                    return
            if worker.is_ready():
                with self._changed:
                    self._replaced += 1
                return
            worker.reap()
        self._break(f"{MAX_FAILED_STARTS} workers in a row did not start")

    def _break(self, why: str) -> None:
        """Gives up: every waiting batch fails, and every later one is refused, with the reason."""
        with self._changed:
            self._broken = self._broken or why
            self._state = _State.STOPPED
            left = self._empty_queues()
        for chunk in left:
            chunk.batch._fail(WorkersFailed(why))

    def _empty_queues(self) -> list[_Chunk]:
        left = [*self._urgent, *self._bulk]
        self._urgent.clear()
        self._bulk.clear()
        self._pending_checks = self._pending_bytes = 0
        self._stopped.set()
        self._changed.notify_all()
        return left
