"""The state in chunks, each of which proves itself against a certified state root.

A chunk is one subtree of the state tree: a contiguous range of buckets, all entries in them, and the siblings on the
way up. How many chunks there are follows from the root's counts and the size aimed at; how large each of them is, from
the *index*: the nodes at the chunks' level, opened (the hashes of both children, and the counts), because a node's hash
vouches for its own counts and not for how they are shared out among its children. The index hashes to the root and is
checked before any chunk is asked for. So a peer cannot make a node fetch, hold or write anything that the root does not
vouch for, and a wrong chunk is found at once and by its number.

    node:  hash ‖ leaves u64 ‖ bytes u64
    chunk: index u32 ‖ sibling nodes, bottom up ‖ number u32 ‖ (lp(key) ‖ lp(value)) each
    index: (left child's hash ‖ right child's hash ‖ leaves u64 ‖ bytes u64) for each chunk

Entries stand in the order of (bucket, key). All here is pure; `state.store.snapshots` reads and writes stores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Protocol

from state.commitment.bucket import EMPTY_ROOT, bucket_keys, bucket_root, build_bucket, leaf_hash, leaf_hashes
from state.commitment.proofs import StateMismatchError, TreeView
from trellis.encoding import DecodeError, Reader, Writer, decode_whole
from trellis.statetree import MAX_KEY_BYTES, MAX_VALUE_BYTES, Node, bucket_of, join
from trellis.types import U32_MAX, U64_MAX, Hash

DEFAULT_CHUNK_BYTES: Final = 1 << 20
MIN_CHUNK_BYTES: Final = 1 << 12
MAX_CHUNKS_LOG2: Final = 15
"""Stops a manifest from asking for an index of more than 3 MiB, or for more chunks than anyone would fetch."""

_NODE_BYTES: Final = 48
_OPENED_BYTES: Final = 80
_ENTRY_BYTES: Final = 8
"""The two length prefixes of an entry."""


class ValueSource(Protocol):
    """Where an exporter finds the values of keys."""

    def get(self, key: bytes) -> bytes | None: ...


class ChunkFault(StrEnum):
    """Why a chunk, or an index, was refused."""

    NO_SUCH_CHUNK = "no_such_chunk"
    WRONG_SIZE = "wrong_size"
    MALFORMED = "malformed"
    WRONG_INDEX = "wrong_index"
    """It says it is another chunk."""
    WRONG_BUCKET = "wrong_bucket"
    """An entry belongs into another chunk."""
    WRONG_ORDER = "wrong_order"
    WRONG_ROOT = "wrong_root"
    """Something in it is not what the certified root commits to."""


@dataclass(frozen=True, slots=True)
class ChunkRefusal:
    """Which chunk was refused, and why. `index` is None for the index itself."""

    index: int | None
    fault: ChunkFault
    detail: str


@dataclass(frozen=True, slots=True)
class SnapshotPlan:
    """How a state is cut: a function of its root and the chunk size aimed at, so both sides cut alike."""

    root: Node
    """Hash, entries and bytes of the whole state."""
    buckets_log2: int
    chunk_bytes: int
    """What a chunk weighs on average at the most; one bucket is never cut, however heavy."""

    def __post_init__(self) -> None:
        if self.buckets_log2 < 1:
            raise ValueError("a tree of one bucket cannot be cut")
        if not MIN_CHUNK_BYTES <= self.chunk_bytes <= U32_MAX:
            raise ValueError(f"chunks aim at {MIN_CHUNK_BYTES} to {U32_MAX} bytes, not {self.chunk_bytes}")
        if not (0 <= self.root.leaves <= U64_MAX and 0 <= self.root.size_bytes <= U64_MAX):
            raise ValueError("the counts of a root fit in 64 bits")

    @property
    def chunks_log2(self) -> int:
        weight = self.root.size_bytes + _ENTRY_BYTES * self.root.leaves
        wanted = max(0, (weight - 1) // self.chunk_bytes).bit_length()
        # At least two buckets a chunk, so that a chunk's node has children to open in the index.
        return min(wanted, self.buckets_log2 - 1, MAX_CHUNKS_LOG2)

    @property
    def chunk_count(self) -> int:
        return 1 << self.chunks_log2

    def buckets(self, index: int) -> range:
        """The buckets of a chunk."""
        width = 1 << self.buckets_log2 - self.chunks_log2
        return range(index * width, (index + 1) * width)

    @property
    def index_bytes(self) -> int:
        """Exactly what the index takes."""
        return _OPENED_BYTES * self.chunk_count

    def encoded_bytes(self, node: Node) -> int:
        """Exactly what a chunk with this node takes."""
        return 8 + _NODE_BYTES * self.chunks_log2 + _ENTRY_BYTES * node.leaves + node.size_bytes


@dataclass(frozen=True, slots=True)
class VerifiedChunk:
    """A chunk that hashes to the root: its entries, and the buckets that were built on the way."""

    index: int
    entries: tuple[tuple[bytes, bytes], ...]
    buckets: dict[int, bytes]
    """Those that are not empty."""


def make_index(plan: SnapshotPlan, tree: TreeView) -> bytes:
    writer = Writer()
    for index in range(plan.chunk_count):
        for child in (2 * index, 2 * index + 1):
            writer.hash(tree.node_at(plan.chunks_log2 + 1, child).hash)
        node = tree.node_at(plan.chunks_log2, index)
        writer.u64(node.leaves).u64(node.size_bytes)
    return writer.done()


def check_index(plan: SnapshotPlan, data: bytes) -> tuple[Node, ...] | ChunkRefusal:
    """The node of every chunk, once they hash to the root; with it the manifest's counts are proven too."""
    wanted = plan.index_bytes
    if len(data) != wanted:
        return ChunkRefusal(None, ChunkFault.WRONG_SIZE, f"{len(data)} bytes, an index has {wanted}")
    reader = Reader(data)
    nodes = tuple(_read_opened(reader) for _ in range(plan.chunk_count))
    # Sums that pass the root's counts could not be hashed, let alone match.
    totals = sum(node.leaves for node in nodes), sum(node.size_bytes for node in nodes)
    if totals != (plan.root.leaves, plan.root.size_bytes):
        return ChunkRefusal(None, ChunkFault.WRONG_ROOT, "the counts do not add up to the root's")
    level: Sequence[Node] = nodes
    while len(level) > 1:
        level = [join(left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
    if level[0] != plan.root:
        return ChunkRefusal(None, ChunkFault.WRONG_ROOT, "the index does not hash to the root")
    return nodes


def make_chunk(plan: SnapshotPlan, tree: TreeView, values: ValueSource, index: int) -> bytes:
    """A chunk of the state that `tree` and `values` hold. Every value is held against its leaf before it leaves."""
    if not 0 <= index < plan.chunk_count:
        raise ValueError(f"there is no chunk {index} of {plan.chunk_count}")
    writer = Writer().u32(index)
    for level in range(plan.chunks_log2, 0, -1):
        _write_node(writer, tree.node_at(level, (index >> plan.chunks_log2 - level) ^ 1))
    writer.u32(tree.node_at(plan.chunks_log2, index).leaves)
    for at in plan.buckets(index):
        bucket = tree.bucket(at)
        for key, leaf in zip(bucket_keys(bucket), leaf_hashes(bucket), strict=True):
            value = values.get(key)
            if value is None or leaf_hash(key, value) != leaf:
                raise StateMismatchError(f"the value at key {key.hex()} is not the one that the state root commits to")
            writer.lp(key).lp(value)
    return writer.done()


def verify_chunk(plan: SnapshotPlan, index: int, data: bytes, node: Node) -> VerifiedChunk | ChunkRefusal:
    """The chunk's entries if it is chunk `index` under the plan's root; `node` is its entry in the checked index."""
    if not 0 <= index < plan.chunk_count:
        return ChunkRefusal(index, ChunkFault.NO_SUCH_CHUNK, f"the snapshot has {plan.chunk_count}")
    wanted = plan.encoded_bytes(node)
    if len(data) != wanted:
        return ChunkRefusal(index, ChunkFault.WRONG_SIZE, f"{len(data)} bytes, the root says {wanted}")
    try:
        number, siblings, entries = _decode_chunk(plan, data)
    except DecodeError as fault:
        return ChunkRefusal(index, ChunkFault.MALFORMED, str(fault))
    if number != index:
        return ChunkRefusal(index, ChunkFault.WRONG_INDEX, f"it says it is chunk {number}")
    gathered = _gather(plan, index, entries)
    if isinstance(gathered, ChunkRefusal):
        return gathered
    buckets = {at: build_bucket(inside) for at, inside in gathered.items()}
    if _subtree(plan, index, buckets) != node or not _climbs(plan, index, node, siblings):
        return ChunkRefusal(index, ChunkFault.WRONG_ROOT, "its entries do not hash to the root")
    return VerifiedChunk(index, tuple(entries), buckets)


def _decode_chunk(plan: SnapshotPlan, data: bytes) -> tuple[int, list[Node], list[tuple[bytes, bytes]]]:
    def read(reader: Reader) -> tuple[int, list[Node], list[tuple[bytes, bytes]]]:
        number = reader.u32("chunk index")
        siblings = [_read_node(reader) for _ in range(plan.chunks_log2)]
        count = reader.count("entries", U32_MAX, _ENTRY_BYTES)
        entries = [(reader.lp("key", MAX_KEY_BYTES), reader.lp("value", MAX_VALUE_BYTES)) for _ in range(count)]
        return number, siblings, entries

    return decode_whole(data, "snapshot chunk", len(data), read)


def _gather(
    plan: SnapshotPlan, index: int, entries: Sequence[tuple[bytes, bytes]]
) -> dict[int, list[tuple[bytes, bytes]]] | ChunkRefusal:
    """Entries by bucket; in order, so that one state has one chunk."""
    inside = plan.buckets(index)
    gathered: dict[int, list[tuple[bytes, bytes]]] = {}
    last = (-1, b"")
    for key, value in entries:
        at = bucket_of(key, plan.buckets_log2)
        if at not in inside:
            return ChunkRefusal(index, ChunkFault.WRONG_BUCKET, f"key {key.hex()} belongs into another chunk")
        if (at, key) <= last:
            return ChunkRefusal(index, ChunkFault.WRONG_ORDER, f"key {key.hex()} stands out of order")
        last = (at, key)
        gathered.setdefault(at, []).append((key, value))
    return gathered


def _subtree(plan: SnapshotPlan, index: int, buckets: dict[int, bytes]) -> Node:
    packed = [bucket_root(buckets[at]) if at in buckets else EMPTY_ROOT for at in plan.buckets(index)]
    level = [Node(digest, totals >> 64, totals & U64_MAX) for digest, totals in packed]
    while len(level) > 1:
        level = [join(left, right) for left, right in zip(level[::2], level[1::2], strict=True)]
    return level[0]


def _climbs(plan: SnapshotPlan, index: int, node: Node, siblings: Sequence[Node]) -> bool:
    for sibling in siblings:
        if sibling.leaves > plan.root.leaves or sibling.size_bytes > plan.root.size_bytes:
            return False
        node = join(sibling, node) if index & 1 else join(node, sibling)
        index >>= 1
    return node == plan.root


def _read_opened(reader: Reader) -> Node:
    left, right = reader.hash("left child"), reader.hash("right child")
    leaves, size = reader.u64("leaves"), reader.u64("bytes")
    # The hash takes the sum of the children's counts alone: all of it on one side gives the same node.
    return join(Node(left, leaves, size), Node(right, 0, 0))


def _write_node(writer: Writer, node: Node) -> None:
    writer.hash(node.hash).u64(node.leaves).u64(node.size_bytes)


def _read_node(reader: Reader) -> Node:
    return Node(Hash(reader.hash("node hash")), reader.u64("node leaves"), reader.u64("node bytes"))
