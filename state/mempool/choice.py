"""A block's worth of entries in the making: caps, and each sender's nonces in order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from state.mempool.entry import Entry, SenderQueue
from trellis.parameters import Parameters
from trellis.types import Address

MAX_MISFITS: Final = 64
"""A block that is full but for a few bytes is full: without this bound, choosing for it would walk the whole pool."""


class Choice:
    """What was taken so far, in the order in which the block should have it."""

    __slots__ = ("_bytes", "_cost", "_misfits", "_next", "_parameters", "taken")

    def __init__(self, parameters: Parameters) -> None:
        self._parameters = parameters
        self._bytes = 0
        self._cost = 0
        self._misfits = 0
        self._next: dict[Address, int] = {}
        self.taken: list[Entry] = []

    @property
    def full(self) -> bool:
        return len(self.taken) >= self._parameters.max_block_transactions or self._misfits >= MAX_MISFITS

    def next_of(self, queue: SenderQueue) -> Entry | None:
        """The sender's next one, after what was taken of it."""
        return queue.entries.get(self._next.get(queue.sender, queue.base))

    def _fits(self, entries: Sequence[Entry]) -> bool:
        parameters = self._parameters
        return (
            len(self.taken) + len(entries) <= parameters.max_block_transactions
            and self._bytes + sum(entry.size_bytes for entry in entries) <= parameters.max_block_bytes
            and self._cost + sum(entry.proof_cost for entry in entries) <= parameters.max_block_proof_cost
        )

    def _put(self, entry: Entry) -> None:
        self.taken.append(entry)
        self._bytes += entry.size_bytes
        self._cost += entry.proof_cost
        self._next[entry.sender] = entry.nonce + 1

    def take(self, entry: Entry) -> bool:
        """False where there is no room; its sender's later ones then wait too."""
        if not self._fits((entry,)):
            self._misfits += 1
            return False
        self._put(entry)
        return True

    def take_up_to(self, queue: SenderQueue, proof: Entry) -> None:
        """A proof and all that must come before it, or none of them."""
        first = self._next.get(proof.sender, queue.base)
        before = [queue.entries.get(nonce) for nonce in range(first, proof.nonce + 1)]
        entries = [entry for entry in before if entry is not None]
        if len(entries) == len(before) and self._fits(entries):
            for entry in entries:
                self._put(entry)
