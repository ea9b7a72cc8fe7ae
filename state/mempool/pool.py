"""The mempool: which transactions wait, and which of them a block should have. Pure: time is the chain's height.

    found = pool.examine(transaction, view, terms)     # Refusal, or a Candidate whose signatures are to be verified
    done = pool.admit(found, view, valid)              # Entry or Refusal
    pool.select()                                      # best first, nonces in order, within a block's caps
    pool.dropped(built.dropped)                        # what a proposal showed to be unproposable goes
    pool.committed(block.transactions, view, terms)    # after each commit

Variants of one transaction (other signatures, key carried or not) are told apart by the witness-inclusive id: a bad
signature that comes first bars itself, never the good one that comes later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from state.accounts import read_account, read_key
from state.chain import Network
from state.errors import InvalidReason
from state.mempool.admission import POOL_REASONS, Reason, Refusal, refuse
from state.mempool.choice import Choice
from state.mempool.entry import ENTRY_OVERHEAD_BYTES, Entry, SenderQueue, make_entry, outlay
from state.mempool.order import SortedRows
from state.scope import ClaimKey
from state.transactions import PLACE_CHECKS, WITNESS_CHECKS, Candidate, Terms, transaction_bytes
from state.transition import Dropped
from state.view import StateView
from trellis.encoding import Reader, Writer, decode_whole
from trellis.transaction import MAX_TX_BYTES, Transaction, decode_transaction
from trellis.types import Address, Hash

MAX_BARRED: Final = 65_536
"""Variants that are remembered as bad, the oldest forgotten first: stops one bad transaction from being verified again
for every peer that sends it, without letting a flood of them take memory."""

MAX_MISSES: Final = 8
"""A transaction that so many proposals had no room for, though it was chosen, is not offered for ever."""

Row = tuple[int, bytes, Address]


@dataclass(frozen=True, slots=True)
class PoolLimits:
    """Every bound of the pool."""

    max_count: int = 100_000
    max_bytes: int = 512 << 20
    """Bodies, witnesses and overhead."""
    max_per_sender: int = 64
    """Stops one rich account from taking the pool; bounds the work of every operation on its queue."""
    max_proofs: int = 1_000
    """Revealed proofs are dear to check: they have a queue of their own."""
    bump_permille: int = 100
    """A replacement pays this much more than what it replaces: else replacing would be free gossip."""


class Mempool:
    """Not for use by several threads."""

    def __init__(self, limits: PoolLimits | None = None) -> None:
        self.limits = limits or PoolLimits()
        self._by_txid: dict[Hash, Entry] = {}
        self._by_witness: dict[Hash, Entry] = {}
        """The same entries by witness-inclusive id: what gossip asks by."""
        self._senders: dict[Address, SenderQueue] = {}
        self._heads: SortedRows[Row] = SortedRows()
        """(−density, txid, sender) of each sender's next transaction: the best is first."""
        self._tails: SortedRows[Row] = SortedRows()
        """(worth, txid, sender) of each sender's last transaction: the least is first."""
        self._proofs: SortedRows[Row] = SortedRows()
        """(−difficulty, txid, sender) of revealed proofs: the hardest is first."""
        self._expiring: dict[int, dict[Hash, None]] = {}
        self._expiry_heights: SortedRows[int] = SortedRows()
        self._barred: dict[Hash, None] = {}
        self._set_aside: dict[Hash, None] = {}
        """Barred until the next block: what state alone spoke against may be good after it."""
        self.size_bytes = 0

    def __len__(self) -> int:
        return len(self._by_txid)

    def __contains__(self, txid: object) -> bool:
        return txid in self._by_txid

    @property
    def has_ready(self) -> bool:
        """Whether a block could have something of it: what waits behind a nonce gap is no work."""
        return len(self._heads) > 0

    @property
    def proofs(self) -> int:
        return len(self._proofs)

    def get(self, txid: Hash) -> Transaction | None:
        entry = self._by_txid.get(txid)
        return None if entry is None else entry.transaction

    def entry(self, txid: Hash) -> Entry | None:
        return self._by_txid.get(txid)

    def entries(self) -> Iterable[Entry]:
        """All of them, in the order of their admission; not to be held over an admission."""
        return self._by_txid.values()

    def queue(self, sender: Address) -> SenderQueue | None:
        """What waits of one sender."""
        return self._senders.get(sender)

    def variant(self, witness_id: Hash) -> Transaction | None:
        """By witness-inclusive id: another signature of the same transaction is another variant."""
        entry = self._by_witness.get(witness_id)
        return None if entry is None else entry.transaction

    def holds_variant(self, txid: Hash, witness_id: Hash) -> bool:
        entry = self._by_txid.get(txid)
        return entry is not None and entry.witness_id == witness_id

    def vouches(self, key: ClaimKey) -> bool:
        """Whether this very claim, key and signature included, was found valid when its transaction was admitted."""
        entry = self._by_txid.get(key.subject)
        if entry is None or entry.key_hash != key.key_hash:
            return False
        transaction = entry.transaction
        return transaction.alg_id == key.alg_id and transaction.witness_leaf == key.signature_hash

    def is_barred(self, witness_id: Hash) -> bool:
        return witness_id in self._barred or witness_id in self._set_aside

    def pending_nonce(self, sender: Address, account_nonce: int) -> int:
        """The nonce that the sender's next transaction should have."""
        queue = self._senders.get(sender)
        return account_nonce if queue is None else max(account_nonce, queue.base + queue.ready)

    def transactions(self) -> Iterator[Transaction]:
        """In the order in which they could be admitted again: each sender's by nonce."""
        for sender in sorted(self._senders):
            queue = self._senders[sender]
            for nonce in queue.nonces:
                yield queue.entries[nonce].transaction

    def proof_queue(self) -> Iterator[Transaction]:
        """Hardest first."""
        for _, txid, _ in self._proofs:
            yield self._by_txid[Hash(txid)].transaction

    def examine(self, transaction: Transaction, view: StateView, terms: Terms) -> Candidate | Refusal:
        """Everything but the signatures, cheapest first. `view` is the state at the head of the chain."""
        candidate = Candidate(transaction, view, terms)
        if candidate.malformed:
            return refuse(Reason.MALFORMED_TX)
        if candidate.txid in self._by_txid:
            return refuse(Reason.DUPLICATE)
        if self.is_barred(transaction.witness_id(terms.genesis_hash)):
            return refuse(Reason.KNOWN_BAD)
        found = self._form_fault(candidate) or self.place_fault(candidate, view)
        return candidate if found is None else refuse(found)

    @staticmethod
    def _form_fault(candidate: Candidate) -> Reason | None:
        transaction, parameters = candidate.transaction, candidate.terms.network.parameters
        for reason, faulty in WITNESS_CHECKS:
            if reason is InvalidReason.BAD_SIGNATURE or not faulty(candidate, _nobody_knows):
                continue
            if reason is InvalidReason.KEY_PRESENCE:
                return Reason.KEY_NOT_EXPECTED if transaction.public_key else Reason.KEY_MISSING
            return POOL_REASONS[reason]
        if transaction_bytes(transaction) > parameters.max_block_bytes:
            return Reason.INVALID_FIELD
        return Reason.INVALID_FIELD if candidate.proof_cost > parameters.max_block_proof_cost else None

    def place_fault(self, candidate: Candidate, view: StateView) -> Reason | None:
        """What keeps it out that neither its form nor its signatures say."""
        body = candidate.body
        candidate.account = account = read_account(view, body.sender)
        for reason, faulty in PLACE_CHECKS:
            # A gap is no fault here: gossip reorders, and what comes before may be on its way.
            if reason is not InvalidReason.NONCE_GAP and faulty(candidate):
                return POOL_REASONS[reason]
        if body.nonce >= account.nonce + self.limits.max_per_sender:
            return Reason.NONCE_GAP
        queue = self._senders.get(body.sender)
        needed = outlay(body) + (0 if queue is None else queue.outlay_before(body.nonce))
        return Reason.INSUFFICIENT_FUNDS if needed > account.balance else None

    def admit(self, candidate: Candidate, view: StateView, valid: bool) -> Entry | Refusal:
        """`valid`: all claims of the candidate hold. The pool may have changed since `examine`: it asks again."""
        entry = make_entry(candidate)
        if not valid:
            _remember(self._barred, entry.witness_id)
            return refuse(Reason.BAD_SIGNATURE)
        if entry.txid in self._by_txid:
            return refuse(Reason.DUPLICATE)
        fault = self.place_fault(candidate, view)
        if fault is not None:
            return refuse(fault)
        queue = self._senders.get(entry.sender)
        old = None if queue is None else queue.entries.get(entry.nonce)
        if old is not None:
            if entry.fee * 1_000 < old.fee * (1_000 + self.limits.bump_permille) or entry.density <= old.density:
                return refuse(Reason.REPLACEMENT_UNDERPRICED)
            self._remove(old)
        nonce = candidate.account.nonce
        if not self._make_room(entry, nonce):
            if old is not None:
                self._insert(old, nonce)
            return refuse(Reason.MEMPOOL_FULL)
        self._insert(entry, nonce)
        return entry

    def _make_room(self, entry: Entry, account_nonce: int) -> bool:
        """Evicts what is worth least, as long as that is less than what comes."""
        if entry.is_proof and len(self._proofs) >= self.limits.max_proofs:
            easiest = next(reversed(self._proofs))
            if -easiest[0] >= entry.difficulty_milli:
                return False
            self._remove(self._by_txid[Hash(easiest[1])])
        limits = self.limits
        weight = entry.size_bytes + ENTRY_OVERHEAD_BYTES
        worth = self._worth_of_new(entry, account_nonce)
        while len(self._by_txid) >= limits.max_count or self.size_bytes + weight > limits.max_bytes:
            least = self._tails.first()
            if least is None or least[0] >= worth or least[2] == entry.sender:
                return False
            self._remove(self._by_txid[Hash(least[1])])
        return True

    def _worth_of_new(self, entry: Entry, account_nonce: int) -> int:
        """Its density, but no more than that of what must come before it; nothing beyond a gap."""
        queue = self._senders.get(entry.sender)
        if queue is None:
            return entry.density if entry.nonce == account_nonce else 0
        if entry.nonce > queue.base + queue.ready:
            return 0
        return min(entry.density, queue.worth_before(entry.nonce))

    def _insert(self, entry: Entry, account_nonce: int) -> None:
        queue = self._senders.get(entry.sender)
        if queue is None:
            queue = self._senders[entry.sender] = SenderQueue(entry.sender, account_nonce)
        queue.put(entry)
        self._by_txid[entry.txid] = entry
        self._by_witness[entry.witness_id] = entry
        self.size_bytes += entry.size_bytes + ENTRY_OVERHEAD_BYTES
        if entry.valid_until not in self._expiring:
            self._expiring[entry.valid_until] = {}
            self._expiry_heights.add(entry.valid_until)
        self._expiring[entry.valid_until][entry.txid] = None
        if entry.is_proof:
            self._proofs.add((-entry.difficulty_milli, entry.txid, entry.sender))
        self._reorder(entry.sender, queue)

    def _remove(self, entry: Entry) -> None:
        queue = self._senders[entry.sender]
        queue.take(entry.nonce)
        del self._by_txid[entry.txid]
        del self._by_witness[entry.witness_id]
        self.size_bytes -= entry.size_bytes + ENTRY_OVERHEAD_BYTES
        expiring = self._expiring[entry.valid_until]
        del expiring[entry.txid]
        if not expiring:
            del self._expiring[entry.valid_until]
            self._expiry_heights.remove(entry.valid_until)
        if entry.is_proof:
            self._proofs.remove((-entry.difficulty_milli, entry.txid, entry.sender))
        self._reorder(entry.sender, queue)

    def _reorder(self, sender: Address, queue: SenderQueue) -> None:
        head = queue.head
        head_row = None if head is None else (-head.density, head.txid, sender)
        if head_row != queue.head_row:
            if queue.head_row is not None:
                self._heads.remove(queue.head_row)
            if head_row is not None:
                self._heads.add(head_row)
            queue.head_row = head_row
        tail_row = (queue.worth(), queue.tail.txid, sender) if len(queue) else None
        if tail_row != queue.tail_row:
            if queue.tail_row is not None:
                self._tails.remove(queue.tail_row)
            if tail_row is not None:
                self._tails.add(tail_row)
            queue.tail_row = tail_row
        if not len(queue):
            del self._senders[sender]

    def select(self, network: Network) -> list[Transaction]:
        """For one block: proofs by difficulty first, with whatever their senders must send before them; then by fee
        density. Within the caps, each sender's in nonce order, the same for the same content however it arrived."""
        choice = Choice(network.parameters)
        for _, txid, sender in self._proofs:
            choice.take_up_to(self._senders[sender], self._by_txid[Hash(txid)])
        waiting: list[Row] = []
        heads = iter(self._heads)
        best = next(heads, None)
        while not choice.full and (best is not None or waiting):
            if best is not None and (not waiting or best < waiting[0]):
                row, best = best, next(heads, None)
            else:
                row = heappop(waiting)
            queue = self._senders[row[2]]
            entry = choice.next_of(queue)
            if entry is not None and (entry.txid != row[1] or choice.take(entry)):
                following = choice.next_of(queue)
                if following is not None:
                    heappush(waiting, (-following.density, following.txid, row[2]))
        return [entry.transaction for entry in choice.taken]

    def dropped(self, found: Iterable[Dropped], genesis_hash: Hash) -> int:
        """Evicts what a proposal showed to be invalid, and counts it. Lack of room is no fault until it is a habit."""
        evicted = 0
        for each in found:
            entry = self._by_txid.get(each.transaction.txid(genesis_hash))
            if entry is None or each.reason is InvalidReason.NONCE_GAP:
                # Whatever left the gap is gone, so this one is no longer ready: it will not be offered again.
                continue
            if each.reason in _NO_ROOM:
                entry.misses += 1
                if entry.misses < MAX_MISSES:
                    continue
            _remember(self._set_aside if each.reason in _OF_STATE else self._barred, entry.witness_id)
            self._remove(entry)
            evicted += 1
        return evicted

    def committed(self, included: Sequence[Transaction], view: StateView, terms: Terms) -> None:
        """After a block: `view` is the state after it, `terms` those of the height that follows."""
        self._set_aside.clear()
        oldest = self._expiry_heights.first()
        while oldest is not None and oldest < terms.height:
            for txid in list(self._expiring[oldest]):
                self._remove(self._by_txid[txid])
            oldest = self._expiry_heights.first()
        for sender in dict.fromkeys(transaction.parsed.sender for transaction in included):
            self.refresh(sender, view, terms)

    def refresh(self, sender: Address, view: StateView, terms: Terms) -> None:
        """Holds a sender's queue against the chain: nonces used, keys changed, funds gone."""
        queue = self._senders.get(sender)
        if queue is None:
            return
        account, key = read_account(view, sender), read_key(view, sender)
        queue.base = account.nonce
        needed = 0
        for nonce in list(queue.nonces):
            entry = queue.entries[nonce]
            needed += entry.outlay if nonce >= account.nonce else 0
            rotated = key is not None and key.key_hash != entry.key_hash
            if nonce < account.nonce or rotated or needed > account.balance:
                self._remove(entry)
                if nonce >= account.nonce:
                    needed -= entry.outlay
            elif key is not None and entry.transaction.public_key:
                self._strip(entry, terms)
        if len(queue):
            self._reorder(sender, queue)

    def _strip(self, entry: Entry, terms: Terms) -> None:
        """The chain knows the key now: the same signature without it is the variant that a block can have."""
        old = entry.transaction
        entry.transaction = Transaction(old.body, old.alg_id, b"", old.signature)
        del self._by_witness[entry.witness_id]
        entry.witness_id = entry.transaction.witness_id(terms.genesis_hash)
        self._by_witness[entry.witness_id] = entry
        size = transaction_bytes(entry.transaction)
        self.size_bytes += size - entry.size_bytes
        entry.size_bytes = size

    def encode(self) -> bytes:
        """For the store to keep over a restart: number u32, then lp(transaction) each."""
        writer = Writer().u32(len(self._by_txid))
        for transaction in self.transactions():
            writer.lp(transaction.encode())
        return writer.done()


