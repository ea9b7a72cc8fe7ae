"""The guard's rules, one by one; the frames are made by hand."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.muxguard import (
    ACK,
    DATA,
    FIN,
    GO_AWAY,
    INITIAL_WINDOW_BYTES,
    MAX_BODY_BYTES,
    MAX_UNANSWERED_CONTROLS,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    MuxError,
    MuxFault,
    MuxGuard,
)


def frame(kind: int, flags: int, stream: int, length: int, body: bytes = b"", version: int = 0) -> bytes:
    head = bytes([version, kind]) + flags.to_bytes(2, "big") + stream.to_bytes(4, "big") + length.to_bytes(4, "big")
    return head + body


def data(stream: int, size: int, flags: int = 0) -> bytes:
    return frame(DATA, flags, stream, size, bytes(size))


def listening(max_streams: int = 4) -> MuxGuard:
    """Of the side that was dialled: the peer's streams are odd."""
    return MuxGuard(max_streams, dialer=False)


def fault_of(guard: MuxGuard, arriving: bytes) -> MuxFault:
    with pytest.raises(MuxError) as broken:
        guard.arrived(arriving)
    return broken.value.fault


def test_a_stream_is_opened_used_and_forgotten() -> None:
    guard = listening()
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0) + data(1, 100))
    assert guard.their_streams == 1
    guard.arrived(frame(WINDOW_UPDATE, FIN, 1, 0))
    guard.sends(frame(WINDOW_UPDATE, FIN, 1, 0))
    assert guard.streams == guard.their_streams == 0


@pytest.mark.parametrize("by_peer", [True, False])
def test_a_reset_forgets_a_stream_at_once(by_peer: bool) -> None:
    guard = listening()
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0))
    reset = frame(WINDOW_UPDATE, RST, 1, 0)
    if by_peer:
        guard.arrived(reset)
    else:
        guard.sends(reset)
    assert guard.streams == guard.their_streams == 0
    guard.arrived(data(1, 50_000) * 20)


@given(
    st.lists(st.integers(min_value=1, max_value=MAX_BODY_BYTES), max_size=40), st.integers(min_value=1, max_value=999)
)
def test_a_peer_may_send_what_it_was_granted_and_not_a_byte_more(sizes: list[int], cut: int) -> None:
    guard = listening()
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0))
    granted = INITIAL_WINDOW_BYTES
    for number, size in enumerate(sizes):
        wire = data(1, size)
        if size > granted:
            assert fault_of(guard, wire) is MuxFault.WINDOW_OVERRUN
            return
        for at in range(0, len(wire), cut * 100):
            guard.arrived(wire[at : at + cut * 100])
        granted -= size
        if number % 3 == 0:
            guard.sends(frame(WINDOW_UPDATE, 0, 1, 10_000))
            granted += 10_000


def test_more_streams_than_allowed_are_refused_and_closed_ones_do_not_count() -> None:
    guard = listening(max_streams=2)
    for number in range(10):
        stream = 2 * number + 1
        guard.arrived(frame(WINDOW_UPDATE, SYN, stream, 0) + frame(WINDOW_UPDATE, FIN, stream, 0))
        guard.sends(frame(WINDOW_UPDATE, FIN, stream, 0))
    guard.arrived(frame(WINDOW_UPDATE, SYN, 21, 0) + frame(WINDOW_UPDATE, SYN, 23, 0))
    assert fault_of(guard, frame(WINDOW_UPDATE, SYN, 25, 0)) is MuxFault.TOO_MANY_STREAMS


def test_our_own_streams_do_not_count_against_the_peer() -> None:
    guard = listening(max_streams=1)
    for number in range(1, 10):
        guard.sends(frame(WINDOW_UPDATE, SYN, 2 * number, 0))
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0))
    assert guard.their_streams == 1


@pytest.mark.parametrize(
    ("wire", "fault"),
    [
        (frame(DATA, 0, 1, 0, version=1), MuxFault.BAD_FRAME),
        (frame(GO_AWAY + 1, 0, 1, 0), MuxFault.BAD_FRAME),
        (frame(DATA, 16, 1, 0), MuxFault.BAD_FRAME),
        (frame(DATA, SYN, 1, MAX_BODY_BYTES + 1), MuxFault.FRAME_TOO_LARGE),
        (frame(WINDOW_UPDATE, SYN, 2, 0), MuxFault.BAD_STREAM_ID),
        (frame(WINDOW_UPDATE, SYN, 0, 0), MuxFault.BAD_STREAM_ID),
        (frame(WINDOW_UPDATE, SYN, 3, 0) + frame(WINDOW_UPDATE, SYN, 1, 0), MuxFault.BAD_STREAM_ID),
        (frame(PING, SYN, 0, 7) * (MAX_UNANSWERED_CONTROLS + 1), MuxFault.CONTROL_FLOOD),
    ],
)
def test_a_broken_rule_has_its_name(wire: bytes, fault: MuxFault) -> None:
    assert fault_of(listening(), wire) is fault


def test_answers_to_our_pings_are_counted() -> None:
    guard = listening()
    guard.arrived(frame(PING, ACK, 0, 1) * 3)
    assert guard.pongs == 3


def test_pings_between_data_are_no_flood() -> None:
    guard = listening()
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0))
    for _ in range(3 * MAX_UNANSWERED_CONTROLS // 100):
        guard.arrived(frame(PING, SYN, 0, 7) * 100 + data(1, 1))


def test_a_peer_that_only_listens_may_answer_every_frame_of_ours() -> None:
    guard = listening()
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0))
    for _ in range(3 * MAX_UNANSWERED_CONTROLS):
        guard.sends(data(1, 100))
        guard.arrived(frame(WINDOW_UPDATE, 0, 1, 100))


def test_a_peer_that_listens_saves_nothing_up_for_a_flood() -> None:
    guard = listening()
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0) + data(1, 1))
    for _ in range(3 * MAX_UNANSWERED_CONTROLS):
        guard.sends(data(1, 100))
    assert fault_of(guard, frame(WINDOW_UPDATE, 0, 1, 1) * (MAX_UNANSWERED_CONTROLS + 1)) is MuxFault.CONTROL_FLOOD


def test_three_updates_for_each_frame_of_ours_are_a_flood() -> None:
    guard = listening()
    guard.arrived(frame(WINDOW_UPDATE, SYN, 1, 0))
    for _ in range(MAX_UNANSWERED_CONTROLS - 10):
        guard.sends(data(1, 100))
        guard.arrived(frame(WINDOW_UPDATE, 0, 1, 30) * 3)
    assert fault_of(guard, frame(WINDOW_UPDATE, 0, 1, 30) * 20) is MuxFault.CONTROL_FLOOD


def test_pings_of_a_silent_hour_are_no_flood() -> None:
    guard = listening()
    for _ in range(3_600):
        guard.arrived(frame(PING, SYN, 0, 7) * 2 + frame(PING, ACK, 0, 7) * 2)
        guard.second_passed()


@given(st.binary(max_size=400))
def test_any_bytes_are_frames_or_a_fault(wire: bytes) -> None:
    guard = listening()
    try:
        guard.arrived(wire)
    except MuxError:
        return
    assert guard.streams <= 4
