"""Finds the offences (a), (a2) and (b) in the verified votes of one height.

Content is compared, never signature bytes. (c), a PREPARE on an invalid proof, is found where proofs are checked: the
core only points at PREPAREs of blocks that this replica refused (`Rule.PREPARE_OF_REFUSED`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from consensus.records import Accepted, HeightBegun, Locked, Proposed, Record, Voted
from trellis.certificate import Certificate
from trellis.evidence import ConflictingVotes, LockLie, accuse_of_conflict, is_lock_lie, votes_conflict
from trellis.types import Address, Hash, Height
from trellis.validators import ValidatorSet
from trellis.votes import SignedVote, VoteKind

Offence = ConflictingVotes | LockLie

MAX_VOTES_REMEMBERED: Final = 64
"""Votes of one validator at one height (16 views of four kinds): one that signs a new view every millisecond evicts
only its own oldest votes."""


def votes_of(certificate: Certificate, validators: ValidatorSet) -> tuple[SignedVote, ...]:
    """The votes that a verified certificate of this set joins."""
    signers = certificate.signer_addresses(validators)
    return tuple(
        SignedVote(certificate.vote, signer, signature)
        for signer, signature in zip(signers, certificate.signatures, strict=True)
    )


def votes_in(record: Record, validators: ValidatorSet) -> tuple[SignedVote, ...]:
    """The signed votes of others that a log record keeps: after a fork they name who is to blame.

    Of an accepted NEW-VIEW both its justification and its prepared certificate: there are forks whose blame lies only
    in the PREPAREs of that certificate.
    """
    match record:
        case Accepted(proposal):
            prepared = () if proposal.prepared is None else votes_of(proposal.prepared, validators)
            return (proposal.signed, *proposal.justification, *prepared)
        case Locked(certificate):
            return votes_of(certificate, validators)
        case HeightBegun() | Voted() | Proposed():
            return ()
        case _:
            assert_never(record)


def offences_among(votes: Iterable[SignedVote], genesis_hash: Hash) -> list[Offence]:
    """What a heap of verified votes of any heights proves: for whoever compares the archives of several nodes."""
    detectors: dict[Height, EvidenceDetector] = {}
    found: list[Offence] = []
    for signed in votes:
        detector = detectors.setdefault(signed.vote.height, EvidenceDetector(genesis_hash))
        found.extend(detector.examine(signed))
    return found


class EvidenceDetector:
    """Remembers what each validator signed at one height, and accuses each of them at most once of each kind."""

    __slots__ = ("_accused", "_genesis_hash", "_votes")

    def __init__(self, genesis_hash: Hash) -> None:
        self._genesis_hash = genesis_hash
        self._votes: dict[Address, list[SignedVote]] = {}
        """By signer; mostly two each, so a list takes half the memory of a map, and a thousand replicas fit in one."""
        self._accused: dict[tuple[Address, type[Offence]], None] = {}

    def knows(self, signed: SignedVote) -> bool:
        known = _of(self._votes.get(signed.signer, []), signed.vote.view, signed.vote.kind)
        return known is not None and known.vote == signed.vote

    def examine(self, signed: SignedVote) -> tuple[Offence, ...]:
        """The offences that this vote completes, each if it is the first of its kind by its signer."""
        vote = signed.vote
        votes = self._votes.get(signed.signer)
        if votes is None:
            self._votes[signed.signer] = [signed]
            return ()
        known = _of(votes, vote.view, vote.kind)
        if known is not None:
            return () if known.vote == vote else self._conflict(known, signed)
        votes.append(signed)
        if len(votes) > MAX_VOTES_REMEMBERED:
            votes.remove(min(votes, key=_place))
        twin = None
        if vote.kind is VoteKind.PREPARE:
            twin = _of(votes, vote.view, VoteKind.COMMIT)
        elif vote.kind is VoteKind.COMMIT:
            twin = _of(votes, vote.view, VoteKind.PREPARE)
        if twin is not None and votes_conflict(twin.vote, vote):
            return self._conflict(twin, signed) + self._lock_lie(signed, votes)
        return self._lock_lie(signed, votes)

    def _conflict(self, one: SignedVote, other: SignedVote) -> tuple[Offence, ...]:
        if not self._is_first(one.signer, ConflictingVotes):
            return ()
        return (accuse_of_conflict(one, other, self._genesis_hash),)

    def _lock_lie(self, signed: SignedVote, votes: list[SignedVote]) -> tuple[Offence, ...]:
        if signed.vote.kind is VoteKind.COMMIT:
            changes = sorted((known for known in votes if known.vote.kind is VoteKind.VIEW_CHANGE), key=_place)
            pairs = [(signed, change) for change in changes]
        elif signed.vote.kind is VoteKind.VIEW_CHANGE:
            commits = sorted((known for known in votes if known.vote.kind is VoteKind.COMMIT), key=_place)
            pairs = [(commit, signed) for commit in commits]
        else:
            return ()
        for commit, view_change in pairs:
            if is_lock_lie(commit.vote, view_change.vote) and self._is_first(signed.signer, LockLie):
                return (LockLie(commit, view_change),)
        return ()

    def _is_first(self, signer: Address, offence: type[Offence]) -> bool:
        first = (signer, offence) not in self._accused
        self._accused[signer, offence] = None
        return first


def _place(signed: SignedVote) -> tuple[int, VoteKind]:
    return (signed.vote.view, signed.vote.kind)


def _of(votes: list[SignedVote], view: int, kind: VoteKind) -> SignedVote | None:
    for known in votes:
        if known.vote.view == view and known.vote.kind is kind:
            return known
    return None
