"""`z3-attest.v1`: what the pinned solver says about a statement, off the voting path.

A validator signs and sends only SAT and UNSAT. Everything else is an abstention, which is never slashable: a fixed
resource count in a fresh context makes a verdict the same on every machine with the same solver build, but memory, the
processor and the clock differ from machine to machine, and so they may only ever take a verdict away.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from enum import Enum, StrEnum
from hashlib import sha3_256
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from state.chain import Network
from state.proofs.smt_gate import Z3_ATTEST, gate
from state.proofs.smt_terms import GateReason
from state.workers.process import Crew, Loss, PoolClosed, WorkerLost, WorkerProcess
from state.workers.z3_child import Greeting, Outcome
from trellis.encoding import DecodeError, Reader, Writer
from trellis.types import Hash

MAX_WAITING_CHECKS: Final = 256
"""A block full of statements must not queue scripts without end; who cannot wait abstains and asks again later."""

_BUILD_TAG: Final = b"trellis/solver-build/1"
_MODULE: Final = "state.workers.z3_child"


class Z3Verdict(Enum):
    SAT = "sat"
    UNSAT = "unsat"
    ABSTAIN = "abstain"


class AbstainReason(StrEnum):
    """Why there is no verdict."""

    GATE = "gate"
    UNKNOWN = "unknown"
    RESOURCE_LIMIT = "resource_limit"
    OUT_OF_MEMORY = "out_of_memory"
    SOLVER_ERROR = "solver_error"
    KILLED = "killed"
    TIMED_OUT = "timed_out"
    NOT_INSTALLED = "not_installed"
    WRONG_BUILD = "wrong_build"
    BUSY = "busy"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Z3Limits:
    """`rlimit` is a chain parameter and decides verdicts; the others only protect the machine, and are wide, so that a
    slow one attests too: 5 million took 4 s and 0.25 GB where this was measured."""

    rlimit: int = 5_000_000
    memory_bytes: int = 1 << 30
    cpu_seconds: int = 30
    wall_ms: int = 120_000


@dataclass(frozen=True, slots=True)
class Z3Answer:
    """`reason` if and only if it abstains; `gate` says more where the gate refused; `rlimit_spent` is the solver's own
    count."""

    verdict: Z3Verdict
    reason: AbstainReason | None = None
    gate: GateReason = GateReason.OK
    rlimit_spent: int = 0


class _Unusable(Exception):
    """Carries an abstention out of a job."""

    def __init__(self, reason: AbstainReason) -> None:
        super().__init__(reason)
        self.reason = reason


def _abstain(reason: AbstainReason, gate_reason: GateReason = GateReason.OK, spent: int = 0) -> Z3Answer:
    return Z3Answer(Z3Verdict.ABSTAIN, reason, gate_reason, spent)


_ABSTAINS: Final = {
    Outcome.UNKNOWN: AbstainReason.UNKNOWN,
    Outcome.RESOURCE_LIMIT: AbstainReason.RESOURCE_LIMIT,
    Outcome.OUT_OF_MEMORY: AbstainReason.OUT_OF_MEMORY,
    Outcome.SOLVER_ERROR: AbstainReason.SOLVER_ERROR,
}
_LOST: Final = {
    Loss.DIED: AbstainReason.KILLED,
    Loss.GARBLED: AbstainReason.KILLED,
    Loss.TIMED_OUT: AbstainReason.TIMED_OUT,
}


class Z3Pool:
    """`check` blocks; any thread may call it, and it never raises because of a statement. Close the pool when done."""

    def __init__(
        self,
        workers: int = 1,
        limits: Z3Limits | None = None,
        expected_build: Hash | None = None,
        scratch: Path | None = None,
    ) -> None:
        self._limits = limits or Z3Limits()
        self._expected_build = expected_build
        self._crew = Crew(_MODULE, (str(self._limits.memory_bytes),), workers, scratch)
        self._unusable: AbstainReason | None = None
        self._waiting = threading.BoundedSemaphore(workers + MAX_WAITING_CHECKS)

    def check(self, statement: bytes) -> Z3Answer:
        """Gate, then the solver in a worker."""
        admitted = gate(statement)
        if admitted.reason is not GateReason.OK:
            return _abstain(AbstainReason.GATE, admitted.reason)
        if not self._waiting.acquire(blocking=False):
            return _abstain(AbstainReason.BUSY)
        try:
            return self._ask(admitted.logic, admitted.script)
        finally:
            self._waiting.release()

    def _ask(self, logic: str, script: bytes) -> Z3Answer:
        """To a worker. One that died on its first job was killed by it; an older one may have been dying already, so
        the job gets a second try."""
        limits = self._limits
        job = Writer().u32(limits.cpu_seconds).u64(limits.rlimit).text(logic).lp(script).done()
        was_fresh = False

        def ask(worker: WorkerProcess, greeting: bytes | None) -> Z3Answer:
            nonlocal was_fresh
            was_fresh = worker.is_fresh
            if greeting is not None:
                self._unusable = self._why_unusable(greeting)
            # Known from then on: a wrong solver must not be asked because its greeting was read already.
            if self._unusable is not None:
                raise _Unusable(self._unusable)
            answer = _decode(worker.request(job, limits.wall_ms))
            if answer.reason is AbstainReason.OUT_OF_MEMORY:
                worker.retire()
            return answer

        for last_try in (False, True):
            try:
                return self._crew.run(ask)
            except PoolClosed:
                return _abstain(AbstainReason.CLOSED)
            except _Unusable as unusable:
                return _abstain(unusable.reason)
            except WorkerLost as lost:
                if last_try or was_fresh or lost.loss is Loss.TIMED_OUT:
                    return _abstain(_LOST[lost.loss])
        raise RuntimeError("the second try returns")

    def _why_unusable(self, greeting: bytes) -> AbstainReason | None:
        library = _library(greeting)
        if library is None:
            return AbstainReason.NOT_INSTALLED
        if self._expected_build is not None and _hash_file(library) != self._expected_build:
            return AbstainReason.WRONG_BUILD
        return None

    @property
    def pids(self) -> list[int]:
        """Of the workers that run now."""
        return self._crew.pids

    @property
    def directory(self) -> Path:
        """Where the workers run: empty, always."""
        return self._crew.directory

    def close(self) -> None:
        """Checks in progress abstain as CLOSED, and so do later ones; no process is left behind."""
        self._crew.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def z3_pool_of(network: Network, workers: int = 1, scratch: Path | None = None) -> Z3Pool | None:
    """A pool that asks as this network agreed: its resource count, and the very build that its genesis names. None
    where the network does not take such statements, or names no build: then verdicts could differ, so none is given."""
    build = network.verifiers.get(Z3_ATTEST.name)
    if not build:
        return None
    return Z3Pool(workers, Z3Limits(rlimit=network.parameters.z3_rlimit), Hash(build), scratch)


def z3_build_hash() -> Hash | None:
    """Of the solver library that a worker really loads: a genesis lists it with the verifier, so that all validators
    ask the same solver. None if there is no solver."""
    crew = Crew(_MODULE, (str(Z3Limits().memory_bytes),), 1)
    try:
        library = crew.run(lambda _worker, greeting: _library(greeting or b""))
    finally:
        crew.close()
    return None if library is None else _hash_file(library)


def _library(greeting: bytes) -> Path | None:
    try:
        reader = Reader(greeting)
        status, path = Greeting(reader.u8("status")), reader.text("library", 4096)
        reader.end("greeting")
    except (DecodeError, ValueError):
        raise WorkerLost(Loss.GARBLED) from None
    return Path(path) if status is Greeting.READY else None


def _hash_file(path: Path) -> Hash:
    digest = sha3_256(_BUILD_TAG)
    with path.open("rb") as library:
        while part := library.read(1 << 20):
            digest.update(part)
    return Hash(digest.digest())


def _decode(answer: bytes) -> Z3Answer:
    try:
        reader = Reader(answer)
        outcome, spent = Outcome(reader.u8("outcome")), reader.u64("rlimit spent")
        reader.end("answer")
    except (DecodeError, ValueError):
        raise WorkerLost(Loss.GARBLED) from None
    match outcome:
        case Outcome.SAT:
            return Z3Answer(Z3Verdict.SAT, rlimit_spent=spent)
        case Outcome.UNSAT:
            return Z3Answer(Z3Verdict.UNSAT, rlimit_spent=spent)
        case _:
            return _abstain(_ABSTAINS[outcome], spent=spent)
