"""Batches in parallel: the results of calls in process, whatever happens to the workers."""

from __future__ import annotations

import os
import signal
import threading

import psutil
import pytest
import trio

from state.proofs import Code, Limits, Verdict
from state.workers import proof_pool
from state.workers.process import PoolClosed, PoolSaturated
from state.workers.proof_pool import ProofJob, ProofPool
from tests.state.proofs.honest_prover import cnf_bytes, lrat_proof, pigeonhole, pigeonhole_by_extension

LIMITS = Limits(10**8)
PATIENT_MS = 100_000


def jobs() -> list[ProofJob]:
    batch = []
    for holes in (2, 3, 4, 5):
        statement = cnf_bytes(pigeonhole(holes))
        proof = lrat_proof(pigeonhole(holes)) or b""
        batch += [
            ProofJob("lrat.v1", statement, proof, LIMITS),
            ProofJob("lrat.v1", statement, pigeonhole_by_extension(holes), LIMITS),
            ProofJob("lrat.v1", statement, proof[:-9], LIMITS),
            ProofJob("lrat.v1", statement, proof, Limits(1_000)),
            ProofJob("lrat.v1", statement, proof, Limits(10**8, proof_bytes=10)),
            ProofJob("lrat.v1", statement[:-2], proof, LIMITS),
            ProofJob("sat-model.v1", statement, b"v 1 2 0\n", LIMITS),
            ProofJob("sat-model.v1", b"p cnf 1 1\n1 0\n", b"v 1 0\n", LIMITS),
            ProofJob("lrat.v1", os.urandom(0), b"", LIMITS),
        ]
    return batch


BATCH = jobs()
EXPECTED = [job.run() for job in BATCH]


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_results_are_those_of_calls_in_process_and_in_order(workers: int) -> None:
    assert {result.verdict for result in EXPECTED} == set(Verdict)
    with ProofPool(workers) as pool:
        assert pool.verify_batch(BATCH) == EXPECTED
        assert pool.verify_batch(BATCH[::-1]) == EXPECTED[::-1]
        assert pool.verify_batch([]) == []
        assert 1 <= len(pool.pids) <= workers


