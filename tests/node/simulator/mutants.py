"""Mutants of the core: each takes one rule away, and an independent checker must notice.

`python -m tests.node.simulator.mutants` runs the scripts, then seeds against every mutant until one fails, and prints
the table: which seed or script, and what the checker said. A mutant that merely crashes does not count as caught.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

from consensus import ballots, checks, justify, proposals, replica, restoring, views
from consensus.effects import Broadcast
from consensus.events import BlockChecked
from consensus.guard import SignGuard
from consensus.instance import Instance
from consensus.records import Locked, Voted
from consensus.rules import Rule
from consensus.tally import Counted, Ladder, Tally
from node.simulator import world as simulated
from node.simulator.disk import Disk
from node.simulator.host import Host
from node.simulator.stage import (
    Forgery,
    ForkAttempt,
    late_prepares,
    long_partition,
    one_driver,
    poisoned_views,
    silent_start,
    starved_view,
)
from node.simulator.swarm import run_seed
from trellis.messages import Ballot
from trellis.types import Hash, View
from trellis.validators import ValidatorSet
from trellis.votes import SignedVote, Vote, VoteKind

Patches = list[tuple[Any, str, Any]]


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    patches: Callable[[], Patches]
    hint: str = ""
    """The script, or `n/f/seed`, known to catch it: tried first."""

    @contextmanager
    def alive(self) -> Iterator[None]:
        patches = [patch.object(owner, name, value) for owner, name, value in self.patches()]
        for each in patches:
            each.start()
        try:
            yield
        finally:
            for each in reversed(patches):
                each.stop()


def _without(rule: Rule) -> Patches:
    """A refusal that is not refused any more."""
    original = justify.proposal_fault

    def lenient(*arguments: Any) -> Rule | None:
        fault = original(*arguments)
        return None if fault is rule else fault

    return [(proposals, "proposal_fault", lenient)]


def _no_lock() -> Patches:
    def forget(instance: Instance, certificate: Any, **_: Any) -> None:
        return None

    return [(Instance, "set_lock", forget)]


def _duplicate_votes_count() -> Patches:
    original = Tally.add

    def add(tally: Tally, signed: SignedVote, block_hash: Hash) -> Counted:
        counted = original(tally, signed, block_hash)
        if counted is not Counted.REPEATED:
            return counted
        powers = tally._power[signed.vote.view]
        before = powers[block_hash]
        powers[block_hash] = before + tally._validators.power_of(signed.signer)
        reached = tally._validators.is_quorum(powers[block_hash]) and not tally._validators.is_quorum(before)
        return Counted.QUORUM if reached else Counted.COUNTED

    return [(Tally, "add", add)]


def _weak_quorum() -> Patches:
    return [(ValidatorSet, "is_quorum", lambda self, power: 2 * power >= self.total_power)]


def _forgotten_log() -> Patches:
    return [(Disk, "records", lambda self: [])]


def _prepare_without_validating() -> Patches:
    """Every verdict counts as "valid"; the host keeps each body, as it would of a valid block."""
    original_verdict, original_validate = ballots.hear_verdict, Host._validate

    def hear_verdict(instance: Instance, event: BlockChecked) -> None:
        original_verdict(instance, replace(event, valid=True))

    def validate(host: Host, effect: Any, block: Any) -> None:
        host.durable.bodies[block.hash] = block
        original_validate(host, effect, block)

    return [(ballots, "hear_verdict", hear_verdict), (Host, "_validate", validate)]


def _commit_without_quorum() -> Patches:
    original = Tally.has_quorum

    def enough(tally: Tally, view: View, block_hash: Hash) -> bool:
        return original(tally, view, block_hash) or tally._validators.is_blocking(tally.power(view, block_hash))

    return [(Tally, "has_quorum", enough)]


def _restart_forgets_votes() -> Patches:
    original = restoring.resume

    def resume(instance: Instance, restored: Any) -> None:
        restored.votes.clear()
        original(instance, restored)

    return [(replica, "resume", resume)]


def _no_view_change() -> Patches:
    return [(views, "time_out", lambda instance: None)]


def _no_resend() -> Patches:
    return [(views, "send_again", lambda instance: None)]


def _without_justification() -> Patches:
    original = justify.proposal_fault

    def lenient(proposal: Any, terms: Any) -> Rule | None:
        fault = original(proposal, terms)
        return None if fault is Rule.NO_QUORUM and not proposal.justification else fault

    return [(proposals, "proposal_fault", lenient)]


def _other_height() -> Patches:
    original = justify.justification_fault

    def lenient(entries: tuple[SignedVote, ...], view: View, terms: Any) -> Rule | None:
        """As if the entries' height were not looked at."""
        heights = {signed.vote.height for signed in entries}
        return original(entries, view, replace(terms, height=heights.pop()) if len(heights) == 1 else terms)

    return [(justify, "justification_fault", lenient)]


