"""One height in progress: everything the rules C3–C11 read and change, and how a vote leaves this replica.

State only. What happens to it is in `proposals` (C2, C4, C5), `ballots` (C6–C8) and `views` (C9–C11); `replica` calls
them in a fixed order after every event, so that no rule depends on which message happened to complete its condition.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.buffer import Buffer
from consensus.effects import Broadcast, Effect, Observe, Persist, Violation, VotingMessage
from consensus.events import HeightStarted
from consensus.evidence_detection import EvidenceDetector
from consensus.justify import Terms
from consensus.records import Proposed, Record, Voted
from consensus.rules import Rule
from consensus.station import Station
from consensus.tally import Ladder, Tally
from trellis.certificate import Certificate
from trellis.messages import Ballot, Proposal, ViewChange
from trellis.types import Address, Hash, Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind


@dataclass(frozen=True, slots=True)
class Justification:
    """What lets the leader of `view` propose."""

    view: View
    votes: tuple[SignedVote, ...]
    prepared: Certificate | None


@dataclass(frozen=True, slots=True)
class Check:
    """A validation that the host was asked for."""

    view: View
    fresh: bool


@dataclass(frozen=True, slots=True)
class Asked:
    """A block that the host was asked for."""

    view: View
    urgent: bool
    block_hash: Hash | None


class Instance:
    """The consensus instance of one height."""

    __slots__ = (
        "accepted",
        "armed",
        "asked",
        "blocks",
        "certified",
        "changes",
        "checked",
        "checking",
        "commits",
        "decided",
        "detector",
        "future",
        "heard",
        "height",
        "justified",
        "last_proposer",
        "last_view",
        "lock",
        "locks",
        "own",
        "parameters",
        "parent_certificates",
        "prepares",
        "previous",
        "previous_view",
        "refused",
        "seen",
        "shortened",
        "station",
        "terms",
        "validators",
        "view",
        "view_changes",
        "votes",
        "voting",
        "withheld",
        "work",
    )

    def __init__(self, station: Station, started: HeightStarted, previous_view: View, voting: bool) -> None:
        validators = started.validators
        self.station = station
        self.height: Height = started.height
        self.validators = validators
        self.parameters = started.parameters
        order = started.schedule.order(validators)
        self.terms = Terms(station.genesis_hash, started.height, validators, order)
        self.last_view = started.schedule.last_view
        self.last_proposer = started.schedule.last_proposer
        self.previous_view = previous_view
        """The own view when height − 1 was decided (rule C6)."""
        self.parent_certificates: tuple[Certificate, ...] = ()
        """What the host holds for height − 1."""
        self.previous: Instance | None = None
        """Height − 1, while late COMMITs may still come for it."""
        self.voting = voting
        self.view = View(0)

        self.votes: dict[tuple[VoteKind, View], Vote] = {}
        """Own votes, all logged."""
        self.own: dict[VoteKind, VotingMessage] = {}
        """Own signed messages as they came back, the latest of each kind: what is sent again."""
        self.lock: Certificate | None = None
        self.locks: dict[Prepared, Certificate] = {}
        """Certificates of this and, after a restart, of earlier locks: a logged VIEW-CHANGE may name an earlier one."""

        self.accepted: dict[View, Hash] = {}
        self.blocks: dict[Hash, Proposal] = {}
        """Accepted proposals: where a header, its parent certificate and its compact body are found again."""
        self.asked: Asked | None = None
        self.justified: Justification | None = None
        self.checking: dict[Hash, Check] = {}
        self.checked: dict[Hash, None] = {}
        self.refused: dict[Hash, Check] = {}

        self.prepares = Tally(validators)
        self.commits = Tally(validators)
        self.seen = Ladder(validators)
        """The highest view of each validator's valid signed messages (rule C11)."""
        self.changes = Ladder(validators)
        """The highest view of each validator's VIEW-CHANGEs (rule C10)."""
        self.view_changes: dict[Address, ViewChange] = {}
        self.future = Buffer()
        self.detector = EvidenceDetector(station.genesis_hash)

        self.certified: Certificate | None = None
        self.decided: Certificate | None = None
        self.heard: Certificate | None = None
        """A certificate of the decided block from elsewhere, if it is better than the own."""

        self.armed = False
        """The timer of the current view runs, or has fired."""
        self.shortened = False
        self.withheld = False
        self.work = False

    @property
    def out(self) -> list[Effect]:
        return self.station.out

    @property
    def me(self) -> Address:
        return self.station.me

    @property
    def number(self) -> int:
        return len(self.validators)

    @property
    def is_leader(self) -> bool:
        return self.terms.leader(self.view) == self.station.me

    def note(self, rule: Rule, about: Address | None = None, violation: Violation | None = None) -> None:
        self.station.out.append(Observe(rule, self.height, self.view, about, violation))
        if violation is not None and about is not None:
            self.station.reputation.violate(about, violation)

    def persist(self, record: Record) -> None:
        self.station.out.append(Persist(record))

    def has_voted(self, kind: VoteKind) -> bool:
        return (kind, self.view) in self.votes

    def cast(self, message: VotingMessage) -> None:
        """C3, C4: the vote is durable, then guarded, signed, sent and fed back by the host.

        C9 and "once a view" hold by construction of the callers; a vote that broke them must never leave.
        """
        vote = message.signed.vote
        place = (vote.kind, vote.view)
        if vote.view != self.view or self.votes.get(place, vote) != vote or not self.voting:
            raise RuntimeError(f"broken invariant: {vote.kind.name} of view {vote.view} in view {self.view}")
        self.votes[place] = vote
        self.persist(Proposed(message) if isinstance(message, Proposal) else Voted(vote))
        self.station.out.append(Broadcast(message))

    def cast_ballot(self, kind: VoteKind, block_hash: Hash) -> None:
        vote = Vote(kind, self.height, self.view, block_hash)
        self.cast(Ballot(SignedVote(vote, self.me, b"")))

    def set_lock(self, certificate: Certificate, keep_earlier: bool = False) -> None:
        self.lock = certificate
        earlier = self.locks if keep_earlier else {}
        self.locks = {**earlier, Prepared(certificate.view, certificate.block_hash): certificate}

    def own_view_change(self, vote: Vote) -> ViewChange:
        """With the certificate that it names."""
        prepared = None if vote.prepared is None else self.locks[vote.prepared]
        return ViewChange(SignedVote(vote, self.me, b""), prepared)
