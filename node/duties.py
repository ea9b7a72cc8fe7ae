"""What a validator brings to the ledger unasked: evidence that it holds, and verdicts that it and others signed.

Both travel in transactions that an account of the operator's pays for (`Payer`). All validators see the same evidence
and collect the same verdicts, so they take turns: each waits for its place before it spends a fee, and does not if the
chain has dealt with it by then.

A statement for an attested checker is solved off the voting path. SAT and UNSAT are signed and handed to the other
validators; whoever holds quorum power for one verdict submits it. All sign the same bytes: one statement a batch,
at the height that posted it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.desk import Desk
from node.verdicts import Verdicts
from node.work import Payer, Post, SignTransaction, SignVerdicts, Solve, VerdictPayload
from state.accounts import read_account, read_key
from state.economy import is_punished, slash_permille
from state.ledger import Ledger
from state.mempool import Mempool
from state.proofs import STATEMENTS, VERIFIERS
from state.statements import Status, read_statement, read_statement_bytes
from state.validator_sets import set_at
from trellis.block import Block
from trellis.constants import Context
from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck
from trellis.encoding import DecodeError
from trellis.evidence import Evidence, encode_evidence
from trellis.fees import minimum_fee
from trellis.records import AttestedVerdict, VerdictBatch, decode_verdict_batch
from trellis.transaction import Attest, Kind, PostStatement, SubmitEvidence, Transaction, TransactionBody
from trellis.types import Address, Hash, Height
from trellis.validators import ValidatorSet

TURN_MS: Final = 1_000
"""Between one validator's turn and the next one's."""
LIFETIME_BLOCKS: Final = 64
"""A transaction of ours that no block took for so long is made again."""
MAX_ACCUSATIONS: Final = 256
"""Held until the chain has dealt with them: one a validator and height is enough, so a flooder of conflicting votes
fills its own place only."""
MAX_OPEN_BATCHES: Final = 256
"""Verdicts that are collected. Only statements of this node's own chain count, so each was paid for by its poster."""


@dataclass(slots=True, eq=False)
class _Accusation:
    evidence: Evidence
    submitted_at: Height | None = None


@dataclass(slots=True, eq=False)
class _Collected:
    """Signatures on one batch."""

    batch: VerdictBatch
    data: bytes
    validators: ValidatorSet
    signatures: dict[Address, bytes] = field(default_factory=dict)
    submitted_at: Height | None = None
    due: bool = False


