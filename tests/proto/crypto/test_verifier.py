"""Verification in worker processes: same verdicts as here, whatever dies, stops, hangs, fills up or is cancelled."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psutil  # type: ignore[import-untyped] # ships neither annotations nor stubs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.crypto.kit import mixed_checks, spoiled, valid_check
from trellis.crypto import verifier as module
from trellis.crypto import verify_worker as wire
from trellis.crypto.algorithms import AlgId, SignatureCheck
from trellis.crypto.schemes import verify_all
from trellis.crypto.verifier import (
    CHUNK_BYTES,
    CHUNK_CHECKS,
    Batch,
    BatchCancelled,
    QueueFull,
    Verifier,
    VerifierError,
    VerifierStopped,
    WorkersFailed,
)
from trellis.crypto.worker_process import WorkerProcess

PATIENCE_MS = 60_000
"""A test that waits this long has failed; nothing here takes a second."""


@pytest.fixture(scope="module")
def shared() -> Iterator[Verifier]:
    """For tests that harm no worker."""
    with Verifier(2) as verifier:
        yield verifier


@pytest.fixture
def own() -> Iterator[Verifier]:
    with Verifier(1) as verifier:
        yield verifier


def until(condition: Callable[[], bool]) -> None:
    """Waits for another process or thread, with a deadline."""
    deadline = time.monotonic() + PATIENCE_MS / 1_000
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        os.sched_yield()


def frozen(verifier: Verifier) -> int:
    """Stops the only worker in its tracks (it can still be killed) and returns its process id."""
    (pid,) = verifier.worker_pids
    os.kill(pid, signal.SIGSTOP)
    until(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    return pid


def in_flight(verifier: Verifier) -> int:
    return sum(len(lane.in_flight) for lane in verifier._lanes)


@pytest.mark.parametrize("number", [0, 1, 3, 4, 5, 63, 64, 65, 127, 129, 300])
def test_verdicts_are_those_of_the_calling_thread_in_order(shared: Verifier, number: int) -> None:
    checks, verdicts = mixed_checks(number)
    assert shared.verify_batch(checks) == verdicts == verify_all(checks)


def test_all_algorithms_and_a_strangers_nonsense_get_the_same_verdicts(shared: Verifier) -> None:
    good = [valid_check(1, alg) for alg in (AlgId.ML_DSA_65, AlgId.ML_DSA_87, AlgId.SLH_DSA_SHAKE_128S)]
    checks = [
        *good,
        *map(spoiled, good),
        *(good[0]._replace(alg_id=number) for number in (-1, 0, 2, 16, 257, 2**70)),
        SignatureCheck(1, b"", b"", b"", b""),
        good[0]._replace(context=bytes(70_000)),
        good[0]._replace(public_key=bytes(100_000)),
        good[0]._replace(signature=b""),
    ]
    assert shared.verify_batch(checks) == verify_all(checks) == [True] * 3 + [False] * 13


def test_messages_larger_than_the_pipe_pass_through_it(shared: Verifier) -> None:
    key_check = valid_check(1)
    checks = [key_check, *(key_check._replace(message=bytes(3 << 20)) for _ in range(4)), key_check]
    assert shared.verify_batch(checks) == [True, False, False, False, False, True]


def test_many_threads_share_the_workers_and_nobody_gets_anothers_verdicts(shared: Verifier) -> None:
    def one(number: int) -> bool:
        checks, verdicts = mixed_checks(20 + number)
        return shared.verify_batch(checks[number:]) == verdicts[number:]

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(one, range(24)))


def test_a_few_checks_are_done_in_the_calling_thread() -> None:
    with Verifier(1) as verifier:
        frozen(verifier)
        checks, verdicts = mixed_checks(module.INLINE_BELOW - 1)
        assert verifier.verify_batch(checks) == verdicts


def test_a_verifier_without_workers_does_everything_in_the_calling_thread() -> None:
    with Verifier(0) as verifier:
        checks, verdicts = mixed_checks(70)
        assert verifier.worker_pids == ()
        assert verifier.verify_batch(checks) == verdicts


def test_a_worker_killed_mid_batch_is_replaced_and_its_chunks_done_again(own: Verifier) -> None:
    checks, verdicts = mixed_checks(200)
    pid = frozen(own)
    batch = own.submit(checks)
    until(lambda: in_flight(own) > 0)
    os.kill(pid, signal.SIGKILL)
    assert batch.result(PATIENCE_MS) == verdicts
    assert own.replaced_workers == 1
    assert own.worker_pids != (pid,)
    assert not psutil.pid_exists(pid), "a zombie is left"


def test_an_idle_worker_that_was_killed_is_replaced_when_work_comes(own: Verifier) -> None:
    (pid,) = own.worker_pids
    os.kill(pid, signal.SIGKILL)
    checks, verdicts = mixed_checks(100)
    assert own.verify_batch(checks) == verdicts
    assert own.replaced_workers == 1


def test_kills_without_pause_cost_time_and_no_verdicts() -> None:
    checks, verdicts = mixed_checks(256)
    with Verifier(2) as verifier:
        batches = [verifier.submit(checks) for _ in range(4)]

        def replaced_since(seen: int) -> bool:
            return verifier.replaced_workers > seen or batches[-1].done

        for _ in range(6):
            seen = verifier.replaced_workers
            os.kill(verifier.worker_pids[0], signal.SIGKILL)
            until(partial(replaced_since, seen))
            if batches[-1].done:
                break
        for batch in batches:
            try:
                assert batch.result(PATIENCE_MS) == verdicts
            except WorkersFailed:
                # Three kills may have met one chunk: then there are no verdicts, rather than wrong ones.
                assert verifier.replaced_workers >= module.MAX_ATTEMPTS - 1
        assert verifier.verify_batch(checks) == verdicts


def test_a_batch_on_which_workers_keep_dying_fails_and_the_next_one_is_done(
    capfd: pytest.CaptureFixture[str], own: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, verdicts = mixed_checks(10)
    with monkeypatch.context() as patch:
        # A frame that no parent writes: decoding it kills the worker.
        patch.setattr(module._Chunk, "encode", lambda *_: (4).to_bytes(4, "big") + b"oops")
        batch = own.submit(checks)
        with pytest.raises(WorkersFailed, match="3 workers died"):
            batch.result(PATIENCE_MS)
    assert own.verify_batch(checks) == verdicts
    assert own.replaced_workers == module.MAX_ATTEMPTS
    assert "struct.error" in capfd.readouterr().err, "a failing worker gets to say why"


def test_a_worker_that_hangs_is_killed_and_replaced() -> None:
    checks, verdicts = mixed_checks(50)
    with Verifier(1, answer_within_ms=300) as verifier:
        pid = frozen(verifier)
        assert verifier.submit(checks).result(PATIENCE_MS) == verdicts
        assert verifier.worker_pids != (pid,)


def test_stopping_during_a_batch_fails_it_at_once() -> None:
    checks, _ = mixed_checks(300)
    verifier = Verifier(1).start()
    pid = frozen(verifier)
    batch = verifier.submit(checks)
    until(lambda: in_flight(verifier) > 0)
    verifier.stop()
    with pytest.raises(VerifierStopped, match="was stopped"):
        batch.result(PATIENCE_MS)
    assert not psutil.pid_exists(pid)


def test_after_a_stop_nothing_is_accepted_and_nothing_is_left() -> None:
    threads = threading.active_count()
    verifier = Verifier(2).start()
    pids = verifier.worker_pids
    verifier.stop()
    verifier.stop()
    for number in (1, 100):
        with pytest.raises(VerifierStopped):
            verifier.verify_batch(mixed_checks(number)[0])
    with pytest.raises(VerifierStopped, match="starts once"):
        verifier.start()
    assert not any(psutil.pid_exists(pid) for pid in pids)
    until(lambda: threading.active_count() == threads)


def test_before_the_start_nothing_is_accepted() -> None:
    for number in (1, 100):
        with pytest.raises(VerifierStopped, match="is new"):
            Verifier(1).verify_batch(mixed_checks(number)[0])


def test_a_cancelled_batch_is_dropped_and_the_next_one_is_done(own: Verifier) -> None:
    checks, verdicts = mixed_checks(500)
    pid = frozen(own)
    batch, later = own.submit(checks), own.submit(checks[:10])
    until(lambda: in_flight(own) == module.IN_FLIGHT_CHUNKS)
    batch.cancel()
    assert batch.done
    with pytest.raises(BatchCancelled):
        batch.result(PATIENCE_MS)
    os.kill(pid, signal.SIGCONT)
    assert later.result(PATIENCE_MS) == verdicts[:10]
    batch.cancel()
    later.cancel()
    assert later.result(0) == verdicts[:10], "a batch that was done stays done"
    assert own._lanes[0].next_number == module.IN_FLIGHT_CHUNKS + 1, "the rest of the first was still sent"
    assert own.replaced_workers == 0


def test_a_result_that_is_not_there_in_time_leaves_the_batch_running(own: Verifier) -> None:
    checks, verdicts = mixed_checks(10)
    pid = frozen(own)
    batch = own.submit(checks)
    with pytest.raises(TimeoutError, match="10 checks are not done after 1 ms"):
        batch.result(1)
    os.kill(pid, signal.SIGCONT)
    assert batch.result(PATIENCE_MS) == verdicts


def test_the_queue_is_bounded_in_checks_and_cancelling_makes_room() -> None:
    checks, verdicts = mixed_checks(200)
    with Verifier(1, max_pending_checks=300) as verifier:
        pid = frozen(verifier)
        first = verifier.submit(checks)
        # Two chunks leave the queue for the worker's pipe.
        until(lambda: verifier.pending_checks == 200 - module.IN_FLIGHT_CHUNKS * CHUNK_CHECKS)
        second = verifier.submit(checks)
        assert verifier.pending_checks == 272
        with pytest.raises(QueueFull, match="272 checks wait, 29 more"):
            verifier.submit(checks[:29])
        third = verifier.submit(checks[:28])
        second.cancel()
        fourth = verifier.submit(checks[:29])
        os.kill(pid, signal.SIGCONT)
        assert first.result(PATIENCE_MS) == verdicts
        assert third.result(PATIENCE_MS) == verdicts[:28]
        assert fourth.result(PATIENCE_MS) == verdicts[:29]
        until(lambda: verifier.pending_checks == 0)


def test_the_queue_is_bounded_in_bytes() -> None:
    big = [valid_check(1)._replace(message=bytes(CHUNK_BYTES)) for _ in range(8)]
    with Verifier(1, max_pending_bytes=4 * CHUNK_BYTES) as verifier:
        frozen(verifier)
        verifier.submit(big)
        with pytest.raises(QueueFull):
            verifier.submit(big)


def test_a_batch_larger_than_the_bound_is_accepted_by_an_empty_queue() -> None:
    checks, verdicts = mixed_checks(200)
    with Verifier(1, max_pending_checks=100) as verifier:
        assert verifier.verify_batch(checks) == verdicts


def test_urgent_checks_overtake_the_others(own: Verifier) -> None:
    done: list[str] = []
    checks, _ = mixed_checks(400)
    pid = frozen(own)
    bulk = own.submit(checks, on_done=lambda _: done.append("bulk"))
    until(lambda: in_flight(own) == module.IN_FLIGHT_CHUNKS)
    urgent = own.submit(checks[:20], urgent=True, on_done=lambda _: done.append("urgent"))
    os.kill(pid, signal.SIGCONT)
    bulk.result(PATIENCE_MS)
    urgent.result(PATIENCE_MS)
    until(lambda: len(done) == 2)
    assert done == ["urgent", "bulk"]


def test_on_done_is_called_once_for_success_cancellation_and_inline_work(own: Verifier) -> None:
    calls: list[Batch] = []
    checks, verdicts = mixed_checks(10)
    inline = own.submit(checks[:1], on_done=calls.append)
    assert calls == [inline]
    pid = frozen(own)
    cancelled = own.submit(checks, on_done=calls.append)
    cancelled.cancel()
    cancelled.cancel()
    os.kill(pid, signal.SIGCONT)
    done = own.submit(checks, on_done=calls.append)
    assert done.result(PATIENCE_MS) == verdicts
    until(lambda: len(calls) == 3)
    assert calls == [inline, cancelled, done]


def test_a_small_batch_is_shared_by_idle_workers_instead_of_queueing_at_one() -> None:
    checks, verdicts = mixed_checks(2 * module.MIN_CHUNK_CHECKS)
    with Verifier(2) as verifier:
        until(lambda: verifier._idle_lanes == 2)
        for pid in verifier.worker_pids:
            os.kill(pid, signal.SIGSTOP)
        batch = verifier.submit(checks)
        until(lambda: in_flight(verifier) == 2)
        assert [len(lane.in_flight) for lane in verifier._lanes] == [1, 1]
        for pid in verifier.worker_pids:
            os.kill(pid, signal.SIGCONT)
        assert batch.result(PATIENCE_MS) == verdicts


def test_a_module_in_the_working_directory_does_not_reach_the_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cryptography.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", ".")])
    with Verifier(1) as verifier:
        checks, verdicts = mixed_checks(10)
        assert verifier.verify_batch(checks) == verdicts


def test_workers_that_cannot_start_are_reported_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(WorkersFailed, match="cannot start a verification worker"):
        Verifier(1).start()
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(WorkersFailed, match="its own error output"):
        Verifier(2).start()


def test_when_replacements_do_not_start_waiting_batches_fail_with_the_reason(
    own: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    checks, _ = mixed_checks(300)
    pid = frozen(own)
    batch = own.submit(checks)
    monkeypatch.setattr(sys, "executable", "/bin/false")
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(WorkersFailed, match="workers in a row did not start"):
        batch.result(PATIENCE_MS)
    with pytest.raises(WorkersFailed, match="workers in a row did not start"):
        own.verify_batch(checks)


PARENT = """
import sys, time
from trellis.crypto.algorithms import SignatureCheck
from trellis.crypto.verifier import Verifier
verifier = Verifier(2).start()
print(*verifier.worker_pids, flush=True)
assert verifier.verify_batch([SignatureCheck(1, b"", b"", b"", b"")] * 10) == [False] * 10
print("done", flush=True)
if sys.argv[1] == "wait":
    time.sleep(600)
