"""The state root by the book: every node from scratch, by `trellis.statetree` alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from trellis.statetree import EMPTY_NODE, Node, bucket_of, join, leaf_node


def left_full(nodes: Sequence[Node]) -> Node:
    """The largest power of two below n stands on the left."""
    if not nodes:
        return EMPTY_NODE
    if len(nodes) == 1:
        return nodes[0]
    left = 1
    while left * 2 < len(nodes):
        left *= 2
    return join(left_full(nodes[:left]), left_full(nodes[left:]))


def full_root(entries: Mapping[bytes, bytes], buckets_log2: int) -> Node:
    buckets: list[list[Node]] = [[] for _ in range(1 << buckets_log2)]
    for key in sorted(entries):
        buckets[bucket_of(key, buckets_log2)].append(leaf_node(key, entries[key]))
    level = [left_full(bucket) for bucket in buckets]
    while len(level) > 1:
        level = [join(level[at], level[at + 1]) for at in range(0, len(level), 2)]
    return level[0]
