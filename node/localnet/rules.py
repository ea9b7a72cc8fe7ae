"""What is wrong with the links between nodes, on request: written by `localnet faults`, obeyed by the proxy."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Final

MAX_DELAY_MS: Final = 60_000


def pair(one: str, other: str) -> tuple[str, str]:
    """A link, whoever dials it."""
    return (one, other) if one < other else (other, one)


@dataclass(frozen=True, slots=True)
class LinkRules:
    generation: int = 0
    """Counts changes, so that whoever asked for one knows when it is in force."""
    cut: frozenset[tuple[str, str]] = frozenset()
    delays_ms: tuple[tuple[str, int], ...] = ()
    """By node: what each message to or from it takes longer."""

    def delay_ms(self, one: str, other: str) -> int:
        return sum(delay for name, delay in self.delays_ms if name in {one, other})

    def is_cut(self, one: str, other: str) -> bool:
        return pair(one, other) in self.cut

    def partition(self, group: Iterable[str], everyone: Iterable[str]) -> LinkRules:
        """Nothing passes between the group and the others any more; within each side all stays as it is."""
        inside = set(group)
        outside = [name for name in everyone if name not in inside]
        cut = self.cut | {pair(*both) for both in product(sorted(inside), outside)}
        return replace(self, generation=self.generation + 1, cut=frozenset(cut))

    def delayed(self, nodes: Iterable[str], delay_ms: int) -> LinkRules:
        delays = dict(self.delays_ms) | dict.fromkeys(nodes, delay_ms)
        kept = tuple(sorted((name, delay) for name, delay in delays.items() if delay))
        return replace(self, generation=self.generation + 1, delays_ms=kept)

    def healed(self) -> LinkRules:
        return LinkRules(self.generation + 1)

    def describe(self) -> list[str]:
        cuts = [f"cut: {one} – {other}" for one, other in sorted(self.cut)]
        return cuts + [f"delayed: {name} by {delay} ms" for name, delay in self.delays_ms]


def read_rules(path: Path) -> LinkRules:
    """No file means no faults. Raises `ValueError` on one that `write_rules` did not write."""
    try:
        document: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return LinkRules()
    try:
        return LinkRules(
            int(document["generation"]),
            frozenset(pair(str(one), str(other)) for one, other in document["cut"]),
            tuple((str(name), int(delay)) for name, delay in document["delays_ms"]),
        )
    except (KeyError, TypeError) as fault:
        raise ValueError(f"{path} holds no rules for links: {fault}") from fault


def write_rules(path: Path, rules: LinkRules) -> None:
    """All or nothing: the proxy may read at any moment."""
    document = {
        "generation": rules.generation,
        "cut": [list(both) for both in sorted(rules.cut)],
        "delays_ms": [list(entry) for entry in rules.delays_ms],
    }
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document) + "\n")
    os.replace(fresh, path)
