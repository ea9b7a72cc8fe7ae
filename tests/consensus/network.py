"""Replicas in memory with the plainest host that keeps the contract of `consensus`; nothing happens by itself.

Messages lie in one queue until they are delivered or dropped; timers fire when told to; a crash loses everything that
was not made durable. Signatures are the deterministic stand-ins, and every one is verified.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from consensus import (
    Accuse,
    AnswerDecided,
    ArmTimer,
    BlockChecked,
    BlockProposed,
    Broadcast,
    CaughtUp,
    CheckBlock,
    Decide,
    DisarmTimer,
    Effect,
    Event,
    Halt,
    HeightStarted,
    LaneChanged,
    MessageReceived,
    Observe,
    Persist,
    Record,
    Replica,
    RequestBlock,
    RequestCatchUp,
    Rule,
    Send,
    SendAll,
    SignGuard,
    TimerFired,
    TimerId,
    TimerKind,
    VotingAllowed,
    WorkPending,
    authenticate,
    decode_record,
    encode_record,
    signed_by,
)
from consensus.effects import VotingMessage
from tests.chains import Member, fake_members, header_of, set_of, small_genesis
from tests.signing import fake_verify_all
from trellis.certificate import Certificate
from trellis.evidence import Evidence, evidence_fault
from trellis.header import Header
from trellis.messages import DecidedNotice, Message, decode_message, encode_message, message_height
from trellis.parameters import Parameters
from trellis.schedule import Decided, Schedule, first_schedule, next_schedule
from trellis.types import ZERO_HASH, Address, Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind


@dataclass(frozen=True)
class Block:
    header: Header
    parent_certificate: Certificate | None
    body: bytes


@dataclass(frozen=True)
class Link:
    """One decided block of a node's chain."""

    block: Block
    certificate: Certificate


@dataclass
class Disk:
    """What survives a crash."""

    log: list[bytes] = field(default_factory=list)
    archive: list[bytes] = field(default_factory=list)
    guard: SignGuard | None = None
    chain: list[Link] = field(default_factory=list)
    blocks: dict[Hash, Block] = field(default_factory=dict)


@dataclass(frozen=True)
class Envelope:
    number: int
    sender: int
    to: int
    message: Message


