"""What executing rules may read, and what they leave behind."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

Changes = Mapping[bytes, bytes | None]
"""Key to new value; None deletes. Whoever applies changes does so in ascending key order."""


class StateView(Protocol):
    """The state as it stands somewhere: committed, after a speculative block, or within a transaction."""

    def get(self, key: bytes) -> bytes | None:
        """The value at a key, or None where there is none."""
        ...
