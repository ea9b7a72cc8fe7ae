"""Merkle trees over ordered leaves: transactions, witnesses, proofs. Roots, inclusion proofs, multi-proofs.

Left-full split: a tree of n leaves has the largest power of two below n on its left; no leaf is ever duplicated. Leaves
are hashes that already carry their own tag, nodes carry another, so a leaf can never pass for a node. A node commits to
the number of leaves below it, so a root fixes its tree's size, and a proof has exactly one form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from trellis.encoding import DecodeError, Malformed, Reader, Writer
from trellis.hashing import Tag, hash_tagged, hash_tagged_384
from trellis.header import PROOF_COMMITMENT_EMPTY
from trellis.types import HASH_BYTES, Hash

EMPTY_ROOT: Final = hash_tagged(Tag.EMPTY_TREE)

MAX_TREE_LEAVES: Final = 1 << 32
"""Bounds the depth of a proof, and with it the work that a stranger's proof can ask for."""

MAX_PROOF_INDICES: Final = 4_096
MAX_PROOF_HASHES: Final = 1 << 17


def split(count: int) -> int:
    """How many of `count` ≥ 2 leaves stand on the left."""
    return 1 << (count - 1).bit_length() - 1


def _root(leaves: Sequence[bytes], empty: bytes, join: Callable[[bytes, bytes, int], bytes]) -> bytes:
    """Level by level: pairing neighbours and passing an odd last one up gives the left-full shape."""
    if not leaves:
        return empty
    level, width = list(leaves), 1
    while len(level) > 1:
        width *= 2
        last = len(level) - 2 + len(level) % 2
        paired = [join(level[at], level[at + 1], width) for at in range(0, last, 2)]
        if len(level) % 2:
            paired.append(level[-1])
        else:
            paired.append(join(level[-2], level[-1], len(leaves) - (len(paired) * width)))
        level = paired
    return level[0]


def node_hash(left: bytes, right: bytes, count: int) -> Hash:
    """H(tag ‖ left ‖ right ‖ leaves below, u64)."""
    return hash_tagged(Tag.MERKLE_NODE, left, right, count.to_bytes(8, "big"))


def _node_hash_384(left: bytes, right: bytes, count: int) -> bytes:
    return hash_tagged_384(Tag.PROOF_NODE, left, right, count.to_bytes(8, "big"))


def merkle_root(leaves: Sequence[Hash]) -> Hash:
    return Hash(_root(leaves, EMPTY_ROOT, node_hash))


def proof_commitment(entries: Sequence[bytes]) -> bytes:
    """The header's proof_commitment: SHA3-384 over the block's proofs and verdicts, in block order."""
    leaves = [hash_tagged_384(Tag.PROOF_LEAF, entry) for entry in entries]
    return _root(leaves, PROOF_COMMITMENT_EMPTY, _node_hash_384)


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That the leaves at `indices` (ascending) are in a tree of `count` leaves; `hashes` are the missing subtrees."""

    count: int
    indices: tuple[int, ...]
    hashes: tuple[Hash, ...]

    def root(self, leaves: Sequence[Hash]) -> Hash | None:
        """The root that these leaves and this proof lead to, or None where the proof does not fit together."""
        if len(leaves) != len(self.indices) or not _indices_in_order(self.indices, self.count):
            return None
        siblings = iter(self.hashes)
        known = dict(zip(self.indices, leaves, strict=True))
        try:
            root = _fold(0, self.count, self.indices, known, siblings)
        except StopIteration:
            return None
        return root if next(siblings, None) is None else None

    def write(self, writer: Writer) -> None:
        writer.u64(self.count).u32(len(self.indices))
        for index in self.indices:
            writer.u64(index)
        writer.u32(len(self.hashes))
        for sibling in self.hashes:
            writer.hash(sibling)


def read_inclusion_proof(reader: Reader) -> InclusionProof:
    count = reader.u64("leaf count")
    if not 1 <= count <= MAX_TREE_LEAVES:
        raise DecodeError(Malformed.OUT_OF_RANGE, f"a proof in a tree of {count} leaves")
    indices = tuple(reader.u64("leaf index") for _ in range(reader.count("indices", MAX_PROOF_INDICES, 8)))
    if not _indices_in_order(indices, count):
        raise DecodeError(Malformed.NOT_CANONICAL, "indices must ascend and lie within the tree")
    hashes = tuple(reader.hash("sibling") for _ in range(reader.count("siblings", MAX_PROOF_HASHES, HASH_BYTES)))
    return InclusionProof(count, indices, hashes)


def _indices_in_order(indices: Sequence[int], count: int) -> bool:
    if not indices or not 1 <= count <= MAX_TREE_LEAVES or indices[0] < 0 or indices[-1] >= count:
        return False
    return all(low < high for low, high in pairwise(indices))


def _fold(start: int, count: int, wanted: Sequence[int], known: dict[int, Hash], siblings: Iterator[Hash]) -> Hash:
    """Hash of the subtree of `count` leaves from `start`; a subtree with no wanted leaf is the next sibling."""
    if not wanted:
        return next(siblings)
    if count == 1:
        return known[wanted[0]]
    left = split(count)
    middle = start + left
    cut = sum(1 for index in wanted if index < middle)
    return node_hash(
        _fold(start, left, wanted[:cut], known, siblings),
        _fold(middle, count - left, wanted[cut:], known, siblings),
        count,
    )


def prove_inclusion(leaves: Sequence[Hash], indices: Sequence[int]) -> InclusionProof:
    """A proof for one or several leaves; the indices ascend."""
    if not _indices_in_order(indices, len(leaves)):
        raise ValueError(f"indices must ascend and lie within the {len(leaves)} leaves")
    hashes: list[Hash] = []
    _collect(leaves, indices, 0, hashes)
    return InclusionProof(len(leaves), tuple(indices), tuple(hashes))


def _collect(leaves: Sequence[Hash], wanted: Sequence[int], start: int, hashes: list[Hash]) -> None:
    if not wanted:
        hashes.append(merkle_root(leaves))
    elif len(leaves) > 1:
        left = split(len(leaves))
        cut = sum(1 for index in wanted if index < start + left)
        _collect(leaves[:left], wanted[:cut], start, hashes)
        _collect(leaves[left:], wanted[cut:], start + left, hashes)
