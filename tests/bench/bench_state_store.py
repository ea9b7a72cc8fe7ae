"""What state and store cost: the tree, commits with their syncs, reads, proofs, reopening, snapshots.

python -m tests.bench.bench_state_store [accounts …]
"""

from __future__ import annotations

import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from hashlib import sha3_256
from pathlib import Path

from state.snapshot import ChunkRefusal
from state.store.chain import BlockRecord, ChainStore, create_chain, load_chain
from state.store.lmdb_store import LmdbStore
from state.store.rows import ChainIdentity, TxResult
from state.store.snapshots import SnapshotSource, begin_import
from tests.state.store.chain_kit import certificate_for, digest, header_for
from trellis.types import Address, Hash

ROUNDS = 7
BATCH = 1_000
BODY_BYTES = 3_400
SCRATCH = Path(__file__).resolve().parents[2] / "build"
"""On the disk that the project is on: a system's temporary folder may be memory, where syncing costs nothing."""
"""A transfer and its ML-DSA-65 signature."""
IDENTITY = ChainIdentity(digest("benchmark"), 16)


def timed(work: Callable[[], object]) -> float:
    """Milliseconds."""
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def line(what: str, samples_ms: list[float], divisor: int = 1) -> None:
    """The best and the median: neighbours on the machine only ever add."""
    best, middle = min(samples_ms) / divisor, statistics.median(samples_ms) / divisor
    unit, scale = ("µs", 1e3) if divisor > 1 else ("ms", 1)
    print(f"  {what:<44} {best * scale:>9.2f} {middle * scale:>9.2f} {unit}", flush=True)


def block_of(chain: ChainStore, rng: random.Random, keys: list[bytes], transactions: int) -> tuple[float, float]:
    """A block of transfers: each changes two accounts. Milliseconds of the tree's update, and of the commit."""
    changes = {key: rng.randbytes(60) for key in rng.sample(keys, 2 * transactions)}
    started = time.perf_counter()
    version = chain.state.extend(changes)
    tree_ms = (time.perf_counter() - started) * 1e3
    header = header_for(chain.tip, version.root, genesis_hash=IDENTITY.genesis_hash)
    record = BlockRecord(
        header,
        header.encode() + rng.randbytes(1024) * (transactions * BODY_BYTES // 1024),
        tuple(TxResult(Hash(rng.randbytes(32)), 0, 3_000) for _ in range(transactions)),
        tuple((Address(key[1:]), index // 2) for index, key in enumerate(changes)),
        certificate_for(header),
    )
    return tree_ms, timed(lambda: chain.commit(version, record))


def table(accounts: int, root: Path) -> None:
    rng = random.Random(accounts)
    keys = [b"a" + rng.randbytes(32) for _ in range(accounts)]
    print(f" {accounts:,} accounts, 2^16 buckets{'':<27} best    median")
    store = LmdbStore(root / "store")
    entries: dict[bytes, bytes | None] = {key: rng.randbytes(60) for key in keys}
    line("write the genesis state", [timed(lambda: create_chain(store, IDENTITY, entries).close())])
    entries.clear()
    opened: list[ChainStore] = []
    line("reopen", [timed(lambda: opened.append(load_chain(LmdbStore(root / "store"), IDENTITY)))])
    chain = opened[0]
    update: list[float] = []
    for _ in range(ROUNDS):
        changes = {key: rng.randbytes(60) for key in rng.sample(keys, BATCH)}
        update.append(timed(lambda batch=changes: chain.state.extend(batch)))  # type: ignore[misc]  # bound at once
    line(f"tree update, {BATCH:,} keys, a key", update, BATCH)
    for transactions in (1_000, 4_000):
        rounds = [block_of(chain, rng, keys, transactions) for _ in range(ROUNDS)]
        line(f"block of {transactions:,}: tree, a transaction", [tree for tree, _ in rounds], transactions)
        line(
            f"block of {transactions:,}: commit + fsync, a transaction", [commit for _, commit in rounds], transactions
        )
    wanted = rng.sample(keys, 5_000)
    line("read, a key", [timed(lambda: [chain.state.get(key) for key in wanted])], len(wanted))
    absent = [b"b" + key[1:] for key in wanted]
    line("read of an absent key", [timed(lambda: [chain.state.get(key) for key in absent])], len(absent))
    line("proof, a key", [timed(lambda: [chain.state.prove(key) for key in wanted[:1_000]])], 1_000)
    line("rollback of a block of 4,000", [timed(chain.rollback)])
    snapshots(chain, root)
    chain.close()
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    size_mb = (root / "store" / "data.mdb").stat().st_size // 1_000_000
    print(f"  store {size_mb} MB; peak memory of this process {peak_mb} MB (the account list included)\n")


def snapshots(chain: ChainStore, root: Path) -> None:
    with chain.read() as reader:
        source = SnapshotSource(reader, IDENTITY)
        chunks: list[bytes] = []
        line(
            "snapshot export", [timed(lambda: chunks.extend(source.chunk(at) for at in range(source.plan.chunk_count)))]
        )
        importing = begin_import(LmdbStore(root / "import"), source.manifest, source.index())
    if isinstance(importing, ChunkRefusal):
        raise RuntimeError(importing.detail)
    refused: list[ChunkRefusal | None] = []
    line(
        f"snapshot import, {len(chunks)} chunks of {sum(map(len, chunks)) / len(chunks) / 1e6:.1f} MB, verified",
        [timed(lambda: refused.extend(importing.accept(at, chunk) for at, chunk in enumerate(chunks)))],
    )
    if any(refused):
        raise RuntimeError(str(refused))


def main(sizes: tuple[int, ...] = (100_000, 1_000_000)) -> None:
    preimage = bytes(100)
    base = min(timed(lambda: [sha3_256(preimage).digest() for _ in range(10_000)]) for _ in range(5))
    print(f"state and store; SHA3-256 of 100 bytes now: {base / 10:.2f} µs (about twelve of them a changed key)")
    for accounts in sizes:
        SCRATCH.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=SCRATCH) as directory:
            table(accounts, Path(directory))


if __name__ == "__main__":
    main(tuple(int(size) for size in sys.argv[1:]) or (100_000, 1_000_000))
