"""Kills a committing process at random points, and looks at what it left. By hand:

python -m tests.state.store.kill_campaign [kills] [seed]
"""

from __future__ import annotations

import os
import random
import signal
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from state.store.chain import ChainStore, load_chain
from state.store.lmdb_store import LmdbStore, structural_faults
from state.store.pruning import Retention
from state.store.store import Table
from tests.state.commitment.reference import full_root
from tests.state.store.chain_kit import GENESIS, IDENTITY, changes_at, digest, header_for, new_chain, record_of
from trellis.types import Height

RETENTION = Retention(bodies=40, results=40, undo_blocks=4)
TRANSACTIONS = 60
MAP_BYTES = 1 << 26


@dataclass
class Findings:
    """What the campaign saw."""

    kills: int = 0
    acknowledged: int = 0
    unacknowledged_kept: int = 0
    """Commits that were durable though the process died before it could say so."""
    slowest_reopen_ms: int = 0


def open_chain(directory: Path) -> ChainStore:
    return load_chain(LmdbStore(directory, map_bytes=MAP_BYTES), IDENTITY, retention=RETENTION)


def commit_next(chain: ChainStore) -> None:
    height = chain.tip.height + 1
    version = chain.state.extend(changes_at(height))
    chain.commit(version, record_of(header_for(chain.tip, version.root), TRANSACTIONS))


def commit_until_killed(directory: Path, acknowledgements: int) -> None:
    """The victim: eight bytes for every block that was acknowledged."""
    chain = open_chain(directory)
    while True:
        commit_next(chain)
        os.write(acknowledgements, chain.tip.height.to_bytes(8, "big"))


def kill_once(directory: Path, rng: random.Random) -> int:
    """Runs a victim, kills it after some blocks and a bit; the height that it acknowledged last, or 0."""
    reading, writing = os.pipe()
    victim = os.fork()
    if victim == 0:
        os.close(reading)
        # The child must not run the parent's clean-up, whatever happens.
        with suppress(BaseException):
            commit_until_killed(directory, writing)
        os._exit(3)
    os.close(writing)
    last = 0
    for _ in range(rng.randrange(5)):
        last = int.from_bytes(os.read(reading, 8), "big")
    # Spinning reaches points within a commit that sleeping would round away.
    until = time.perf_counter_ns() + rng.randrange(12_000_000)
    while time.perf_counter_ns() < until:
        pass
    os.kill(victim, signal.SIGKILL)
    _, status = os.waitpid(victim, 0)
    if not os.WIFSIGNALED(status):
        raise AssertionError(f"the victim ended by itself with status {status}")
    while rest := os.read(reading, 8):
        last = int.from_bytes(rest, "big")
    os.close(reading)
    return last


def model_at(height: int) -> dict[bytes, bytes]:
    entries: dict[bytes, bytes] = dict(GENESIS)
    for at in range(1, height + 1):
        for key, value in changes_at(at).items():
            if value is None:
                entries.pop(key, None)
            else:
                entries[key] = value
    return entries


def check_whole(chain: ChainStore, entries: dict[bytes, bytes]) -> None:
    """Everything of every block up to the tip, and nothing of any block beyond."""
    tip = chain.tip
    assert chain.state.node == full_root(entries, IDENTITY.buckets_log2)
    assert chain.consensus == (b"metadata %d" % tip.height if tip.height else b"metadata 0")
    with chain.read() as reader:
        assert dict(reader.snapshot.scan(Table.STATE)) == entries
        assert reader.header(Height(tip.height + 1)) is None
        first = max(1, chain.bounds.first_body)
        for height in range(max(first, tip.height - 3), tip.height + 1):
            header = reader.header(Height(height))
            assert header is not None
            record = record_of(header, TRANSACTIONS)
            assert reader.block_bytes(Height(height)) == record.block_bytes
            assert reader.certificate_bytes(Height(height)) == record.certificate
            for result in (record.results[0], record.results[-1]):
                location = reader.transaction(result.txid)
                assert location is not None
                assert location.height == height
        assert reader.transaction(digest(("tx", tip.height + 1, 0, 0))) is None
        if tip.height:
            proof = reader.prove_block(Height(tip.height // 2), tip.height + 1)
            assert proof is not None


def campaign(directory: Path, kills: int, seed: int) -> Findings:
    rng = random.Random(seed)
    new_chain(LmdbStore(directory, map_bytes=MAP_BYTES)).close()
    found = Findings()
    height = 0
    for _ in range(kills):
        acknowledged = max(height, kill_once(directory, rng))
        started = time.perf_counter_ns()
        chain = open_chain(directory)
        took_ms = (time.perf_counter_ns() - started) // 1_000_000
        try:
            assert acknowledged <= chain.tip.height <= acknowledged + 1, (acknowledged, chain.tip.height)
            check_whole(chain, model_at(chain.tip.height))
        finally:
            chain.close()
        found.kills += 1
        found.acknowledged += acknowledged - height
        found.unacknowledged_kept += chain.tip.height - acknowledged
        found.slowest_reopen_ms = max(found.slowest_reopen_ms, took_ms)
        height = chain.tip.height
    assert structural_faults(directory) == []
    return found


def main() -> None:
    kills = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as directory:
        print(campaign(Path(directory) / "store", kills, seed))


if __name__ == "__main__":
    main()
