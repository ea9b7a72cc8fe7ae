"""How much of the past is kept, and letting go of the rest: a few blocks with every commit, never all at once."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from state.store.rows import Bounds, decode_results, height_key, history_key
from state.store.store import Batch, StoreSnapshot, Table
from trellis.types import Height


@dataclass(frozen=True, slots=True)
class Retention:
    """Heights kept below the tip; None keeps all. Headers, certificates and the mountain range are always kept: they
    are what receipts and light clients need, and small."""

    bodies: int | None = None
    """Block bodies: what syncing peers ask for."""
    results: int | None = None
    """Results, and with them events, evidence, and the transaction and history indexes."""
    undo_blocks: int = 16
    """Blocks that can be rolled back; a proof-of-work engine needs its confirmation depth."""

    def __post_init__(self) -> None:
        for name, value in (("bodies", self.bodies), ("results", self.results)):
            if value is not None and value < max(1, self.undo_blocks):
                raise ValueError(
                    f"retention of {name} ({value}) must cover undo_blocks ({self.undo_blocks}) and the tip"
                )
        if self.undo_blocks < 0:
            raise ValueError(f"undo_blocks is {self.undo_blocks}")

    def wanted(self, bounds: Bounds, tip: int) -> Bounds:
        """The bounds once nothing is in arrears."""
        return replace(
            bounds,
            first_body=_bound(bounds.first_body, tip, self.bodies),
            first_result=_bound(bounds.first_result, tip, self.results),
            first_undo=_bound(bounds.first_undo, tip, self.undo_blocks),
        )

    def arrears(self, bounds: Bounds, tip: int) -> int:
        """How many heights are still to be pruned."""
        wanted = self.wanted(bounds, tip)
        return max(
            wanted.first_body - bounds.first_body,
            wanted.first_result - bounds.first_result,
            wanted.first_undo - bounds.first_undo,
        )


KEEP_ALL: Final = Retention()


def _bound(now: Height, tip: int, kept: int | None) -> Height:
    return now if kept is None else Height(max(now, tip + 1 - kept))


def prune_into(
    batch: Batch, snapshot: StoreSnapshot, bounds: Bounds, tip: int, retention: Retention, blocks: int
) -> Bounds:
    """Adds to the batch the deletion of up to so many heights of each kind; the bounds after it."""
    wanted = retention.wanted(bounds, tip)
    first_body = Height(min(wanted.first_body, bounds.first_body + blocks))
    first_result = Height(min(wanted.first_result, bounds.first_result + blocks))
    first_undo = Height(min(wanted.first_undo, bounds.first_undo + blocks))
    for height in range(bounds.first_body, first_body):
        batch.delete(Table.BLOCKS, height_key(height))
    for height in range(bounds.first_undo, first_undo):
        batch.delete(Table.UNDO, height_key(height))
    for height in range(bounds.first_result, first_result):
        _prune_results(batch, snapshot, height)
    return replace(bounds, first_body=first_body, first_result=first_result, first_undo=first_undo)


def _prune_results(batch: Batch, snapshot: StoreSnapshot, height: int) -> None:
    row = snapshot.get(Table.RESULTS, height_key(height))
    if row is None:
        return
    results = decode_results(row)
    for result in results.results:
        batch.delete(Table.TRANSACTIONS, result.txid)
    for address, index in results.touched:
        batch.delete(Table.HISTORY, history_key(address, height, index))
    for key, _ in snapshot.scan(Table.EVIDENCE, height_key(height), height_key(height + 1)):
        batch.delete(Table.EVIDENCE, key)
    batch.delete(Table.EVENTS, height_key(height))
    batch.delete(Table.RESULTS, height_key(height))