"""


def test_workers_end_when_their_parent_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", PARENT, "wait"], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert parent.stdout.readline() == "done\n"
        parent.kill()
    _, alive = psutil.wait_procs(workers, timeout=PATIENCE_MS / 1_000)
    assert alive == []


@pytest.mark.parametrize("how", ["-c", "-"], ids=["command", "standard input"])
def test_a_parent_without_an_importable_main_that_forgets_to_stop_ends_cleanly(how: str) -> None:
    arguments = [PARENT, "go"] if how == "-c" else ["go"]
    parent = subprocess.run(
        [sys.executable, "-W", "error", how, *arguments],
        input=None if how == "-c" else PARENT,
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE_MS / 1_000,
    )
    assert (parent.returncode, parent.stderr) == (0, "")
    pids, done = parent.stdout.splitlines()
    assert done == "done"
    until(lambda: not any(psutil.pid_exists(int(pid)) for pid in pids.split()))


def test_an_interrupt_of_the_whole_process_group_leaves_the_workers_to_the_parent(own: Verifier) -> None:
    (pid,) = own.worker_pids
    os.kill(pid, signal.SIGINT)
    checks, verdicts = mixed_checks(20)
    assert own.verify_batch(checks) == verdicts
    assert own.worker_pids == (pid,)
    assert own.replaced_workers == 0


def test_an_answer_to_another_question_stops_the_verifier_rather_than_mix_verdicts(
    own: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    noticed: list[str] = []
    monkeypatch.setattr(threading, "excepthook", lambda args: noticed.append(str(args.exc_value)))
    monkeypatch.setattr(WorkerProcess, "receive", lambda _: (99, b"\1" * 10))
    batch = own.submit(mixed_checks(10)[0])
    with pytest.raises(WorkersFailed, match="a lane failed"):
        batch.result(PATIENCE_MS)
    until(lambda: len(noticed) == 1)
    assert "mixed up" in noticed[0]


def test_every_verifier_fault_is_a_verifier_error_so_that_no_caller_takes_it_for_a_verdict() -> None:
    assert all(issubclass(k, VerifierError) for k in (QueueFull, VerifierStopped, BatchCancelled, WorkersFailed))


def test_a_negative_number_of_workers_is_host_misuse() -> None:
    with pytest.raises(ValueError, match="-1 workers"):
        Verifier(-1)


@given(
    st.lists(st.sampled_from([0, 1_000, CHUNK_BYTES // 3, CHUNK_BYTES + 1]), min_size=1, max_size=40),
    st.integers(1, CHUNK_CHECKS),
)
def test_chunks_cover_the_batch_in_order_within_both_bounds(sizes: list[int], chunk_checks: int) -> None:
    batch = Batch(tuple(SignatureCheck(1, b"", bytes(size), b"", b"") for size in sizes), None)
    chunks = module._cut(batch, chunk_checks)
    assert [n for chunk in chunks for n in range(chunk.start, chunk.stop)] == list(range(len(sizes)))
    for chunk in chunks:
        assert 1 <= chunk.stop - chunk.start <= chunk_checks
        assert chunk.size_bytes == sum(sizes[chunk.start : chunk.stop])
        assert chunk.size_bytes <= CHUNK_BYTES or chunk.stop - chunk.start == 1


any_checks = st.lists(
    st.builds(
        SignatureCheck,
        alg_id=st.sampled_from([1, 2, 3]),
        public_key=st.binary(max_size=9),
        message=st.binary(max_size=300),
        signature=st.binary(max_size=9),
        context=st.binary(max_size=9),
    ),
    max_size=20,
)


@given(any_checks, st.integers(0, 2**32 - 1))
def test_a_chunk_survives_its_frame(checks: list[SignatureCheck], number: int) -> None:
    frame = wire.encode_chunk(number, checks)
    assert int.from_bytes(frame[:4], "big") == len(frame) - 4
    assert wire.decode_chunk(frame[4:]) == (number, checks)


@given(st.lists(st.booleans(), max_size=64), st.integers(0, 2**32 - 1), st.binary(max_size=10), st.integers(0, 6))
def test_an_answer_survives_its_frame_and_waits_for_its_end(
    verdicts: list[bool], number: int, after: bytes, missing: int
) -> None:
    frame = wire.encode_answer(number, verdicts)
    assert wire.decode_answer(frame + after) == (number, bytes(verdicts), after)
    assert wire.decode_answer(frame[: len(frame) - 1 - missing]) is None
