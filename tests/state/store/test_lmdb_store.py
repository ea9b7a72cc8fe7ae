"""What only a disk can do: grow, fill up, be taken, be cut, rot."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest

from state.store.chain import load_chain
from state.store.check import check_directory
from state.store.errors import (
    CorruptStoreError,
    SnapshotExpiredError,
    StoreBusyError,
    StoreFullError,
    StoreMissingError,
    StoreReadOnlyError,
)
from state.store.lmdb_store import DATA_NAME, LmdbStore, structural_faults
from state.store.store import Batch, Table
from tests.state.store.chain_kit import IDENTITY, everything, grow, new_chain
from tests.state.store.flip_campaign import Verdict, build, damage_and_look, look_in_a_child
from tests.state.store.kill_campaign import campaign

MAP_BYTES = 1 << 24


def put(store: LmdbStore, key: bytes, value: bytes) -> None:
    batch = Batch()
    batch.put(Table.STATE, key, value)
    store.commit(batch)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    return tmp_path / "store"


# Space


def test_a_full_map_grows_and_nothing_is_lost(directory: Path) -> None:
    store = LmdbStore(directory, map_bytes=1 << 18)
    for number in range(64):
        put(store, b"%d" % number, bytes(1 << 16))
    with store.snapshot() as snapshot:
        assert snapshot.count(Table.STATE) == 64
    store.close()


def test_a_snapshot_in_the_way_of_growth_is_told_so_and_a_new_one_works(directory: Path) -> None:
    store = LmdbStore(directory, map_bytes=1 << 18)
    put(store, b"k", b"v")
    held = store.snapshot()
    scanning = held.scan(Table.STATE)
    put(store, b"big", bytes(1 << 20))
    with pytest.raises(SnapshotExpiredError, match="Take a new one"):
        held.get(Table.STATE, b"k")
    with pytest.raises(SnapshotExpiredError):
        next(scanning)
    held.close()
    with store.snapshot() as snapshot:
        assert snapshot.get(Table.STATE, b"k") == b"v"
    store.close()


def test_readers_in_other_threads_go_on_while_the_map_grows(directory: Path) -> None:
    store = LmdbStore(directory, map_bytes=1 << 18)
    put(store, b"k", b"v")
    wrong: list[object] = []
    done = False

    def read() -> None:
        while not done:
            with store.snapshot() as snapshot:
                try:
                    if snapshot.get(Table.STATE, b"k") != b"v":
                        wrong.append("value")
                    list(snapshot.scan(Table.STATE))
                except SnapshotExpiredError:
                    continue
                except Exception as fault:
                    wrong.append(fault)

    readers = [Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    try:
        for number in range(24):
            put(store, b"%02d" % number, bytes(1 << 17))
    finally:
        done = True
        for reader in readers:
            reader.join()
    assert wrong == []
    store.close()


def test_the_maps_cap_refuses_a_commit_and_keeps_what_was(directory: Path) -> None:
    store = LmdbStore(directory, map_bytes=1 << 18, max_map_bytes=1 << 19)
    put(store, b"k", b"v")
    with pytest.raises(StoreFullError, match="cap of 524288 bytes"):
        put(store, b"big", bytes(1 << 20))
    put(store, b"k2", b"v2")
    with store.snapshot() as snapshot:
        assert dict(snapshot.scan(Table.STATE)) == {b"k": b"v", b"k2": b"v2"}
    store.close()


def test_a_chain_goes_on_after_a_commit_that_did_not_fit(directory: Path) -> None:
    chain = new_chain(LmdbStore(directory, map_bytes=1 << 19, max_map_bytes=1 << 20))
    grow(chain, 2)
    with pytest.raises(StoreFullError):
        grow(chain, 1, changes={b"big": bytes(1 << 21)})
    assert chain.tip.height == 2
    grow(chain, 2)
    chain.close()
    assert check_directory(directory) == []


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """4 MiB that belong to nobody else."""
    mounted = tmp_path / "disk"
    mounted.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(mounted)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this container may not mount a small file system")
    yield mounted
    subprocess.run(["umount", "--lazy", str(mounted)], check=True)  # noqa: S607 (the same)


def test_a_full_disk_refuses_a_block_and_the_chain_goes_on_once_there_is_space(small_disk: Path) -> None:
    ballast = small_disk / "ballast"
    ballast.write_bytes(bytes(2 << 20))
    chain = new_chain(LmdbStore(small_disk / "store", map_bytes=MAP_BYTES))
    grow(chain, 2)
    before = everything(chain.store)
    for attempt in range(3):
        with pytest.raises(StoreFullError, match="disk is full"):
            grow(chain, 1, changes={b"big": bytes(3 << 20)}, salt=attempt)
    assert everything(chain.store) == before
    ballast.unlink()
    grow(chain, 1, changes={b"big": bytes(1 << 20)})
    chain.close()
    chain = load_chain(LmdbStore(small_disk / "store", map_bytes=MAP_BYTES), IDENTITY)
    assert chain.tip.height == 3
    assert chain.state.get(b"big") == bytes(1 << 20)
    chain.close()
    assert check_directory(small_disk / "store") == []


# Who may open what


def test_a_second_opener_is_told_who_holds_the_directory(directory: Path) -> None:
    store = LmdbStore(directory, map_bytes=MAP_BYTES)
    with pytest.raises(StoreBusyError, match=f"process {os.getpid()} has it open"):
        LmdbStore(directory, map_bytes=MAP_BYTES)
    store.close()
    LmdbStore(directory, map_bytes=MAP_BYTES).close()


def test_reading_needs_a_store_and_never_makes_one(directory: Path) -> None:
    with pytest.raises(StoreMissingError, match=str(directory)):
        LmdbStore(directory, read_only=True)
    assert not directory.exists()


def test_a_stopped_nodes_store_is_read_and_not_written(directory: Path) -> None:
    chain = new_chain(LmdbStore(directory, map_bytes=MAP_BYTES))
    grow(chain, 3)
    rows = everything(chain.store)
    chain.close()
    before = (directory / DATA_NAME).read_bytes()
    chain = load_chain(LmdbStore(directory, read_only=True), IDENTITY)
    assert everything(chain.store) == rows
    assert chain.store.read_only
    with pytest.raises(StoreReadOnlyError, match="opened for reading"):
        grow(chain)
    with pytest.raises(StoreReadOnlyError, match="opened for reading"):
        chain.compact()
    assert chain.state.get(b"a\x05") is not None
    chain.close()
    assert (directory / DATA_NAME).read_bytes() == before


def test_a_directory_that_may_not_be_written_is_named(directory: Path) -> None:
    blocker = directory.parent / "file"
    blocker.write_bytes(b"")
    with pytest.raises(StoreReadOnlyError, match="file"):
        LmdbStore(blocker / "store", map_bytes=MAP_BYTES)


def test_too_many_snapshots_are_refused_and_none_of_the_open_ones_lost(directory: Path) -> None:
    store = LmdbStore(directory, map_bytes=MAP_BYTES)
    put(store, b"k", b"v")
    held = [store.snapshot() for _ in range(512)]
    with pytest.raises(StoreBusyError, match="512 snapshots"):
        store.snapshot()
    assert held[0].get(Table.STATE, b"k") == b"v"
    for snapshot in held:
        snapshot.close()
    put(store, b"k", b"w")
    store.close()


def test_a_copy_of_a_running_store_opens_as_it_was(directory: Path, tmp_path: Path) -> None:
    chain = new_chain(LmdbStore(directory, map_bytes=MAP_BYTES))
    grow(chain, 5)
    rows = everything(chain.store)
    assert isinstance(chain.store, LmdbStore)
    with chain.read():
        chain.store.copy_to(tmp_path / "copy")
        grow(chain, 2)
    chain.close()
    copied = load_chain(LmdbStore(tmp_path / "copy", map_bytes=MAP_BYTES), IDENTITY)
    assert everything(copied.store) == rows
    grow(copied, 1)
    copied.close()
    assert check_directory(tmp_path / "copy") == []


# Damage


def test_a_file_cut_anywhere_is_named_and_never_ends_the_process(directory: Path) -> None:
    expected = build(directory)
    path = directory / DATA_NAME
    whole = path.read_bytes()
    pages = len(whole) // 4096
    inside = [4096 * (at * pages // 16) for at in range(1, 16)]
    for size in [0, 1, 15, 4095, 4096, 4097, 8191, 8192, *inside, len(whole) - 1]:
        path.write_bytes(whole[:size])
        assert look_in_a_child(directory, expected) is Verdict.NAMED, size
        assert check_directory(directory) != []
    path.write_bytes(whole)
    assert check_directory(directory) == []
    assert look_in_a_child(directory, expected) is Verdict.HARMLESS


def test_flipped_bits_are_never_served(directory: Path) -> None:
    verdicts, unseen = damage_and_look(directory, 250, seed=7)
    assert verdicts[Verdict.NAMED] > 30
    assert verdicts[Verdict.WRONG] == verdicts[Verdict.STRAY] == 0
    # The engine may end the process over a damaged page; the check without the engine then says why.
    assert unseen == []


def test_a_pointer_to_an_older_whole_tree_is_found_out(directory: Path) -> None:
    chain = new_chain(LmdbStore(directory, map_bytes=MAP_BYTES))
    grow(chain, 6)
    chain.close()
    path = directory / DATA_NAME
    head = bytearray(path.read_bytes())
    newer, older = sorted((0, 4096), key=lambda at: -int.from_bytes(head[at + 144 : at + 152], "little"))
    # Free tree, main tree and last page of the commit before, under the number of the newest.
    head[newer + 40 : newer + 144] = head[older + 40 : older + 144]
    path.write_bytes(head)
    with pytest.raises(CorruptStoreError, match="its tables at commit"):
        LmdbStore(directory, map_bytes=MAP_BYTES)


def test_a_lost_newest_meta_page_is_found_out(directory: Path) -> None:
    new_chain(LmdbStore(directory, map_bytes=MAP_BYTES)).close()
    path = directory / DATA_NAME
    head = bytearray(path.read_bytes())
    newer = max((0, 4096), key=lambda at: int.from_bytes(head[at + 144 : at + 152], "little"))
    head[newer + 144 : newer + 152] = bytes(8)
    path.write_bytes(head)
    with pytest.raises(CorruptStoreError, match="not neighbours"):
        LmdbStore(directory, map_bytes=MAP_BYTES)


def test_something_else_in_the_files_place_is_named(directory: Path) -> None:
    directory.mkdir()
    (directory / DATA_NAME).write_bytes(b"not a store at all" * 1_000)
    with pytest.raises(CorruptStoreError, match=str(directory)):
        LmdbStore(directory, map_bytes=MAP_BYTES)
    assert structural_faults(directory) != []
    assert check_directory(directory) != []


def test_the_whole_check_names_a_value_that_its_root_does_not_commit_to(directory: Path) -> None:
    chain = new_chain(LmdbStore(directory, map_bytes=MAP_BYTES))
    grow(chain, 3)
    chain.close()
    assert check_directory(directory) == []
    store = LmdbStore(directory, map_bytes=MAP_BYTES)
    put(store, b"a\x05", b"another value, with its own good checksum")
    put(store, b"unknown", b"to any bucket")
    store.close()
    findings = check_directory(directory)
    assert any("key 6105" in finding for finding in findings)
    assert any("its root commits to" in finding for finding in findings)


# Death


def test_nothing_acknowledged_is_lost_and_nothing_torn_when_the_process_is_killed(directory: Path) -> None:
    found = campaign(directory, kills=12, seed=3)
    assert found.kills == 12
    assert found.acknowledged > 0
    assert found.slowest_reopen_ms < 1_000