class Duties:
    def __init__(
        self,
        me: Address,
        desk: Desk,
        ledger: Ledger,
        pool: Mempool,
        verdicts: Verdicts,
        payer: Payer | None,
        *,
        attests: bool,
    ) -> None:
        """Without a payer nothing is submitted, and without `attests` nothing is solved: others do it."""
        self._me = me
        self._desk = desk
        self._ledger = ledger
        self._pool = pool
        self._verdicts = verdicts
        self._payer = payer
        self._attests = attests
        self._accusations: dict[tuple[Address, Height], _Accusation] = {}
        self._solving: set[Hash] = set()
        self._collected: dict[Hash, dict[AttestedVerdict, _Collected]] = {}
        """By statement: honest validators agree, but nobody need be."""
        self._waiting: deque[Kind] = deque()
        self._signing: Kind | None = None

    # Evidence.

    def accuse(self, evidence: Evidence) -> None:
        key = (evidence.offender, evidence.height)
        if self._payer is None or key in self._accusations or len(self._accusations) >= MAX_ACCUSATIONS:
            return
        accusation = self._accusations[key] = _Accusation(evidence)
        self._desk.wait(self._turn_ms(evidence.height), lambda: self._bring(accusation))

    def _turn_ms(self, height: Height) -> int:
        """The first in turn is another one at every height; whoever is no validator comes last."""
        facts = self._ledger.facts_after(self._ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        members = facts.validators.addresses
        place = members.index(self._me) if self._me in members else 2 * len(members)
        return TURN_MS * ((place - height) % len(members) if place < len(members) else place)

    def _bring(self, accusation: _Accusation) -> None:
        if self._is_settled(accusation.evidence):
            return
        if self._is_open(accusation.submitted_at):
            accusation.submitted_at = self._ledger.tip.height
            self._submit(SubmitEvidence(encode_evidence(accusation.evidence)))

    def _is_settled(self, evidence: Evidence) -> bool:
        facts = self._ledger.facts_after(self._ledger.tip.block_hash)
        if facts is None:
            return True
        parameters = facts.network.parameters
        too_old = facts.height - evidence.height > parameters.evidence_window_blocks
        return too_old or is_punished(self._ledger.state, evidence, slash_permille(evidence, parameters))

    def _is_open(self, submitted_at: Height | None) -> bool:
        """Not submitted yet, or so long ago that the transaction has expired."""
        return submitted_at is None or self._ledger.tip.height > submitted_at + LIFETIME_BLOCKS

    # Transactions of our own.

    def _submit(self, kind: Kind) -> None:
        """One at a time: the next one's nonce depends on it."""
        self._waiting.append(kind)
        self._sign_next()

    def _sign_next(self) -> None:
        payer = self._payer
        if payer is None or self._signing is not None or not self._waiting:
            return
        kind = self._signing = self._waiting.popleft()
        state = self._ledger.state
        account, key = read_account(state, payer.address), read_key(state, payer.address)
        nonce = self._pool.pending_nonce(payer.address, account.nonce)
        last = Height(self._ledger.tip.height + LIFETIME_BLOCKS)
        public_key = payer.public_key if key is None else b""
        parameters = self._ledger.genesis.parameters

        def body_with(fee: int) -> TransactionBody:
            return TransactionBody(payer.address, nonce, last, fee, kind)

        # The fee depends on the size, and the size a little on the fee: a generous guess first.
        guess = Transaction(body_with(1 << 40).encode(), payer.alg_id, public_key, b"\0")
        fee = minimum_fee(parameters, guess, payer.public_key)
        self._desk.out.append(SignTransaction(body_with(fee).encode(), public_key))

    def signed(self) -> None:
        """The transaction of the last `SignTransaction` was offered to the pool, and decided upon."""
        self._signing = None
        self._sign_next()

    # Verdicts.

    def committed(self, block: Block) -> None:
        height = block.header.height
        for transaction in block.transactions:
            kind = transaction.parsed.kind
            if isinstance(kind, PostStatement) and self._is_attested(kind.verifier):
                self.consider(kind.statement_id)
        for accusation in list(self._accusations.values()):
            if self._is_settled(accusation.evidence):
                del self._accusations[accusation.evidence.offender, accusation.evidence.height]
            elif accusation.submitted_at is not None:
                self._bring(accusation)
        self._forget_closed(height)

    @staticmethod
    def _is_attested(verifier: str) -> bool:
        return verifier in STATEMENTS and verifier not in VERIFIERS

    def consider(self, statement_id: Hash) -> None:
        """Solves a statement that waits for attestation, unless that is under way."""
        record = read_statement(self._ledger.state, statement_id)
        content = read_statement_bytes(self._ledger.state, statement_id)
        if record is None or content is None or record.status is not Status.OPEN or not self._attests:
            return
        if self._is_attested(record.verifier) and statement_id not in self._solving:
            self._solving.add(statement_id)
            self._desk.out.append(Solve(statement_id, content))

    def solved(self, statement_id: Hash, verdict: AttestedVerdict | None) -> None:
        """None abstains: nothing is signed, and nobody is blamed."""
        record = read_statement(self._ledger.state, statement_id)
        validators = None if record is None else set_at(self._ledger.state, record.posted_at)
        if verdict is None or record is None or validators is None or self._me not in validators:
            return
        if record.status is Status.OPEN:
            batch = VerdictBatch(self._ledger.genesis.hash, record.posted_at, ((statement_id, verdict),))
            self._desk.out.append(SignVerdicts(batch.encode()))

    def verdicts_signed(self, data: bytes, signature: bytes) -> None:
        payload = VerdictPayload(data, signature)
        self._desk.out.append(Post(None, payload))
        self._collect(self._me, decode_verdict_batch(data), payload)

    def heard(self, sender: Address, payload: VerdictPayload) -> None:
        try:
            batch = decode_verdict_batch(payload.batch)
        except DecodeError as fault:
            self._desk.refuse(sender, f"malformed verdicts: {fault.reason}")
            return
        collected = self._place_of(batch, payload.batch)
        if collected is None or sender in collected.signatures:
            return
        member = collected.validators.get(sender)
        if member is None or len(payload.signature) != SIZES[AlgId(member.alg_id)].signature_bytes:
            self._desk.refuse(sender, "verdicts: not a signature of a validator")
            return
        context = Context.ATTEST.value
        check = SignatureCheck(member.alg_id, member.public_key, payload.batch, payload.signature, context)

        def verified(verdicts: Sequence[bool]) -> None:
            if all(verdicts):
                self._collect(sender, batch, payload)
            else:
                self._desk.refuse(sender, "verdicts: bad signature")

        self._desk.verify((check,), verified, urgent=False)

    def _place_of(self, batch: VerdictBatch, data: bytes) -> _Collected | None:
        """Only for one open statement, at the height at which it was posted."""
        if batch.genesis_hash != self._ledger.genesis.hash or len(batch.entries) != 1:
            return None
        statement_id, verdict = batch.entries[0]
        record = read_statement(self._ledger.state, statement_id)
        if record is None or record.status is not Status.OPEN or record.posted_at != batch.height:
            return None
        validators = set_at(self._ledger.state, batch.height)
        if validators is None or not self._is_attested(record.verifier):
            return None
        by_verdict = self._collected.get(statement_id)
        if by_verdict is None:
            if len(self._collected) >= MAX_OPEN_BATCHES:
                return None
            by_verdict = self._collected[statement_id] = {}
        return by_verdict.setdefault(verdict, _Collected(batch, data, validators))

    def _collect(self, signer: Address, batch: VerdictBatch, payload: VerdictPayload) -> None:
        collected = self._place_of(batch, payload.batch)
        if collected is None:
            return
        collected.signatures[signer] = payload.signature
        power = collected.validators.power_of_all(sorted(collected.signatures))
        if collected.validators.is_quorum(power) and self._payer is not None and not collected.due:
            collected.due = True
            self._desk.wait(self._turn_ms(batch.height), lambda: self._attest(collected))

    def _attest(self, collected: _Collected) -> None:
        record = read_statement(self._ledger.state, collected.batch.entries[0][0])
        if record is None or record.status is not Status.OPEN or not self._is_open(collected.submitted_at):
            return
        collected.submitted_at = self._ledger.tip.height
        bitmap = bytearray((len(collected.validators) + 7) // 8)
        signatures: list[bytes] = []
        for place, address in enumerate(collected.validators.addresses):
            signature = collected.signatures.get(address)
            if signature is not None:
                bitmap[place // 8] |= 1 << place % 8
                signatures.append(signature)
        self._submit(Attest(collected.data, bytes(bitmap), tuple(signatures)))

    def lane_opened(self, validator: Address) -> None:
        """What was signed while the lane was closed is told now."""
        for by_verdict in self._collected.values():
            for collected in by_verdict.values():
                own = collected.signatures.get(self._me)
                if own is not None:
                    self._desk.out.append(Post(validator, VerdictPayload(collected.data, own)))

    def restarted(self, stored: Callable[[Height], Block | None]) -> None:
        """Statements that were open when the node stopped wait for verdicts still."""
        tip = self._ledger.tip.height
        lowest = max(1, tip - self._ledger.genesis.parameters.attestation_expiry_blocks)
        for height in range(lowest, tip + 1):
            block = stored(Height(height))
            if block is not None and self._attests:
                for transaction in block.transactions:
                    if isinstance(transaction.parsed.kind, PostStatement):
                        self.consider(transaction.parsed.kind.statement_id)

    def _forget_closed(self, height: Height) -> None:
        for statement_id in list(self._collected):
            record = read_statement(self._ledger.state, statement_id)
            if record is None or record.status is not Status.OPEN:
                del self._collected[statement_id]
        for statement_id in list(self._solving):
            record = read_statement(self._ledger.state, statement_id)
            if record is None or record.status is not Status.OPEN or record.expiry < height:
                self._solving.discard(statement_id)
