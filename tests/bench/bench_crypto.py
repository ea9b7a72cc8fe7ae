"""What cryptography costs: sign, verify one, batches here and in worker processes, beside the raw primitive."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric import mldsa
from rich.console import Console
from rich.table import Table

from trellis.crypto.aead import Aead, Suite
from trellis.crypto.algorithms import AlgId, SignatureCheck
from trellis.crypto.kem import KemKey, encapsulate
from trellis.crypto.schemes import MlDsaPrivate, scheme, verify_all, verify_one
from trellis.crypto.verifier import Verifier

CONTEXT = b"trellis/tx/1"
MESSAGE_BYTES = 250
KEYS = 64
ROUNDS = 5


def best_s(work: Callable[[], object], repeat: int = ROUNDS) -> float:
    """The least of several runs: the one that other processes disturbed least."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def interleaved_s(works: list[Callable[[], object]]) -> list[float]:
    """Medians of runs in turn, so that a machine that slows down slows all of them."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(ROUNDS):
        for work, taken in zip(works, times, strict=True):
            taken.append(best_s(work, 1))
    return [sorted(taken)[len(taken) // 2] for taken in times]


def times(number: int, work: Callable[..., object], *arguments: object) -> Callable[[], None]:
    def run() -> None:
        for _ in range(number):
            work(*arguments)

    return run


def make_checks(number: int) -> list[SignatureCheck]:
    keys = [scheme(AlgId.ML_DSA_65).generate() for _ in range(KEYS)]
    checks = []
    for n in range(number):
        key, message = keys[n % KEYS], os.urandom(MESSAGE_BYTES)
        checks.append(SignatureCheck(1, key.public_key, message, key.sign(message, CONTEXT), CONTEXT))
    return checks


def rate(table: Table, what: str, number: int, taken_s: float, raw_each_s: float | None, note: str = "") -> None:
    each_us = taken_s / number * 1e6
    ratio = "" if raw_each_s is None else f"{raw_each_s * number / taken_s:.2f}"
    table.add_row(what, f"{each_us:,.1f}", f"{number / taken_s:,.1f}", ratio, note)


def raw_private(alg: AlgId, seed: bytes) -> MlDsaPrivate:
    if alg is AlgId.ML_DSA_65:
        return mldsa.MLDSA65PrivateKey.from_seed_bytes(seed)
    return mldsa.MLDSA87PrivateKey.from_seed_bytes(seed)


def signing(table: Table) -> None:
    for alg in (AlgId.ML_DSA_65, AlgId.ML_DSA_87):
        key = scheme(alg).generate()
        private, message = raw_private(alg, key.secret()), b"m" * MESSAGE_BYTES
        check = SignatureCheck(alg, key.public_key, message, key.sign(message, CONTEXT), CONTEXT)
        raw_sign_s, sign_s, raw_verify_s, verify_s = interleaved_s(
            [
                times(50, private.sign, message, CONTEXT),
                times(50, key.sign, message, CONTEXT),
                times(100, private.public_key().verify, check.signature, message, CONTEXT),
                times(100, verify_one, check),
            ]
        )
        rate(table, f"{alg.name} sign, raw", 50, raw_sign_s, raw_sign_s / 50)
        rate(table, f"{alg.name} sign", 50, sign_s, raw_sign_s / 50)
        rate(table, f"{alg.name} verify, raw", 100, raw_verify_s, raw_verify_s / 100)
        rate(table, f"{alg.name} verify one", 100, verify_s, raw_verify_s / 100)
    slh = scheme(AlgId.SLH_DSA_SHAKE_128S).generate()
    started = time.perf_counter()
    signature = slh.sign(b"m", CONTEXT)
    rate(table, "SLH_DSA_SHAKE_128S sign", 1, time.perf_counter() - started, None, "once; holds the GIL")
    check = SignatureCheck(3, slh.public_key, b"m", signature, CONTEXT)
    rate(table, "SLH_DSA_SHAKE_128S verify one", 20, best_s(times(20, verify_one, check)), None)


ALONE = """
import time
from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA65PrivateKey
private = MLDSA65PrivateKey.generate()
public, signature = private.public_key(), private.sign(b"m", b"c")
done, until = 0, time.perf_counter() + 0.5
while time.perf_counter() < until:
    public.verify(signature, b"m", b"c")
    done += 1
