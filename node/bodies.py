"""The blocks of the height in progress: completed from compact proposals, fetched, validated, kept, served.

A body is completed from transactions that are known here, then from the proposer, then from whoever PREPAREd it. One
that does not match its header is the fault of who sent it and is fetched elsewhere; only a block that its header itself
condemns is answered as invalid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

from consensus.effects import CheckBlock, RequestBlock
from consensus.events import BlockChecked, BlockProposed
from node.desk import Desk
from node.intake import Intake
from node.verdicts import Verdicts
from node.work import BodyAnswer, BodyParts, BodyRequest, Keep, Post, Proposing, Seen
from state.ledger import Ledger, ParentUnknown
from state.proofs import Limits, VerificationResult
from state.rules.reveal_proof import ProofWork
from state.scope import check_proof
from state.transition import Applied
from trellis.block import Block, CompactEntry, compact_body, decode_block, decode_compact_body
from trellis.encoding import DecodeError
from trellis.messages import Proposal
from trellis.transaction import Transaction, decode_transaction
from trellis.types import Address, Hash
from trellis.validators import ValidatorSet

GRACE_MS: Final = 5
"""Transactions that a proposal names are usually on their way already."""
FETCH_RETRY_MS: Final = 60
MAX_PREPARERS: Final = 64
"""Hashes whose PREPARE signers are remembered as sources of bodies; a flood of hashes evicts nothing else."""
MAX_SERVED: Final = 16
"""How often one validator gets pieces of one block: asking costs it 40 bytes, answering up to a whole block."""


class ProofResults:
    """Results that worker processes found. What is asked beside them is checked here and now, with the same result."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[tuple[str, bytes, bytes, Limits], VerificationResult] = {}

    def __call__(self, verifier: str, statement: bytes, proof: bytes, limits: Limits) -> VerificationResult:
        found = self._known.get((verifier, statement, proof, limits))
        return check_proof(verifier, statement, proof, limits) if found is None else found

    def unknown(self, works: Iterable[ProofWork]) -> tuple[ProofWork, ...]:
        return tuple(w for w in works if (w.verifier, w.statement, w.proof, w.limits) not in self._known)

    def learn(self, works: Sequence[ProofWork], results: Sequence[VerificationResult]) -> None:
        for work, result in zip(works, results, strict=True):
            self._known[work.verifier, work.statement, work.proof, work.limits] = result

    def height_over(self) -> None:
        self._known.clear()


@dataclass(slots=True, eq=False)
class _Want:
    """A body that somebody is to bring, or that waits for verdicts."""

    effect: CheckBlock | RequestBlock
    proposal: Proposal | None
    sources: list[Address]
    entries: tuple[CompactEntry, ...] = ()
    found: list[Transaction | None] = field(default_factory=list)
    whole: bool = False
    """The pieces known here did not fit the header: only a whole body will do."""
    tried: int = 0
    round: int = 0
    busy: bool = False
    """A body is being verified."""


