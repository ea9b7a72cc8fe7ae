"""Frames on direct streams: message ids, flags, and a decoder that never holds more than one frame's cap.

Frame: u32 length ‖ u16 message id ‖ u32 sequence ‖ u8 flags ‖ payload; big-endian, the length counts what follows it.
Gaps in the sequence are counted. An unknown id closes the stream if the frame is critical, and is skipped if not.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import Final

from trellis.encoding import DecodeError, Malformed, Writer
from trellis.messages import MAX_MESSAGE_BYTES
from trellis.types import U32_MAX

LENGTH_BYTES: Final = 4
HEAD_BYTES: Final = 2 + 4 + 1
MAX_FRAME_PAYLOAD_BYTES: Final = MAX_MESSAGE_BYTES + 1_024


class MessageId(IntEnum):
    """Ids are never reused. 1–15 session, 16–31 consensus, 32–63 sync, 64–79 gossip pull, 80–95 discovery."""

    HELLO = 1
    STATUS = 2
    CREDIT = 3
    PING = 4
    PONG = 5
    GOODBYE = 6
    CONSENSUS = 16
    BODY_REQUEST = 17
    BODY_RESPONSE = 18
    TRANSACTIONS = 19
    VERDICT = 20
    GET_HEADERS = 32
    HEADERS = 33
    GET_BLOCKS = 34
    BLOCKS = 35
    GET_SNAPSHOTS = 36
    SNAPSHOTS = 37
    GET_CHUNK = 38
    CHUNK = 39
    INV = 64
    GET_DATA = 65
    DATA = 66
    NOT_FOUND = 67
    GET_PEERS = 80
    PEERS = 81


class Flags(IntFlag):
    NONE = 0
    CRITICAL = 1
    """Who does not know this id must close the stream."""
    PRIORITY = 2
    """May overtake frames without this flag in the sender's queue."""
    ACK = 4
    """The receiver answers when it has processed the frame."""


# A plain integer: Python 3.11 inverts an IntFlag within its known bits, so `~` of one would mask nothing unknown.
_KNOWN_FLAGS: Final = int(Flags.CRITICAL | Flags.PRIORITY | Flags.ACK)


@dataclass(frozen=True, slots=True)
class Frame:
    message_id: int
    sequence: int
    flags: Flags
    payload: bytes

    @property
    def known(self) -> bool:
        return self.message_id in MessageId.__members__.values()


def encode_frame(frame: Frame) -> bytes:
    writer = Writer().u32(HEAD_BYTES + len(frame.payload)).u16(frame.message_id).u32(frame.sequence)
    return writer.u8(frame.flags).raw(frame.payload).done()


def next_sequence(sequence: int) -> int:
    """Sequences wrap at 32 bits."""
    return (sequence + 1) & U32_MAX


class FrameDecoder:
    """Cuts a byte stream into frames. A length over the cap is refused as soon as its four bytes are there."""

    def __init__(self, max_payload_bytes: int = MAX_FRAME_PAYLOAD_BYTES) -> None:
        self._most = HEAD_BYTES + max_payload_bytes
        self._buffer = bytearray()

    @property
    def buffered_bytes(self) -> int:
        return len(self._buffer)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """Yields the frames that are complete now; raises `DecodeError` at the first that cannot be one."""
        self._buffer += data
        at = 0
        try:
            while len(self._buffer) - at >= LENGTH_BYTES:
                size = int.from_bytes(self._buffer[at : at + LENGTH_BYTES], "big")
                if size < HEAD_BYTES:
                    raise DecodeError(Malformed.TRUNCATED, f"a frame of {size} bytes is shorter than its head")
                if size > self._most:
                    raise DecodeError(Malformed.TOO_LARGE, f"a frame of {size} bytes, the most is {self._most}")
                if len(self._buffer) - at < LENGTH_BYTES + size:
                    break
                start = at + LENGTH_BYTES
                at = start + size
                yield _frame(bytes(self._buffer[start:at]))
        finally:
            del self._buffer[:at]


def _frame(data: bytes) -> Frame:
    flags = data[6]
    if flags & ~_KNOWN_FLAGS:
        raise DecodeError(Malformed.UNKNOWN_FIELD, f"unknown flags {flags:#04x}")
    return Frame(int.from_bytes(data[:2], "big"), int.from_bytes(data[2:6], "big"), Flags(flags), data[HEAD_BYTES:])
