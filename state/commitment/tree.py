"""The levels above the buckets, held flat in memory, and updates to them that nobody has committed yet.

`StateTree` is the committed tree. `update` never changes it: it returns a `TreeDelta`, the buckets and inner nodes that
differ, over which further deltas can be made, one for each uncommitted block. Dropping a delta is forgetting it;
`StateTree.adopt` takes one in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import sha3_256
from typing import Final

from state.commitment.bucket import EMPTY_BUCKET, EMPTY_ROOT, PackedNode, bucket_root, rewrite
from state.view import Changes
from trellis.hashing import Tag
from trellis.statetree import Node
from trellis.types import Hash

_KEY_TAG: Final = Tag.STATE_KEY.value
_NODE_TAG: Final = Tag.STATE_NODE.value
_LOW_64: Final = (1 << 64) - 1


def _unpacked(node: PackedNode) -> Node:
    return Node(node[0], node[1] >> 64, node[1] & _LOW_64)


def _joined(left: PackedNode, right: PackedNode) -> PackedNode:
    """`trellis.statetree.join` without building nodes: most of an update's time is spent here."""
    totals = left[1] + right[1]
    return sha3_256(_NODE_TAG + left[0] + right[0] + totals.to_bytes(16, "big")).digest(), totals


class _Stacked:
    """A level as it stands after an uncommitted block: looks like the list of a committed level."""

    __slots__ = ("_changed", "_under")

    def __init__(self, changed: dict[int, PackedNode], under: list[PackedNode] | _Stacked) -> None:
        self._changed = changed
        self._under = under

    def __getitem__(self, index: int) -> PackedNode:
        return self._changed.get(index) or self._under[index]


class StateTree:
    """The committed tree: two nodes a bucket in memory, the buckets themselves wherever `load` finds them."""

    __slots__ = ("_levels", "_load", "buckets_log2")

    def __init__(
        self,
        buckets_log2: int,
        load: Callable[[int, PackedNode], bytes],
        bucket_roots: Iterable[tuple[int, PackedNode]] = (),
    ) -> None:
        """`load` answers a bucket with the root it must have, and raises its own error where it cannot.

        `bucket_roots` are the roots of the buckets that are not empty; all levels above are hashed here.
        """
        self.buckets_log2: int = buckets_log2
        self._load = load
        level = [EMPTY_ROOT] * (1 << buckets_log2)
        for index, node in bucket_roots:
            level[index] = node
        levels = [level]
        empty = EMPTY_ROOT
        while len(level) > 1:
            above = _joined(empty, empty)
            level = [
                above if left is empty and right is empty else _joined(left, right)
                for left, right in zip(level[::2], level[1::2], strict=True)
            ]
            levels.append(level)
            empty = above
        levels.reverse()
        self._levels: list[list[PackedNode]] = levels

    @property
    def node(self) -> Node:
        """The root, and how many keys and bytes the state holds."""
        return _unpacked(self._levels[0][0])

    @property
    def root(self) -> Hash:
        return Hash(self._levels[0][0][0])

    def packed(self, level: int, index: int) -> PackedNode:
        return self._levels[level][index]

    def node_at(self, level: int, index: int) -> Node:
        """Level 0 is the root, level `buckets_log2` the buckets."""
        return _unpacked(self._levels[level][index])

    def row(self, level: int) -> list[PackedNode]:
        """All nodes of a level, to look at."""
        return self._levels[level]

    def bucket(self, index: int) -> bytes:
        root = self._levels[-1][index]
        if not root[1]:
            return EMPTY_BUCKET
        return self._load(index, root)

    def update(self, changes: Changes) -> TreeDelta:
        return TreeDelta(self, changes)

    def adopt(self, delta: TreeDelta) -> None:
        """The delta's nodes become the committed ones. Its buckets are the caller's to store, before this."""
        if delta.parent is not self:
            raise ValueError("only a delta directly over the committed tree can be adopted")
        for level, changed in zip(self._levels, delta.levels, strict=True):
            for index, node in changed.items():
                level[index] = node


class TreeDelta:
    """What an uncommitted block does to the tree below it."""

    __slots__ = ("buckets", "buckets_log2", "levels", "parent")

    def __init__(self, parent: StateTree | TreeDelta, changes: Changes) -> None:
        self.parent = parent
        self.buckets_log2: int = parent.buckets_log2
        self.buckets: dict[int, bytes] = {}
        """Buckets that changed; an empty one is to be deleted."""
        self.levels: list[dict[int, PackedNode]] = []
        touched = _by_bucket(changes, self.buckets_log2)
        bottom: dict[int, PackedNode] = {}
        # In order of buckets: neighbours in the tree, and in the store, are neighbours in memory.
        for index, changed in sorted(touched.items()):
            before = parent.bucket(index)
            after = rewrite(before, changed)
            if after is not before:
                self.buckets[index] = after
                bottom[index] = bucket_root(after)
        self._climb(bottom)

    def _climb(self, bottom: dict[int, PackedNode]) -> None:
        """Hashes what lies above the changed buckets. `_joined` stands here written out: a third of a block's time."""
        below = bottom
        self.levels.append(below)
        tag, sha3 = _NODE_TAG, sha3_256
        for level in range(self.buckets_log2, 0, -1):
            under = self.parent.row(level)
            above: dict[int, PackedNode] = {}
            for index, node in below.items():
                parent = index >> 1
                if parent in above:
                    continue
                other, counts = below.get(index ^ 1) or under[index ^ 1]
                digest, totals = node
                totals += counts
                pair = tag + other + digest if index & 1 else tag + digest + other
                above[parent] = sha3(pair + totals.to_bytes(16, "big")).digest(), totals
            self.levels.append(above)
            below = above
        self.levels.reverse()

    def row(self, level: int) -> _Stacked:
        return _Stacked(self.levels[level], self.parent.row(level))

    @property
    def node(self) -> Node:
        return _unpacked(self.packed(0, 0))

    @property
    def root(self) -> Hash:
        return Hash(self.packed(0, 0)[0])

    def packed(self, level: int, index: int) -> PackedNode:
        node = self.levels[level].get(index)
        return self.parent.packed(level, index) if node is None else node

    def node_at(self, level: int, index: int) -> Node:
        return _unpacked(self.packed(level, index))

    def bucket(self, index: int) -> bytes:
        bucket = self.buckets.get(index)
        return self.parent.bucket(index) if bucket is None else bucket

    def update(self, changes: Changes) -> TreeDelta:
        return TreeDelta(self, changes)

    def clear(self) -> None:
        """After its adoption: what this delta held, its parent answers."""
        self.buckets = {}
        for changed in self.levels:
            changed.clear()


def _by_bucket(changes: Changes, buckets_log2: int) -> dict[int, list[tuple[bytes, bytes | None]]]:
    shift = 32 - buckets_log2
    touched: dict[int, list[tuple[bytes, bytes | None]]] = {}
    for change in sorted(changes.items()):
        index = int.from_bytes(sha3_256(_KEY_TAG + change[0]).digest()[:4], "big") >> shift
        if index in touched:
            touched[index].append(change)
        else:
            touched[index] = [change]
    return touched
