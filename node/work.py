"""What an engine asks of its runtime, and what engines send each other: closed unions of frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.effects import Observe, TimerId, TimerKind, VotingMessage
from consensus.records import Record
from trellis.crypto.algorithms import SignatureCheck
from trellis.evidence import Evidence
from trellis.types import Address, Hash, Height


@dataclass(frozen=True, slots=True)
class Log:
    """Append to the write-ahead log; durable before any work after it."""

    record: Record


@dataclass(frozen=True, slots=True)
class Sign:
    """Guard durable, then sign, then send to all, then `signed`."""

    message: VotingMessage


@dataclass(frozen=True, slots=True)
class Post:
    """Send to one validator, or to all others. `kind` tells the frame's message id."""

    to: Address | None
    payload: Payload


@dataclass(frozen=True, slots=True)
class Arm:
    timer: TimerId | WaitId
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Disarm:
    kind: TimerKind


@dataclass(frozen=True, slots=True)
class Verify:
    """Perform the checks, off the event loop; answer with `verified(job, verdicts)`."""

    job: int
    checks: tuple[SignatureCheck, ...]
    urgent: bool


@dataclass(frozen=True, slots=True)
class Stop:
    """A broken invariant: say why, and end the process."""

    reason: str


@dataclass(frozen=True, slots=True)
class Seen:
    """For logs and metrics."""

    what: Observe | Committed | Refusal | Accused


@dataclass(frozen=True, slots=True)
class Committed:
    height: Height
    block_hash: Hash
    view: int
    transactions: int
    participants: int


@dataclass(frozen=True, slots=True)
class Accused:
    """A validator signed what it must not; the evidence proves it to anyone."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class Refusal:
    """A peer's message was refused."""

    peer: Address
    reason: str


@dataclass(frozen=True, slots=True)
class ConsensusPayload:
    data: bytes


@dataclass(frozen=True, slots=True)
class BodyRequest:
    block_hash: Hash


@dataclass(frozen=True, slots=True)
class BodyAnswer:
    block: bytes


@dataclass(frozen=True, slots=True)
class ChainRequest:
    above: Height


@dataclass(frozen=True, slots=True)
class ChainAnswer:
    blocks: tuple[tuple[bytes, bytes], ...]
    """Encoded blocks and their certificates, ascending."""


@dataclass(frozen=True, slots=True)
class WaitId:
    """The engine's own timers: fetching a body, catching up."""

    what: str
    subject: Hash | None
    serial: int


Payload = ConsensusPayload | BodyRequest | BodyAnswer | ChainRequest | ChainAnswer
Work = Log | Sign | Post | Arm | Disarm | Verify | Stop | Seen
"""Done strictly in the order in which the engine gave it: what a `Log` names is durable before anything after it."""