def test_batches_of_several_threads_do_not_mix() -> None:
    results: dict[int, object] = {}
    with ProofPool(2) as pool:

        def run(number: int) -> None:
            results[number] = pool.verify_batch(BATCH[number:])

        threads = [threading.Thread(target=run, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
    assert results == {number: EXPECTED[number:] for number in range(8)}


def test_workers_killed_again_and_again_cost_no_result() -> None:
    with ProofPool(2, job_timeout_ms=PATIENT_MS) as pool:
        pool.verify_batch(BATCH)
        results: list[object] = []
        working = threading.Thread(target=lambda: results.extend(pool.verify_batch(BATCH * 5)))
        working.start()
        killed: set[int] = set()
        pause = threading.Event()
        while working.is_alive():
            for pid in set(pool.pids) - killed:
                if len(killed) < 12:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(pid)
            pause.wait(0.02)
        working.join()
        assert len(killed) >= 2
        assert results == EXPECTED * 5


def test_a_worker_that_falls_silent_is_replaced_and_its_job_done_again() -> None:
    with ProofPool(1, job_timeout_ms=1_000) as pool:
        pool.verify_batch(BATCH[:1])
        pids = pool.pids
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        assert pool.verify_batch(BATCH) == EXPECTED
        assert not any(psutil.pid_exists(pid) for pid in pids)


def test_a_worker_lost_once_does_not_bring_the_work_into_the_parent(monkeypatch: pytest.MonkeyPatch) -> None:
    with ProofPool(1, job_timeout_ms=PATIENT_MS) as pool:
        pool.verify_batch(BATCH[:1])
        os.kill(pool.pids[0], signal.SIGKILL)
        monkeypatch.delattr(ProofJob, "run")
        assert pool.verify_batch(BATCH[:3]) == EXPECTED[:3]


def test_when_no_worker_ever_answers_the_parent_does_the_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("state.workers.process._BOOT", "raise SystemExit(1)")
    with ProofPool(2) as pool:
        assert pool.verify_batch(BATCH) == EXPECTED
        assert pool.pids == []


@pytest.mark.parametrize(
    "answer",
    [b"", b"\x00", b"\x07\x00\x00" + bytes(8), b"\x00\x63\x63" + bytes(8), bytes(12), b"x" * 5_000],
    ids=["empty", "short", "no such verdict", "no such code", "long", "beyond the cap"],
)
def test_a_worker_that_answers_nonsense_is_not_believed(monkeypatch: pytest.MonkeyPatch, answer: bytes) -> None:
    boot = (
        "import os\n"
        f"for payload in (b'ready', *[{answer!r}] * 3):\n"
        "    os.write(1, len(payload).to_bytes(4, 'big') + payload)\n"
        "while os.read(0, 4096):\n    pass\n"
    )
    monkeypatch.setattr("state.workers.process._BOOT", boot)
    with ProofPool(1) as pool:
        assert pool.verify_batch(BATCH[:2]) == EXPECTED[:2]


def test_a_worker_that_promises_four_gigabytes_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    promise = len(b"ready").to_bytes(4, "big") + b"ready" + b"\xff" * 4
    boot = f"import os\nos.write(1, {promise!r})\nwhile os.read(0, 4096):\n    pass\n"
    monkeypatch.setattr("state.workers.process._BOOT", boot)
    with ProofPool(1, job_timeout_ms=600_000) as pool:
        assert pool.verify_batch(BATCH[:1]) == EXPECTED[:1]


def test_a_worker_inherits_nothing_of_the_nodes_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRELLIS_KEYSTORE_PASSPHRASE", "secret")
    with ProofPool(1) as pool:
        pool.verify_batch(BATCH[:1])
        inherited = set(psutil.Process(pool.pids[0]).environ())
    # The interpreter sets the locale for itself.
    assert inherited <= {"LD_LIBRARY_PATH", "LC_CTYPE"}


def test_closing_ends_batches_in_progress_and_leaves_no_process() -> None:
    pool = ProofPool(2)
    pool.verify_batch(BATCH)
    ended: list[object] = []

    def run() -> None:
        try:
            pool.verify_batch(BATCH * 200)
        except PoolClosed as closed:
            ended.append(closed)

    working = threading.Thread(target=run)
    working.start()
    pids = pool.pids
    pool.close()
    working.join(60)
    assert not working.is_alive()
    assert len(ended) == 1
    assert len(pids) == 2
    assert not any(psutil.pid_exists(pid) for pid in pids)
    with pytest.raises(PoolClosed):
        pool.verify_batch(BATCH)
    pool.close()


def test_the_queue_is_bounded_in_jobs_and_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("MAX_UNFINISHED_JOBS", 3), ("MAX_UNFINISHED_BYTES", 300)):
        with monkeypatch.context() as patch, ProofPool(1, job_timeout_ms=PATIENT_MS) as pool:
            pool.verify_batch(BATCH[:1])
            patch.setattr(proof_pool, name, value)
            (pid,) = pool.pids
            os.kill(pid, signal.SIGSTOP)
            working = threading.Thread(target=pool.verify_batch, args=(BATCH[:4],))
            working.start()
            pause = threading.Event()
            while not pool._unfinished_jobs:
                pause.wait(0.01)
            with pytest.raises(PoolSaturated):
                pool.verify_batch(BATCH[:1])
            os.kill(pid, signal.SIGCONT)
            working.join(120)
            assert pool.verify_batch(BATCH[:1]) == EXPECTED[:1]


def test_an_unknown_verifier_is_misuse() -> None:
    with ProofPool(1) as pool, pytest.raises(ValueError, match="no such verifier"):
        pool.verify_batch([ProofJob("z3-attest.v1", b"", b"", LIMITS)])


def test_a_trio_loop_keeps_turning_while_a_batch_runs() -> None:
    turns = 0

    async def main() -> list[object]:
        nonlocal turns
        done = trio.Event()
        results: list[object] = []

        async def verify() -> None:
            results.extend(await trio.to_thread.run_sync(pool.verify_batch, BATCH))
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(verify)
            while not done.is_set():
                turns += 1
                await trio.lowlevel.checkpoint()
        return results

    with ProofPool(2) as pool:
        pool.verify_batch(BATCH)
        assert trio.run(main) == EXPECTED
    assert turns > 10


def test_a_worker_cannot_open_anything_once_it_is_confined(tmp_path: object) -> None:
    """The largest job a block may hold still goes through a confined worker."""
    statement = cnf_bytes(pigeonhole(3))
    with ProofPool(1) as pool:
        (result,) = pool.verify_batch([ProofJob("lrat.v1", statement, b"9" * (1 << 20), LIMITS)])
        assert result.code is Code.PROOF_FORM
        limits = psutil.Process(pool.pids[0]).rlimit(psutil.RLIMIT_NOFILE)
        assert limits[0] == limits[1] <= 8
        assert psutil.Process(pool.pids[0]).rlimit(psutil.RLIMIT_FSIZE) == (0, 0)
