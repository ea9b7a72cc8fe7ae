"""The engine of a network that mines: proof of work, ledger and pool behind the same seam as `node.engine`.

The chain of most work is committed as it grows, and rolled back when another branch has more; a block is final once it
is `pow_confirmations` deep. Blocks travel whole. Everything that moves the ledger waits in one queue: checking a branch
may have to wait for signatures, and nothing may move the ledger meanwhile.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final, assert_never

from consensus.pow import (
    Adopt,
    ChainStarted,
    CheckSealed,
    Confirmed,
    MiningWanted,
    PowEffect,
    PowEngine,
    PowEvent,
    PowObserved,
    RequestAncestors,
    SealedBlockChecked,
    SealedBlockHeard,
    SealedHeader,
)
from consensus.pow import Announce as AnnounceSealed
from consensus.pow import Mine as MineOn
from consensus.pow.work import Spaced, meets_target
from node.bodies import ProofResults
from node.desk import Desk
from node.inputs import Heard, Input, LaneChanged, NonceFound, Offered, ProofsChecked, Started, TimerFired, Verified
from node.intake import Intake
from node.verdicts import Verdicts
from node.work import (
    BodyAnswer,
    BodyRequest,
    ChainAnswer,
    ChainRequest,
    Committed,
    Mine,
    Payload,
    Post,
    Proposing,
    Seen,
    Stop,
    TransactionsPayload,
    WaitId,
    Work,
)
from state.ledger import HeightFacts, Ledger
from state.mempool import Mempool
from state.proofs import VerificationResult
from state.transition import Applied, Proposal
from trellis.block import Block, decode_block
from trellis.encoding import DecodeError
from trellis.header import Seal
from trellis.transaction import Transaction
from trellis.types import Address, Hash, Height, View

MAX_BLOCKS: Final = 1_024
"""Whole blocks in memory: branches that a miner with spare work makes us hold; the oldest goes first."""
RENEW_MS: Final = 500
"""What waits in the pool is put into the block that is mined, this often at most."""

MAX_ANSWER_BLOCKS: Final = 64
MAX_ANSWER_BYTES: Final = 4 << 20
"""One answer; the first block always goes, so that a large one does not stop anybody."""

StoredBlock = Callable[[Height], Block | None]


@dataclass(frozen=True, slots=True)
class Progress:
    """A mining node is never known to be behind: the branch of most work is the chain."""

    active: bool = False
    behind: bool = False
    target: Height = Height(0)


class PowNode:
    """One mining, or following, node's state machine."""

    def __init__(
        self,
        me: Address,
        ledger: Ledger,
        pool: Mempool,
        proofs: ProofResults,
        stored: StoredBlock,
        *,
        mines: bool,
    ) -> None:
        self.me = me
        self.ledger = ledger
        self.pool = pool
        self.proofs = proofs
        self.core = PowEngine(ledger.genesis.hash)
        self.catch_up = Progress()
        self.observing = False
        self.observing_until = Height(0)
        self.heights: dict[Address, Height] = {}
        self.reorganised_blocks = 0
        self.target = 0
        """Of the block that is mined now."""
        self._desk = Desk()
        self._verdicts = Verdicts(pool)
        self.intake = Intake(self._desk, ledger, pool, self._verdicts)
        self._stored = stored
        self._mines = mines
        self._blocks: OrderedDict[Hash, Block] = OrderedDict()
        self._events: deque[PowEvent] = deque()
        self._todo: deque[Callable[[], None]] = deque()
        self._busy = False
        self._search = 0
        self._mining: MineOn | None = None
        self._template_ms = 0
        self._template_body: Block | None = None
        self._facts = self._read_facts()

    # The seam.

    @property
    def facts(self) -> HeightFacts:
        return self._facts

    def _read_facts(self) -> HeightFacts:
        facts = self.ledger.facts_after(self.ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        return facts

    def handle(self, given: Input, now_ms: int) -> list[Work]:
        self._desk.now_ms = now_ms
        self._take(given)
        while self._events or (self._todo and not self._busy):
            if self._events:
                for effect in self.core.step(self._events.popleft()):
                    self._do(effect)
            else:
                self._busy = True
                self._todo.popleft()()
        work, self._desk.out = self._desk.out, []
        return work

    def _take(self, given: Input) -> None:
        desk = self._desk
        match given:
            case Heard():
                self._heard(given.sender, given.payload)
            case Verified():
                desk.verified(given.job, given.verdicts)
                self._renew()
            case Offered():
                self.intake.offer(given.ticket, given.transactions, push=given.from_client)
            case TimerFired():
                if isinstance(given.timer, WaitId):
                    desk.waited(given.timer)
            case ProofsChecked():
                desk.proofs_checked(given.job, given.results)
            case NonceFound():
                self._found(given)
            case LaneChanged():
                if given.is_open:
                    desk.out.append(Post(given.validator, ChainRequest(self._final_height())))
            case Started():
                self._start()
            case _:
                pass  # votes, attestations and quarantines are of the other engine

    def _do(self, effect: PowEffect) -> None:
        match effect:
            case CheckSealed():
                self._todo.append(lambda: self._check(effect.block_hash))
            case Adopt():
                self._todo.append(lambda: self._adopt(effect))
            case MineOn():
                self._todo.append(lambda: self._mine(effect))
            case AnnounceSealed():
                block = self._blocks.get(effect.block.hash)
                if block is not None:
                    self._desk.out.append(Post(None, BodyAnswer(block.encode())))
            case RequestAncestors():
                orphan = self._blocks.get(effect.block_hash)
                if orphan is not None and effect.sender is not None:
                    self._desk.out.append(Post(effect.sender, BodyRequest(orphan.header.parent_hash)))
            case Confirmed() | PowObserved():
                pass
            case _:
                assert_never(effect)

    def _done(self) -> None:
        """The queue may go on."""
        self._busy = False

    # Starting.

    def _final_height(self) -> Height:
        return Height(max(0, self.ledger.tip.height - self._facts.network.parameters.pow_confirmations))

    def _start(self) -> None:
        """From the last final block; what is above it is heard again, from the store."""
        parameters = self._facts.network.parameters
        root = self._final_height()
        history = []
        for height in range(max(1, root - parameters.pow_retarget_blocks), root + 1):
            block = self._stored(Height(height))
            if block is not None and block.seal is not None:
                history.append(Spaced(block.header.timestamp_ms, block.seal.target))
        at = self._stored(root) if root else None
        root_hash = self.ledger.genesis.hash if at is None else at.hash
        self._events.append(ChainStarted(root_hash, root, tuple(history), parameters))
        for height in range(root + 1, self.ledger.tip.height + 1):
            block = self._stored(Height(height))
            if block is not None:
                self._learn(block, None)
        self._events.append(MiningWanted(self._mines))

    # What peers send.

    def _heard(self, sender: Address, payload: Payload) -> None:
        match payload:
            case TransactionsPayload():
                self.intake.pushed(sender, payload.transactions)
            case BodyAnswer():
                self._heard_block(sender, payload.block)
            case BodyRequest():
                block = self._blocks.get(payload.block_hash)
                if block is not None:
                    self._desk.out.append(Post(sender, BodyAnswer(block.encode())))
            case ChainRequest():
                self._answer_chain(sender, payload.above)
            case ChainAnswer():
                for data, _ in payload.blocks:
                    self._heard_block(sender, data)
                if len(payload.blocks) == MAX_ANSWER_BLOCKS:
                    last = self.heights.get(sender, Height(0))
                    self._desk.out.append(Post(sender, ChainRequest(last)))
            case _:
                self._desk.refuse(sender, "a message of another engine")

    def _answer_chain(self, sender: Address, above: Height) -> None:
        blocks: list[tuple[bytes, bytes]] = []
        size = 0
        while len(blocks) < MAX_ANSWER_BLOCKS:
            block = self._stored(Height(above + 1 + len(blocks)))
            size += 0 if block is None else len(block.encode())
            if block is None or (blocks and size > MAX_ANSWER_BYTES):
                break
            blocks.append((block.encode(), b""))
        if blocks:
            self._desk.out.append(Post(sender, ChainAnswer(tuple(blocks))))

    def _heard_block(self, sender: Address, data: bytes) -> None:
        try:
            block = decode_block(data)
        except DecodeError as fault:
            self._desk.refuse(sender, f"malformed block: {fault.reason}")
            return
        if block.seal is None or not meets_target(block.header, block.seal):
            self._desk.refuse(sender, "a block without its work")
            return
        self.heights[sender] = max(block.header.height, self.heights.get(sender, Height(0)))
        late_ms = block.header.timestamp_ms - self._facts.network.parameters.clock_drift_ms - self._desk.now_ms
        if late_ms > 0:
            # Of the future: looked at again when it is not. Its work was paid for, so it is kept once.
            self._desk.wait(late_ms, lambda: self._learn(block, sender))
        else:
            self._learn(block, sender)

    def _learn(self, block: Block, sender: Address | None) -> None:
        if block.seal is None:
            return
        if block.hash not in self._blocks:
            self._blocks[block.hash] = block
            if len(self._blocks) > MAX_BLOCKS:
                self._blocks.popitem(last=False)
        self._events.append(SealedBlockHeard(SealedHeader(block.header, block.seal), sender))

    # Moving the ledger. Each of these ends in `_done`, now or when its verdicts are there.

    def _height_in_chain(self, block_hash: Hash) -> Height | None:
        """Of a committed block; None for any other."""
        if block_hash == self.ledger.genesis.hash:
            return Height(0)
        block = self._blocks.get(block_hash)
        if block is None:
            return None
        kept = self._stored(block.header.height)
        return block.header.height if kept is not None and kept.hash == block_hash else None

    def _check(self, block_hash: Hash) -> None:
        if self._height_in_chain(block_hash) is not None:
            self._told(block_hash, valid=True)
            return
        self._place(block_hash, lambda valid: self._told(block_hash, valid=valid))

    def _told(self, block_hash: Hash, *, valid: bool) -> None:
        self._events.append(SealedBlockChecked(block_hash, valid))
        self._done()

    def _place(self, block_hash: Hash, then: Callable[[bool], None]) -> None:
        """Executes a block and whatever is below it, down to the committed chain, which is rolled back to the fork."""
        path: list[Block] = []
        at = block_hash
        while self.ledger.state_after(at) is None and self._height_in_chain(at) is None:
            block = self._blocks.get(at)
            if block is None:
                then(False)
                return
            path.append(block)
            at = block.header.parent_hash
        if self.ledger.state_after(at) is None:
            fork = self._height_in_chain(at)
            if fork is None:
                raise RuntimeError("broken invariant: a fork is in the chain or has a state")
            self._roll_back(self.ledger.tip.height - fork)
        self._execute(path, then)

    def _roll_back(self, blocks: int) -> None:
        returned: list[Transaction] = []
        for height in range(self.ledger.tip.height - blocks + 1, self.ledger.tip.height + 1):
            block = self._stored(Height(height))
            if block is not None:
                self._blocks[block.hash] = block
                returned += block.transactions
        self.ledger.rollback(blocks)
        self.reorganised_blocks += blocks
        self._facts = self._read_facts()
        self.intake.offer(0, returned, push=False)

    def _execute(self, path: list[Block], then: Callable[[bool], None]) -> None:
        """`path` is descending: its last is executed first."""
        if not path:
            then(True)
            return
        block = path[-1]
        claims = self._verdicts.unknown(self.ledger.claims(block, self._verdicts.vouched))
        works = self.proofs.unknown(self.ledger.proofs(block))
        if claims:

            def learnt(verdicts: Sequence[bool]) -> None:
                self._verdicts.learn(claims, verdicts)
                self._execute(path, then)

            self._desk.verify([check for claim in claims for check in claim.checks], learnt, urgent=True)
        elif works and sum(work.limits.cost for work in works) <= self._facts.network.parameters.max_block_proof_cost:

            def checked(results: Sequence[VerificationResult]) -> None:
                self.proofs.learn(works, results)
                self._execute(path, then)

            self._desk.check_proofs(works, checked)
        else:
            result = self.ledger.execute(block, self._verdicts)
            if not isinstance(result, Applied):
                then(False)
                return
            path.pop()
            self._execute(path, then)

    def _adopt(self, effect: Adopt) -> None:
        path = [block_hash for block_hash in effect.path if self._height_in_chain(block_hash) is None]
        if not path:
            self._done()
            return

        def ready(valid: bool) -> None:
            if not valid:
                self._desk.out.append(Stop("broken invariant: a branch that was valid does not execute again"))
            else:
                self._commit_path(path)
            self._done()

        self._place(path[-1], ready)

    def _commit_path(self, path: list[Hash]) -> None:
        first = self._blocks[path[0]]
        if first.header.parent_hash != self.ledger.tip.block_hash:
            fork = self._height_in_chain(first.header.parent_hash)
            if fork is None:
                raise RuntimeError("broken invariant: a path starts in the chain")
            self._roll_back(self.ledger.tip.height - fork)
        for block_hash in path:
            block = self._blocks[block_hash]
            if self.ledger.applied(block_hash) is None:
                self.ledger.execute(block, self._verdicts)
            done = self.ledger.commit(block_hash, None)
            self._facts = self._read_facts()
            self.pool.committed(block.transactions, self.ledger.state, self.intake.terms)
            self._desk.out.append(Seen(Committed(block.header.height, block_hash, None, done)))
        self.proofs.height_over()

    # Mining.

    def _mine(self, effect: MineOn) -> None:
        self._mining = effect
        self._search += 1
        self.target = effect.target
        if effect.parent is None or self.ledger.state_after(effect.parent) is None:
            self._desk.out.append(Mine(self._search, None, 0))
            self._done()
            return
        offered = self.intake.choose(self._facts.network, lambda: self._mine(effect))
        if offered is None:
            return
        parent_ms = self._facts.parent_timestamp_ms
        proposal = Proposal(self.me, View(0), max(parent_ms + 1, self._desk.now_ms), None)
        built = self.ledger.propose(proposal, offered, self._verdicts, effect.parent)
        self.pool.dropped(built.dropped, self.ledger.genesis.hash)
        self._template_body = built.applied.block
        self._template_ms = self._desk.now_ms
        self._desk.out.append(Mine(self._search, built.applied.block.header, effect.target))
        self._done()

    def _renew(self) -> None:
        """Transactions came: they belong into the block that is being mined."""
        held = 0 if self._template_body is None else len(self._template_body.transactions)
        stale = self._desk.now_ms - self._template_ms >= RENEW_MS
        if self._mines and stale and len(self.pool) > held and self._mining is not None:
            self._template_ms = self._desk.now_ms
            self._events.append(MiningWanted(wanted=True))

    def _found(self, found: NonceFound) -> None:
        body = self._template_body
        if found.job != self._search or body is None:
            return
        seal = Seal(self.target, found.nonce)
        header = replace(body.header, engine_seal_hash=seal.hash)
        block = Block(header, None, body.transactions, seal)
        if not meets_target(header, seal):
            self._desk.out.append(Stop("broken invariant: the miner's nonce does not meet the target"))
            return
        self._desk.out.append(Seen(Proposing(header.height, block.hash, len(block.transactions))))
        self._learn(block, None)
