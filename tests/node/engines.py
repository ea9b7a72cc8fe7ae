"""Whole engines in one process, under a virtual clock: real ledgers and pools, stand-in signatures, a perfect network
until a test says otherwise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from heapq import heappop, heappush

from consensus.effects import TimerId, TimerKind
from consensus.guard import SignGuard
from consensus.records import HeightBegun, Record
from node.bodies import ProofResults
from node.chain_service import blocks_from, headers_after
from node.engine import Engine, Restored
from node.inputs import (
    BlocksFetched,
    HeadersFetched,
    Heard,
    Input,
    LaneChanged,
    Offered,
    OwnOffered,
    PeerLeft,
    PeerStands,
    ProofsChecked,
    Signed,
    Solved,
    Started,
    TimerFired,
    VerdictsSigned,
    Verified,
)
from node.payloads import decode_payload, encode_payload, message_id
from node.trust import Sampling
from node.work import (
    Accused,
    Admission,
    Announce,
    Answer,
    Arm,
    Blame,
    CheckProofs,
    Committed,
    Disarm,
    FetchBlocks,
    FetchHeaders,
    Keep,
    Log,
    Mine,
    Payer,
    Payload,
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
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.mempool import Mempool
from state.proofs import STATEMENTS
from state.scope import check_proof
from state.store.chain import create_chain, load_chain
from state.store.memory import MemoryStore
from state.store.rows import ChainIdentity
from tests.chains import Member, fake_members, set_of
from tests.signing import FakeSigner, Signer, fake_verify_one
from tests.state.kit import address
from trellis.block import Block, decode_block
from trellis.certificate import Certificate
from trellis.constants import Context
from trellis.crypto.policy import DEFAULT_POLICY
from trellis.genesis import EngineKind, Genesis, GenesisAccount
from trellis.parameters import Parameters
from trellis.records import AttestedVerdict
from trellis.transaction import Kind, Output, Transaction, TransactionBody, Transfer, signing_bytes
from trellis.types import Address, Hash, Height, PeerId

START_MS = 1_700_000_000_000
HOP_MS = 2
FETCH_MS = 5
SILENCE_MS = 5_000
"""How long a question to a silent peer takes to be given up."""
FEE = 20_000
OWN_TICKET = 0
BALANCE = 10_000_000_000


def make_genesis(members: Sequence[Member], accounts: Sequence[Signer], parameters: Parameters) -> Genesis:
    holders = {member.address for member in members} | {address(signer) for signer in accounts}
    return Genesis(
        chain_name="engines",
        time_ms=START_MS,
        engine=EngineKind.PBFT,
        parameters=parameters,
        policy=DEFAULT_POLICY,
        validators=set_of(members),
        accounts=tuple(GenesisAccount(holder, BALANCE) for holder in sorted(holders)),
        verifiers=tuple((name, b"") for name in sorted(STATEMENTS)),
    )


@dataclass
class Node:
    """One engine, and what a runtime would keep for it."""

    place: int
    member: Member
    engine: Engine
    store: MemoryStore
    guard: SignGuard
    records: list[Record] = field(default_factory=list)
    bodies: list[Block] = field(default_factory=list)
    timers: dict[TimerKind, int] = field(default_factory=dict)
    answers: dict[int, tuple[Admission, ...]] = field(default_factory=dict)
    committed: list[Committed] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    accused: list[Accused] = field(default_factory=list)
    blamed: list[Blame] = field(default_factory=list)
    fetches: list[FetchHeaders | FetchBlocks] = field(default_factory=list)
    stopped: Stop | None = None
    met: set[PeerId] = field(default_factory=set)
    verified: int = 0
    alive: bool = True
    life: int = 0

    @property
    def peer(self) -> PeerId:
        return self.member.validator.network_id


def serve(source: Node, item: FetchHeaders | FetchBlocks) -> HeadersFetched | BlocksFetched:
    """What an honest node answers."""
    with load_chain(source.store).read() as reader:
        if isinstance(item, FetchHeaders):
            found = headers_after(reader, item.locator, 256)
            return HeadersFetched(item.job, tuple((each.header, each.certificate) for each in found))
        return BlocksFetched(item.job, tuple(each.block for each in blocks_from(reader, item.first, item.count)))


def _nothing(item: FetchHeaders | FetchBlocks) -> HeadersFetched | BlocksFetched:
    return HeadersFetched(item.job, None) if isinstance(item, FetchHeaders) else BlocksFetched(item.job, None)


class EngineNet:
    """`run_until(condition)` moves the clock. `deliver` may be replaced: it says what arrives, and how late."""

    def __init__(
        self, count: int = 4, accounts: int = 8, parameters: Parameters | None = None, followers: int = 0
    ) -> None:
        """The last `followers` nodes have no vote and no lanes. They are met by `meet`, and told of each new block."""
        self.members = fake_members([10_000_000] * (count + followers))
        self.voters = count
        self.sampling: Sampling | None = None
        self.accounts: tuple[FakeSigner, ...] = tuple(FakeSigner(500 + place) for place in range(accounts))
        self.genesis = make_genesis(self.members[:count], self.accounts, parameters or Parameters(state_buckets_log2=4))
        self.now_ms = START_MS
        self.deliver: Callable[[int, int, Payload], int | None] = lambda source, target, payload: HOP_MS
        self.answer: Callable[[Node, Node, HeadersFetched | BlocksFetched], HeadersFetched | BlocksFetched | None] = (
            lambda source, asker, answer: answer
        )
        """What a peer says to one that catches up; None is silence."""
        self.solve: Callable[[int, bytes], AttestedVerdict | None] = lambda place, statement: None
        self.may_stop = False
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self.nodes = [self._new(place) for place in range(count + followers)]
        for node in self.nodes[:count]:
            self._start(node)

    def _new(self, place: int) -> Node:
        store = MemoryStore()
        identity = ChainIdentity(self.genesis.hash, self.genesis.parameters.state_buckets_log2)
        create_chain(store, identity, genesis_changes(self.genesis))
        engine = self._engine(place, store, (), ())
        return Node(place, self.members[place], engine, store, SignGuard(self.genesis.hash))

    def _engine(
        self,
        place: int,
        store: MemoryStore,
        records: tuple[Record, ...],
        bodies: tuple[Block, ...],
        *,
        observing: bool = False,
    ) -> Engine:
        chain = load_chain(store)
        proofs = ProofResults()
        ledger = Ledger(self.genesis, chain, check=proofs)

        def stored(height: Height) -> tuple[bytes, bytes] | None:
            with chain.read() as reader:
                block, certificate = reader.block_bytes(height), reader.certificate_bytes(height)
            return None if block is None or not certificate else (block, certificate)

        restored = Restored(records, bodies, observing)
        signer = self.members[place].signer
        payer = Payer(self.members[place].address, signer.alg_id, signer.public_key)
        me = self.members[place].address
        return Engine(
            me, ledger, Mempool(), proofs, stored, restored, payer=payer, attests=True, sampling=self.sampling
        )

    def _start(self, node: Node) -> None:
        node.alive = True
        node.life += 1
        height = node.engine.ledger.tip.height
        parent: tuple[Block, Certificate] | None = None
        if height:
            with load_chain(node.store).read() as reader:
                block, certificate = reader.block(height), reader.certificate(height)
            if block is not None and certificate is not None:
                parent = (block, certificate)
        self.give(node, Started(parent))
        for other in self.nodes if hasattr(self, "nodes") else []:
            if other is not node and other.alive and self.votes(node) and self.votes(other):
                self.meet(node, other)
                self.give(node, LaneChanged(other.member.address, is_open=True))
                self.give(other, LaneChanged(node.member.address, is_open=True))

    # Time.

    def later(self, delay_ms: int, then: Callable[[], None]) -> None:
        self._serial += 1
        heappush(self._heap, (self.now_ms + delay_ms, self._serial, then))

    def run_until(self, condition: Callable[[], bool], within_ms: int = 20_000) -> None:
        """Raises if it does not come true."""
        end_ms = self.now_ms + within_ms
        while not condition():
            if not self._heap or self._heap[0][0] > end_ms:
                heights = [node.engine.ledger.tip.height for node in self.nodes]
                raise AssertionError(f"not within {within_ms} ms; heights are {heights}")
            at, _, then = heappop(self._heap)
            self.now_ms = max(self.now_ms, at)
            then()

    def run_for(self, duration_ms: int) -> None:
        end_ms = self.now_ms + duration_ms
        while self._heap and self._heap[0][0] <= end_ms:
            at, _, then = heappop(self._heap)
            self.now_ms = max(self.now_ms, at)
            then()
        self.now_ms = end_ms

    def give(self, node: Node, given: Input) -> None:
        life = node.life

        def now() -> None:
            if node.alive and node.life == life:
                self._carry_out(node, node.engine.handle(given, self.now_ms))

        self.later(0, now)

    # The runtime of one node.

    def _carry_out(self, node: Node, work: list[Work]) -> None:
        for item in work:
            match item:
                case Log():
                    if isinstance(item.record, HeightBegun):
                        node.records.clear()
                        node.bodies.clear()
                    node.records.append(item.record)
                case Keep():
                    node.bodies.append(decode_block(item.block))
                case Sign():
                    vote = item.message.signed.vote
                    assert node.guard.check(vote) is None, "an honest replica asks for nothing that the guard refuses"
                    node.guard = node.guard.after(vote)
                    signature = node.member.signer.sign(vote.signing_bytes(self.genesis.hash), Context.VOTE.value)
                    self.give(node, Signed(item.message, signature))
                case Post():
                    self._post(node, item)
                case Arm():
                    self._arm(node, item)
                case Disarm():
                    node.timers.pop(item.kind, None)
                case Verify():
                    node.verified += len(item.checks)
                    self.give(node, Verified(item.job, tuple(fake_verify_one(check) for check in item.checks)))
                case CheckProofs():
                    found = tuple(check_proof(w.verifier, w.statement, w.proof, w.limits) for w in item.proofs)
                    self.give(node, ProofsChecked(item.job, found))
                case SignTransaction():
                    signer = node.member.signer
                    signature = signer.sign(signing_bytes(self.genesis.hash, item.body), Context.TX.value)
                    own = Transaction(item.body, signer.alg_id, item.public_key, signature)
                    self.give(node, Offered(OWN_TICKET, (own,), from_client=True))
                case SignVerdicts():
                    signature = node.member.signer.sign(item.batch, Context.ATTEST.value)
                    self.give(node, VerdictsSigned(item.batch, signature))
                case Solve():
                    self.give(node, Solved(item.statement_id, self.solve(node.place, item.statement)))
                case Mine():
                    raise AssertionError("a network that votes does not mine")
                case Answer():
                    if item.ticket == OWN_TICKET:
                        self.give(node, OwnOffered())
                    node.answers[item.ticket] = item.admissions
                case Announce():
                    pass
                case FetchHeaders() | FetchBlocks():
                    node.fetches.append(item)
                    self._fetch(node, item)
                case Blame():
                    node.blamed.append(item)
                case Stop():
                    if not self.may_stop:
                        raise AssertionError(f"node {node.place} stopped: {item.reason}")
                    node.stopped = item
                    node.alive = False
                case Seen():
                    self._seen(node, item)

    def _seen(self, node: Node, item: Seen) -> None:
        match item.what:
            case Committed():
                node.committed.append(item.what)
                for other in self.nodes[self.voters :]:
                    if node.peer in other.met:
                        self.meet(node, other)
            case Refusal():
                node.refusals.append(item.what)
            case Accused():
                node.accused.append(item.what)
            case Proposing():
                pass
            case _:
                pass

    def _fetch(self, node: Node, item: FetchHeaders | FetchBlocks) -> None:
        source = next(each for each in self.nodes if each.peer == item.peer)
        answer = self.answer(source, node, serve(source, item)) if source.alive else None
        if answer is None:
            answer = _nothing(item)
            self.later(SILENCE_MS, lambda: self.give(node, answer))
        else:
            found = answer
            self.later(FETCH_MS, lambda: self.give(node, found))

    def _arm(self, node: Node, item: Arm) -> None:
        timer, life = item.timer, node.life
        if isinstance(timer, TimerId):
            node.timers[timer.kind] = timer.serial

        def fire() -> None:
            if not node.alive or node.life != life:
                return
            if isinstance(timer, TimerId):
                if node.timers.get(timer.kind) != timer.serial:
                    return
                del node.timers[timer.kind]
            self._carry_out(node, node.engine.handle(TimerFired(timer), self.now_ms))

        self.later(item.delay_ms, fire)

    def _post(self, node: Node, item: Post) -> None:
        for other in self.nodes[: self.voters] if self.votes(node) else []:
            if other is node or (item.to is not None and other.member.address != item.to):
                continue
            delay_ms = self.deliver(node.place, other.place, item.payload)
            if delay_ms is not None:
                self._arrive(node, other, item.payload, delay_ms)

    def _arrive(self, source: Node, target: Node, payload: Payload, delay_ms: int) -> None:
        travelled = decode_payload(message_id(payload), encode_payload(payload))
        life = target.life

        def arrive() -> None:
            if target.alive and target.life == life:
                self._carry_out(target, target.engine.handle(Heard(source.member.address, travelled), self.now_ms))

        self.later(delay_ms, arrive)

    # What tests do.

    def votes(self, node: Node) -> bool:
        return node.place < self.voters

    def follow(self, follower: Node, *sources: Node) -> None:
        """Starts a follower, with connections to these."""
        self._start(follower)
        for source in sources:
            self.meet(follower, source)

    def meet(self, one: Node, other: Node) -> None:
        """Both say where they stand."""
        for asker, source in ((one, other), (other, one)):
            asker.met.add(source.peer)
            self.give(asker, PeerStands(source.peer, source.engine.ledger.tip.height, Height(1)))

    def crash(self, node: Node) -> None:
        node.alive = False
        for other in self.nodes:
            if other is not node and other.life:
                self.give(other, PeerLeft(node.peer))
                self.give(other, LaneChanged(node.member.address, is_open=False))

    def restart(self, node: Node, *, observing: bool = False) -> None:
        """From its store and its log; the pool is gone."""
        records, bodies = tuple(node.records), tuple(node.bodies)
        node.timers.clear()
        node.engine = self._engine(node.place, node.store, records, bodies, observing=observing)
        self._start(node)

    def transaction(self, sender: Signer, nonce: int, kind: Kind | None = None, fee: int = FEE) -> Transaction:
        moved = kind or Transfer((Output(address(self.accounts[0]), 5),))
        body = TransactionBody(address(sender), nonce, Height(10_000), fee, moved).encode()
        signature = sender.sign(signing_bytes(self.genesis.hash, body), Context.TX.value)
        public_key = sender.public_key if nonce == 0 else b""
        return Transaction(body, sender.alg_id, public_key, signature)

    def submit(self, place: int, *transactions: Transaction, ticket: int = 1) -> None:
        self.give(self.nodes[place], Offered(ticket, transactions, from_client=True))

    def leader(self) -> Address:
        """Of view 0 at the height after node 0's tip."""
        return self.nodes[0].engine.facts.schedule.leader

    def heights(self) -> list[int]:
        return [node.engine.ledger.tip.height for node in self.nodes]

    def included(self, place: int) -> list[Hash]:
        """Ids of all transactions that this node committed, in order."""
        return [
            transaction.txid(self.genesis.hash)
            for committed in self.nodes[place].committed
            for transaction in committed.done.applied.block.transactions
        ]
