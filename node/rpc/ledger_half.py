"""The half of the port that ledger, pool and store answer.

    half = LedgerHalf(ledger, pool, chain, SetArchive(path))
    offered = half.prepared(transaction)          # offer this to the pool: examine, verify, admit
    outcome = half.outcome(offered, reason)       # what the pool said, in the words of the API
    half.committed(done, finality_ms)             # after each `Ledger.commit`, the pool already told
    half.stands(standing)                         # whenever the node's standing changed

All of it belongs to the thread of the ledger, but for `read`, `standing`, `validator_set` and `finality_ms`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Final

from node.rpc.port import (
    AccountView,
    FeeTerms,
    Notice,
    PoolView,
    ProvenRow,
    Rejection,
    Standing,
    SubmitOutcome,
    TxFate,
    TxStatus,
    TxSummary,
)
from node.rpc.rejections import NO_CONTEXT, Context, rejection_of
from node.rpc.sets import SetArchive
from state.accounts import read_account, read_key
from state.chain import read_network
from state.ledger import Committed, Ledger
from state.mempool import Mempool, Reason, Refusal
from state.mempool.entry import Entry
from state.scope import SetChanged
from state.stake import read_stake, read_unbondings
from state.store.chain import ChainStore
from state.store.reader import ChainReader
from state.store.rows import Tip, TxLocation
from state.transactions import Candidate, Terms, terms_of, without_known_key
from state.validator_sets import read_eras, require_set, set_at
from trellis.genesis import EngineKind, Genesis
from trellis.transaction import Transaction
from trellis.types import Address, Hash, Height

MAX_REMEMBERED: Final = 65_536
"""Transactions whose end can be told after they left the pool. Bounds what a flood of submissions leaves behind."""

MAX_FINALITY_TIMES: Final = 4_096

_SAMPLE: Final = 2_048
"""Waiting transactions that the fee estimate looks at: 3 ms at most, once a block."""


def final_height(genesis: Genesis, tip: int) -> Height:
    """The last final height: certified blocks at once, mined ones so many blocks deep."""
    depth = genesis.parameters.pow_confirmations if genesis.engine is EngineKind.POW else 0
    return Height(max(0, tip - depth))


class LedgerHalf:
    """`node.rpc.port.ChainHalf`, over the real ledger."""

    def __init__(
        self,
        ledger: Ledger,
        pool: Mempool,
        chain: ChainStore,
        archive: SetArchive | None = None,
        clock_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000,
    ) -> None:
        self.ledger = ledger
        self.mempool = pool
        self._chain = chain
        self._archive = archive
        self._clock_ms = clock_ms
        self._last_commit_ms = ledger.head.timestamp_ms
        self._standing = Standing()
        self._listeners: list[Callable[[Notice], None]] = []
        self._remembered: dict[Hash, tuple[TxSummary, Height]] = {}
        self._finality_ms: dict[Height, int] = {}
        self._terms: tuple[Hash, Terms] | None = None
        self._floor: tuple[Hash, int] = (Hash(b""), 0)
        if archive is not None:
            archive.add(ledger.genesis.validators)
            for era in read_eras(ledger.state):
                archive.add(require_set(ledger.state, era.first))

    # Any thread.

    @property
    def genesis(self) -> Genesis:
        return self.ledger.genesis

    @property
    def standing(self) -> Standing:
        return self._standing

    def read(self) -> ChainReader:
        return self._chain.read()

    def validator_set(self, set_hash: Hash) -> bytes | None:
        if set_hash == self.genesis.validators.hash:
            return self.genesis.validators.encode()
        if self._archive is not None and set_hash in self._archive:
            return self._archive.get(set_hash)
        with self._chain.read() as reader:
            for era in read_eras(reader):
                if era.set_hash == set_hash:
                    found = set_at(reader, era.first)
                    return None if found is None else found.encode()
        return None

    def finality_ms(self, height: Height) -> int:
        return self._finality_ms.get(height, 0)

    @property
    def last_commit_ms(self) -> int:
        return self._last_commit_ms

    # What the node tells.

    def watch(self, listener: Callable[[Notice], None]) -> None:
        self._listeners.append(listener)

    def committed(self, done: Committed, finality_ms: int = 0) -> None:
        """After the commit is durable and the pool has heard of it."""
        self._last_commit_ms = self._clock_ms()
        if finality_ms:
            self._finality_ms[done.tip.height] = finality_ms
            if len(self._finality_ms) > MAX_FINALITY_TIMES:
                del self._finality_ms[next(iter(self._finality_ms))]
        executed = done.applied.executed
        if self._archive is not None and any(isinstance(event, SetChanged) for event in executed.events):
            self._archive.add(executed.following)
        self._tell(tuple(receipt.txid for receipt in executed.receipts))

    def stands(self, standing: Standing) -> None:
        if standing != self._standing:
            self._standing = standing
            self._tell(())

    def _tell(self, txids: tuple[Hash, ...]) -> None:
        notice = Notice(self.ledger.tip.height, txids)
        for listener in self._listeners:
            listener(notice)

    # Submission.

    def prepared(self, transaction: Transaction) -> Transaction:
        """What to offer to the pool, and to ask `outcome` about."""
        return without_known_key(transaction, self.ledger.state)

    def outcome(self, transaction: Transaction, reason: Reason | None) -> SubmitOutcome:
        """What to answer, given what the pool said; `reason` is None for what it took. Submission is idempotent: what
        is known already is answered with what it is now."""
        txid = transaction.txid(self.genesis.hash)
        entry = self.mempool.entry(txid)
        if reason is None or reason is Reason.DUPLICATE:
            if entry is not None:
                self.remember(entry)
            return SubmitOutcome(txid, TxStatus.PENDING, duplicate=reason is not None)
        with self._chain.read() as reader:
            location = reader.transaction(txid)
        if location is not None:
            return SubmitOutcome(txid, self._status_at(location), duplicate=True, location=location)
        return SubmitOutcome(txid, TxStatus.REJECTED, self._rejection(transaction, reason))

    def _rejection(self, transaction: Transaction, reason: Reason) -> Rejection:
        candidate = Candidate(transaction, self.ledger.state, self._head_terms())
        if candidate.malformed:
            return rejection_of(reason, candidate, NO_CONTEXT, self.mempool.limits)
        body = candidate.body
        account = read_account(self.ledger.state, body.sender)
        queue = self.mempool.queue(body.sender)
        rival = None if queue is None else queue.entries.get(body.nonce)
        context = Context(
            balance=account.balance,
            pending_nonce=self.mempool.pending_nonce(body.sender, account.nonce),
            waiting_outlay=0 if queue is None else queue.outlay_before(body.nonce),
            rival_fee=0 if rival is None else rival.fee,
        )
        return rejection_of(reason, candidate, context, self.mempool.limits)

    def remember(self, entry: Entry) -> None:
        """So that its end can be told once it has left the pool."""
        self._remembered[entry.txid] = (summary_of(entry), self.ledger.tip.height)
        if len(self._remembered) > MAX_REMEMBERED:
            del self._remembered[next(iter(self._remembered))]

    def admission(self, transaction: Transaction, complete: bool) -> Rejection | None:
        """What would keep it out of the pool now. Not `complete`: key and signature are stand-ins, and do not count."""
        view, terms = self.ledger.state, self._head_terms()
        if complete:
            transaction = self.prepared(transaction)
            found = self.mempool.examine(transaction, view, terms)
            reason = found.reason if isinstance(found, Refusal) else None
        else:
            reason = self.mempool.place_fault(Candidate(transaction, view, terms), view)
        return None if reason is None else self.outcome(transaction, reason).rejection

    def _head_terms(self) -> Terms:
        tip = self.ledger.tip
        if self._terms is None or self._terms[0] != tip.block_hash:
            network = read_network(self.ledger.state)
            self._terms = (tip.block_hash, terms_of(network, self.genesis.hash, Height(tip.height + 1)))
        return self._terms[1]

    def _status_at(self, location: TxLocation) -> TxStatus:
        is_final = location.height <= final_height(self.genesis, self.ledger.tip.height)
        return TxStatus.FINAL if is_final else TxStatus.INCLUDED

    # Views.

    def tip(self) -> Tip:
        return self.ledger.tip

    def accounts(self, addresses: Sequence[Address]) -> tuple[AccountView, ...]:
        return tuple(self._account(address) for address in addresses)

    def _account(self, address: Address) -> AccountView:
        view = self.ledger.state
        account, key, stake = read_account(view, address), read_key(view, address), read_stake(view, address)
        return AccountView(
            address=address,
            balance=account.balance,
            nonce=account.nonce,
            pending_nonce=self.mempool.pending_nonce(address, account.nonce),
            alg_id=0 if key is None else key.alg_id,
            public_key=b"" if key is None else key.public_key,
            bonded=0 if stake is None else stake.bonded,
            unbondings=tuple((entry.release, entry.amount) for entry in read_unbondings(view, address)),
        )

    def prove(self, keys: Sequence[bytes]) -> tuple[ProvenRow, ...]:
        state = self.ledger.state
        return tuple(ProvenRow(key, state.get(key), state.prove(key).encode()) for key in keys)

    def lookup(self, txids: Sequence[Hash]) -> tuple[TxFate | None, ...]:
        with self._chain.read() as reader:
            return tuple(self._fate(txid, reader) for txid in txids)

    def _fate(self, txid: Hash, reader: ChainReader) -> TxFate | None:
        entry = self.mempool.entry(txid)
        if entry is not None:
            if txid not in self._remembered:
                self.remember(entry)
            return TxFate(TxStatus.PENDING, summary=summary_of(entry), transaction=entry.transaction)
        location = reader.transaction(txid)
        if location is not None:
            return TxFate(self._status_at(location), location=location)
        if txid not in self._remembered:
            return None
        summary, seen_at = self._remembered[txid]
        if reader.bounds.first_result > seen_at + 1:
            # It may stand in a block whose index is gone, or was never here: nobody must be told that it failed.
            return None
        return TxFate(self._end_of(summary), summary=summary)

    def _end_of(self, summary: TxSummary) -> TxStatus:
        queue = self.mempool.queue(summary.sender)
        taken = queue is not None and summary.nonce in queue.entries
        if taken or read_account(self.ledger.state, summary.sender).nonce > summary.nonce:
            return TxStatus.REPLACED
        return TxStatus.EXPIRED if summary.valid_until <= self.ledger.tip.height else TxStatus.DROPPED

    def fee_terms(self, sender: Address) -> FeeTerms:
        key = read_key(self.ledger.state, sender)
        known = None if key is None else (key.alg_id, key.public_key)
        return FeeTerms(self.ledger.tip, known, self._head_terms().account_algorithms, self._floor_density())

    def _floor_density(self) -> int:
        """The density at which the best of the pool fill the next block; 0 while all of it fits."""
        parameters, pool, tip = self._head_terms().network.parameters, self.mempool, self.ledger.tip
        count = len(pool)
        share = min(
            1.0 if count <= parameters.max_block_transactions else parameters.max_block_transactions / count,
            1.0 if pool.size_bytes <= parameters.max_block_bytes else parameters.max_block_bytes / pool.size_bytes,
        )
        if share >= 1.0:
            return 0
        if self._floor[0] != tip.block_hash:
            step = max(1, count // _SAMPLE)
            sample = sorted((e.density for e in islice(self._entries(), 0, None, step)), reverse=True)
            self._floor = (tip.block_hash, sample[min(len(sample) - 1, int(share * len(sample)))])
        return self._floor[1]

    def _entries(self) -> Iterator[Entry]:
        return iter(self.mempool.entries())

    def pool_size(self) -> int:
        return len(self.mempool)

    def pool(self, sender: Address | None) -> PoolView:
        pool = self.mempool
        if sender is None:
            found = list(self._entries())
        else:
            queue = pool.queue(sender)
            found = [] if queue is None else list(queue.entries.values())
        return PoolView(
            count=len(pool) - pool.proofs,
            size_bytes=pool.size_bytes,
            capacity_count=pool.limits.max_count,
            capacity_bytes=pool.limits.max_bytes,
            proofs=pool.proofs,
            entries=tuple(found),
        )


def summary_of(entry: Entry) -> TxSummary:
    return TxSummary(
        txid=entry.txid,
        sender=entry.sender,
        nonce=entry.nonce,
        kind=entry.transaction.parsed.kind_name,
        fee=entry.fee,
        valid_until=Height(entry.valid_until),
        size_bytes=entry.size_bytes,
    )
