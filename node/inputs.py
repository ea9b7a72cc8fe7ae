"""What a runtime tells an engine: a closed union of frozen values. With their times, they are all of a node's run."""

from __future__ import annotations

from dataclasses import dataclass

from consensus.effects import TimerId, VotingMessage
from node.work import Payload, WaitId
from state.proofs import VerificationResult
from trellis.block import Block
from trellis.certificate import Certificate
from trellis.records import AttestedVerdict
from trellis.transaction import Transaction
from trellis.types import Address, Hash, Height, PeerId


@dataclass(frozen=True, slots=True)
class Started:
    """The first input. `parent`: the last committed block and the best certificate of it, where there is one."""

    parent: tuple[Block, Certificate] | None


@dataclass(frozen=True, slots=True)
class Signed:
    """The answer to `Sign`."""

    message: VotingMessage
    signature: bytes


@dataclass(frozen=True, slots=True)
class Heard:
    """From a validator's lane."""

    sender: Address
    payload: Payload


@dataclass(frozen=True, slots=True)
class Verified:
    """The answer to `Verify`."""

    job: int
    verdicts: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class ProofsChecked:
    """The answer to `CheckProofs`."""

    job: int
    results: tuple[VerificationResult, ...]


@dataclass(frozen=True, slots=True)
class TimerFired:
    timer: TimerId | WaitId


@dataclass(frozen=True, slots=True)
class LaneChanged:
    validator: Address
    is_open: bool


@dataclass(frozen=True, slots=True)
class RoundTrip:
    """The smallest round-trip time within which quorum power answered lately."""

    rtt_ms: int


@dataclass(frozen=True, slots=True)
class Offered:
    """From a client or from gossip; all are answered for in one `Answer`."""

    ticket: int
    transactions: tuple[Transaction, ...]
    from_client: bool
    """Then this node is the first to have them, and hands them to the validators."""


@dataclass(frozen=True, slots=True)
class OwnOffered:
    """The answer to `SignTransaction`: the transaction is in the pool, or was refused."""


@dataclass(frozen=True, slots=True)
class VerdictsSigned:
    """The answer to `SignVerdicts`."""

    batch: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Solved:
    """The answer to `Solve`. None abstains."""

    statement_id: Hash
    verdict: AttestedVerdict | None


@dataclass(frozen=True, slots=True)
class NonceFound:
    """The answer to `Mine`."""

    job: int
    nonce: int


@dataclass(frozen=True, slots=True)
class VotingOverridden:
    """The operator's word that this validator may vote again before its quarantine is over."""


@dataclass(frozen=True, slots=True)
class PeerStands:
    """Where a peer says it stands; `oldest` is the oldest block whose body it serves."""

    peer: PeerId
    height: Height
    oldest: Height


@dataclass(frozen=True, slots=True)
class PeerLeft:
    peer: PeerId


@dataclass(frozen=True, slots=True)
class HeadersFetched:
    """The answer to `FetchHeaders`: encoded headers and their certificates, ascending; None if none came in time."""

    job: int
    headers: tuple[tuple[bytes, bytes], ...] | None


@dataclass(frozen=True, slots=True)
class BlocksFetched:
    """The answer to `FetchBlocks`: encoded blocks from the first one asked for on, as many as fitted; None if none came
    in time."""

    job: int
    blocks: tuple[bytes, ...] | None
    pruned: bool = False
    """The peer says that it does not keep them any more."""


Input = (
    Started
    | Signed
    | Heard
    | Verified
    | ProofsChecked
    | TimerFired
    | LaneChanged
    | RoundTrip
    | Offered
    | OwnOffered
    | VerdictsSigned
    | Solved
    | NonceFound
    | VotingOverridden
    | PeerStands
    | PeerLeft
    | HeadersFetched
    | BlocksFetched
)
