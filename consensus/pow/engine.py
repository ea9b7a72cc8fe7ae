"""The engine of proof of work: most total work wins, what is deep enough is final."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, unique
from typing import Final, assert_never

from consensus.pow.tree import HeaderTree, Node, SealedHeader, Validity
from consensus.pow.work import Spaced, meets_target
from trellis.parameters import Parameters
from trellis.types import Address, Hash, Height

MAX_ORPHANS: Final = 256
"""Sealed headers without a known parent; each cost its maker real work, the oldest goes first."""


@unique
class PowRule(Enum):
    """Every branch of the engine by its number."""

    HEARD = ("P1.1", "a sealed header joins the tree")
    KNOWN = ("P1.2", "ignored: this header is known")
    FOREIGN = ("P1.3", "refused: the header is of another chain")
    WRONG_HEIGHT = ("P1.4", "refused: the height is not the parent's plus one")
    TOO_OLD = ("P1.5", "refused: it forks below the last confirmed block")
    ORPHAN = ("P1.6", "kept aside: its parent is not known yet")
    WRONG_TARGET = ("P2.1", "refused: the target is not the one that the history before it demands")
    NO_WORK = ("P2.2", "refused: the seal's work does not suffice")
    CHECK_ASKED = ("P3.1", "the branch with most work is validated before it is followed")
    REFUSED = ("P3.2", "the ledger refuses the block: nothing on top of it is followed")
    EXTENDED = ("P4.1", "the chain grew")
    REORGANISED = ("P4.2", "another branch has more work: blocks are rolled back")
    CONFIRMED = ("P5.1", "deep enough to be final")

    def __init__(self, number: str, sentence: str) -> None:
        self.number = number
        self.sentence = sentence

    def __str__(self) -> str:
        return f"{self.number} {self.name}"


# Events.


@dataclass(frozen=True, slots=True)
class ChainStarted:
    """The first event: the last confirmed block, and what difficulty needs of its history."""

    root: Hash
    height: Height
    history: tuple[Spaced, ...]
    parameters: Parameters


@dataclass(frozen=True, slots=True)
class SealedBlockHeard:
    """A header with its seal, from a peer or mined here (`sender` None)."""

    block: SealedHeader
    sender: Address | None


@dataclass(frozen=True, slots=True)
class SealedBlockChecked:
    """The answer to `CheckSealed`. With valid=True the block was executed on its parent and can be adopted."""

    block_hash: Hash
    valid: bool


@dataclass(frozen=True, slots=True)
class MiningWanted:
    """Whether this node mines; also told when there is new work to put into the block."""

    wanted: bool


PowEvent = ChainStarted | SealedBlockHeard | SealedBlockChecked | MiningWanted


# Effects.


@dataclass(frozen=True, slots=True)
class CheckSealed:
    """Fetch the body if need be, execute it on its parent, answer with `SealedBlockChecked`."""

    block_hash: Hash
    sender: Address | None


@dataclass(frozen=True, slots=True)
class RequestAncestors:
    """Ask the sender for the headers below this one."""

    block_hash: Hash
    sender: Address


@dataclass(frozen=True, slots=True)
class Adopt:
    """Roll the ledger back to `fork`, then commit the path, ascending. An empty path never comes."""

    fork: Hash
    rolled_back: int
    """Blocks that leave the chain; their transactions return to the pool."""
    path: tuple[Hash, ...]


@dataclass(frozen=True, slots=True)
class Mine:
    """Search a nonce for a block on this parent; replaces any earlier search. `parent` None: stop searching."""

    parent: Hash | None
    height: Height
    target: int


@dataclass(frozen=True, slots=True)
class Announce:
    """Tell the peers of a header that joined the best chain."""

    block: SealedHeader


@dataclass(frozen=True, slots=True)
class Confirmed:
    """Final by depth."""

    height: Height
    block_hash: Hash


@dataclass(frozen=True, slots=True)
class PowObserved:
    """The engine's only logging. `about` is the peer that brought what a rule refused."""

    rule: PowRule
    block_hash: Hash
    about: Address | None = None


PowEffect = CheckSealed | RequestAncestors | Adopt | Mine | Announce | Confirmed | PowObserved


