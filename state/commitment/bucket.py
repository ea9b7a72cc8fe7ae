"""One bucket of the state tree: the sorted keys that hash into it, and every node of the small Merkle tree over them.

A bucket is one byte string, the same in memory and in the store, so that loading one parses nothing and changing one
value touches log n nodes. It holds no values: a leaf's hash stands for them.

    count u32 ‖ node hashes, root first, leaves last ‖ node byte totals u64, likewise ‖ key ends u32 each ‖ keys

How many leaves lie below a node follows from its place, because the tree is left-full: neighbours pair up level by
level, and an odd last node is passed up as it is (so it stands in both levels). The empty bucket is the empty string.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Sequence
from functools import lru_cache
from hashlib import sha3_256
from itertools import pairwise
from typing import Final, NamedTuple

from trellis.hashing import Tag
from trellis.statetree import EMPTY_NODE, Node

EMPTY_BUCKET: Final = b""

_LEAF_TAG: Final = Tag.STATE_LEAF.value
_NODE_TAG: Final = Tag.STATE_NODE.value
_COUNT_BYTES: Final = 4
_SIZE: Final = struct.Struct(">Q")
_TOTALS: Final = struct.Struct(">QQ")

PackedNode = tuple[bytes, int]
"""A node's hash, and (leaves << 64 | bytes): the sum of two such integers is the sum of both parts."""

EMPTY_ROOT: Final[PackedNode] = (EMPTY_NODE.hash, 0)


class MalformedBucketError(ValueError):
    """Bytes that no bucket can have: whoever read them from a disk holds a corrupt disk."""


class _Level(NamedTuple):
    width: int
    hashes_at: int
    sizes_at: int
    leaves: tuple[bytes, ...]
    """How many leaves lie below each node, as its hash takes them."""


class _Shape(NamedTuple):
    """Where things stand in a bucket of so many keys."""

    levels: tuple[_Level, ...]
    """Leaves first."""
    ends_at: int
    ends: struct.Struct
    keys_at: int


