"""The peer book: what it remembers, what it forgets, who may fill it, and what a crash leaves of it."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p import booklog
from p2p.book import (
    ADDRESSES_PER_PEER,
    BAN_LINE,
    BAN_MS,
    BANNED_PEERS,
    FORGET_FAILURES,
    FORGET_MS,
    FULL_SCORE,
    PEERS_PER_SOURCE,
    RECOVERY_MS,
    UNPROVEN_PEERS,
    PeerBook,
    Source,
    SourceKind,
)
from p2p.booklog import PeerBookFault
from tests.p2p.kit import GENESIS, POLICY
from trellis.peerid import peer_id_text
from trellis.types import PeerId

NAME = "peers.log"
STATIC = Source(SourceKind.STATIC)
HOUR_MS = 3_600_000


def peer(number: int) -> PeerId:
    return PeerId(b"\x12\x20" + sha256(str(number).encode()).digest())


def address(number: int) -> str:
    return f"/ip4/45.0.{number >> 8}.{number & 255}/tcp/4001"


def gossip(group: str) -> Source:
    return Source(SourceKind.EXCHANGE, group)


class Watch:
    """Time that a test moves by hand."""

    def __init__(self) -> None:
        self.now_ms = 1_800_000_000_000

    def __call__(self) -> int:
        return self.now_ms


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def book(tmp_path: Path, watch: Watch) -> PeerBook:
    return PeerBook(tmp_path / NAME, GENESIS, watch)


def reopened(tmp_path: Path, watch: Watch) -> PeerBook:
    return PeerBook(tmp_path / NAME, GENESIS, watch)


def test_addresses_scores_sequences_and_bans_are_there_after_a_restart(
    tmp_path: Path, watch: Watch, book: PeerBook
) -> None:
    book.note(peer(1), [address(1)], gossip("a"), sequence=7)
    book.penalise(peer(1), "slow", 250)
    book.proven(peer(2), address(2))
    book.ban(peer(3), "sent a forged block", watch.now_ms + HOUR_MS)
    book.close()
    again = reopened(tmp_path, watch)
    assert [each.address for each in again.addresses(peer(1))] == [address(1)]
    assert again.sequence(peer(1)) == 7
    assert again.score(peer(1)) == FULL_SCORE - 250
    assert again.candidates(9)[0].peer == peer(2)
    (ban,) = again.bans()
    assert (ban.peer, ban.reason, ban.until_ms) == (peer(3), "sent a forged block", watch.now_ms + HOUR_MS)


def test_a_ban_ends_when_it_said_it_would(tmp_path: Path, watch: Watch, book: PeerBook) -> None:
    book.ban(peer(1), "spam", watch.now_ms + HOUR_MS)
    watch.now_ms += HOUR_MS - 1
    assert book.is_banned(peer(1))
    watch.now_ms += 1
    assert not book.is_banned(peer(1))
    assert book.bans() == ()
    book.decay()
    book.close()
    assert "spam" not in (tmp_path / NAME).read_text().splitlines()[-1]


def test_an_unbanned_peer_stays_unbanned_after_a_restart(tmp_path: Path, watch: Watch, book: PeerBook) -> None:
    book.ban(peer(1), "spam", watch.now_ms + HOUR_MS)
    assert book.unban(peer(1))
    assert not book.unban(peer(1))
    assert not reopened(tmp_path, watch).is_banned(peer(1))


def test_a_score_below_the_line_bans_and_comes_back_to_the_line(watch: Watch, book: PeerBook) -> None:
    book.note(peer(1), [address(1)], gossip("a"))
    for _ in range(7):
        assert not book.penalise(peer(1), "record_bad_signature", 100)
    assert book.score(peer(1)) == BAN_LINE
    assert book.penalise(peer(1), "record_bad_signature", 100)
    assert book.bans()[0].reason == "record_bad_signature"
    assert book.candidates(9) == ()
    watch.now_ms += BAN_MS
    assert [each.peer for each in book.candidates(9)] == [peer(1)]
    assert book.score(peer(1)) == BAN_LINE + BAN_MS // RECOVERY_MS


def test_scores_recover_slowly_and_rewards_hasten_it_up_to_the_full_score(watch: Watch, book: PeerBook) -> None:
    book.note(peer(1), [address(1)], gossip("a"))
    book.penalise(peer(1), "slow", 300)
    watch.now_ms += 10 * RECOVERY_MS
    assert book.score(peer(1)) == FULL_SCORE - 290
    book.reward(peer(1), 90)
    assert book.score(peer(1)) == FULL_SCORE - 200
    book.reward(peer(1), 5_000)
    assert book.score(peer(1)) == FULL_SCORE


def test_a_clock_that_goes_back_takes_nothing_from_a_score(watch: Watch, book: PeerBook) -> None:
    book.penalise(peer(1), "slow", 100)
    watch.now_ms -= HOUR_MS
    assert book.score(peer(1)) == FULL_SCORE - 100


@pytest.mark.parametrize("call", ["penalise", "reward"])
def test_amounts_are_never_negative(book: PeerBook, call: str) -> None:
    with pytest.raises(ValueError, match=r"gives|takes"):
        book.penalise(peer(1), "x", -1) if call == "penalise" else book.reward(peer(1), -1)


@pytest.mark.parametrize("reason", ["", "x" * 129, "two\nlines", "\x1b[31m"])
def test_a_reason_that_would_spoil_a_terminal_is_host_misuse(book: PeerBook, reason: str) -> None:
    with pytest.raises(ValueError, match="printable"):
        book.ban(peer(1), reason, 1)


def test_one_gossiper_displaces_only_what_it_told_itself(book: PeerBook) -> None:
    book.note(peer(0), [address(0)], gossip("honest"))
    for number in range(1, 10 * PEERS_PER_SOURCE):
        book.note(peer(number), [address(number)], gossip("liar"))
    assert len(book) == 1 + PEERS_PER_SOURCE
    assert peer(0) in book
    assert peer(10 * PEERS_PER_SOURCE - 1) in book


def test_many_gossipers_displace_each_other_and_neither_small_sources_nor_proven_or_configured_peers(
    book: PeerBook,
) -> None:
    book.note(peer(1), [address(1)], STATIC)
    book.proven(peer(2), address(2))
    book.note(peer(3), [address(3)], gossip("honest"))
    for number in range(10, 10 + 2 * UNPROVEN_PEERS):
        book.note(peer(number), [address(number)], gossip(f"liar{number % 100}"))
    assert len(book) <= UNPROVEN_PEERS + 2
    for number in (1, 2, 3):
        assert peer(number) in book


def test_candidates_take_sources_in_turn_so_that_the_loudest_one_does_not_choose_our_peers(book: PeerBook) -> None:
    for number in range(60):
        book.note(peer(number), [address(number)], gossip("loud"))
    for number in range(60, 64):
        book.note(peer(number), [address(number)], gossip(f"quiet{number}"))
    chosen = {each.peer for each in book.candidates(5)}
    assert {peer(number) for number in range(60, 64)} <= chosen


def test_configured_peers_come_first_then_proven_and_unproven_in_turn(book: PeerBook) -> None:
    book.note(peer(1), [address(1)], gossip("a"))
    book.note(peer(2), [address(2)], gossip("b"))
    for number in (3, 4):
        book.proven(peer(number), address(number))
    book.note(peer(5), [address(5)], STATIC)
    order = [each.peer for each in book.candidates(9)]
    assert order[0] == peer(5)
    assert {peer(3), peer(4)} == {order[1], order[3]}
    assert peer(3) not in [each.peer for each in book.candidates(9, frozenset({peer(3)}))]


def test_a_failed_dial_waits_longer_each_time_and_a_handshake_forgives(watch: Watch, book: PeerBook) -> None:
    book.note(peer(1), [address(1)], STATIC)
    for wait_ms in (1_000, 2_000, 4_000):
        book.failed(peer(1))
        watch.now_ms += wait_ms - 1
        assert book.candidates(1) == ()
        watch.now_ms += 1
        assert book.candidates(1)
    book.failed(peer(1))
    book.proven(peer(1), address(1))
    assert book.candidates(1)


def test_an_older_signed_record_changes_nothing_and_a_newer_one_replaces_what_records_said(book: PeerBook) -> None:
    assert book.note(peer(1), [address(1), address(2)], gossip("a"), sequence=5)
    assert not book.note(peer(1), [address(9)], gossip("b"), sequence=5)
    assert not book.note(peer(1), [address(9)], gossip("b"), sequence=4)
    assert book.note(peer(1), [address(3)], gossip("b"), sequence=6)
    assert [each.address for each in book.addresses(peer(1))] == [address(3)]


def test_a_peer_has_few_addresses_and_configured_ones_are_never_displaced(watch: Watch, book: PeerBook) -> None:
    book.note(peer(1), [address(0)], STATIC)
    for number in range(1, 30):
        watch.now_ms += 1
        book.note(peer(1), [address(number)], gossip("a"))
    known = [each.address for each in book.addresses(peer(1))]
    assert len(known) == ADDRESSES_PER_PEER
    assert known[:2] == [address(0), address(29)]


def test_bans_are_bounded_and_the_one_that_ends_first_goes(watch: Watch, book: PeerBook) -> None:
    book.ban(peer(0), "operator", watch.now_ms + 1_000 * HOUR_MS)
    for number in range(1, BANNED_PEERS + 50):
        book.ban(peer(number), "spam", watch.now_ms + HOUR_MS + number)
    assert len(book.bans()) == BANNED_PEERS
    assert book.is_banned(peer(0))
    assert not book.is_banned(peer(1))


def test_who_is_not_heard_of_or_never_answers_is_forgotten(watch: Watch, book: PeerBook) -> None:
    book.note(peer(1), [address(1)], gossip("a"))
    book.note(peer(2), [address(2)], STATIC)
    book.note(peer(3), [address(3)], gossip("a"))
    for _ in range(FORGET_FAILURES):
        book.failed(peer(2))
        book.failed(peer(3))
    book.decay()
    assert peer(3) not in book
    watch.now_ms += FORGET_MS + 1
    book.decay()
    assert peer(1) not in book
    assert peer(2) in book


def test_an_address_that_was_configured_once_is_not_configured_for_ever(
    tmp_path: Path, watch: Watch, book: PeerBook
) -> None:
    book.note(peer(1), [address(1)], STATIC)
    book.close()
    assert reopened(tmp_path, watch).candidates(1) == ()


# What a crash leaves.


def test_a_killed_process_loses_neither_a_ban_nor_what_it_flushed(tmp_path: Path, watch: Watch) -> None:
    script = (
        "import sys\n"
        "from pathlib import Path\n"
        "from tests.p2p.test_book import *\n"
        "book = PeerBook(Path(sys.argv[1]), GENESIS, Watch())\n"
        "book.note(peer(1), [address(1)], gossip('a'))\n"
        "book.penalise(peer(1), 'slow', 200)\n"
        "book.flush()\n"
        "book.ban(peer(2), 'spam', Watch()() + HOUR_MS)\n"
        "print('ready', flush=True)\n"
        "sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / NAME)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.kill()
    book = reopened(tmp_path, watch)
    assert book.score(peer(1)) == FULL_SCORE - 200
    assert book.is_banned(peer(2))


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_torn_file_loses_only_what_was_torn_off(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    tmp_path, watch = tmp_path_factory.mktemp("book"), Watch()
    book = PeerBook(tmp_path / NAME, GENESIS, watch)
    sizes = [(tmp_path / NAME).stat().st_size]
    for number in range(6):
        book.ban(peer(number), "spam", watch.now_ms + HOUR_MS)
        sizes.append((tmp_path / NAME).stat().st_size)
    cut = data.draw(st.integers(sizes[0], sizes[-1]))
    os.truncate(tmp_path / NAME, cut)
    again = reopened(tmp_path, watch)
    # A line is whole without its newline.
    whole = sum(size - 1 <= cut for size in sizes[1:])
    assert [again.is_banned(peer(number)) for number in range(6)] == [number < whole for number in range(6)]
    again.ban(peer(9), "spam", watch.now_ms + HOUR_MS)
    assert reopened(tmp_path, watch).is_banned(peer(9)), "a torn line swallowed the next one"


def test_a_damaged_line_is_skipped_with_a_warning_and_the_others_count(
    tmp_path: Path, watch: Watch, book: PeerBook, caplog: pytest.LogCaptureFixture
) -> None:
    for number in range(3):
        book.ban(peer(number), "spam", watch.now_ms + HOUR_MS)
    text = (tmp_path / NAME).read_bytes()
    at = text.index(peer_id_text(peer(1)).encode())
    (tmp_path / NAME).write_bytes(text[:at] + b"X" + text[at + 1 :])
    with caplog.at_level(logging.WARNING):
        again = reopened(tmp_path, watch)
    assert [again.is_banned(peer(number)) for number in range(3)] == [True, False, True]
    assert "1 damaged lines" in caplog.text


@pytest.mark.parametrize("content", [b"", b"\0" * 4_096, b"not a book\n", b"00000000 {}\n"])
def test_a_file_that_is_no_book_is_set_aside_and_the_book_begins_anew(
    tmp_path: Path, watch: Watch, content: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / NAME).write_bytes(content)
    with caplog.at_level(logging.WARNING):
        book = reopened(tmp_path, watch)
    assert len(book) == 0
    (aside,) = tmp_path.glob(f"{NAME}.damaged-*")
    assert aside.read_bytes() == content
    assert str(aside) in caplog.text


def test_another_networks_book_is_refused_with_what_to_do(tmp_path: Path, watch: Watch, book: PeerBook) -> None:
    book.close()
    with pytest.raises(PeerBookFault, match="another network: give this node a folder of its own"):
        PeerBook(tmp_path / NAME, POLICY, watch)


def test_a_line_of_another_version_stops_with_what_to_do(tmp_path: Path, watch: Watch, book: PeerBook) -> None:
    book._log.append([{"peer": peer_id_text(peer(1)), "source": "telepathy:"}])
    with pytest.raises(PeerBookFault, match="move the file away"):
        reopened(tmp_path, watch)


def test_the_file_does_not_grow_with_every_change(
    tmp_path: Path, watch: Watch, book: PeerBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(booklog, "OUTDATED_LINES", 20)
    book.note(peer(1), [address(1)], gossip("a"))
    for _ in range(500):
        book.reward(peer(1), 1)
        book.flush()
    assert len((tmp_path / NAME).read_bytes().splitlines()) < 60
    book.ban(peer(2), "after the rewrite", watch.now_ms + HOUR_MS)
    again = reopened(tmp_path, watch)
    assert peer(1) in again
    assert again.is_banned(peer(2))


def test_syncing_reaches_the_disk_once_for_all_that_was_flushed(
    book: PeerBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    book.note(peer(1), [address(1)], gossip("a"))
    book.flush()
    book.sync()
    book.sync()
    assert len(synced) == 1


def test_a_full_disk_costs_the_memory_of_it_and_not_the_process(
    tmp_path: Path, watch: Watch, book: PeerBook, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(_descriptor: int, _data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.WARNING):
        patched.setattr(os, "write", full)
        book.ban(peer(1), "spam", watch.now_ms + HOUR_MS)
        book.ban(peer(2), "spam", watch.now_ms + HOUR_MS)
        book.note(peer(4), [address(4)], gossip("a"))
        book.flush()
    assert book.is_banned(peer(1))
    assert book.trouble == "No space left on device"
    assert caplog.text.count("cannot write the peer book") == 1
    book.flush()
    book.sync()
    assert book.trouble == ""
    again = reopened(tmp_path, watch)
    assert again.is_banned(peer(1))
    assert again.is_banned(peer(2))
    assert peer(4) in again