class Host:
    """One node: a replica and the host's duties."""

    def __init__(self, network: Network, index: int) -> None:
        self.network = network
        self.index = index
        self.member = network.members[index]
        self.disk = Disk(guard=SignGuard(network.genesis_hash))
        self.events: deque[Event] = deque()
        self.timers: dict[TimerKind, ArmTimer] = {}
        self.observed: list[Observe] = []
        self.accused: list[Evidence] = []
        self.halted: Halt | None = None
        self.guard_refusals: list[Rule] = []
        self.crash_after: Callable[[Record], bool] | None = None
        """Crash as soon as such a record is durable: before the guard, before the signature."""
        self.work: bool | None = None
        """None: nothing to do; False: something; True: overdue."""
        self.unavailable = False
        """Blocks cannot be made or had here: requests stay open."""
        self.is_up = False
        self._is_running = False
        self.waiting_checks: list[CheckBlock] = []
        self.waiting_blocks: list[RequestBlock] = []
        self.replica = Replica(self.member.address, network.genesis_hash)

    def start(self, *, observing: bool = False) -> None:
        self.is_up = True
        self.timers, self.waiting_checks, self.waiting_blocks = {}, [], []
        self.events.clear()
        records = [decode_record(data) for data in self.disk.log]
        me, genesis_hash = self.member.address, self.network.genesis_hash
        self.replica = Replica.restore(me, genesis_hash, records, observing=observing)
        self.begin_height()

    def crash(self) -> None:
        self.is_up = False
        self.timers.clear()
        self.events.clear()

    def begin_height(self) -> None:
        height = Height(len(self.disk.chain) + 1)
        network = self.network
        tip = self.disk.chain[-1].certificate if self.disk.chain else None
        schedule = network.schedule_after(self.disk.chain)
        self.feed(HeightStarted(height, network.set_at(height), schedule, network.parameters, tip))
        if self.work is not None:
            self.feed(WorkPending(self.work))

    def feed(self, event: Event) -> None:
        """Takes the event after all that came before it, and the host's own answers after that."""
        self.events.append(event)
        if self._is_running:
            return
        self._is_running = True
        try:
            while self.events and self.is_up and self.halted is None:
                for effect in self.replica.step(self.events.popleft()):
                    if self.is_up:
                        self.network.trace(self, effect)
                        self._carry_out(effect)
        finally:
            self._is_running = False

    def _carry_out(self, effect: Effect) -> None:
        match effect:
            case Persist():
                data = encode_record(effect.record)
                self.disk.log.append(data)
                if effect.record.is_archival:
                    self.disk.archive.append(data)
                if self.crash_after is not None and self.crash_after(effect.record):
                    self.crash_after = None
                    self.crash()
            case Broadcast():
                self._sign_and_send(effect.message)
            case SendAll():
                self.network.post_all(self.index, effect.message)
            case Send():
                self.network.post(self.index, self.network.index_of(effect.to), effect.message)
            case AnswerDecided():
                notice = DecidedNotice(self.disk.chain[effect.height - 1].certificate)
                self.network.post(self.index, self.network.index_of(effect.to), notice)
            case ArmTimer():
                self.timers[effect.timer.kind] = effect
            case DisarmTimer():
                self.timers.pop(effect.kind, None)
            case RequestBlock():
                self.waiting_blocks.append(effect)
                self.make_blocks()
            case CheckBlock():
                self.waiting_checks.append(effect)
                self.check_blocks()
            case Decide():
                self._commit(effect)
            case RequestCatchUp():
                self._sync()
            case Accuse():
                self.accused.append(effect.evidence)
            case Halt():
                self.halted = effect
            case Observe():
                self.observed.append(effect)
                self.network.fired[effect.rule] = self.network.fired.get(effect.rule, 0) + 1

    def _sign_and_send(self, message: VotingMessage) -> None:
        vote = message.signed.vote
        guard = self.disk.guard
        if guard is None:
            return
        refusal = guard.check(vote)
        if refusal is not None:
            self.guard_refusals.append(refusal)
            return
        self.disk.guard = guard.after(vote)
        signature = self.member.sign(vote, self.network.genesis_hash).signature
        signed = signed_by(message, signature)
        self.network.post_all(self.index, signed)
        self.feed(MessageReceived(signed, self.member.address))

    def make_blocks(self) -> None:
        """Answers what can be answered of the requests for blocks."""
        wanted, self.waiting_blocks = self.waiting_blocks, []
        for request in wanted:
            if request.block_hash is not None:
                block = self.network.find_block(self.index, request.block_hash)
            else:
                block = None if self.unavailable else self.network.make_block(self, request)
            if block is None or self.unavailable:
                self.waiting_blocks.append(request)
                continue
            self.disk.blocks[block.header.hash] = block
            header, parent, body = block.header, block.parent_certificate, block.body
            self.feed(BlockProposed(request.height, request.view, header, parent, body))

    def check_blocks(self) -> None:
        """Answers what can be answered of the requests for validation."""
        wanted, self.waiting_checks = self.waiting_checks, []
        for request in wanted:
            proposal = request.proposal
            known = self.disk.blocks.get(request.block_hash)
            is_missing = self.unavailable or self.network.withholds(request.block_hash)
            if known is None and proposal is not None and not is_missing:
                known = Block(proposal.header, proposal.parent_certificate, proposal.body)
            if known is None:
                self.waiting_checks.append(request)
                continue
            valid = self._is_valid(known) and request.block_hash not in self.network.invalid
            if valid:
                self.disk.blocks[request.block_hash] = known
            self.feed(BlockChecked(request.height, request.view, request.block_hash, valid))

    def _is_valid(self, block: Block) -> bool:
        header, chain = block.header, self.disk.chain
        if header.height != len(chain) + 1:
            return False
        if not chain:
            return header.parent_hash == self.network.genesis_hash and block.parent_certificate is None
        parent, certificate = chain[-1].block.header, block.parent_certificate
        if header.parent_hash != parent.hash or header.timestamp_ms <= parent.timestamp_ms or certificate is None:
            return False
        if (certificate.kind, certificate.height, certificate.block_hash) != (
            VoteKind.COMMIT,
            parent.height,
            parent.hash,
        ):
            return False
        if certificate.hash != header.parent_certificate_hash or certificate.view < parent.view:
            return False
        validators = self.network.set_at(parent.height)
        return certificate.fault(self.network.genesis_hash, validators, fake_verify_all) is None

    def _commit(self, effect: Decide) -> None:
        if len(self.disk.chain) >= effect.height:
            return
        block = self.disk.blocks[effect.block_hash]
        self.disk.chain.append(Link(block, effect.certificate))
        self.work = None if self.network.work_ends else self.work
        self.begin_height()

    def _sync(self) -> None:
        """Copies what any reachable node has; then says so."""
        before = len(self.disk.chain)
        for other in self.network.reachable(self.index):
            for link in other.disk.chain[len(self.disk.chain) :]:
                self.disk.chain.append(link)
                self.disk.blocks[link.block.header.hash] = link.block
        self.feed(CaughtUp(Height(len(self.disk.chain))))
        if len(self.disk.chain) > before:
            self.begin_height()


