"""Proofs in the state tree: that an entry is, or is not, under a block's state_root.

The tree has 2^k buckets (k from genesis); a key's bucket is the first k bits of its tagged hash. A bucket is a sorted
Merkle tree of its own, left-full, so that grinding one bucket full costs log n, not n. Every inner node commits its
children, and how many leaves and bytes lie below: a snapshot's size follows from the root before any download.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, NamedTuple

from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.types import Hash

MAX_KEY_BYTES: Final = 256
MAX_VALUE_BYTES: Final = 1 << 24
MAX_PATH: Final = 64
"""20 levels of buckets and 40 within one: more keys than can ever be hashed into one bucket."""

MAX_PROOF_BYTES: Final = 1 << 25


class Node(NamedTuple):
    """The root of a subtree: its hash, and how many leaves and bytes of keys and values lie below."""

    hash: bytes
    leaves: int
    size_bytes: int


EMPTY_NODE: Final = Node(hash_tagged(Tag.STATE_EMPTY), 0, 0)


def leaf_node(key: bytes, value: bytes) -> Node:
    digest = hash_tagged(Tag.STATE_LEAF, len(key).to_bytes(4, "big"), key, len(value).to_bytes(4, "big"), value)
    return Node(digest, 1, len(key) + len(value))


def join(left: Node, right: Node) -> Node:
    """H(tag ‖ left ‖ right ‖ leaves u64 ‖ bytes u64): the sibling's share is what the total leaves over."""
    leaves, size = left.leaves + right.leaves, left.size_bytes + right.size_bytes
    return Node(
        hash_tagged(Tag.STATE_NODE, left.hash, right.hash, (leaves << 64 | size).to_bytes(16, "big")), leaves, size
    )


def bucket_of(key: bytes, buckets_log2: int) -> int:
    return int.from_bytes(hash_tagged(Tag.STATE_KEY, key)[:4], "big") >> 32 - buckets_log2


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf, and its path to the bucket's root: siblings from the leaf up, True where the sibling is left."""

    key: bytes
    value: bytes
    path: tuple[tuple[bool, Node], ...]

    def climb(self) -> tuple[Node, int]:
        """The bucket's root, and the leaf's position in the bucket."""
        node, position = leaf_node(self.key, self.value), 0
        for sibling_is_left, sibling in self.path:
            if sibling_is_left:
                position += sibling.leaves
                node = join(sibling, node)
            else:
                node = join(node, sibling)
        return node, position


@dataclass(frozen=True, slots=True)
class StateProof:
    """What a bucket holds at, or on both sides of, a key; and the bucket's path to the root.

    Inclusion: `left` is the entry of the key. Absence: the neighbours, adjacent or at the bucket's ends; neither where
    the bucket is empty.
    """

    left: Entry | None
    right: Entry | None
    buckets: tuple[Node, ...]
    """Siblings of the bucket, from the bottom up: as many as the tree has bucket levels."""

    def lookup(self, key: bytes, state_root: Hash, buckets_log2: int) -> tuple[bool, bytes | None]:
        """(True, value), or (True, None) for a proven absence; (False, None) where the proof proves nothing."""
        nothing = (False, None)
        if len(self.buckets) != buckets_log2:
            return nothing
        found = self.left is not None and self.left.key == key
        node = self._bucket_root(key, found)
        if node is None:
            return nothing
        place = bucket_of(key, buckets_log2)
        for sibling in self.buckets:
            node = join(sibling, node) if place & 1 else join(node, sibling)
            place >>= 1
        if node.hash != state_root:
            return nothing
        return (True, self.left.value) if found and self.left is not None else (True, None)

    def _bucket_root(self, key: bytes, found: bool) -> Node | None:
        left, right = self.left, self.right
        if found and left is not None:
            return left.climb()[0] if right is None else None
        if left is None and right is None:
            return EMPTY_NODE
        if left is None and right is not None:
            root, position = right.climb()
            return root if position == 0 and key < right.key else None
        if left is not None and right is None:
            root, position = left.climb()
            return root if position == root.leaves - 1 and left.key < key else None
        if left is not None and right is not None and left.key < key < right.key:
            (one, before), (other, after) = left.climb(), right.climb()
            return one if one == other and before + 1 == after else None
        return None

    def encode(self) -> bytes:
        writer = Writer()
        for entry in (self.left, self.right):
            writer.u8(entry is not None)
            if entry is not None:
                writer.lp(entry.key).lp(entry.value).u32(len(entry.path))
                for sibling_is_left, sibling in entry.path:
                    writer.u8(sibling_is_left)
                    _write_node(writer, sibling)
        writer.u32(len(self.buckets))
        for node in self.buckets:
            _write_node(writer, node)
        return writer.done()


def _write_node(writer: Writer, node: Node) -> None:
    writer.hash(node.hash).u64(node.leaves).u64(node.size_bytes)


def _read_node(reader: Reader) -> Node:
    return Node(reader.hash("node hash"), reader.u64("node leaves"), reader.u64("node bytes"))


def _read_entry(reader: Reader) -> Entry | None:
    if not reader.flag("entry flag"):
        return None
    key = reader.lp("entry key", MAX_KEY_BYTES)
    value = reader.lp("entry value", MAX_VALUE_BYTES)
    number = reader.count("entry path", MAX_PATH, 49)
    return Entry(key, value, tuple((reader.flag("side"), _read_node(reader)) for _ in range(number)))


def _read_state_proof(reader: Reader) -> StateProof:
    left, right = _read_entry(reader), _read_entry(reader)
    number = reader.count("bucket path", MAX_PATH, 48)
    return StateProof(left, right, tuple(_read_node(reader) for _ in range(number)))


def decode_state_proof(data: bytes) -> StateProof:
    proof = decode_whole(data, "state proof", MAX_PROOF_BYTES, _read_state_proof)
    nodes = [sibling for entry in (proof.left, proof.right) if entry for _, sibling in entry.path]
    if sum(node.leaves for node in (*nodes, *proof.buckets)) >= 1 << 63:
        raise DecodeError(Malformed.OUT_OF_RANGE, "the counts of a state proof do not fit in 64 bits")
    if sum(node.size_bytes for node in (*nodes, *proof.buckets)) >= 1 << 63:
        raise DecodeError(Malformed.OUT_OF_RANGE, "the sizes of a state proof do not fit in 64 bits")
    return proof
