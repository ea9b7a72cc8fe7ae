"""Catching up from within: blocks above the tip, each with its certificate, from the validators that are ahead.

Certificate and transactions of a block are verified in one batch, then it is executed and committed like any other. A
source that sends what does not verify, or nothing in time, is left for the next one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

from node.bodies import ProofResults
from node.desk import Desk
from node.verdicts import Verdicts
from node.work import ChainAnswer, ChainRequest, Post
from state.ledger import Ledger
from state.transition import Applied
from trellis.block import Block, decode_block
from trellis.certificate import Certificate, decode_certificate
from trellis.crypto.algorithms import SignatureCheck
from trellis.encoding import DecodeError
from trellis.types import Address, Height
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind

WAIT_MS: Final = 1_000
"""A source that has sent nothing for so long is left for another."""
ATTEMPTS: Final = 3
"""Sources asked in a row without a block gained; then the core is told, and asks again when it hears more."""
MAX_ANSWER_BLOCKS: Final = 64
MAX_ANSWER_BYTES: Final = 4 << 20
"""One answer; the first block always goes, so that a large one does not stop anybody."""


class CatchUp:
    def __init__(
        self,
        desk: Desk,
        ledger: Ledger,
        verdicts: Verdicts,
        proofs: ProofResults,
        commit: Callable[[Block, Certificate], None],
        done: Callable[[bool], None],
    ) -> None:
        """`done` is called with whether the chain grew."""
        self._desk = desk
        self._ledger = ledger
        self._verdicts = verdicts
        self._proofs = proofs
        self._commit = commit
        self._done = done
        self._sources: list[Address] = []
        self._queue: deque[tuple[bytes, bytes]] = deque()
        self._sender: Address | None = None
        self._round = 0
        self._failures = 0
        self._grown = False
        self.active = False
        self.target = Height(0)
        """The greatest height that others were heard to have."""

    def begin(self, target: Height, sources: Sequence[Address]) -> None:
        self.target = max(self.target, target)
        if self.active:
            return
        self.active, self._grown, self._failures = True, False, 0
        self._sources = list(sources)
        self._ask()

    def _ask(self) -> None:
        """The next source; rotated, so that one that is slow or lies is asked no more than the others."""
        if self._failures >= min(ATTEMPTS, max(1, len(self._sources))) or not self._sources:
            self._finish()
            return
        self._round += 1
        asked = self._round
        source = self._sources[asked % len(self._sources)]
        self._sender = source
        self._desk.out.append(Post(source, ChainRequest(self._ledger.tip.height)))

        def silent() -> None:
            if self.active and self._round == asked and not self._queue:
                self._failures += 1
                self._ask()

        self._desk.wait(WAIT_MS, silent)

    def _finish(self) -> None:
        self.active, self._sender = False, None
        self._queue.clear()
        self._round += 1
        self._done(self._grown)

    def arrived(self, sender: Address, answer: ChainAnswer) -> None:
        if not self.active or sender != self._sender or self._queue:
            return
        self._queue.extend(answer.blocks)
        self._round += 1
        self._next()

    def _failed(self, sender: Address, why: str) -> None:
        self._desk.refuse(sender, why)
        self._queue.clear()
        self._failures += 1
        self._ask()

    def _next(self) -> None:
        sender = self._sender
        if sender is None:
            return
        while self._queue:
            data, raw = self._queue[0]
            try:
                block, certificate = decode_block(data), decode_certificate(raw)
            except DecodeError as fault:
                self._failed(sender, f"malformed chain: {fault.reason}")
                return
            if block.header.height <= self._ledger.tip.height:
                self._queue.popleft()
                continue
            self._verify(sender, block, certificate)
            return
        if self._ledger.tip.height < self.target:
            self._ask()
        else:
            self._finish()

    def _verify(self, sender: Address, block: Block, certificate: Certificate) -> None:
        facts = self._ledger.facts_after(self._ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        if not _certifies(certificate, block, facts.validators) or block.header.parent_hash != facts.parent_hash:
            self._failed(sender, "uncertified chain")
            return
        checks: list[SignatureCheck] = list(certificate.checks(self._ledger.genesis.hash, facts.validators))
        own = len(checks)
        claims = self._verdicts.unknown(self._ledger.claims(block))
        checks += [check for claim in claims for check in claim.checks]
        asked = self._round

        def verified(verdicts: Sequence[bool]) -> None:
            if not self.active or self._round != asked:
                return
            if not all(verdicts[:own]):
                self._failed(sender, "uncertified chain")
                return
            self._verdicts.learn(claims, verdicts[own:])
            if self._verdicts.unknown(self._ledger.claims(block)):
                self._verify(sender, block, certificate)
                return
            self._adopt(sender, block, certificate)

        self._desk.verify(checks, verified, urgent=True)

    def _adopt(self, sender: Address, block: Block, certificate: Certificate) -> None:
        if block.header.height == self._ledger.tip.height + 1:
            if not isinstance(self._ledger.execute(block, self._verdicts), Applied):
                self._failed(sender, "invalid chain")
                return
            self._commit(block, certificate)
            self._grown, self._failures = True, 0
        if self._queue:
            self._queue.popleft()
        self._next()


def _certifies(certificate: Certificate, block: Block, validators: ValidatorSet) -> bool:
    """Everything but the signatures."""
    header = block.header
    about = (certificate.kind, certificate.height, certificate.block_hash)
    if about != (VoteKind.COMMIT, header.height, header.hash) or certificate.view < header.view:
        return False
    return certificate.shape_fault(validators) is None
