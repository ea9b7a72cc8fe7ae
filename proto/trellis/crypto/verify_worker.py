"""The far side of a `Verifier`: a process that reads chunks of signature checks and answers with verdicts.

It trusts whoever started it and nobody else: its input is a pipe that only the parent holds. When the parent dies, the
pipe ends, and so does the worker. A chunk is

    u32 bytes that follow ‖ u32 chunk number ‖ u16 count ‖ count × u8 alg_id ‖ count × 4 × u32 lengths ‖ the fields

and its answer is u32 chunk number ‖ u16 count ‖ count × u8 verdict. One join and one write a chunk: pickling the same
checks takes ten times as long, under the GIL.
"""

from __future__ import annotations

import os
import signal
import struct
import sys
from collections.abc import Sequence
from io import FileIO
from typing import Final

from trellis.crypto.algorithms import SIZES, SignatureCheck
from trellis.crypto.schemes import verify_all

READY: Final = b"\x01"
"""The worker's first byte: its imports worked."""

_PREFIX: Final = struct.Struct("!IH")
FRAME_LENGTH: Final = struct.Struct("!I")


def encode_chunk(number: int, checks: Sequence[SignatureCheck]) -> bytes:
    count = len(checks)
    # An algorithm number may be a stranger's: what no byte holds is as unknown as 0.
    algorithms = bytes(check.alg_id if check.alg_id in SIZES else 0 for check in checks)
    fields = [part for check in checks for part in check[1:]]
    lengths = struct.pack(f"!{4 * count}I", *map(len, fields))
    body = b"".join((_PREFIX.pack(number, count), algorithms, lengths, *fields))
    return FRAME_LENGTH.pack(len(body)) + body


def decode_chunk(body: bytes) -> tuple[int, list[SignatureCheck]]:
    """The parent's own bytes: a fault in them is a bug and raises whatever it raises."""
    number, count = _PREFIX.unpack_from(body)
    at = _PREFIX.size
    algorithms = body[at : at + count]
    at += count
    lengths = struct.unpack_from(f"!{4 * count}I", body, at)
    at += 16 * count
    fields = []
    for length in lengths:
        fields.append(body[at : at + length])
        at += length
    return number, [SignatureCheck(algorithms[i], *fields[4 * i : 4 * i + 4]) for i in range(count)]


def encode_answer(number: int, verdicts: Sequence[bool]) -> bytes:
    return _PREFIX.pack(number, len(verdicts)) + bytes(verdicts)


def decode_answer(received: bytes) -> tuple[int, bytes, bytes] | None:
    """Chunk number, verdicts and what follows them; None while the answer is incomplete."""
    if len(received) < _PREFIX.size:
        return None
    number, count = _PREFIX.unpack_from(received)
    end = _PREFIX.size + count
    if len(received) < end:
        return None
    return number, received[_PREFIX.size : end], received[end:]


def read_exactly(pipe: FileIO, size: int) -> bytes | None:
    """None at the end of the pipe, also in the middle of a frame: the other side is gone."""
    parts = []
    while size:
        part = pipe.read(size)
        if not part:
            return None
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def serve(requests: FileIO, answers: FileIO) -> None:
    answers.write(READY)
    while (header := read_exactly(requests, FRAME_LENGTH.size)) is not None:
        body = read_exactly(requests, FRAME_LENGTH.unpack(header)[0])
        if body is None:
            return
        number, checks = decode_chunk(body)
        answers.write(encode_answer(number, verify_all(checks)))


def main() -> None:
    # Ctrl-C reaches the whole process group: the parent decides what it means, and the pipe's end tells the worker.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    answers = os.fdopen(os.dup(1), "wb", buffering=0)
    # Nothing that prints may corrupt the answers.
    os.dup2(2, 1)
    try:
        serve(requests, answers)
    except (BrokenPipeError, KeyboardInterrupt):
        sys.exit(0)


if __name__ == "__main__":
    main()
