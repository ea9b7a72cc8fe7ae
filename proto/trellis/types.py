"""The domain's names for integers and byte strings, so that mypy tells a height from a view."""

from __future__ import annotations

from typing import Final, NewType

Height = NewType("Height", int)
View = NewType("View", int)
Units = NewType("Units", int)
"""Base units of value: u64, never negative."""

Hash = NewType("Hash", bytes)
"""32 bytes."""

Address = NewType("Address", bytes)
"""32 bytes; `trellis.address` turns it into `trl1…` and back."""

PeerId = NewType("PeerId", bytes)
"""libp2p's own peer id: raw multihash bytes."""

HASH_BYTES: Final = 32
ZERO_HASH: Final = Hash(bytes(HASH_BYTES))
U8_MAX: Final = 2**8 - 1
U16_MAX: Final = 2**16 - 1
U32_MAX: Final = 2**32 - 1
U64_MAX: Final = 2**64 - 1
