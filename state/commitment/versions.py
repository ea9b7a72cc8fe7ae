"""States one can read, extend, prove and drop: the committed one, and one for each block that nobody committed yet.

    tip = store.state                     # or MemoryState(...)
    overlay = Overlay(tip); …execute…     # a block's changes
    after = tip.extend(overlay.changes()) # after.root is the block's state_root
    child = after.extend(…)               # a block on top; as many, and as many rivals, as wanted
    store.commit(after, …)                # folds `after` into the committed state; `child` lives on over it

Extending copies nothing of the parent. Dropping an extension is letting go of it. Once a rival was committed, or the
last block rolled back, extensions of what was undone refuse to answer (`StaleStateError`) rather than answer wrongly.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from state.commitment.proofs import prove
from state.commitment.tree import StateTree, TreeDelta
from state.view import Changes, StateView
from trellis.statetree import Node, StateProof
from trellis.types import Hash

MAX_SPECULATIVE_DEPTH: Final = 64
"""Stops a host that never commits (a proof-of-work engine fed endless forks) from stacking reads without end."""


class StaleStateError(RuntimeError):
    """Host misuse: a state whose branch lost was asked after another was committed."""


class StateVersion(StateView, Protocol):
    """One state: committed or speculative."""

    @property
    def root(self) -> Hash:
        """state_root."""
        ...

    @property
    def node(self) -> Node:
        """The root with its counts: how many entries and bytes the state has."""
        ...

    def extend(self, changes: Changes) -> SpeculativeState:
        """The state after these changes; this one stays as it is."""
        ...

    def prove(self, key: bytes) -> StateProof:
        """Inclusion or absence of a key under `root`."""
        ...


class CommittedState:
    """The last committed state. `read` answers values; the tree's buckets come from wherever the tree loads them."""

    __slots__ = ("_read", "generation", "tree")

    def __init__(self, tree: StateTree, read: Callable[[bytes], bytes | None]) -> None:
        self.tree = tree
        self._read = read
        self.generation: int = 0
        """Counts commits and rollbacks, so that extensions of an undone state are found out."""

    def get(self, key: bytes) -> bytes | None:
        return self._read(key)

    @property
    def root(self) -> Hash:
        return self.tree.root

    @property
    def node(self) -> Node:
        return self.tree.node

    def extend(self, changes: Changes) -> SpeculativeState:
        return SpeculativeState(self, self, changes)

    def prove(self, key: bytes) -> StateProof:
        return prove(self.tree, self, key)

    def check_direct(self, version: SpeculativeState) -> None:
        """That `version` can be committed next."""
        version.settle()
        if version.parent is not self or version.generation != self.generation:
            raise StaleStateError("only a state directly over the committed one can be committed")

    def adopt(self, version: SpeculativeState) -> None:
        """Call once values and buckets of `version` are stored where this state reads them."""
        self.check_direct(version)
        self.tree.adopt(version.delta)
        self.generation += 1
        version.adopted(self.generation)


class SpeculativeState:
    """A state after one more block that nobody has committed."""

    __slots__ = ("_adopted", "_base", "changes", "delta", "generation", "parent")

    def __init__(self, base: CommittedState, parent: CommittedState | SpeculativeState, changes: Changes) -> None:
        self._base = base
        self.parent = parent
        self._adopted = False
        self.generation: int = parent.generation
        self.changes: Mapping[bytes, bytes | None] = dict(changes)
        self.delta: TreeDelta = (
            parent.tree.update(changes) if isinstance(parent, CommittedState) else parent.delta.update(changes)
        )

    def settle(self) -> None:
        """Stands on the committed state directly, where the parent was committed meanwhile."""
        parent = self.parent
        if isinstance(parent, SpeculativeState) and parent._adopted:
            self.generation = parent.generation
            self.parent = self._base
            self.delta.parent = self._base.tree

    def _check_alive(self) -> int:
        """How many uncommitted blocks stand between this state and the committed one, itself included."""
        depth, version = 1, self
        version.settle()
        while isinstance(version.parent, SpeculativeState):
            depth, version = depth + 1, version.parent
            version.settle()
        if version.generation != self._base.generation:
            raise StaleStateError("this state extends one that was undone, or that lost against a committed rival")
        return depth

    def get(self, key: bytes) -> bytes | None:
        version: CommittedState | SpeculativeState = self
        generation = self.generation
        while isinstance(version, SpeculativeState):
            if key in version.changes:
                return version.changes[key]
            generation = version.generation
            version = version.parent
        if generation != version.generation:
            raise StaleStateError("this state extends one that was undone, or that lost against a committed rival")
        return version.get(key)

    @property
    def root(self) -> Hash:
        return self.delta.root

    @property
    def node(self) -> Node:
        return self.delta.node

    def extend(self, changes: Changes) -> SpeculativeState:
        if self._check_alive() >= MAX_SPECULATIVE_DEPTH:
            raise ValueError(f"more than {MAX_SPECULATIVE_DEPTH} uncommitted blocks on one branch")
        return SpeculativeState(self._base, self, changes)

    def prove(self, key: bytes) -> StateProof:
        self._check_alive()
        return prove(self.delta, self, key)

    def adopted(self, generation: int) -> None:
        """The committed state took this one in: from here on it answers by the committed one."""
        self.generation = generation
        self._adopted = True
        self.changes = {}
        self.delta.clear()


class MemoryState(CommittedState):
    """A committed state in memory alone, for tests, tools and the building of a genesis."""

    __slots__ = ("_buckets", "_values")

    def __init__(self, buckets_log2: int) -> None:
        self._values: dict[bytes, bytes] = {}
        self._buckets: dict[int, bytes] = {}
        super().__init__(StateTree(buckets_log2, lambda index, _: self._buckets[index]), self._values.get)

    def commit(self, version: SpeculativeState) -> None:
        self.check_direct(version)
        for key, value in version.changes.items():
            if value is None:
                self._values.pop(key, None)
            else:
                self._values[key] = value
        for index, bucket in version.delta.buckets.items():
            self._buckets[index] = bucket
        self.adopt(version)

    def apply(self, changes: Changes) -> Hash:
        """Extends and commits at once; the new root."""
        self.commit(self.extend(changes))
        return self.root

    def items(self) -> list[tuple[bytes, bytes]]:
        """All entries in ascending key order."""
        return sorted(self._values.items())
