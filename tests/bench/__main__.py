"""Runs the benchmarks: all of them, or those named on the command line (`python -m tests.bench crypto p2p`)."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import time

import tests.bench


def main() -> int:
    prefix = "bench_"
    names = sorted(m.name for m in pkgutil.iter_modules(tests.bench.__path__) if m.name.startswith(prefix))
    wanted = sys.argv[1:]
    unknown = [name for name in wanted if prefix + name not in names]
    if unknown:
        known = ", ".join(name.removeprefix(prefix) for name in names)
        print(f"error: no benchmark is called {', '.join(unknown)}; there are: {known}", file=sys.stderr)
        return 2
    for name in [prefix + w for w in wanted] or names:
        started = time.perf_counter()
        importlib.import_module(f"tests.bench.{name}").main()
        print(f"[{name.removeprefix(prefix)}: {time.perf_counter() - started:.1f} s]\n", flush=True)
    print("bench: done; figures are of this machine, now: compare ratios, not absolutes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
