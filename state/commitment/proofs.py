"""Making the proofs that `trellis.statetree` checks."""

from __future__ import annotations

from typing import Protocol

from state.commitment.bucket import bucket_keys, climb, find, neighbours
from state.view import StateView
from trellis.statetree import Entry, Node, StateProof, bucket_of


class TreeView(Protocol):
    """A tree at some root: committed, or after blocks that nobody has committed yet."""

    @property
    def buckets_log2(self) -> int: ...

    def bucket(self, index: int) -> bytes: ...

    def node_at(self, level: int, index: int) -> Node: ...


class StateMismatchError(ValueError):
    """The tree commits to a key whose value is not there: one of them was damaged."""


def prove(tree: TreeView, values: StateView, key: bytes) -> StateProof:
    """Inclusion of a key, or its absence by its neighbours. Tree and values must be of one state."""
    index = bucket_of(key, tree.buckets_log2)
    bucket = tree.bucket(index)
    position = find(bucket, key)
    left, right = (position, None) if position is not None else neighbours(bucket, key)
    return StateProof(
        _entry(bucket, left, values),
        _entry(bucket, right, values),
        tuple(
            tree.node_at(level, (index >> tree.buckets_log2 - level) ^ 1) for level in range(tree.buckets_log2, 0, -1)
        ),
    )


def _entry(bucket: bytes, position: int | None, values: StateView) -> Entry | None:
    if position is None:
        return None
    key = bucket_keys(bucket)[position]
    value = values.get(key)
    if value is None:
        raise StateMismatchError(f"the tree commits to key {key.hex()}, which has no value")
    return Entry(key, value, climb(bucket, position))