class Bodies:
    def __init__(
        self, me: Address, desk: Desk, ledger: Ledger, intake: Intake, verdicts: Verdicts, proofs: ProofResults
    ) -> None:
        self._me = me
        self._desk = desk
        self._ledger = ledger
        self._intake = intake
        self._verdicts = verdicts
        self._proofs = proofs
        self._kept: dict[Hash, Block] = {}
        self._wants: dict[Hash, _Want] = {}
        self._parked: list[Callable[[], None]] = []
        """Bodies whose transactions the verifier has in its hands."""
        self._prepared_by: dict[Hash, list[Address]] = {}
        self._served: dict[tuple[Address, Hash], int] = {}

    def height_over(self) -> None:
        self._kept.clear()
        self._wants.clear()
        self._parked.clear()
        self._prepared_by.clear()
        self._served.clear()

    def restore(self, blocks: Iterable[Block]) -> None:
        """Bodies that the log kept for the height in progress."""
        for block in blocks:
            if block.header.height == self._ledger.tip.height + 1:
                self._kept[block.hash] = block

    def get(self, block_hash: Hash) -> Block | None:
        return self._kept.get(block_hash)

    def keep(self, block: Block) -> None:
        """From now on this body is durable, and served."""
        if block.hash not in self._kept:
            self._kept[block.hash] = block
            self._desk.out.append(Keep(block.encode()))

    def prepared(self, block_hash: Hash, signer: Address) -> None:
        """A PREPARE tells who can serve the body."""
        if block_hash in self._prepared_by or len(self._prepared_by) < MAX_PREPARERS:
            self._prepared_by.setdefault(block_hash, []).append(signer)

    # What the core asks.

    def check(self, effect: CheckBlock) -> None:
        if effect.height != self._ledger.tip.height + 1:
            return
        sources = [] if effect.proposal is None else [effect.proposal.signed.signer]
        self._bring(effect.block_hash, _Want(effect, effect.proposal, sources))

    def bring(self, effect: RequestBlock, block_hash: Hash, validators: ValidatorSet) -> None:
        """A prepared block that is to be proposed again."""
        sources = [] if effect.prepared is None else list(effect.prepared.signer_addresses(validators))
        self._bring(block_hash, _Want(effect, None, sources))

    def _bring(self, block_hash: Hash, want: _Want) -> None:
        old = self._wants.get(block_hash)
        want.round = 0 if old is None else old.round + 1
        self._wants[block_hash] = want
        block = self._kept.get(block_hash)
        if block is not None:
            self._validate(block_hash, want, block, None)
            return
        if want.proposal is not None:
            try:
                cap = self._ledger.genesis.parameters.max_block_bytes
                want.entries = decode_compact_body(want.proposal.body, cap)
                want.found = [None] * len(want.entries)
            except DecodeError as fault:
                self._desk.refuse(want.proposal.signed.signer, f"compact body: {fault.reason}")
                want.whole = True
            if self._complete(block_hash, want):
                return
        self._again(block_hash, want, GRACE_MS)

    # Completing and fetching.

    def retry(self) -> None:
        """Transactions were admitted: what waits for them may be whole now."""
        parked, self._parked = self._parked, []
        for again in parked:
            again()
        for block_hash, want in list(self._wants.items()):
            if not want.busy and want.proposal is not None:
                self._complete(block_hash, want)

    def _complete(self, block_hash: Hash, want: _Want) -> bool:
        proposal = want.proposal
        if proposal is None or want.whole or want.busy:
            return False
        for place, entry in enumerate(want.entries):
            if want.found[place] is None:
                want.found[place] = self._intake.find(entry)
        transactions = tuple(each for each in want.found if each is not None)
        if len(transactions) < len(want.entries):
            return False
        block = Block(proposal.header, proposal.parent_certificate, transactions)
        self._validate(block_hash, want, block, None)
        return True

    def _again(self, block_hash: Hash, want: _Want, delay_ms: int) -> None:
        want.round += 1
        expected = want.round

        def fetch() -> None:
            if self._wants.get(block_hash) is want and want.round == expected:
                self._fetch(block_hash, want)

        self._desk.wait(delay_ms, fetch)

    def _fetch(self, block_hash: Hash, want: _Want) -> None:
        if want.busy or self._complete(block_hash, want):
            return
        named = dict.fromkeys([*want.sources, *self._prepared_by.get(block_hash, [])])
        sources = [address for address in named if address != self._me]
        if sources:
            places: tuple[int, ...] = ()
            if want.entries and not want.whole:
                places = tuple(place for place, each in enumerate(want.found) if each is None)
            self._desk.out.append(Post(sources[want.tried % len(sources)], BodyRequest(block_hash, places)))
            want.tried += 1
        self._again(block_hash, want, FETCH_RETRY_MS)

    # What peers send.

    def requested(self, sender: Address, request: BodyRequest) -> None:
        block = self._kept.get(request.block_hash)
        key = (sender, request.block_hash)
        if block is None or self._served.get(key, 0) >= MAX_SERVED:
            return
        self._served[key] = self._served.get(key, 0) + 1
        if not request.places:
            self._desk.out.append(Post(sender, BodyAnswer(block.encode())))
            return
        known = [place for place in request.places if place < len(block.transactions)]
        parts = tuple((place, block.transactions[place].encode()) for place in known)
        self._desk.out.append(Post(sender, BodyParts(request.block_hash, parts)))

    def arrived(self, sender: Address, data: bytes) -> None:
        try:
            block = decode_block(data)
        except DecodeError as fault:
            self._desk.refuse(sender, f"malformed body: {fault.reason}")
            return
        want = self._wants.get(block.hash)
        if want is not None and not want.busy:
            self._validate(block.hash, want, block, sender)

    def parts_arrived(self, sender: Address, parts: BodyParts) -> None:
        want = self._wants.get(parts.block_hash)
        if want is None or want.busy:
            return
        for place, raw in parts.parts:
            if not 0 <= place < len(want.entries) or want.found[place] is not None:
                continue
            entry = want.entries[place]
            try:
                transaction = decode_transaction(raw)
            except DecodeError as fault:
                self._desk.refuse(sender, f"malformed transaction: {fault.reason}")
                continue
            if transaction.txid(self._ledger.genesis.hash) == entry.txid:
                want.found[place] = transaction
        self._complete(parts.block_hash, want)

    # Validation.

    def _validate(self, block_hash: Hash, want: _Want, block: Block, sender: Address | None) -> None:
        """Signatures first, then proofs, then execution; each step may have to wait."""

        def still_wanted() -> bool:
            return self._wants.get(block_hash) is want and want.effect.height == self._ledger.tip.height + 1

        def step() -> None:
            if not still_wanted():
                return
            want.busy = True
            # Again at every step: a flood between two steps may have pushed out what was learnt.
            claims = self._verdicts.unknown(self._ledger.claims(block, self._verdicts.vouched))
            if claims and self._intake.in_hand(block.transactions):
                self._parked.append(step)
                return
            if claims:

                def learnt(verdicts: Sequence[bool]) -> None:
                    self._verdicts.learn(claims, verdicts)
                    step()

                self._desk.verify([check for claim in claims for check in claim.checks], learnt, urgent=True)
                return
            works = self._proofs.unknown(self._ledger.proofs(block))
            cap = self._ledger.genesis.parameters.max_block_proof_cost
            if works and sum(work.limits.cost for work in works) <= cap:

                def checked(results: Sequence[VerificationResult]) -> None:
                    self._proofs.learn(works, results)
                    step()

                self._desk.check_proofs(works, checked)
                return
            self._execute(block_hash, want, block, sender)

        step()

    def _execute(self, block_hash: Hash, want: _Want, block: Block, sender: Address | None) -> None:
        result = self._ledger.execute(block, self._verdicts)
        self._intake.settle(block.transactions)
        if isinstance(result, Applied):
            del self._wants[block_hash]
            self.keep(block)
            self._answer(want.effect, block)
            return
        if isinstance(result, ParentUnknown):
            del self._wants[block_hash]
            return
        if result.reason.condemns_block:
            del self._wants[block_hash]
            self._desk.refuse(block.header.proposer, f"invalid block: {result.reason}")
            if isinstance(want.effect, CheckBlock):
                self._desk.events.append(BlockChecked(want.effect.height, want.effect.view, block_hash, valid=False))
            return
        if sender is not None:
            self._desk.refuse(sender, f"wrong body: {result.reason}")
        want.busy, want.whole = False, True
        want.found = [None] * len(want.entries)
        self._again(block_hash, want, 0)

    def _answer(self, effect: CheckBlock | RequestBlock, block: Block) -> None:
        if isinstance(effect, RequestBlock):
            self._desk.events.append(proposed(effect, block, self._ledger.genesis.hash))
            return
        parameters = self._ledger.genesis.parameters
        on_time = not effect.fresh or block.header.timestamp_ms <= self._desk.now_ms + parameters.clock_drift_ms
        self._desk.events.append(BlockChecked(effect.height, effect.view, effect.block_hash, on_time))
        if on_time:
            self._desk.out.append(Seen(Proposing(effect.height, block.hash, len(block.transactions))))


def proposed(effect: RequestBlock, block: Block, genesis_hash: Hash) -> BlockProposed:
    body = compact_body(block.transactions, genesis_hash)
    return BlockProposed(effect.height, effect.view, block.header, block.parent_certificate, body)
