"""Snapshots leave a running node, cross a wire that lies, and become a chain elsewhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.snapshot import ChunkFault, ChunkRefusal, SnapshotPlan, check_index, verify_chunk
from state.store.chain import ChainStore, load_chain
from state.store.errors import CorruptStoreError, ForeignChainError, StoreMissingError
from state.store.lmdb_store import LmdbStore
from state.store.memory import MemoryStore
from state.store.rows import ChainIdentity, bucket_key
from state.store.shelf import INDEX_PIECE, SnapshotShelf
from state.store.snapshots import SnapshotAnchor, SnapshotFiles, SnapshotImport, SnapshotSource, begin_import, plan_of
from state.store.store import Batch, Table
from tests.state.store.chain_kit import IDENTITY, everything, grow, new_chain
from trellis.mmr import EMPTY_MMR, Mmr
from trellis.records import SignedManifest
from trellis.types import Hash, Height

CHUNK_BYTES = 4_096


def big_chain(blocks: int = 5) -> ChainStore:
    """About 40 KB of state: eight chunks of two buckets."""
    chain = new_chain(MemoryStore())
    grow(chain, 1, changes={b"k%03d" % number: b"%03d" % number * 40 for number in range(300)})
    grow(chain, blocks - 1)
    return chain


def mmr_of(chain: ChainStore, count: int) -> Mmr:
    mmr = EMPTY_MMR
    with chain.read() as reader:
        for height in range(count):
            mmr = mmr.append(reader.block_hash(Height(height)))
    return mmr


def anchor_of(chain: ChainStore) -> SnapshotAnchor:
    with chain.read() as reader:
        header = reader.header(chain.tip.height)
    assert header is not None
    return SnapshotAnchor(header, b"a certificate", mmr_of(chain, chain.tip.height), b"imported metadata")


def source_of(chain: ChainStore, chunk_bytes: int = CHUNK_BYTES) -> SnapshotSource:
    return SnapshotSource(chain.read(), chain.identity, chunk_bytes)


def begun(store: MemoryStore | LmdbStore, source: SnapshotSource) -> SnapshotImport:
    importing = begin_import(store, source.manifest, source.index())
    assert isinstance(importing, SnapshotImport)
    return importing


def test_an_imported_chain_has_the_state_of_the_exported_one_and_goes_on(tmp_path: Path) -> None:
    chain = big_chain()
    source = source_of(chain)
    assert source.manifest.chunk_count == 8
    importing = begun(LmdbStore(tmp_path / "new", map_bytes=1 << 26), source)
    for index in reversed(range(8)):
        data = source.chunk(index)
        assert len(data) == importing.expected_bytes(index)
        assert importing.accept(index, data) is None
    imported = importing.finish(anchor_of(chain))
    assert imported.tip == chain.tip
    assert imported.consensus == b"imported metadata"
    for table in (Table.STATE, Table.BUCKETS):
        with imported.store.snapshot() as new, chain.store.snapshot() as old:
            assert dict(new.scan(table)) == dict(old.scan(table))
    assert grow(imported, 9) == grow(chain, 9)
    imported.store.close()
    imported = load_chain(LmdbStore(tmp_path / "new", map_bytes=1 << 26), IDENTITY)
    assert imported.tip == chain.tip
    imported.close()


@pytest.mark.parametrize("height", range(1, 10))
def test_an_imported_chain_proves_every_block_from_its_own_on(height: int) -> None:
    chain = big_chain(height)
    source = source_of(chain)
    importing = begun(MemoryStore(), source)
    for index in importing.missing():
        importing.accept(index, source.chunk(index))
    imported = importing.finish(anchor_of(chain))
    grow(imported, 9)
    grow(chain, 9)
    with imported.read() as reader, chain.read() as whole:
        for count in range(height + 1, height + 10):
            root = mmr_of(chain, count).root
            for block in range(count):
                proof = reader.prove_block(Height(block), count)
                if block < height and height > 1:
                    assert proof is None
                else:
                    assert proof is not None
                    assert proof.verifies(whole.block_hash(Height(block)), root)


def test_a_running_node_exports_what_it_had_when_the_export_began() -> None:
    chain = big_chain()
    source, tip = source_of(chain), chain.tip
    first = source.chunk(0)
    grow(chain, 4)
    chunks = [first, *(source.chunk(index) for index in range(1, 8))]
    importing = begun(MemoryStore(), source)
    assert [importing.accept(index, data) for index, data in enumerate(chunks)] == [None] * 8
    assert source.manifest.state_root == tip.state_root != chain.tip.state_root


def test_an_import_goes_on_after_a_restart(tmp_path: Path) -> None:
    chain = big_chain()
    source = source_of(chain)
    importing = begun(LmdbStore(tmp_path / "new", map_bytes=1 << 26), source)
    for index in (3, 0, 7):
        assert importing.accept(index, source.chunk(index)) is None
    with pytest.raises(ValueError, match="missing"):
        importing.finish(anchor_of(chain))
    importing._store.close()
    store = LmdbStore(tmp_path / "new", map_bytes=1 << 26)
    with pytest.raises(StoreMissingError):
        load_chain(store)
    importing = begun(store, source)
    assert list(importing.missing()) == [1, 2, *range(4, 7)]
    for index in list(importing.missing()):
        assert importing.accept(index, source.chunk(index)) is None
    assert importing.finish(anchor_of(chain)).tip == chain.tip
    store.close()


def test_an_import_into_anything_but_its_own_beginnings_is_refused() -> None:
    chain = big_chain()
    source = source_of(chain)
    with pytest.raises(ForeignChainError, match="a chain here already"):
        begun(chain.store, source)  # type: ignore[arg-type]  # a memory store
    store = MemoryStore()
    begun(store, source).accept(0, source.chunk(0))
    grow(chain, 1)
    with pytest.raises(ForeignChainError, match="another snapshot"):
        begun(store, source_of(chain))


@pytest.mark.parametrize("field", ["height", "root", "chain", "range"])
def test_only_the_snapshots_own_header_finishes_an_import(field: str) -> None:
    chain = big_chain()
    source = source_of(chain)
    importing = begun(MemoryStore(), source)
    for index in range(8):
        importing.accept(index, source.chunk(index))
    anchor = anchor_of(chain)
    wrong = {
        "height": replace(anchor, header=replace(anchor.header, height=Height(4))),
        "root": replace(anchor, header=replace(anchor.header, state_root=Hash(bytes(32)))),
        "chain": replace(anchor, header=replace(anchor.header, genesis_hash=Hash(bytes(32)))),
        "range": replace(anchor, mmr=anchor.mmr.append(Hash(bytes(32)))),
    }[field]
    with pytest.raises(ValueError, match="header"):
        importing.finish(wrong)
    assert importing.finish(anchor).tip == chain.tip


# Lies


def test_a_manifest_cannot_choose_its_number_of_chunks() -> None:
    manifest = source_of(big_chain()).manifest
    refusal = plan_of(replace(manifest, chunk_count=9))
    assert isinstance(refusal, ChunkRefusal)
    assert refusal.fault is ChunkFault.WRONG_SIZE
    for tiny in (0, 4_095):
        assert isinstance(plan_of(replace(manifest, chunk_bytes=tiny)), ChunkRefusal)


@pytest.mark.parametrize("field", ["leaves", "size_bytes", "state_root"])
def test_counts_that_the_root_does_not_commit_to_are_refused_before_any_chunk(field: str) -> None:
    source = source_of(big_chain())
    manifest = source.manifest
    wrong = {
        "leaves": replace(manifest, leaves=manifest.leaves + 1),
        "size_bytes": replace(manifest, size_bytes=manifest.size_bytes + 1),
        "state_root": replace(manifest, state_root=Hash(bytes(32))),
    }[field]
    refusal = begin_import(MemoryStore(), wrong, source.index())
    assert refusal == ChunkRefusal(None, ChunkFault.WRONG_ROOT, refusal.detail)  # type: ignore[union-attr]  # a refusal


def test_an_index_with_counts_moved_between_chunks_is_refused() -> None:
    source = source_of(big_chain())
    index = bytearray(source.index())
    for at in (64, 72, 80 + 64, 80 + 72):
        number = int.from_bytes(index[at : at + 8], "big") + (1 if at < 80 else -1)
        index[at : at + 8] = number.to_bytes(8, "big")
    refusal = check_index(source.plan, bytes(index))
    assert isinstance(refusal, ChunkRefusal)
    assert refusal.fault is ChunkFault.WRONG_ROOT
    cut = check_index(source.plan, bytes(index[:-1]))
    assert isinstance(cut, ChunkRefusal)
    assert cut.fault is ChunkFault.WRONG_SIZE


def test_an_index_whose_counts_overflow_is_refused_like_any_other() -> None:
    source = source_of(big_chain())
    refusal = check_index(source.plan, b"\xff" * source.plan.index_bytes)
    assert isinstance(refusal, ChunkRefusal)
    assert refusal.fault is ChunkFault.WRONG_ROOT


def test_a_chunk_in_anothers_place_is_refused_and_named() -> None:
    source = source_of(big_chain())
    importing = begun(MemoryStore(), source)
    sizes = {importing.expected_bytes(index): index for index in range(8)}
    assert len(sizes) > 1
    for index in range(8):
        refusal = importing.accept(index, source.chunk((index + 1) % 8))
        assert refusal is not None
        assert refusal.index == index
    assert list(importing.missing()) == list(range(8))
    out_of_range = importing.accept(8, b"")
    assert out_of_range is not None
    assert out_of_range.fault is ChunkFault.NO_SUCH_CHUNK


CHAIN = big_chain()
SOURCE = source_of(CHAIN)
NODES = check_index(SOURCE.plan, SOURCE.index())
CHUNKS = [SOURCE.chunk(index) for index in range(8)]


@given(st.integers(0, 7), st.data())
def test_no_flipped_bit_of_a_chunk_passes(index: int, data: st.DataObject) -> None:
    assert not isinstance(NODES, ChunkRefusal)
    chunk = bytearray(CHUNKS[index])
    at = data.draw(st.integers(0, len(chunk) * 8 - 1))
    chunk[at // 8] ^= 1 << at % 8
    refusal = verify_chunk(SOURCE.plan, index, bytes(chunk), NODES[index])
    assert isinstance(refusal, ChunkRefusal)
    assert refusal.index == index


@given(st.integers(0, 7), st.binary(max_size=200), st.booleans())
def test_no_other_bytes_pass_for_a_chunk(index: int, data: bytes, padded: bool) -> None:
    assert not isinstance(NODES, ChunkRefusal)
    if padded:
        data = data.ljust(SOURCE.plan.encoded_bytes(NODES[index]), b"\0")
    assert isinstance(verify_chunk(SOURCE.plan, index, data, NODES[index]), ChunkRefusal)


def _entries(chunk: bytes, log2: int) -> tuple[bytes, list[bytes]]:
    head = 4 + 48 * log2 + 4
    entries, at = [], head
    while at < len(chunk):
        start = at
        for _ in range(2):
            at += 4 + int.from_bytes(chunk[at : at + 4], "big")
        entries.append(chunk[start:at])
    return chunk[:head], entries


@pytest.mark.parametrize("trick", ["swapped", "repeated"])
def test_entries_out_of_order_are_refused(trick: str) -> None:
    assert not isinstance(NODES, ChunkRefusal)
    head, entries = _entries(CHUNKS[2], SOURCE.plan.chunks_log2)
    if trick == "swapped":
        entries[0], entries[1] = entries[1], entries[0]
    else:
        lengths = [len(entry) for entry in entries]
        twin = next(at for at in range(1, len(entries)) if lengths[at] == lengths[at - 1])
        entries[twin] = entries[twin - 1]
    refusal = verify_chunk(SOURCE.plan, 2, head + b"".join(entries), NODES[2])
    assert isinstance(refusal, ChunkRefusal)
    assert refusal.fault is ChunkFault.WRONG_ORDER


@given(st.integers(0, 1 << 45), st.integers(0, 1 << 45), st.integers(4, 20), st.integers(4_096, 1 << 26))
def test_every_count_gives_a_plan_within_bounds(leaves: int, size: int, buckets_log2: int, chunk_bytes: int) -> None:
    from trellis.statetree import Node

    plan = SnapshotPlan(Node(bytes(32), leaves, size), buckets_log2, chunk_bytes)
    assert 1 <= plan.chunk_count <= min(1 << buckets_log2 - 1, 1 << 15)
    covered = [plan.buckets(index) for index in (0, plan.chunk_count - 1)]
    assert (covered[0].start, covered[1].stop) == (0, 1 << buckets_log2)
    weight = size + 8 * leaves
    if plan.chunks_log2 < min(buckets_log2 - 1, 15):
        assert weight <= chunk_bytes << plan.chunks_log2
    if plan.chunks_log2:
        assert weight > chunk_bytes << plan.chunks_log2 - 1


# A damaged store exports nothing wrong


def export_all(chain: ChainStore) -> None:
    source = source_of(chain)
    for index in range(source.plan.chunk_count):
        source.chunk(index)


@pytest.mark.parametrize("table", [Table.STATE, Table.BUCKETS])
def test_a_damaged_store_exports_no_wrong_chunk(table: Table) -> None:
    chain = big_chain()
    source = source_of(chain)
    with chain.store.snapshot() as snapshot:
        key, _ = next(iter(snapshot.scan(table)))
        other = snapshot.get(Table.BUCKETS, bucket_key(9)) or b""
    batch = Batch()
    batch.put(table, key, b"damaged" if table is Table.STATE else other)
    chain.store.commit(batch)
    with pytest.raises(CorruptStoreError):
        export_all(chain)
    assert source.chunk(0) == CHUNKS[0]


# Files


def signed(source: SnapshotSource) -> SignedManifest:
    return SignedManifest(source.manifest, 1, bytes(1952), b"not checked here")


def test_a_snapshot_in_files_is_what_was_exported(tmp_path: Path) -> None:
    source = source_of(big_chain())
    files = SnapshotFiles(tmp_path / "snapshots" / "5")
    files.write(source, signed(source))
    assert files.manifest() == signed(source)
    assert files.index() == source.index()
    assert [files.chunk(index) for index in range(8)] == [source.chunk(index) for index in range(8)]
    with pytest.raises(ValueError, match="another snapshot"):
        files.write(source, signed(source_of(big_chain(6))))


def test_a_damaged_file_of_a_snapshot_is_found_and_named(tmp_path: Path) -> None:
    source = source_of(big_chain())
    files = SnapshotFiles(tmp_path / "5")
    files.write(source, signed(source))
    path = tmp_path / "5" / "chunk-00006"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    importing = begun(MemoryStore(), source)
    refusals = [importing.accept(index, files.chunk(index)) for index in range(8)]
    assert [refusal.index for refusal in refusals if refusal] == [6]
    path.unlink()
    with pytest.raises(StoreMissingError, match="chunk-00006"):
        files.chunk(6)
    (tmp_path / "5" / "manifest").write_bytes(b"short")
    with pytest.raises(CorruptStoreError, match="manifest"):
        files.manifest()


def test_an_empty_and_a_tiny_state_are_one_chunk() -> None:
    from state.store.chain import create_chain

    for entries in ({}, {b"k": b"v"}):
        chain = create_chain(MemoryStore(), ChainIdentity(IDENTITY.genesis_hash, 4), entries)
        grow(chain, 1, changes={})
        source = source_of(chain)
        importing = begun(MemoryStore(), source)
        assert importing.accept(0, source.chunk(0)) is None
        imported = importing.finish(anchor_of(chain))
        assert imported.tip == chain.tip
        assert {key: row for key, row in everything(imported.store).items() if key[0] == b"state"} == {
            (b"state", key): value for key, value in entries.items()
        }


def test_a_shelf_lists_whole_snapshots_newest_first_and_serves_each_piece_by_root(tmp_path: Path) -> None:
    shelf = SnapshotShelf(tmp_path / "snapshots")
    assert shelf.manifests() == ()
    sources = [source_of(big_chain(blocks)) for blocks in (3, 5, 4)]
    for source in sources:
        SnapshotFiles(tmp_path / "snapshots" / f"{source.manifest.height:012d}").write(source, signed(source))
    (tmp_path / "snapshots" / "9.new").mkdir()
    (tmp_path / "snapshots" / "8").mkdir()
    (tmp_path / "snapshots" / "8" / "manifest").write_bytes(b"damaged")
    (tmp_path / "snapshots" / "notes.txt").write_bytes(b"a file that someone left here")
    assert [offered.manifest.height for offered in shelf.manifests()] == [5, 4, 3]
    for source in sources:
        root = source.manifest.state_root
        assert shelf.piece(root, INDEX_PIECE) == source.index()
        assert [shelf.piece(root, index) for index in range(8)] == [source.chunk(index) for index in range(8)]
        for nowhere in (8, -1, INDEX_PIECE - 1):
            assert shelf.piece(root, nowhere) is None
    assert shelf.piece(Hash(bytes(32)), 0) is None
    removed = sources[1].manifest
    (tmp_path / "snapshots" / f"{removed.height:012d}" / "chunk-00002").unlink()
    assert shelf.piece(removed.state_root, 2) is None
    for path in (tmp_path / "snapshots" / f"{removed.height:012d}").iterdir():
        path.unlink()
    (tmp_path / "snapshots" / f"{removed.height:012d}").rmdir()
    assert [offered.manifest.height for offered in shelf.manifests()] == [4, 3]
    assert shelf.piece(removed.state_root, 0) is None


def test_chunks_from_several_sources_in_any_order_make_a_chain_and_the_wrong_ones_are_named(tmp_path: Path) -> None:
    chain = big_chain()
    source = source_of(chain)
    for name in ("honest", "liar"):
        SnapshotFiles(tmp_path / name / "5").write(source, signed(source))
    lies = {1, 6}
    for index in lies:
        path = tmp_path / "liar" / "5" / f"chunk-{index:05d}"
        path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:])
    shelves = [SnapshotShelf(tmp_path / name) for name in ("liar", "honest")]
    offered = shelves[1].manifests()[0].manifest
    index = shelves[0].piece(offered.state_root, INDEX_PIECE)
    assert index is not None
    importing = begin_import(MemoryStore(), offered, index)
    assert isinstance(importing, SnapshotImport)
    refused: set[int | None] = set()
    asked = 0
    while wanted := list(importing.missing()):
        place = wanted[-1]
        piece = shelves[asked % 2].piece(offered.state_root, place)
        asked += 1
        assert piece is not None
        refusal = importing.accept(place, piece)
        if refusal is not None:
            refused.add(refusal.index)
    assert refused <= lies
    assert refused
    assert importing.finish(anchor_of(chain)).tip == chain.tip