def _other_view() -> Patches:
    original = justify.justification_fault

    def lenient(entries: tuple[SignedVote, ...], view: View, terms: Any) -> Rule | None:
        """As if the entries' view were not looked at."""
        seen = {signed.vote.view for signed in entries}
        return original(entries, seen.pop() if len(seen) == 1 else view, terms)

    return [(justify, "justification_fault", lenient)]


def _commit_in_past_view(instance: Instance, view: View, block_hash: Hash) -> None:
    certificate = instance.prepares.certificate(view, block_hash)
    instance.set_lock(certificate)
    instance.persist(Locked(certificate))
    vote = Vote(VoteKind.COMMIT, instance.height, view, block_hash)
    instance.votes[VoteKind.COMMIT, view] = vote
    instance.persist(Voted(vote))
    instance.out.append(Broadcast(Ballot(SignedVote(vote, instance.me, b""))))


def _no_c9() -> Patches:
    original = ballots.try_lock

    def try_lock(instance: Instance) -> None:
        original(instance)
        for view, block_hash in sorted(instance.accepted.items()):
            past = view < instance.view and instance.voting and (VoteKind.COMMIT, view) not in instance.votes
            if past and instance.prepares.has_quorum(view, block_hash):
                _commit_in_past_view(instance, view, block_hash)

    return [(ballots, "try_lock", try_lock)]


def _no_c9_no_guard() -> Patches:
    return _no_c9() + _no_guard()


def _no_guard() -> Patches:
    return [(SignGuard, "check", lambda self, vote: None)]


def _old_log_no_guard() -> Patches:
    original = Host.start

    def trusting(host: Host, *, suspicious: bool = False) -> None:
        host.suspicious = False
        original(host)

    return [*_no_guard(), (Host, "start", trusting)]


def _prepares_of_any_view() -> Patches:
    original = ballots.try_lock

    def try_lock(instance: Instance) -> None:
        original(instance)
        block_hash = instance.accepted.get(instance.view)
        ready = block_hash is not None and instance.voting and instance.has_voted(VoteKind.PREPARE)
        if block_hash is None or not ready or instance.has_voted(VoteKind.COMMIT):
            return
        earlier = [view for view in instance.prepares.quorum_views(block_hash) if view < instance.view]
        if earlier:
            certificate = instance.prepares.certificate(earlier[-1], block_hash)
            instance.set_lock(certificate, keep_earlier=True)
            instance.persist(Locked(certificate))
            instance.cast_ballot(VoteKind.COMMIT, block_hash)

    return [(ballots, "try_lock", try_lock)]


def _unverified_prepared() -> Patches:
    def authenticate(message: Any, genesis_hash: Hash, validators: ValidatorSet, verify: Any) -> Any:
        answer = checks.authenticate(message, genesis_hash, validators, verify)
        return answer if isinstance(answer, Rule) else message

    return [(simulated, "authenticate", authenticate), (views, "proves", lambda certificate, *_: bool(certificate))]


def _no_signatures() -> Patches:
    return [(simulated, "authenticate", lambda message, *_: message)]


def _runaway() -> Patches:
    def try_arm(instance: Instance) -> None:
        if not instance.armed and instance.view > 0 and instance.voting:
            views.arm(instance, Rule.ARMED_BY_QUORUM)

    return [(views, "try_arm", try_arm)]


def _one_drives() -> Patches:
    return [(Ladder, "highest_blocking", lambda self: max(self._power, default=None))]


