"""Transactions on their way into the pool: decoded, examined, verified once, admitted, handed on.

A variant that is offered twice while its signatures are being verified is verified once, and both askers are answered.
What waits for verification waits here, in order, and only a little of it is in the verifier's hands at a time: a block
that needs one of the waiting is not kept behind all of them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

from node.desk import Desk
from node.verdicts import Verdicts
from node.work import Admission, Announce, Answer, Post, TransactionsPayload
from state.chain import Network
from state.ledger import Ledger
from state.mempool import Answer as Gossip
from state.mempool import Mempool, Reason, Refusal
from state.scope import SignatureClaim
from state.transactions import Candidate, Terms, terms_of, without_known_key
from trellis.block import CompactEntry
from trellis.encoding import DecodeError
from trellis.transaction import Data, Transaction, Transfer, decode_transaction
from trellis.types import Address, Hash, Height

MAX_WAITING: Final = 8_192
"""Candidates that wait for their verification: a flood faster than the verifier is answered MEMPOOL_FULL."""
BATCH_CHECKS: Final = 64
MAX_CHECKS_IN_HAND: Final = 192
"""Given to the verifier at a time: enough to keep its workers busy, few enough to wait for in a view."""
NO_INNER_CLAIMS: Final = (Transfer, Data)
"""Kinds that carry no signatures but their own: most of all transactions, so nobody looks for more."""
PUSH_EVERY_MS: Final = 20
"""The first transaction after a pause goes to the validators at once, the next ones in batches this old at most."""
PUSH_BYTES: Final = 256 << 10
PUSH_AGAIN_BLOCKS: Final = 4
"""What no block took for so long is handed on again: a lane drops what its queue cannot hold, a validator that restarts
has lost its pool, and a transaction whose predecessor is missing elsewhere waits there for ever."""
MAX_PUSHED_AGAIN: Final = 256
"""At a time, so that a backlog does not become a flood."""
MAX_OWN: Final = 65_536
"""Remembered as this node's to hand on; the oldest is left to gossip."""


@dataclass(slots=True, eq=False)
class _Ticket:
    number: int
    missing: int
    admissions: list[Admission | None]


@dataclass(slots=True, eq=False)
class _Waiting:
    """One variant whose signatures are being verified, and everyone who wants to know."""

    candidate: Candidate
    claims: tuple[SignatureClaim, ...]
    askers: list[tuple[_Ticket, int]] = field(default_factory=list)
    senders: list[Address] = field(default_factory=list)
    push: bool = False
    in_hand: bool = False


