"""Both stores do the same, and what the interface says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from state.store.errors import SnapshotExpiredError, StoreBusyError
from state.store.lmdb_store import LmdbStore
from state.store.memory import MemoryStore
from state.store.store import Batch, Store, StoreSnapshot, Table

MAP_BYTES = 1 << 24


@pytest.fixture(params=["memory", "lmdb"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store = MemoryStore() if request.param == "memory" else LmdbStore(tmp_path / "store", map_bytes=MAP_BYTES)
    yield store
    store.close()


def put(store: Store, **rows: bytes | None) -> None:
    batch = Batch()
    batch.merge(Table.STATE, {name.encode(): value for name, value in rows.items()})
    store.commit(batch)


def rows(snapshot: StoreSnapshot, *bounds: bytes, reverse: bool = False) -> list[bytes]:
    return [key for key, _ in snapshot.scan(Table.STATE, *bounds, reverse=reverse)]


def test_what_is_committed_is_read(store: Store) -> None:
    put(store, a=b"1", b=b"")
    with store.snapshot() as snapshot:
        assert [snapshot.get(Table.STATE, key) for key in (b"a", b"b", b"c")] == [b"1", b"", None]
        assert snapshot.get(Table.META, b"a") is None
        assert snapshot.count(Table.STATE) == 2


def test_a_snapshot_shows_its_own_commit_for_ever(store: Store) -> None:
    put(store, a=b"1", gone=b"x")
    before = store.snapshot()
    put(store, a=b"2", gone=None, new=b"y")
    after = store.snapshot()
    put(store, a=b"3")
    assert (before.get(Table.STATE, b"a"), after.get(Table.STATE, b"a")) == (b"1", b"2")
    assert (rows(before), rows(after)) == ([b"a", b"gone"], [b"a", b"new"])
    before.close()
    after.close()


def test_scans_are_half_open_and_go_both_ways(store: Store) -> None:
    put(store, a=b"1", b=b"2", c=b"3", d=b"4")
    with store.snapshot() as snapshot:
        assert rows(snapshot, b"b", b"d") == [b"b", b"c"]
        assert rows(snapshot, b"b", b"d", reverse=True) == [b"c", b"b"]
        assert rows(snapshot, b"bb") == [b"c", b"d"]
        assert rows(snapshot, reverse=True) == [b"d", b"c", b"b", b"a"]
        assert rows(snapshot, b"x") == rows(snapshot, b"c", b"c") == []


def test_scans_longer_than_a_fetch_miss_nothing_and_repeat_nothing(store: Store) -> None:
    names = {f"{number:04d}": b"" for number in range(1_000)}
    put(store, **names)
    with store.snapshot() as snapshot:
        assert rows(snapshot) == [name.encode() for name in names]
        assert rows(snapshot, reverse=True) == [name.encode() for name in reversed(names)]


def test_deleting_what_is_not_there_is_no_error(store: Store) -> None:
    put(store, absent=None)
    with store.snapshot() as snapshot:
        assert rows(snapshot) == []


def test_a_closed_snapshot_answers_nothing(store: Store) -> None:
    snapshot = store.snapshot()
    snapshot.close()
    snapshot.close()
    with pytest.raises((ValueError, SnapshotExpiredError)):
        snapshot.get(Table.STATE, b"a")


def test_compaction_waits_for_nobody_and_loses_nothing(store: Store) -> None:
    put(store, a=b"1", b=b"2")
    with store.snapshot(), pytest.raises(StoreBusyError, match="Close readers"):
        store.compact()
    store.compact()
    put(store, c=b"3")
    with store.snapshot() as snapshot:
        assert rows(snapshot) == [b"a", b"b", b"c"]


KEYS = st.sampled_from([b"a", b"b", b"c", b"d"])
STEPS = st.lists(
    st.one_of(
        st.dictionaries(KEYS, st.one_of(st.none(), st.binary(max_size=3)), min_size=1),
        st.just("snapshot"),
        st.just("close"),
    ),
    max_size=12,
)


@pytest.fixture
def fresh_directories(tmp_path: Path) -> Callable[[], Path]:
    numbers = count()
    return lambda: tmp_path / str(next(numbers))


@given(steps=STEPS)
def test_snapshots_of_the_memory_store_equal_copies_of_a_dictionary(
    steps: list[dict[bytes, bytes | None] | str],
) -> None:
    _play(MemoryStore(), steps)


def test_snapshots_of_lmdb_equal_copies_of_a_dictionary(fresh_directories: Callable[[], Path]) -> None:
    @given(steps=STEPS)
    def play(steps: list[dict[bytes, bytes | None] | str]) -> None:
        store = LmdbStore(fresh_directories(), map_bytes=MAP_BYTES)
        try:
            _play(store, steps)
        finally:
            store.close()

    play()


def _play(store: Store, steps: list[dict[bytes, bytes | None] | str]) -> None:
    model: dict[bytes, bytes] = {}
    snapshots: list[tuple[StoreSnapshot, dict[bytes, bytes]]] = []
    for step in steps:
        if isinstance(step, dict):
            batch = Batch()
            batch.merge(Table.STATE, step)
            store.commit(batch)
            model = {key: value for key, value in {**model, **step}.items() if value is not None}
        elif step == "snapshot":
            snapshots.append((store.snapshot(), dict(model)))
        elif snapshots:
            snapshots.pop(0)[0].close()
        for snapshot, expected in snapshots:
            assert dict(snapshot.scan(Table.STATE)) == expected
    for snapshot, _ in snapshots:
        snapshot.close()
    with store.snapshot() as last:
        assert dict(last.scan(Table.STATE)) == model
        assert dict(last.scan(Table.STATE, reverse=True)) == model
