"""Rules C2, C4 and C5: what a leader proposes, and what a replica accepts."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from consensus.effects import RequestBlock, Violation
from consensus.events import BlockProposed
from consensus.instance import Asked, Instance, Justification
from consensus.justify import highest_prepared, proposal_fault
from consensus.records import Accepted
from consensus.rules import Rule
from consensus.views import arm_first, enter
from trellis.certificate import Certificate
from trellis.header import Header
from trellis.messages import Proposal
from trellis.types import ZERO_HASH, View
from trellis.votes import SignedVote, Vote, VoteKind

_MALFORMED: Final = (
    Rule.FOREIGN_HEADER,
    Rule.NOT_THE_LEADER,
    Rule.HASH_MISMATCH,
    Rule.WRONG_PROPOSER,
    Rule.PARENT_CERTIFICATE_MISMATCH,
)


def try_lead(instance: Instance) -> None:
    """Ask for a block, or propose the prepared one again, as soon as this replica may."""
    if not instance.is_leader or not instance.voting or instance.has_voted(VoteKind.PRE_PREPARE):
        return
    if instance.view == 0:
        if instance.armed or instance.work:
            _ask(instance, urgent=instance.armed)
        return
    if instance.justified is None:
        instance.justified = _justification(instance)
        if instance.justified is None:
            return
        instance.note(Rule.JUSTIFIED)
    prepared = instance.justified.prepared
    if prepared is None:
        _ask(instance, urgent=True)
        return
    block = instance.blocks.get(prepared.block_hash)
    if block is None or prepared.block_hash in instance.checked:
        # The host has the block that it validated. The compact body that came with a proposal is only hearsay.
        _ask(instance, urgent=True, prepared=prepared)
    else:
        instance.note(Rule.HIGHEST_PREPARED_WINS)
        _propose(instance, block.header, block.parent_certificate, block.body)


def _justification(instance: Instance) -> Justification | None:
    """VIEW-CHANGEs for exactly this view with quorum power, those with an unproven prepared view left out."""
    view = instance.view
    if not instance.validators.is_quorum(instance.changes.power_from(view)):
        return None
    messages = [
        message
        for address in instance.validators.addresses
        if (message := instance.view_changes.get(address)) is not None
        and message.signed.vote.view == view
        and (message.signed.vote.prepared is None or message.prepared is not None)
    ]
    power = instance.validators.power_of_all(message.signed.signer for message in messages)
    if not instance.validators.is_quorum(power):
        return None
    votes = tuple(message.signed for message in messages)
    highest = highest_prepared(votes)
    certificates = [m.prepared for m in messages if highest is not None and m.signed.vote.prepared == highest]
    return Justification(view, votes, certificates[0] if certificates else None)


def _ask(instance: Instance, urgent: bool, prepared: Certificate | None = None) -> None:
    block_hash = None if prepared is None else prepared.block_hash
    asked = Asked(instance.view, urgent, block_hash)
    if instance.asked == asked:
        return
    if instance.asked is None:
        instance.note(Rule.LEADER)
    instance.asked = asked
    parent = parent_certificate(instance) if prepared is None else None
    instance.out.append(RequestBlock(instance.height, instance.view, parent, urgent, block_hash, prepared))


def parent_certificate(instance: Instance) -> Certificate | None:
    """The best known certificate of height − 1, late COMMITs included: they earn their signers a reward.

    The highest view first, so that rule C6 has nothing to hold against the block; then the most signers.
    """
    candidates = list(instance.parent_certificates)
    previous = instance.previous
    if previous is not None and previous.decided is not None:
        block_hash = previous.decided.block_hash
        candidates.append(previous.decided)
        candidates += [previous.heard] if previous.heard is not None else []
        candidates += [
            previous.commits.certificate(view, block_hash) for view in previous.commits.quorum_views(block_hash)
        ]
    return max(candidates, key=lambda certificate: (certificate.view, len(certificate.signatures)), default=None)


def block_made(instance: Instance, event: BlockProposed) -> None:
    """The host's answer to `RequestBlock`. What the host cannot have meant raises."""
    if event.view < instance.view:
        instance.note(Rule.SUPERSEDED)
        return
    if instance.has_voted(VoteKind.PRE_PREPARE):
        instance.note(Rule.BLOCK_TOO_LATE)
        return
    asked, header = instance.asked, event.header
    if asked is None or asked.view != event.view:
        raise ValueError(f"nobody asked for a block of height {event.height}, view {event.view}")
    if (header.genesis_hash, header.height) != (instance.terms.genesis_hash, instance.height):
        raise ValueError("the block made is of another chain or height")
    carried = ZERO_HASH if event.parent_certificate is None else event.parent_certificate.hash
    if header.parent_certificate_hash != carried:
        raise ValueError("the block made does not name the parent certificate that comes with it")
    if asked.block_hash is None:
        if header.view != event.view or header.proposer != instance.me:
            raise ValueError("a fresh block is made in the view and by the replica that propose it")
    elif header.hash != asked.block_hash:
        raise ValueError("the block brought is not the one that was asked for")
    else:
        instance.note(Rule.HIGHEST_PREPARED_WINS)
    _propose(instance, header, event.parent_certificate, event.body)


def _propose(instance: Instance, header: Header, parent: Certificate | None, body: bytes) -> None:
    vote = Vote(VoteKind.PRE_PREPARE, instance.height, instance.view, header.hash)
    signed = SignedVote(vote, instance.me, b"")
    justified = instance.justified
    if justified is None:
        instance.note(Rule.PROPOSED)
        instance.cast(Proposal(signed, header, parent, body=body))
    else:
        instance.note(Rule.NEW_VIEW)
        instance.cast(Proposal(signed, header, parent, justified.votes, justified.prepared, body))


def hear_proposal(instance: Instance, message: Proposal) -> bool:
    """C5, for a proposal of this height by a member. Whether it was accepted."""
    signed = message.signed
    vote = signed.vote
    if vote.view < instance.view:
        instance.note(Rule.STALE_VIEW, signed.signer)
        return False
    known = instance.accepted.get(vote.view)
    if known is not None:
        instance.note(Rule.REPEATED if known == vote.block_hash else Rule.ALREADY_ACCEPTED, signed.signer)
        return False
    fault = proposal_fault(message, instance.terms)
    if fault is not None:
        violation = Violation.MALFORMED if fault in _MALFORMED else Violation.UNJUSTIFIED
        instance.note(fault, signed.signer, violation)
        return False
    _accept(instance, message, vote.view)
    return True


def _accept(instance: Instance, message: Proposal, view: View) -> None:
    """If the view is above the own one, the VIEW-CHANGE for it leaves before this replica PREPAREs (C5)."""
    if view > instance.view:
        enter(instance, view, Rule.ACCEPTED_AHEAD)
    for entry in message.justification:
        instance.seen.raise_to(entry.signer, view)
    if message.justification:
        instance.persist(Accepted(message))
    block_hash = message.header.hash
    instance.accepted[view] = block_hash
    # Without the justification: it is in the log, and hundreds of failed views at n = 100 would fill 100 MB here.
    instance.blocks.setdefault(block_hash, replace(message, justification=(), prepared=None))
    instance.note(Rule.ACCEPTED, message.signed.signer)
    arm_first(instance, Rule.ARMED_BY_PROPOSAL)
