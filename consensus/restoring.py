"""Rule C3 on restart: from the records of the log to the state of the height in progress."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from consensus.ballots import try_check
from consensus.effects import Broadcast
from consensus.instance import Instance
from consensus.records import Accepted, HeightBegun, Locked, Proposed, Record, Voted
from consensus.rules import Rule
from consensus.views import arm_first, ask_for_view, keep_sending
from trellis.certificate import Certificate
from trellis.messages import Ballot, Proposal
from trellis.types import Height, View
from trellis.votes import SignedVote, Vote, VoteKind


class LogFault(ValueError):
    """The log is not one that this core wrote: do not vote with it."""


@dataclass(slots=True)
class Restored:
    """What the log says of its last height."""

    height: Height
    previous_view: View
    votes: list[Vote] = field(default_factory=list)
    proposed: dict[View, Proposal] = field(default_factory=dict)
    accepted: list[Proposal] = field(default_factory=list)
    locks: list[Certificate] = field(default_factory=list)

    @property
    def view(self) -> View:
        """A VIEW-CHANGE's record is the record of its view."""
        return max((vote.view for vote in self.votes if vote.kind is VoteKind.VIEW_CHANGE), default=View(0))


def replay(records: Iterable[Record]) -> Restored | None:
    """Reads a log from its first record; None if it is empty."""
    restored: Restored | None = None
    for record in records:
        if isinstance(record, HeightBegun):
            if restored is not None and record.height <= restored.height:
                raise LogFault(f"height {record.height} begins after height {restored.height}")
            restored = Restored(record.height, record.previous_view)
            continue
        if restored is None or record.height != restored.height:
            raise LogFault(f"a {type(record).__name__} of height {record.height} outside its height")
        match record:
            case Voted():
                restored.votes.append(record.vote)
            case Proposed():
                restored.votes.append(record.proposal.signed.vote)
                restored.proposed[record.proposal.signed.vote.view] = record.proposal
            case Accepted():
                restored.accepted.append(record.proposal)
            case Locked():
                restored.locks.append(record.certificate)
    return restored


def resume(instance: Instance, restored: Restored) -> None:
    """Puts the logged state of this height back. Nothing is sent yet."""
    instance.note(Rule.RESTARTED)
    instance.view = restored.view
    for vote in restored.votes:
        if instance.votes.setdefault((vote.kind, vote.view), vote) != vote:
            raise LogFault(f"two different {vote.kind.name} votes of view {vote.view} in the log")
    for certificate in restored.locks:
        instance.set_lock(certificate, keep_earlier=True)
    if any(vote.prepared is not None and vote.prepared not in instance.locks for vote in restored.votes):
        raise LogFault("a VIEW-CHANGE in the log names a lock that the log does not hold")
    for proposal in (*restored.accepted, *restored.proposed.values()):
        instance.blocks.setdefault(proposal.header.hash, proposal)
    for proposal in restored.accepted:
        instance.accepted[proposal.signed.vote.view] = proposal.header.hash
    for vote in restored.votes:
        if vote.kind in (VoteKind.PREPARE, VoteKind.COMMIT) and vote.block_hash is not None:
            if vote.view not in instance.accepted:
                instance.note(Rule.RESTART_ACCEPTED)
            instance.accepted[vote.view] = vote.block_hash
    try_check(instance)


def resume_voting(instance: Instance, proposed: dict[View, Proposal]) -> None:
    """C3: first the VIEW-CHANGE of the view, then the other votes of the view; all are signed (again)."""
    if instance.view > 0:
        instance.note(Rule.RESTART_VIEW_CHANGE)
        asked = instance.votes.get((VoteKind.VIEW_CHANGE, instance.view))
        if asked is None:
            ask_for_view(instance)
        else:
            instance.seen.raise_to(instance.me, instance.view)
            instance.out.append(Broadcast(instance.own_view_change(asked)))
    proposal = proposed.get(instance.view)
    if proposal is not None:
        instance.note(Rule.RESTART_SIGNED_AGAIN)
        instance.out.append(Broadcast(proposal))
    for kind in (VoteKind.PREPARE, VoteKind.COMMIT):
        vote = instance.votes.get((kind, instance.view))
        if vote is not None:
            instance.note(Rule.RESTART_SIGNED_AGAIN)
            instance.out.append(Broadcast(Ballot(SignedVote(vote, instance.me, b""))))
    if instance.votes:
        keep_sending(instance)
        arm_first(instance, Rule.RESTART_ARMED)
