"""The write-ahead log and the sign guard: what was synced survives a crash, and every sync is needed."""

from __future__ import annotations

from pathlib import Path
from zlib import crc32

import pytest

from consensus.guard import SignGuard
from consensus.records import HeightBegun, Record, Voted
from node.journal import GuardFile, Journal, JournalFault
from tests.state.store.lossy_files import Crash, LossyFiles
from trellis.types import Hash, Height, View
from trellis.votes import Vote, VoteKind

GENESIS = Hash(b"g" * 32)


def vote(height: int, view: int = 0, kind: VoteKind = VoteKind.PREPARE, fill: bytes = b"x") -> Vote:
    return Vote(kind, Height(height), View(view), Hash(fill * 32))


def height_of(number: int, votes: int = 2) -> list[Record]:
    cast = [Voted(vote(number, view)) for view in range(votes)]
    return [HeightBegun(Height(number), View(0)), *cast]


def write(journal: Journal, records: list[Record], *, synced: bool = True) -> None:
    for record in records:
        journal.append(record)
    if synced:
        journal.sync()


def reopened(root: Path) -> list[Record]:
    journal = Journal(root)
    try:
        return journal.records()
    finally:
        journal.close()


def test_a_log_gives_back_the_height_in_progress_and_the_one_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    for number in (1, 2, 3):
        write(journal, height_of(number))
    journal.close()
    assert reopened(tmp_path) == [*height_of(2), *height_of(3)]


@pytest.mark.parametrize("crash", list(Crash))
def test_what_was_synced_survives_a_crash(tmp_path: Path, crash: Crash) -> None:
    files = LossyFiles(tmp_path)
    journal = Journal(tmp_path, files)
    write(journal, height_of(1))
    write(journal, height_of(2))
    write(journal, [Voted(vote(2, 7))], synced=False)
    journal.close()
    files.crash(crash)
    assert reopened(tmp_path)[: 2 * len(height_of(1))] == [*height_of(1), *height_of(2)]


def test_a_new_height_that_is_not_durable_leaves_the_height_before_whole(tmp_path: Path) -> None:
    files = LossyFiles(tmp_path)
    journal = Journal(tmp_path, files)
    write(journal, height_of(1))
    write(journal, height_of(2))
    write(journal, height_of(3), synced=False)
    journal.close()
    files.crash(Crash.NOTHING)
    assert reopened(tmp_path)[-3:] == height_of(2)


def test_every_sync_of_records_matters(tmp_path: Path) -> None:
    """Left out, one after the other: each time something that was to be durable is gone after a crash."""
    for skipped in range(2):
        root = tmp_path / str(skipped)
        root.mkdir()
        files = LossyFiles(root)
        journal = Journal(root, files)
        files.settle()
        files.skip = len(files.calls) + skipped
        write(journal, height_of(1))
        write(journal, height_of(2))
        journal.close()
        files.crash(Crash.NOTHING)
        assert reopened(root) != [*height_of(1), *height_of(2)], f"sync {skipped} of records is not needed"


def test_a_torn_tail_ends_the_log(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, height_of(1, votes=3))
    journal.close()
    path = tmp_path / "log.b"
    data = bytearray(path.read_bytes())
    end = len(data.rstrip(b"\0"))
    data[end - 1] ^= 1
    path.write_bytes(data)
    assert reopened(tmp_path) == height_of(1, votes=2)


def test_frames_of_an_earlier_height_never_pass_for_a_continuation(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, height_of(1, votes=6))
    write(journal, height_of(2))
    write(journal, height_of(3, votes=1))
    journal.close()
    assert reopened(tmp_path) == [*height_of(2), *height_of(3, votes=1)]


def test_a_record_with_a_right_checksum_that_is_none_of_ours_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    write(journal, height_of(1))
    journal.close()
    path = tmp_path / "log.b"
    data = b"\xff"
    path.write_bytes(len(data).to_bytes(4, "big") + crc32(data).to_bytes(4, "big") + data + bytes(64))
    with pytest.raises(JournalFault, match=r"log\.b"):
        Journal(tmp_path)


def test_a_new_log_says_that_it_was_missing(tmp_path: Path) -> None:
    for wanted in (True, False):
        journal = Journal(tmp_path)
        journal.close()
        assert journal.was_missing is wanted


@pytest.mark.parametrize("crash", list(Crash))
def test_the_guard_is_durable_when_admit_returns(tmp_path: Path, crash: Crash) -> None:
    for admitted in range(1, 4):
        root = tmp_path / str(admitted)
        root.mkdir()
        files = LossyFiles(root)
        guard = GuardFile(root, GENESIS, files)
        for view in range(admitted):
            guard.admit(vote(1, view))
        guard.close()
        files.crash(crash)
        assert guard_at(root) == guard.guard


def guard_at(root: Path) -> SignGuard:
    found = GuardFile(root, GENESIS)
    found.close()
    return found.guard


def test_a_guard_without_its_sync_forgets(tmp_path: Path) -> None:
    files = LossyFiles(tmp_path)
    guard = GuardFile(tmp_path, GENESIS, files)
    files.settle()
    files.skip = len(files.calls)
    guard.admit(vote(1))
    guard.close()
    files.crash(Crash.NOTHING)
    assert guard_at(tmp_path) != guard.guard


def test_a_torn_write_of_one_slot_leaves_the_state_before_it(tmp_path: Path) -> None:
    guard = GuardFile(tmp_path, GENESIS)
    guard.admit(vote(1))
    before = guard.guard
    guard.admit(vote(2))
    guard.close()
    path = tmp_path / "guard"
    data = bytearray(path.read_bytes())
    data[40] ^= 1
    path.write_bytes(data)
    assert guard_at(tmp_path) == before


def test_a_guard_of_another_network_is_refused(tmp_path: Path) -> None:
    guard = GuardFile(tmp_path, GENESIS)
    guard.admit(vote(1))
    guard.close()
    with pytest.raises(JournalFault, match="another network"):
        GuardFile(tmp_path, Hash(b"h" * 32))


def test_a_guard_damaged_in_both_slots_is_refused(tmp_path: Path) -> None:
    guard = GuardFile(tmp_path, GENESIS)
    guard.admit(vote(1))
    guard.admit(vote(2))
    guard.close()
    path = tmp_path / "guard"
    path.write_bytes(b"\x55" * len(path.read_bytes()))
    with pytest.raises(JournalFault, match="damaged"):
        GuardFile(tmp_path, GENESIS)
