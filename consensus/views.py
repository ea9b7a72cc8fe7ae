"""Rules C9–C11: moving up, the view timer, sending again."""

from __future__ import annotations

from consensus.effects import Send, SendAll, TimerKind, Violation, VotingMessage
from consensus.instance import Instance
from consensus.justify import proves, view_change_fault
from consensus.pacemaker import CLOSED_LANE_MS
from consensus.rules import Rule
from consensus.tally import PAST_VIEWS_KEPT
from trellis.messages import HeightNotice, Proposal, ViewChange
from trellis.types import Address, Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind


def enter(instance: Instance, view: View, rule: Rule) -> None:
    """Move up. The own VIEW-CHANGE is logged, which logs the view, then signed and sent before anything else there.

    Once it is logged nothing below this view is signed at this height (C9): every later vote is of the current view.
    """
    instance.note(rule)
    instance.view = view
    instance.armed = instance.shortened = False
    instance.justified = instance.asked = None
    instance.station.timers.disarm(TimerKind.VIEW)
    _forget_below(instance, View(max(0, view - PAST_VIEWS_KEPT)))
    if instance.voting:
        ask_for_view(instance)


def _forget_below(instance: Instance, oldest: View) -> None:
    """Views far below hold nothing that a certificate or a request to the host would not bring back."""
    instance.prepares.forget_below(oldest)
    instance.commits.forget_below(oldest)
    for view in [view for view in instance.accepted if view < oldest]:
        block_hash = instance.accepted.pop(view)
        is_locked = instance.lock is not None and instance.lock.block_hash == block_hash
        if not is_locked and block_hash not in instance.accepted.values():
            instance.blocks.pop(block_hash, None)


def ask_for_view(instance: Instance) -> None:
    """Cast the own VIEW-CHANGE for the current view, naming the lock."""
    lock = instance.lock
    prepared = None if lock is None else Prepared(lock.view, lock.block_hash)
    instance.cast(instance.own_view_change(Vote(VoteKind.VIEW_CHANGE, instance.height, instance.view, None, prepared)))
    instance.seen.raise_to(instance.me, instance.view)
    keep_sending(instance)


def hear_view_change(instance: Instance, message: ViewChange) -> None:
    """Keep only the highest of each validator. One without its certificate counts for moving up, not for the leader."""
    signed = message.signed
    fault = view_change_fault(message, instance.terms)
    if fault is not None:
        instance.note(fault, signed.signer, Violation.MALFORMED)
        return
    prepared = signed.vote.prepared
    if prepared is not None and not proves(message.prepared, prepared, instance.terms):
        instance.note(Rule.PREPARED_NOT_COUNTED, signed.signer)
        message = ViewChange(signed, None)
    known = instance.view_changes.get(signed.signer)
    if known is not None and known.signed.vote.view > signed.vote.view:
        instance.note(Rule.LOWER_VIEW_CHANGE, signed.signer)
        return
    if known is not None and known.signed.vote.view == signed.vote.view:
        makes_up = known.signed.vote == signed.vote and known.prepared is None and message.prepared is not None
        if not makes_up:
            instance.note(Rule.REPEATED, signed.signer)
            return
    instance.view_changes[signed.signer] = message
    instance.changes.raise_to(signed.signer, signed.vote.view)


def try_join(instance: Instance) -> None:
    """C10: to the largest view that more than a third of power asks for: an honest replica is among them."""
    target = instance.changes.highest_blocking()
    if target is not None and target > instance.view:
        enter(instance, View(target), Rule.JOINED)


def try_arm(instance: Instance) -> None:
    """C11: above view 0 the timer starts only when quorum power is known there: a partition cannot run views away."""
    if instance.armed or instance.view == 0 or not instance.voting:
        return
    if instance.validators.is_quorum(instance.seen.power_from(instance.view)):
        arm(instance, Rule.ARMED_BY_QUORUM)


def arm_first(instance: Instance, rule: Rule) -> None:
    """C11: what arms view 0."""
    if instance.view == 0 and not instance.armed and instance.voting:
        arm(instance, rule)


def arm(instance: Instance, rule: Rule) -> None:
    instance.armed = True
    instance.note(rule)
    station = instance.station
    delay_ms = station.pacemaker.timeout_ms(instance.view, instance.number)
    if instance.terms.leader(instance.view) in station.closed_lanes and delay_ms > CLOSED_LANE_MS:
        delay_ms = CLOSED_LANE_MS
        instance.shortened = True
        instance.note(Rule.SHORTENED, instance.terms.leader(instance.view))
    station.timers.arm(TimerKind.VIEW, delay_ms)
    keep_sending(instance)


def lane_closed(instance: Instance, validator: Address) -> None:
    """C11: once a view, or a leader that drops its lanes again and again would put the timer off for ever."""
    timers = instance.station.timers
    if validator != instance.terms.leader(instance.view) or instance.shortened or not timers.is_armed(TimerKind.VIEW):
        return
    if instance.station.pacemaker.timeout_ms(instance.view, instance.number) > CLOSED_LANE_MS:
        instance.shortened = True
        instance.note(Rule.SHORTENED, validator)
        timers.arm(TimerKind.VIEW, CLOSED_LANE_MS)


def time_out(instance: Instance) -> None:
    leader = instance.terms.leader(instance.view)
    instance.note(Rule.LEADER_TIMED_OUT, leader, None if instance.is_leader else Violation.TIMEOUT)
    enter(instance, View(instance.view + 1), Rule.TIMED_OUT)


def keep_sending(instance: Instance) -> None:
    """C10: own current messages are sent again every T(v)/3, beginning with the first own message or armed timer."""
    if not instance.station.timers.is_armed(TimerKind.RESEND):
        delay_ms = instance.station.pacemaker.resend_ms(instance.view, instance.number)
        instance.station.timers.arm(TimerKind.RESEND, delay_ms)


def current_messages(instance: Instance) -> list[VotingMessage]:
    """Own signed messages of the current view, in the order in which they were first sent."""
    kinds = (VoteKind.VIEW_CHANGE, VoteKind.PRE_PREPARE, VoteKind.PREPARE, VoteKind.COMMIT)
    known = [instance.own[kind] for kind in kinds if kind in instance.own]
    return [message for message in known if message.signed.vote.view == instance.view]


def send_again(instance: Instance) -> None:
    """To all; but a proposal, the only large message, just to whom no vote shows that it has it."""
    messages = current_messages(instance)
    if messages:
        instance.note(Rule.SENT_AGAIN)
    for message in messages:
        if isinstance(message, Proposal):
            for address in instance.validators.addresses:
                if address != instance.me and not _has_proposal(instance, address):
                    instance.out.append(Send(address, message))
        else:
            instance.out.append(SendAll(message))
    keep_sending(instance)


def _has_proposal(instance: Instance, address: Address) -> bool:
    votes: tuple[SignedVote | None, ...] = (
        instance.prepares.vote_of(instance.view, address),
        instance.commits.vote_of(instance.view, address),
    )
    return any(signed is not None for signed in votes)


def lane_opened(instance: Instance, validator: Address) -> None:
    """C10: on reconnect, own current messages and the own height."""
    instance.note(Rule.RECONNECTED, validator)
    messages = [] if instance.decided is not None else current_messages(instance)
    instance.out.extend(Send(validator, message) for message in messages)
    instance.out.append(Send(validator, HeightNotice(height_in_progress(instance))))


def height_in_progress(instance: Instance) -> Height:
    return instance.height if instance.decided is None else Height(instance.height + 1)
