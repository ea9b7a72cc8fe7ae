"""Exhaustive search: every behaviour of a small network over the production core, up to a number of views.

Nothing is ever lost for good, and nothing must arrive: whatever was signed may reach anybody at any later moment, any
armed timer may fire, and the corrupted sign whatever their keys can. So all networks, schedules and delays are covered.

What is left out, because it adds no behaviour: messages that complete nothing are delivered together with the one that
does; of several votes for one block it does not matter whose completes a quorum (those of the corrupted come first);
and a replica that decided says nothing new, which is what a replica does that hears nothing. Deciding is tried in every
state, and not followed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations, product
from typing import Final

from consensus.effects import VotingMessage
from consensus.evidence_detection import offences_among, votes_in, votes_of
from node.simulator.machine import GENESIS, HEIGHT, Council, Delivery, Machine, State
from trellis.certificate import Certificate, make_certificate
from trellis.messages import Ballot, DecidedNotice, Message, Proposal, ViewChange
from trellis.types import Hash, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind

Global = tuple[int, ...]
"""The number of each honest validator's state, in order, then how many restarts there were."""

MAX_STATES: Final = 5_000_000
"""About 2 GB: a search that does not end says so."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What is searched."""

    views: int
    byzantine: frozenset[int]
    """By the views that they lead first."""
    restarts: int = 0
    """How often, in all, an honest validator loses everything but its log."""
    members: int = 4
    most_states: int = MAX_STATES


@dataclass(slots=True)
class Found:
    """What a search came to."""

    scope: Scope
    states: int = 0
    moves: int = 0
    local_states: int = 0
    decisions: int = 0
    """How often the core was seen to decide."""
    complete: bool = False
    depth: int = 0
    """All behaviours of so many moves were seen."""
    forks: int = 0
    """Only where a third or more is corrupted."""
    violation: str = ""
    path: list[str] = field(default_factory=list)
    """The moves that lead to the violation."""


@dataclass(slots=True)
class Pool:
    """What honest validators signed, and what can be made of it. Many states share one."""

    proposals: list[Proposal] = field(default_factory=list)
    ballots: dict[tuple[VoteKind, View, Hash], dict[int, Ballot]] = field(default_factory=dict)
    changes: dict[View, dict[int, ViewChange]] = field(default_factory=dict)
    hashes: list[Hash] = field(default_factory=list)
    """Of every block that anybody may have proposed."""
    forged: list[Proposal] = field(default_factory=list)
    committed: list[tuple[View, Hash]] = field(default_factory=list)
    """What COMMITs of quorum power can be had for."""
    deliveries: dict[tuple[int, View], list[Delivery]] = field(default_factory=dict)
    """For each listener and its view: all that could move it."""
    moves: dict[tuple[int, int], list[tuple[str, int]]] = field(default_factory=dict)
    """For each listener and state: where it can go from there, restarts aside."""
    decided: set[tuple[int, int, View, Hash]] = field(default_factory=set)
    """Listeners, their states, and what they were made to decide there."""


Move = tuple[str, Global]


