"""Mutations of valid bytes: flips, cuts, insertions, repetitions, swaps, hostile lengths. Reproducible from a seed."""

from __future__ import annotations

import random
from typing import Final

_EDGES: Final = (0x00, 0x01, 0x7F, 0x80, 0xFE, 0xFF)
_LENGTHS: Final = (0, 1, 2, 255, 256, 65_535, 2**31 - 1, 2**31, 2**32 - 1)


def mutate(data: bytes, draw: random.Random) -> bytes:
    """One to four mutations."""
    raw = bytearray(data)
    for _ in range(draw.choice((1, 1, 1, 2, 4))):
        _mutate_once(raw, draw)
    return bytes(raw)


def _place(raw: bytearray, draw: random.Random) -> int:
    """Structure sits at the front of an object more often than in the middle of a key."""
    if not raw:
        return 0
    return draw.randrange(min(len(raw), 64)) if draw.random() < 0.4 else draw.randrange(len(raw))


def _mutate_once(raw: bytearray, draw: random.Random) -> None:
    at, how = _place(raw, draw), draw.randrange(9)
    size = draw.choice((1, 1, 2, 4, 8, 32))
    if how == 0 and raw:
        raw[at] ^= 1 << draw.randrange(8)
    elif how == 1 and raw:
        raw[at] = draw.choice(_EDGES)
    elif how == 2:
        del raw[at : at + size]
    elif how == 3:
        raw[at:at] = bytes(draw.choice(_EDGES) for _ in range(size))
    elif how == 4:
        raw[at:at] = raw[at : at + size]
    elif how == 5:
        raw[at : at + 4] = draw.choice(_LENGTHS).to_bytes(4, "big")
    elif how == 6:
        del raw[at:]
    elif how == 7:
        raw += bytes(draw.choice(_EDGES) for _ in range(size))
    else:
        other = _place(raw, draw)
        raw[at : at + size], raw[other : other + size] = raw[other : other + size], raw[at : at + size]
