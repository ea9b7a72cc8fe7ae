"""A chain in a store: commits, what is served of them, rollback, pruning, and opening again."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from state.commitment.versions import StaleStateError
from state.events import decode_events
from state.store.chain import BlockRecord, ChainStore, create_chain, load_chain
from state.store.errors import CorruptStoreError, ForeignChainError, NewerFormatError, StoreMissingError
from state.store.lmdb_store import LmdbStore
from state.store.memory import MemoryStore
from state.store.pruning import Retention
from state.store.recent import Recent
from state.store.rows import (
    BOUNDS_KEY,
    FORMAT_KEY,
    TIP_KEY,
    HistoryEntry,
    TxLocation,
    bucket_key,
    height_key,
    mmr_key,
)
from state.store.store import Batch, Store, Table
from tests.state.commitment.reference import full_root
from tests.state.store.chain_kit import (
    GENESIS,
    IDENTITY,
    account,
    changes_at,
    digest,
    everything,
    grow,
    header_for,
    new_chain,
    record_of,
)
from trellis.mmr import EMPTY_MMR
from trellis.types import Hash, Height

Reopen = Callable[[], Store]


@pytest.fixture(params=["memory", "lmdb"])
def reopen(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Reopen]:
    """Closes the store and opens it again, as a new process would."""
    stores: list[Store] = []

    def open_again() -> Store:
        if request.param == "memory":
            stores.append(stores[0] if stores else MemoryStore())
        else:
            if stores:
                stores[-1].close()
            stores.append(LmdbStore(tmp_path / "store", map_bytes=1 << 26))
        return stores[-1]

    yield open_again
    stores[-1].close()


def state_of(chain: ChainStore) -> dict[bytes, bytes]:
    with chain.store.snapshot() as snapshot:
        return dict(snapshot.scan(Table.STATE))


def test_the_genesis_state_is_height_0(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    assert (chain.tip.height, chain.tip.block_hash) == (0, IDENTITY.genesis_hash)
    assert chain.state.node == full_root(GENESIS, IDENTITY.buckets_log2)
    assert chain.consensus == b"metadata 0"


def test_everything_of_a_block_is_there_after_its_commit_and_after_reopening(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    records = grow(chain, 5)
    expected = state_of(chain)
    for again in (False, True):
        opened = load_chain(reopen(), IDENTITY) if again else chain
        assert opened.tip.height == 5
        assert opened.state.node == full_root(expected, IDENTITY.buckets_log2)
        assert {key: opened.state.get(key) for key in expected} == expected
        assert opened.consensus == b"metadata 5"
        with opened.read() as reader:
            for record in records:
                check_served(reader.height_of(record.header.hash), record)
                height = record.header.height
                assert reader.header(height) == record.header
                assert reader.block_bytes(height) == record.block_bytes
                assert reader.certificate_bytes(height) == record.certificate
                results = reader.results(height)
                assert results is not None
                assert (results.results, results.touched) == (record.results, record.touched)
                assert reader.events(height) == decode_events(record.events)
                for index, result in enumerate(record.results):
                    expected_place = TxLocation(height, index, result.outcome, result.fee)
                    assert reader.transaction(result.txid) == expected_place
            assert [header.height for header in reader.headers(Height(2), 10)] == [2, 3, 4, 5]
            assert reader.header(Height(6)) is None
            assert reader.block_bytes(Height(6)) is None
            assert reader.transaction(digest("unknown")) is None


def check_served(height: Height | None, record: BlockRecord) -> None:
    assert height == record.header.height


def test_history_is_paged_newest_first(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    grow(chain, 4)
    with chain.read() as reader:
        # Account 1 is paid by transaction 0 and pays in transaction 1 of each block.
        every = [(height, index) for height in (4, 3, 2, 1) for index in (1, 0)]
        page = reader.history(account(1), 3)
        assert page == tuple(HistoryEntry(account(1), Height(height), index) for height, index in every[:3])
        rest = reader.history(account(1), 100, before=(page[-1].height, page[-1].index))
        assert [(entry.height, entry.index) for entry in rest] == every[3:]
        assert reader.history(account(99), 10) == ()
        for limit in (0, 1_001):
            with pytest.raises(ValueError, match="page"):
                reader.history(account(1), limit)


def test_every_old_block_is_proven_to_be_in_the_chain(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    grow(chain, 21)
    chain = load_chain(reopen(), IDENTITY)
    with chain.read() as reader:
        mmr = EMPTY_MMR
        for count in range(1, 23):
            mmr = mmr.append(reader.block_hash(Height(count - 1)))
            for height in range(count):
                proof = reader.prove_block(Height(height), count)
                assert proof is not None
                assert proof.verifies(reader.block_hash(Height(height)), mmr.root)
        with pytest.raises(ValueError, match="range"):
            reader.prove_block(Height(3), 23)


def test_a_reader_keeps_its_view_while_the_chain_goes_on(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    grow(chain, 2)
    with chain.read() as reader:
        before = reader.state(b"a\x03")
        grow(chain, 3)
        assert reader.tip.height == 2
        assert reader.header(Height(3)) is None
        assert reader.state(b"a\x03") == before != chain.state.get(b"a\x03")


def test_uncommitted_blocks_are_committed_in_turn(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    tip, versions = chain.tip, []
    version = chain.state.extend(changes_at(1))
    for height in (1, 2, 3):
        if height > 1:
            version = version.extend(changes_at(height))
        header = header_for(tip, version.root)
        versions.append((version, record_of(header)))
        tip = replace(tip, height=header.height, block_hash=header.hash)
    rival = chain.state.extend({b"rival": b""})
    for uncommitted, record in versions:
        chain.commit(uncommitted, record)
    assert chain.tip.height == 3
    assert chain.state.node == full_root(state_of(chain), IDENTITY.buckets_log2)
    with pytest.raises(StaleStateError):
        rival.get(b"a\0")


@pytest.mark.parametrize("wrong", ["height", "parent", "chain", "state root"])
def test_a_block_that_does_not_follow_is_host_misuse(wrong: str) -> None:
    chain = new_chain(MemoryStore())
    version = chain.state.extend({b"k": b"v"})
    header = header_for(chain.tip, version.root)
    bad = {
        "height": replace(header, height=Height(2)),
        "parent": replace(header, parent_hash=digest("another")),
        "chain": replace(header, genesis_hash=digest("another")),
        "state root": replace(header, state_root=digest("another")),
    }[wrong]
    before = everything(chain.store)
    with pytest.raises(ValueError, match="block"):
        chain.commit(version, record_of(bad))
    assert everything(chain.store) == before


def test_rolling_back_restores_every_row_but_what_is_pruned(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    states = {0: everything(chain.store)}
    for height in range(1, 9):
        grow(chain)
        states[height] = everything(chain.store)
    chain.rollback(consensus=b"metadata 7")
    assert everything(chain.store) == states[7]
    chain.rollback(3, consensus=b"metadata 4")
    assert everything(chain.store) == states[4]
    chain = load_chain(reopen(), IDENTITY)
    chain.rollback(4, consensus=b"metadata 0")
    assert everything(chain.store) == states[0]
    with pytest.raises(ValueError, match="cannot undo"):
        chain.rollback()


def test_a_reorganisation_ends_where_the_other_branch_alone_would(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    grow(chain, 2)
    grow(chain, 3, salt="losing branch")
    chain.rollback(3)
    grow(chain, 4, salt="winning branch")
    straight = new_chain(MemoryStore())
    grow(straight, 2)
    grow(straight, 4, salt="winning branch")
    assert everything(chain.store) == everything(straight.store)


def test_states_extended_from_an_undone_block_go_stale() -> None:
    chain = new_chain(MemoryStore())
    grow(chain, 2)
    extended = chain.state.extend({b"k": b"v"})
    chain.rollback()
    with pytest.raises(StaleStateError):
        extended.get(b"a\0")


def test_undo_reaches_as_far_as_it_is_kept() -> None:
    chain = new_chain(MemoryStore(), Retention(undo_blocks=2))
    grow(chain, 5)
    with pytest.raises(ValueError, match="kept from height 4"):
        chain.rollback(3)
    chain.rollback(2)
    assert chain.tip.height == 3
    with pytest.raises(ValueError, match="cannot undo"):
        chain.rollback()


def test_pruning_keeps_what_it_says_and_the_chain_goes_on(reopen: Reopen) -> None:
    chain = new_chain(reopen(), Retention(undo_blocks=2))
    records = grow(chain, 12)
    left = chain.prune(Retention(bodies=4, results=6, undo_blocks=2), blocks=3)
    assert left == 5
    while left:
        left = chain.prune(blocks=3)
    grow(chain, 1)
    with chain.read() as reader:
        assert (reader.bounds.first_body, reader.bounds.first_result, reader.bounds.first_undo) == (10, 8, 12)
        for record in records:
            height = record.header.height
            assert (reader.block_bytes(height) is not None) == (height >= 10)
            assert (reader.results(height) is not None) == (height >= 8)
            assert (reader.transaction(record.results[0].txid) is not None) == (height >= 8)
            assert reader.header(height) == record.header
            assert reader.certificate_bytes(height) == record.certificate
        assert [entry.height for entry in reader.history(account(0), 100)] == [13, 12, 11, 10, 9, 8]
        proof = reader.prove_block(Height(1), 13)
        assert proof is not None
    assert load_chain(reopen(), IDENTITY).tip.height == 13


def test_commits_catch_up_with_a_shortened_retention() -> None:
    chain = new_chain(MemoryStore())
    grow(chain, 10)
    chain.retention = Retention(bodies=3, undo_blocks=2)
    grow(chain, 12)
    assert chain.retention.arrears(chain.bounds, chain.tip.height) == 0
    assert chain.bounds.first_body == 20


def test_retention_never_gives_up_what_undo_needs() -> None:
    with pytest.raises(ValueError, match="must cover"):
        Retention(bodies=3, undo_blocks=4)
    with pytest.raises(ValueError, match="must cover"):
        Retention(results=0, undo_blocks=0)


def test_metadata_and_late_certificates_are_kept_alone(reopen: Reopen) -> None:
    chain = new_chain(reopen())
    grow(chain)
    chain.put_consensus(b"newer")
    chain.put_certificate(Height(1), b"late certificate")
    with pytest.raises(ValueError, match="no block 2"):
        chain.put_certificate(Height(2), b"of nothing")
    chain = load_chain(reopen(), IDENTITY)
    assert chain.consensus == b"newer"
    with chain.read() as reader:
        assert reader.certificate_bytes(Height(1)) == b"late certificate"


def test_compaction_keeps_the_chain_and_gives_space_back(reopen: Reopen) -> None:
    chain = new_chain(reopen(), Retention(bodies=2, undo_blocks=1))
    grow(chain, 30)
    before = everything(chain.store)
    saved = chain.compact()
    assert everything(chain.store) == before
    assert saved >= 0
    if isinstance(chain.store, LmdbStore):
        assert saved > 0
    grow(chain, 2)
    assert load_chain(reopen(), IDENTITY).tip.height == 32


# Opening what is not this chain's


def put_row(store: Store, table: Table, key: bytes, value: bytes | None) -> None:
    batch = Batch()
    batch.merge(table, {key: value})
    store.commit(batch)


def test_an_empty_store_holds_no_chain() -> None:
    with pytest.raises(StoreMissingError, match="memory: no chain"):
        load_chain(MemoryStore())


def test_another_chains_store_is_refused_by_name() -> None:
    store = MemoryStore("/data/other")
    new_chain(store)
    with pytest.raises(ForeignChainError, match="/data/other: holds chain"):
        load_chain(store, replace(IDENTITY, genesis_hash=digest("another")))
    with pytest.raises(ForeignChainError, match=r"2\^4 buckets"):
        load_chain(store, replace(IDENTITY, buckets_log2=5))
    with pytest.raises(ForeignChainError, match="already"):
        create_chain(store, IDENTITY, GENESIS)


def test_a_newer_format_is_refused_by_number() -> None:
    store = MemoryStore()
    new_chain(store)
    put_row(store, Table.META, FORMAT_KEY, b"\0\x02and who knows what else")
    with pytest.raises(NewerFormatError, match="format 2, this software knows 1"):
        load_chain(store)


@pytest.mark.parametrize(
    ("table", "key", "value"),
    [
        (Table.META, FORMAT_KEY, b"\0\x01short"),
        (Table.META, TIP_KEY, None),
        (Table.META, TIP_KEY, b"short"),
        (Table.META, BOUNDS_KEY, b"short"),
        (Table.BUCKETS, bucket_key(3), b"\0\0\0\x01short"),
        (Table.HEADERS, height_key(3), None),
        (Table.HEADERS, height_key(3), b"short"),
        (Table.MMR, mmr_key(0, 3), None),
        (Table.MMR, mmr_key(0, 3), bytes(32)),
    ],
)
def test_a_damaged_row_that_opening_needs_is_named(table: Table, key: bytes, value: bytes | None) -> None:
    store = MemoryStore("/data/node")
    grow(new_chain(store), 3)
    put_row(store, table, key, value)
    with pytest.raises(CorruptStoreError, match=r"^/data/node: "):
        load_chain(store)


def test_another_bucket_in_a_buckets_place_does_not_open() -> None:
    store = MemoryStore()
    grow(new_chain(store), 3)
    with store.snapshot() as snapshot:
        rows = list(snapshot.scan(Table.BUCKETS))
    put_row(store, Table.BUCKETS, rows[0][0], rows[1][1])
    with pytest.raises(CorruptStoreError, match="do not hash to the state root of block 3"):
        load_chain(store)


def test_a_missing_value_is_never_served_as_absent() -> None:
    store = MemoryStore()
    chain = new_chain(store)
    grow(chain)
    put_row(store, Table.STATE, b"a\x05", None)
    chain = load_chain(store)
    with pytest.raises(CorruptStoreError, match="6105"):
        chain.state.get(b"a\x05")
    assert chain.state.get(b"really absent") is None


def test_another_blocks_body_is_never_served() -> None:
    store = MemoryStore()
    records = grow(new_chain(store), 3)
    put_row(store, Table.BLOCKS, height_key(2), records[0].block_bytes)
    put_row(store, Table.HEADERS, height_key(1), records[1].header.encode())
    put_row(store, Table.BLOCKS, height_key(3), None)
    with load_chain(store).read() as reader:
        with pytest.raises(CorruptStoreError, match="height 2 is another block's"):
            reader.block_bytes(Height(2))
        with pytest.raises(CorruptStoreError, match="height 1 is another block's"):
            reader.header(Height(1))
        with pytest.raises(CorruptStoreError, match="body of block 3 is missing"):
            reader.block_bytes(Height(3))


def test_the_state_root_in_the_tip_must_be_the_headers() -> None:
    store = MemoryStore()
    chain = new_chain(store)
    grow(chain, 2)
    put_row(store, Table.META, TIP_KEY, replace(chain.tip, state_root=Hash(bytes(32))).encode())
    with pytest.raises(CorruptStoreError):
        load_chain(store)


def test_a_bucket_that_changes_under_a_running_node_is_named_and_never_built_upon(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("state.store.chain.BUCKET_MEMORY_BYTES", 0)
    store = MemoryStore()
    chain = new_chain(store)
    with store.snapshot() as snapshot:
        rows = dict(snapshot.scan(Table.BUCKETS))
    batch = Batch()
    batch.merge(Table.BUCKETS, dict(zip(rows, reversed(rows.values()), strict=True)))
    store.commit(batch)
    chain.put_consensus(b"takes a new snapshot")
    with pytest.raises(CorruptStoreError, match="of the state tree is missing or another one"):
        chain.state.extend(dict.fromkeys(GENESIS, b"changed"))


@pytest.mark.parametrize("memory_bytes", [0, 5_000, 1 << 20])
def test_what_is_remembered_of_the_state_is_never_older_than_the_last_commit_or_rollback(
    memory_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("state.store.chain.ROW_MEMORY_BYTES", memory_bytes)
    monkeypatch.setattr("state.store.chain.BUCKET_MEMORY_BYTES", memory_bytes)
    rng = random.Random(memory_bytes)
    chain = new_chain(MemoryStore())
    keys = [*GENESIS, *(b"new" + height.to_bytes(4, "big") for height in range(60))]
    for step in range(60):
        for key in rng.sample(keys, 20):
            chain.state.get(key)
        if step % 7 == 6:
            chain.rollback(rng.randrange(1, 4))
        else:
            grow(chain, salt=step)
        expected = state_of(chain)
        assert {key: chain.state.get(key) for key in keys} == {key: expected.get(key) for key in keys}
        assert chain.state.node == full_root(expected, IDENTITY.buckets_log2)


def test_the_memory_of_rows_holds_no_more_than_it_is_given_and_forgets_what_is_dropped() -> None:
    recent: Recent[bytes] = Recent(10_000)
    for number in range(1_000):
        recent.put(number.to_bytes(4, "big"), bytes(100))
        assert len(recent) * 300 <= 10_000 + 300
    kept = (999).to_bytes(4, "big")
    assert recent.get(kept) == bytes(100)
    recent.drop(kept)
    assert recent.get(kept) is None
    recent.put(kept, b"small")
    recent.put(kept, bytes(5_000))
    assert recent.get(kept) is None
