"""The solver in its cage. Limits are resource counts and processor time: a busy machine changes no outcome here."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from state.chain import Network
from state.proofs.smt_gate import gate
from state.proofs.smt_terms import GateReason
from state.workers import process
from state.workers.process import Crew, WorkerLost
from state.workers.z3_pool import AbstainReason, Z3Answer, Z3Limits, Z3Pool, Z3Verdict, z3_build_hash, z3_pool_of
from tests.state.proofs.smt_scripts import HONEST, SAT_CORE, UNSAT_CORE, hostile_scripts
from trellis.crypto.policy import DEFAULT_POLICY
from trellis.encoding import Writer
from trellis.genesis import EngineKind
from trellis.parameters import Parameters
from trellis.types import Hash

PATIENT = Z3Limits(rlimit=2_000_000, wall_ms=100_000)


def factoring(width: int) -> bytes:
    """Two factors of a prime: out of reach, for a solver, from 48 bits on."""
    half = 2 ** (width // 2)
    return (
        f"(set-logic QF_BV)(declare-const a (_ BitVec {width}))(declare-const b (_ BitVec {width}))"
        f"(assert (= (bvmul a b) (_ bv{2 ** (width - 3) - 1} {width})))(assert (bvult a (_ bv{half} {width})))"
        f"(assert (bvult b (_ bv{half} {width})))(assert (bvugt a (_ bv1 {width})))"
        f"(assert (bvugt b (_ bv1 {width})))(check-sat)"
    ).encode()


HARD = factoring(64)


@pytest.fixture(scope="module")
def pool() -> Iterator[Z3Pool]:
    with Z3Pool(limits=PATIENT) as opened:
        yield opened


def test_honest_scripts_get_their_answers(pool: Z3Pool) -> None:
    for name, script, answer in HONEST:
        assert pool.check(script).verdict.value == answer, name


def test_a_refused_script_is_an_abstention_that_says_why(pool: Z3Pool) -> None:
    refused = pool.check(SAT_CORE + b"(exit)")
    assert (refused.verdict, refused.reason) == (Z3Verdict.ABSTAIN, AbstainReason.GATE)
    assert refused.gate is GateReason.COMMAND_ORDER


def test_a_problem_beyond_the_resource_limit_is_an_abstention(pool: Z3Pool) -> None:
    answer = pool.check(HARD)
    assert (answer.verdict, answer.reason) == (Z3Verdict.ABSTAIN, AbstainReason.RESOURCE_LIMIT)


def test_verdict_and_resource_count_do_not_depend_on_worker_or_order(pool: Z3Pool) -> None:
    scripts = [script for _, script, _ in HONEST] + [factoring(20), factoring(24)]
    there = [pool.check(script) for script in scripts]
    with Z3Pool(limits=PATIENT) as other:
        back = [other.check(script) for script in reversed(scripts)]
    assert back[::-1] == there
    assert any(answer.rlimit_spent > 1_000 for answer in there)


def test_two_hundred_hostile_scripts_harm_nothing_and_get_nothing_false(
    pool: Z3Pool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    admitted = 0
    for hostile in hostile_scripts():
        answer = pool.check(hostile.script)
        admitted += answer.reason is not AbstainReason.GATE
        assert answer.reason is not AbstainReason.SOLVER_ERROR, hostile.name
        if hostile.truth is not None and answer.verdict is not Z3Verdict.ABSTAIN:
            assert answer.verdict.value == hostile.truth, hostile.name
    assert admitted > 15
    assert os.listdir(pool.directory) == []
    assert os.listdir(tmp_path) == []
    assert pool.check(UNSAT_CORE).verdict is Z3Verdict.UNSAT


def ask_past_the_gate(crew: Crew, script: bytes, memory_hungry: bool = False) -> bytes:
    """What a worker does with bytes that no gate has seen."""
    job = Writer().u32(5).u64(2**32 - 1 if memory_hungry else 100_000).text("QF_LIA").lp(script).done()
    return crew.run(lambda worker, _greeting: worker.request(job, 100_000))


@pytest.mark.parametrize("channel", ["regular", "diagnostic"])
def test_even_past_the_gate_a_script_creates_no_file(tmp_path: Path, channel: str) -> None:
    crew = Crew("state.workers.z3_child", (str(1 << 30),), 1, tmp_path)
    crew.directory.chmod(0o700)  # only what the worker did to itself may stop it
    outside = tmp_path / "outside"
    try:
        for target in ("inside", str(outside)):
            script = f'(set-option :{channel}-output-channel "{target}")(echo "x")(assert true)(check-sat)'
            try:
                ask_past_the_gate(crew, script.encode())
            except WorkerLost:
                continue
        assert os.listdir(crew.directory) == []
        assert not outside.exists()
    finally:
        crew.close()


def test_the_output_channel_would_create_a_file_in_an_unconfined_solver(tmp_path: Path) -> None:
    """Else the test above shows nothing."""
    target = tmp_path / "pwned"
    script = f'(set-option :regular-output-channel "{target}")(echo "x")(assert true)(check-sat)'
    code = f"import z3; s = z3.SolverFor('QF_LIA'); s.from_string({script!r})"
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True)
    assert target.exists()


def test_a_solver_that_outgrows_its_memory_is_an_abstention_and_the_next_check_works() -> None:
    names = "".join(f"(declare-const x{i} (_ BitVec 64))" for i in range(13))
    products = "".join(f"(assert (bvugt (bvmul x{i} x{i + 1}) (bvudiv x{i + 1} x{i})))" for i in range(12))
    hungry = f"(set-logic QF_BV){names}{products}(check-sat)".encode()
    assert gate(hungry).reason is GateReason.OK
    with Z3Pool(limits=Z3Limits(memory_bytes=48 << 20, cpu_seconds=60, wall_ms=100_000)) as small:
        answer = small.check(hungry)
        assert answer.verdict is Z3Verdict.ABSTAIN
        assert answer.reason in (AbstainReason.OUT_OF_MEMORY, AbstainReason.KILLED)
        assert small.check(SAT_CORE).verdict is Z3Verdict.SAT


def test_a_solver_that_outruns_its_processor_time_is_killed_and_replaced() -> None:
    with Z3Pool(limits=Z3Limits(rlimit=2**32 - 1, cpu_seconds=1, wall_ms=100_000)) as short:
        assert short.check(SAT_CORE).verdict is Z3Verdict.SAT
        (first,) = short.pids
        assert short.check(HARD).reason is AbstainReason.KILLED
        assert short.check(SAT_CORE).verdict is Z3Verdict.SAT
        assert short.pids != [first]
        assert not psutil.pid_exists(first)


def test_a_worker_killed_while_idle_costs_no_verdict(pool: Z3Pool) -> None:
    assert pool.check(SAT_CORE).verdict is Z3Verdict.SAT
    (pid,) = pool.pids
    os.kill(pid, signal.SIGKILL)
    assert pool.check(UNSAT_CORE).verdict is Z3Verdict.UNSAT
    assert pool.pids != [pid]


def test_a_worker_that_falls_silent_is_killed_by_the_clock() -> None:
    with Z3Pool(limits=Z3Limits(wall_ms=300)) as silent:
        while not silent.pids:
            silent.check(SAT_CORE)
        (pid,) = silent.pids
        os.kill(pid, signal.SIGSTOP)
        assert silent.check(SAT_CORE) == Z3Answer(Z3Verdict.ABSTAIN, AbstainReason.TIMED_OUT)
        assert not psutil.pid_exists(pid)


def test_closing_ends_a_check_in_progress_and_leaves_nothing() -> None:
    pool = Z3Pool(limits=Z3Limits(rlimit=2**32 - 1, cpu_seconds=100, wall_ms=600_000))
    answers: list[Z3Answer] = []
    checking = threading.Thread(target=lambda: answers.append(pool.check(HARD)))
    checking.start()
    wait = threading.Event()
    while not pool.pids:
        wait.wait(0.01)
    pids = pool.pids
    pool.close()
    checking.join(60)
    assert answers == [Z3Answer(Z3Verdict.ABSTAIN, AbstainReason.CLOSED)]
    assert not any(psutil.pid_exists(pid) for pid in pids)
    assert not pool.directory.exists()
    assert pool.check(SAT_CORE).reason is AbstainReason.CLOSED
    pool.close()


def test_the_build_hash_is_of_the_library_that_is_loaded_and_another_build_is_not_asked() -> None:
    build = z3_build_hash()
    assert build is not None
    assert build == z3_build_hash()
    with Z3Pool(limits=PATIENT, expected_build=build) as right:
        assert right.check(SAT_CORE).verdict is Z3Verdict.SAT
    with Z3Pool(limits=PATIENT, expected_build=Hash(bytes(32))) as wrong:
        for _ in range(2):
            assert wrong.check(SAT_CORE) == Z3Answer(Z3Verdict.ABSTAIN, AbstainReason.WRONG_BUILD)


def test_a_solver_in_the_working_directory_is_not_the_one_that_is_loaded() -> None:
    """The binding would look there first."""
    found = importlib.util.find_spec("z3")
    assert found is not None
    assert found.origin is not None
    with Z3Pool(limits=PATIENT, expected_build=z3_build_hash()) as pool:
        pool.directory.chmod(0o700)
        decoys = []
        for library in Path(found.origin).with_name("lib").glob("libz3.*"):
            decoys.append(pool.directory / library.name)
            decoys[-1].write_bytes(library.read_bytes() + b"another build")
        answer = pool.check(SAT_CORE)
        for decoy in decoys:
            decoy.unlink()
    assert decoys
    assert answer.verdict is Z3Verdict.SAT


@pytest.mark.parametrize("module", ["raise ImportError('no solver')", "import os; os.missing", None])
def test_without_a_working_solver_every_check_is_an_abstention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str | None
) -> None:
    shadow = tmp_path / "shadow"
    shadow.mkdir()
    if module is None:
        (shadow / "z3.py").write_text("")
    else:
        (shadow / "z3").mkdir()
        (shadow / "z3" / "__init__.py").write_text(module)
    real = process._roots()
    monkeypatch.setattr(process, "_roots", lambda: [str(shadow), *real])
    with Z3Pool(limits=PATIENT) as without:
        for _ in range(3):
            assert without.check(SAT_CORE) == Z3Answer(Z3Verdict.ABSTAIN, AbstainReason.NOT_INSTALLED)
    assert z3_build_hash() is None


def test_a_solver_library_of_another_place_is_never_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("libz3.so", "libz3.so.5.4"):
        (tmp_path / name).write_bytes(b"not a library")
    monkeypatch.setenv("Z3_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "z3.py").write_text("raise SystemExit(1)")
    with Z3Pool(limits=PATIENT) as pool:
        assert pool.check(SAT_CORE).verdict is Z3Verdict.SAT


def test_who_cannot_wait_abstains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("state.workers.z3_pool.MAX_WAITING_CHECKS", 0)
    with Z3Pool(limits=Z3Limits(rlimit=2**32 - 1, cpu_seconds=100, wall_ms=600_000)) as pool:
        checking = threading.Thread(target=pool.check, args=(HARD,))
        checking.start()
        wait = threading.Event()
        while not pool.pids:
            wait.wait(0.01)
        assert pool.check(SAT_CORE).reason is AbstainReason.BUSY
        pool.close()
        checking.join(60)
        assert not checking.is_alive()


def network_with(verifiers: dict[str, bytes], rlimit: int = 5_000_000) -> Network:
    parameters = Parameters(z3_rlimit=rlimit)
    return Network(EngineKind.PBFT, parameters, DEFAULT_POLICY, verifiers, parameters.hash_with(verifiers))


def test_the_networks_build_and_resource_count_decide_what_a_validator_attests() -> None:
    build = z3_build_hash()
    assert build is not None
    for named, rlimit, reason in (
        (build, 5_000_000, None),
        (build, 1, AbstainReason.RESOURCE_LIMIT),
        (bytes(32), 5_000_000, AbstainReason.WRONG_BUILD),
    ):
        pool = z3_pool_of(network_with({"z3-attest.v1": named}, rlimit))
        assert pool is not None
        with pool:
            assert pool.check(HARD if rlimit == 1 else SAT_CORE).reason is reason


def test_a_network_that_names_no_build_has_no_solver_to_ask() -> None:
    """Verdicts of different builds differ, and would be held against whoever gave them."""
    assert z3_pool_of(network_with({"z3-attest.v1": b""})) is None
    assert z3_pool_of(network_with({"lrat.v1": b""})) is None
