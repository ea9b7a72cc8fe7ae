"""A simulated host: drives one production replica exactly as the core's manual says; may crash between any two steps.

What is sent over the network is a `Packet`; bodies are fetched by hash from whoever proposed or PREPAREd them, so a
withheld body matters. An adversary is a subclass that changes what is sent or signed; the honest code is here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, assert_never

from consensus import Replica, Rule
from consensus.effects import (
    Accuse,
    AnswerDecided,
    ArmTimer,
    Broadcast,
    CheckBlock,
    Decide,
    DisarmTimer,
    Effect,
    Halt,
    Observe,
    Persist,
    RequestBlock,
    RequestCatchUp,
    Send,
    SendAll,
    TimerId,
    TimerKind,
    VotingMessage,
    signed_by,
)
from consensus.events import (
    BlockChecked,
    BlockProposed,
    CaughtUp,
    Event,
    HeightStarted,
    LaneChanged,
    MessageReceived,
    QuorumRtt,
    TimerFired,
    VotingAllowed,
    WorkPending,
)
from consensus.guard import Quarantine, SignGuard
from node.simulator import ledger
from node.simulator.disk import Disk
from node.simulator.ledger import ChainBlock, LedgerState, Operation, OperationKind
from node.simulator.network import US_PER_MS
from node.work import BodyRequest
from trellis.certificate import Certificate
from trellis.constants import Context
from trellis.messages import Ballot, DecidedNotice, Message, Proposal
from trellis.receipt import certified_fault
from trellis.types import Address, Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind

if TYPE_CHECKING:
    from node.simulator.world import World

FETCH_RETRY_US: Final = 60 * US_PER_MS
CATCH_UP_WAIT_US: Final = 400 * US_PER_MS
CATCH_UP_BLOCKS: Final = 64
RTT_PERIOD_US: Final = 500 * US_PER_MS
CHECK_US: Final = 500
"""Validating a block takes this long."""


@dataclass(frozen=True, slots=True)
class BodyReply:
    block: ChainBlock


@dataclass(frozen=True, slots=True)
class ChainRequest:
    above: Height


@dataclass(frozen=True, slots=True)
class ChainReply:
    blocks: tuple[tuple[ChainBlock, Certificate], ...]


@dataclass(frozen=True, slots=True)
class Work:
    operation: Operation


class Parcel:
    """What hosts of another kind send each other beside messages and requests for bodies."""

    __slots__ = ()


Packet = Message | BodyRequest | BodyReply | ChainRequest | ChainReply | Work | Parcel


@dataclass(slots=True)
class Want:
    """A body that is being looked for."""

    effect: CheckBlock | RequestBlock
    sources: list[int]
    tried: int = 0


@dataclass(slots=True)
class Durable:
    """What survives a crash: committed chain, validated bodies, log and guard."""

    disk: Disk
    states: list[LedgerState]
    chain: list[tuple[ChainBlock, Certificate]] = field(default_factory=list)
    bodies: dict[Hash, ChainBlock] = field(default_factory=dict)


class Crash(Exception):
    """The host loses power here; whatever follows in the tuple of effects does not happen."""


class Host:
    """One node. `life` counts restarts: what was scheduled for an earlier life is void."""

    honest = True

    def __init__(self, world: World, index: int) -> None:
        self.world = world
        self.index = index
        self.key = world.ring.keys[index]
        self.me: Address = self.key.address
        first = world.genesis
        self.durable = Durable(Disk(SignGuard(first.genesis_hash)), [first])
        self.life = 0
        self.running = False
        self.halted: Halt | None = None
        self.suspicious = False
        """Log or guard was missing or old at a start, and the quarantine is not over."""
        self.lost_log = False
        """It ever was."""
        self.forgot_votes_of = Height(0)
        """The height at which it lost its log after it had voted there."""
        self.crash_after: int | None = None
        """Effects from now until power is lost; None for never."""
        self.clock_skew_ms = 0
        self.timer_rate_permille = 1_000
        self._fresh_start()

    def _fresh_start(self) -> None:
        self._events: deque[Event] = deque()
        self._busy = False
        self._timers: dict[TimerKind, TimerId] = {}
        self._wants: dict[Hash, Want] = {}
        self._prepared_by: dict[Hash, list[int]] = {}
        self._block_request: RequestBlock | None = None
        self._pool: dict[int, Operation] = {}
        self._accused: set[bytes] = set()
        self._catching_up = False
        self._quarantine: Quarantine | None = None
        self.replica: Replica | None = None

    @property
    def state(self) -> LedgerState:
        """After the last committed block."""
        return self.durable.states[-1]

    @property
    def height(self) -> Height:
        return self.state.height

    def start(self, *, suspicious: bool = False) -> None:
        """`suspicious`: log or guard is missing or old, so observe first."""
        self.life += 1
        self._fresh_start()
        self.running = True
        self.suspicious = suspicious or self.suspicious
        self.lost_log = self.lost_log or suspicious
        self._boot()
        self._lanes: frozenset[int] = frozenset()
        self.notice_lanes(self.world.lanes_of(self.index))
        self._measure_often()

    def _boot(self) -> None:
        """The core, from what the disk kept."""
        records = self.durable.disk.records()
        genesis_hash = self.world.genesis.genesis_hash
        self.replica = Replica.restore(self.me, genesis_hash, records, observing=self.suspicious)
        if self.suspicious:
            self._quarantine = Quarantine(self.me, self.state.validators)
        self._pool = {op.serial: op for op in self.world.pending_work() if op.serial not in self.state.done}
        self._start_height()

    def override_quarantine(self) -> None:
        """The operator's named override: vote again before the quarantine is over."""
        self._quarantine = None
        self.suspicious = False
        self.feed(VotingAllowed())

    @property
    def is_mute(self) -> bool:
        """It cannot say at this height what it voted for, so its guard may refuse whatever could help (rule G)."""
        return self.forgot_votes_of == self.height + 1

    def notice_lanes(self, reached: list[int]) -> None:
        now = frozenset(reached)
        for index in sorted(now ^ self._lanes):
            self.feed(LaneChanged(self.world.hosts[index].me, index in now))
        self._lanes = now

    def stop(self, *, clean: bool = False) -> None:
        """kill −9, unless `clean`."""
        if not self.running:
            return
        self.running = False
        self.life += 1
        self.crash_after = None
        if clean:
            self.durable.disk.sync()
        else:
            self.durable.disk.crash(self.world.chance)
        self.world.trace(self.index, "stopped" if clean else "crashed")

    def _measure_often(self) -> None:
        life = self.life
        # A network that makes a block in minutes need not measure twice a second.
        period_us = max(RTT_PERIOD_US, self.state.parameters.heartbeat_ms * US_PER_MS // 8)

        def tick() -> None:
            if self.running and self.life == life:
                self._measure()
                self.world.heap.after(period_us, tick)

        self.world.heap.after(period_us, tick)

    def _later(self, delay_us: int, event: Event) -> None:
        life = self.life

        def arrive() -> None:
            if self.running and self.life == life:
                self.feed(event)

        self.world.heap.after(delay_us, arrive)

    def _measure(self) -> None:
        rtt_ms = self.world.quorum_rtt_ms(self.index)
        if rtt_ms is not None:
            self.feed(QuorumRtt(rtt_ms))

    def feed(self, event: Event) -> None:
        """Events that arise while effects are carried out wait until the whole tuple is done."""
        self._events.append(event)
        if self._busy:
            return
        self._busy = True
        try:
            while self._events and self.running and self.replica is not None:
                self._carry_out(self.replica.step(self._events.popleft()))
        except Crash:
            self.stop()
            self.world.recover_later(self)
        finally:
            self._busy = False

    def _carry_out(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            if self.crash_after is not None:
                self.crash_after -= 1
                if self.crash_after < 0:
                    raise Crash
            if not isinstance(effect, Persist):
                self.durable.disk.sync()
            self._do(effect)
        self.durable.disk.sync()

    def _do(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self.durable.disk.append(effect.record)
            case Broadcast():
                self._sign_and_send(effect)
            case SendAll():
                self.send_all(effect.message)
            case Send():
                self.send(self.world.index_of(effect.to), effect.message)
            case AnswerDecided():
                self._answer(effect)
            case ArmTimer():
                self._arm(effect)
            case DisarmTimer():
                self._timers.pop(effect.kind, None)
            case RequestBlock():
                self._make_block(effect)
            case CheckBlock():
                self._check(effect)
            case Decide():
                self._decide(effect)
            case RequestCatchUp():
                self._catch_up(effect)
            case Accuse():
                self.world.checkers.accused(self, effect.evidence)
                self._report(effect)
            case Halt():
                self.halted = effect
                self.running = False
                self.world.checkers.halted(self, effect)
            case Observe():
                self.world.observed(self, effect)
            case _:
                assert_never(effect)

    def _sign_and_send(self, effect: Broadcast) -> None:
        vote = effect.message.signed.vote
        refusal = self.durable.disk.guard.check(vote)
        if refusal is not None:
            self.world.checkers.guard_refused(self, vote, refusal)
            return
        self.durable.disk.guard = self.durable.disk.guard.after(vote)
        if self.crash_after == 0:
            # Between guard and signature: the guard may be ahead of what was ever sent, never of the log.
            raise Crash
        signature = self.key.sign(vote.signing_bytes(self.world.genesis.genesis_hash), Context.VOTE.value)
        message = signed_by(effect.message, signature)
        self.world.checkers.released(self, message)
        self._signed(effect, message, signature)

    def _signed(self, effect: Broadcast, message: VotingMessage, signature: bytes) -> None:
        self.send_all(message)
        self._events.append(MessageReceived(message, self.me))

    def send_all(self, packet: Packet) -> None:
        self.world.send(self.index, self.world.others(self.index), packet)

    def send(self, to: int, packet: Packet) -> None:
        self.world.send(self.index, (to,), packet)

    def _answer(self, effect: AnswerDecided) -> None:
        if effect.height <= self.height:
            _, certificate = self.durable.chain[effect.height - 1]
            self.send(self.world.index_of(effect.to), DecidedNotice(certificate))

    def _arm(self, effect: ArmTimer) -> None:
        self._timers[effect.timer.kind] = effect.timer
        life, timer = self.life, effect.timer

        def fire() -> None:
            if self.running and self.life == life and self._timers.get(timer.kind) == timer:
                del self._timers[timer.kind]
                self.feed(TimerFired(timer))

        self.world.heap.after(effect.delay_ms * self.timer_rate_permille, fire)

    def _report(self, effect: Accuse) -> None:
        """Evidence becomes an operation like any other; the serial makes one of the same accusation everywhere."""
        serial = self.world.evidence_serial(effect.evidence)
        if serial not in self.state.done:
            self.take_work(Operation(serial, OperationKind.EVIDENCE, effect.evidence.offender, 0), forward=True)

    # What arrives.

    def receive(self, sender: int, packet: Packet) -> None:
        if not self.running or self.replica is None:
            return
        match packet:
            case BodyRequest():
                self._serve_body(sender, packet)
            case BodyReply():
                self._body_arrived(packet)
            case ChainRequest():
                self._serve_chain(sender, packet)
            case ChainReply():
                self._chain_arrived(packet)
            case Work():
                self.take_work(packet.operation, forward=False)
            case Parcel():
                raise TypeError("a parcel is for another kind of host")
            case _:
                self._hear(sender, packet)

    def _hear(self, sender: int, message: Message) -> None:
        if self.replica is None:
            return
        validators = self._set_for(message)
        if validators is None:
            return
        verified = self.world.authenticated(message, validators)
        if isinstance(verified, Rule):
            self.world.checkers.rejected(verified.name)
            return
        if isinstance(verified, Ballot) and verified.signed.vote.kind is VoteKind.PREPARE:
            self._remember_prepare(verified)
        if isinstance(verified, DecidedNotice) and self._quarantine is not None:
            self._quarantine.report(self.world.hosts[sender].me, verified.certificate.height)
        self.feed(MessageReceived(verified, self.world.hosts[sender].me))

    def _set_for(self, message: Message) -> ValidatorSet | None:
        """V(height) where this host knows it; the next height's messages are verified against the current set."""
        height = message.certificate.height if isinstance(message, DecidedNotice) else None
        if height is not None and 0 < height <= self.height:
            return self.durable.states[height - 1].validators
        return self.state.validators

    def _remember_prepare(self, ballot: Ballot) -> None:
        block_hash = ballot.signed.vote.block_hash
        if block_hash is not None and len(self._prepared_by) < 64:
            self._prepared_by.setdefault(block_hash, []).append(self.world.index_of(ballot.signed.signer))

    # Blocks.

    def clock_ms(self) -> int:
        return max(0, self.world.heap.now_us // US_PER_MS + self.clock_skew_ms)

    def _make_block(self, effect: RequestBlock) -> None:
        if effect.height != self.height + 1:
            return
        if effect.block_hash is not None:
            block = self.durable.bodies.get(effect.block_hash)
            if block is not None:
                self._events.append(_proposed(effect, block))
            else:
                self._want(effect.block_hash, effect, None)
            return
        if not effect.urgent and not self._pool:
            self._block_request = effect
            return
        self._block_request = None
        block = self.build(effect)
        self.durable.bodies[block.hash] = block
        self._events.append(_proposed(effect, block))

    def build(self, effect: RequestBlock) -> ChainBlock:
        operations = [op for _, op in sorted(self._pool.items()) if op.serial not in self.state.done][:16]
        return ledger.make_block(
            self.state, effect.view, self.me, effect.parent_certificate, operations, self.clock_ms()
        )

    # What an adversary makes.

    def make_block(
        self,
        view: View,
        certificate: Certificate | None,
        operations: Sequence[Operation],
        time_ms: int,
        proposer: Address | None = None,
    ) -> ChainBlock:
        """On this host's tip, in its own name unless another is given; not kept."""
        return ledger.make_block(self.state, view, proposer or self.me, certificate, operations, time_ms)

    def spoil(self, proposal: Proposal) -> ChainBlock:
        """A block like the one proposed, but for a state that it does not lead to."""
        header = replace(proposal.header, state_root=Hash(bytes(32)))
        return ChainBlock(header, proposal.parent_certificate, b"\0\0\0\0")

    def compact(self, block: ChainBlock) -> bytes:
        """How a proposal names its body."""
        return block.hash

    def _check(self, effect: CheckBlock) -> None:
        if effect.height != self.height + 1:
            return
        block = self.durable.bodies.get(effect.block_hash)
        if block is not None:
            self._validate(effect, block)
        else:
            self._want(effect.block_hash, effect, effect.proposal)

    def _validate(self, effect: CheckBlock, block: ChainBlock) -> None:
        valid = self.is_valid(block)
        if valid and effect.fresh:
            drift_ms = self.state.parameters.clock_drift_ms
            valid = block.header.timestamp_ms <= self.clock_ms() + drift_ms
        if valid:
            self.durable.bodies[block.hash] = block
        self._later(CHECK_US, BlockChecked(effect.height, effect.view, effect.block_hash, valid))

    def is_valid(self, block: ChainBlock) -> bool:
        if self.world.refusal(self.state, block) is not None:
            return False
        if block.parent_certificate is None:
            return True
        parent, _ = self.durable.chain[-1]
        before = self.durable.states[-2].validators
        return certified_fault(parent.header, block.parent_certificate, before, self.world.ring.verify) is None

    def _want(self, block_hash: Hash, effect: CheckBlock | RequestBlock, proposal: Proposal | None) -> None:
        sources = [] if proposal is None else [self.world.index_of(proposal.signed.signer)]
        if isinstance(effect, RequestBlock) and effect.prepared is not None:
            addresses = effect.prepared.signer_addresses(self.state.validators)
            sources += [self.world.index_of(address) for address in addresses]
        known = self._wants.get(block_hash)
        self._wants[block_hash] = Want(effect, [index for index in sources if index != self.index])
        if known is None:
            self._fetch(block_hash)

    def _fetch(self, block_hash: Hash) -> None:
        """Asks one source after the other, the proposer first, then who PREPAREd; never gives up within a height."""
        want = self._wants.get(block_hash)
        if want is None or want.effect.height != self.height + 1:
            self._wants.pop(block_hash, None)
            return
        sources = list(dict.fromkeys([*want.sources, *self._prepared_by.get(block_hash, [])]))
        sources = [index for index in sources if index != self.index]
        if sources:
            self.send(sources[want.tried % len(sources)], BodyRequest(block_hash))
            want.tried += 1
        life = self.life

        def again() -> None:
            if self.running and self.life == life:
                self._fetch(block_hash)

        self.world.heap.after(FETCH_RETRY_US, again)

    def _serve_body(self, sender: int, request: BodyRequest) -> None:
        block = self.durable.bodies.get(request.block_hash)
        if block is not None:
            self.send(sender, BodyReply(block))

    def _body_arrived(self, reply: BodyReply) -> None:
        want = self._wants.pop(reply.block.hash, None)
        if want is None or want.effect.height != self.height + 1:
            return
        if isinstance(want.effect, CheckBlock):
            self._validate(want.effect, reply.block)
        elif self.is_valid(reply.block):
            self.durable.bodies[reply.block.hash] = reply.block
            self.feed(_proposed(want.effect, reply.block))

    # The chain.

    def _decide(self, effect: Decide) -> None:
        if effect.height != self.height + 1:
            return
        self.commit(self.durable.bodies[effect.block_hash], effect.certificate)
        self._start_height()

    def commit(self, block: ChainBlock, certificate: Certificate) -> None:
        """Atomic, like the store's transaction."""
        state = self.world.applied(self.state, block)
        self.durable.states.append(state)
        self.durable.chain.append((block, certificate))
        self.durable.bodies = {h: b for h, b in self.durable.bodies.items() if b.header.height > state.height}
        self._prepared_by.clear()
        self._wants.clear()
        self._block_request = None
        self._pool = {serial: op for serial, op in self._pool.items() if serial not in state.done}
        self.world.checkers.committed(self, block, certificate)
        if self._quarantine is not None and self._quarantine.is_over(state.height):
            self._quarantine = None
            self.suspicious = False
            self._events.append(VotingAllowed())

    def _start_height(self) -> None:
        state = self.state
        certificate = self.durable.chain[-1][1] if self.durable.chain else None
        started = HeightStarted(
            Height(state.height + 1), state.validators, state.schedule, state.parameters, certificate
        )
        self._events.append(started) if self._busy else self.feed(started)
        if self._pool:
            self._tell_work()

    def take_work(self, operation: Operation, *, forward: bool) -> None:
        if operation.serial in self.state.done or operation.serial in self._pool:
            return
        self._pool[operation.serial] = operation
        if forward:
            self.send_all(Work(operation))
        self._tell_work()

    def _tell_work(self) -> None:
        event = WorkPending(overdue=False)
        self._events.append(event) if self._busy else self.feed(event)
        if self._block_request is not None and not self._busy:
            request, self._block_request = self._block_request, None
            block = self.build(request)
            self.durable.bodies[block.hash] = block
            self.feed(_proposed(request, block))
        life, height = self.life, self.height

        def overdue() -> None:
            if self.running and self.life == life and self.height == height and self._pool:
                self.feed(WorkPending(overdue=True))

        self.world.heap.after(self.state.parameters.block_interval_ms * US_PER_MS, overdue)

    # Catching up.

    def _catch_up(self, effect: RequestCatchUp) -> None:
        if self._catching_up:
            return
        self._catching_up = True
        self._ask_for_chain()

    def _ask_for_chain(self) -> None:
        reachable = self.world.lanes_of(self.index)
        if reachable:
            self.send(self.world.chance.choice(reachable), ChainRequest(self.height))
        life = self.life

        def give_up() -> None:
            if self.running and self.life == life and self._catching_up:
                self._catching_up = False
                self.feed(CaughtUp(self.height))

        self.world.heap.after(CATCH_UP_WAIT_US, give_up)

    def _serve_chain(self, sender: int, request: ChainRequest) -> None:
        blocks = tuple(self.durable.chain[request.above : request.above + CATCH_UP_BLOCKS])
        if blocks:
            self.send(sender, ChainReply(blocks))

    def _chain_arrived(self, reply: ChainReply) -> None:
        if not self._catching_up:
            return
        before = self.height
        for block, certificate in reply.blocks:
            if block.header.height != self.height + 1:
                continue
            if certified_fault(block.header, certificate, self.state.validators, self.world.ring.verify) is not None:
                break
            if not self.is_valid(block):
                break
            self.commit(block, certificate)
        self._catching_up = False
        self.feed(CaughtUp(self.height))
        if self.height > before:
            self._start_height()


def _proposed(request: RequestBlock, block: ChainBlock) -> BlockProposed:
    # The compact body names the block; whoever lacks the body fetches it.
    return BlockProposed(request.height, request.view, block.header, block.parent_certificate, block.hash)
