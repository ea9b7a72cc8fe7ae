"""Changes held in memory over a state: what a block or a transaction did, before anyone decides to keep it.

An overlay over an overlay is a transaction within a block: `merge()` keeps what it did, dropping the object forgets it.
Nothing is copied on the way in, so dropping one costs nothing.
"""

from __future__ import annotations

from state.view import Changes, StateView
from trellis.statetree import MAX_KEY_BYTES, MAX_VALUE_BYTES


class Overlay:
    """A view that can be written to. Not for use by several threads."""

    __slots__ = ("_changed", "_parent")

    def __init__(self, parent: StateView) -> None:
        self._parent = parent
        self._changed: dict[bytes, bytes | None] = {}

    def get(self, key: bytes) -> bytes | None:
        changed = self._changed
        return changed[key] if key in changed else self._parent.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        if not 0 < len(key) <= MAX_KEY_BYTES:
            raise ValueError(f"a state key has 1 to {MAX_KEY_BYTES} bytes, not {len(key)}")
        if len(value) > MAX_VALUE_BYTES:
            raise ValueError(f"a state value has at most {MAX_VALUE_BYTES} bytes, not {len(value)}")
        self._changed[key] = value

    def delete(self, key: bytes) -> None:
        """Deleting what is not there changes nothing."""
        self._changed[key] = None

    def child(self) -> Overlay:
        return Overlay(self)

    def merge(self) -> None:
        """Hands this overlay's changes to its parent, and starts afresh over it."""
        if not isinstance(self._parent, Overlay):
            raise TypeError("only an overlay over another overlay can be merged into its parent")
        self._parent._changed.update(self._changed)
        self._changed.clear()

    def drop(self) -> None:
        """Forgets this overlay's changes."""
        self._changed.clear()

    def changes(self) -> Changes:
        """What was written here (not in the parent), in ascending key order."""
        return dict(sorted(self._changed.items()))

    def __len__(self) -> int:
        """How many keys were written here."""
        return len(self._changed)
