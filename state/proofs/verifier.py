"""What a proof checker promises: a verdict, a cost that no clock enters, and a reason from a closed set."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, Protocol

from trellis.constants import MAX_TX_BODY_BYTES
from trellis.types import U64_MAX

MAX_STATEMENT_BYTES: Final = MAX_TX_BODY_BYTES
"""A statement travels in one transaction body; a larger one is refused before a byte of it is looked at."""

MAX_PROOF_BYTES: Final = MAX_TX_BODY_BYTES
"""The same for a proof."""


class Verdict(IntEnum):
    """VALID pays, INVALID is an offence to have PREPAREd, LIMIT refuses the block but blames nobody."""

    VALID = 0
    INVALID = 1
    LIMIT = 2


class Code(IntEnum):
    """Why. The numbers travel from worker to host and into outcomes: append, never renumber."""

    OK = 0
    STATEMENT_TOO_LARGE = 1
    PROOF_TOO_LARGE = 2
    COST_EXCEEDED = 3
    STATEMENT_HEADER = 10
    STATEMENT_CLAUSE = 11
    STATEMENT_COUNT = 12
    STATEMENT_SCRIPT = 13
    PROOF_FORM = 20
    PROOF_LITERAL = 21
    CLAUSE_ORDER = 22
    CLAUSE_UNKNOWN = 23
    HINT_NOT_UNIT = 24
    NO_CONFLICT = 25
    RAT_CANDIDATE = 26
    NO_EMPTY_CLAUSE = 27
    TRAILING_BYTES = 28
    CLAUSE_NOT_SATISFIED = 30


LIMIT_CODES: Final = frozenset({Code.STATEMENT_TOO_LARGE, Code.PROOF_TOO_LARGE, Code.COST_EXCEEDED})


@dataclass(frozen=True, slots=True)
class Limits:
    """What one verification may use at most; all three are chain parameters."""

    cost: int
    proof_bytes: int = MAX_PROOF_BYTES
    statement_bytes: int = MAX_STATEMENT_BYTES

    def __post_init__(self) -> None:
        if min(self.cost, self.proof_bytes, self.statement_bytes) < 0:
            raise ValueError(f"limits cannot be negative: {self}")
        if max(self.cost, self.proof_bytes, self.statement_bytes) > U64_MAX:
            raise ValueError(f"limits are at most {U64_MAX}: {self}")


@dataclass(frozen=True, slots=True)
class VerificationResult:
    """The same bytes in every field on every validator."""

    verdict: Verdict
    cost: int
    code: Code


class StatementKind(Protocol):
    """Something that can be posted with a bounty."""

    @property
    def name(self) -> str: ...

    @property
    def version(self) -> int:
        """Raised when any verdict, cost or code may change; part of the chain's parameters."""

    def check_statement(self, statement: bytes) -> Code:
        """`Code.OK` if these bytes are a statement of this kind in canonical form, else why not."""

    def statement_cost(self, size_bytes: int) -> int:
        """What `check_statement` costs at most, in the same units as a verification: known before any work is done, so
        that a block full of statements cannot take more time than a block full of proofs."""


class ProofVerifier(StatementKind, Protocol):
    """A deterministic checker. Every failure is a result; no bytes make it raise."""

    def verify(self, statement: bytes, proof: bytes, limits: Limits) -> VerificationResult: ...


class Refused(Exception):
    """Ends a check from within; never leaves `state.proofs`."""

    def __init__(self, code: Code) -> None:
        super().__init__(code.name)
        self.code = code


class Meter:
    """Counts work. Whoever is about to work charges first, so that no work happens beyond the limit."""

    __slots__ = ("limit", "spent")

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.spent = 0

    def charge(self, work: int) -> None:
        self.spent += work
        if self.spent > self.limit:
            raise Refused(Code.COST_EXCEEDED)


class Check(Protocol):
    """The part of a verifier that differs: returns normally if and only if the proof holds."""

    def __call__(self, statement: bytes, proof: bytes, meter: Meter) -> None: ...


def run_check(check: Check, statement: bytes, proof: bytes, limits: Limits) -> VerificationResult:
    """Sizes, then one unit of cost a byte for reading, then the check itself."""
    meter = Meter(limits.cost)
    try:
        _check_sizes(statement, proof, limits)
        meter.charge(len(statement) + len(proof))
        check(statement, proof, meter)
    except Refused as refused:
        verdict = Verdict.LIMIT if refused.code in LIMIT_CODES else Verdict.INVALID
        return VerificationResult(verdict, meter.spent, refused.code)
    return VerificationResult(Verdict.VALID, meter.spent, Code.OK)


def _check_sizes(statement: bytes, proof: bytes, limits: Limits) -> None:
    if len(statement) > min(limits.statement_bytes, MAX_STATEMENT_BYTES):
        raise Refused(Code.STATEMENT_TOO_LARGE)
    if len(proof) > min(limits.proof_bytes, MAX_PROOF_BYTES):
        raise Refused(Code.PROOF_TOO_LARGE)