_NO_ROOM: Final = frozenset(
    {InvalidReason.TOO_MANY_TRANSACTIONS, InvalidReason.TOO_MANY_BYTES, InvalidReason.PROOF_COST}
)
MAX_STORED_TRANSACTIONS: Final = 1 << 20
MAX_STORED_BYTES: Final = 1 << 31


def decode_pool(data: bytes) -> tuple[Transaction, ...]:
    """What `encode` wrote, to be examined and verified like anything from outside: files are changed, chains go on."""

    def read(reader: Reader) -> tuple[Transaction, ...]:
        number = reader.count("transactions", MAX_STORED_TRANSACTIONS, 4)
        return tuple(decode_transaction(reader.lp("transaction", MAX_TX_BYTES)) for _ in range(number))

    return decode_whole(data, "mempool", MAX_STORED_BYTES, read)


_OF_STATE: Final = frozenset(
    {
        InvalidReason.TX_EXPIRED,
        InvalidReason.NONCE_TOO_LOW,
        InvalidReason.UNPAYABLE_FEE,
        InvalidReason.KEY_PRESENCE,
        InvalidReason.FEE_TOO_LOW,
    }
)
"""Reasons that another block may take away."""


def _remember(barred: dict[Hash, None], witness_id: Hash) -> None:
    barred[witness_id] = None
    if len(barred) > MAX_BARRED:
        del barred[next(iter(barred))]


def _nobody_knows(key: object) -> bool:
    raise LookupError("examining asks for no verdicts")
