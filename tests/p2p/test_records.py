"""The record layer: order, limits, key updates, and an end that cannot be faked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p import records
from p2p.records import (
    LENGTH_BYTES,
    MAX_CIPHERTEXT_BYTES,
    MAX_DATA_BYTES,
    UPDATE_MS,
    CounterWrappedError,
    RecordError,
    RecordFault,
    RecordOpener,
    RecordSealer,
    RecordType,
)
from tests.p2p.kit import seed
from trellis.crypto.aead import Aead, Suite
from trellis.types import U64_MAX

KEY = seed("record key")


def pair(suite: Suite = Suite.CHACHA20_POLY1305, counter: int = 0) -> tuple[RecordSealer, RecordOpener]:
    return RecordSealer(suite, KEY, counter, now_ms=0), RecordOpener(suite, KEY, counter)


def raw_record(kind: int, data: bytes, counter: int = 0) -> bytes:
    """A record as no honest sealer would make it."""
    plaintext = bytes([kind]) + data
    length = (len(plaintext) + 16).to_bytes(LENGTH_BYTES, "big")
    return length + Aead(Suite.CHACHA20_POLY1305, KEY).seal(counter, plaintext, length)


def fault_of(opener: RecordOpener, data: bytes) -> RecordFault:
    with pytest.raises(RecordError) as refused:
        opener.feed(data)
    return refused.value.fault


@given(
    messages=st.lists(st.binary(max_size=3_000), max_size=12),
    cuts=st.lists(st.integers(min_value=1, max_value=4_000), min_size=1),
    suite=st.sampled_from(Suite),
)
def test_what_is_sealed_is_opened_in_order_however_it_is_cut(
    messages: list[bytes], cuts: list[int], suite: Suite
) -> None:
    sealer, opener = pair(suite)
    wire = b"".join(sealer.seal(message, 0) for message in messages) + sealer.close()
    got, at, turn = b"", 0, 0
    while at < len(wire):
        size = cuts[turn % len(cuts)]
        got += b"".join(opener.feed(wire[at : at + size]))
        at, turn = at + size, turn + 1
    assert got == b"".join(messages)
    assert opener.closed
    opener.end_of_stream()


def test_a_long_write_becomes_several_records_of_one_yamux_frame_each() -> None:
    sealer, opener = pair()
    data = bytes(2 * MAX_DATA_BYTES + 1)
    assert [len(part) for part in opener.feed(sealer.seal(data, 0))] == [MAX_DATA_BYTES, MAX_DATA_BYTES, 1]


def test_one_yamux_frame_of_the_largest_size_is_one_record() -> None:
    sealer, opener = pair()
    assert len(opener.feed(sealer.seal(bytes(65_536), 0))) == 1


@given(st.binary(min_size=1, max_size=200), st.data())
def test_a_changed_record_never_opens(message: bytes, data: st.DataObject) -> None:
    sealer, opener = pair()
    wire = bytearray(sealer.seal(message, 0))
    at = data.draw(st.integers(min_value=0, max_value=len(wire) - 1))
    wire[at] ^= 1 << data.draw(st.integers(min_value=0, max_value=7))
    try:
        assert opener.feed(bytes(wire)) == []
    except RecordError:
        return
    with pytest.raises(RecordError):
        opener.end_of_stream()


def test_records_cannot_be_dropped_repeated_or_swapped() -> None:
    sealer, _ = pair()
    one, two = sealer.seal(b"one", 0), sealer.seal(b"two", 0)
    for wire in (two, one + one, two + one):
        assert fault_of(pair()[1], wire) is RecordFault.BAD_SEAL


def test_the_directions_have_their_own_keys() -> None:
    sealer, _ = pair()
    other = RecordOpener(Suite.CHACHA20_POLY1305, seed("the other direction"), 0)
    assert fault_of(other, sealer.seal(b"x", 0)) is RecordFault.BAD_SEAL


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        ((MAX_CIPHERTEXT_BYTES + 1).to_bytes(3, "big"), RecordFault.TOO_LARGE),
        ((16).to_bytes(3, "big"), RecordFault.TOO_SMALL),
        (bytes(3), RecordFault.TOO_SMALL),
        (raw_record(RecordType.DATA, b""), RecordFault.EMPTY_DATA),
        (raw_record(3, b""), RecordFault.UNKNOWN_TYPE),
        (raw_record(255, b""), RecordFault.UNKNOWN_TYPE),
        (raw_record(RecordType.CLOSE, b"x"), RecordFault.NOT_EMPTY),
        (raw_record(RecordType.KEY_UPDATE, b"x"), RecordFault.NOT_EMPTY),
        (raw_record(RecordType.KEY_UPDATE, b""), RecordFault.IDLE_KEY_UPDATE),
        (raw_record(RecordType.CLOSE, b"") + b"\0", RecordFault.AFTER_CLOSE),
    ],
)
def test_a_record_that_breaks_a_rule_is_refused_with_its_reason(wire: bytes, fault: RecordFault) -> None:
    assert fault_of(pair()[1], wire) is fault


def test_an_oversized_record_is_refused_before_any_of_it_is_kept() -> None:
    _, opener = pair()
    assert fault_of(opener, b"\xff\xff\xff") is RecordFault.TOO_LARGE


def test_an_opener_holds_no_more_than_one_record() -> None:
    sealer, opener = pair()
    wire = sealer.seal(bytes(MAX_DATA_BYTES), 0)
    opener.feed(wire[:-1])
    assert opener.held_bytes == len(wire) - 1 <= MAX_CIPHERTEXT_BYTES + LENGTH_BYTES
    opener.feed(wire[-1:])
    assert opener.held_bytes == 0


def test_a_stream_that_ends_without_a_close_record_was_cut() -> None:
    sealer, opener = pair()
    opener.feed(sealer.seal(b"half of it", 0))
    with pytest.raises(RecordError) as refused:
        opener.end_of_stream()
    assert refused.value.fault is RecordFault.TRUNCATED


def test_nothing_is_sealed_after_close() -> None:
    sealer, opener = pair()
    opener.feed(sealer.close())
    with pytest.raises(ValueError, match="closed"):
        sealer.seal(b"x", 0)
    assert fault_of(opener, b"\0") is RecordFault.AFTER_CLOSE


def test_keys_are_updated_after_so_many_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "UPDATE_RECORDS", 10)
    sealer, opener = pair()
    got = [part for number in range(100) for part in opener.feed(sealer.seal(b"%d" % number, 0))]
    assert got == [b"%d" % number for number in range(100)]
    assert sealer.counter == opener.counter < 10


def test_keys_are_updated_after_so_many_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "UPDATE_BYTES", 1_000)
    sealer, opener = pair()
    for _ in range(50):
        assert opener.feed(sealer.seal(bytes(300), 0)) == [bytes(300)]
        assert sealer.bytes_used <= 1_000
    assert sealer.counter == opener.counter


def test_keys_are_updated_after_an_hour_but_never_idly() -> None:
    sealer, opener = pair()
    assert opener.feed(sealer.seal(b"a", UPDATE_MS)) == [b"a"]
    assert sealer.counter == 1
    assert opener.feed(sealer.seal(b"b", 2 * UPDATE_MS)) == [b"b"]
    assert sealer.counter == opener.counter == 1
    sealer.seal(b"c", 2 * UPDATE_MS + 1)
    assert sealer.counter == 2


def test_an_updated_key_is_another_key() -> None:
    sealer, opener = pair()
    old = RecordOpener(Suite.CHACHA20_POLY1305, KEY, 0)
    first = sealer.seal(b"a", 0)
    second = sealer.seal(b"b", UPDATE_MS)
    assert opener.feed(first + second) == [b"a", b"b"]
    old.feed(first)
    update = raw_record(RecordType.KEY_UPDATE, b"", 1)
    assert second.startswith(update)
    old._update()
    assert old.feed(second[len(update) :]) == [b"b"]


@pytest.mark.parametrize("limit", ["UPDATE_RECORDS", "UPDATE_BYTES"])
def test_a_peer_that_wears_its_key_out_is_refused(monkeypatch: pytest.MonkeyPatch, limit: str) -> None:
    sealer, opener = pair()
    wire = [sealer.seal(b"x", 0) for _ in range(20)]
    monkeypatch.setattr(records, limit, 10)
    assert fault_of(opener, b"".join(wire)) is RecordFault.KEY_WORN


def test_a_counter_never_wraps() -> None:
    sealer, _ = pair(counter=U64_MAX - 1)
    sealer.seal(b"the last nonce but one", 0)
    with pytest.raises(CounterWrappedError):
        sealer.seal(b"x", 0)


def test_a_listener_continues_after_m4s_nonce() -> None:
    sealer, opener = pair(counter=1)
    assert opener.feed(sealer.seal(b"x", 0)) == [b"x"]
    assert (
        fault_of(RecordOpener(Suite.CHACHA20_POLY1305, KEY, 0), pair(counter=1)[0].seal(b"x", 0))
        is RecordFault.BAD_SEAL
    )
