"""Rules C6–C8: PREPARE, the lock and COMMIT, the decision."""

from __future__ import annotations

from consensus.effects import CheckBlock, HaltReason, Violation
from consensus.events import BlockChecked
from consensus.instance import Check, Instance
from consensus.records import Locked
from consensus.rules import Rule
from consensus.tally import PAST_VIEWS_KEPT, Counted
from trellis.certificate import Certificate
from trellis.messages import Ballot
from trellis.types import Hash, View
from trellis.votes import SignedVote, VoteKind


def hear_ballot(instance: Instance, message: Ballot) -> None:
    """A PREPARE or COMMIT of this height by a member: counted, or kept for its view (C12)."""
    view = message.signed.vote.view
    if view > instance.view:
        kept = instance.future.put(message)
        instance.note(Rule.BUFFERED_VIEW if kept else Rule.BUFFER_REFUSED, message.signed.signer)
    elif view < instance.view - PAST_VIEWS_KEPT:
        instance.note(Rule.STALE_VIEW, message.signed.signer)
    else:
        count(instance, message.signed)


def count(instance: Instance, signed: SignedVote) -> None:
    vote = signed.vote
    block_hash = vote.block_hash
    if block_hash is None:
        raise ValueError("a ballot names a block")
    is_prepare = vote.kind is VoteKind.PREPARE
    counted = (instance.prepares if is_prepare else instance.commits).add(signed, block_hash)
    if counted is Counted.REPEATED:
        instance.note(Rule.REPEATED, signed.signer)
    elif counted is Counted.CONFLICTING:
        instance.note(Rule.ALREADY_ACCEPTED, signed.signer)
    elif is_prepare and block_hash in instance.refused:
        instance.note(Rule.PREPARE_OF_REFUSED, signed.signer)
    if counted is Counted.QUORUM:
        if not is_prepare:
            instance.note(Rule.CERTIFIED)
            certify(instance, instance.commits.certificate(vote.view, block_hash))
        elif vote.view != instance.view:
            instance.note(Rule.OTHER_VIEW_PREPARED)


def take_waiting(instance: Instance) -> None:
    """Votes that came before their view."""
    if len(instance.future):
        for message in instance.future.take_up_to(instance.view):
            count(instance, message.signed)


def certify(instance: Instance, certificate: Certificate) -> None:
    """C8: a certificate of this height, assembled here or heard. Two for different blocks stop the node."""
    known = instance.decided or instance.certified
    if known is None:
        instance.certified = certificate
        if certificate.block_hash not in instance.checked:
            instance.note(Rule.BODY_MISSING)
    elif known.block_hash != certificate.block_hash:
        instance.note(Rule.FORK)
        instance.station.halt(HaltReason.FORK, (known, certificate))


def ask_check(instance: Instance, block_hash: Hash, view: View, fresh: bool) -> None:
    """Unless this replica knows the block to be valid, or is waiting for just that answer."""
    wanted = Check(view, fresh)
    if block_hash in instance.checked or instance.checking.get(block_hash) == wanted:
        return
    instance.checking[block_hash] = wanted
    instance.refused.pop(block_hash, None)
    instance.note(Rule.CHECK_ASKED)
    instance.out.append(CheckBlock(instance.height, view, block_hash, instance.blocks.get(block_hash), fresh))


def hear_verdict(instance: Instance, event: BlockChecked) -> None:
    check = instance.checking.get(event.block_hash)
    if check is None or (check.view != event.view and not event.valid):
        # A refusal may have come from the clock of an earlier view; what was found valid stays valid.
        instance.note(Rule.LATE_VERDICT)
        return
    del instance.checking[event.block_hash]
    if event.valid:
        instance.checked[event.block_hash] = None
        return
    instance.refused[event.block_hash] = check
    instance.note(Rule.BLOCK_REFUSED, instance.terms.leader(check.view), Violation.INVALID_BLOCK)
    for address in instance.validators.addresses:
        signed = instance.prepares.vote_of(check.view, address)
        if signed is not None and signed.vote.block_hash == event.block_hash:
            instance.note(Rule.PREPARE_OF_REFUSED, address)


def try_check(instance: Instance) -> None:
    """C6: the accepted block of the current view is validated; the clock counts only before a first PREPARE of it."""
    block_hash = instance.accepted.get(instance.view)
    if block_hash is None or block_hash in instance.checked:
        return
    pending = instance.checking.get(block_hash) or instance.refused.get(block_hash)
    if pending is not None and pending.view == instance.view:
        return
    block = instance.blocks.get(block_hash)
    is_fresh = block is not None and block.header.view == instance.view and not instance.has_voted(VoteKind.PREPARE)
    ask_check(instance, block_hash, instance.view, is_fresh)


def try_prepare(instance: Instance) -> None:
    """C6: once a view, the accepted hash, validated here, its body durable here."""
    block_hash = instance.accepted.get(instance.view)
    if block_hash is None or block_hash not in instance.checked:
        return
    if not instance.voting or instance.has_voted(VoteKind.PREPARE):
        return
    if _hides_a_view_change(instance, block_hash):
        if not instance.withheld:
            instance.withheld = True
            instance.note(Rule.WITHHELD_COMMIT, instance.last_proposer)
        return
    instance.note(Rule.PREPARED_VOTE)
    instance.cast_ballot(VoteKind.PREPARE, block_hash)


def _hides_a_view_change(instance: Instance, block_hash: Hash) -> bool:
    """C6: this replica needed a later view to see h − 1 decided, and its proposer says that none was needed.

    Otherwise a leader that withholds its own COMMIT, and later carries the view-0 certificate that it completed itself,
    stalls every block of its turn, unaccused.
    """
    if instance.view != 0 or instance.previous_view <= instance.last_view:
        return False
    block = instance.blocks[block_hash]
    if block.header.proposer != instance.last_proposer:
        return False
    return block.parent_certificate is None or block.parent_certificate.view <= instance.last_view


def try_lock(instance: Instance) -> None:
    """C7: quorum PREPAREs of the current view for the accepted hash, and the own one is durable."""
    block_hash = instance.accepted.get(instance.view)
    if block_hash is None or not instance.has_voted(VoteKind.PREPARE) or instance.has_voted(VoteKind.COMMIT):
        return
    if not instance.voting or not instance.prepares.has_quorum(instance.view, block_hash):
        return
    certificate = instance.prepares.certificate(instance.view, block_hash)
    instance.set_lock(certificate)
    instance.persist(Locked(certificate))
    instance.note(Rule.LOCKED)
    instance.cast_ballot(VoteKind.COMMIT, block_hash)


def is_decidable(instance: Instance) -> bool:
    """C8: certified, and validated here with its body. A certified block that this replica refuses stops the node."""
    certificate = instance.certified
    if certificate is None or instance.decided is not None:
        return False
    block_hash = certificate.block_hash
    if block_hash in instance.checked:
        return True
    refusal = instance.refused.get(block_hash)
    if refusal is not None and not refusal.fresh:
        instance.note(Rule.CERTIFIED_BUT_INVALID)
        instance.station.halt(HaltReason.CERTIFIED_BUT_INVALID, (certificate,))
    elif block_hash not in instance.checking and (block_hash in instance.blocks or refusal is not None):
        ask_check(instance, block_hash, certificate.view, fresh=False)
    return False
