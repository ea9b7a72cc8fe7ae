"""Snapshots out of a store, and into an empty one.

An export reads from one snapshot of the store, so the node goes on meanwhile; it is written to files, because serving
from a read snapshot for hours would keep the store from reusing pages. An import writes chunk by chunk, in any order,
and survives restarts; nothing in the directory counts as a chain before `finish`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from state.commitment.bucket import PackedNode, bucket_root
from state.commitment.proofs import StateMismatchError
from state.commitment.tree import StateTree
from state.snapshot import (
    DEFAULT_CHUNK_BYTES,
    ChunkFault,
    ChunkRefusal,
    SnapshotPlan,
    check_index,
    make_chunk,
    make_index,
    verify_chunk,
)
from state.store.chain import ChainStore, bucket_roots
from state.store.errors import CorruptStoreError, ForeignChainError, StoreMissingError
from state.store.files import REAL_FILES, Files, make_durable_directory, read_file
from state.store.pruning import KEEP_ALL, Retention
from state.store.reader import ChainReader
from state.store.rows import (
    BOUNDS_KEY,
    CONSENSUS_KEY,
    FORMAT_KEY,
    TIP_KEY,
    Bounds,
    ChainIdentity,
    Tip,
    bucket_key,
    height_key,
    mmr_key,
)
from state.store.store import Batch, Store, Table
from trellis.header import Header
from trellis.mmr import Mmr
from trellis.records import SignedManifest, SnapshotManifest, decode_signed_manifest
from trellis.statetree import Node
from trellis.types import Hash, Height

IMPORT_KEY: Final = b"import"
"""In `Table.META` while an import is under way: the manifest, and a bit for every chunk that is in."""

_MANIFEST_NAME: Final = "manifest"
_INDEX_NAME: Final = "index"
_MAX_MANIFEST_FILE_BYTES: Final = 1 << 17
_MAX_INDEX_FILE_BYTES: Final = 1 << 22
_MAX_CHUNK_FILE_BYTES: Final = 1 << 32
"""Caps on files that someone may have put there; larger ones are never written."""


def plan_of(manifest: SnapshotManifest) -> SnapshotPlan | ChunkRefusal:
    """The plan that a manifest must follow: its count of chunks is not the maker's to choose."""
    root = Node(manifest.state_root, manifest.leaves, manifest.size_bytes)
    try:
        plan = SnapshotPlan(root, manifest.buckets_log2, manifest.chunk_bytes)
    except ValueError as fault:
        return ChunkRefusal(None, ChunkFault.MALFORMED, str(fault))
    if plan.chunk_count != manifest.chunk_count:
        return ChunkRefusal(
            None,
            ChunkFault.WRONG_SIZE,
            f"{manifest.chunk_count} chunks claimed, the root's counts make {plan.chunk_count}",
        )
    return plan


class SnapshotSource:
    """One committed state, ready to be cut into chunks."""

    def __init__(self, reader: ChainReader, identity: ChainIdentity, chunk_bytes: int = DEFAULT_CHUNK_BYTES) -> None:
        """The reader must stay open while chunks are made."""
        self._reader = reader
        tip = reader.tip
        self._tree = StateTree(
            identity.buckets_log2, self._load_bucket, bucket_roots(reader.snapshot, reader.directory)
        )
        if self._tree.node != tip.node:
            raise reader.corrupt(f"the state's buckets do not hash to the state root of block {tip.height}")
        self.plan = SnapshotPlan(tip.node, identity.buckets_log2, chunk_bytes)
        self.manifest = SnapshotManifest(
            genesis_hash=identity.genesis_hash,
            height=tip.height,
            block_hash=tip.block_hash,
            state_root=tip.state_root,
            leaves=tip.leaves,
            size_bytes=tip.size_bytes,
            buckets_log2=identity.buckets_log2,
            chunk_bytes=chunk_bytes,
            chunk_count=self.plan.chunk_count,
        )

    def _load_bucket(self, index: int, root: PackedNode) -> bytes:
        bucket = self._reader.snapshot.get(Table.BUCKETS, bucket_key(index))
        if bucket is None or bucket_root(bucket) != root:
            raise self._reader.corrupt(f"bucket {index} of the state tree is missing or another one")
        return bucket

    def get(self, key: bytes) -> bytes | None:
        return self._reader.state(key)

    def index(self) -> bytes:
        return make_index(self.plan, self._tree)

    def chunk(self, index: int) -> bytes:
        try:
            return make_chunk(self.plan, self._tree, self, index)
        except StateMismatchError as fault:
            raise self._reader.corrupt(f"chunk {index}: {fault}") from fault