MUTANTS: tuple[Mutant, ...] = (
    Mutant("the lock is dropped", _no_lock, "4/1/0"),
    Mutant("the lock is dropped, the guard off", lambda: _no_lock() + _no_guard(), "4/1/0"),
    Mutant("duplicate votes count", _duplicate_votes_count, "4/1/0"),
    Mutant("half of power is a quorum", _weak_quorum, "4/1/14"),
    Mutant("the log is forgotten at a restart", _forgotten_log, "4/1/0"),
    Mutant("a restart forgets its votes", _restart_forgets_votes, "4/1/0"),
    Mutant("the guard is off and an old log is trusted", _old_log_no_guard, "4/1/0"),
    Mutant("a block is prepared before it is validated", _prepare_without_validating, "4/1/42"),
    Mutant("a third of PREPAREs is enough to COMMIT", _commit_without_quorum, "7/2/3"),
    Mutant("COMMIT on PREPAREs of another view", _prepares_of_any_view, "starved view"),
    Mutant("COMMIT below the own VIEW-CHANGE (C9)", _no_c9, "late prepares"),
    Mutant("the same, with the guard off", _no_c9_no_guard, "late prepares"),
    Mutant("NEW-VIEW without justification", _without_justification, Forgery.NOTHING),
    Mutant("NEW-VIEW without a quorum of VIEW-CHANGEs", lambda: _without(Rule.NO_QUORUM), Forgery.TOO_FEW),
    Mutant("one validator's VIEW-CHANGE counts for many", lambda: _without(Rule.REPEATED_SIGNER), Forgery.REPEATED),
    Mutant("NEW-VIEW with entries of another view", _other_view, Forgery.OTHER_VIEW),
    Mutant("NEW-VIEW with entries of another height", _other_height, Forgery.OTHER_HEIGHT),
    Mutant("NEW-VIEW may replace the prepared block", lambda: _without(Rule.NOT_THE_PREPARED_BLOCK), Forgery.REPLACED),
    Mutant("NEW-VIEW without the prepared certificate", lambda: _without(Rule.UNPROVEN_PREPARED), Forgery.UNPROVEN),
    Mutant("the leader counts an unverified prepared view", _unverified_prepared, "poisoned views"),
    Mutant("anybody may propose", lambda: _without(Rule.NOT_THE_LEADER), "7/2/13"),
    Mutant("the vote need not name its header", lambda: _without(Rule.HASH_MISMATCH), "7/2/9"),
    Mutant("signatures are not verified", _no_signatures, "4/1/10"),
    Mutant("a timer runs without a quorum in its view", _runaway, "long partition"),
    Mutant("one validator's VIEW-CHANGE moves all", _one_drives, "one driver"),
    Mutant("nobody changes the view", _no_view_change, "4/1/8"),
    Mutant("nothing is sent again", _no_resend, "silent start"),
)

SCRIPTS: dict[str, Callable[[], str]] = {
    "one driver": one_driver,
    "poisoned views": poisoned_views,
    "silent start": silent_start,
    "starved view": starved_view,
    "late prepares": late_prepares,
    "long partition": long_partition,
}


def _fork(forgery: Forgery) -> Callable[[], str]:
    return lambda: ForkAttempt(forgery).run()


SCRIPTS.update({str(forgery): _fork(forgery) for forgery in Forgery})
SETTINGS = ((4, 1), (7, 2))


@dataclass(frozen=True, slots=True)
class Catch:
    """How a mutant was caught, and what the checker said."""

    by: str
    said: str


def try_hint(mutant: Mutant) -> Catch | None:
    """The script or seed that is known to catch this mutant."""
    if not mutant.hint:
        return None
    with mutant.alive():
        if mutant.hint in SCRIPTS:
            said = SCRIPTS[mutant.hint]()
            return Catch(f"script: {mutant.hint}", said) if said else None
        nodes, byzantine, seed = map(int, mutant.hint.split("/"))
        return _try_seed(nodes, byzantine, seed)


def _try_seed(nodes: int, byzantine: int, seed: int) -> Catch | None:
    result = run_seed(seed, nodes, byzantine)
    if not result.failed:
        return None
    return Catch(f"n = {nodes}, f = {byzantine}, seed {seed}", result.violation or "no progress")


def hunt(mutant: Mutant, most_seeds: int) -> tuple[Catch | None, str]:
    """The first catch by a checker, and the first way in which the mutant broke itself, if it did."""
    broke = ""
    caught = try_hint(mutant)
    with mutant.alive():
        for number in range(0 if caught is not None else most_seeds):
            nodes, byzantine = SETTINGS[number % len(SETTINGS)]
            try:
                caught = _try_seed(nodes, byzantine, number)
            except Exception as fault:  # a mutant may break the core's own invariants; that alone proves no checker
                broke = broke or f"seed {number}: {type(fault).__name__}: {fault}"
            if caught is not None:
                break
    return caught, broke


def main() -> int:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    chosen = [mutant for mutant in MUTANTS if wanted in mutant.name]
    survivors = 0
    for mutant in chosen:
        caught, broke = hunt(mutant, most)
        survivors += caught is None
        verdict = f"SURVIVES {broke}" if caught is None else f"{caught.by:45} {caught.said[:100]}"
        print(f"{mutant.name:48} {verdict}", flush=True)
    print(f"mutants: {len(chosen) - survivors} of {len(chosen)} caught by scripts and at most {most} seeds")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