class Intake:
    def __init__(self, desk: Desk, ledger: Ledger, pool: Mempool, verdicts: Verdicts) -> None:
        self._desk = desk
        self._ledger = ledger
        self._pool = pool
        self._verdicts = verdicts
        self._waiting: dict[Hash, _Waiting] = {}
        """By witness-inclusive id, in order of arrival."""
        self._queue: dict[Hash, None] = {}
        """Those of them that are not in the verifier's hands yet."""
        self._by_txid: dict[Hash, list[Hash]] = {}
        self._checks_in_hand = 0
        self._push: list[bytes] = []
        self._push_bytes = 0
        self._push_waits = False
        self._own: OrderedDict[Hash, Height] = OrderedDict()
        """Transactions of this node's clients that wait, and the height at which each was last handed on."""
        self._announce: list[Hash] = []
        self._terms: Terms | None = None
        self.verified_variants = 0
        """Distinct variants whose signatures were verified here, for admission."""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def terms(self) -> Terms:
        """Of the height after the head."""
        height = Height(self._ledger.tip.height + 1)
        if self._terms is None or self._terms.height != height:
            self._terms = terms_of(self._network(), self._ledger.genesis.hash, height)
        return self._terms

    def _network(self) -> Network:
        facts = self._ledger.facts_after(self._ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        return facts.network

    # Arrival.

    def offer(self, ticket: int, transactions: Sequence[Transaction], *, push: bool) -> None:
        """From a client or from gossip: answered as soon as all of them are decided."""
        asked = _Ticket(ticket, len(transactions), [None] * len(transactions))
        for place, transaction in enumerate(transactions):
            self._examine(transaction, (asked, place), None, push=push)
        if not transactions:
            self._desk.out.append(Answer(ticket, ()))
        self._pump()

    def pushed(self, sender: Address, transactions: Sequence[bytes]) -> None:
        """From another validator, which admitted them."""
        for raw in transactions:
            try:
                transaction = decode_transaction(raw)
            except DecodeError as fault:
                self._desk.refuse(sender, f"malformed transaction: {fault.reason}")
                continue
            self._examine(transaction, None, sender, push=False)
        self._pump()

    def _examine(
        self, transaction: Transaction, asker: tuple[_Ticket, int] | None, sender: Address | None, *, push: bool
    ) -> None:
        terms = self.terms
        transaction = without_known_key(transaction, self._ledger.state)
        txid, witness_id = transaction.txid(terms.genesis_hash), transaction.witness_id(terms.genesis_hash)
        known = self._waiting.get(witness_id)
        if known is None:
            found = self._pool.examine(transaction, self._ledger.state, terms)
            if isinstance(found, Refusal):
                self._refused(txid, found.reason, asker, sender, found)
                return
            claims = found.claims(self._ledger.state)
            if not claims:
                self._refused(txid, Reason.BAD_SIGNATURE, asker, sender)
                return
            if len(self._waiting) >= MAX_WAITING:
                self._refused(txid, Reason.MEMPOOL_FULL, asker, sender)
                return
            known = self._waiting[witness_id] = _Waiting(found, claims)
            self._queue[witness_id] = None
            self._by_txid.setdefault(txid, []).append(witness_id)
        known.push = known.push or push
        if asker is not None:
            known.askers.append(asker)
        if sender is not None:
            known.senders.append(sender)

    def _refused(
        self,
        txid: Hash,
        reason: Reason,
        asker: tuple[_Ticket, int] | None,
        sender: Address | None,
        refusal: Refusal | None = None,
    ) -> None:
        if asker is not None:
            self._tell(asker, Admission(txid, reason))
        if sender is not None and (refusal is None or refusal.answer is Gossip.REJECT):
            self._desk.refuse(sender, f"transaction: {reason}")

    def _tell(self, asker: tuple[_Ticket, int], admission: Admission) -> None:
        ticket, place = asker
        ticket.admissions[place] = admission
        ticket.missing -= 1
        if not ticket.missing:
            told = tuple(each for each in ticket.admissions if each is not None)
            self._desk.out.append(Answer(ticket.number, told))

    # Verification.

    def _pump(self) -> None:
        while self._queue and self._checks_in_hand < MAX_CHECKS_IN_HAND:
            batch: list[_Waiting] = []
            checks = 0
            while self._queue and checks < BATCH_CHECKS:
                witness_id = next(iter(self._queue))
                del self._queue[witness_id]
                waiting = self._waiting[witness_id]
                waiting.in_hand = True
                batch.append(waiting)
                checks += sum(len(claim.checks) for claim in waiting.claims)
            self._verify(batch, checks)

    def _verify(self, batch: list[_Waiting], number: int) -> None:
        """`number` is that of their checks."""
        self._checks_in_hand += number

        def done(verdicts: Sequence[bool]) -> None:
            self._checks_in_hand -= number
            at = 0
            for waiting in batch:
                size = sum(len(claim.checks) for claim in waiting.claims)
                self._verdicts.learn(waiting.claims, verdicts[at : at + size])
                self._admit(waiting, all(verdicts[at : at + size]))
                at += size
            self._flush()
            self._pump()

        self._desk.verify(
            [check for each in batch for claim in each.claims for check in claim.checks], done, urgent=False
        )

    def _admit(self, waiting: _Waiting, valid: bool) -> None:
        candidate = waiting.candidate
        terms = self.terms
        self._forget(candidate)
        self.verified_variants += 1
        if candidate.terms.height != terms.height:
            candidate = self._renewed(candidate, terms)
        done = self._pool.admit(candidate, self._ledger.state, valid)
        reason = done.reason if isinstance(done, Refusal) else None
        for asker in waiting.askers:
            self._tell(asker, Admission(candidate.txid, reason))
        if isinstance(done, Refusal):
            if done.answer is Gossip.REJECT:
                for sender in waiting.senders:
                    self._desk.refuse(sender, f"transaction: {done.reason}")
            return
        self._announce.append(done.witness_id)
        if waiting.push:
            self._hand_on(candidate.txid, candidate.transaction)

    def _renewed(self, candidate: Candidate, terms: Terms) -> Candidate:
        """Blocks were committed since it was examined. Where the chain learnt its key meanwhile, it goes without."""
        return Candidate(without_known_key(candidate.transaction, self._ledger.state), self._ledger.state, terms)

    def _forget(self, candidate: Candidate) -> None:
        witness_id = candidate.transaction.witness_id(candidate.terms.genesis_hash)
        self._waiting.pop(witness_id, None)
        self._queue.pop(witness_id, None)
        variants = self._by_txid.get(candidate.txid, [])
        if witness_id in variants:
            variants.remove(witness_id)
            if not variants:
                del self._by_txid[candidate.txid]

    # For blocks.

    def choose(self, network: Network, again: Callable[[], None]) -> list[Transaction] | None:
        """What a new block should have. None while signatures that lie inside bodies are verified: then `again` is
        called."""
        offered, state = self._pool.select(network), self._ledger.state
        inner = [each for each in offered if not isinstance(each.parsed.kind, NO_INNER_CLAIMS)]
        claims = self._verdicts.unknown(
            claim for each in inner for claim in Candidate(each, state, self.terms).claims(state)
        )
        if not claims:
            return offered

        def learnt(verdicts: Sequence[bool]) -> None:
            self._verdicts.learn(claims, verdicts)
            again()

        self._desk.verify([check for claim in claims for check in claim.checks], learnt, urgent=True)
        return None

    def find(self, entry: CompactEntry) -> Transaction | None:
        """The variant that a proposal names, from the pool or from what waits."""
        size = len(entry.witness_prefix)
        pooled = self._pool.get(entry.txid)
        if pooled is not None and pooled.witness_leaf[:size] == entry.witness_prefix:
            return pooled
        for witness_id in self._by_txid.get(entry.txid, ()):
            transaction = self._waiting[witness_id].candidate.transaction
            if transaction.witness_leaf[:size] == entry.witness_prefix:
                return transaction
        return None

    def in_hand(self, transactions: Sequence[Transaction]) -> bool:
        """Whether the verifier has some of these at this moment: better wait than verify them twice."""
        if not self._checks_in_hand:
            return False
        genesis_hash = self._ledger.genesis.hash
        for transaction in transactions:
            for witness_id in self._by_txid.get(transaction.txid(genesis_hash), ()):
                if self._waiting[witness_id].in_hand:
                    return True
        return False

    def settle(self, transactions: Sequence[Transaction]) -> None:
        """A block had these verified: whoever waits for them is answered, without another verification."""
        genesis_hash = self._ledger.genesis.hash
        for transaction in transactions:
            for witness_id in list(self._by_txid.get(transaction.txid(genesis_hash), ())):
                waiting = self._waiting[witness_id]
                known = [self._verdicts.get(claim.key) for claim in waiting.claims]
                if not waiting.in_hand and None not in known:
                    self._admit(waiting, all(known))
        self._flush()

    # Handing on.

    def _hand_on(self, txid: Hash, transaction: Transaction) -> None:
        raw = transaction.encode()
        self._push.append(raw)
        self._push_bytes += len(raw)
        self._own[txid] = self._ledger.tip.height
        if len(self._own) > MAX_OWN:
            self._own.popitem(last=False)

    def committed(self) -> None:
        """After each block: what has waited too long is handed on again, the oldest first."""
        again: list[tuple[Hash, Transaction]] = []
        while self._own and len(again) < MAX_PUSHED_AGAIN:
            txid, at = next(iter(self._own.items()))
            if at + PUSH_AGAIN_BLOCKS > self._ledger.tip.height:
                break
            del self._own[txid]
            transaction = self._pool.get(txid)
            if transaction is not None:
                again.append((txid, transaction))
        for txid, transaction in again:
            self._hand_on(txid, transaction)
        self._flush()

    def lane_opened(self, validator: Address) -> None:
        """It may have missed what was handed on while its lane was closed."""
        waiting = [transaction for txid in self._own if (transaction := self._pool.get(txid)) is not None]
        if waiting:
            raw = tuple(transaction.encode() for transaction in waiting[:MAX_PUSHED_AGAIN])
            self._desk.out.append(Post(validator, TransactionsPayload(raw)))

    def _flush(self) -> None:
        if self._announce:
            self._desk.out.append(Announce(tuple(self._announce)))
            self._announce.clear()
        if not self._push or (self._push_waits and self._push_bytes < PUSH_BYTES):
            return
        self._desk.out.append(Post(None, TransactionsPayload(tuple(self._push))))
        self._push.clear()
        self._push_bytes = 0
        if not self._push_waits:
            self._push_waits = True
            self._desk.wait(PUSH_EVERY_MS, self._push_again)

    def _push_again(self) -> None:
        self._push_waits = False
        self._flush()