class Search:
    """Breadth first, so that a violation comes with a shortest path."""

    def __init__(self, scope: Scope) -> None:
        self.scope = scope
        self.council = Council(scope.members)
        self.honest = [number for number in range(scope.members) if number not in scope.byzantine]
        self.corrupted = sorted(scope.byzantine)
        blame = 3 * len(scope.byzantine) >= scope.members
        last_view = scope.views - 1
        self.machines = [Machine(self.council, number, last_view, keep_proofs=blame) for number in self.honest]
        self.found = Found(scope)
        self._needed = next(number for number in range(1, scope.members + 1) if self.council.is_quorum(number))
        self._from: dict[Global, tuple[Global, str] | None] = {}
        self._pools: dict[tuple[int, ...], Pool] = {}
        self._checked: set[tuple[int, int]] = set()
        self._certificates: dict[tuple[VoteKind, View, Hash, tuple[int, ...]], Certificate] = {}
        self._authentic: dict[Proposal, Proposal | None] = {}
        self._fresh = tuple(
            self.council.block(number, view, variant)
            for view in range(scope.views)
            for number in self.corrupted
            if number == view % scope.members
            for variant in (0, 1)
        )

    def run(self) -> Found:
        found = self.found
        start: Global = (*(machine.first.number for machine in self.machines), 0)
        self._from[start] = None
        frontier = [start]
        while frontier and not found.violation and len(self._from) < self.scope.most_states:
            following: list[Global] = []
            for at in frontier:
                if not self._visit(at, following) or len(self._from) >= self.scope.most_states:
                    break
            else:
                found.depth += 1
            frontier = following
        found.complete = not found.violation and not frontier
        found.states = len(self._from)
        found.local_states = sum(len(machine) for machine in self.machines)
        return found

    def _visit(self, at: Global, following: list[Global]) -> bool:
        """False if this state breaks what must hold."""
        states = [machine.by_number[number] for machine, number in zip(self.machines, at, strict=False)]
        pool = self._pool_of(states)
        said = self._check(states, pool)
        if said:
            self.found.violation = said
            self.found.path = self._path(at)
            return False
        for name, after in self._moves(at, states, pool):
            self.found.moves += 1
            if after not in self._from:
                self._from[after] = (at, name)
                following.append(after)
        return True

    def _path(self, at: Global) -> list[str]:
        steps: list[str] = []
        known = self._from[at]
        while known is not None:
            steps.append(known[1])
            known = self._from[known[0]]
        return steps[::-1]

    def _pool_of(self, states: list[State]) -> Pool:
        place = tuple(state.said for state in states)
        pool = self._pools.get(place)
        if pool is None:
            pool = self._pools[place] = self._gather(states)
        return pool

    def _gather(self, states: list[State]) -> Pool:
        pool = Pool()
        for number, state in zip(self.honest, states, strict=True):
            for message in state.sent:
                vote = message.signed.vote
                if isinstance(message, Proposal):
                    pool.proposals.append(message)
                elif isinstance(message, ViewChange):
                    pool.changes.setdefault(vote.view, {})[number] = message
                elif vote.block_hash is not None:
                    pool.ballots.setdefault((vote.kind, vote.view, vote.block_hash), {})[number] = message
        made = {message.header.hash for message in pool.proposals} | {header.hash for header in self._fresh}
        pool.hashes = sorted(made)
        pool.forged = list(self._forged_proposals(pool))
        pool.committed = [
            (view, block_hash)
            for kind, view, block_hash in sorted(pool.ballots)
            if kind is VoteKind.COMMIT and self._quorum(kind, view, block_hash, pool)
        ]
        return pool

    # What may happen next.

    def _moves(self, at: Global, states: list[State], pool: Pool) -> Iterator[Move]:
        for place, (machine, state) in enumerate(zip(self.machines, states, strict=True)):
            known = pool.moves.get((place, state.number))
            if known is None:
                known = pool.moves[place, state.number] = list(self._moves_of(machine, state, pool))
            for told, number in known:
                yield told, _with(at, place, number)
            if at[-1] < self.scope.restarts:
                after = machine.restarts(state)
                yield f"{machine.me} restarts", (*_with(at, place, after.number)[:-1], at[-1] + 1)

    def _moves_of(self, machine: Machine, state: State, pool: Pool) -> Iterator[tuple[str, int]]:
        if state.halted:
            return
        place = (machine.me, state.view)
        if place not in pool.deliveries:
            pool.deliveries[place] = [
                *self._proposals_for(state.view, pool),
                *self._prepares_for(machine.me, pool),
                *self._changes_for(machine.me, state.view, pool),
            ]
        for delivery in pool.deliveries[place]:
            after = machine.hears(state, delivery)
            if after is not state:
                yield f"{machine.me} hears {delivery.told}", after.number
        if state.timer is not None and state.view + 1 < self.scope.views:
            yield f"{machine.me} times out of view {state.view}", machine.times_out(state).number

    def _proposals_for(self, above: View, pool: Pool) -> Iterator[Delivery]:
        for proposal in (*pool.proposals, *pool.forged):
            vote = proposal.signed.vote
            if vote.view >= above:
                told = f"a proposal of {self.council.name(proposal.header.hash)} in view {vote.view}"
                yield self.council.delivery((proposal,), told)

    def _prepares_for(self, listener: int, pool: Pool) -> Iterator[Delivery]:
        for view, block_hash in product(range(self.scope.views), pool.hashes):
            told = f"of {self.council.name(block_hash)} in view {view}"
            ballots = self._quorum(VoteKind.PREPARE, View(view), block_hash, pool, listener)
            if ballots:
                yield self.council.delivery(ballots, f"PREPAREs {told}")
            for number in self.corrupted:
                # One vote must not count twice.
                ballot = self._ballot(number, VoteKind.PREPARE, View(view), block_hash)
                yield self.council.delivery((ballot, ballot), f"the PREPARE of {number} twice, {told}")

    def _changes_for(self, listener: int, above: View, pool: Pool) -> Iterator[Delivery]:
        """As many as lead, or arm the timer, or move up. For a leader it matters whose they are, and what they name."""
        for number in range(max(1, above), self.scope.views):
            view = View(number)
            changes = pool.changes.get(view, {})
            honest = [changes[who] for who in sorted(changes) if who != listener]
            forged = [self._forged_changes(who, view, pool) for who in self.corrupted]
            leads = view % self.scope.members == listener
            for chosen in _one_of_each(honest, forged, self._needed - 1, every=leads):
                yield self.council.delivery(chosen, f"VIEW-CHANGEs to view {view} of {self._told(chosen)}")

    def _told(self, messages: tuple[ViewChange, ...]) -> str:
        told = []
        for message in messages:
            prepared = message.signed.vote.prepared
            named = "" if prepared is None else f" ({self.council.name(prepared.hash)} prepared in {prepared.view})"
            told.append(f"{self.council.number[message.signed.signer]}{named}")
        return ", ".join(told)

    # What the corrupted can make.

    def _ballot(self, who: int, kind: VoteKind, view: View, block_hash: Hash) -> Ballot:
        made = self.council.one(Ballot(self.council.sign(who, Vote(kind, HEIGHT, view, block_hash))))
        if not isinstance(made, Ballot):
            raise TypeError("a ballot stays a ballot")
        return made

    def _quorum(
        self, kind: VoteKind, view: View, block_hash: Hash, pool: Pool, listener: int = -1
    ) -> tuple[Ballot, ...]:
        """The votes of others that make a quorum with the listener's own; nothing if there are not enough."""
        honest = pool.ballots.get((kind, view, block_hash), {})
        needed = self._needed - (listener in honest)
        others = [honest[number] for number in sorted(honest) if number != listener]
        if len(self.corrupted) + len(others) < needed:
            return ()
        forged = [self._ballot(number, kind, view, block_hash) for number in self.corrupted]
        return tuple([*forged, *others][:needed])

    def _certificate(self, kind: VoteKind, view: View, block_hash: Hash, pool: Pool) -> Certificate | None:
        ballots = self._quorum(kind, view, block_hash, pool)
        if not ballots:
            return None
        signers = tuple(self.council.number[ballot.signed.signer] for ballot in ballots)
        place = (kind, view, block_hash, signers)
        if place not in self._certificates:
            votes = [ballot.signed for ballot in ballots]
            self._certificates[place] = make_certificate(votes, self.council.validators)
        return self._certificates[place]

    def _prepared(self, below: int, pool: Pool) -> list[Certificate]:
        made = (
            self._certificate(VoteKind.PREPARE, View(view), block_hash, pool)
            for view, block_hash in product(range(below), pool.hashes)
        )
        return [certificate for certificate in made if certificate is not None]

    def _forged_changes(self, who: int, view: View, pool: Pool) -> list[ViewChange]:
        """Naming nothing, whatever can be proven, and something that cannot."""
        proven = self._prepared(view, pool)
        named: list[tuple[Prepared | None, Certificate | None]] = [(None, None)]
        named += [(Prepared(made.view, made.block_hash), made) for made in proven]
        unproven = [Prepared(View(view - 1), block_hash) for block_hash in pool.hashes]
        known = {prepared for prepared, _ in named}
        named += [(prepared, None) for prepared in unproven if prepared not in known][:1]
        made = []
        for prepared, certificate in named:
            vote = Vote(VoteKind.VIEW_CHANGE, HEIGHT, view, None, prepared)
            message = self.council.one(ViewChange(self.council.sign(who, vote), certificate))
            if isinstance(message, ViewChange):
                made.append(message)
        return made

    def _forged_proposals(self, pool: Pool) -> Iterator[Proposal]:
        for view, number in product(range(self.scope.views), self.corrupted):
            if number != view % self.scope.members:
                continue
            if view == 0:
                for variant in (0, 1):
                    yield from self._proposal(number, View(0), self.council.block(number, 0, variant).hash, (), None)
                continue
            yield from self._forged_new_views(number, View(view), pool)

    def _forged_new_views(self, who: int, view: View, pool: Pool) -> Iterator[Proposal]:
        """Every justification that can be had, with every block: the core must tell the sound ones."""
        changes = pool.changes.get(view, {})
        honest = [changes[number] for number in sorted(changes)]
        forged = [self._forged_changes(number, view, pool) for number in self.corrupted]
        proofs: list[Certificate | None] = [None, *self._prepared(view, pool)]
        for chosen in [(), *_one_of_each(honest, forged, self._needed, every=True)]:
            entries = tuple(message.signed for message in chosen)
            for block_hash in pool.hashes:
                for proof in proofs:
                    if proof is None or proof.block_hash == block_hash:
                        yield from self._proposal(who, view, block_hash, entries, proof)

    def _proposal(
        self, who: int, view: View, block_hash: Hash, entries: tuple[SignedVote, ...], proof: Certificate | None
    ) -> Iterator[Proposal]:
        signed = self.council.sign(who, Vote(VoteKind.PRE_PREPARE, HEIGHT, view, block_hash))
        proposal = Proposal(signed, self.council.blocks[block_hash], None, entries, proof)
        if proposal not in self._authentic:
            answer = self.council.authenticated(proposal)
            self._authentic[proposal] = answer if isinstance(answer, Proposal) else None
        known = self._authentic[proposal]
        if known is not None:
            yield known

    # What must hold.

    def _check(self, states: list[State], pool: Pool) -> str:
        for machine, state in zip(self.machines, states, strict=True):
            if (machine.me, state.number) not in self._checked:
                self._checked.add((machine.me, state.number))
                said = self._check_one(machine.me, state)
                if said:
                    return said
        for kind, view, block_hash in pool.ballots:
            if kind is VoteKind.COMMIT and not self._quorum(VoteKind.PREPARE, view, block_hash, pool):
                return f"C7: somebody COMMITs {self.council.name(block_hash)} in view {view}, which too few PREPAREd"
        for view, block_hash in pool.committed:
            said = self._check_decision(states, pool, view, block_hash)
            if said:
                return said
        if len({block_hash for _, block_hash in pool.committed}) > 1:
            return self._check_fork(states, pool)
        return ""

    def _check_one(self, me: int, state: State) -> str:
        if state.decided is not None:
            # Nobody was given a quorum's COMMITs yet: the search tries that elsewhere.
            return f"C8: {me} decides {self.council.name(state.decided.block_hash)} on too few COMMITs"
        honest = [number for number in state.accused if number not in self.scope.byzantine]
        return f"evidence: {me} accuses the honest {honest[0]}" if honest else conduct_fault(me, state.sent)

    def _check_decision(self, states: list[State], pool: Pool, view: View, block_hash: Hash) -> str:
        """Quorum COMMITs: whoever hears them, and has the block, decides it, and nothing else."""
        for machine, state in zip(self.machines, states, strict=True):
            place = (machine.me, state.number, view, block_hash)
            if place in pool.decided:
                continue
            pool.decided.add(place)
            has_block = any(
                message.signed.vote.kind is VoteKind.PREPARE and message.signed.vote.block_hash == block_hash
                for message in state.sent
            )
            if not has_block or state.view < view or state.halted:
                continue
            heard: tuple[Message, ...] = self._quorum(VoteKind.COMMIT, view, block_hash, pool, machine.me)
            if self.scope.restarts:
                # Its own COMMIT of an earlier life counts elsewhere; here a certificate has to say so.
                certificate = self._certificate(VoteKind.COMMIT, view, block_hash, pool)
                heard = () if certificate is None else (DecidedNotice(certificate),)
            after = machine.hears(state, self.council.delivery(heard, "the decision"))
            self.found.decisions += 1
            if after.decided is None or after.decided.block_hash != block_hash:
                return f"decision: {machine.me} does not decide {self.council.name(block_hash)}"
        return ""

    def _check_fork(self, states: list[State], pool: Pool) -> str:
        committed = pool.committed
        told = " and ".join(f"{self.council.name(block_hash)} in view {view}" for view, block_hash in committed)
        if 3 * len(self.corrupted) < self.scope.members:
            return f"agreement: {told} can both be decided"
        self.found.forks += 1
        votes: list[SignedVote] = []
        for state in states:
            for record in state.records:
                votes += votes_in(record, self.council.validators)
        for view, block_hash in committed:
            certificate = self._certificate(VoteKind.COMMIT, view, block_hash, pool)
            if certificate is not None:
                votes += votes_of(certificate, self.council.validators)
        blamed = {self.council.number[offence.offender] for offence in offences_among(votes, GENESIS)}
        if 3 * len(blamed) <= self.scope.members:
            return f"accountability: {told} can both be decided, and that proves offences only of {sorted(blamed)}"
        if not blamed <= self.scope.byzantine:
            return f"evidence: after a fork the honest are blamed: {sorted(blamed)}"
        return ""


