"""What verifying a message would be worth, before anybody looks at its signatures.

The host verifies only as many votes as a quorum needs; a flood of repetitions costs its sender more than this node.
Nothing here is trusted: an unverified message changes no state, it only may be dropped.
"""

from __future__ import annotations

from typing import assert_never

from consensus.buffer import Buffer
from consensus.catchup import Lag
from consensus.engine import Worth
from consensus.instance import Instance
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, Proposal, ViewChange
from trellis.votes import VoteKind


def worth_of(message: Message, instance: Instance, waiting: Buffer, lag: Lag) -> Worth:
    match message:
        case HeightNotice():
            return Worth.MUCH
        case DecidedNotice():
            is_old = message.certificate.height < instance.height or instance.decided is not None
            return Worth.LITTLE if is_old else Worth.MUCH
        case Ballot() | ViewChange() | Proposal():
            return _worth_of_vote(message, instance, waiting, lag)
        case _:
            assert_never(message)


def _worth_of_vote(message: Ballot | ViewChange | Proposal, instance: Instance, waiting: Buffer, lag: Lag) -> Worth:
    signed = message.signed
    height = signed.vote.height
    if height < instance.height or (height == instance.height and instance.decided is not None):
        # It may be the call for help of a replica that is behind: what counts is who brought it.
        return Worth.LITTLE
    if signed.signer not in instance.validators:
        return Worth.NOTHING
    if height > instance.height:
        is_known = lag.knows(signed.signer, height)
        useless = is_known and (height > instance.height + 1 or waiting.holds(message))
        return Worth.NOTHING if useless else Worth.MUCH
    if isinstance(message, ViewChange):
        return _worth_of_view_change(message, instance)
    if instance.detector.knows(signed):
        # A proposal whose vote is known may still be wanted: what came with it may have been refused.
        wanted = isinstance(message, Proposal) and _is_wanted(message, instance)
        return Worth.MUCH if wanted else Worth.NOTHING
    if isinstance(message, Proposal):
        return Worth.MUCH
    return Worth.LITTLE if _is_superfluous(message, instance) else Worth.MUCH


def _worth_of_view_change(message: ViewChange, instance: Instance) -> Worth:
    known = instance.view_changes.get(message.signed.signer)
    if known is None or known.signed.vote.view < message.signed.vote.view:
        return Worth.MUCH
    if known.signed.vote != message.signed.vote:
        return Worth.LITTLE
    makes_up = known.prepared is None and message.prepared is not None
    return Worth.MUCH if makes_up else Worth.NOTHING


def _is_wanted(message: Proposal, instance: Instance) -> bool:
    view = message.signed.vote.view
    return view >= instance.view and view not in instance.accepted


def _is_superfluous(message: Ballot, instance: Instance) -> bool:
    """Its quorum is complete, or its view is past: it may still show who takes part, or convict its signer."""
    vote = message.signed.vote
    if vote.block_hash is None or vote.view > instance.view:
        return False
    if vote.kind is VoteKind.PREPARE:
        return vote.view < instance.view or instance.prepares.has_quorum(vote.view, vote.block_hash)
    return instance.commits.has_quorum(vote.view, vote.block_hash)
