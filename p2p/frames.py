"""Frames on their way out: heads packed beside payloads that are shared, cut into pieces that others can pass between.

A broadcast's payload is encoded once and referred to by every queue; only the eleven bytes of the head differ. A piece
is one yamux frame and one record at most, so writers of other streams of the connection wait for no more than that.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Final

from trellis.wire import HEAD_BYTES

PIECE_BYTES: Final = (64 << 10) - 12
"""What yamux sends as one frame, its header included."""
_HEAD: Final = struct.Struct(">IHIB")
FRAME_OVERHEAD_BYTES: Final = _HEAD.size


def head(message_id: int, sequence: int, flags: int, payload_bytes: int) -> bytes:
    """What stands before the payload; `trellis.wire` has the layout."""
    return _HEAD.pack(HEAD_BYTES + payload_bytes, message_id, sequence, flags)


def pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    """The same bytes in pieces of at most `PIECE_BYTES`. Small parts go together; of a large one each byte is copied
    once."""
    held: list[bytes] = []
    room = PIECE_BYTES
    for part in parts:
        at, size = 0, len(part)
        while size - at >= room:
            held.append(part[at : at + room])
            at += room
            yield b"".join(held)
            held, room = [], PIECE_BYTES
        if at < size:
            held.append(part[at:])
            room -= size - at
    if held:
        yield b"".join(held)
