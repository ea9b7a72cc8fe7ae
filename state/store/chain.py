"""A chain in a store: every block is one atomic transaction of state, tree, block, indexes, certificate and metadata.

    chain = create_chain(store, identity, genesis_entries)   # or load_chain(store)
    after = chain.state.extend(changes)                       # speculative; as many blocks deep as wanted
    chain.commit(after, BlockRecord(header, block_bytes, results, touched, certificate))

One thread calls this; `read()` gives other threads their own view of what is committed. Opening trusts nothing: the
tree's upper levels are hashed anew from the buckets' roots and must give the tip's state_root; a bucket must have the
root that stands in the tree; a key the store does not find must be absent from its bucket.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from state.commitment.bucket import PackedNode, bucket_root, find, has_bucket_size
from state.commitment.tree import StateTree
from state.commitment.versions import CommittedState, MemoryState, SpeculativeState
from state.store.errors import CorruptStoreError, ForeignChainError, NewerFormatError, StoreMissingError
from state.store.pruning import KEEP_ALL, Retention, prune_into
from state.store.reader import ChainReader, decoded
from state.store.recent import Recent
from state.store.rows import (
    BOUNDS_KEY,
    CONSENSUS_KEY,
    FORMAT_KEY,
    FORMAT_VERSION,
    TIP_KEY,
    AcceptedEvidence,
    BlockResults,
    Bounds,
    ChainIdentity,
    Tip,
    TxResult,
    bucket_key,
    decode_bounds,
    decode_identity,
    decode_results,
    decode_tip,
    decode_undo,
    encode_undo,
    evidence_key,
    format_version,
    height_key,
    history_key,
    history_rows,
    location_rows,
    mmr_key,
)
from state.store.store import Batch, Store, StoreSnapshot, Table
from state.view import Changes
from trellis.header import Header
from trellis.mmr import mmr_node
from trellis.statetree import Node, bucket_of
from trellis.types import Address, Hash, Height

ROW_MEMORY_BYTES: Final = 32 << 20
"""State rows that were read or written last."""
BUCKET_MEMORY_BYTES: Final = 64 << 20
"""Buckets of the tree: all of them below a few hundred thousand rows, since opening a chain reads them anyway."""

_PRUNED_A_COMMIT: Final = 2
"""Blocks of arrears that a commit prunes along: more than one, so that a shortened retention is caught up with."""


@dataclass(frozen=True, slots=True)
class BlockRecord:
    """What is kept of a block beside the state after it."""

    header: Header
    block_bytes: bytes
    """As it travelled."""
    results: tuple[TxResult, ...]
    touched: tuple[tuple[Address, int], ...] = ()
    """For the history of addresses: an address, and the index of a transaction that touched it; each pair once."""
    certificate: bytes = b""
    """Encoded; empty where the engine has none."""
    events: bytes = b""
    """Rewards, slashes and the like, encoded (`state.events`)."""
    evidence: tuple[AcceptedEvidence, ...] = ()
    consensus: bytes | None = None
    """Metadata of the consensus engine, durable in the same transaction; None leaves what is there."""


class ChainStore:
    """The committed chain. Made by `create_chain` or `load_chain`."""

    def __init__(self, store: Store, identity: ChainIdentity, retention: Retention) -> None:
        self.store = store
        self.identity = identity
        self.retention = retention
        self._snapshot: StoreSnapshot = store.snapshot()
        self._load_tip()
        self._rows: Recent[bytes] = Recent(ROW_MEMORY_BYTES)
        self._buckets: Recent[int] = Recent(BUCKET_MEMORY_BYTES)
        tree = StateTree(identity.buckets_log2, self._load_bucket, self._bucket_roots())
        self._tree = tree
        self.state = CommittedState(tree, self._read)
        if tree.node != self.tip.node:
            raise self._corrupt(f"the state's buckets do not hash to the state root of block {self.tip.height}")

    def _bucket_roots(self) -> Iterator[tuple[int, PackedNode]]:
        for index, bucket in stored_buckets(self._snapshot, self.store.directory):
            self._buckets.put(index, bucket)
            yield index, bucket_root(bucket)

    def _load_tip(self) -> None:
        directory = self.store.directory
        self.tip: Tip = decoded(directory, self._snapshot, TIP_KEY, decode_tip)
        self.bounds: Bounds = decoded(directory, self._snapshot, BOUNDS_KEY, decode_bounds)
        reader = ChainReader(self._snapshot, directory)
        if self.tip.height and self.bounds.first_header <= self.tip.height:
            header = reader.header(self.tip.height)
            if header is None or (header.hash, header.state_root) != (self.tip.block_hash, self.tip.state_root):
                raise self._corrupt(f"the header of the last block, {self.tip.height}, is missing or another one")

    def _corrupt(self, what: str) -> CorruptStoreError:
        return CorruptStoreError(
            self.store.directory, what, "Restore a snapshot into an empty directory, or sync again from peers"
        )

    def _read(self, key: bytes) -> bytes | None:
        value = self._rows.get(key)
        if value is not None:
            return value
        value = self._snapshot.get(Table.STATE, key)
        if value is not None:
            self._rows.put(key, value)
        else:
            # A damaged index page hides rows: only the commitment tells "was never there" from "cannot be found".
            bucket = self._tree.bucket(bucket_of(key, self.identity.buckets_log2))
            if find(bucket, key) is not None:
                raise self._corrupt(f"the state has no value at key {key.hex()}, to which its root commits")
        return value

    def _load_bucket(self, index: int, root: PackedNode) -> bytes:
        bucket = self._buckets.get(index)
        if bucket is not None:
            return bucket
        bucket = self._snapshot.get(Table.BUCKETS, bucket_key(index))
        if bucket is None or bucket_root(bucket) != root:
            raise self._corrupt(f"bucket {index} of the state tree is missing or another one")
        self._buckets.put(index, bucket)
        return bucket

    def _adopt(self, version: SpeculativeState) -> None:
        """What was just stored is what is read from here on."""
        written = {key: value for key, value in version.changes.items() if value is not None}
        if len(written) < len(version.changes):
            for key in version.changes.keys() - written.keys():
                self._rows.drop(key)
        self._rows.put_all(written)
        self._buckets.put_all(version.delta.buckets)
        self.state.adopt(version)

    @property
    def consensus(self) -> bytes:
        """The consensus engine's metadata; empty where there never was any."""
        return self._snapshot.get(Table.META, CONSENSUS_KEY) or b""

    def read(self) -> ChainReader:
        """A view of what is committed now, for any one thread; close it when done."""
        return ChainReader(self.store.snapshot(), self.store.directory)

    def commit(self, version: SpeculativeState, record: BlockRecord) -> Tip:
        """Durable when it returns. `version` must extend `state` directly; its own extensions live on."""
        header = record.header
        self.state.check_direct(version)
        self._check_follows(header, version.root)
        node = version.node
        tip = Tip(header.height, header.hash, version.root, node.leaves, node.size_bytes)
        batch = Batch()
        self._put_state(batch, version)
        self._put_block(batch, record)
        if self.retention.undo_blocks:
            previous = {key: self.state.get(key) for key in version.changes}
            batch.put(Table.UNDO, height_key(header.height), encode_undo(previous))
        bounds = prune_into(batch, self._snapshot, self.bounds, tip.height, self.retention, _PRUNED_A_COMMIT)
        self._write(batch, tip, bounds)
        self._adopt(version)
        return tip

    def _check_follows(self, header: Header, root: Hash) -> None:
        if header.height != self.tip.height + 1 or header.parent_hash != self.tip.block_hash:
            raise ValueError(f"block {header.height} does not follow the committed block {self.tip.height}")
        if header.genesis_hash != self.identity.genesis_hash:
            raise ValueError(f"block {header.height} is of another chain")
        if header.state_root != root:
            raise ValueError(f"block {header.height} promises another state than the one to be committed")

    def _put_state(self, batch: Batch, version: SpeculativeState) -> None:
        batch.merge(Table.STATE, version.changes)
        buckets = {bucket_key(index): bucket or None for index, bucket in version.delta.buckets.items()}
        batch.merge(Table.BUCKETS, buckets)

    def _put_block(self, batch: Batch, record: BlockRecord) -> None:
        height = record.header.height
        key = height_key(height)
        batch.put(Table.HEADERS, key, record.header.encode())
        batch.put(Table.HEIGHTS, record.header.hash, key)
        batch.put(Table.BLOCKS, key, record.block_bytes)
        if record.certificate:
            batch.put(Table.CERTIFICATES, key, record.certificate)
        batch.put(Table.RESULTS, key, BlockResults(record.results, record.touched).encode())
        batch.put(Table.EVENTS, key, record.events)
        for accepted in record.evidence:
            batch.put(Table.EVIDENCE, evidence_key(height, accepted.index), accepted.encode())
        batch.merge(Table.TRANSACTIONS, location_rows(height, record.results))
        batch.merge(Table.HISTORY, history_rows(height, record.touched))
        for mmr_at, node in self._mmr_nodes(height, record.header.hash):
            batch.put(Table.MMR, mmr_at, node)
        if record.consensus is not None:
            batch.put(Table.META, CONSENSUS_KEY, record.consensus)

    def _mmr_nodes(self, height: int, leaf: Hash) -> Iterator[tuple[bytes, bytes]]:
        """The leaf, and every perfect tree that it completes."""
        node, level, index = leaf, 0, height
        yield mmr_key(0, index), node
        while index & 1:
            left = self._snapshot.get(Table.MMR, mmr_key(level, index - 1))
            if left is None:
                # A node started from a snapshot knows the peaks alone, which suffice to go on.
                raise self._corrupt(f"node {index - 1} of level {level} of the mountain range is missing")
            node = mmr_node(Hash(left), node)
            level, index = level + 1, index >> 1
            yield mmr_key(level, index), node

    def _write(self, batch: Batch, tip: Tip, bounds: Bounds) -> None:
        batch.put(Table.META, TIP_KEY, tip.encode())
        if bounds != self.bounds:
            batch.put(Table.META, BOUNDS_KEY, bounds.encode())
        try:
            self.store.commit(batch)
        finally:
            # Also where it failed: growing the map may have closed the snapshot.
            self._renew()
        self.tip, self.bounds = tip, bounds

    def _renew(self) -> None:
        self._snapshot.close()
        self._snapshot = self.store.snapshot()

    def put_consensus(self, metadata: bytes) -> None:
        """Metadata alone, durable when it returns."""
        batch = Batch()
        batch.put(Table.META, CONSENSUS_KEY, metadata)
        self._write(batch, self.tip, self.bounds)

    def put_certificate(self, height: Height, certificate: bytes) -> None:
        """A certificate that came after its block."""
        if not 0 < height <= self.tip.height:
            raise ValueError(f"there is no block {height} to certify")
        batch = Batch()
        batch.put(Table.CERTIFICATES, height_key(height), certificate)
        self._write(batch, self.tip, self.bounds)

    def rollback(self, blocks: int = 1, consensus: bytes | None = None) -> Tip:
        """Undoes the last blocks in one transaction. States extended from what is undone go stale."""
        target = self.tip.height - blocks
        if blocks < 1 or target < 0 or target + 1 < self.bounds.first_undo:
            raise ValueError(
                f"cannot undo {blocks} blocks from height {self.tip.height}: "
                f"what is needed for it is kept from height {self.bounds.first_undo} on"
            )
        batch = Batch()
        version = self.state.extend(self._undone(batch, target))
        tip = self._tip_at(Height(target), version.node)
        self._put_state(batch, version)
        if consensus is not None:
            batch.put(Table.META, CONSENSUS_KEY, consensus)
        low = Height(tip.height + 1)
        bounds = replace(
            self.bounds,
            first_body=min(self.bounds.first_body, low),
            first_result=min(self.bounds.first_result, low),
        )
        self._write(batch, tip, bounds)
        self._adopt(version)
        return tip

    def _undone(self, batch: Batch, target: int) -> Changes:
        """The values to put back, and into the batch the removal of all that the blocks above `target` left."""
        changes: dict[bytes, bytes | None] = {}
        reader = ChainReader(self._snapshot, self.store.directory)
        for height in range(self.tip.height, target, -1):
            key = height_key(height)
            changes.update(reader.row(Table.UNDO, key, decode_undo))
            results = reader.row(Table.RESULTS, key, decode_results)
            for result in results.results:
                batch.delete(Table.TRANSACTIONS, result.txid)
            for address, index in results.touched:
                batch.delete(Table.HISTORY, history_key(address, height, index))
            batch.delete(Table.HEIGHTS, reader.block_hash(Height(height)))
            for found, _ in self._snapshot.scan(Table.EVIDENCE, key, height_key(height + 1)):
                batch.delete(Table.EVIDENCE, found)
            for table in (
                Table.HEADERS,
                Table.BLOCKS,
                Table.CERTIFICATES,
                Table.RESULTS,
                Table.EVENTS,
                Table.UNDO,
            ):
                batch.delete(table, key)
            level, index = 0, height
            batch.delete(Table.MMR, mmr_key(0, index))
            while index & 1:
                level, index = level + 1, index >> 1
                batch.delete(Table.MMR, mmr_key(level, index))
        return changes

    def _tip_at(self, height: Height, node: Node) -> Tip:
        reader = ChainReader(self._snapshot, self.store.directory)
        block_hash = reader.block_hash(height)
        if height:
            header = reader.header(height)
            if header is None or header.state_root != node.hash:
                raise self._corrupt(f"undoing blocks does not lead to the state root of block {height}")
        return Tip(height, block_hash, Hash(node.hash), node.leaves, node.size_bytes)

    def prune(self, retention: Retention | None = None, blocks: int = 256) -> int:
        """Deletes up to so many blocks' worth of what retention no longer keeps; how many are left to do."""
        if retention is not None:
            self.retention = retention
        batch = Batch()
        bounds = prune_into(batch, self._snapshot, self.bounds, self.tip.height, self.retention, blocks)
        if bounds != self.bounds:
            self._write(batch, self.tip, bounds)
        return self.retention.arrears(self.bounds, self.tip.height)

    def compact(self) -> int:
        """Gives free pages back to the disk; no reader may be open. Bytes saved."""
        before = self.store.size_bytes()
        self._snapshot.close()
        try:
            self.store.compact()
        finally:
            self._snapshot = self.store.snapshot()
        return before - self.store.size_bytes()

    def close(self) -> None:
        self._snapshot.close()
        self.store.close()


