"""A Merkle mountain range over block hashes: append-only, and short proofs that any old block is in the chain.

Leaf 0 is the genesis hash, leaf h the hash of block h. The range of n leaves has one perfect tree (a peak) for each bit
of n, the largest first; its root is H(tag ‖ n ‖ peaks).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.types import HASH_BYTES, U64_MAX, Hash

MAX_PEAKS: Final = 64


def mmr_node(left: Hash, right: Hash) -> Hash:
    return hash_tagged(Tag.MMR_NODE, left, right)


@dataclass(frozen=True, slots=True)
class Mmr:
    """All that is needed to append and to name the root."""

    count: int
    peaks: tuple[Hash, ...]

    def append(self, leaf: Hash) -> Mmr:
        peaks, node, height = list(self.peaks), leaf, self.count
        while height & 1:
            node = mmr_node(peaks.pop(), node)
            height >>= 1
        return Mmr(self.count + 1, (*peaks, node))

    @property
    def root(self) -> Hash:
        return hash_tagged(Tag.MMR_ROOT, self.count.to_bytes(8, "big"), *self.peaks)

    def encode(self) -> bytes:
        writer = Writer().u64(self.count)
        for peak in self.peaks:
            writer.hash(peak)
        return writer.done()


EMPTY_MMR: Final = Mmr(0, ())


def decode_mmr(data: bytes) -> Mmr:
    def read(reader: Reader) -> Mmr:
        count = reader.u64("count")
        return Mmr(count, tuple(reader.hash("peak") for _ in range(count.bit_count())))

    return decode_whole(data, "mountain range", 8 + MAX_PEAKS * HASH_BYTES, read)


@dataclass(frozen=True, slots=True)
class MmrProof:
    """That a leaf stands at `index` in the range of `count` leaves."""

    index: int
    count: int
    path: tuple[Hash, ...]
    """From the leaf up to its peak."""
    others: tuple[Hash, ...]
    """The other peaks, in order."""

    def verifies(self, leaf: Hash, root: Hash) -> bool:
        place = _peak_of(self.index, self.count)
        if place is None or len(self.path) != place.height or len(self.others) != self.count.bit_count() - 1:
            return False
        node = leaf
        for level, sibling in enumerate(self.path):
            node = mmr_node(sibling, node) if place.offset >> level & 1 else mmr_node(node, sibling)
        peaks = (*self.others[: place.rank], node, *self.others[place.rank :])
        return Mmr(self.count, peaks).root == root

    def encode(self) -> bytes:
        writer = Writer().u64(self.index).u64(self.count)
        for hashes in (self.path, self.others):
            writer.u8(len(hashes))
            for item in hashes:
                writer.hash(item)
        return writer.done()


def decode_mmr_proof(data: bytes) -> MmrProof:
    def read(reader: Reader) -> MmrProof:
        index, count = reader.u64("index"), reader.u64("count")
        path, others = (_read_hashes(reader) for _ in range(2))
        return MmrProof(index, count, path, others)

    return decode_whole(data, "mountain range proof", 18 + 2 * MAX_PEAKS * HASH_BYTES, read)


def _read_hashes(reader: Reader) -> tuple[Hash, ...]:
    number = reader.u8("hashes")
    if number > MAX_PEAKS:
        raise DecodeError(Malformed.TOO_MANY, f"{number} hashes in a mountain range proof")
    return tuple(reader.hash("hash") for _ in range(number))


@dataclass(frozen=True, slots=True)
class _Place:
    rank: int
    """Which peak, counted from the left."""
    height: int
    start: int
    offset: int
    """Of the leaf within its peak."""


def _peak_of(index: int, count: int) -> _Place | None:
    if not 0 <= index < count <= U64_MAX:
        return None
    start = rank = 0
    for height in range(count.bit_length() - 1, -1, -1):
        if count >> height & 1:
            if index < start + (1 << height):
                return _Place(rank, height, start, index - start)
            start += 1 << height
            rank += 1
    return None


def prove_mmr(index: int, count: int, subtree: Callable[[int, int], Hash]) -> MmrProof:
    """`subtree(start, height)` answers the root of the perfect tree of 2^height leaves from `start`."""
    place = _peak_of(index, count)
    if place is None:
        raise ValueError(f"there is no leaf {index} in a range of {count}")
    path = tuple(subtree(place.start + ((place.offset >> level ^ 1) << level), level) for level in range(place.height))
    others: list[Hash] = []
    start = 0
    for height in range(count.bit_length() - 1, -1, -1):
        if count >> height & 1:
            if start != place.start:
                others.append(subtree(start, height))
            start += 1 << height
    return MmrProof(index, count, path, tuple(others))
