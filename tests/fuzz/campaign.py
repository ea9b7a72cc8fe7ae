"""Fuzzes every decoder for a bounded time and prints what was done and one verdict line.

    python -m tests.fuzz.campaign --seconds 600                  and a few seconds more for starting each target
    python -m tests.fuzz.campaign --seconds 60 --target receipt
    python -m tests.fuzz.campaign --target body --input FILE     one input again

Each target runs in a process of its own under atheris (coverage-guided), which starts from the golden vectors; where
atheris is not installed, under seeded mutations of them. An input that breaks a promise is written to `build/fuzz/` and
printed as the command that runs it again.
"""

from __future__ import annotations

import argparse
import importlib.util
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Final

from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, Target

FOUND_IN: Final = Path(__file__).resolve().parents[2] / "build" / "fuzz"
MAX_INPUT_BYTES: Final = 1 << 16
START_SECONDS: Final = 3.0
"""What importing and instrumenting costs a target before its first input."""


@dataclass(frozen=True)
class Outcome:
    target: str
    runs: int
    seconds: float
    found: Path | None
    detail: str


def fuzz_by_mutation(target: Target, seconds: float, seed: int = 0, most_runs: int | None = None) -> tuple[int, int]:
    """Runs seeded mutations of the golden vectors; answers how many ran and how many were accepted."""
    draw, seeds = random.Random(seed), target.seeds()
    until, runs, accepted = time.monotonic() + seconds, 0, 0
    while time.monotonic() < until and (most_runs is None or runs < most_runs):
        data = mutate(draw.choice(seeds), draw)
        try:
            accepted += target.run(data)
        except Exception as fault:  # whatever escapes a decoder is what the campaign is for
            raise Escaped(data) from fault
        runs += 1
    return runs, accepted


class Escaped(Exception):
    """Something left a decoder that should not have; the input comes with it."""

    def __init__(self, data: bytes) -> None:
        super().__init__(f"{len(data)} bytes")
        self.data = data


def run_under_atheris(target: Target, seconds: int, corpus: Path, artifacts: Path) -> None:
    """Never returns: libFuzzer ends the process."""
    import atheris  # type: ignore[import-untyped]  # it ships no annotations

    def one(data: bytes) -> None:
        target.run(data)

    # Only what is reached from the target is instrumented, by its name: the codec and the object's own modules.
    for name, module in sorted(sys.modules.items()):
        if name.startswith("trellis.") and not name.startswith(("trellis.v1", "trellis.crypto.schemes")):
            for function in _functions_of(module):
                atheris.instrument_func(function)
    arguments = [
        "fuzz",
        f"-max_total_time={max(1, seconds)}",
        f"-max_len={MAX_INPUT_BYTES}",
        f"-artifact_prefix={artifacts}/",
        "-rss_limit_mb=2048",
        "-timeout=20",
        "-print_final_stats=1",
        str(corpus),
    ]
    atheris.Setup(arguments, one)
    atheris.Fuzz()


def _functions_of(module: ModuleType) -> list[FunctionType]:
    """Functions and methods that the module defines itself."""
    owners = [vars(module), *(vars(item) for item in vars(module).values() if isinstance(item, type))]
    found = (item for owner in owners for item in owner.values())
    return [item for item in found if isinstance(item, FunctionType) and item.__module__ == module.__name__]


def run_target(name: str, seconds: float) -> Outcome:
    """One target in a process of its own, so that a hang, a crash or a leak is its own."""
    started = time.monotonic()
    artifacts = FOUND_IN / name
    artifacts.mkdir(parents=True, exist_ok=True)
    before = set(artifacts.iterdir())
    with tempfile.TemporaryDirectory() as corpus:
        for place, data in enumerate(TARGETS[name].seeds()):
            (Path(corpus) / f"golden-{place}").write_bytes(data)
        command = [sys.executable, "-m", "tests.fuzz.campaign", "--child", name, "--seconds", str(int(seconds))]
        command += ["--corpus", corpus, "--artifacts", str(artifacts)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 120, check=False)
            code, output = done.returncode, done.stdout + done.stderr
        except subprocess.TimeoutExpired:
            code, output = 1, "the target hung and was killed"
    stats = re.search(r"number_of_executed_units:\s*(\d+)", output) or re.search(r"executed (\d+) inputs", output)
    new = sorted(set(artifacts.iterdir()) - before)
    lines = [line for line in output.splitlines() if line.strip()]
    detail = "" if code == 0 else next((x for x in lines if "Found:" in x or "Error" in x), lines[-1] if lines else "?")
    return Outcome(name, int(stats[1]) if stats else 0, time.monotonic() - started, new[0] if new else None, detail)


def _child(name: str, seconds: int, corpus: Path, artifacts: Path) -> int:
    target = TARGETS[name]
    if importlib.util.find_spec("atheris") is not None:
        run_under_atheris(target, seconds, corpus, artifacts)
    try:
        runs, _ = fuzz_by_mutation(target, seconds, seed=int(time.time()))
    except Escaped as escaped:
        (artifacts / "crash-mutation").write_bytes(escaped.data)
        print(f"Found: {escaped.__cause__!r}")
        return 1
    print(f"executed {runs} inputs")
    return 0


def _replay(name: str, path: Path) -> int:
    accepted = TARGETS[name].run(path.read_bytes())
    print(f"{name}: {'accepted' if accepted else 'refused'}, and the decoder kept its promises")
    return 0


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description="Fuzz the protocol's decoders.")
    parser.add_argument("--seconds", type=int, default=600, help="for all targets together")
    parser.add_argument("--target", choices=sorted(TARGETS), help="only this one")
    parser.add_argument("--input", type=Path, help="run one input of --target again")
    parser.add_argument("--child", choices=sorted(TARGETS), help=argparse.SUPPRESS)
    parser.add_argument("--corpus", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--artifacts", type=Path, help=argparse.SUPPRESS)
    chosen = parser.parse_args(arguments)
    if chosen.child:
        return _child(chosen.child, chosen.seconds, chosen.corpus, chosen.artifacts)
    if chosen.input:
        if not chosen.target:
            parser.error("--input needs --target")
        return _replay(chosen.target, chosen.input)
    names = [chosen.target] if chosen.target else list(TARGETS)
    each = max(1.0, chosen.seconds / len(names) - START_SECONDS)
    engine = "atheris" if importlib.util.find_spec("atheris") else "seeded mutations (atheris is not installed)"
    print(f"fuzz: {len(names)} targets, {each:.0f} s each, {engine}", flush=True)
    outcomes = []
    for name in names:
        outcome = run_target(name, each)
        outcomes.append(outcome)
        failed = f"  FAILED: {outcome.detail}" if outcome.detail else ""
        print(f"  {name:<18} {outcome.runs:>9,} inputs {outcome.seconds:6.1f} s{failed}", flush=True)
        if outcome.found:
            print(f"      again: python -m tests.fuzz.campaign --target {name} --input {outcome.found}")
    failed_count = sum(1 for outcome in outcomes if outcome.detail or outcome.runs == 0)
    total = sum(outcome.runs for outcome in outcomes)
    verdict = "all decoders kept their promises" if not failed_count else f"{failed_count} targets FAILED"
    print(f"fuzz: {total:,} inputs through {len(outcomes)} targets: {verdict}")
    return 1 if failed_count else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
