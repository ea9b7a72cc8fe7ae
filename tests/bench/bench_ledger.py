"""Microseconds a transaction of the ledger: blocks of transfers executed, hashed, committed; and the pool's operations.

Signatures are not verified here: their verdicts are given, `bench_crypto` measures them. Every block is decoded from
its wire form first, so that nothing parsed while it was made is counted as known.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from hashlib import sha3_256
from pathlib import Path
from random import Random
from typing import TypeVar

from state.accounts import make_account_key, write_account, write_key
from state.chain import TOTALS_KEY, Totals, read_network, read_totals
from state.execution import BlockContext
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.mempool import Entry, Mempool, PoolLimits
from state.overlay import Overlay
from state.scope import check_proof
from state.store.chain import ChainStore, create_chain
from state.store.lmdb_store import LmdbStore
from state.store.rows import ChainIdentity
from state.transactions import Candidate, Terms, terms_of
from state.transition import Applied, Proposal, apply_block
from state.view import Changes, StateView
from tests.chains import Member, certify, fake_members, small_genesis
from trellis.address import address_of
from trellis.block import Block, decode_block
from trellis.certificate import Certificate
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.genesis import Genesis
from trellis.parameters import Parameters
from trellis.transaction import Output, Transaction, TransactionBody, Transfer
from trellis.types import Address, Hash, Height, View
from trellis.votes import Vote, VoteKind

T = TypeVar("T")
BALANCE = 10**9
SIGNATURE = bytes(SIZES[AlgId.ML_DSA_65].signature_bytes)
KEY = bytes(SIZES[AlgId.ML_DSA_65].public_key_bytes)
SENDERS = 8_000
HOT = 500
"""Accounts of the second table: payments among few, whose rows and buckets are remembered."""
ROUNDS = 5
SCRATCH = Path(__file__).resolve().parents[2] / "build"
"""On the disk that the project is on: a system's temporary folder may be memory, where syncing costs nothing."""


def account(place: int) -> Address:
    """Spread like real addresses."""
    return address_of(1, place.to_bytes(8, "big"))


@dataclass
class Clock:
    """The best of several rounds of each named part, in microseconds a transaction."""

    best: dict[str, float] = field(default_factory=dict)
    processor: float = 1e9
    """All parts of one round, without waiting for the disk or for other programs."""

    def time(self, part: str, number: int, work: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = work()
        self.note(part, number, time.perf_counter() - start)
        return result

    def note(self, part: str, number: int, seconds: float) -> None:
        each = seconds * 1e6 / number
        self.best[part] = min(each, self.best.get(part, each))


def genesis_with(accounts: int, members: tuple[Member, ...], keys: int = SENDERS) -> tuple[Genesis, Changes]:
    """Accounts are put straight into the state: a genesis document of a million is no part of this."""
    buckets = 16 if accounts <= 200_000 else 18
    parameters = Parameters(min_stake=1, state_buckets_log2=buckets, max_block_bytes=16 << 20)
    genesis = small_genesis(members, parameters=parameters)
    base = genesis_changes(genesis)
    state = Overlay(dict(base))
    key = make_account_key(1, KEY)
    for place in range(accounts):
        write_account(state, account(place), BALANCE, 0)
    for place in range(keys):
        write_key(state, account(place), key)
    old = read_totals(state)
    units = accounts * BALANCE
    state.put(TOTALS_KEY, Totals(old.genesis_supply + units, 0, 0, units, old.bonded, 0, 0).encode())
    return genesis, {**base, **state.changes()}


class Bench:
    """A ledger on a real store, and transfers for it."""

    def __init__(self, directory: Path, accounts: int) -> None:
        self.accounts = accounts
        self.members = fake_members([10, 10, 10, 10])
        self.genesis, entries = genesis_with(accounts, self.members)
        identity = ChainIdentity(self.genesis.hash, self.genesis.parameters.state_buckets_log2)
        self.chain: ChainStore = create_chain(LmdbStore(directory), identity, entries)
        self.ledger = Ledger(self.genesis, self.chain)
        self.nonces = [0] * SENDERS
        self.certificate: Certificate | None = None
        self.next_sender = 0

    def transfers(self, number: int, senders: int, recipients: int) -> list[Transaction]:
        made: list[Transaction] = []
        for place in range(number):
            sender = self.next_sender = (self.next_sender + 1) % senders
            recipient = account((sender * 7_919 + place * 104_729) % recipients)
            body = TransactionBody(
                account(sender), self.nonces[sender], Height(1 << 40), 2_000, Transfer((Output(recipient, 5),))
            )
            self.nonces[sender] += 1
            made.append(Transaction(body.encode(), 1, b"", SIGNATURE))
        return made

    def propose(self, transactions: list[Transaction]) -> Block:
        facts = self.ledger.facts_after(self.ledger.tip.block_hash)
        if facts is None:
            raise RuntimeError("the head has facts")
        proposal = Proposal(
            facts.schedule.leader_of(View(0), facts.validators),
            View(0),
            facts.parent_timestamp_ms + 1,
            self.certificate,
        )
        built = self.ledger.propose(proposal, transactions, lambda key: True)
        if built.dropped:
            raise RuntimeError(f"dropped {built.dropped[0].reason}")
        block = built.applied.block
        self.ledger.drop(block.hash)
        return block

    def round(self, clock: Clock, number: int, senders: int = SENDERS, recipients: int | None = None) -> None:
        made = self.transfers(number, senders, recipients or self.accounts)
        block = decode_block(self.propose(made).encode())
        gc.collect()
        used = time.process_time()
        # What a pool has done already when a block of its transactions arrives; a block from the wire does it here.
        clock.time("parse and hash", number, lambda: [(each.parsed, each.witness_leaf) for each in block.transactions])
        context, spent = self.context()
        start = time.perf_counter()
        result = apply_block(self.ledger.state, block, context)
        whole = time.perf_counter() - start
        if not isinstance(result, Applied):
            raise TypeError(f"the block was refused: {result}")
        merkle = spent[0][1]
        clock.note("execute", number, whole - merkle)
        clock.note("Merkle", number, merkle)
        used -= time.process_time()
        self.ledger.execute(block, lambda key: True)
        header = block.header
        vote = Vote(VoteKind.COMMIT, header.height, View(0), header.hash)
        certificate = certify(vote, self.members, self.genesis.hash)
        used += time.process_time()
        clock.time("commit", number, lambda: self.ledger.commit(block.hash, certificate))
        clock.processor = min(clock.processor, (time.process_time() - used) * 1e6 / number)
        self.certificate = certificate

    def context(self) -> tuple[BlockContext, list[tuple[Hash, float]]]:
        """As the ledger makes it, with a clock around the tree."""
        spent: list[tuple[Hash, float]] = []

        def root_of(changes: Changes) -> Hash:
            start = time.perf_counter()
            root = self.ledger.state.extend(changes).root
            spent.append((root, time.perf_counter() - start))
            return root

        tip = self.ledger.tip.block_hash
        return BlockContext(self.genesis.hash, tip, lambda key: True, root_of, check_proof), spent


def ledger_table(accounts: int) -> None:
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="bench-ledger-", dir=SCRATCH) as directory:
        bench = Bench(Path(directory) / "store", accounts)
        for number, senders, recipients in (
            (1_000, SENDERS, accounts),
            (4_000, SENDERS, accounts),
            (1_000, HOT, HOT),
            (4_000, HOT, HOT),
        ):
            clock = Clock()
            for _ in range(ROUNDS):
                bench.round(clock, number, senders, recipients)
            parts = clock.best
            total = sum(parts.values())
            row = "  ".join(f"{part} {spent:5.1f}" for part, spent in parts.items())
            among = f"among {senders:,} and {recipients:,} of them"
            print(
                f"{accounts:>9,} accounts, {number:>5,} transfers {among:<30} {row}  = {total:5.1f} µs a transaction, "
                f"{clock.processor:5.1f} of processor",
                flush=True,
            )
        bench.chain.close()


