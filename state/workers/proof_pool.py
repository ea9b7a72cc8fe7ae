"""Batches of deterministic proof checks over several processes.

A result never depends on where it was computed: a worker that dies or falls silent is replaced and its job done again,
and after `ATTEMPTS` workers were lost on one job the parent does it itself. So a batch always ends, with the results
that calls in process would have given.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from state.proofs.registry import VERIFIERS
from state.proofs.verifier import Code, Limits, Verdict, VerificationResult
from state.workers.process import Crew, Loss, PoolClosed, PoolSaturated, WorkerLost, WorkerProcess
from trellis.encoding import DecodeError, Reader, Writer

MAX_UNFINISHED_JOBS: Final = 4_096
MAX_UNFINISHED_BYTES: Final = 64 << 20
"""Both stop a flood of proof-bearing blocks from piling up in memory behind slow checks."""

ATTEMPTS: Final = 2

JOB_TIMEOUT_MS: Final = 30_000
"""No verdict depends on it: a worker that is this slow is replaced, and the job done again."""


@dataclass(frozen=True, slots=True)
class ProofJob:
    verifier: str
    statement: bytes
    proof: bytes
    limits: Limits

    def run(self) -> VerificationResult:
        """In this process."""
        return VERIFIERS[self.verifier].verify(self.statement, self.proof, self.limits)

    def encode(self) -> bytes:
        limits = self.limits
        head = Writer().text(self.verifier).u64(limits.cost).u64(limits.proof_bytes).u64(limits.statement_bytes)
        return head.lp(self.statement).lp(self.proof).done()

    @property
    def size_bytes(self) -> int:
        return len(self.statement) + len(self.proof)


def _decode_result(answer: bytes) -> VerificationResult:
    try:
        reader = Reader(answer)
        verdict, code, cost = reader.u8("verdict"), reader.u16("code"), reader.u64("cost")
        reader.end("result")
        return VerificationResult(Verdict(verdict), cost, Code(code))
    except (DecodeError, ValueError):
        raise WorkerLost(Loss.GARBLED) from None


class ProofPool:
    """`verify_batch` blocks; any thread may call it. Close the pool when done, or use it in a `with`."""

    def __init__(self, workers: int, scratch: Path | None = None, job_timeout_ms: int = JOB_TIMEOUT_MS) -> None:
        self._crew = Crew("state.workers.proof_child", (), workers, scratch)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="proof-pool")
        self._job_timeout_ms = job_timeout_ms
        self._lock = threading.Lock()
        self._unfinished_jobs = 0
        self._unfinished_bytes = 0
        self._closed = False

    def verify_batch(self, jobs: Sequence[ProofJob]) -> list[VerificationResult]:
        """Results in the jobs' order. Raises `PoolSaturated` or `PoolClosed`, never because of a job's bytes."""
        unknown = [job.verifier for job in jobs if job.verifier not in VERIFIERS]
        if unknown:
            raise ValueError(f"no such verifier: {unknown[0]}")
        size_bytes = sum(job.size_bytes for job in jobs)
        self._admit(len(jobs), size_bytes)
        try:
            with self._lock:
                if self._closed:
                    raise PoolClosed("the proof pool is closed")
                pending = [self._threads.submit(self._verify, job) for job in jobs]
            return [future.result() for future in pending]
        finally:
            with self._lock:
                self._unfinished_jobs -= len(jobs)
                self._unfinished_bytes -= size_bytes

    def _admit(self, jobs: int, size_bytes: int) -> None:
        with self._lock:
            # A batch larger than the bound still runs when it is alone: a block's caps are not this pool's business.
            full = self._unfinished_jobs + jobs > MAX_UNFINISHED_JOBS
            full |= self._unfinished_bytes + size_bytes > MAX_UNFINISHED_BYTES
            if full and self._unfinished_jobs:
                raise PoolSaturated(f"{self._unfinished_jobs} proofs are waiting")
            self._unfinished_jobs += jobs
            self._unfinished_bytes += size_bytes

    def _verify(self, job: ProofJob) -> VerificationResult:
        payload = job.encode()

        def ask(worker: WorkerProcess, _greeting: bytes | None) -> VerificationResult:
            return _decode_result(worker.request(payload, self._job_timeout_ms))

        for _ in range(ATTEMPTS):
            try:
                return self._crew.run(ask)
            except WorkerLost:
                continue
        return job.run()

    @property
    def pids(self) -> list[int]:
        """Of the workers that run now."""
        return self._crew.pids

    def close(self) -> None:
        """Ends batches in progress with `PoolClosed` and leaves no process behind."""
        with self._lock:
            self._closed = True
        self._crew.close()
        self._threads.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
