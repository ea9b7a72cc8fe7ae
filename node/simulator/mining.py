"""Proof-of-work worlds: miners with hash power, a network that splits, forks that heal by total work.

Finding a nonce takes virtual time, drawn from the miner's power and the block's target; the nonce itself is real.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field, replace
from hashlib import sha3_256

from consensus.pow import (
    Adopt,
    Announce,
    ChainStarted,
    CheckSealed,
    Confirmed,
    Mine,
    MiningWanted,
    PowEffect,
    PowEngine,
    PowEvent,
    PowObserved,
    RequestAncestors,
    SealedBlockChecked,
    SealedBlockHeard,
    SealedHeader,
    meets_target,
    work_of,
)
from node.simulator import ledger
from node.simulator.checkers import SafetyViolation
from node.simulator.heap import Heap
from node.simulator.keys import KeyRing
from node.simulator.ledger import ChainBlock, LedgerState, Operation, OperationKind
from node.simulator.network import US_PER_MS, Network
from trellis.header import Header, Seal
from trellis.parameters import Parameters
from trellis.types import Hash, Height, View

ANCESTORS = 32


@dataclass(frozen=True, slots=True)
class MinedBlock:
    """A block as miners exchange it."""

    block: ChainBlock
    seal: Seal

    @property
    def sealed(self) -> SealedHeader:
        return SealedHeader(self.block.header, self.seal)


@dataclass(frozen=True, slots=True)
class AncestorsWanted:
    block_hash: Hash


def seal_block(block: ChainBlock, target: int, start: int) -> MinedBlock:
    """Searches a real nonce from `start`; easy targets make this a few hashes."""
    nonce = start
    while True:
        seal = Seal(target, nonce)
        header: Header = replace(block.header, engine_seal_hash=seal.hash)
        if meets_target(header, seal):
            return MinedBlock(ChainBlock(header, None, block.body), seal)
        nonce += 1


class Miner:
    """One node: the production engine, a ledger of its own, hash power."""

    def __init__(self, world: MiningWorld, index: int, hashes_per_s: int) -> None:
        self.world = world
        self.index = index
        self.me = world.ring.keys[index].address
        self.hashes_per_s = hashes_per_s
        self.engine = PowEngine(world.genesis.genesis_hash)
        self.states: list[LedgerState] = [world.genesis]
        self.chain: list[MinedBlock] = []
        self.blocks: dict[Hash, MinedBlock] = {}
        self.branch_states: dict[Hash, LedgerState] = {world.genesis.genesis_hash: world.genesis}
        self.confirmed: dict[Height, Hash] = {}
        self.reorganised = 0
        self._search = 0

    def start(self) -> None:
        genesis = self.world.genesis
        self.feed(ChainStarted(genesis.genesis_hash, Height(0), (), genesis.parameters))
        self.feed(MiningWanted(True))

    @property
    def height(self) -> Height:
        return self.states[-1].height

    def feed(self, event: PowEvent) -> None:
        for effect in self.engine.step(event):
            self._do(effect)

    def _do(self, effect: PowEffect) -> None:
        match effect:
            case Mine():
                self._mine(effect)
            case CheckSealed():
                self._check(effect.block_hash)
            case Adopt():
                self._adopt(effect)
            case Announce():
                self.world.announce(self.index, self.blocks[effect.block.hash])
            case Confirmed():
                self.confirmed[effect.height] = effect.block_hash
                self.world.check_confirmed(self, effect)
            case RequestAncestors():
                self.world.send(self.index, self.world.index_of(effect.sender), AncestorsWanted(effect.block_hash))
            case PowObserved():
                self.world.rules[str(effect.rule)] = self.world.rules.get(str(effect.rule), 0) + 1

    def _mine(self, effect: Mine) -> None:
        """A search takes exponential time; a new one makes the old one void."""
        self._search += 1
        search, parent = self._search, effect.parent
        if parent is None or not self.hashes_per_s:
            return
        uniform = (self.world.chance.getrandbits(52) + 1) / (1 << 52)
        delay_s = -math.log(uniform) * work_of(effect.target) / self.hashes_per_s

        def found() -> None:
            if self._search == search:
                self._found(parent, effect.target)

        self.world.heap.after(int(delay_s * 1_000_000), found)

    def _found(self, parent: Hash, target: int) -> None:
        state = self.branch_states[parent]
        serial = self.world.new_serial()
        operations = [Operation(serial, OperationKind.DATA, self.me, 1)]
        clock_ms = self.world.heap.now_us // US_PER_MS
        block = ledger.make_block(state, View(0), self.me, None, operations, clock_ms)
        mined = seal_block(block, target, self.world.chance.getrandbits(40))
        self.blocks[mined.block.hash] = mined
        self.feed(SealedBlockHeard(mined.sealed, None))

    def receive(self, sender: int, content: MinedBlock | AncestorsWanted) -> None:
        if isinstance(content, MinedBlock):
            self.blocks.setdefault(content.block.hash, content)
            self.feed(SealedBlockHeard(content.sealed, self.world.miners[sender].me))
            return
        wanted: list[MinedBlock] = []
        at = self.blocks.get(content.block_hash)
        while at is not None and len(wanted) < ANCESTORS:
            at = self.blocks.get(at.block.header.parent_hash)
            if at is not None:
                wanted.append(at)
        for mined in reversed(wanted):
            self.world.send(self.index, sender, mined)

    def _check(self, block_hash: Hash) -> None:
        """Executes the block on its parent, the same validation as under PBFT."""
        mined = self.blocks[block_hash]
        state = self.branch_states[mined.block.header.parent_hash]
        valid = ledger.refusal(state, mined.block) is None
        if valid:
            self.branch_states[block_hash] = ledger.apply(state, mined.block)
        self.world.heap.after(0, lambda: self.feed(SealedBlockChecked(block_hash, valid)))

    def _adopt(self, effect: Adopt) -> None:
        if effect.rolled_back:
            self.reorganised += 1
            del self.states[-effect.rolled_back :]
            del self.chain[-effect.rolled_back :]
        if self.states[-1].tip_hash != effect.fork:
            raise SafetyViolation(f"rollback: miner {self.index} did not come back to the fork")
        for block_hash in effect.path:
            mined = self.blocks[block_hash]
            state = ledger.apply(self.states[-1], mined.block)
            if state.root != self.branch_states[block_hash].root:
                raise SafetyViolation(f"rollback: miner {self.index} reached another state by another way")
            self.states.append(state)
            self.chain.append(mined)


@dataclass
class MiningWorld:
    """Miners on one heap."""

    seed: int
    powers: tuple[int, ...]
    """Hashes a second, one for each miner."""
    parameters: Parameters
    rules: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)  # noqa: S311 - repeatable, not secret
        self.heap = Heap()
        self.network = Network(self.chance)
        self.ring = KeyRing(len(self.powers))
        self._serial = 0
        genesis_hash = Hash(sha3_256(b"mining genesis %d" % self.seed).digest())
        members = [key.validator(1) for key in self.ring.keys]
        stakes = [(key.address, 1) for key in self.ring.keys]
        certified = ledger.genesis_state(genesis_hash, self.parameters, members, stakes)
        self.genesis = replace(certified, certified=False)
        self._index = {key.address: index for index, key in enumerate(self.ring.keys)}
        self.deepest_conflict = 0
        self.miners = [Miner(self, index, power) for index, power in enumerate(self.powers)]

    def start(self) -> None:
        for miner in self.miners:
            miner.start()

    def new_serial(self) -> int:
        self._serial += 1
        return self._serial

    def index_of(self, address: bytes) -> int:
        return next(index for known, index in self._index.items() if known == address)

    def announce(self, sender: int, mined: MinedBlock) -> None:
        for receiver in range(len(self.miners)):
            if receiver != sender:
                self.send(sender, receiver, mined)

    def send(self, sender: int, receiver: int, content: MinedBlock | AncestorsWanted) -> None:
        if self.network.reaches(sender, receiver):
            arrivals = [(self.heap.now_us + self.network.delay_us(sender, receiver), receiver)]
            self.heap.spread(arrivals, (sender, content), self._arrive)

    def _arrive(self, receiver: int, content: tuple[int, MinedBlock | AncestorsWanted]) -> None:
        if self.network.reaches(content[0], receiver):
            self.miners[receiver].receive(*content)

    def check_confirmed(self, miner: Miner, effect: Confirmed) -> None:
        """Two miners that call different blocks final: possible when a partition outlasts the confirmations."""
        for other in self.miners:
            known = other.confirmed.get(effect.height)
            if known is not None and known != effect.block_hash:
                self.deepest_conflict = max(self.deepest_conflict, effect.height)

    def run_ms(self, duration_ms: int) -> None:
        end = self.heap.now_us + duration_ms * US_PER_MS
        while self.heap.now_us < end and self.heap.run_next():
            pass