def stored_buckets(snapshot: StoreSnapshot, directory: str) -> Iterator[tuple[int, bytes]]:
    """All buckets that are not empty."""
    for key, bucket in snapshot.scan(Table.BUCKETS):
        if len(key) != 4 or not has_bucket_size(bucket):
            raise CorruptStoreError(
                directory, f"bucket {key.hex()} of the state tree is malformed", "Restore a snapshot, or sync again"
            )
        yield int.from_bytes(key, "big"), bucket


def bucket_roots(snapshot: StoreSnapshot, directory: str) -> Iterator[tuple[int, PackedNode]]:
    """Their roots. The rows' checksums vouch for their insides, the state root for these roots; so opening a million
    accounts parses no keys."""
    return ((index, bucket_root(bucket)) for index, bucket in stored_buckets(snapshot, directory))


def create_chain(
    store: Store,
    identity: ChainIdentity,
    entries: Changes,
    *,
    consensus: bytes = b"",
    retention: Retention = KEEP_ALL,
) -> ChainStore:
    """Writes the genesis state, height 0, into an empty store."""
    with store.snapshot() as snapshot:
        if snapshot.get(Table.META, FORMAT_KEY) is not None:
            raise ForeignChainError(store.directory, "there is a chain here already", "Choose an empty directory")
    genesis = MemoryState(identity.buckets_log2)
    version = genesis.extend(entries)
    batch = Batch()
    batch.put(Table.META, FORMAT_KEY, identity.encode())
    node = version.node
    tip = Tip(Height(0), identity.genesis_hash, version.root, node.leaves, node.size_bytes)
    batch.put(Table.META, TIP_KEY, tip.encode())
    batch.put(Table.META, BOUNDS_KEY, Bounds(Height(1), Height(1), Height(1), Height(1)).encode())
    batch.put(Table.META, CONSENSUS_KEY, consensus)
    batch.put(Table.MMR, mmr_key(0, 0), identity.genesis_hash)
    batch.merge(Table.STATE, {key: value for key, value in version.changes.items() if value is not None})
    batch.merge(Table.BUCKETS, {bucket_key(index): bucket for index, bucket in version.delta.buckets.items()})
    store.commit(batch)
    return ChainStore(store, identity, retention)


