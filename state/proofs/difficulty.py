"""How hard a proof was, from what checking it cost: an integer, the same on every validator.

    work       = cost + proof_bytes
    difficulty = 1000 · (1 + log2(1 + work / 1024)), in thousandths, the logarithm linear between powers of two

`cost` is the checker's own counter (bytes read, literals touched); wall time never enters, it would fork the chain.
The proof's bytes count once more because every node carries them. The logarithm is on purpose: a prover who pads a
proof to twice its work gains 1.0, and pays the fee for every byte and the cost fee for every literal of the padding. A
trivial proof has difficulty 1.0; a megabyte proof of pigeonhole-7 about 12.
"""

from __future__ import annotations

from typing import Final

DIFFICULTY_UNIT_MILLI: Final = 1_000
_WORK_SHIFT: Final = 10


def difficulty_milli(cost: int, proof_bytes: int) -> int:
    """Never falls when cost or size grows."""
    if cost < 0 or proof_bytes < 0:
        raise ValueError(f"cost {cost} and size {proof_bytes} cannot be negative")
    scaled = (1 << _WORK_SHIFT) + cost + proof_bytes
    exponent = scaled.bit_length() - 1
    fraction_milli = ((scaled - (1 << exponent)) * DIFFICULTY_UNIT_MILLI) >> exponent
    return DIFFICULTY_UNIT_MILLI * (1 + exponent - _WORK_SHIFT) + fraction_milli
