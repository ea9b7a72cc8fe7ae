"""A whole look at a store on disk, for an operator who doubts it: every page, every row, every link between them.

Opening a store checks its head, the tip and the tree's roots; reading checks what is read. A damaged page inside the
file can still end the process, because the engine trusts its pages, so this looks at the pages first, without it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from state.commitment.bucket import bucket_keys, check_bucket, leaf_hash, leaf_hashes
from state.store.chain import ChainStore, load_chain
from state.store.errors import StoreError
from state.store.lmdb_store import LmdbStore, structural_faults
from state.store.store import StoreSnapshot, Table
from trellis.types import Height


def check_directory(directory: Path) -> list[str]:
    """Everything that is wrong with a stopped node's store; nothing where all is well."""
    faults = [f"{directory}: pages: {fault}" for fault in structural_faults(directory)]
    if faults:
        return faults
    try:
        chain = load_chain(LmdbStore(directory, read_only=True))
    except StoreError as fault:
        return [str(fault)]
    try:
        return list(check_chain(chain))
    finally:
        chain.close()


def check_chain(chain: ChainStore) -> Iterator[str]:
    """Findings on the rows of an open chain, table by table; a table that cannot be read ends its own look alone."""
    with chain.read() as reader:
        for table in Table:
            try:
                for _ in reader.snapshot.scan(table):
                    pass
            except StoreError as fault:
                yield str(fault)
        try:
            yield from _check_state(reader.snapshot)
            bounds, tip = reader.bounds, reader.tip
            for key, row in reader.snapshot.scan(Table.EVIDENCE):
                reader.accepted(key, row)
            for height in range(bounds.first_header, tip.height + 1):
                header = reader.header(Height(height))
                if header is None:
                    yield f"the header of block {height} is missing"
                elif reader.height_of(header.hash) != height:
                    yield f"block {height} is not found by its hash"
                reader.certificate(Height(height))
                reader.block_bytes(Height(height))
                if height >= bounds.first_result and reader.results(Height(height)) is None:
                    yield f"the results of block {height} are missing"
                reader.events(Height(height))
        except StoreError as fault:
            yield str(fault)


def _check_state(snapshot: StoreSnapshot) -> Iterator[str]:
    """Every value against the leaf that commits to it; and no value without one."""
    committed = 0
    for row, bucket in snapshot.scan(Table.BUCKETS):
        check_bucket(bucket)
        for key, leaf in zip(bucket_keys(bucket), leaf_hashes(bucket), strict=True):
            committed += 1
            value = snapshot.get(Table.STATE, key)
            if value is None or leaf_hash(key, value) != leaf:
                yield f"the value at key {key.hex()} is not what bucket {int.from_bytes(row, 'big')} commits to"
    held = snapshot.count(Table.STATE)
    if held != committed:
        yield f"the state has {held} values, its root commits to {committed}"
