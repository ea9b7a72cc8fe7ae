"""The process that checks proofs: reads a job, answers a result, until the parent is gone."""

from __future__ import annotations

from collections.abc import Sequence

from state.proofs.registry import VERIFIERS
from state.proofs.verifier import Limits, VerificationResult
from state.workers.confinement import Channel, confine
from trellis.encoding import Reader, Writer


def encode_result(result: VerificationResult) -> bytes:
    return Writer().u8(result.verdict).u16(result.code).u64(result.cost).done()


def _run(job: bytes) -> VerificationResult:
    reader = Reader(job)
    name = reader.text("verifier", 64)
    limits = Limits(reader.u64("cost"), reader.u64("proof_bytes"), reader.u64("statement_bytes"))
    statement = reader.lp("statement", len(job))
    proof = reader.lp("proof", len(job))
    return VERIFIERS[name].verify(statement, proof, limits)


def main(_arguments: Sequence[str]) -> None:
    channel = Channel()
    confine()
    channel.send(b"ready")
    while (job := channel.receive()) is not None:
        channel.send(encode_result(_run(job)))
