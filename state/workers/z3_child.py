"""The process that holds the solver. It reads gated scripts only, one at a time, each in a context of its own.

It opens nothing once it is confined; its memory, processor time and file size are limited by the kernel, and its parent
watches the clock. Whatever goes wrong here is an abstention there.
"""

from __future__ import annotations

import builtins
import gc
import importlib
import importlib.util
from collections.abc import Sequence
from enum import IntEnum
from pathlib import Path
from types import ModuleType
from typing import Any

from state.workers.confinement import Channel, confine, limit_cpu, limit_memory
from trellis.encoding import Reader, Writer


class Greeting(IntEnum):
    READY = 0
    NOT_INSTALLED = 1


class Outcome(IntEnum):
    """What the solver said, or why it said nothing."""

    SAT = 0
    UNSAT = 1
    UNKNOWN = 2
    RESOURCE_LIMIT = 3
    OUT_OF_MEMORY = 4
    SOLVER_ERROR = 5


_WARM_UP = b"(set-logic QF_LIA ) (declare-fun f1 ( ) Int ) (assert ( < f1 0 ) )"


def main(arguments: Sequence[str]) -> None:
    memory_bytes = int(arguments[0])
    channel = Channel()
    z3, library = _load_solver()
    if z3 is None:
        channel.send(Writer().u8(Greeting.NOT_INSTALLED).text("").done())
        return
    # Loads whatever the solver loads late: after this nothing can be opened.
    _solve(z3, "QF_LIA", _WARM_UP, 1_000_000)
    limit_memory(memory_bytes)
    confine()
    channel.send(Writer().u8(Greeting.READY).text(library).done())
    while (job := channel.receive()) is not None:
        reader = Reader(job)
        limit_cpu(reader.u32("cpu_seconds"))
        rlimit = reader.u64("rlimit")
        outcome, spent = _solve(z3, reader.text("logic", 64), reader.lp("script", len(job)), rlimit)
        channel.send(Writer().u8(outcome).u64(spent).done())


def _load_solver() -> tuple[ModuleType | None, str]:
    """The binding, and the file of the library that it really loaded: only the one in its own wheel."""
    found = importlib.util.find_spec("z3")
    if found is None or not found.submodule_search_locations:
        return None, ""
    wheel = Path(found.submodule_search_locations[0]) / "lib"
    # The binding would first look in the working directory, then for an installed one of any version.
    vars(builtins)["Z3_LIB_DIRS"] = [str(wheel)]
    try:
        z3 = importlib.import_module("z3")
    except Exception:  # a broken installation fails in many ways, and all of them mean: not installed
        return None, ""
    maps = Path("/proc/self/maps")
    mapped = maps.read_text().splitlines() if maps.exists() else []
    loaded = [line[line.index("/") :] for line in mapped if "/libz3." in line]
    return z3, loaded[0] if loaded else str(min(wheel.glob("libz3.*")))


def _solve(z3: ModuleType, logic: str, script: bytes, rlimit: int) -> tuple[Outcome, int]:
    """A context of its own for each script: what an earlier one left behind would change the count, so the verdict."""
    try:
        context = z3.Context()
        solver = z3.SolverFor(logic, ctx=context)
        solver.set("rlimit", rlimit)
        solver.from_string(script.decode("ascii"))
        answer = str(solver.check())
        why = solver.reason_unknown() if answer == "unknown" else ""
        spent = _spent(solver)
    except z3.Z3Exception as error:
        return (Outcome.OUT_OF_MEMORY if "memory" in str(error) else Outcome.SOLVER_ERROR), 0
    except MemoryError:
        return Outcome.OUT_OF_MEMORY, 0
    finally:
        solver = context = None
        gc.collect()
    match answer:
        case "sat":
            return Outcome.SAT, spent
        case "unsat":
            return Outcome.UNSAT, spent
        case _ if "resource" in why or "canceled" in why:
            return Outcome.RESOURCE_LIMIT, spent
        case _ if "mem" in why:
            return Outcome.OUT_OF_MEMORY, spent
        case _:
            return Outcome.UNKNOWN, spent


def _spent(solver: Any) -> int:
    statistics = solver.statistics()
    return int(statistics.get_key_value("rlimit count")) if "rlimit count" in set(statistics.keys()) else 0
