"""What the nodes' processes take of this machine, as its kernel counts it."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final

from trellis.constants import Context
from trellis.crypto.algorithms import AlgId, SignatureCheck
from trellis.crypto.schemes import scheme, verify_all

_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_VERIFY_BATCH: Final = 64
_VERIFY_ROUNDS: Final = 9


@dataclass(frozen=True, slots=True)
class Taken:
    """By one process so far, or between two readings."""

    cpu_s: float
    uss_bytes: int


@dataclass(frozen=True, slots=True)
class NodeUsage:
    """One node between two readings: its main process, and its workers apart."""

    name: str
    cpu_percent: float
    """Of one core."""
    uss_bytes: int
    workers_cpu_percent: float
    workers_uss_bytes: int


def read_process(pid: int) -> Taken | None:
    """None once it has ended, and on systems without /proc."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return None
    ticks = int(fields[11]) + int(fields[12])
    private = [line for line in rollup.splitlines() if line.startswith(("Private_Clean:", "Private_Dirty:"))]
    return Taken(ticks / _TICKS_PER_S, sum(int(line.split()[1]) for line in private) * 1_024)


def children(pid: int) -> list[int]:
    """All processes below one."""
    found: list[int] = []
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.extend(int(child) for child in (task / "children").read_text().split())
    except OSError:
        return found
    return found + [below for child in found for below in children(child)]


class UsageMeter:
    """From its making to `read`."""

    def __init__(self, pids: dict[str, int]) -> None:
        self._pids = pids
        self._began_s = time.monotonic()
        self._before = {pid: read_process(pid) for root in pids.values() for pid in (root, *children(root))}

    def read(self) -> list[NodeUsage]:
        """Nothing for processes that cannot be read."""
        spent_s = max(time.monotonic() - self._began_s, 1e-9)
        found = []
        for name, root in self._pids.items():
            main = read_process(root)
            if main is None:
                continue
            workers = [(pid, taken) for pid in children(root) if (taken := read_process(pid)) is not None]
            found.append(
                NodeUsage(
                    name,
                    100 * self._since(root, main) / spent_s,
                    main.uss_bytes,
                    100 * sum(self._since(pid, taken) for pid, taken in workers) / spent_s,
                    sum(taken.uss_bytes for _, taken in workers),
                )
            )
        return found

    def _since(self, pid: int, now: Taken) -> float:
        before = self._before.get(pid)
        return now.cpu_s - (before.cpu_s if before is not None else 0.0)


def measure_verify_us() -> float:
    """Of one ML-DSA-65 signature on this machine now, in batches, as nodes verify."""
    key = scheme(AlgId.ML_DSA_65).generate()
    checks = []
    for number in range(_VERIFY_BATCH):
        message = number.to_bytes(4, "big") * 128
        signature = key.sign(message, Context.TX.value)
        checks.append(SignatureCheck(AlgId.ML_DSA_65, key.public_key, message, signature, Context.TX.value))
    rounds = []
    for _ in range(_VERIFY_ROUNDS):
        began_s = time.perf_counter()
        if not all(verify_all(checks)):
            raise RuntimeError("broken invariant: a signature made here does not verify here")
        rounds.append((time.perf_counter() - began_s) / _VERIFY_BATCH)
    return 1e6 * median(rounds)
