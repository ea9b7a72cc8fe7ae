"""Mutants of the core: each takes one rule away, and an independent checker must notice.

`python -m tests.node.simulator.mutants` runs seeds against every mutant until one fails, and prints the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from consensus import ballots, justify, proposals, restoring, views
from consensus.instance import Instance
from consensus.rules import Rule
from consensus.tally import Counted, Tally
from node.simulator.disk import Disk
from node.simulator.swarm import Result, run_seed
from trellis.types import Hash, View
from trellis.validators import ValidatorSet
from trellis.votes import SignedVote, VoteKind

Patches = list[tuple[Any, str, Any]]


@dataclass(frozen=True, slots=True)
class Mutant:
    name: str
    patches: Callable[[], Patches]

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
    def prepare(instance: Instance) -> None:
        block_hash = instance.accepted.get(instance.view)
        if block_hash is None or not instance.voting or instance.has_voted(VoteKind.PREPARE):
            return
        instance.checked[block_hash] = None
        instance.cast_ballot(VoteKind.PREPARE, block_hash)

    return [(ballots, "try_prepare", prepare)]


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

    from consensus import replica

    return [(replica, "resume", resume)]


def _no_view_change() -> Patches:
    return [(views, "time_out", lambda instance: None)]


def _no_resend() -> Patches:
    return [(views, "send_again", lambda instance: None)]


MUTANTS: tuple[Mutant, ...] = (
    Mutant("the lock is dropped", _no_lock),
    Mutant("duplicate votes count", _duplicate_votes_count),
    Mutant("half of power is a quorum", _weak_quorum),
    Mutant("the log is forgotten at a restart", _forgotten_log),
    Mutant("a restart forgets its votes", _restart_forgets_votes),
    Mutant("a block is prepared before it is validated", _prepare_without_validating),
    Mutant("a third of PREPAREs is enough to COMMIT", _commit_without_quorum),
    Mutant("NEW-VIEW without a quorum of VIEW-CHANGEs", lambda: _without(Rule.NO_QUORUM)),
    Mutant("NEW-VIEW with entries of another height or view", lambda: _without(Rule.FOREIGN_ENTRY)),
    Mutant("NEW-VIEW may replace the prepared block", lambda: _without(Rule.NOT_THE_PREPARED_BLOCK)),
    Mutant("NEW-VIEW without the prepared certificate", lambda: _without(Rule.UNPROVEN_PREPARED)),
    Mutant("anybody may propose", lambda: _without(Rule.NOT_THE_LEADER)),
    Mutant("one validator's VIEW-CHANGE counts for many", lambda: _without(Rule.REPEATED_SIGNER)),
    Mutant("the vote need not name its header", lambda: _without(Rule.HASH_MISMATCH)),
    Mutant("nobody changes the view", _no_view_change),
    Mutant("nothing is sent again", _no_resend),
)


def hunt(mutant: Mutant, most_seeds: int, settings: tuple[tuple[int, int], ...] = ((4, 1), (7, 2))) -> Result | None:
    """The first seed that a checker fails the mutant on; None if none does."""
    with mutant.alive():
        for seed in range(most_seeds):
            nodes, byzantine = settings[seed % len(settings)]
            try:
                result = run_seed(seed, nodes, byzantine)
            except Exception as fault:  # a mutant may also break the core's own invariants: that is being caught, too
                return Result(seed, violation=f"{type(fault).__name__}: {fault}")
            if result.failed:
                return result
    return None


def main() -> int:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    survivors = 0
    for mutant in MUTANTS:
        result = hunt(mutant, most)
        survivors += result is None
        verdict = "SURVIVES" if result is None else f"seed {result.seed}: {result.violation or 'no progress'}"
        print(f"{mutant.name:55} {verdict[:110]}", flush=True)
    print(f"mutants: {len(MUTANTS) - survivors} of {len(MUTANTS)} caught within {most} seeds")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
