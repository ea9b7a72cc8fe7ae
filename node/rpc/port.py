"""The one seam between the gRPC services and the running node.

Two kinds of members, told apart by where they may be called:

- *any thread*: `genesis`, `facts`, `standing` (frozen values that the node replaces, never changes), `read` (a snapshot
  of the store; readers never block the writer);
- *trio thread*: everything else. The services reach it through `node.rpc.bridge`: plain functions run between two steps
  of the node and must return within a millisecond or so; several of them in one bridged call see one and the same
  state. Coroutines may wait, and are cancelled when their caller gives up.

`LedgerHalf` (`ledger_half.py`) implements what ledger, pool and store answer; the runtime adds what only it knows
(`LiveHalf`). Methods refuse with `node.rpc.errors.Refused`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Protocol

from node.rpc.errors import Reason
from state.mempool import Entry
from state.store.reader import ChainReader
from state.store.rows import Tip, TxLocation
from trellis.genesis import Genesis
from trellis.transaction import Transaction
from trellis.types import Address, Hash, Height, PeerId


class SyncStage(IntEnum):
    """As the schema numbers them."""

    SYNCED = 1
    SEARCHING = 2
    HEADERS = 3
    SNAPSHOT = 4
    BLOCKS = 5


class Role(IntEnum):
    """As the schema numbers them."""

    VALIDATOR = 1
    FULL = 2
    SENTRY = 3


class Step(IntEnum):
    """What the replica is doing, as the schema numbers it."""

    IDLE = 1
    PROPOSAL = 2
    PREPARE = 3
    COMMIT = 4
    VIEW_CHANGE = 5
    OBSERVING = 6
    SYNCING = 7
    HALTED = 8
    MINING = 9


class Violation(IntEnum):
    """What is counted against a peer, as the schema numbers it."""

    EQUIVOCATION = 1
    LOCK_LIE = 2
    INVALID_SIGNATURE = 3
    MALFORMED_MESSAGE = 4
    TIMEOUT = 5
    NON_PARTICIPATION = 6
    WRONG_VERIFICATION = 7


class LogLevel(IntEnum):
    """As the schema numbers them."""

    DEBUG = 1
    INFO = 2
    WARNING = 3
    ERROR = 4


class TxStatus(IntEnum):
    """How far a transaction has come, as the schema numbers it."""

    PENDING = 1
    INCLUDED = 2
    FINAL = 3
    EXPIRED = 4
    REPLACED = 5
    DROPPED = 6
    REJECTED = 7


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What does not change while the node runs."""

    software_version: str
    started_at_ms: int
    moniker: str = ""
    peer_id: PeerId | None = None
    fingerprint: Hash | None = None
    listen_addresses: tuple[str, ...] = ()
    """Multiaddrs that end in the peer id."""
    role: Role = Role.FULL
    validator: Address | None = None
    """The account of this node's validator."""
    commit: str = ""
    protocol_versions: tuple[int, ...] = (1,)
    store_version: int = 1
    components: tuple[tuple[str, str], ...] = ()
    """(package, version), by name."""
    certificate_trust: bool = False


@dataclass(frozen=True, slots=True)
class Standing:
    """Whether the node takes traffic. The node replaces its `standing` and calls `LedgerHalf.stands`."""

    stage: SyncStage = SyncStage.SYNCED
    has_quorum: bool = True
    """In contact with validators of quorum power (oneself included); under proof of work always."""
    draining: bool = False
    readable: bool = True
    """False while the state itself is being replaced, by a snapshot: nothing can be read then."""
    target_height: Height = Height(0)
    """The greatest height that a peer's certificate proves; 0 while none is known."""
    problems: tuple[str, ...] = ()
    """One sentence each, with what to do about it."""

    @property
    def synced(self) -> bool:
        return self.stage is SyncStage.SYNCED

    @property
    def serving(self) -> bool:
        return self.synced and self.has_quorum and not self.draining


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a transaction was not taken: what `Refused` says, as a value."""

    reason: Reason
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_ms: int = 0


@dataclass(frozen=True, slots=True)
class SubmitOutcome:
    """What became of one submitted transaction."""

    txid: Hash | None
    """None where the body could not be parsed."""
    status: TxStatus
    rejection: Rejection | None = None
    """There exactly where the status is REJECTED."""
    duplicate: bool = False
    location: TxLocation | None = None
    """Where it stands, if it was known and is in a block."""


@dataclass(frozen=True, slots=True)
class TxSummary:
    """What is remembered of a transaction that is in no block: enough to say what became of it."""

    txid: Hash
    sender: Address
    nonce: int
    kind: str
    """As `trellis.transaction.KIND_NAMES` has it."""
    fee: int
    valid_until: Height
    size_bytes: int


@dataclass(frozen=True, slots=True)
class TxFate:
    """A transaction's whereabouts. `location` for those in a block, `summary` for all others."""

    status: TxStatus
    location: TxLocation | None = None
    summary: TxSummary | None = None
    transaction: Transaction | None = None
    """While it waits in the pool."""


