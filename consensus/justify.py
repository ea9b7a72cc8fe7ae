"""Rule C5 as pure predicates: is this PRE-PREPARE justified, is this VIEW-CHANGE sound? None, or the rule that refuses.

Signatures are not looked at: the host verified them (`consensus.checks`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from consensus.rules import Rule
from trellis.certificate import Certificate
from trellis.messages import Proposal, ViewChange
from trellis.types import ZERO_HASH, Address, Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import Prepared, SignedVote, VoteKind


@dataclass(frozen=True, slots=True)
class Terms:
    """What all replicas of a height agree on before its first message."""

    genesis_hash: Hash
    height: Height
    validators: ValidatorSet
    order: tuple[Address, ...]
    """The leaders of views 0, 1, … n−1, then again (rule C2)."""

    def leader(self, view: View) -> Address:
        return self.order[view % len(self.order)]


def highest_prepared(justification: Iterable[SignedVote]) -> Prepared | None:
    """The fork choice among unfinalised proposals: the highest prepared view wins.

    Of two hashes at one view, which takes more than a third of faulty power, the larger is named, so that the answer
    does not depend on the order of the votes.
    """
    named = [signed.vote.prepared for signed in justification if signed.vote.prepared is not None]
    return max(named, key=lambda prepared: (prepared.view, prepared.hash), default=None)


def is_certificate_of(certificate: Certificate, kind: VoteKind, height: Height, prepared: Prepared) -> bool:
    return (certificate.kind, certificate.height, certificate.view, certificate.block_hash) == (
        kind,
        height,
        prepared.view,
        prepared.hash,
    )


def proves(certificate: Certificate | None, prepared: Prepared, terms: Terms) -> bool:
    """Quorum power of V(h) PREPAREd exactly this hash in exactly this view of exactly this height."""
    return (
        certificate is not None
        and is_certificate_of(certificate, VoteKind.PREPARE, terms.height, prepared)
        and certificate.shape_fault(terms.validators) is None
    )


def view_change_fault(message: ViewChange, terms: Terms) -> Rule | None:
    """A VIEW-CHANGE that contradicts itself. A named, unproven prepared view is no fault: it counts for moving up."""
    vote = message.signed.vote
    if vote.view == 0:
        return Rule.MALFORMED_VIEW_CHANGE
    if vote.prepared is None:
        return None if message.prepared is None else Rule.NEEDLESS_CERTIFICATE
    return Rule.PREPARED_TOO_HIGH if vote.prepared.view >= vote.view else None


def counts_for_leader(message: ViewChange, terms: Terms) -> bool:
    """A prepared view without its certificate could make the leader propose what no replica may accept."""
    prepared = message.signed.vote.prepared
    return prepared is None or proves(message.prepared, prepared, terms)


def justification_fault(justification: tuple[SignedVote, ...], view: View, terms: Terms) -> Rule | None:
    """VIEW-CHANGEs for exactly (h, view), of distinct validators with quorum power, each prepared below the view."""
    power = 0
    signers: set[Address] = set()
    for signed in justification:
        vote = signed.vote
        if (vote.kind, vote.height, vote.view) != (VoteKind.VIEW_CHANGE, terms.height, view):
            return Rule.FOREIGN_ENTRY
        if signed.signer in signers:
            return Rule.REPEATED_SIGNER
        signers.add(signed.signer)
        member_power = terms.validators.power_of(signed.signer)
        if member_power == 0:
            return Rule.NOT_A_MEMBER
        power += member_power
        if vote.prepared is not None and vote.prepared.view >= view:
            return Rule.PREPARED_TOO_HIGH
    return None if terms.validators.is_quorum(power) else Rule.NO_QUORUM


def proposal_fault(proposal: Proposal, terms: Terms) -> Rule | None:
    """Everything of C5 that does not depend on what this replica did before."""
    vote, header = proposal.signed.vote, proposal.header
    if (header.genesis_hash, header.height) != (terms.genesis_hash, terms.height):
        return Rule.FOREIGN_HEADER
    if proposal.signed.signer != terms.leader(vote.view):
        return Rule.NOT_THE_LEADER
    if header.hash != vote.block_hash:
        return Rule.HASH_MISMATCH
    if header.proposer != terms.leader(header.view):
        return Rule.WRONG_PROPOSER
    carried = ZERO_HASH if proposal.parent_certificate is None else proposal.parent_certificate.hash
    if header.parent_certificate_hash != carried:
        return Rule.PARENT_CERTIFICATE_MISMATCH
    if vote.view == 0:
        return _first_view_fault(proposal)
    return _new_view_fault(proposal, terms)


def _first_view_fault(proposal: Proposal) -> Rule | None:
    if proposal.justification or proposal.prepared is not None:
        return Rule.UNEXPECTED_JUSTIFICATION
    return Rule.WRONG_HEADER_VIEW if proposal.header.view != 0 else None


def _new_view_fault(proposal: Proposal, terms: Terms) -> Rule | None:
    view = proposal.signed.vote.view
    fault = justification_fault(proposal.justification, view, terms)
    if fault is not None:
        return fault
    highest = highest_prepared(proposal.justification)
    if highest is None:
        if proposal.prepared is not None:
            return Rule.NEEDLESS_CERTIFICATE
        return Rule.WRONG_HEADER_VIEW if proposal.header.view != view else None
    proposed = Prepared(highest.view, proposal.header.hash)
    if all(signed.vote.prepared != proposed for signed in proposal.justification):
        return Rule.NOT_THE_PREPARED_BLOCK
    if not proves(proposal.prepared, proposed, terms):
        return Rule.UNPROVEN_PREPARED
    return Rule.HEADER_ABOVE_PREPARED if proposal.header.view > highest.view else None