class PowEngine:
    """One node's engine. Pure: hashing a header is arithmetic, everything else is the host's."""

    def __init__(self, genesis_hash: Hash) -> None:
        self._genesis_hash = genesis_hash
        self._tree: HeaderTree | None = None
        self._parameters: Parameters | None = None
        self._tip: Hash = genesis_hash
        self._orphans: dict[Hash, tuple[SealedHeader, Address | None]] = {}
        self._senders: dict[Hash, Address | None] = {}
        self._checking: set[Hash] = set()
        self._mining = False
        self._out: list[PowEffect] = []

    @property
    def height(self) -> Height:
        """Of the tip of the chain that this node follows."""
        return self._known_tree().nodes[self._tip].height

    @property
    def tip(self) -> Hash:
        return self._tip

    @property
    def confirmed(self) -> Hash:
        return self._known_tree().root

    def total_work(self) -> int:
        """Above the last confirmed block."""
        return self._known_tree().nodes[self._tip].total_work

    def step(self, event: PowEvent) -> tuple[PowEffect, ...]:
        """One event in; the effects, in the order in which the host carries them out."""
        match event:
            case ChainStarted():
                self._parameters = event.parameters
                self._tree = HeaderTree(event.root, event.height, event.history, event.parameters)
                self._tip = event.root
                self._search()
            case SealedBlockHeard():
                self._hear(event.block, event.sender)
            case SealedBlockChecked():
                self._checked(event)
            case MiningWanted():
                self._mining = event.wanted
                self._search()
            case _:
                assert_never(event)
        out, self._out = tuple(self._out), []
        return out

    def _known_tree(self) -> HeaderTree:
        if self._tree is None:
            raise ValueError("the first event is ChainStarted")
        return self._tree

    def _note(self, rule: PowRule, block_hash: Hash, about: Address | None = None) -> None:
        self._out.append(PowObserved(rule, block_hash, about))

    def _hear(self, block: SealedHeader, sender: Address | None) -> None:
        tree, header = self._known_tree(), block.header
        if block.hash in tree or block.hash in self._orphans:
            self._note(PowRule.KNOWN, block.hash, sender)
        elif header.genesis_hash != self._genesis_hash:
            self._note(PowRule.FOREIGN, block.hash, sender)
        elif not meets_target(header, block.seal):
            self._note(PowRule.NO_WORK, block.hash, sender)
        elif header.height <= tree.nodes[tree.root].height:
            self._note(PowRule.TOO_OLD, block.hash, sender)
        elif header.parent_hash not in tree:
            self._keep_orphan(block, sender)
        else:
            self._join(block, sender)
            self._follow()

    def _keep_orphan(self, block: SealedHeader, sender: Address | None) -> None:
        self._note(PowRule.ORPHAN, block.hash, sender)
        if len(self._orphans) >= MAX_ORPHANS:
            del self._orphans[next(iter(self._orphans))]
        self._orphans[block.hash] = (block, sender)
        if sender is not None:
            self._out.append(RequestAncestors(block.hash, sender))

    def _join(self, block: SealedHeader, sender: Address | None) -> None:
        """The block, then whatever waited for it."""
        waiting = [(block, sender)]
        while waiting:
            block, sender = waiting.pop()
            if self._add(block, sender):
                children = [h for h, (orphan, _) in self._orphans.items() if orphan.header.parent_hash == block.hash]
                waiting += [self._orphans.pop(child) for child in children]

    def _add(self, block: SealedHeader, sender: Address | None) -> bool:
        tree = self._known_tree()
        parent = tree.nodes[block.header.parent_hash]
        if block.header.height != parent.height + 1:
            self._note(PowRule.WRONG_HEIGHT, block.hash, sender)
            return False
        if block.seal.target != tree.target_after(parent.hash):
            self._note(PowRule.WRONG_TARGET, block.hash, sender)
            return False
        node = tree.add(block)
        self._senders[node.hash] = sender
        if parent.validity is Validity.INVALID:
            node.validity = Validity.INVALID
        self._note(PowRule.HEARD, node.hash, sender)
        pruned = tree.prune(self._tip)
        if pruned is not None:
            self._senders.pop(pruned, None)
        return True

    def _follow(self) -> None:
        """Validate the branch with most work from below; adopt it once it is valid as a whole."""
        tree = self._known_tree()
        promising = tree.path_from_root(tree.best().hash)
        unchecked = next((node for node in promising if node.validity is Validity.UNCHECKED), None)
        if unchecked is not None:
            self._ask(unchecked)
        best = tree.best_valid()
        if best.total_work > tree.nodes[self._tip].total_work:
            self._adopt(best)

    def _ask(self, node: Node) -> None:
        if node.hash not in self._checking:
            self._checking.add(node.hash)
            self._note(PowRule.CHECK_ASKED, node.hash)
            self._out.append(CheckSealed(node.hash, self._senders.get(node.hash)))

    def _checked(self, event: SealedBlockChecked) -> None:
        tree = self._known_tree()
        self._checking.discard(event.block_hash)
        node = tree.nodes.get(event.block_hash)
        if node is None or node.validity is not Validity.UNCHECKED:
            return
        if event.valid:
            node.validity = Validity.VALID
        else:
            self._note(PowRule.REFUSED, node.hash, self._senders.get(node.hash))
            tree.condemn(node.hash)
        self._follow()

    def _adopt(self, best: Node) -> None:
        tree = self._known_tree()
        old = [node.hash for node in tree.path_from_root(self._tip)]
        new = tree.path_from_root(best.hash)
        shared = 0
        while shared < min(len(old), len(new)) and old[shared] == new[shared].hash:
            shared += 1
        fork = tree.root if shared == 0 else old[shared - 1]
        rolled_back = len(old) - shared
        self._note(PowRule.REORGANISED if rolled_back else PowRule.EXTENDED, best.hash)
        self._out.append(Adopt(fork, rolled_back, tuple(node.hash for node in new[shared:])))
        self._tip = best.hash
        for node in new[shared:]:
            if node.block is not None:
                self._out.append(Announce(node.block))
        self._confirm(new)
        self._search()

    def _confirm(self, path: list[Node]) -> None:
        """Blocks `pow_confirmations` below the tip: nothing replaces them any more."""
        if self._parameters is None:
            raise ValueError("the first event is ChainStarted")
        final = path[: max(0, len(path) - self._parameters.pow_confirmations)]
        for node in final:
            self._note(PowRule.CONFIRMED, node.hash)
            self._out.append(Confirmed(node.height, node.hash))
        if final:
            tree = self._known_tree()
            tree.move_root(final[-1].hash)
            self._senders = {block: sender for block, sender in self._senders.items() if block in tree}
            lowest = tree.nodes[tree.root].height
            self._orphans = {h: kept for h, kept in self._orphans.items() if kept[0].header.height > lowest}

    def _search(self) -> None:
        tree = self._known_tree() if self._tree is not None else None
        if tree is None:
            return
        height = Height(tree.nodes[self._tip].height + 1)
        if self._mining:
            self._out.append(Mine(self._tip, height, tree.target_after(self._tip)))
        else:
            self._out.append(Mine(None, height, 0))
