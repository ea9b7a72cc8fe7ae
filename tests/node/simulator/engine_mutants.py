"""The core's mutants again, through the node's engine on the real ledger.

`python -m tests.node.simulator.engine_mutants` hunts each with the scripts and then with seeds, and prints the table.
Where a mutant of the core alone changes the simulator's own host, here the same rule is taken from the engine.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Final

from consensus import ballots, signature_checks, views
from consensus.events import BlockChecked
from consensus.instance import Instance
from node import engine
from node.bodies import Bodies
from node.simulator import stage
from node.simulator.engine_host import EngineHost
from node.simulator.stage import EngineStage, Forgery, ForkAttempt
from node.simulator.swarm import Conditions, run_seed
from tests.node.simulator.mutants import MUTANTS, SETTINGS, Catch, Mutant, Patches
from trellis.block import Block

ON_ENGINE: Final = Conditions(engine=True)


def _no_signatures() -> Patches:
    return [(EngineHost, "verify", lambda host, checks: (True,) * len(checks))]


def _unverified_prepared() -> Patches:
    """The engine asks about the VIEW-CHANGE itself where it should ask about the certificate."""
    return [
        (engine, "certificate_checks", signature_checks),
        (views, "proves", lambda certificate, *_: bool(certificate)),
    ]


def _prepare_without_validating() -> Patches:
    original_verdict, original_execute = ballots.hear_verdict, Bodies._execute

    def hear_verdict(instance: Instance, event: BlockChecked) -> None:
        original_verdict(instance, replace(event, valid=True))

    def execute(bodies: Bodies, block_hash: Any, want: Any, block: Block, sender: Any) -> None:
        bodies.keep(block)
        original_execute(bodies, block_hash, want, block, sender)

    return [(ballots, "hear_verdict", hear_verdict), (Bodies, "_execute", execute)]


def _fork(forgery: Forgery) -> str:
    return ForkAttempt(forgery, 0, EngineStage).run()


OTHERWISE: Final = {
    "signatures are not verified": _no_signatures,
    "the leader counts an unverified prepared view": _unverified_prepared,
    "a block is prepared before it is validated": _prepare_without_validating,
}
MUTANTS_HERE: Final = tuple(
    replace(mutant, patches=OTHERWISE[mutant.name]) if mutant.name in OTHERWISE else mutant for mutant in MUTANTS
)
SCRIPTS: Final = {
    "one driver": partial(stage.one_driver, EngineStage),
    "poisoned views": partial(stage.poisoned_views, EngineStage),
    "silent start": partial(stage.silent_start, EngineStage),
    "starved view": partial(stage.starved_view, EngineStage),
    "late prepares": partial(stage.late_prepares, EngineStage),
    "long partition": partial(stage.long_partition, EngineStage),
    **{str(forgery): partial(_fork, forgery) for forgery in Forgery},
}


@contextmanager
def _quiet(broke: list[str]) -> Iterator[None]:
    try:
        yield
    except Exception as fault:  # a mutant may break the core's own invariants; that alone proves no checker
        broke.append(f"{type(fault).__name__}: {fault}")


def try_seed(nodes: int, byzantine: int, seed: int) -> Catch | None:
    result = run_seed(seed, nodes, byzantine, ON_ENGINE)
    if not result.failed:
        return None
    return Catch(f"{nodes}/{byzantine}/{seed}", result.violation or "no progress")


def try_hint(mutant: Mutant, hint: str) -> Catch | None:
    with mutant.alive():
        if hint in SCRIPTS:
            said = SCRIPTS[hint]()
            return Catch(hint, said) if said else None
        nodes, byzantine, seed = map(int, hint.split("/"))
        return try_seed(nodes, byzantine, seed)


def hunt(mutant: Mutant, most_seeds: int) -> tuple[Catch | None, list[str]]:
    """By its script, if the core's table names one, then by seeds."""
    broke: list[str] = []
    if mutant.hint in SCRIPTS:
        with _quiet(broke):
            caught = try_hint(mutant, mutant.hint)
            if caught is not None:
                return caught, broke
    for number in range(most_seeds):
        nodes, byzantine = SETTINGS[number % len(SETTINGS)]
        with _quiet(broke), mutant.alive():
            caught = try_seed(nodes, byzantine, number)
            if caught is not None:
                return caught, broke
    return None, broke


def main() -> int:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else 60
    wanted = sys.argv[2] if len(sys.argv) > 2 else ""
    survivors = 0
    chosen = [mutant for mutant in MUTANTS_HERE if wanted in mutant.name]
    for mutant in chosen:
        caught, broke = hunt(mutant, most)
        survivors += caught is None
        verdict = f"SURVIVES {broke[:1]}" if caught is None else f"{caught.by:45} {caught.said[:100]}"
        print(f"{mutant.name:48} {verdict}", flush=True)
    print(f"mutants: {len(chosen) - survivors} of {len(chosen)} caught by scripts and at most {most} seeds")
    return 1 if survivors else 0


if __name__ == "__main__":
    sys.exit(main())