@dataclass(frozen=True, slots=True)
class AccountView:
    """An account after one block; the pending nonce is newer."""

    address: Address
    balance: int
    nonce: int
    pending_nonce: int
    alg_id: int
    public_key: bytes
    bonded: int
    unbondings: tuple[tuple[int, int], ...]
    """(release height, amount), earliest first."""


@dataclass(frozen=True, slots=True)
class ProvenRow:
    """One entry of the state, or its absence, with what proves it under the tip's state root."""

    key: bytes
    value: bytes | None
    proof: bytes


@dataclass(frozen=True, slots=True)
class FeeTerms:
    """What a fee is made of at the committed head."""

    tip: Tip
    known_key: tuple[int, bytes] | None
    """(algorithm, public key) that the chain knows for the sender."""
    allowed: frozenset[int]
    """Algorithms that the policy lets accounts use at the next height."""
    floor_density: int
    """Fee a byte in units of 2^-20 that is likely to be included soon; 0 while blocks have room."""


@dataclass(frozen=True, slots=True)
class PoolView:
    """The pool at one moment. The entries are in no order: sorting them is done off the trio thread."""

    count: int
    size_bytes: int
    capacity_count: int
    capacity_bytes: int
    proofs: int
    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class WorkView:
    """Proof of work: where the chain of most work stands."""

    target: int
    total_work: int
    reorganised_blocks: int


@dataclass(frozen=True, slots=True)
class ConsensusView:
    """The height being decided, as this replica sees it."""

    height: Height
    view: int
    step: Step
    leader: Address | None
    own_validator: Address | None
    accepted_hash: Hash | None = None
    lock: tuple[int, Hash] | None = None
    """(view, block hash) of the prepared certificate it is locked on."""
    prepare_power: int = 0
    commit_power: int = 0
    view_power: int = 0
    connected_power: int = 0
    quorum_power: int = 0
    total_power: int = 0
    base_timeout_ms: int = 0
    view_timeout_ms: int = 0
    timer_armed: bool = False
    view_changes: int = 0
    observing_until: Height = Height(0)
    halt_reason: str = ""
    work: WorkView | None = None


@dataclass(frozen=True, slots=True)
class PeerView:
    """A peer, as this node sees it."""

    peer_id: PeerId
    fingerprint: Hash | None = None
    connected: bool = False
    outbound: bool = False
    address: str = ""
    transport: str = ""
    security: str = ""
    validator: Address | None = None
    agent: str = ""
    height: int = 0
    rtt_us: int = 0
    connected_at_ms: int = 0
    score_permille: int = 1_000
    received_bytes: int = 0
    sent_bytes: int = 0
    persistent: bool = False


@dataclass(frozen=True, slots=True)
class ReputationView:
    """This node's opinion of one peer."""

    peer_id: PeerId
    validator: Address | None
    score_permille: int
    banned: bool
    violations: tuple[tuple[Violation, int], ...]


@dataclass(frozen=True, slots=True)
class SyncView:
    """How far the node is behind, beside what `Standing` says."""

    header_height: Height
    source_count: int = 0
    snapshot_chunks_done: int = 0
    snapshot_chunks_total: int = 0
    snapshot_height: Height = Height(0)
    recent_blocks: int = 0


@dataclass(frozen=True, slots=True)
class BanView:
    """A ban in force."""

    peer_id: PeerId
    reason: str
    created_at_ms: int
    expires_at_ms: int
    """0: until it is lifted."""
    automatic: bool


@dataclass(frozen=True, slots=True)
class SnapshotView:
    """A snapshot that was written and is durable."""

    height: Height
    block_hash: Hash
    path: str
    state_root: Hash
    chunk_count: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class PrunedView:
    lowest_height: Height
    removed_blocks: int
    freed_bytes: int


