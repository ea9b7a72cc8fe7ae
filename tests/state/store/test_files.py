"""What we write ourselves survives losing everything that was not synced; and no sync could be left out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from state.store.chain import load_chain
from state.store.errors import StoreError
from state.store.files import (
    REAL_FILES,
    DurableFile,
    Files,
    make_durable_directory,
    read_file,
    remove_durably,
    replace_file,
)
from state.store.lmdb_store import LmdbStore
from state.store.snapshots import SnapshotFiles, SnapshotSource
from tests.state.store.chain_kit import IDENTITY, grow, new_chain
from tests.state.store.lossy_files import Crash, LossyFiles
from trellis.records import SignedManifest

MAP_BYTES = 1 << 24


@dataclass(frozen=True)
class Story:
    """Something that is acknowledged when `act` returns, and how to see after a crash that it was not lost."""

    name: str
    prepare: Callable[[Path], None]
    """Before anything is watched: what was durable already."""
    act: Callable[[Files, Path], None]
    kept: Callable[[Path], bool]


def _nothing(root: Path) -> None:
    del root


def _old_file(root: Path) -> None:
    (root / "file").write_bytes(b"old")


def _append(files: Files, root: Path) -> None:
    with DurableFile(files, root / "log") as log:
        log.append(b"one")
        log.append(b"two")
        log.sync()


def _preallocated(files: Files, root: Path) -> None:
    with DurableFile(files, root / "guard", preallocate_bytes=64):
        pass


def _overwrite(files: Files, root: Path) -> None:
    with DurableFile(files, root / "file") as guard:
        guard.write_at(0, b"new")
        guard.sync()


def _truncate(files: Files, root: Path) -> None:
    with DurableFile(files, root / "file") as log:
        log.truncate(1)
        log.sync()


def _chain_with_blocks(root: Path) -> None:
    chain = new_chain(LmdbStore(root / "store", map_bytes=MAP_BYTES))
    grow(chain, 8)
    chain.close()


def _compact(files: Files, root: Path) -> None:
    chain = load_chain(LmdbStore(root / "store", map_bytes=MAP_BYTES, files=files), IDENTITY)
    chain.compact()
    chain.close()


def _copy(files: Files, root: Path) -> None:
    store = LmdbStore(root / "store", map_bytes=MAP_BYTES, files=files)
    store.copy_to(root / "backup")
    store.close()


def _opens_at_8(directory: Path) -> bool:
    try:
        chain = load_chain(LmdbStore(directory, map_bytes=MAP_BYTES), IDENTITY)
    except StoreError:
        return False
    height = chain.tip.height
    chain.close()
    return height == 8


def _snapshot(files: Files, root: Path) -> None:
    chain = load_chain(LmdbStore(root / "store", map_bytes=MAP_BYTES), IDENTITY)
    with chain.read() as reader:
        source = SnapshotSource(reader, IDENTITY, 4_096)
        SnapshotFiles(root / "snapshot", files).write(source, SignedManifest(source.manifest, 1, bytes(1952), b""))
    chain.close()


def _snapshot_is_whole(root: Path) -> bool:
    snapshot = SnapshotFiles(root / "snapshot")
    try:
        manifest = snapshot.manifest().manifest
        sizes = [len(snapshot.chunk(index)) for index in range(manifest.chunk_count)]
        return len(snapshot.index()) == 80 * manifest.chunk_count and min(sizes) > 0
    except StoreError:
        return False


STORIES = [
    Story("appending to a log", _nothing, _append, lambda root: _content(root / "log") == b"onetwo"),
    Story("preallocating a guard", _nothing, _preallocated, lambda root: _content(root / "guard") == bytes(64)),
    Story("overwriting in place", _old_file, _overwrite, lambda root: _content(root / "file") == b"new"),
    Story("dropping a torn tail", _old_file, _truncate, lambda root: _content(root / "file") == b"o"),
    Story(
        "creating by replacement",
        _nothing,
        lambda files, root: replace_file(files, root / "file", b"new"),
        lambda root: _content(root / "file") == b"new",
    ),
    Story(
        "replacing a file",
        _old_file,
        lambda files, root: replace_file(files, root / "file", b"new"),
        lambda root: _content(root / "file") == b"new",
    ),
    Story(
        "removing a file",
        _old_file,
        lambda files, root: remove_durably(files, root / "file"),
        lambda root: not (root / "file").exists(),
    ),
    Story(
        "making nested directories",
        _nothing,
        lambda files, root: make_durable_directory(files, root / "a" / "b"),
        lambda root: (root / "a" / "b").is_dir(),
    ),
    Story("copying a running store", _chain_with_blocks, _copy, lambda root: _opens_at_8(root / "backup")),
    Story("writing a snapshot", _chain_with_blocks, _snapshot, _snapshot_is_whole),
]

WHOLE_AT_ANY_TIME = [
    Story(
        "replacing a file",
        _old_file,
        lambda files, root: replace_file(files, root / "file", b"new"),
        lambda root: _content(root / "file") in {b"old", b"new"},
    ),
    Story("compacting a store", _chain_with_blocks, _compact, lambda root: _opens_at_8(root / "store")),
]


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.exists() else None


def _survives(story: Story, root: Path, kind: Crash, skip: int | None) -> tuple[bool, int]:
    """Whether all is well after the crash, and how many syncs there were."""
    root.mkdir(parents=True)
    story.prepare(root)
    files = LossyFiles(root, skip)
    story.act(files, root)
    files.crash(kind)
    return story.kept(root), len(files.calls)


@pytest.mark.parametrize("story", STORIES + WHOLE_AT_ANY_TIME, ids=lambda story: story.name)
@pytest.mark.parametrize("kind", Crash, ids=lambda kind: kind.value)
def test_what_was_acknowledged_survives_a_crash(story: Story, kind: Crash, tmp_path: Path) -> None:
    assert _survives(story, tmp_path / "disk", kind, None)[0]


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.name)
def test_no_sync_can_be_left_out(story: Story, tmp_path: Path) -> None:
    _, syncs = _survives(story, tmp_path / "whole", Crash.NOTHING, None)
    assert syncs
    for left_out in range(syncs):
        survived = [_survives(story, tmp_path / f"{left_out} {kind.name}", kind, left_out)[0] for kind in Crash]
        assert not all(survived), f"sync {left_out} of {syncs} protects nothing"


def test_compaction_syncs_the_copy_before_its_name_and_the_name_before_it_returns(tmp_path: Path) -> None:
    # Losing the new name alone leaves the old file, which holds the same chain; so order is what can be asked.
    story = WHOLE_AT_ANY_TIME[1]
    _, syncs = _survives(story, tmp_path / "whole", Crash.NOTHING, None)
    lost = [_survives(story, tmp_path / str(left_out), Crash.NAMES, left_out)[0] for left_out in range(syncs)]
    assert not all(lost), "leaving out the copy's own sync went unnoticed"


class Interrupted(Exception):
    """The power goes now."""


class _Counting(LossyFiles):
    """Loses power at the n-th call that changes a name."""

    stop_at = 0

    def rename(self, source: Path, target: Path) -> None:
        if self.stop_at == 1:
            raise Interrupted
        super().rename(source, target)
        if self.stop_at == 2:
            raise Interrupted


@pytest.mark.parametrize("stop_at", [1, 2])
@pytest.mark.parametrize("kind", Crash)
def test_a_crash_in_the_middle_of_a_replacement_leaves_old_or_new(stop_at: int, kind: Crash, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"old")
    files = _Counting(tmp_path)
    files.stop_at = stop_at
    with pytest.raises(Interrupted):
        replace_file(files, tmp_path / "file", b"new")
    files.crash(kind)
    assert (tmp_path / "file").read_bytes() in {b"old", b"new"}


def test_an_interrupted_compaction_is_cleaned_up_by_the_next_opening(tmp_path: Path) -> None:
    _chain_with_blocks(tmp_path)
    (tmp_path / "store" / "compact.new").write_bytes(b"half a copy")
    assert _opens_at_8(tmp_path / "store")
    assert not (tmp_path / "store" / "compact.new").exists()


def test_appends_go_on_where_the_file_ends_or_where_they_are_told(tmp_path: Path) -> None:
    with DurableFile(REAL_FILES, tmp_path / "log", preallocate_bytes=16) as log:
        assert log.end == 0
        assert [log.append(b"ab"), log.append(b"cd")] == [0, 2]
        assert log.size() == 16
        log.sync()
    with DurableFile(REAL_FILES, tmp_path / "log", preallocate_bytes=16) as log:
        assert log.end == 16
        assert log.read_at(0, 6) == b"abcd\0\0"
        log.seek(4)
        assert log.append(b"ef") == 4
        assert log.read_at(15, 6) == b"\0"
        log.truncate(3)
        assert (log.end, log.append(b"X")) == (3, 3)


def test_files_larger_than_their_owner_writes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    assert read_file(REAL_FILES, tmp_path / "file", 10) == bytes(10)
    assert read_file(REAL_FILES, tmp_path / "none", 10) is None
    with pytest.raises(ValueError, match="the most is 9"):
        read_file(REAL_FILES, tmp_path / "file", 9)