class SnapshotFiles:
    """A snapshot in a directory of its own: manifest, index, chunks. What peers are served from."""

    def __init__(self, directory: Path, files: Files = REAL_FILES) -> None:
        self.directory = directory
        self._files = files

    def write(self, source: SnapshotSource, signed: SignedManifest) -> None:
        """Whole and durable under the directory's name when it returns; nothing under that name before."""
        if signed.manifest != source.manifest:
            raise ValueError("the signed manifest is of another snapshot")
        building = self.directory.with_name(self.directory.name + ".new")
        make_durable_directory(self._files, building.parent)
        self._files.make_directory(building)
        for index in range(source.plan.chunk_count):
            self._write_file(building / _chunk_name(index), source.chunk(index))
        self._write_file(building / _INDEX_NAME, source.index())
        self._write_file(building / _MANIFEST_NAME, signed.encode())
        self._files.sync_directory(building)
        self._files.rename(building, self.directory)
        self._files.sync_directory(self.directory.parent)

    def _write_file(self, path: Path, data: bytes) -> None:
        file = self._files.open(path, create=True)
        try:
            file.truncate(0)
            file.write_at(0, data)
            file.datasync()
        finally:
            file.close()

    def manifest(self) -> SignedManifest:
        data = self._read(_MANIFEST_NAME, _MAX_MANIFEST_FILE_BYTES)
        try:
            return decode_signed_manifest(data)
        except ValueError as fault:
            raise CorruptStoreError(
                str(self.directory), f"manifest: {fault}", "Make or fetch the snapshot again"
            ) from fault

    def index(self) -> bytes:
        return self._read(_INDEX_NAME, _MAX_INDEX_FILE_BYTES)

    def chunk(self, index: int) -> bytes:
        """As it stands in the file: whoever takes it verifies it."""
        return self._read(_chunk_name(index), _MAX_CHUNK_FILE_BYTES)

    def _read(self, name: str, max_bytes: int) -> bytes:
        data = read_file(self._files, self.directory / name, max_bytes)
        if data is None:
            raise StoreMissingError(str(self.directory), f"the snapshot has no {name}", "Make or fetch it again")
        return data


def _chunk_name(index: int) -> str:
    return f"chunk-{index:05d}"


@dataclass(frozen=True, slots=True)
class SnapshotAnchor:
    """What makes a snapshot's root trustworthy, and what a node needs to go on from it."""

    header: Header
    """Of the snapshot's block; whoever imports verified its certificate first."""
    certificate: bytes
    mmr: Mmr
    """Over blocks 0 … height − 1, as the imported state itself has it."""
    consensus: bytes = b""