print(done)
"""


def cores() -> float:
    """What the machine gives two processes that share nothing, beside one: the most that two workers could gain."""

    def done_by(number: int) -> int:
        command = [sys.executable, "-c", ALONE]
        running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(number)]
        return sum(int(process.communicate()[0]) for process in running)

    return done_by(2) / done_by(1)


def batches(table: Table) -> str:
    """Returns a line on how much two workers do for each that one does."""
    checks = make_checks(1_024)
    public = [mldsa.MLDSA65PublicKey.from_public_bytes(check.public_key) for check in checks[:64]]

    def raw() -> None:
        for key, check in zip(public, checks, strict=False):
            key.verify(check.signature, check.message, CONTEXT)

    with Verifier(1) as one, Verifier(2) as two:
        for verifier in (one, two):
            verifier.verify_batch(checks)
        for number in (64, 1_024):
            batch = checks[:number]
            raw_s, here_s, one_s, two_s = interleaved_s(
                [
                    raw,
                    times(1, verify_all, batch),
                    times(1, one.verify_batch, batch),
                    times(1, two.verify_batch, batch),
                ]
            )
            rate(table, f"batch of {number:,} in this thread", number, here_s, raw_s / 64)
            rate(table, f"batch of {number:,}, 1 worker", number, one_s, raw_s / 64)
            rate(table, f"batch of {number:,}, 2 workers", number, two_s, raw_s / 64, f"{one_s / two_s:.2f} × 1 worker")
        busy(table, two, checks)
        return gain(one, two, checks)


def gain(one: Verifier, two: Verifier, checks: list[SignatureCheck]) -> str:
    """Other work on the machine decides what two workers can gain, so it is measured in the same breath."""
    gained, possible = [], []
    for _ in range(ROUNDS):
        one_s = best_s(lambda: one.verify_batch(checks), 1)
        gained.append(one_s / best_s(lambda: two.verify_batch(checks), 1))
        possible.append(cores())
    middle = ROUNDS // 2
    return (
        f"1,024 checks: 2 workers do {sorted(gained)[middle]:.2f} × the work of 1 (best round {max(gained):.2f}; "
        f"wanted on a quiet machine: 1.40). Two processes that share nothing did {sorted(possible)[middle]:.2f} × "
        "the work of one"
    )


def busy(table: Table, verifier: Verifier, checks: list[SignatureCheck]) -> None:
    """Four threads ask for batches of 64 while the main thread computes, as a node's does under load."""
    done: list[int] = []
    seconds = 2.0

    def ask() -> None:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            verifier.verify_batch(checks[:64])
            done.append(64)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        sum(range(1_000))
    note = f"switch interval {sys.getswitchinterval() * 1e3:g} ms"
    rate(table, "batches of 64, 2 workers, busy main thread", sum(done), seconds, None, note)


def transport(table: Table) -> None:
    key = KemKey.generate()
    answer = encapsulate(key.ek, key.x_public)
    rate(table, "hybrid KEM generate", 50, best_s(times(50, KemKey.generate)), None)
    rate(table, "hybrid KEM encapsulate", 50, best_s(times(50, encapsulate, key.ek, key.x_public)), None)
    decapsulation = times(50, key.decapsulate, answer.ciphertext, answer.x_public)
    rate(table, "hybrid KEM decapsulate", 50, best_s(decapsulation), None)
    block = bytes(65_536)
    for suite in Suite:
        sealed_s = best_s(times(50, Aead(suite, bytes(32)).seal, 0, block, b""))
        rate(table, f"{suite.name} seal 64 KiB", 50, sealed_s, None, f"{50 * len(block) / sealed_s / 1e6:,.0f} MB/s")


def main() -> None:
    table = Table(title="cryptography", title_justify="left", box=None)
    for column in ("what", "µs each", "a second", "raw = 1", ""):
        table.add_column(column, justify="left" if column in ("what", "") else "right")
    signing(table)
    conclusion = batches(table)
    transport(table)
    Console(width=110).print(table)
    print(conclusion)


if __name__ == "__main__":
    main()
