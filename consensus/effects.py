"""What the core asks of its host. A closed set: `Effect`. Each docstring states the host's obligation.

Effects are carried out in the order of the tuple. Nothing leaves the node before what was to persist is durable.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TypeVar

from consensus.records import Record
from consensus.rules import Rule
from trellis.certificate import Certificate
from trellis.evidence import ConflictingVotes, LockLie
from trellis.messages import Ballot, Message, Proposal, ViewChange
from trellis.types import Address, Hash, Height, View
from trellis.votes import SignedVote

VotingMessage = Proposal | Ballot | ViewChange
"""The messages that carry an own vote. Unsigned while the signature is empty."""

SignedMessage = TypeVar("SignedMessage", bound=VotingMessage)


def signed_by(message: SignedMessage, signature: bytes) -> SignedMessage:
    """The message of a `Broadcast` with its signature: what is sent, and fed back as `MessageReceived`."""
    unsigned = message.signed
    return replace(message, signed=SignedVote(unsigned.vote, unsigned.signer, signature))


class TimerKind(StrEnum):
    VIEW = "view"
    RESEND = "resend"
    HEARTBEAT = "heartbeat"
    CATCH_UP = "catch_up"
    ANSWERS = "answers"


@dataclass(frozen=True, slots=True)
class TimerId:
    """At most one timer of a kind runs: arming replaces. The serial tells a late firing from the armed timer."""

    kind: TimerKind
    serial: int


@dataclass(frozen=True, slots=True)
class Persist:
    """Append to the write-ahead log; durable before the next Broadcast, SendAll, Send or Decide, of this step or later.

    So consecutive records may share one fdatasync. A failed append stops the node.

    Records with `record.is_archival` are also kept for the evidence window (accepted NEW-VIEWs whole, locks with their
    certificates): the host moves them to its archive before it truncates the log. The core forgets them.
    """

    record: Record


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Guard, then sign `message.signed.vote`, then send to all validators, and feed it back as `MessageReceived`.

    The signature is empty; `signed_by` fills it in. If the guard refuses, the message is dropped and the refusal told
    to the operator: an own vote counts only when it comes back.
    """

    message: VotingMessage


@dataclass(frozen=True, slots=True)
class SendAll:
    """Send this complete message to all validators but this one. Not fed back."""

    message: Message


@dataclass(frozen=True, slots=True)
class Send:
    """Send this complete message to one validator. Lost if its lane is closed."""

    to: Address
    message: Message


@dataclass(frozen=True, slots=True)
class AnswerDecided:
    """Send `DecidedNotice` with a stored certificate of a decided height to one validator."""

    to: Address
    height: Height


@dataclass(frozen=True, slots=True)
class ArmTimer:
    """Feed `TimerFired(timer)` after the delay. Replaces the timer of that kind."""

    timer: TimerId
    delay_ms: int


@dataclass(frozen=True, slots=True)
class DisarmTimer:
    """Forget the timer of that kind. A firing that is already on its way does no harm."""

    kind: TimerKind


@dataclass(frozen=True, slots=True)
class RequestBlock:
    """This replica leads (height, view): answer with `BlockProposed`.

    Without `block_hash`: make a fresh block with header.view = view, header.proposer = the own address, carrying
    exactly `parent_certificate`. Not urgent: may wait up to the block interval for more work, but never if it has
    any that is overdue. Urgent: at once, if need be empty. Asked again with urgent=True it is still one request.

    With `block_hash`: bring that block, from the own store or from the signers of `prepared`, and give it back
    unchanged.
    """

    height: Height
    view: View
    parent_certificate: Certificate | None
    urgent: bool
    block_hash: Hash | None = None
    prepared: Certificate | None = None


@dataclass(frozen=True, slots=True)
class CheckBlock:
    """Validate the block wholly, make its body durable, then answer with `BlockChecked`.

    The body comes from the store, the proposal, the leader, then from whoever PREPAREd it; a body that cannot be had
    is never answered, and asking again replaces the earlier request for that hash. A body that does not match the
    header is the fault of who sent it, not the block's: fetch it elsewhere, do not answer False. Validation includes
    the parent certificate: its signatures against V(height − 1), and its hash in the header. `fresh`: the timestamp
    must also be at most the local clock + drift; not so for a re-proposal, a restart or a certified block.
    """

    height: Height
    view: View
    block_hash: Hash
    proposal: Proposal | None
    """None after a restart: the block of that hash was durable here before."""
    fresh: bool


@dataclass(frozen=True, slots=True)
class Decide:
    """Commit and execute the block, store the certificate, then feed `HeightStarted` of the next height.

    If the host applied the same block by catching up meanwhile, there is nothing left to do.
    """

    height: Height
    view: View
    """Of the certificate."""
    block_hash: Hash
    certificate: Certificate


@dataclass(frozen=True, slots=True)
class RequestCatchUp:
    """Others decided heights up to this one. Sync (verifying certificates), then feed `CaughtUp`, successful or not."""

    height: Height
    certificate: Certificate | None
    """Of `height`, if that is how the core knows."""


@dataclass(frozen=True, slots=True)
class Accuse:
    """A signed proof of an offence: keep it and bring it to the ledger."""

    evidence: ConflictingVotes | LockLie


class HaltReason(StrEnum):
    FORK = "fork"
    CERTIFIED_BUT_INVALID = "certified_but_invalid"


@dataclass(frozen=True, slots=True)
class Halt:
    """A broken invariant: store the certificates as evidence and stop the node. Any further `step` raises."""

    reason: HaltReason
    certificates: tuple[Certificate, ...]


class Violation(StrEnum):
    """What lowers a validator's local reputation (`consensus.reputation`). Never more than gossip and sync suffer."""

    EQUIVOCATION = "equivocation"
    LOCK_LIE = "lock_lie"
    MALFORMED = "malformed"
    UNJUSTIFIED = "unjustified"
    INVALID_BLOCK = "invalid_block"
    TIMEOUT = "timeout"
    NON_PARTICIPATION = "non_participation"
    BAD_SIGNATURE = "bad_signature"
    """Reported by the host, against the connection's owner, never the claimed signer."""


@dataclass(frozen=True, slots=True)
class Observe:
    """The core's only logging: a rule fired. Nothing needs to be done; a `violation` is for the peer book."""

    rule: Rule
    height: Height
    view: View
    about: Address | None = None
    violation: Violation | None = None


Effect = (
    Persist
    | Broadcast
    | SendAll
    | Send
    | AnswerDecided
    | ArmTimer
    | DisarmTimer
    | RequestBlock
    | CheckBlock
    | Decide
    | RequestCatchUp
    | Accuse
    | Halt
    | Observe
)