class Network:
    """All nodes and what is between them. Nodes are numbered by ascending address."""

    def __init__(
        self,
        powers: Sequence[int] = (1, 1, 1, 1),
        parameters: Parameters | None = None,
        silent: Iterable[int] = (),
        verify: bool = True,
    ) -> None:
        self.members: tuple[Member, ...] = tuple(sorted(fake_members(powers), key=lambda member: member.address))
        self.genesis = small_genesis(self.members, parameters=parameters)
        self.genesis_hash = self.genesis.hash
        self.parameters = self.genesis.parameters
        self.sets: dict[int, ValidatorSet] = {1: set_of(self.members)}
        """Validator sets from the height on at which they begin."""
        self.verify = verify
        self.queue: list[Envelope] = []
        self.cut: set[tuple[int, int]] = set()
        self.withheld: dict[Hash, None] = {}
        self.invalid: dict[Hash, None] = {}
        self.names: dict[Hash, str] = {}
        self.fired: dict[Rule, int] = {}
        self.trace: Callable[[Host, Effect], None] = lambda _host, _effect: None
        self.work_ends = False
        self._posted = 0
        self._schedules: dict[Hash, Schedule] = {}
        self.hosts = [Host(self, index) for index in range(len(powers))]
        self.byzantine = frozenset(silent)
        """Nodes without a replica: what they say is up to the test."""

    def start(self) -> None:
        for host in self.hosts:
            if host.index not in self.byzantine:
                host.start()

    def index_of(self, address: Address) -> int:
        return next(index for index, member in enumerate(self.members) if member.address == address)

    def address(self, index: int) -> Address:
        return self.members[index].address

    def set_at(self, height: Height) -> ValidatorSet:
        return self.sets[max(start for start in self.sets if start <= height)]

    def schedule_after(self, chain: Sequence[Link]) -> Schedule:
        if not chain:
            return first_schedule(self.set_at(Height(1)))
        header, parent = chain[-1].block.header, chain[-1].block.parent_certificate
        known = self._schedules.get(header.hash)
        if known is None:
            before = self.schedule_after(chain[:-1])
            decided = Decided(header.view, header.proposer, None if parent is None else parent.view)
            now, following = self.set_at(header.height), self.set_at(Height(header.height + 1))
            known = self._schedules[header.hash] = next_schedule(before, now, following, decided, self.parameters)
        return known

    def make_block(self, host: Host, request: RequestBlock) -> Block:
        chain = host.disk.chain
        parent = chain[-1].block.header if chain else None
        certificate = request.parent_certificate
        header = header_of(
            self.genesis,
            request.height,
            host.member.address,
            view=request.view,
            parent_hash=self.genesis_hash if parent is None else parent.hash,
            parent_certificate_hash=ZERO_HASH if certificate is None else certificate.hash,
            validators_hash=self.set_at(request.height).hash,
            next_validators_hash=self.set_at(Height(request.height + 1)).hash,
        )
        self.name(header.hash)
        return Block(header, certificate, b"body of " + header.hash[:4])

    def name(self, block_hash: Hash) -> str:
        """A, B, C… in the order in which blocks appear."""
        number = len(self.names)
        letter = chr(ord("A") + number % 26) + (str(number // 26) if number >= 26 else "")
        return self.names.setdefault(block_hash, letter)

    def named(self, name: str) -> Hash:
        for block_hash, known in self.names.items():
            if known == name:
                return block_hash
        raise ValueError(f"no block is called {name}")

    def block_named(self, name: str) -> Block:
        block_hash = self.named(name)
        for host in self.hosts:
            if block_hash in host.disk.blocks:
                return host.disk.blocks[block_hash]
        raise ValueError(f"nobody has block {name}")

    def find_block(self, index: int, block_hash: Hash) -> Block | None:
        """From the own store, or from a reachable node that PREPAREd it."""
        own = self.hosts[index].disk.blocks.get(block_hash)
        if own is not None or self.withholds(block_hash):
            return own
        others = (host.disk.blocks.get(block_hash) for host in self.reachable(index))
        return next((block for block in others if block is not None), None)

    def withholds(self, block_hash: Hash) -> bool:
        return block_hash in self.withheld

    def reachable(self, index: int) -> Iterator[Host]:
        return (h for h in self.hosts if h.is_up and h.index != index and (h.index, index) not in self.cut)

    def up(self) -> Iterator[Host]:
        return (host for host in self.hosts if host.is_up)

    def post(self, sender: int, to: int, message: Message) -> None:
        """Every message goes through its bytes: what cannot travel must not be sent."""
        if (sender, to) in self.cut:
            return
        self._posted += 1
        self.queue.append(Envelope(self._posted, sender, to, message))

    def post_all(self, sender: int, message: Message) -> None:
        travelled = decode_message(encode_message(message)) if self.verify else message
        for host in self.hosts:
            if host.index != sender:
                self.post(sender, host.index, travelled)

    def deliver(self, envelope: Envelope) -> Rule | None:
        """To the replica, if it verifies; otherwise the rule that refuses it."""
        host = self.hosts[envelope.to]
        if not host.is_up or host.halted is not None:
            return None
        message = envelope.message
        if self.verify:
            height = min(message_height(message), host.replica.height)
            checked = authenticate(message, self.genesis_hash, self.set_at(Height(max(1, height))), fake_verify_all)
            if isinstance(checked, Rule):
                self.fired[checked] = self.fired.get(checked, 0) + 1
                return checked
            message = checked
        host.feed(MessageReceived(message, self.address(envelope.sender)))
        return None

    def take(self, matches: Callable[[Envelope], bool]) -> list[Envelope]:
        """Removes from the queue, in order."""
        taken = [envelope for envelope in self.queue if matches(envelope)]
        self.queue = [envelope for envelope in self.queue if not matches(envelope)]
        return taken

    def deliver_where(self, matches: Callable[[Envelope], bool]) -> int:
        """Those in the queue now; what they cause waits."""
        taken = self.take(matches)
        for envelope in taken:
            self.deliver(envelope)
        return len(taken)

    def stabilise(self, until: int | None = None, limit: int = 100_000) -> int:
        """Delivers in order until nothing is left, or until every node that runs has decided height `until`."""
        delivered = 0
        while self.queue and delivered < limit:
            if until is not None and all(len(host.disk.chain) >= until for host in self.up()):
                break
            self.deliver(self.queue.pop(0))
            delivered += 1
        return delivered

    def fire(self, index: int, kind: TimerKind) -> bool:
        """Fires the armed timer of that kind; False if none is."""
        armed = self.hosts[index].timers.pop(kind, None)
        if armed is None:
            return False
        self.hosts[index].feed(TimerFired(armed.timer))
        return True

    def fire_stale(self, index: int, kind: TimerKind) -> None:
        self.hosts[index].feed(TimerFired(TimerId(kind, 0)))

    def work(self, overdue: bool = True, nodes: Iterable[int] | None = None) -> None:
        for host in self.up():
            if nodes is None or host.index in nodes:
                host.work = overdue
                host.feed(WorkPending(overdue))

    def partition(self, *groups: Iterable[int]) -> None:
        self.cut.clear()
        sides = [frozenset(group) for group in groups]
        for one in range(len(self.hosts)):
            for other in range(len(self.hosts)):
                if one != other and not any(one in side and other in side for side in sides):
                    self.cut.add((one, other))
        self.queue = [e for e in self.queue if (e.sender, e.to) not in self.cut]

    def heal(self, reconnect: bool = True) -> None:
        """Opens all lanes; with `reconnect` both ends are told."""
        opened = sorted(self.cut)
        self.cut.clear()
        if reconnect:
            for one, other in opened:
                if self.hosts[one].is_up:
                    self.hosts[one].feed(LaneChanged(self.address(other), True))

    def allow_voting(self, index: int) -> None:
        self.hosts[index].feed(VotingAllowed())

    def heights(self) -> list[int]:
        return [len(host.disk.chain) for host in self.hosts]

    def check_agreement(self) -> None:
        """No two honest chains differ, every certificate verifies, every accusation holds."""
        honest = [host for host in self.hosts if host.index not in self.byzantine]
        longest = max(honest, key=lambda host: len(host.disk.chain)).disk.chain
        for host in honest:
            for mine, other in zip(host.disk.chain, longest, strict=False):
                if mine.block.header.hash != other.block.header.hash:
                    raise AssertionError(f"node {host.index} decided another block {mine.block.header.height}")
            for link in host.disk.chain:
                validators = self.set_at(link.block.header.height)
                if link.certificate.fault(self.genesis_hash, validators, fake_verify_all) is not None:
                    raise AssertionError(f"node {host.index} holds a bad certificate")
            for evidence in host.accused:
                fault = evidence_fault(evidence, self.genesis_hash, self.set_at(evidence.height), fake_verify_all)
                if fault is not None or self.index_of(evidence.offender) not in self.byzantine:
                    raise AssertionError(f"node {host.index} accuses falsely: {fault}")

    def forged_proposal_block(self, proposer: int, height: int, view: int, salt: int, chain: Sequence[Link]) -> Block:
        """A well-formed block of a node without a replica; the salt tells two of them apart."""
        parent = chain[-1] if chain else None
        certificate = None if parent is None else parent.certificate
        header = header_of(
            self.genesis,
            height,
            self.address(proposer),
            view=View(view),
            parent_hash=self.genesis_hash if parent is None else parent.block.header.hash,
            parent_certificate_hash=ZERO_HASH if certificate is None else certificate.hash,
        )
        header = replace(header, timestamp_ms=header.timestamp_ms + salt)
        self.name(header.hash)
        return Block(header, certificate, b"forged")
