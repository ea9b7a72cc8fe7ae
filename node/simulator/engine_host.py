"""A simulated node: the production engine on the real ledger, carried out as the runtime does it, with power cuts.

Log and bodies are durable before anything after them, the guard before each signature, a commit of the store is one
atomic step inside the engine. Messages of the core travel as such, so that every adversary acts on them; all else
travels as the bytes of the wire. An adversary is made of its strategy and this host, in that order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final, TypeVar, assert_never, cast

from consensus.effects import ArmTimer, Broadcast, Halt, HaltReason, Observe, TimerId, VotingMessage
from consensus.events import Event, LaneChanged, QuorumRtt, TimerFired, VotingAllowed
from node import inputs
from node.bodies import ProofResults
from node.chain_service import blocks_from, headers_after
from node.engine import Engine, Restored
from node.inputs import BlocksFetched, HeadersFetched, Heard, Input, Offered, PeerLeft, PeerStands
from node.payloads import decode_payload, encode_payload, message_id
from node.simulator.checkers import SafetyViolation
from node.simulator.engine_chain import CLIENTS, START_MS, Auditor, Clients, make_genesis, new_chain, sign
from node.simulator.host import Crash, Host, Packet, Parcel
from node.simulator.keys import KeyRing
from node.simulator.ledger import ChainBlock, LedgerState, Operation, OperationKind, Refused
from node.simulator.network import US_PER_MS
from node.simulator.world import World
from node.work import (
    Accused,
    Announce,
    Answer,
    Arm,
    Blame,
    BodyAnswer,
    BodyRequest,
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
from state.accounts import read_account
from state.ledger import Ledger
from state.mempool import Mempool, decode_pool
from state.scope import check_proof
from state.store.chain import load_chain
from state.transition import Proposal as LedgerProposal
from trellis.block import Block, compact_body, decode_block
from trellis.certificate import Certificate
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId, SignatureCheck
from trellis.messages import (
    Ballot,
    DecidedNotice,
    HeightNotice,
    Message,
    Proposal,
    ViewChange,
    decode_message,
    encode_message,
)
from trellis.transaction import Data, Transaction, signing_bytes
from trellis.types import Address, Hash, Height, PeerId, View
from trellis.wire import MessageId

if TYPE_CHECKING:
    from node.simulator.world import MakeHost, Scene

URGENT_US: Final = (100, 600)
VERIFY_US: Final = (300, 5_000)
"""How long the verifier takes, at least and at most: answers come out of order."""
FETCH_WAIT_US: Final = 1_000 * US_PER_MS
"""After so long a question to a silent peer is given up."""
HEADERS_ASKED: Final = 256
OWN_TICKET: Final = 0
CLIENT_TICKET: Final = 1

Role = TypeVar("Role", bound=Host)
Fetched = HeadersFetched | BlocksFetched


@dataclass(frozen=True, slots=True)
class Lane(Parcel):
    """Any payload but messages of the core and requests for bodies, as it travels."""

    kind: MessageId
    data: bytes


@dataclass(frozen=True, slots=True)
class Question(Parcel):
    item: FetchHeaders | FetchBlocks


@dataclass(frozen=True, slots=True)
class Answered(Parcel):
    answer: Fetched


class EngineHost(Host):
    """One node. What is durable: store, log with bodies, guard; and after a clean stop what waited in the pool."""

    def __init__(self, world: World, index: int) -> None:
        super().__init__(world, index)
        self.engines = cast(EngineWorld, world)
        self.store, _ = new_chain(self.engines.document)
        self.payer = world.ring.keys[len(world.scene.stakes) + index]
        self.kept_pool = b""

    def _fresh_start(self) -> None:
        super()._fresh_start()
        self._inbox: deque[Input] = deque()
        self._asked: set[tuple[type[Fetched], int]] = set()

    # Starting and stopping.

    def _boot(self) -> None:
        world, disk = self.engines, self.durable.disk
        self.chain = load_chain(self.store)
        self._catch_up_with_store()
        records = tuple(disk.records())
        newest = max((record.height for record in records), default=Height(0))
        if self.honest and not self.lost_log and disk.guard.height > newest:
            raise SafetyViolation(f"restart: node {self.index} takes its own log for an old one")
        proofs = ProofResults()
        self.ledger = Ledger(world.document, self.chain, check=proofs)
        self.pool = Mempool()
        restored = Restored(records, tuple(disk.bodies()), self.suspicious)
        payer = Payer(self.payer.address, AlgId.ML_DSA_65, self.payer.public_key)
        self.engine = Engine(self.me, self.ledger, self.pool, proofs, self._stored, restored, payer=payer)
        self.replica = self.engine.replica
        self.give(inputs.Started(self._parent()))
        kept, self.kept_pool = self.kept_pool, b""
        if kept and self.running:
            self.give(Offered(CLIENT_TICKET, decode_pool(kept), from_client=False))

    def _catch_up_with_store(self) -> None:
        """What was committed in the step in which power was lost, and told nobody."""
        tip = self.chain.tip
        with self.chain.read() as reader:
            for height in range(self.height + 1, tip.height + 1):
                block, certificate = reader.block(Height(height)), reader.certificate(Height(height))
                if block is None or certificate is None:
                    raise SafetyViolation(f"store: node {self.index} lacks its own block {height}")
                root = tip.state_root if height == tip.height else block.header.state_root
                self._committed(block, certificate, root)

    def _stored(self, height: Height) -> tuple[bytes, bytes] | None:
        with self.chain.read() as reader:
            block, certificate = reader.block_bytes(height), reader.certificate_bytes(height)
        return None if block is None or not certificate else (block, certificate)

    def _parent(self) -> tuple[Block, Certificate] | None:
        kept = self.chain.tip.height
        with self.chain.read() as reader:
            block, certificate = reader.block(kept), reader.certificate(kept)
        return None if block is None or certificate is None else (block, certificate)

    def stop(self, *, clean: bool = False) -> None:
        if self.running:
            self.kept_pool = self.pool.encode() if clean and len(self.pool) else b""
        super().stop(clean=clean)

    def clock_ms(self) -> int:
        return START_MS + self.world.heap.now_us // US_PER_MS + self.clock_skew_ms

    # The runtime.

    def give(self, given: Input) -> None:
        """Inputs that arise while work is carried out wait until all of it is done."""
        self._inbox.append(given)
        if self._busy:
            return
        self._busy = True
        try:
            while self._inbox and self.running:
                self._carry(deque(self.engine.handle(self._inbox.popleft(), self.clock_ms())))
        except Crash:
            self.stop()
            self.world.recover_later(self)
        finally:
            self._busy = False
        if self.suspicious and self.running and not self.engine.observing:
            self.suspicious = False

    def feed(self, event: Event) -> None:
        match event:
            case LaneChanged():
                self.give(inputs.LaneChanged(event.validator, event.is_open))
                index = self.world.index_of(event.validator)
                peer = self.world.ring.keys[index].validator(1).network_id
                self.give(self._standing(index) if event.is_open else PeerLeft(peer))
            case QuorumRtt():
                self.give(inputs.RoundTrip(event.rtt_ms))
            case VotingAllowed():
                self.give(inputs.VotingOverridden())
            case TimerFired():
                self.give(inputs.TimerFired(event.timer))
            case _:
                raise TypeError(f"an engine is not fed {type(event).__name__}")

    def _measure(self) -> None:
        super()._measure()
        for index in self.world.lanes_of(self.index):
            self.give(self._standing(index))

    def _standing(self, index: int) -> PeerStands:
        host = self.world.hosts[index]
        peer = host.key.validator(1).network_id
        return PeerStands(peer, host.height, Height(1))

    def _give_later(self, delay_us: int, given: Input) -> None:
        life = self.life

        def arrive() -> None:
            if self.running and self.life == life:
                self.give(given)

        self.world.heap.after(delay_us, arrive)

    def _carry(self, work: deque[Work]) -> None:
        disk = self.durable.disk
        while work and self.running:
            item = work.popleft()
            if self.crash_after is not None:
                self.crash_after -= 1
                if self.crash_after < 0:
                    raise Crash
            if not isinstance(item, Log | Keep):
                disk.sync()
            work.extend(self._work(item))
        disk.sync()

    def _work(self, item: Work) -> Sequence[Work]:
        disk = self.durable.disk
        match item:
            case Log():
                disk.append(item.record)
            case Keep():
                disk.append_body(item.block)
                kept = chain_block(decode_block(item.block))
                self.durable.bodies[kept.hash] = kept
            case Sign():
                self._follow_up: Sequence[Work] = ()
                self._sign_and_send(Broadcast(item.message))
                # What signing brings about comes after the rest of this work.
                return self._follow_up
            case Post():
                self._post(item)
            case Arm():
                if isinstance(item.timer, TimerId):
                    self._arm(ArmTimer(item.timer, item.delay_ms))
                else:
                    self._give_later(item.delay_ms * self.timer_rate_permille, inputs.TimerFired(item.timer))
            case Disarm():
                self._timers.pop(item.kind, None)
            case Verify():
                self._verify(item)
            case CheckProofs():
                found = tuple(check_proof(w.verifier, w.statement, w.proof, w.limits) for w in item.proofs)
                self._give_later(VERIFY_US[1], inputs.ProofsChecked(item.job, found))
            case SignTransaction():
                self._sign_transaction(item)
            case SignVerdicts():
                self.give(inputs.VerdictsSigned(item.batch, self.key.sign(item.batch, Context.ATTEST.value)))
            case Solve():
                self.give(inputs.Solved(item.statement_id, None))
            case Answer():
                if item.ticket == OWN_TICKET:
                    self.give(inputs.OwnOffered())
            case FetchHeaders() | FetchBlocks():
                self._ask(item)
            case Blame():
                self._blamed(item)
            case Stop():
                self.running, self.halted = False, Halt(HaltReason.FORK, item.certificates)
                self.world.checkers.stopped(self, item.reason)
            case Seen():
                self._seen(item)
            case Announce():
                pass
            case Mine():
                raise SafetyViolation(f"node {self.index} mines on a network that votes")
            case _:
                assert_never(item)
        return ()

    def _sign_transaction(self, item: SignTransaction) -> None:
        signature = self.payer.sign(signing_bytes(self.engines.document.hash, item.body), Context.TX.value)
        own = Transaction(item.body, AlgId.ML_DSA_65, item.public_key, signature)
        self.give(Offered(OWN_TICKET, (own,), from_client=True))

    def _verify(self, item: Verify) -> None:
        delay_us = self.world.chance.randint(*(URGENT_US if item.urgent else VERIFY_US))
        self._give_later(delay_us, inputs.Verified(item.job, self.verify(item.checks)))

    def verify(self, checks: Sequence[SignatureCheck]) -> tuple[bool, ...]:
        return tuple(self.world.ring.verify(checks))

    def _signed(self, effect: Broadcast, message: VotingMessage, signature: bytes) -> None:
        self._follow_up = self.engine.handle(inputs.Signed(effect.message, signature), self.clock_ms())

    def _seen(self, item: Seen) -> None:
        match item.what:
            case Committed():
                done = item.what.done
                if item.what.certificate is None:
                    raise SafetyViolation(f"certificate: node {self.index} committed without one")
                self._committed(done.applied.block, item.what.certificate, done.tip.state_root)
            case Observe():
                self.world.observed(self, item.what)
            case Accused():
                self.world.checkers.accused(self, item.what.evidence)
            case Refusal():
                self.world.checkers.rejected(item.what.reason)
                self._suspect(self.world.index_of(item.what.peer), item.what.reason)
            case Proposing():
                pass
            case _:
                assert_never(item.what)

    def _blamed(self, item: Blame) -> None:
        self.world.checkers.rejected(str(item.offence))
        self._suspect(self.engines.index_of_peer(item.peer), str(item.offence))

    def _suspect(self, index: int, reason: str) -> None:
        self.world.trace(self.index, f"refuses what {index} sent: {reason}")
        if self.honest and self.world.hosts[index].honest:
            raise SafetyViolation(f"blame: node {self.index} holds against the honest node {index}: {reason}")

    def _committed(self, block: Block, certificate: Certificate, root: Hash) -> None:
        audited = self.engines.auditor.follow(block, certificate)
        self.durable.states.append(replace(audited, root=root))
        decided = chain_block(block)
        self.durable.chain.append((decided, certificate))
        height = block.header.height
        self.durable.bodies = {h: b for h, b in self.durable.bodies.items() if b.header.height > height}
        self.world.checkers.committed(self, decided, certificate)

    # What travels.

    def _post(self, item: Post) -> None:
        payload = item.payload
        packet: Packet
        if isinstance(payload, ConsensusPayload):
            packet = decode_message(payload.data)
        elif isinstance(payload, BodyRequest):
            packet = payload
        else:
            packet = Lane(message_id(payload), encode_payload(payload))
        if item.to is None:
            self.send_all(packet)
        else:
            self.send(self.world.index_of(item.to), packet)

    def receive(self, sender: int, packet: Packet) -> None:
        if not self.running:
            return
        address = self.world.hosts[sender].me
        match packet:
            case Question():
                self._serve(sender, packet.item)
                return
            case Answered():
                self._answered(packet.answer)
                return
            case _ if address not in self.engine.facts.validators:
                # Lanes are between validators.
                return
            case Proposal() | Ballot() | ViewChange() | DecidedNotice() | HeightNotice():
                data = self.engines.encoded(packet)
                self.give(Heard(address, ConsensusPayload(data, isinstance(packet, Proposal))))
            case BodyRequest():
                made = None if self.honest else self.durable.bodies.get(packet.block_hash)
                if made is not None:
                    self.send(sender, _lane_of(BodyAnswer(made.body)))
                else:
                    self.give(Heard(address, packet))
            case Lane():
                self.give(Heard(address, decode_payload(packet.kind, packet.data)))
            case _:
                raise TypeError(f"an engine is not sent {type(packet).__name__}")

    def take_work(self, operation: Operation, *, forward: bool) -> None:
        raise TypeError("engines take transactions: see `offer`")

    def offer(self, transactions: tuple[Transaction, ...]) -> None:
        """As a client does."""
        if self.running:
            self.give(Offered(CLIENT_TICKET, transactions, from_client=True))

    # Catching up.

    def _ask(self, item: FetchHeaders | FetchBlocks) -> None:
        kind = HeadersFetched if isinstance(item, FetchHeaders) else BlocksFetched
        self._asked.add((kind, item.job))
        self.send(self.engines.index_of_peer(item.peer), Question(item))
        life = self.life

        def give_up() -> None:
            if self.running and self.life == life:
                self._answered(kind(item.job, None))

        self.world.heap.after(FETCH_WAIT_US, give_up)

    def _answered(self, answer: Fetched) -> None:
        key = (type(answer), answer.job)
        if key in self._asked:
            self._asked.discard(key)
            self.give(answer)

    def _serve(self, asker: int, item: FetchHeaders | FetchBlocks) -> None:
        lie = 0 if self.honest else self.world.chance.randrange(3)
        if lie == 1:
            return
        with self.chain.read() as reader:
            if isinstance(item, FetchHeaders):
                headers = [(e.header, e.certificate) for e in headers_after(reader, item.locator, HEADERS_ASKED)]
                answer: Fetched = HeadersFetched(item.job, tuple(headers[1:] if lie else headers))
            else:
                blocks = [each.block for each in blocks_from(reader, item.first, item.count)]
                answer = BlocksFetched(item.job, tuple(blocks[::-1] if lie else blocks))
        self.send(asker, Answered(answer))

    # What an adversary makes.

    def make_block(
        self,
        view: View,
        certificate: Certificate | None,
        operations: Sequence[Operation],
        time_ms: int,
        proposer: Address | None = None,
    ) -> ChainBlock:
        ledger, document = self.ledger, self.engines.document
        nonce = read_account(ledger.state, self.me).nonce
        payloads = [Data(operation.serial.to_bytes(8, "big")) for operation in operations]
        made = [sign(document, self.key, nonce, payload) for payload in payloads[:1]]
        timestamp_ms = max(time_ms, ledger.head.timestamp_ms + 1)
        # Who was jailed for its lies can make blocks only in another's name.
        own = self.me if self.me in self.state.validators else self.state.schedule.leader
        proposal = LedgerProposal(proposer or own, view, timestamp_ms, certificate)
        built = ledger.propose(proposal, made, lambda key: True)
        ledger.drop(built.applied.block.hash)
        return chain_block(built.applied.block)

    def spoil(self, proposal: Proposal) -> ChainBlock:
        header = replace(proposal.header, state_root=Hash(bytes(32)))
        own = self.durable.bodies.get(proposal.header.hash)
        transactions = () if own is None else decode_block(own.body).transactions
        return chain_block(Block(header, proposal.parent_certificate, transactions))

    def compact(self, block: ChainBlock) -> bytes:
        return compact_body(decode_block(block.body).transactions, self.engines.document.hash)


def chain_block(block: Block) -> ChainBlock:
    return ChainBlock(block.header, block.parent_certificate, block.encode())


def _lane_of(payload: BodyAnswer) -> Lane:
    return Lane(message_id(payload), encode_payload(payload))


def on_engine(role: type[Role]) -> type[Role]:
    """The same strategy, on an engine."""
    if role is Host:
        return cast(type[Role], EngineHost)
    return cast(type[Role], type(f"Engine{role.__name__}", (role, EngineHost), {}))


class EngineWorld(World):
    """Hosts, their payers and clients have keys, in this order."""

    def __init__(self, scene: Scene, make_host: MakeHost | None = None) -> None:
        super().__init__(scene, make_host or EngineHost)
        self.clients = Clients(self.document, self.auditor, self.ring.keys[-CLIENTS:])
        self._peers = {key.validator(1).network_id: index for index, key in enumerate(self.ring.keys)}
        self._encoded: dict[int, tuple[Message, bytes]] = {}

    def make_ring(self) -> KeyRing:
        return KeyRing(2 * self.scene.nodes + CLIENTS)

    def first_state(self) -> LedgerState:
        scene = self.scene
        self.document = make_genesis(scene.parameters, self.ring, scene.stakes, scene.seed)
        self.auditor = Auditor(self.document, self.ring)
        return self.auditor.states[0]

    def cast(self, role: type[Role], index: int) -> Role:
        return (role if issubclass(role, EngineHost) else on_engine(role))(self, index)

    def replace(self, host: Host) -> None:
        old = self.hosts[host.index]
        if isinstance(host, EngineHost) and isinstance(old, EngineHost):
            host.store = old.store
        super().replace(host)

    def index_of_peer(self, peer: PeerId) -> int:
        return self._peers[peer]

    def encoded(self, message: Message) -> bytes:
        """One message arrives at many."""
        known = self._encoded.get(id(message))
        if known is None or known[0] is not message:
            if len(self._encoded) > 4_096:
                self._encoded.clear()
            known = self._encoded[id(message)] = (message, encode_message(message))
        return known[1]

    def refusal(self, state: LedgerState, block: ChainBlock) -> Refused | None:
        """The auditor executed it before anybody asks."""
        return None

    def new_work(self, kind: OperationKind, subject: Address, amount: int) -> Operation:
        """The operation says what is wanted; a transaction of a client, or of the validator in question, does it."""
        running = [host for host in self.hosts if host.running and host.honest]
        if running:
            host = self.chance.choice(running)
            if kind is OperationKind.DATA:
                made = tuple(self.clients.next(self.chance) for _ in range(self.chance.randint(1, 3)))
            else:
                made = (self.clients.move(self.ring.keys[self.index_of(subject)], kind, amount),)
            if isinstance(host, EngineHost):
                host.offer(made)
        return Operation(0, kind, subject, amount)
