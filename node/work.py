"""What an engine asks of its runtime, and what engines send each other: closed unions of frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from consensus.effects import Observe, TimerId, TimerKind, VotingMessage
from consensus.records import Record
from state.ledger import Committed as LedgerCommitted
from state.mempool import Reason
from state.rules.reveal_proof import ProofWork
from trellis.certificate import Certificate
from trellis.crypto.algorithms import SignatureCheck
from trellis.evidence import Evidence
from trellis.header import Header
from trellis.types import Address, Hash, Height, PeerId


@dataclass(frozen=True, slots=True)
class Log:
    """Append to the write-ahead log; durable before any work after it."""

    record: Record


@dataclass(frozen=True, slots=True)
class Keep:
    """Append the body of a block of the height in progress to the write-ahead log; durable before any work after it."""

    block: bytes


@dataclass(frozen=True, slots=True)
class Sign:
    """Guard durable, then sign, then send to all, then `Signed`."""

    message: VotingMessage


@dataclass(frozen=True, slots=True)
class Post:
    """Send to one validator, or to all others."""

    to: Address | None
    payload: Payload


@dataclass(frozen=True, slots=True)
class Arm:
    """Answer with `TimerFired` after the delay. A `TimerId` replaces the armed one of its kind."""

    timer: TimerId | WaitId
    delay_ms: int


@dataclass(frozen=True, slots=True)
class Disarm:
    kind: TimerKind


@dataclass(frozen=True, slots=True)
class Verify:
    """Perform the checks, off the event loop; answer with `Verified`."""

    job: int
    checks: tuple[SignatureCheck, ...]
    urgent: bool


@dataclass(frozen=True, slots=True)
class CheckProofs:
    """Check the proofs, in worker processes; answer with `ProofsChecked`."""

    job: int
    proofs: tuple[ProofWork, ...]


@dataclass(frozen=True, slots=True)
class Payer:
    """The account that pays for what this node brings to the ledger. The key itself is the runtime's."""

    address: Address
    alg_id: int
    public_key: bytes


@dataclass(frozen=True, slots=True)
class SignTransaction:
    """Sign the body with the payer's key, offer the transaction as a client would, then answer with `OwnOffered`."""

    body: bytes
    public_key: bytes
    """To be carried; empty if the chain knows it."""


@dataclass(frozen=True, slots=True)
class SignVerdicts:
    """Sign with the consensus key, in the context of attestations; answer with `VerdictsSigned`."""

    batch: bytes


@dataclass(frozen=True, slots=True)
class Solve:
    """Ask the solver, off the event loop; answer with `Solved`, whatever comes of it."""

    statement_id: Hash
    statement: bytes


@dataclass(frozen=True, slots=True)
class Mine:
    """Search a nonce for this header, in place of any earlier search; answer with `NonceFound`. None: stop."""

    job: int
    header: Header | None
    target: int


@dataclass(frozen=True, slots=True)
class Admission:
    """What became of one offered transaction. `reason` is None if the pool holds it now."""

    txid: Hash
    reason: Reason | None


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of the transactions of one `Offered`, in their order."""

    ticket: int
    admissions: tuple[Admission, ...]


@dataclass(frozen=True, slots=True)
class Announce:
    """Transactions that the pool took: by witness-inclusive id, for gossip."""

    ids: tuple[Hash, ...]


class Offence(StrEnum):
    """What no honest peer sends while others catch up by it. A closed set: it labels counters and bans."""

    MALFORMED = "sync_malformed"
    BROKEN_CHAIN = "sync_broken_chain"
    """Headers that do not follow each other, or are of another chain."""
    BAD_CERTIFICATE = "sync_bad_certificate"
    WRONG_BODY = "sync_wrong_body"
    """A body that is not the one its certified header was made for."""
    WRONG_CHUNK = "sync_wrong_chunk"


@dataclass(frozen=True, slots=True)
class FetchHeaders:
    """Ask a peer for certified headers after the newest of `locator` that it has; answer with `HeadersFetched`,
    whatever comes of it, and in bounded time."""

    job: int
    peer: PeerId
    locator: tuple[Hash, ...]
    """Newest first."""


@dataclass(frozen=True, slots=True)
class FetchBlocks:
    """Ask a peer for blocks by height; answer with `BlocksFetched`, whatever comes of it, and in bounded time."""

    job: int
    peer: PeerId
    first: Height
    count: int


@dataclass(frozen=True, slots=True)
class Blame:
    """A peer, validator or not, lied while it was asked: for the peer book."""

    peer: PeerId
    offence: Offence


@dataclass(frozen=True, slots=True)
class Stop:
    """A broken invariant: keep the certificates, say why, and end the process."""

    reason: str
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Seen:
    """For logs, metrics, and whoever subscribed."""

    what: Observe | Committed | Refusal | Accused | Proposing


@dataclass(frozen=True, slots=True)
class Committed:
    """A block is final and durable."""

    height: Height
    block_hash: Hash
    certificate: Certificate | None
    """None under proof of work: then it is final once it is deep enough."""
    done: LedgerCommitted


@dataclass(frozen=True, slots=True)
class Proposing:
    """A block passed validation here, or was made here: from now on its finality is awaited."""

    height: Height
    block_hash: Hash
    transactions: int


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
    is_proposal: bool = False
    """Proposals keep their place behind the transactions that they name; votes may overtake."""


@dataclass(frozen=True, slots=True)
class TransactionsPayload:
    """Whole transactions, from the validator that admitted them to the others."""

    transactions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class VerdictPayload:
    """A batch of verdicts, and the sender's signature over it."""

    batch: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class BodyRequest:
    """For the whole block, or for the transactions at these places of it."""

    block_hash: Hash
    places: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class BodyAnswer:
    block: bytes


@dataclass(frozen=True, slots=True)
class BodyParts:
    block_hash: Hash
    parts: tuple[tuple[int, bytes], ...]
    """Place and transaction."""


@dataclass(frozen=True, slots=True)
class ChainRequest:
    above: Height


@dataclass(frozen=True, slots=True)
class ChainAnswer:
    blocks: tuple[tuple[bytes, bytes], ...]
    """Encoded blocks and their certificates, ascending."""


@dataclass(frozen=True, slots=True)
class WaitId:
    """The engine's own timers, beside those of the core."""

    serial: int


Payload = (
    ConsensusPayload
    | TransactionsPayload
    | VerdictPayload
    | BodyRequest
    | BodyAnswer
    | BodyParts
    | ChainRequest
    | ChainAnswer
)
Work = (
    Log
    | Keep
    | Sign
    | Post
    | Arm
    | Disarm
    | Verify
    | CheckProofs
    | SignTransaction
    | SignVerdicts
    | Solve
    | Mine
    | Answer
    | Announce
    | FetchHeaders
    | FetchBlocks
    | Blame
    | Stop
    | Seen
)
"""Done strictly in the order in which the engine gave it: what a `Log` or `Keep` names is durable before anything after
it."""