def load_chain(store: Store, expected: ChainIdentity | None = None, *, retention: Retention = KEEP_ALL) -> ChainStore:
    """Opens what `create_chain` made; `expected` refuses another chain's directory."""
    return ChainStore(store, read_identity(store, expected), retention)


def read_identity(store: Store, expected: ChainIdentity | None = None) -> ChainIdentity:
    """Which chain a store holds."""
    directory = store.directory
    with store.snapshot() as snapshot:
        row = snapshot.get(Table.META, FORMAT_KEY)
    if row is None:
        raise StoreMissingError(
            directory, "no chain was ever stored here", "Initialise the node, or name its directory"
        )
    version = format_version(row)
    if version > FORMAT_VERSION:
        raise NewerFormatError(
            directory,
            f"written in format {version}, this software knows {FORMAT_VERSION}",
            "Run the software that wrote it, or a newer one",
        )
    try:
        identity = decode_identity(row)
    except ValueError as fault:
        raise CorruptStoreError(directory, f"format row: {fault}", "Restore a snapshot, or sync again") from fault
    if expected is not None and identity != expected:
        raise ForeignChainError(
            directory,
            f"holds chain {identity.genesis_hash.hex()[:16]}… with 2^{identity.buckets_log2} buckets, "
            f"not {expected.genesis_hash.hex()[:16]}… with 2^{expected.buckets_log2}",
            "Name the directory of this chain, or start over in an empty one",
        )
    return identity
