"""Proof checking: LRAT in process and over workers, models, the gate of solver scripts."""

from __future__ import annotations

import time
from collections.abc import Callable

from state.proofs import VERIFIERS, Limits, difficulty_milli
from state.proofs.smt_gate import gate
from state.workers.proof_pool import ProofJob, ProofPool
from tests.state.proofs.honest_prover import cnf_bytes, lrat_proof, pigeonhole, pigeonhole_by_extension

LIMITS = Limits(10**9)
ROUNDS = 7
TARGET_MB_A_SECOND = 5
PER_BLOCK_MS = 50
"""A quarter of the minimum base timeout: what checking a block's proofs may take."""


def _best_s(run: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(ROUNDS):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
    return best


def _row(name: str, size_bytes: int, cost: int, seconds: float) -> None:
    speed = size_bytes / seconds / 1e6
    print(
        f"{name:<36}{size_bytes / 1e3:>10.1f}{cost:>12,}{seconds * 1e3:>10.2f}{speed:>8.1f}{cost / seconds / 1e6:>9.1f}"
    )


def _wide_model(clauses: int) -> tuple[bytes, bytes]:
    lines = b"".join(b"%d %d %d 0\n" % (v, v + 1, v + 2) for v in range(1, clauses + 1))
    statement = b"p cnf %d %d\n%s" % (clauses + 2, clauses, lines)
    return statement, b"v %s 0\n" % b" ".join(b"%d" % v for v in range(1, clauses + 3))


def main() -> None:
    """One table; best of several runs."""
    print(f"{'proof':<36}{'kB':>10}{'cost':>12}{'ms':>10}{'MB/s':>8}{'Mcost/s':>9}")
    lrat = VERIFIERS["lrat.v1"]
    slowest = float("inf")
    jobs = []
    for holes, solver in ((5, "cadical195"), (6, "cadical195"), (7, "cadical195"), (7, "cadical103")):
        statement, proof = cnf_bytes(pigeonhole(holes)), lrat_proof(pigeonhole(holes), solver) or b""
        result = lrat.verify(statement, proof, LIMITS)
        seconds = _best_s(lambda s=statement, p=proof: lrat.verify(s, p, LIMITS))  # type: ignore[misc]  # bound now
        _row(f"lrat, pigeonhole-{holes}, {solver}", len(proof), result.cost, seconds)
        slowest = min(slowest, result.cost / seconds)
        if holes == 7:
            jobs += [ProofJob(lrat.name, statement, proof, LIMITS)] * 2
    statement, proof = cnf_bytes(pigeonhole(12)), pigeonhole_by_extension(12)
    result = lrat.verify(statement, proof, LIMITS)
    seconds = _best_s(lambda: lrat.verify(statement, proof, LIMITS))
    _row("lrat with RAT, pigeonhole-12", len(proof), result.cost, seconds)
    print(f"  its difficulty: {difficulty_milli(result.cost, len(proof))} thousandths")
    statement, proof = _wide_model(30_000)
    result = VERIFIERS["sat-model.v1"].verify(statement, proof, LIMITS)
    seconds = _best_s(lambda: VERIFIERS["sat-model.v1"].verify(statement, proof, LIMITS))
    _row("sat-model, 30,000 clauses", len(statement) + len(proof), result.cost, seconds)
    names = "".join(f"(declare-const x{i} Int)" for i in range(900))
    script = f"(set-logic QF_LIA){names}(assert (< (+ {' '.join(f'x{i}' for i in range(900))}) 1))(check-sat)".encode()
    _row("gate, 900 integers", len(script), 0, _best_s(lambda: gate(script)))

    size_bytes, cost = sum(len(job.proof) for job in jobs), sum(job.run().cost for job in jobs)
    _row("4 proofs in process", size_bytes, cost, _best_s(lambda: [job.run() for job in jobs]))
    with ProofPool(2) as pool:
        pool.verify_batch(jobs)
        _row("4 proofs over 2 workers", size_bytes, cost, _best_s(lambda: pool.verify_batch(jobs)))
    print(
        f"target for lrat: {TARGET_MB_A_SECOND} MB/s; cost that fits into {PER_BLOCK_MS} ms at the slowest rate above: "
        f"{int(slowest * PER_BLOCK_MS / 1000):,}"
    )


if __name__ == "__main__":
    main()
