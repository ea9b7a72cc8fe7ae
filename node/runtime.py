"""The runtime: carries the engine's work out, on trio. Log durable, then guard, then signature, then network.

Any task of the node that ends by an exception ends the process: there is no half-alive node.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, assert_never

import structlog
import trio

from consensus.effects import Observe
from node.bodies import ProofResults
from node.engine import Engine, Restored
from node.home import Home
from node.inputs import (
    Heard,
    Input,
    LaneChanged,
    NonceFound,
    Offered,
    OwnOffered,
    ProofsChecked,
    RoundTrip,
    Signed,
    Solved,
    Started,
    TimerFired,
    VerdictsSigned,
    Verified,
    VotingOverridden,
)
from node.journal import GuardFile, Journal, Suspicion, guard_is_missing, log_is_missing
from node.metrics import Metrics
from node.network import NodeNetwork, Wires, admitter, static_peers
from node.payloads import decode_payload, encode_payload, message_id
from node.peering import Peering
from node.pow_node import PowNode
from node.timers import Timers
from node.trust import Sampling, SyncMode
from node.work import (
    Accused,
    Admission,
    Announce,
    Answer,
    Arm,
    Blame,
    CheckProofs,
    Committed,
    ConsensusPayload,
    Disarm,
    FetchBlocks,
    FetchHeaders,
    Keep,
    Log,
    Mine,
    Payer,
    Post,
    Proposing,
    Refusal,
    Seen,
    Sign,
    SignTransaction,
    SignVerdicts,
    Solve,
    Stop,
    Verify,
    Work,
)
from p2p.book import PeerBook
from p2p.handshake import LocalIdentity, Network
from p2p.host import Host, HostConfig
from p2p.lanes import Lanes
from state.commitment.versions import CommittedState, SpeculativeState
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.mempool import Mempool, PoolLimits, decode_pool
from state.scope import Slash
from state.store.chain import BlockRecord, ChainStore, create_chain, load_chain
from state.store.errors import StoreMissingError
from state.store.lmdb_store import LmdbStore
from state.store.pruning import Retention
from state.store.rows import ChainIdentity, Tip
from state.workers.proof_pool import ProofJob, ProofPool
from state.workers.z3_pool import Z3Pool, Z3Verdict, z3_pool_of
from trellis.address import address_of
from trellis.block import Block
from trellis.certificate import Certificate
from trellis.constants import Context
from trellis.crypto.schemes import SigningKey
from trellis.crypto.verifier import Batch, QueueFull, Verifier, VerifierError
from trellis.encoding import DecodeError
from trellis.evidence import Evidence, encode_evidence
from trellis.genesis import EngineKind
from trellis.messages import Ballot, Proposal
from trellis.parameters import Parameters
from trellis.records import AttestedVerdict
from trellis.transaction import KIND_NAMES, Transaction, signing_bytes
from trellis.types import Address, Hash, Height, PeerId
from trellis.votes import VoteKind
from trellis.wire import Frame

if TYPE_CHECKING:
    from trio_typing import TaskStatus

MIN_UNDO_BLOCKS: Final = 16
RTT_PERIOD_S: Final = 1.0
MAX_UNHANDLED: Final = 512
"""Frames of one validator that wait for the engine: its lane is not read while there are more, so a flooder fills its
own pipe and nothing else."""
MAX_AWAITED: Final = 256
"""Blocks whose finality is timed; leftovers of failed views go, the oldest first."""
POOL_FILE: Final = "mempool"
CONFLICT_FILE: Final = "conflict"
BOOK_FILE: Final = "peers"


_ATTESTED: Final = {Z3Verdict.UNSAT: AttestedVerdict.PROVEN, Z3Verdict.SAT: AttestedVerdict.REFUTED}
"""A statement is proven when its negation, which is what is asked, has no model. An abstention is no verdict."""


class NodeStopped(Exception):
    """The node stopped itself: a broken invariant. The message is the last line of its log."""


@dataclass(slots=True)
class Opened:
    """What lies on the disk, opened and checked."""

    chain: ChainStore
    store: LmdbStore
    journal: Journal
    guard: GuardFile
    suspicion: Suspicion


def open_node(home: Home) -> Opened:
    """Opens or creates store, log and guard. A validator whose log or guard is gone, or older, observes first."""
    genesis = home.genesis
    identity = ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2)
    store = LmdbStore(home.store_directory)
    try:
        chain = load_chain(store, identity, retention=retention_of(home))
    except StoreMissingError:
        chain = create_chain(store, identity, genesis_changes(genesis), retention=retention_of(home))
    suspicion = Suspicion(home.guard_directory)
    no_log, no_guard = log_is_missing(home.log_directory), guard_is_missing(home.guard_directory)
    is_new = chain.tip.height == 0 and no_log and no_guard
    if (no_log or no_guard) and not is_new:
        # Before either file is made anew: the next start must know.
        suspicion.raise_()
    journal = Journal(home.log_directory)
    guard = GuardFile(home.guard_directory, genesis.hash)
    newest = max((record.height for record in journal.records()), default=Height(0))
    if guard.guard.height > newest:
        suspicion.raise_()
    return Opened(chain, store, journal, guard, suspicion)


class _TimedChain:
    """The store as the ledger sees it; how long a commit takes is measured here, where there is a clock."""

    def __init__(self, chain: ChainStore, metrics: Metrics) -> None:
        self._chain = chain
        self._metrics = metrics

    @property
    def tip(self) -> Tip:
        return self._chain.tip

    @property
    def state(self) -> CommittedState:
        return self._chain.state

    def commit(self, version: SpeculativeState, record: BlockRecord) -> Tip:
        with self._metrics.commit_seconds.time():
            return self._chain.commit(version, record)

    def rollback(self, blocks: int = 1, consensus: bytes | None = None) -> Tip:
        return self._chain.rollback(blocks, consensus)


def retention_of(home: Home) -> Retention:
    """What the configuration keeps; a chain that may be reorganised keeps what undoing needs."""
    undo = MIN_UNDO_BLOCKS
    if home.genesis.engine is EngineKind.POW:
        undo = max(undo, home.genesis.parameters.pow_confirmations + 2)
    keep = home.config.node.keep_heights
    kept = max(keep, undo, 1) if keep else None
    return Retention(bodies=kept, results=kept, undo_blocks=undo)


OnCommitted = Callable[[Committed, int], None]
"""Also told how many milliseconds passed since the proposal was accepted here; 0 if it never was."""


class Runtime:
    """One running node."""

    def __init__(self, home: Home, opened: Opened, metrics: Metrics) -> None:
        self.home = home
        self.opened = opened
        self.metrics = metrics
        self.log = structlog.get_logger().bind(node=home.config.node.moniker or "node")
        self._genesis_hash = home.genesis.hash
        proofs = ProofResults()
        self.ledger = Ledger(home.genesis, _TimedChain(opened.chain, metrics), check=proofs)
        mempool = home.config.mempool
        self.pool = Mempool(PoolLimits(max_count=mempool.max_transactions, max_bytes=mempool.max_bytes))
        metrics.mempool_transactions.set_function(lambda: len(self.pool) - self.pool.proofs)
        metrics.mempool_bytes.set_function(lambda: self.pool.size_bytes)
        metrics.mempool_proofs.set_function(lambda: self.pool.proofs)
        metrics.height.set(opened.chain.tip.height)
        self.engine: Engine | PowNode = self._make_engine(proofs)
        self._suspected = opened.suspicion.stands
        self._book = PeerBook(home.data_directory / BOOK_FILE, self._genesis_hash, now_ms)
        self._address_of: dict[PeerId, Address] = {}
        self._peer_of: dict[Address, PeerId] = {}
        self.open_lanes: set[Address] = set()
        self._inbox: deque[Input] = deque()
        self._unhandled: Counter[Address] = Counter()
        self._drained = trio.Event()
        self._news = trio.Event()
        self._deferred: deque[Verify] = deque()
        self._tickets: dict[int, Callable[[tuple[Admission, ...]], None]] = {}
        self._next_ticket = 0
        self._awaited: dict[Hash, float] = {}
        self._last_commit_s: float | None = None
        self.verified: Counter[bytes] = Counter()
        """Signatures given to the verifier, by the context they were made in."""
        self._timers = Timers(lambda timer: self.take(TimerFired(timer)))
        self._proof_pool: ProofPool | None = None
        self._solver: Z3Pool | None = None
        self._searches, self._sought = trio.open_memory_channel[Mine](MAX_UNHANDLED)
        self._committed: list[OnCommitted] = []
        self.evidence: dict[bytes, Evidence] = {}
        """Accusations by their encoding; those that the chain has punished go."""
        self.view_changes = 0

    def _make_engine(self, proofs: ProofResults) -> Engine | PowNode:
        home, opened = self.home, self.opened
        if home.genesis.engine is EngineKind.POW:
            mines = home.config.node.validator
            return PowNode(home.account, self.ledger, self.pool, proofs, self._stored_block, mines=mines)
        restored = Restored(tuple(opened.journal.records()), tuple(opened.journal.bodies()), opened.suspicion.stands)
        return Engine(
            home.account,
            self.ledger,
            self.pool,
            proofs,
            self._stored,
            restored,
            payer=_payer_of(home.payer_key),
            attests=home.config.proofs.attest,
            sampling=None if home.config.sync.mode is SyncMode.VERIFY else Sampling(secrets.token_bytes(32)),
        )

    @property
    def parameters(self) -> Parameters:
        return self.engine.facts.network.parameters

    def on_committed(self, callback: OnCommitted) -> None:
        """Called after each block, when it is durable and the pool knows. Must return at once."""
        self._committed.append(callback)

    def _stored(self, height: Height) -> tuple[bytes, bytes] | None:
        with self.opened.chain.read() as reader:
            block, certificate = reader.block_bytes(height), reader.certificate_bytes(height)
        return None if block is None or not certificate else (block, certificate)

    def _stored_block(self, height: Height) -> Block | None:
        with self.opened.chain.read() as reader:
            return reader.block(height)

    def _parent(self) -> tuple[Block, Certificate] | None:
        height = self.opened.chain.tip.height
        if height == 0 or self.home.genesis.engine is EngineKind.POW:
            return None
        with self.opened.chain.read() as reader:
            header, certificate = reader.header(height), reader.certificate(height)
            block = reader.block(height)
        if header is None or certificate is None:
            raise NodeStopped(f"the store has no block {height}, its own tip")
        # A node that began with a snapshot has no body at its tip, and needs none to go on.
        return block or Block(header, None, ()), certificate

    # Running.

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Until cancelled. Raises what stopped the node. Call `close` afterwards."""
        self.host = host = Host(self._host_config())
        self.lanes = Lanes(host, self._genesis_hash, self._frame, self._lane_changed, gate=self._gate)
        self.network = NodeNetwork(self.home, host, self._book, self._wires(), validator=self.votes)
        self.on_committed(self.network.committed)
        self.peering = Peering(host, self._book, lambda: self._address_of, self._height_of, now_ms)
        self._know_validators()
        with Verifier(self.home.config.node.verify_workers) as self._verifier:
            async with host.run(), trio.open_nursery() as nursery:
                self._nursery = nursery
                self._token = trio.lowlevel.current_trio_token()
                nursery.start_soon(self._timers.run)
                nursery.start_soon(self.lanes.run)
                await nursery.start(self.network.run)
                nursery.start_soon(self._measure)
                if self.home.genesis.engine is EngineKind.POW:
                    nursery.start_soon(self._run_miner)
                height, mode = self.opened.chain.tip.height, str(self.home.config.sync.mode)
                self.log.info("started", height=height, addresses=host.addresses, sync=mode)
                self.take(Started(self._parent()))
                self._restore_pool()
                task_status.started()
                await self._work_loop()

    def _host_config(self) -> HostConfig:
        config, genesis = self.home.config, self.home.genesis
        return HostConfig(
            identity=LocalIdentity.of(self.home.network_key),
            network=Network(genesis.hash, genesis.policy.root()),
            listen=config.p2p.listen,
            peers=static_peers(self.home),
            validators=self._member_ids(),
            admit=admitter(self.home, self._member_ids),
        )

    def _member_ids(self) -> frozenset[PeerId]:
        return frozenset(member.network_id for member in self.engine.facts.validators.members)

    @property
    def votes(self) -> bool:
        return self.home.account in self.engine.facts.validators

    def _wires(self) -> Wires:
        return Wires(
            take=self.take,
            offer=lambda transactions, told: self.offer(transactions, told, from_client=False),
            pool=self.pool,
            read=self.opened.chain.read,
            members=lambda: frozenset(self._address_of),
            syncing=lambda: self.engine.catch_up.behind,
        )

    def _know_validators(self) -> None:
        members = self.engine.facts.validators.members
        self._address_of = {member.network_id: member.address for member in members}
        self._peer_of = {member.address: member.network_id for member in members}
        self.host.set_validators(frozenset(self._address_of))
        # Lanes are between validators: whoever is none reads the chain another way.
        own = self.home.account in self._peer_of
        self.lanes.set_peers(frozenset(self._address_of) - {self.host.peer} if own else frozenset())

    def _height_of(self, peer: PeerId) -> int:
        """The height that a validator last voted at, or that a peer said to have, as far as this node heard."""
        validator = self._address_of.get(peer)
        voted = 0 if validator is None else self.engine.heights.get(validator, 0)
        return max(voted, self.network.height_of(peer))

    # The pool over a restart.

    def _restore_pool(self) -> None:
        path = self.home.data_directory / POOL_FILE
        if not path.exists():
            return
        try:
            transactions = decode_pool(path.read_bytes())
        except (DecodeError, OSError) as fault:
            self.log.warning("the kept mempool is unreadable and was left out", path=str(path), fault=str(fault))
        else:
            self.offer(transactions, lambda _: None, from_client=False)
        path.unlink()

    def close(self) -> None:
        """Keeps what waits in the pool, and closes store, log, guard and peer book. Nobody may read any more."""
        path = self.home.data_directory / POOL_FILE
        if len(self.pool):
            path.write_bytes(self.pool.encode())
        if self._proof_pool is not None:
            self._proof_pool.close()
        if self._solver is not None:
            self._solver.close()
        self._book.close()
        self.opened.journal.close()
        self.opened.guard.close()
        self.opened.chain.close()

    # One task runs the engine and carries its work out; everybody else puts inputs into its inbox.

    def take(self, given: Input) -> None:
        self._inbox.append(given)
        self._news.set()

    async def _work_loop(self) -> None:
        while True:
            await self._news.wait()
            self._news = trio.Event()
            while self._inbox:
                given = self._inbox.popleft()
                if isinstance(given, Heard):
                    self._unhandled[given.sender] -= 1
                    self._drained.set()
                self._carry_out(deque(self.engine.handle(given, now_ms())))
                if self._suspected and not self.engine.observing:
                    self._suspected = False
                    self.opened.suspicion.lift()
                await trio.lowlevel.checkpoint()

    def _carry_out(self, work: deque[Work]) -> None:
        journal = self.opened.journal
        while work:
            item = work.popleft()
            if not isinstance(item, (Log, Keep)):
                journal.sync()
            match item:
                case Log():
                    journal.append(item.record)
                case Keep():
                    journal.append_body(item.block)
                case Sign():
                    # What signing brings about comes after the rest of this work.
                    work.extend(self._sign(item))
                case Post():
                    self._post(item)
                case Arm():
                    self._timers.arm(item.timer, item.delay_ms)
                case Disarm():
                    self._timers.disarm(item.kind)
                case Verify():
                    self._verify(item)
                case CheckProofs():
                    self._nursery.start_soon(self._check_proofs, item)
                case SignTransaction():
                    self._sign_transaction(item)
                case SignVerdicts():
                    signature = self.home.consensus_key.sign(item.batch, Context.ATTEST.value)
                    self.take(VerdictsSigned(item.batch, signature))
                case Solve():
                    self._nursery.start_soon(self._solve, item)
                case Mine():
                    self._searches.send_nowait(item)
                case Answer():
                    told = self._tickets.pop(item.ticket, None)
                    if told is not None:
                        told(item.admissions)
                case Announce():
                    self.network.announce(item.ids)
                case FetchHeaders() | FetchBlocks():
                    self.network.fetch(item)
                case Blame():
                    self.network.blame(item)
                case Stop():
                    raise NodeStopped(self._last_words(item))
                case Seen():
                    self._seen(item)
                case _:
                    assert_never(item)
        journal.sync()

    def _last_words(self, item: Stop) -> str:
        """The certificates at issue stay on the disk: they are the proof, whatever becomes of the node."""
        kept = []
        for place, certificate in enumerate(item.certificates):
            path = self.home.data_directory / f"{CONFLICT_FILE}-{certificate.height}-{place}"
            path.write_bytes(certificate.encode())
            kept.append(str(path))
        return f"{item.reason}; kept: {', '.join(kept)}" if kept else item.reason

    def _sign(self, item: Sign) -> list[Work]:
        vote = item.message.signed.vote
        guard = self.opened.guard
        refusal = guard.guard.check(vote)
        if refusal is not None:
            self.log.error("the sign guard refuses a vote", rule=str(refusal), vote=vote.kind.name, height=vote.height)
            return []
        guard.admit(vote)
        signature = self.home.consensus_key.sign(vote.signing_bytes(self._genesis_hash), Context.VOTE.value)
        self._count_vote(item)
        return self.engine.handle(Signed(item.message, signature), now_ms())

    def _count_vote(self, item: Sign) -> None:
        match item.message:
            case Proposal():
                self.metrics.proposals_sent.inc()
            case Ballot():
                is_prepare = item.message.signed.vote.kind is VoteKind.PREPARE
                (self.metrics.prepares_sent if is_prepare else self.metrics.commits_sent).inc()
            case _:
                self.metrics.view_changes.inc()
                self.view_changes += 1

    def _post(self, item: Post) -> None:
        payload = item.payload
        kind, data = message_id(payload), encode_payload(payload)
        # Votes overtake bodies and transactions; a proposal stays behind the transactions that it names.
        priority = isinstance(payload, ConsensusPayload) and not payload.is_proposal
        if item.to is None:
            self.lanes.post_all(kind, data, priority=priority)
            return
        peer = self._peer_of.get(item.to)
        if peer is not None:
            self.lanes.post(peer, kind, data, priority=priority)

    # Transactions from clients and gossip.

    def offer(
        self,
        transactions: tuple[Transaction, ...],
        told: Callable[[tuple[Admission, ...]], None],
        *,
        from_client: bool,
    ) -> None:
        """`told` is called once, with what became of each."""
        self._next_ticket += 1
        self._tickets[self._next_ticket] = told
        self.take(Offered(self._next_ticket, transactions, from_client))

    async def submit(self, transactions: tuple[Transaction, ...]) -> tuple[Admission, ...]:
        """A client's transactions, verified and offered to the pool."""
        done = trio.Event()
        found: list[Admission] = []

        def told(admissions: tuple[Admission, ...]) -> None:
            found.extend(admissions)
            done.set()

        self.offer(transactions, told, from_client=True)
        await done.wait()
        return tuple(found)

    def _sign_transaction(self, item: SignTransaction) -> None:
        key = self.home.payer_key
        if key is None:
            raise NodeStopped("broken invariant: there is no key to pay with")
        signature = key.sign(signing_bytes(self._genesis_hash, item.body), Context.TX.value)

        def told(admissions: tuple[Admission, ...]) -> None:
            for admission in admissions:
                if admission.reason is not None:
                    self.log.warning("the pool refused this node's own transaction", reason=str(admission.reason))
            self.take(OwnOffered())

        self.offer((Transaction(item.body, key.alg_id, item.public_key, signature),), told, from_client=True)

    async def _solve(self, item: Solve) -> None:
        """In a confined process, one at a time; whatever goes wrong there abstains."""
        if self._solver is None:
            self._solver = z3_pool_of(self.engine.facts.network)
        if self._solver is None:
            self.take(Solved(item.statement_id, None))
            return
        # Left behind when the node stops: `close` ends the worker that it waits for.
        answer = await trio.to_thread.run_sync(
            self._solver.check,
            item.statement,
            abandon_on_cancel=True,  # type: ignore[call-arg] # newer than the stubs
        )
        verdict = _ATTESTED.get(answer.verdict)
        self.log.info(
            "statement",
            id=item.statement_id.hex()[:16],
            verdict=answer.verdict.value,
            reason=None if answer.reason is None else str(answer.reason),
        )
        self.take(Solved(item.statement_id, verdict))

    async def _run_miner(self) -> None:
        """One process searches; what the engine asks last counts."""
        command = [sys.executable, "-m", "node.miner"]
        process = await trio.lowlevel.open_process(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            if process.stdin is None or process.stdout is None:
                raise NodeStopped("broken invariant: the miner has no pipes")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._hear_miner, process.stdout)
                async for search in self._sought:
                    line = b"stop\n"
                    if search.header is not None:
                        first = int.from_bytes(secrets.token_bytes(5), "big")
                        preimage = search.header.work_preimage().hex().encode()
                        line = b"%d %s %d %d\n" % (search.job, preimage, search.target, first)
                    await process.stdin.send_all(line)
        finally:
            process.kill()

    async def _hear_miner(self, output: trio.abc.ReceiveStream) -> None:
        held = b""
        async for data in output:
            *lines, held = (held + data).split(b"\n")
            for line in lines:
                job, nonce = line.split()
                self.take(NonceFound(int(job), int(nonce)))
        raise NodeStopped("the process that searches nonces has ended")

    # Verification.

    def _verify(self, item: Verify) -> None:
        def done(batch: Batch) -> None:
            self._token.run_sync_soon(self._verified, item.job, batch)

        try:
            self._verifier.submit(item.checks, urgent=item.urgent, on_done=done)
            self.verified.update(check.context for check in item.checks)
        except QueueFull:
            self._deferred.append(item)

    def _verified(self, job: int, batch: Batch) -> None:
        try:
            verdicts = batch.result(0)
        except VerifierError as fault:
            raise NodeStopped(f"signatures can no longer be verified: {fault}") from fault
        self.take(Verified(job, tuple(verdicts)))
        if self._deferred:
            self._verify(self._deferred.popleft())

    async def _check_proofs(self, item: CheckProofs) -> None:
        if self._proof_pool is None:
            self._proof_pool = ProofPool(max(1, self.home.config.proofs.workers))
        jobs = [ProofJob(work.verifier, work.statement, work.proof, work.limits) for work in item.proofs]
        results = await trio.to_thread.run_sync(
            self._proof_pool.verify_batch,
            jobs,
            abandon_on_cancel=True,  # type: ignore[call-arg] # newer than the stubs
        )
        self.take(ProofsChecked(item.job, tuple(results)))

    # Lanes.

    def _lane_changed(self, peer: PeerId, is_open: bool) -> None:
        validator = self._address_of.get(peer)
        if validator is None:
            return
        (self.open_lanes.add if is_open else self.open_lanes.discard)(validator)
        self.log.info("lane", validator=validator.hex()[:8], open=is_open)
        self.take(LaneChanged(validator, is_open))

    async def _gate(self, peer: PeerId) -> None:
        """A lane is read no faster than the engine takes what it brings."""
        validator = self._address_of.get(peer)
        while validator is not None and self._unhandled[validator] >= MAX_UNHANDLED:
            self._drained = trio.Event()
            await self._drained.wait()

    def _frame(self, peer: PeerId, frame: Frame) -> None:
        validator = self._address_of.get(peer)
        if validator is None:
            return
        try:
            payload = decode_payload(frame.message_id, frame.payload)
        except DecodeError as fault:
            self._seen(Seen(Refusal(validator, f"malformed: {fault.reason}")))
            return
        self._unhandled[validator] += 1
        self.take(Heard(validator, payload))

    async def _measure(self) -> None:
        """Round trips to the others, as the health pings measured them."""
        while True:
            await trio.sleep(RTT_PERIOD_S)
            rtts = {self._address_of.get(health.peer): health.rtt_us for health in self.host.peers()}
            validators = self.engine.facts.validators
            power = validators.power_of(self.home.account)
            for rtt_us, address in sorted((rtt, a) for a, rtt in rtts.items() if a is not None and rtt):
                power += validators.power_of(address)
                if validators.is_quorum(power):
                    self.take(RoundTrip(max(1, rtt_us // 1_000)))
                    break

    @property
    def has_quorum(self) -> bool:
        """Whether lanes to validators of quorum power are open, this node counted. A node without a vote has no lanes:
        it does as well with one peer that serves it."""
        validators = self.engine.facts.validators
        if self.home.account not in validators:
            return self.network.sources > 0
        power = validators.power_of_all(sorted({*self.open_lanes, self.home.account}))
        return validators.is_quorum(power)

    def override_quarantine(self) -> None:
        """The operator's word that this validator may vote at once."""
        self.log.warning("voting by the operator's word: what this key signed before is not known here")
        self.take(VotingOverridden())

    # Watching.

    def _seen(self, item: Seen) -> None:
        match item.what:
            case Committed():
                self._saw_commit(item.what)
            case Proposing():
                self._awaited[item.what.block_hash] = trio.current_time()
                if len(self._awaited) > MAX_AWAITED:
                    del self._awaited[next(iter(self._awaited))]
            case Accused():
                self._saw_evidence(item.what)
            case Refusal():
                self.metrics.rejects.labels(reason="consensus").inc()
                self.log.warning("refused", validator=item.what.peer.hex()[:8], reason=item.what.reason)
            case Observe():
                self.metrics.view.set(item.what.view)
                if item.what.violation is not None:
                    self.metrics.violations.labels(kind=item.what.violation).inc()
                self.log.debug("rule", rule=str(item.what.rule), height=item.what.height, view=item.what.view)
            case _:
                assert_never(item.what)

    def _saw_evidence(self, accused: Accused) -> None:
        evidence = accused.evidence
        proof = encode_evidence(evidence)
        self.evidence[proof] = evidence
        self.log.error(
            "evidence",
            kind=evidence.kind.name.lower(),
            validator=evidence.offender.hex()[:8],
            height=evidence.height,
            proof=proof.hex(),
        )

    def _punished(self, slash: Slash) -> None:
        """The chain has dealt with it: nobody needs to hold the accusation any more."""
        about = (slash.address, slash.offence_height)
        for proof in [p for p, each in self.evidence.items() if (each.offender, each.height) == about]:
            del self.evidence[proof]

    def _saw_commit(self, committed: Committed) -> None:
        now_s = trio.current_time()
        since_s = self._awaited.pop(committed.block_hash, None)
        self._awaited.clear()
        finality_ms = 0 if since_s is None else max(1, round(1_000 * (now_s - since_s)))
        metrics, executed = self.metrics, committed.done.applied.executed
        metrics.finalized.inc()
        metrics.height.set(committed.height)
        metrics.sequence.set(committed.height + 1)
        metrics.view.set(0)
        certificate = committed.certificate
        signers = 0 if certificate is None else len(certificate.signatures)
        metrics.round_participants.set(signers)
        if since_s is not None:
            metrics.finality_ms.observe(finality_ms)
            # A round trip as consensus feels it, the others' execution included: pings do not show how busy they are.
            self.take(RoundTrip(finality_ms))
        if self._last_commit_s is not None:
            metrics.round_seconds.observe(now_s - self._last_commit_s)
        self._last_commit_s = now_s
        transactions = committed.done.applied.block.transactions
        outcomes = Counter(
            (KIND_NAMES[type(transaction.parsed.kind)], receipt.outcome.name.lower())
            for transaction, receipt in zip(transactions, executed.receipts, strict=True)
        )
        for (kind, outcome), number in sorted(outcomes.items()):
            metrics.transactions.labels(kind=kind, outcome=outcome).inc(number)
        for event in executed.events:
            if isinstance(event, Slash):
                self._punished(event)
        if self.engine.facts.validators.hash != committed.done.applied.block.header.validators_hash:
            self._know_validators()
        for callback in self._committed:
            callback(committed, finality_ms)
        self.log.info(
            "final" if certificate is not None else "mined",
            height=committed.height,
            block=committed.block_hash.hex()[:16],
            view=0 if certificate is None else certificate.view,
            transactions=len(transactions),
            signers=signers,
            finality_ms=finality_ms,
        )


def _payer_of(key: SigningKey | None) -> Payer | None:
    if key is None:
        return None
    return Payer(address_of(key.alg_id, key.public_key), key.alg_id, key.public_key)


def now_ms() -> int:
    return time.time_ns() // 1_000_000
