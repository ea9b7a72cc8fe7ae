"""The engine: replica, ledger and pool behind one sans-IO seam. Inputs in, work out; `node.runtime` carries work out.

It never awaits, reads a clock or a socket, signs, or verifies. Blocks are executed before they are PREPAREd; each
variant of a transaction is verified once. What belongs together lies in parts that share a `Desk`: `intake`
(transactions), `bodies` (blocks of the height in progress), `catchup` and `windows` (blocks that others have).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, assert_never

from consensus import Quarantine, Replica, Rule, message_fault, signature_checks
from consensus.checks import certificate_checks
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
    signed_by,
)
from consensus.engine import Worth
from consensus.events import (
    CaughtUp,
    HeightStarted,
    MessageReceived,
    QuorumRtt,
    VotingAllowed,
    WorkPending,
)
from consensus.events import LaneChanged as CoreLaneChanged
from consensus.events import TimerFired as CoreTimerFired
from consensus.records import Record
from node.bodies import Bodies, ProofResults, proposed
from node.catchup import CatchUp
from node.desk import Desk
from node.duties import Duties
from node.inputs import (
    BlocksFetched,
    HeadersFetched,
    Heard,
    Input,
    LaneChanged,
    NonceFound,
    Offered,
    OwnOffered,
    PeerLeft,
    PeerStands,
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
from node.intake import Intake
from node.trust import Sampling
from node.verdicts import Verdicts
from node.work import (
    Accused,
    Arm,
    BodyAnswer,
    BodyParts,
    BodyRequest,
    ChainAnswer,
    ChainRequest,
    Committed,
    ConsensusPayload,
    Disarm,
    Log,
    Payer,
    Post,
    Proposing,
    Seen,
    Sign,
    Stop,
    TransactionsPayload,
    VerdictPayload,
    Work,
)
from state.claims import certificate_claims
from state.ledger import HeightFacts, Ledger
from state.mempool import Mempool
from state.transition import Applied, Proposal
from state.validator_sets import set_at
from trellis.block import Block, decode_block
from trellis.certificate import Certificate, decode_certificate
from trellis.encoding import DecodeError
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, ViewChange, decode_message, encode_message
from trellis.messages import Proposal as ProposalMessage
from trellis.transaction import Transaction
from trellis.types import Address, Height
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind

Stored = Callable[[Height], tuple[bytes, bytes] | None]
"""A committed block and its certificate, as bytes, from the store."""

LEAST_OFFERED: Final = 32
"""Transactions that a proposal has room for, however slow the network."""


@dataclass(frozen=True, slots=True)
class Restored:
    """What the log kept."""

    records: tuple[Record, ...]
    blocks: tuple[Block, ...]
    observing: bool
    """Log or guard was lost, or one is older than the other: watch before voting."""


class Engine:
    """One node's state machine: `handle` is called with every input, and with the time at which it came."""

    def __init__(
        self,
        me: Address,
        ledger: Ledger,
        pool: Mempool,
        proofs: ProofResults,
        stored: Stored,
        restored: Restored,
        *,
        payer: Payer | None = None,
        attests: bool = False,
        sampling: Sampling | None = None,
    ) -> None:
        """`proofs` is what the ledger checks proofs by. `attests`: there is a solver to ask. `sampling`: certificates
        are trusted while catching up."""
        self.me = me
        self.ledger = ledger
        self.pool = pool
        self.proofs = proofs
        self.replica = Replica.restore(me, ledger.genesis.hash, restored.records, observing=restored.observing)
        self._stored = stored
        self._desk = Desk()
        self._verdicts = Verdicts(pool)
        self.intake = Intake(self._desk, ledger, pool, self._verdicts)
        self._bodies = Bodies(me, self._desk, ledger, self.intake, self._verdicts, self.proofs)
        self._bodies.restore(restored.blocks)
        self.catch_up = CatchUp(
            self._desk,
            ledger,
            self._verdicts,
            self.proofs,
            stored,
            self._commit,
            self._caught_up,
            lambda: not self.votes,
            sampling,
        )
        self._duties = Duties(me, self._desk, ledger, pool, self._verdicts, payer, attests=attests)
        self.heights: dict[Address, Height] = {}
        """The highest height at which each validator was heard to vote, for operators."""
        self._parent: tuple[Block, Certificate] | None = None
        self._validators_before: ValidatorSet | None = None
        """V(tip), for certificates of the last committed block."""
        self._facts = self._read_facts()
        self._observing = restored.observing
        self._quarantine: Quarantine | None = None
        self._request: RequestBlock | None = None
        """A fresh block that the core asked for, and that waits for its time."""
        self._proposed_ms: int | None = None
        self._own_proposal = (Height(0), ledger.genesis.hash)
        self._most_offered = self._facts.network.parameters.max_block_transactions
        self._work_told = 0
        """The height whose work the core was told of."""

    # The seam.

    def handle(self, given: Input, now_ms: int) -> list[Work]:
        """Answers with work, in the order in which it is to be done."""
        self._desk.now_ms = now_ms
        self._take(given)
        desk = self._desk
        while desk.events:
            for effect in self.replica.step(desk.events.popleft()):
                self._do(effect)
        work, desk.out = desk.out, []
        return work

    def _take(self, given: Input) -> None:
        desk = self._desk
        match given:
            case Heard():
                self._heard(given.sender, given)
            case Verified():
                desk.verified(given.job, given.verdicts)
                self._pool_changed()
            case Signed():
                complete = signed_by(given.message, given.signature)
                is_proposal = isinstance(complete, ProposalMessage)
                desk.out.append(Post(None, ConsensusPayload(encode_message(complete), is_proposal)))
                desk.events.append(MessageReceived(complete, self.me))
            case TimerFired():
                if isinstance(given.timer, TimerId):
                    desk.events.append(CoreTimerFired(given.timer))
                else:
                    desk.waited(given.timer)
            case Offered():
                self.intake.offer(given.ticket, given.transactions, push=given.from_client)
            case LaneChanged():
                desk.events.append(CoreLaneChanged(given.validator, given.is_open))
                if given.is_open:
                    self._duties.lane_opened(given.validator)
                    self.intake.lane_opened(given.validator)
            case OwnOffered():
                self._duties.signed()
            case VerdictsSigned():
                self._duties.verdicts_signed(given.batch, given.signature)
            case Solved():
                self._duties.solved(given.statement_id, given.verdict)
            case RoundTrip():
                desk.events.append(QuorumRtt(given.rtt_ms))
            case ProofsChecked():
                desk.proofs_checked(given.job, given.results)
            case Started():
                self._parent = given.parent
                if self._observing:
                    self._quarantine = Quarantine(self.me, self._facts.validators)
                self._begin_height()
                self._duties.restarted(self._stored_block)
            case VotingOverridden():
                self._allow_voting()
            case PeerStands() | PeerLeft() | HeadersFetched() | BlocksFetched():
                self._take_of_peers(given)
            case NonceFound():
                raise ValueError("a network that votes does not mine")
            case _:
                assert_never(given)

    def _take_of_peers(self, given: PeerStands | PeerLeft | HeadersFetched | BlocksFetched) -> None:
        match given:
            case PeerStands():
                self.catch_up.stands(given.peer, given.height, given.oldest)
            case PeerLeft():
                self.catch_up.left(given.peer)
            case HeadersFetched():
                self.catch_up.headers_fetched(given.job, given.headers)
            case BlocksFetched():
                self.catch_up.windows.fetched(given.job, given.blocks, pruned=given.pruned)
            case _:
                assert_never(given)

    def _do(self, effect: Effect) -> None:
        out = self._desk.out
        match effect:
            case Persist():
                out.append(Log(effect.record))
            case Broadcast():
                out.append(Sign(effect.message))
            case SendAll():
                out.append(Post(None, _payload(effect.message)))
            case Send():
                out.append(Post(effect.to, _payload(effect.message)))
            case AnswerDecided():
                self._answer_decided(effect)
            case ArmTimer():
                out.append(Arm(effect.timer, effect.delay_ms))
            case DisarmTimer():
                out.append(Disarm(effect.kind))
            case RequestBlock():
                self._make_block(effect)
            case CheckBlock():
                self._bodies.check(effect)
            case Decide():
                self._decide(effect)
            case RequestCatchUp():
                self.catch_up.begin(effect.height)
            case Accuse():
                out.append(Seen(Accused(effect.evidence)))
                self._duties.accuse(effect.evidence)
            case Halt():
                out.append(Stop(f"broken invariant: {effect.reason}", effect.certificates))
            case Observe():
                out.append(Seen(effect))
            case _:
                assert_never(effect)

    # What validators send.

    def _heard(self, sender: Address, given: Heard) -> None:
        payload = given.payload
        match payload:
            case ConsensusPayload():
                self._heard_message(sender, payload.data)
            case VerdictPayload():
                self._duties.heard(sender, payload)
            case TransactionsPayload():
                self.intake.pushed(sender, payload.transactions)
            case BodyRequest():
                self._bodies.requested(sender, payload)
            case BodyAnswer():
                self._bodies.arrived(sender, payload.block)
            case BodyParts():
                self._bodies.parts_arrived(sender, payload)
            case ChainRequest() | ChainAnswer():
                self._desk.refuse(sender, "a message of another engine")
            case _:
                assert_never(payload)

    def _heard_message(self, sender: Address, data: bytes) -> None:
        try:
            message = decode_message(data)
        except DecodeError as fault:
            self._desk.refuse(sender, f"malformed message: {fault.reason}")
            return
        if self.replica.worth(message) is Worth.NOTHING:
            return
        validators = self._set_for(message)
        if validators is None:
            return
        broken = message_fault(message, validators)
        if broken is not None:
            self._desk.refuse(sender, str(broken))
            return
        genesis_hash = self.ledger.genesis.hash
        checks = signature_checks(message, genesis_hash, validators)
        own = len(checks)
        if isinstance(message, ViewChange):
            checks += certificate_checks(message, genesis_hash, validators) or ()

        def verified(verdicts: Sequence[bool]) -> None:
            if not all(verdicts[:own]):
                self._desk.refuse(sender, str(Rule.BAD_SIGNATURE))
                return
            proven = len(verdicts) > own and all(verdicts[own:])
            if isinstance(message, ViewChange) and message.prepared is not None and not proven:
                # The vote counts; the certificate beside it proves nothing (rule C5).
                self._feed(ViewChange(message.signed, None), sender)
            else:
                self._feed(message, sender)

        self._desk.verify(checks, verified, urgent=True)

    def _set_for(self, message: Message) -> ValidatorSet | None:
        if isinstance(message, DecidedNotice) and message.certificate.height < self.replica.height:
            if self._parent is not None and message.certificate.height == self._parent[0].header.height:
                return self._validators_before
            return None
        return self.replica.validators

    def _feed(self, message: Message, sender: Address) -> None:
        if isinstance(message, Ballot) and message.signed.vote.kind is VoteKind.PREPARE:
            block_hash = message.signed.vote.block_hash
            if block_hash is not None:
                self._bodies.prepared(block_hash, message.signed.signer)
        if not isinstance(message, (DecidedNotice, HeightNotice)) and message.signed.signer == sender:
            self.heights[sender] = max(message.signed.vote.height, self.heights.get(sender, Height(0)))
        if self._quarantine is not None:
            self._report(self._quarantine, message, sender)
        self._desk.events.append(MessageReceived(message, sender))

    def _report(self, quarantine: Quarantine, message: Message, sender: Address) -> None:
        """A certificate shows how far the sender is. So does a vote of its own: whoever votes at a height has the one
        before it certified; it counts as far as this node's own certified chain reaches, so nobody can inflate it."""
        match message:
            case DecidedNotice():
                quarantine.report(sender, message.certificate.height)
            case Ballot() | ViewChange() | ProposalMessage():
                certified = message.signed.vote.height - 1
                if message.signed.signer == sender and certified <= self.ledger.tip.height:
                    quarantine.report(sender, Height(certified))
            case HeightNotice():
                pass
            case _:
                assert_never(message)

    def _answer_decided(self, effect: AnswerDecided) -> None:
        kept = self._stored(effect.height)
        if kept is not None:
            notice = DecidedNotice(decode_certificate(kept[1]))
            self._desk.out.append(Post(effect.to, ConsensusPayload(encode_message(notice))))

    def _stored_block(self, height: Height) -> Block | None:
        kept = self._stored(height)
        return None if kept is None else decode_block(kept[0])

    # Proposing.

    def _pool_changed(self) -> None:
        """Something was admitted, or verified: it may complete a body, and it may be work."""
        self._bodies.retry()
        self._tell_work(self.replica.height)

    def _tell_work(self, height: Height) -> None:
        if self._work_told == height or not self.pool.has_ready or not self.votes:
            return
        self._work_told = height
        self._desk.events.append(WorkPending(overdue=False))
        # What is in the pool was handed to all validators when it was admitted.
        self._desk.wait(self._facts.network.parameters.block_interval_ms, lambda: self._overdue(height))

    def _overdue(self, height: Height) -> None:
        if self.replica.height == height and self.pool.has_ready:
            self._desk.events.append(WorkPending(overdue=True))

    def _make_block(self, effect: RequestBlock) -> None:
        if effect.height != self.ledger.tip.height + 1:
            return
        if effect.block_hash is not None:
            block = self._bodies.get(effect.block_hash)
            if block is not None and self.ledger.applied(effect.block_hash) is not None:
                self._desk.events.append(proposed(effect, block, self.ledger.genesis.hash))
            else:
                self._bodies.bring(effect, effect.block_hash, self.replica.validators)
            return
        self._request = effect
        wait_ms = 0 if effect.urgent else self._until_next_block()
        if wait_ms:
            self._desk.wait(wait_ms, lambda: self._build(effect))
        else:
            self._build(effect)

    def _until_next_block(self) -> int:
        """At most one block an interval, unless one is overdue; the first after a pause goes at once."""
        if self._proposed_ms is None:
            return 0
        next_ms = self._proposed_ms + self._facts.network.parameters.block_interval_ms
        return max(0, next_ms - self._desk.now_ms)

    def _build(self, effect: RequestBlock) -> None:
        if self._request is not effect or effect.height != self.ledger.tip.height + 1:
            return
        offered = self.intake.choose(self._facts.network, lambda: self._build(effect))
        if offered is None:
            return
        self._request = None
        self._propose(effect, offered[: self._most_offered])

    def _propose(self, effect: RequestBlock, offered: Iterable[Transaction]) -> None:
        certificate = effect.parent_certificate
        if certificate is not None:
            # The replica gives out only what was verified before it got there.
            self._verdicts.trust(certificate_claims(certificate, self.ledger.genesis.hash, self._validators_before))
        self._proposed_ms = self._desk.now_ms
        timestamp_ms = max(self.ledger.head.timestamp_ms + 1, self._desk.now_ms)
        proposal = Proposal(self.me, effect.view, timestamp_ms, certificate)
        built = self.ledger.propose(proposal, offered, self._verdicts)
        self.pool.dropped(built.dropped, self.ledger.genesis.hash)
        block = built.applied.block
        self._own_proposal = (effect.height, block.hash)
        self._bodies.keep(block)
        self._desk.out.append(Seen(Proposing(effect.height, block.hash, len(block.transactions))))
        self._desk.events.append(proposed(effect, block, self.ledger.genesis.hash))

    # The chain.

    def _decide(self, effect: Decide) -> None:
        if effect.height != self.ledger.tip.height + 1:
            return
        block = self._bodies.get(effect.block_hash)
        if block is None:
            self._desk.out.append(Stop("broken invariant: a block was decided whose body is not here"))
            return
        if self.ledger.applied(effect.block_hash) is None:
            result = self.ledger.execute(block, self._verdicts)
            if not isinstance(result, Applied):
                self._desk.out.append(Stop(f"broken invariant: a decided block does not execute: {result}"))
                return
        self._commit(block, effect.certificate)
        self._begin_height()

    def _commit(self, block: Block, certificate: Certificate) -> None:
        self._validators_before = self._facts.validators
        done = self.ledger.commit(block.hash, certificate)
        self._parent = (block, certificate)
        self._bodies.height_over()
        self._verdicts.height_over()
        self.proofs.height_over()
        self._request = None
        self._facts = self._read_facts()
        self.pool.committed(block.transactions, self.ledger.state, self.intake.terms)
        self.intake.committed()
        self._learn_size(block)
        self._desk.out.append(Seen(Committed(block.header.height, block.hash, certificate, done)))
        self._duties.committed(block)
        if self._quarantine is not None and self._quarantine.is_over(block.header.height):
            self._allow_voting()

    def _learn_size(self, block: Block) -> None:
        """A proposal of ours that did not make it was too much for the others in one view: the next is a quarter of it,
        and grows again with success. Otherwise a backlog on a slow network is proposed, and given up, for ever."""
        height, block_hash = self._own_proposal
        if height != block.header.height:
            return
        if block_hash == block.hash:
            self._most_offered = min(2 * self._most_offered, self._facts.network.parameters.max_block_transactions)
        else:
            self._most_offered = max(self._most_offered // 4, LEAST_OFFERED)

    def _allow_voting(self) -> None:
        self._quarantine = None
        self._observing = False
        self._desk.events.append(VotingAllowed())

    @property
    def votes(self) -> bool:
        """Whether this node is a validator at the height in progress. Else it follows what others decide."""
        return self.me in self._facts.validators

    @property
    def observing(self) -> bool:
        """Whether this validator watches before it votes again."""
        return self._observing

    @property
    def observing_until(self) -> Height:
        """The height after whose block it votes again; 0 while that is not known, or it does not observe."""
        target = None if self._quarantine is None else self._quarantine.target
        return Height(0) if target is None else target

    @property
    def facts(self) -> HeightFacts:
        """Of the height in progress."""
        return self._facts

    def _read_facts(self) -> HeightFacts:
        facts = self.ledger.facts_after(self.ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        return facts

    def _begin_height(self) -> None:
        facts = self._facts
        if self._validators_before is None:
            self._validators_before = set_at(self.ledger.state, self.ledger.tip.height) or facts.validators
        certificate = self._parent[1] if self._parent is not None else None
        self._desk.events.append(
            HeightStarted(facts.height, facts.validators, facts.schedule, facts.network.parameters, certificate)
        )
        self._tell_work(facts.height)

    def _caught_up(self, grown: bool) -> None:
        self._desk.events.append(CaughtUp(self.ledger.tip.height))
        if grown:
            self._begin_height()


def _payload(message: Message) -> ConsensusPayload:
    return ConsensusPayload(encode_message(message), isinstance(message, ProposalMessage))