class SnapshotImport:
    """An import into an empty store, chunk by chunk; go on with the same manifest after a restart."""

    def __init__(self, store: Store, manifest: SnapshotManifest, plan: SnapshotPlan, nodes: tuple[Node, ...]) -> None:
        """`nodes` is the checked index. Use `begin_import`."""
        self._store = store
        self.manifest = manifest
        self.plan = plan
        self._nodes = nodes
        self._done = self._resume()

    def _resume(self) -> int:
        encoded = self.manifest.encode()
        with self._store.snapshot() as snapshot:
            if snapshot.get(Table.META, FORMAT_KEY) is not None:
                raise ForeignChainError(
                    self._store.directory, "there is a chain here already", "Import into an empty directory"
                )
            row = snapshot.get(Table.META, IMPORT_KEY)
        if row is None:
            return 0
        if row[: len(encoded)] != encoded:
            raise ForeignChainError(
                self._store.directory,
                "the import of another snapshot was begun here",
                "Go on with that one, or import into an empty directory",
            )
        return int.from_bytes(row[len(encoded) :], "big")

    def missing(self) -> Iterator[int]:
        """Chunks still to come, ascending."""
        return (index for index in range(self.plan.chunk_count) if not self._done >> index & 1)

    def expected_bytes(self, index: int) -> int:
        """Exactly what a chunk takes: for caps, before it is asked for."""
        return self.plan.encoded_bytes(self._nodes[index])

    def accept(self, index: int, data: bytes) -> ChunkRefusal | None:
        """None once the chunk is verified and durable."""
        if not 0 <= index < self.plan.chunk_count:
            return ChunkRefusal(index, ChunkFault.NO_SUCH_CHUNK, f"the snapshot has {self.plan.chunk_count}")
        if self._done >> index & 1:
            return None
        verified = verify_chunk(self.plan, index, data, self._nodes[index])
        if isinstance(verified, ChunkRefusal):
            return verified
        done = self._done | 1 << index
        batch = Batch()
        batch.merge(Table.STATE, dict(verified.entries))
        batch.merge(Table.BUCKETS, {bucket_key(at): bucket for at, bucket in verified.buckets.items()})
        bits = done.to_bytes((self.plan.chunk_count + 7) // 8, "big")
        batch.put(Table.META, IMPORT_KEY, self.manifest.encode() + bits)
        self._store.commit(batch)
        self._done = done
        return None

    def value(self, key: bytes) -> bytes | None:
        """A value of the imported state, once all chunks are in: where the anchor's mountain range comes from."""
        with self._store.snapshot() as snapshot:
            return snapshot.get(Table.STATE, key)

    def finish(self, anchor: SnapshotAnchor, *, retention: Retention = KEEP_ALL) -> ChainStore:
        """Makes a chain of it. Older blocks stay unknown here: bounds say from where on things are kept."""
        header, manifest = anchor.header, self.manifest
        if next(self.missing(), None) is not None:
            raise ValueError("chunks are missing")
        if (header.height, header.hash, header.state_root) != (
            manifest.height,
            manifest.block_hash,
            manifest.state_root,
        ):
            raise ValueError("the header is not of the snapshot's block")
        if header.genesis_hash != manifest.genesis_hash or anchor.mmr.count != header.height:
            raise ValueError("header or mountain range are of another chain or height")
        identity = ChainIdentity(manifest.genesis_hash, manifest.buckets_log2)
        tip = Tip(header.height, header.hash, header.state_root, manifest.leaves, manifest.size_bytes)
        after = Height(header.height + 1)
        batch = Batch()
        batch.put(Table.META, FORMAT_KEY, identity.encode())
        batch.put(Table.META, TIP_KEY, tip.encode())
        batch.put(Table.META, BOUNDS_KEY, Bounds(header.height, after, after, after).encode())
        batch.put(Table.META, CONSENSUS_KEY, anchor.consensus)
        batch.delete(Table.META, IMPORT_KEY)
        batch.put(Table.HEADERS, height_key(header.height), header.encode())
        batch.put(Table.HEIGHTS, header.hash, height_key(header.height))
        if anchor.certificate:
            batch.put(Table.CERTIFICATES, height_key(header.height), anchor.certificate)
        for key, node in _mmr_rows(anchor.mmr, header.hash):
            batch.put(Table.MMR, key, node)
        self._store.commit(batch)
        return ChainStore(self._store, identity, retention)


def _mmr_rows(mmr: Mmr, leaf: Hash) -> Iterator[tuple[bytes, bytes]]:
    """The peaks that later blocks build upon, and the snapshot's own block with what it completes."""
    for count in (mmr, mmr.append(leaf)):
        start = 0
        peaks = iter(count.peaks)
        for level in range(count.count.bit_length() - 1, -1, -1):
            if count.count >> level & 1:
                yield mmr_key(level, start >> level), next(peaks)
                start += 1 << level
    yield mmr_key(0, mmr.count), leaf


def begin_import(store: Store, manifest: SnapshotManifest, index: bytes) -> SnapshotImport | ChunkRefusal:
    """Checks manifest and index against the state root, before anything is fetched or written."""
    plan = plan_of(manifest)
    if isinstance(plan, ChunkRefusal):
        return plan
    nodes = check_index(plan, index)
    if isinstance(nodes, ChunkRefusal):
        return nodes
    return SnapshotImport(store, manifest, plan, nodes)