def conduct_fault(me: int, sent: tuple[VotingMessage, ...]) -> str:
    """An honest validator never signs twice, nothing below its own VIEW-CHANGE, and no lie about its lock."""
    seen: dict[tuple[VoteKind, View], Vote] = {}
    highest = View(0)
    for message in sent:
        vote = message.signed.vote
        if seen.setdefault((vote.kind, vote.view), vote) != vote:
            return f"double vote: {me} signed two {vote.kind.name} in view {vote.view}"
        if vote.view < highest:
            return f"C9: {me} signed {vote.kind.name} in view {vote.view} after its VIEW-CHANGE to view {highest}"
        highest = max(highest, vote.view)
    if offences_among([message.signed for message in sent], GENESIS):
        return f"offence: what the honest {me} signed can be held against it"
    return ""


def _with(at: Global, place: int, number: int) -> Global:
    return (*at[:place], number, *at[place + 1 :])


def _one_of_each(
    honest: list[ViewChange], forged: list[list[ViewChange]], number: int, *, every: bool
) -> list[tuple[ViewChange, ...]]:
    """So many VIEW-CHANGEs of distinct signers; not `every` choice, but one, where only their number matters."""
    groups = [*forged, *([message] for message in honest)]
    if not every:
        chosen = tuple(group[0] for group in groups)
        return [chosen[:count] for count in range(1, min(number, len(chosen)) + 1)]
    return (
        [chosen for signers in combinations(groups, number) for chosen in product(*signers)]
        if len(groups) >= number
        else []
    )
