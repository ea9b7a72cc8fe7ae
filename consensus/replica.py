"""The replica: one event in, effects out. Which height a message belongs to is decided here; what it means, elsewhere.

After every event that touched the height in progress, `_settle` asks each rule in a fixed order whether its condition
holds now. So no rule depends on which message completed its condition, and a restart continues like any other event.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final, assert_never

from consensus import ballots, proposals, views
from consensus.buffer import Buffer
from consensus.catchup import Lag
from consensus.effects import (
    Accuse,
    AnswerDecided,
    Decide,
    Effect,
    Halt,
    HaltReason,
    SendAll,
    TimerKind,
    Violation,
    VotingMessage,
)
from consensus.engine import Halted, Worth
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
from consensus.instance import Instance
from consensus.records import HeightBegun, Record
from consensus.reputation import Reputation
from consensus.restoring import Restored, replay, resume, resume_voting
from consensus.rules import Rule
from consensus.screening import worth_of
from consensus.station import Station
from trellis.certificate import Certificate
from trellis.evidence import LockLie
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, Proposal, ViewChange
from trellis.parameters import DEFAULTS
from trellis.types import Address, Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import SignedVote, VoteKind

SILENT_HEIGHTS: Final = 8
"""A validator that signed nothing for so many heights in a row does not take part."""


@dataclass(frozen=True, slots=True)
class Standing:
    """How far the view in progress has come, as this replica sees it."""

    accepted: Hash | None
    is_armed: bool
    prepare_power: int
    """Of PREPAREs of the accepted block in this view; the same of COMMITs."""
    commit_power: int
    view_power: int
    """Known to be in this view or a higher one."""
    timeout_ms: int


class Replica:
    """The PBFT engine of one node (`ConsensusEngine`). See the package's docstring for its host's duties."""

    def __init__(self, me: Address, genesis_hash: Hash, *, observing: bool = False) -> None:
        self._station = Station(me, genesis_hash, DEFAULTS)
        self._observing = observing
        self._instance: Instance | None = None
        self._restored: Restored | None = None
        self._next = Buffer()
        self._lag: Lag | None = None
        self._silent: dict[Address, int] = {}

    @classmethod
    def restore(cls, me: Address, genesis_hash: Hash, records: Iterable[Record], *, observing: bool = False) -> Replica:
        """From the records of the write-ahead log, in order. Its effects come with the first `HeightStarted`.

        Raises `LogFault` for records that this core did not write in that order: then observe, do not vote.
        """
        replica = cls(me, genesis_hash, observing=observing)
        replica._restored = replay(records)
        return replica

    @property
    def height(self) -> Height:
        return Height(0) if self._instance is None else self._instance.height

    @property
    def view(self) -> View:
        return View(0) if self._instance is None else self._instance.view

    @property
    def is_voting(self) -> bool:
        return self._instance is not None and self._instance.voting

    @property
    def validators(self) -> ValidatorSet:
        """V(height): the set against which messages of this height and of the next are verified."""
        return self._current().validators

    @property
    def leader(self) -> Address:
        """Of the current view."""
        instance = self._current()
        return instance.terms.leader(instance.view)

    @property
    def lock(self) -> Certificate | None:
        return self._current().lock

    @property
    def decided(self) -> Certificate | None:
        """The certificate of the height in progress, once it is decided."""
        return self._current().decided

    @property
    def base_timeout_ms(self) -> int:
        return self._station.pacemaker.base_ms

    @property
    def reputation(self) -> Reputation:
        return self._station.reputation

    @property
    def standing(self) -> Standing:
        """For operators and metrics; nothing is decided by it."""
        instance = self._current()
        view = instance.view
        accepted = instance.accepted.get(view)
        return Standing(
            accepted=accepted,
            is_armed=instance.armed,
            prepare_power=0 if accepted is None else instance.prepares.power(view, accepted),
            commit_power=0 if accepted is None else instance.commits.power(view, accepted),
            view_power=instance.seen.power_from(view),
            timeout_ms=self._station.pacemaker.timeout_ms(view, instance.number),
        )

    def step(self, event: Event) -> tuple[Effect, ...]:
        """One event in; the effects, in the order in which the host carries them out."""
        if self._station.has_halted():
            raise Halted("a broken invariant was reported: this replica has stopped")
        out = self._station.out
        try:
            self._dispatch(event)
            return _until_halt(out) if self._station.has_halted() else tuple(out)
        finally:
            out.clear()

    def _dispatch(self, event: Event) -> None:
        match event:
            case MessageReceived():
                self._hear(event.message, event.sender)
            case BlockChecked():
                self._hear_verdict(event)
            case BlockProposed():
                self._hear_block(event)
            case TimerFired():
                self._hear_timer(event)
            case HeightStarted():
                self._start(event)
            case WorkPending():
                self._hear_work(event)
            case QuorumRtt():
                self._station.pacemaker.measured(event.rtt_ms)
                self._current().note(Rule.BASE_MEASURED)
            case LaneChanged():
                self._hear_lane(event)
            case CaughtUp():
                instance = self._current()
                instance.note(Rule.CAUGHT_UP)
                self._behind().caught_up(instance)
            case VotingAllowed():
                self._allow_voting()
            case _:
                assert_never(event)

    def _current(self) -> Instance:
        if self._instance is None:
            raise ValueError("the first event is HeightStarted")
        return self._instance

    def _behind(self) -> Lag:
        if self._lag is None:
            raise ValueError("the first event is HeightStarted")
        return self._lag

    def _start(self, started: HeightStarted) -> None:
        previous, restored = self._instance, self._restored
        if started.schedule.height != started.height:
            raise ValueError(f"the schedule is of height {started.schedule.height}, not {started.height}")
        if previous is not None and started.height <= previous.height:
            raise ValueError(f"height {started.height} cannot start after height {previous.height}")
        previous_view = self._view_of_parent(started.height)
        if restored is not None and restored.height < started.height:
            self._restored = restored = None
        self._station.pacemaker.adopt(started.parameters)
        instance = Instance(self._station, started, previous_view, self._may_vote(started))
        if started.parent_certificate is not None:
            instance.parent_certificates = (started.parent_certificate,)
        self._instance = instance
        self._leave(previous, instance)
        instance.note(Rule.STARTED)
        if restored is None:
            instance.persist(HeightBegun(started.height, previous_view))
        if not instance.voting:
            ahead = restored is not None and restored.height > started.height
            instance.note(Rule.LOG_AHEAD if ahead else Rule.WITHOUT_A_VOTE)
        if restored is not None and restored.height == started.height:
            resume(instance, restored)
            if instance.voting:
                resume_voting(instance, restored.proposed)
        self._station.timers.arm(TimerKind.HEARTBEAT, started.parameters.heartbeat_ms)
        self._take_waiting(previous, instance)
        self._settle()

    def _may_vote(self, started: HeightStarted) -> bool:
        """A log with votes of a later height than the chain: the store is older than the log, so nothing is signed."""
        ahead = self._restored is not None and self._restored.height > started.height
        return not self._observing and not ahead and self._station.me in started.validators

    def _view_of_parent(self, height: Height) -> View:
        """The own view when height − 1 was decided, from memory or from the log (rule C6)."""
        previous, restored = self._instance, self._restored
        if previous is not None and previous.height == height - 1:
            return previous.view
        if previous is None and restored is not None:
            if restored.height == height:
                return restored.previous_view
            if restored.height == height - 1:
                return restored.view
        return View(0)

    def _leave(self, previous: Instance | None, instance: Instance) -> None:
        """The height before stays for late COMMITs; the one before it goes."""
        if previous is None:
            self._lag = Lag(instance.validators)
            return
        self._stop_timers()
        previous.previous = None
        if previous.validators != instance.validators:
            self._behind().weigh_by(instance.validators)
            self._station.reputation.keep(instance.validators.addresses)
        if previous.height != instance.height - 1:
            return
        instance.previous = previous
        synced = instance.parent_certificates[0] if instance.parent_certificates else None
        if previous.decided is None:
            previous.decided = synced
        elif synced is not None and synced.block_hash != previous.decided.block_hash:
            instance.note(Rule.FORK)
            self._station.halt(HaltReason.FORK, (previous.decided, synced))
        else:
            self._count_silence(previous)

    def _count_silence(self, previous: Instance) -> None:
        for address in previous.validators.addresses:
            if address == self._station.me or previous.seen.rung_of(address) is not None:
                self._silent.pop(address, None)
                continue
            self._silent[address] = self._silent.get(address, 0) + 1
            if self._silent[address] >= SILENT_HEIGHTS:
                del self._silent[address]
                previous.note(Rule.SILENT, address, Violation.NON_PARTICIPATION)

    def _take_waiting(self, previous: Instance | None, instance: Instance) -> None:
        """What waited for this height was verified against the set of the height before: it holds if the sets agree."""
        waiting = self._next.take_all()
        if previous is None or not waiting:
            return
        if previous.height != instance.height - 1 or previous.validators != instance.validators:
            instance.note(Rule.BUFFER_DROPPED)
            return
        for message in waiting:
            self._take_in(instance, message)

    def _allow_voting(self) -> None:
        instance = self._current()
        if not self._observing:
            return
        self._observing = False
        ahead = self._restored is not None and self._restored.height > instance.height
        instance.note(Rule.OBSERVING_ENDED)
        if ahead or instance.decided is not None or self._station.me not in instance.validators:
            return
        instance.voting = True
        resumes = self._restored is not None and self._restored.height == instance.height
        resume_voting(instance, self._restored.proposed if resumes and self._restored is not None else {})
        self._settle()

    def _hear(self, message: Message, sender: Address | None) -> None:
        instance = self._current()
        match message:
            case HeightNotice():
                self._hear_height(instance, message.height, sender)
            case DecidedNotice():
                self._hear_certificate(instance, message.certificate)
            case Ballot() | ViewChange() | Proposal():
                height = message.signed.vote.height
                if height == instance.height and instance.decided is None:
                    self._take_in(instance, message)
                    self._settle()
                elif height > instance.height:
                    self._hear_early(instance, message)
                else:
                    self._hear_late(instance, message, sender)
            case _:
                assert_never(message)

    def _take_in(self, instance: Instance, message: VotingMessage) -> None:
        """A verified message of the height in progress."""
        signed = message.signed
        if signed.signer not in instance.validators:
            instance.note(Rule.NOT_A_MEMBER, signed.signer)
            return
        instance.seen.raise_to(signed.signer, signed.vote.view)
        self._examine(instance, signed)
        if signed.signer == self._station.me:
            self._own_came_back(instance, message)
        match message:
            case Ballot():
                ballots.hear_ballot(instance, message)
            case ViewChange():
                views.hear_view_change(instance, message)
            case Proposal():
                if proposals.hear_proposal(instance, message):
                    for entry in message.justification:
                        self._examine(instance, entry)
            case _:
                assert_never(message)

    def _own_came_back(self, instance: Instance, message: VotingMessage) -> None:
        vote = message.signed.vote
        if instance.votes.get((vote.kind, vote.view)) != vote:
            instance.note(Rule.TWIN)
            return
        known = instance.own.get(vote.kind)
        if known is None or known.signed.vote.view <= vote.view:
            instance.own[vote.kind] = message

    def _examine(self, instance: Instance, signed: SignedVote) -> None:
        for evidence in instance.detector.examine(signed):
            is_lie = isinstance(evidence, LockLie)
            rule = Rule.EVIDENCE_LOCK_LIE if is_lie else Rule.EVIDENCE_CONFLICT
            instance.note(rule, signed.signer, Violation.LOCK_LIE if is_lie else Violation.EQUIVOCATION)
            instance.out.append(Accuse(evidence))

    def _hear_early(self, instance: Instance, message: VotingMessage) -> None:
        """C12: the next height is buffered; any later one only says that its signer is there."""
        signer, height = message.signed.signer, message.signed.vote.height
        if signer not in instance.validators:
            instance.note(Rule.NOT_A_MEMBER, signer)
            return
        news = self._behind().hear(signer, height)
        if height == instance.height + 1:
            kept = self._next.put(message)
            instance.note(Rule.BUFFERED_HEIGHT if kept else Rule.BUFFER_REFUSED, signer)
        else:
            instance.note(Rule.OTHER_HEIGHT, signer)
        if news:
            self._behind().consider(instance)

    def _hear_late(self, current: Instance, message: VotingMessage, sender: Address | None) -> None:
        """C8: a message of a decided height is answered with the certificate, unless it merely came late."""
        signed = message.signed
        instance = self._ended(current, signed.vote.height)
        if instance is None:
            current.note(Rule.OTHER_HEIGHT, signed.signer)
            self._answer(current, sender, signed.vote.height)
            return
        if signed.signer not in instance.validators:
            instance.note(Rule.NOT_A_MEMBER, signed.signer)
            return
        is_repeated = instance.detector.knows(signed)
        self._examine(instance, signed)
        instance.seen.raise_to(signed.signer, signed.vote.view)
        if isinstance(message, Ballot) and not is_repeated:
            # Every height ends before its last votes arrive: answering each would double the traffic.
            instance.note(Rule.ANSWER_WITHHELD, sender)
            if signed.vote.kind is VoteKind.COMMIT and signed.signer != self._station.me:
                instance.note(Rule.LATE_COMMIT, signed.signer)
                ballots.count(instance, signed)
            return
        self._answer(instance, sender, signed.vote.height)

    def _ended(self, current: Instance, height: Height) -> Instance | None:
        if height == current.height:
            return current
        previous = current.previous
        return previous if previous is not None and previous.height == height else None

    def _hear_height(self, instance: Instance, height: Height, sender: Address | None) -> None:
        if sender is None:
            return
        if height < views.height_in_progress(instance):
            self._answer(instance, sender, height)
        elif self._behind().hear(sender, height):
            self._behind().consider(instance)

    def _answer(self, instance: Instance, peer: Address | None, height: Height) -> None:
        """Only validators of this height and the last are answered here: other nodes sync."""
        current = self._current()
        known = peer is not None and (
            peer in current.validators or (current.previous is not None and peer in current.previous.validators)
        )
        if peer is None or not known or peer == self._station.me or height == 0 or not self._station.may_answer(peer):
            instance.note(Rule.ANSWER_WITHHELD, peer)
            return
        instance.note(Rule.ANSWERED, peer)
        instance.out.append(AnswerDecided(peer, height))

    def _hear_certificate(self, current: Instance, certificate: Certificate) -> None:
        height = certificate.height
        if height > current.height:
            if self._is_sound(current, certificate):
                self._behind().hear_certificate(certificate)
                self._behind().consider(current)
            return
        instance = current if height == current.height else self._ended(current, height)
        if instance is None:
            current.note(Rule.OTHER_HEIGHT)
            return
        if not self._is_sound(instance, certificate):
            return
        instance.note(Rule.CERTIFICATE_HEARD)
        ballots.certify(instance, certificate)
        if instance.decided is None:
            self._settle()
        elif instance.heard is None or _is_better(certificate, instance.heard):
            instance.heard = certificate

    def _is_sound(self, instance: Instance, certificate: Certificate) -> bool:
        sound = certificate.kind is VoteKind.COMMIT and certificate.shape_fault(instance.validators) is None
        if not sound:
            instance.note(Rule.BAD_CERTIFICATE)
        return sound

    def _hear_verdict(self, event: BlockChecked) -> None:
        instance = self._current()
        if event.height != instance.height or instance.decided is not None:
            instance.note(Rule.LATE_VERDICT)
            return
        ballots.hear_verdict(instance, event)
        self._settle()

    def _hear_block(self, event: BlockProposed) -> None:
        instance = self._current()
        if event.height != instance.height or instance.decided is not None:
            instance.note(Rule.BLOCK_TOO_LATE)
            return
        proposals.block_made(instance, event)
        self._settle()

    def _hear_work(self, event: WorkPending) -> None:
        instance = self._current()
        if instance.decided is not None:
            return
        instance.work = True
        if event.overdue:
            views.arm_first(instance, Rule.ARMED_BY_WORK)
        self._settle()

    def _hear_lane(self, event: LaneChanged) -> None:
        instance = self._current()
        if event.validator not in instance.validators or event.validator == self._station.me:
            return
        if event.is_open:
            self._station.closed_lanes.pop(event.validator, None)
            views.lane_opened(instance, event.validator)
        else:
            self._station.closed_lanes[event.validator] = None
            views.lane_closed(instance, event.validator)

    def _hear_timer(self, event: TimerFired) -> None:
        instance = self._current()
        if not self._station.timers.fired(event.timer):
            instance.note(Rule.STALE_TIMER)
            return
        match event.timer.kind:
            case TimerKind.VIEW:
                views.time_out(instance)
                self._settle()
            case TimerKind.RESEND:
                views.send_again(instance)
            case TimerKind.HEARTBEAT:
                self._beat(instance)
            case TimerKind.CATCH_UP:
                self._behind().waited(instance)
            case TimerKind.ANSWERS:
                self._station.answer_period_over()
            case _:
                assert_never(event.timer.kind)

    def _beat(self, instance: Instance) -> None:
        """C10, C11: an idle network tells heights, and makes an empty block now and then."""
        instance.note(Rule.HEIGHT_TOLD)
        instance.out.append(SendAll(HeightNotice(instance.height)))
        self._station.timers.arm(TimerKind.HEARTBEAT, instance.parameters.heartbeat_ms)
        views.arm_first(instance, Rule.ARMED_BY_HEARTBEAT)
        self._settle()

    def _settle(self) -> None:
        instance = self._current()
        if instance.decided is not None:
            return
        views.try_join(instance)
        ballots.take_waiting(instance)
        views.try_arm(instance)
        proposals.try_lead(instance)
        ballots.try_check(instance)
        ballots.try_prepare(instance)
        ballots.try_lock(instance)
        if ballots.is_decidable(instance):
            self._decide(instance)
        elif instance.certified is not None:
            self._behind().consider(instance)

    def _decide(self, instance: Instance) -> None:
        certificate = instance.certified
        if certificate is None:
            raise RuntimeError("broken invariant: a decision without a certificate")
        instance.decided = certificate
        instance.note(Rule.DECIDED)
        self._stop_timers()
        pacemaker = self._station.pacemaker
        pacemaker.decided(certificate.view)
        instance.note(Rule.BASE_DOUBLED if certificate.view > 0 else Rule.BASE_DECAYED)
        self._station.reputation.recover()
        instance.out.append(Decide(instance.height, certificate.view, certificate.block_hash, certificate))

    def _stop_timers(self) -> None:
        for kind in (TimerKind.VIEW, TimerKind.RESEND, TimerKind.HEARTBEAT, TimerKind.CATCH_UP):
            self._station.timers.disarm(kind)

    def worth(self, message: Message) -> Worth:
        """What verifying this message would be worth. Changes nothing."""
        return worth_of(message, self._current(), self._next, self._behind())


def _until_halt(effects: list[Effect]) -> tuple[Effect, ...]:
    """Nothing is done after a broken invariant was found."""
    place = next(index for index, effect in enumerate(effects) if isinstance(effect, Halt))
    return tuple(effects[: place + 1])


def _is_better(certificate: Certificate, known: Certificate) -> bool:
    return (certificate.view, len(certificate.signatures)) > (known.view, len(known.signatures))