def calibration() -> float:
    """SHA3-256 of 3.4 KB, a transaction's witness: what this machine does now, in µs."""
    data, best = bytes(3_400), 1e9
    for _ in range(20):
        start = time.perf_counter()
        for _ in range(200):
            sha3_256(data).digest()
        best = min(best, (time.perf_counter() - start) * 5e3)
    return best


def pool_of(size: int, view: StateView, terms: Terms) -> tuple[Mempool, float, float]:
    """A pool of so many transactions of as many senders; µs to examine and admit one more, and to choose a block."""
    rng = Random(size)
    pool = Mempool(PoolLimits(max_count=10**6, max_bytes=1 << 40))
    extra = 1_000

    def offered(place: int) -> Transaction:
        fee = rng.randrange(5_000, 50_000)
        kind = Transfer((Output(account(place + 1), 5),))
        return Transaction(TransactionBody(account(place), 0, Height(1_000), fee, kind).encode(), 1, b"", SIGNATURE)

    for place in range(size):
        found = pool.examine(offered(place), view, terms)
        if not isinstance(found, Candidate) or not isinstance(pool.admit(found, view, True), Entry):
            raise TypeError("the pool refused a good transaction")
    waiting = [offered(place) for place in range(size, size + extra)]
    for each in waiting:
        each.parsed, each.witness_leaf  # noqa: B018 - parsed and hashed before, as for blocks
    gc.collect()
    start = time.perf_counter()
    for each in waiting:
        found = pool.examine(each, view, terms)
        if isinstance(found, Candidate):
            pool.admit(found, view, True)
    admit = (time.perf_counter() - start) * 1e6 / extra
    if len(pool) != size + extra:
        raise RuntimeError("not all were admitted")
    chosen, select = 0, 1e9
    for _ in range(5):
        start = time.perf_counter()
        chosen = len(pool.select(terms.network))
        select = min(select, (time.perf_counter() - start) * 1e6 / chosen)
    return pool, admit, select


def pool_table() -> None:
    members = fake_members([10, 10, 10, 10])
    genesis, rows = genesis_with(110_000, members, keys=110_000)
    view = Overlay({key: row for key, row in rows.items() if row is not None})
    terms = terms_of(read_network(view), genesis.hash, Height(1))
    figures = {}
    for size in (1_000, 10_000, 100_000):
        pool, admit, select = pool_of(size, view, terms)
        start = time.perf_counter()
        data = pool.encode()
        encode = (time.perf_counter() - start) * 1e6 / len(pool)
        figures[size] = (admit, select)
        print(
            f"mempool of {size:>7,}: admit {admit:5.1f} µs, select {select:4.1f} µs a transaction chosen, "
            f"encode {encode:4.1f} µs ({len(data) >> 20} MiB)"
        )
    for name, place in (("admit", 0), ("select", 1)):
        print(f"mempool {name}: {figures[100_000][place] / figures[1_000][place]:.2f} × at 100,000 what it is at 1,000")


def main() -> None:
    print(f"ledger: best of {ROUNDS} blocks, signatures not verified; SHA3-256 of 3.4 KB now: {calibration():.1f} µs")
    for accounts in (100_000, 1_000_000):
        ledger_table(accounts)
    pool_table()


if __name__ == "__main__":
    main()