@lru_cache(maxsize=1024)
def _shape(count: int) -> _Shape:
    widths = [count]
    while widths[-1] > 1:
        widths.append((widths[-1] + 1) // 2)
    nodes = sum(widths)
    levels: list[_Level] = []
    before = nodes
    for height, width in enumerate(widths):
        before -= width
        leaves = tuple(min(1 << height, count - (at << height)).to_bytes(8, "big") for at in range(width))
        levels.append(_Level(width, _COUNT_BYTES + 32 * before, _COUNT_BYTES + 32 * nodes + 8 * before, leaves))
    ends_at = _COUNT_BYTES + 40 * nodes
    return _Shape(tuple(levels), ends_at, struct.Struct(f">{count}I"), ends_at + 4 * count)


def _count(bucket: bytes) -> int:
    return int.from_bytes(bucket[:_COUNT_BYTES], "big")


def has_bucket_size(bucket: bytes) -> bool:
    """That it has keys, and room for what so many keys need: enough to read its root."""
    count = _count(bucket)
    # A leaf's hash and size, a key's end and a byte of key: bounds the shape before it is worked out.
    return count > 0 and count * 45 + _COUNT_BYTES <= len(bucket) and _shape(count).keys_at < len(bucket)


def check_bucket(bucket: bytes) -> None:
    """That all lengths fit together and the keys ascend."""
    if not bucket:
        return
    count = _count(bucket)
    if not has_bucket_size(bucket):
        raise MalformedBucketError(f"{len(bucket)} bytes cannot be a bucket of {count} keys")
    shape = _shape(count)
    ends = shape.ends.unpack_from(bucket, shape.ends_at)
    keys = [bucket[shape.keys_at + start : shape.keys_at + end] for start, end in zip((0, *ends), ends, strict=False)]
    if shape.keys_at + ends[-1] != len(bucket) or any(left >= right for left, right in pairwise(keys)):
        raise MalformedBucketError(f"the keys of a bucket of {count} do not ascend or do not fill it")


def bucket_root(bucket: bytes) -> PackedNode:
    """The bucket's root."""
    if not bucket:
        return EMPTY_ROOT
    count = int.from_bytes(bucket[:_COUNT_BYTES], "big")
    at = _shape(count).levels[-1].sizes_at
    # The root's hash stands first, and (count ‖ bytes) is the packed total as it stands.
    return bucket[_COUNT_BYTES : _COUNT_BYTES + 32], count << 64 | int.from_bytes(bucket[at : at + 8], "big")


def bucket_keys(bucket: bytes) -> list[bytes]:
    """In ascending order."""
    if not bucket:
        return []
    shape = _shape(_count(bucket))
    ends = shape.ends.unpack_from(bucket, shape.ends_at)
    at = shape.keys_at
    return [bucket[at + start : at + end] for start, end in zip((0, *ends), ends, strict=False)]


def leaf_hashes(bucket: bytes) -> list[bytes]:
    if not bucket:
        return []
    width, at, _, _ = _shape(_count(bucket)).levels[0]
    return [bucket[at + 32 * place : at + 32 * place + 32] for place in range(width)]


def find(bucket: bytes, key: bytes) -> int | None:
    """The key's position among the bucket's keys."""
    return _find(bucket, key, _shape(_count(bucket))) if bucket else None


def _find(bucket: bytes, key: bytes, shape: _Shape) -> int | None:
    at = bucket.find(key, shape.keys_at)
    if at < 0:
        return None
    start = at - shape.keys_at
    if not start and len(key) == len(bucket) - shape.keys_at:
        return 0  # the only key
    ends = shape.ends.unpack_from(bucket, shape.ends_at)
    position = bisect_left(ends, start + len(key))
    if position < len(ends) and ends[position] == start + len(key) and start == (ends[position - 1] if position else 0):
        return position
    # The bytes occur elsewhere too, across two keys: rare, and no reason to answer wrongly.
    keys = bucket_keys(bucket)
    position = bisect_left(keys, key)
    return position if position < len(keys) and keys[position] == key else None


def neighbours(bucket: bytes, key: bytes) -> tuple[int | None, int | None]:
    """Positions on both sides of a key that is not there."""
    keys = bucket_keys(bucket)
    right = bisect_left(keys, key)
    return (right - 1 if right else None), (right if right < len(keys) else None)


def climb(bucket: bytes, position: int) -> tuple[tuple[bool, Node], ...]:
    """The path of `trellis.statetree.Entry`: siblings from the leaf up, True where the sibling stands left."""
    count = _count(bucket)
    path: list[tuple[bool, Node]] = []
    for level, (width, hashes_at, sizes_at, _) in enumerate(_shape(count).levels):
        sibling = position ^ 1
        if sibling < width:
            leaves = min(1 << level, count - (sibling << level))
            at = hashes_at + 32 * sibling
            size = _SIZE.unpack_from(bucket, sizes_at + 8 * sibling)[0]
            path.append((sibling < position, Node(bucket[at : at + 32], leaves, size)))
        position >>= 1
    return tuple(path)


def rewrite(bucket: bytes, changes: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """The bucket after these changes, which ascend by key. Where nothing changes, the same object."""
    shape = _shape(int.from_bytes(bucket[:_COUNT_BYTES], "big")) if bucket else None
    if shape is not None and (len(changes) == 1 or len(changes) * 8 < shape.levels[0].width):
        new = bucket
        for key, value in changes:
            position = None if value is None else _find(bucket, key, shape)
            if position is None or value is None:
                break
            new = _replace(new, shape, position, key, value)
        else:
            return new
    if all(value is None and find(bucket, key) is None for key, value in changes):
        return bucket
    return _rebuild(bucket, changes)


def leaf_hash(key: bytes, value: bytes) -> bytes:
    """`trellis.statetree.leaf_node` without the node: this runs for every changed key of every block."""
    return sha3_256(
        b"%b%b%b%b%b" % (_LEAF_TAG, len(key).to_bytes(4, "big"), key, len(value).to_bytes(4, "big"), value)
    ).digest()


def _replace(bucket: bytes, shape: _Shape, position: int, key: bytes, value: bytes) -> bytes:
    """A new value for a key that is there: log n nodes. A third of a block's time is spent here."""
    levels = shape.levels
    size = len(key) + len(value)
    digest = leaf_hash(key, value)
    width, hashes_at, sizes_at, _ = levels[0]
    if width == 1:
        return b"".join((bucket[:hashes_at], digest, size.to_bytes(8, "big"), bucket[sizes_at + 8 :]))
    new = bytearray(bucket)
    grown = size - _SIZE.unpack_from(bucket, sizes_at + 8 * position)[0]
    if grown:
        _resize(new, levels, position, grown)
    for above in levels[1:]:
        at = hashes_at + 32 * position
        new[at : at + 32] = digest
        sibling = position ^ 1
        position >>= 1
        if sibling < width:
            at = hashes_at + 32 * sibling
            other = bucket[at : at + 32]
            at = above.sizes_at + 8 * position
            pair = other + digest if not sibling & 1 else digest + other
            digest = sha3_256(_NODE_TAG + pair + above.leaves[position] + new[at : at + 8]).digest()
        width, hashes_at, _, _ = above
    new[hashes_at : hashes_at + 32] = digest
    return bytes(new)


def _resize(new: bytearray, levels: tuple[_Level, ...], position: int, grown: int) -> None:
    """Byte totals along the path; accounts mostly keep their size."""
    for level in levels:
        at = level.sizes_at + 8 * position
        _SIZE.pack_into(new, at, _SIZE.unpack_from(new, at)[0] + grown)
        position >>= 1


def _rebuild(bucket: bytes, changes: Sequence[tuple[bytes, bytes | None]]) -> bytes:
    """Keys come or go: every node may move. A bucket holds about 2^-k of all keys, so this is short."""
    leaves: dict[bytes, tuple[bytes, int]] = {}
    if bucket:
        width, _, sizes_at, _ = _shape(_count(bucket)).levels[0]
        sizes = struct.unpack_from(f">{width}Q", bucket, sizes_at)
        leaves = dict(zip(bucket_keys(bucket), zip(leaf_hashes(bucket), sizes, strict=True), strict=True))
    for key, value in changes:
        if value is None:
            leaves.pop(key, None)
        else:
            leaves[key] = leaf_hash(key, value), len(key) + len(value)
    keys = sorted(leaves)
    return _build(keys, [leaves[key][0] for key in keys], [leaves[key][1] for key in keys])


def build_bucket(entries: Sequence[tuple[bytes, bytes]]) -> bytes:
    """A bucket from its keys and values, which ascend by key."""
    keys = [key for key, _ in entries]
    return _build(keys, [leaf_hash(*entry) for entry in entries], [len(key) + len(value) for key, value in entries])


def _build(keys: Sequence[bytes], hashes: Sequence[bytes], sizes: Sequence[int]) -> bytes:
    if not keys:
        return EMPTY_BUCKET
    count = len(keys)
    levels = [(list(hashes), list(sizes))]
    span = 1
    while len(levels[-1][0]) > 1:
        below, below_sizes = levels[-1]
        span += span
        above: list[bytes] = []
        above_sizes: list[int] = []
        for left in range(0, len(below) - 1, 2):
            size = below_sizes[left] + below_sizes[left + 1]
            totals = _TOTALS.pack(min(span, count - len(above) * span), size)
            above.append(sha3_256(_NODE_TAG + below[left] + below[left + 1] + totals).digest())
            above_sizes.append(size)
        if len(below) % 2:
            above.append(below[-1])
            above_sizes.append(below_sizes[-1])
        levels.append((above, above_sizes))
    ends: list[int] = []
    end = 0
    for key in keys:
        end += len(key)
        ends.append(end)
    levels.reverse()
    parts = [count.to_bytes(_COUNT_BYTES, "big")]
    parts.extend(digest for hashed, _ in levels for digest in hashed)
    parts.extend(struct.pack(f">{len(level)}Q", *level) for _, level in levels)
    parts.append(struct.pack(f">{count}I", *ends))
    parts.extend(keys)
    return b"".join(parts)