@dataclass(frozen=True, slots=True)
class DrainView:
    """How far the node came in handing its work over."""

    complete: bool
    remaining_transactions: int


@dataclass(frozen=True, slots=True)
class Notice:
    """What the services learn after each commit, and whenever the standing changed."""

    height: Height
    """Of the last committed block."""
    txids: tuple[Hash, ...] = ()
    """Of the transactions that became committed with it."""


class ChainHalf(Protocol):
    """What ledger, pool and store answer: `node.rpc.ledger_half.LedgerHalf`."""

    # Any thread.

    @property
    def genesis(self) -> Genesis: ...

    @property
    def standing(self) -> Standing: ...

    def read(self) -> ChainReader:
        """The chain as of the last commit, for one thread; close it."""
        ...

    def validator_set(self, set_hash: Hash) -> bytes | None:
        """A set that was ever in force here, in its canonical layout, for receipts that lead back far."""
        ...

    @property
    def last_commit_ms(self) -> int:
        """When the latest block was committed here."""
        ...

    def finality_ms(self, height: Height) -> int:
        """From the proposal to the decision, here; 0 where that is not known."""
        ...

    # Trio thread.

    def watch(self, listener: Callable[[Notice], None]) -> None:
        """Calls it on the trio thread after each commit and change of standing; it must return at once."""
        ...

    def tip(self) -> Tip: ...

    def accounts(self, addresses: Sequence[Address]) -> tuple[AccountView, ...]: ...

    def prove(self, keys: Sequence[bytes]) -> tuple[ProvenRow, ...]:
        """Under the state root of `tip()`. A proof costs some 0.1 ms: ask for a few at a time."""
        ...

    def lookup(self, txids: Sequence[Hash]) -> tuple[TxFate | None, ...]:
        """None for what this node never saw."""
        ...

    def fee_terms(self, sender: Address) -> FeeTerms: ...

    def pool(self, sender: Address | None) -> PoolView: ...

    def pool_size(self) -> int:
        """How many transactions wait."""
        ...

    def admission(self, transaction: Transaction, complete: bool) -> Rejection | None:
        """What would keep it out of the pool now, its signature apart. Not `complete`: key and signature are stand-ins
        for what the caller left out."""
        ...


class LiveHalf(Protocol):
    """What only the running node knows or does."""

    # Any thread.

    @property
    def facts(self) -> NodeFacts: ...

    # Trio thread: transactions.

    async def submit(self, transactions: Sequence[Transaction]) -> list[SubmitOutcome]:
        """One outcome each, in order: `LedgerHalf.prepared`, offer to the pool (examine, verify in one batch, admit),
        then `LedgerHalf.outcome` of what it said. All bodies parse. Standing was checked before."""
        ...

    async def verify_signature(self, transaction: Transaction) -> bool:
        """Under the key in force, off the trio thread: for simulation."""
        ...

    # Trio thread: views.

    def consensus(self) -> ConsensusView: ...

    def peers(self) -> tuple[PeerView, ...]:
        """Connected ones and known ones, by peer id."""
        ...

    def reputations(self) -> tuple[ReputationView, ...]: ...

    def sync(self) -> SyncView: ...

    def pending_evidence(self) -> tuple[bytes, ...]:
        """Encoded evidence that this node holds and the chain has not accepted yet."""
        ...

    # Trio thread: the operator.

    async def add_peer(self, address: str) -> PeerId: ...

    async def remove_peer(self, peer: PeerId) -> bool | None:
        """Whether a connection was closed; None where no such peer was named."""
        ...

    async def ban_peer(self, peer: PeerId, reason: str, duration_ms: int) -> BanView: ...

    async def unban_peer(self, peer: PeerId) -> BanView | None: ...

    def bans(self) -> tuple[BanView, ...]: ...

    def set_log_level(self, level: LogLevel, component: str) -> LogLevel:
        """The level before. Refuses unknown components with INVALID_FIELD."""
        ...

    async def create_snapshot(self) -> SnapshotView: ...

    async def prune(self, keep_blocks: int) -> PrunedView: ...

    async def drain(self, timeout_ms: int) -> DrainView:
        """Sets `standing.draining`, hands the pool's content to peers. Calling it again is harmless."""
        ...


class NodePort(ChainHalf, LiveHalf, Protocol):
    """All of it."""
