"""The tree of headers above the last confirmed block: which branch has most work, and where branches part."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from consensus.pow.work import Spaced, first_target, next_target, work_of
from trellis.header import Header, Seal
from trellis.parameters import Parameters
from trellis.types import Hash, Height

MAX_NODES: Final = 4_096
"""Branches that a miner with spare work can make us hold; beyond it the branch with least work goes."""


@dataclass(frozen=True, slots=True)
class SealedHeader:
    """A header and its proof of work."""

    header: Header
    seal: Seal

    @property
    def hash(self) -> Hash:
        return self.header.hash


class Validity(Enum):
    UNCHECKED = auto()
    VALID = auto()
    INVALID = auto()


@dataclass(slots=True)
class Node:
    """A header whose ancestors are known, down to the root."""

    block: SealedHeader | None
    """None for the root: a committed block that nothing replaces."""
    hash: Hash
    parent: Hash
    height: Height
    total_work: int
    spaced: tuple[Spaced, ...]
    """As much of its history as difficulty looks back on, itself included."""
    arrival: int
    """Among branches of equal work the first seen stays: switching would cost work and gain nothing."""
    validity: Validity = Validity.UNCHECKED


class HeaderTree:
    def __init__(self, root: Hash, height: Height, history: tuple[Spaced, ...], parameters: Parameters) -> None:
        """`history`: timestamps and targets up to the root, ascending; enough for the difficulty to look back on."""
        self._parameters = parameters
        self._arrivals = 0
        window = parameters.pow_retarget_blocks + 1
        self.nodes: dict[Hash, Node] = {root: Node(None, root, root, height, 0, history[-window:], 0, Validity.VALID)}
        self.root = root

    def __contains__(self, block_hash: Hash) -> bool:
        return block_hash in self.nodes

    def target_after(self, parent: Hash) -> int:
        """What the next block on this one must meet."""
        spaced = self.nodes[parent].spaced
        return next_target(spaced, self._parameters) if spaced else first_target(self._parameters)

    def add(self, block: SealedHeader) -> Node:
        """The parent is in the tree, the work was checked."""
        parent = self.nodes[block.header.parent_hash]
        self._arrivals += 1
        window = self._parameters.pow_retarget_blocks + 1
        node = Node(
            block=block,
            hash=block.hash,
            parent=parent.hash,
            height=block.header.height,
            total_work=parent.total_work + work_of(block.seal.target),
            spaced=(*parent.spaced, Spaced(block.header.timestamp_ms, block.seal.target))[-window:],
            arrival=self._arrivals,
        )
        self.nodes[node.hash] = node
        return node

    def path_from_root(self, block_hash: Hash) -> list[Node]:
        """Ascending, without the root."""
        path: list[Node] = []
        while block_hash != self.root:
            node = self.nodes[block_hash]
            path.append(node)
            block_hash = node.parent
        path.reverse()
        return path

    def best(self) -> Node:
        """Most work among branches not known to be invalid; unchecked ones count, so that they get checked."""
        candidates = [node for node in self.nodes.values() if node.validity is not Validity.INVALID]
        return max(candidates, key=lambda node: (node.total_work, -node.arrival))

    def best_valid(self) -> Node:
        candidates = [node for node in self.nodes.values() if node.validity is Validity.VALID]
        return max(candidates, key=lambda node: (node.total_work, -node.arrival))

    def condemn(self, block_hash: Hash) -> None:
        """A block is invalid, and with it everything on top of it."""
        doomed = {block_hash}
        for node in sorted(self.nodes.values(), key=lambda node: node.height):
            if node.hash in doomed or (node.parent in doomed and node.hash != self.root):
                doomed.add(node.hash)
                node.validity = Validity.INVALID

    def move_root(self, block_hash: Hash) -> None:
        """A block was confirmed: branches that do not contain it are forgotten."""
        root = self.nodes[block_hash]
        kept = {block_hash: root}
        for node in sorted(self.nodes.values(), key=lambda node: node.height):
            if node.parent in kept and node.hash != block_hash:
                kept[node.hash] = node
        base = root.total_work
        for node in kept.values():
            node.total_work -= base
        root.block, root.parent = None, block_hash
        self.nodes, self.root = kept, block_hash

    def prune(self, keep: Hash) -> Hash | None:
        """Drops a leaf of least work when there are too many nodes, but nothing on the branch to `keep`."""
        if len(self.nodes) <= MAX_NODES:
            return None
        safe = {node.hash for node in self.path_from_root(keep)} | {self.root}
        parents = {node.parent for node in self.nodes.values()}
        leaves = [node for node in self.nodes.values() if node.hash not in parents and node.hash not in safe]
        if not leaves:
            return None
        weakest = min(leaves, key=lambda node: (node.total_work, -node.arrival))
        del self.nodes[weakest.hash]
        return weakest.hash
