"""Work and difficulty: integers and header timestamps only, so that every node computes the same target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from trellis.hashing import Tag, hash_tagged
from trellis.header import Header, Seal
from trellis.parameters import Parameters

MAX_TARGET: Final = (1 << 256) - 1
MAX_STEP: Final = 4
"""A window of lying timestamps moves the difficulty by this factor at the most."""


class Spaced(NamedTuple):
    """What difficulty reads of a block."""

    timestamp_ms: int
    target: int


def work_hash(header: Header, seal: Seal) -> int:
    """SHA3-256(tag ‖ header with engine_seal_hash zero ‖ target ‖ nonce), as a big-endian integer."""
    return int.from_bytes(hash_tagged(Tag.WORK, header.work_preimage(), seal.encode()), "big")


def meets_target(header: Header, seal: Seal) -> bool:
    """The header names this seal, and the seal's work suffices for the seal's own target."""
    return header.engine_seal_hash == seal.hash and work_hash(header, seal) <= seal.target


def work_of(target: int) -> int:
    """Hashes that finding a nonce takes on average."""
    return (1 << 256) // (target + 1)


def first_target(parameters: Parameters) -> int:
    return 1 << parameters.pow_initial_target_log2


def next_target(recent: Sequence[Spaced], parameters: Parameters) -> int:
    """The target of the block after `recent`, ascending; looks `pow_retarget_blocks` back.

    mean target of the window × time it took ÷ time it should have taken, both ways bounded by `MAX_STEP`.
    """
    window = recent[-parameters.pow_retarget_blocks - 1 :]
    if len(window) < 2:
        return first_target(parameters)
    spans = len(window) - 1
    wanted_ms = spans * parameters.block_interval_ms
    took_ms = window[-1].timestamp_ms - window[0].timestamp_ms
    took_ms = min(max(took_ms, wanted_ms // MAX_STEP, 1), wanted_ms * MAX_STEP)
    mean = sum(block.target for block in window[1:]) // spans
    return min(max(mean * took_ms // wanted_ms, 1), MAX_TARGET)
