"""What is kept of the chain, for whoever asks: services, peers that sync, tools on a stopped node.

A reader shows the chain as of one commit and belongs to one thread at a time. What it hands out was checked: rows
carry checksums, and a header must hash to what the mountain range says stands at its height.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Self, TypeVar

from state.events import decode_events
from state.scope import Event, Reward
from state.store.errors import CorruptStoreError
from state.store.rows import (
    BOUNDS_KEY,
    CONSENSUS_KEY,
    TIP_KEY,
    AcceptedEvidence,
    BlockResults,
    Bounds,
    HistoryEntry,
    Tip,
    TxLocation,
    decode_bounds,
    decode_evidence_row,
    decode_history_key,
    decode_results,
    decode_tip,
    decode_tx_location,
    evidence_key,
    height_key,
    history_key,
    mmr_key,
)
from state.store.store import StoreSnapshot, Table
from trellis.block import Block, decode_block
from trellis.certificate import Certificate, decode_certificate
from trellis.header import HEADER_BYTES, Header, decode_header
from trellis.mmr import MmrProof, prove_mmr
from trellis.types import Address, Hash, Height

T = TypeVar("T")

MAX_HISTORY_PAGE: Final = 1_000
"""Stops one query for a busy address from reading the whole index."""

MAX_SCANNED: Final = 256
"""Rows that one page of rewards or evidence looks at, found or not: stops a query for what hardly occurs from reading
the whole chain. A page may so be short, even empty, and not the last."""

MAX_EVIDENCE_PAGE_BYTES: Final = 1 << 21
"""A page of evidence takes no further one from here on: each may have almost a megabyte."""

_REMEDY: Final = "Check the disk; restore a snapshot into an empty directory, or sync again from peers"


def decoded(directory: str, snapshot: StoreSnapshot, name: bytes, decode: Callable[[bytes], T]) -> T:
    """A row of `Table.META` that every chain has."""
    row = snapshot.get(Table.META, name)
    if row is None:
        raise CorruptStoreError(directory, f"row {name.decode()} is missing", _REMEDY)
    try:
        return decode(row)
    except ValueError as fault:
        raise CorruptStoreError(directory, f"row {name.decode()}: {fault}", _REMEDY) from fault


@dataclass(frozen=True, slots=True)
class Paid:
    """A reward, and the block that paid it: one more than the block that it is for, but under proof of work."""

    height: Height
    reward: Reward


@dataclass(frozen=True, slots=True)
class PaidPage:
    """Newest first."""

    rewards: tuple[Paid, ...]
    before: Height | None
    """Where the next page goes on; None where nothing is left."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """Evidence, and the block that accepted it."""

    height: Height
    evidence: AcceptedEvidence


@dataclass(frozen=True, slots=True)
class EvidencePage:
    """Newest first."""

    found: tuple[Accepted, ...]
    before: tuple[Height, int] | None
    """Where the next page goes on; None where nothing is left."""


class ChainReader:
    """The chain as of one commit. It is a `StateView` too, so whatever reads the state's rows reads them here."""

    def __init__(self, snapshot: StoreSnapshot, directory: str) -> None:
        self.snapshot = snapshot
        self.directory = directory

    def corrupt(self, what: str) -> CorruptStoreError:
        return CorruptStoreError(self.directory, what, _REMEDY)

    def row(self, table: Table, key: bytes, decode: Callable[[bytes], T]) -> T:
        """A row that must be there and in order."""
        found = self.optional_row(table, key, decode)
        if found is None:
            raise self.corrupt(f"table {table.value.decode()}: row {key.hex()} is missing")
        return found

    def optional_row(self, table: Table, key: bytes, decode: Callable[[bytes], T]) -> T | None:
        row = self.snapshot.get(table, key)
        if row is None:
            return None
        try:
            return decode(row)
        except ValueError as fault:
            raise self.corrupt(f"table {table.value.decode()}: row {key.hex()}: {fault}") from fault

    @property
    def tip(self) -> Tip:
        return decoded(self.directory, self.snapshot, TIP_KEY, decode_tip)

    @property
    def bounds(self) -> Bounds:
        """What was pruned, or never here."""
        return decoded(self.directory, self.snapshot, BOUNDS_KEY, decode_bounds)

    @property
    def consensus(self) -> bytes:
        return self.snapshot.get(Table.META, CONSENSUS_KEY) or b""

    def block_hash(self, height: Height) -> Hash:
        """Height 0 answers the genesis hash, unless this node began with a snapshot. Only for heights within bounds."""
        return Hash(self.row(Table.MMR, mmr_key(0, height), bytes))

    def header(self, height: Height) -> Header | None:
        header = self.optional_row(Table.HEADERS, height_key(height), decode_header)
        if header is not None and header.hash != self.block_hash(height):
            raise self.corrupt(f"the header at height {height} is another block's")
        return header

    def headers(self, first: Height, count: int) -> Iterator[Header]:
        """Ascending, as many as there are."""
        for height in range(first, first + count):
            header = self.header(Height(height))
            if header is None:
                return
            yield header

    def height_of(self, block_hash: Hash) -> Height | None:
        key = self.snapshot.get(Table.HEIGHTS, block_hash)
        return None if key is None else Height(int.from_bytes(key, "big"))

    def block_bytes(self, height: Height) -> bytes | None:
        """The block as it travelled; None where there is none, or its body was pruned."""
        block = self.snapshot.get(Table.BLOCKS, height_key(height))
        if block is None:
            tip, bounds = self.tip, self.bounds
            if bounds.first_body <= height <= tip.height:
                raise self.corrupt(f"the body of block {height} is missing")
            return None
        header = self.header(height)
        if header is None or block[:HEADER_BYTES] != header.encode():
            raise self.corrupt(f"the body kept for height {height} is another block's")
        return block

    def block(self, height: Height) -> Block | None:
        data = self.block_bytes(height)
        if data is None:
            return None
        try:
            return decode_block(data)
        except ValueError as fault:
            raise self.corrupt(f"the body of block {height}: {fault}") from fault

    def certificate_bytes(self, height: Height) -> bytes | None:
        return self.snapshot.get(Table.CERTIFICATES, height_key(height))

    def certificate(self, height: Height) -> Certificate | None:
        """One of the certificates of the block at a height: the one this node kept."""
        found = self.optional_row(Table.CERTIFICATES, height_key(height), decode_certificate)
        if found is not None and (found.height, found.block_hash) != (height, self.block_hash(height)):
            raise self.corrupt(f"the certificate kept for height {height} is another block's")
        return found

    def results(self, height: Height) -> BlockResults | None:
        """Outcomes and fees in block order, and the addresses touched."""
        return self.optional_row(Table.RESULTS, height_key(height), decode_results)

    def events(self, height: Height) -> tuple[Event, ...] | None:
        """Rewards, slashes, statements closed, sets announced; None for blocks that are not kept, or not here yet."""
        found = self.optional_row(Table.EVENTS, height_key(height), decode_events)
        if found is None and self.bounds.first_result <= height <= self.tip.height:
            raise self.corrupt(f"the events of block {height} are missing")
        return found

    def rewards(
        self, limit: int, before: Height | None = None, *, validator: Address | None = None, down_to: int = 1
    ) -> PaidPage:
        """Payments in the blocks below `before` (the tip included without it), as far down as `down_to` or what is
        kept. The page ends with the block that fills it, so it may be longer than `limit` by one block's payments."""
        if not 0 < limit <= MAX_HISTORY_PAGE:
            raise ValueError(f"a page of rewards has 1 to {MAX_HISTORY_PAGE} entries, not {limit}")
        top = self.tip.height if before is None else min(self.tip.height, before - 1)
        last = max(down_to, self.bounds.first_result)
        found: list[Paid] = []
        for height in range(top, last - 1, -1):
            if len(found) >= limit or top - height >= MAX_SCANNED:
                return PaidPage(tuple(found), Height(height + 1))
            for event in self.events(Height(height)) or ():
                if isinstance(event, Reward) and validator in (None, event.address):
                    found.append(Paid(Height(height), event))
        return PaidPage(tuple(found), None)

    def evidence(
        self,
        limit: int,
        before: tuple[Height, int] | None = None,
        *,
        accused: Address | None = None,
        kind: int | None = None,
        min_offence_height: int = 0,
    ) -> EvidencePage:
        """Evidence that the chain accepted and that is kept, of one validator or kind if asked."""
        if not 0 < limit <= MAX_HISTORY_PAGE:
            raise ValueError(f"a page of evidence has 1 to {MAX_HISTORY_PAGE} entries, not {limit}")
        end = None if before is None else evidence_key(*before)
        found: list[Accepted] = []
        size = 0
        # No evidence is older than its offence, so none below that height can be asked for.
        rows = self.snapshot.scan(Table.EVIDENCE, height_key(min_offence_height), end, reverse=True)
        for seen, (key, row) in enumerate(rows):
            accepted = self.accepted(key, row)
            item = accepted.evidence
            if len(found) == limit or seen == MAX_SCANNED or size >= MAX_EVIDENCE_PAGE_BYTES:
                return EvidencePage(tuple(found), (Height(accepted.height), item.index + 1))
            size += len(row)
            wanted = accused in (None, item.accused) and kind in (None, item.kind)
            if wanted and item.offence_height >= min_offence_height:
                found.append(accepted)
        return EvidencePage(tuple(found), None)

    def accepted(self, key: bytes, row: bytes) -> Accepted:
        """A row of the table of evidence."""
        try:
            return Accepted(*decode_evidence_row(key, row))
        except ValueError as fault:
            raise self.corrupt(f"evidence {key.hex()}: {fault}") from fault

    def transaction(self, txid: Hash) -> TxLocation | None:
        return self.optional_row(Table.TRANSACTIONS, txid, decode_tx_location)

    def history(
        self, address: Address, limit: int, before: tuple[Height, int] | None = None
    ) -> tuple[HistoryEntry, ...]:
        """The latest transactions that touched an address, newest first; the next page is `before` the last entry."""
        if not 0 < limit <= MAX_HISTORY_PAGE:
            raise ValueError(f"a page of history has 1 to {MAX_HISTORY_PAGE} entries, not {limit}")
        end = address + b"\xff" * 12 if before is None else history_key(address, *before)
        found: list[HistoryEntry] = []
        for key, _ in self.snapshot.scan(Table.HISTORY, address, end, reverse=True):
            try:
                found.append(decode_history_key(key))
            except ValueError as fault:
                raise self.corrupt(f"history row {key.hex()}: {fault}") from fault
            if len(found) == limit:
                break
        return tuple(found)

    def state(self, key: bytes) -> bytes | None:
        """A state value as of this commit. Where absence must be certain, ask `ChainStore.state`."""
        return self.snapshot.get(Table.STATE, key)

    def get(self, key: bytes) -> bytes | None:
        """`state`, by the name that a `StateView` has for it."""
        return self.state(key)

    def prove_block(self, height: Height, count: int) -> MmrProof | None:
        """That block `height` is in the chain of blocks 0 … count − 1: the range under the state root of `count`. None
        for blocks from before this node began."""
        if not 0 <= height < count <= self.tip.height + 1:
            raise ValueError(f"block {height} of the range of {count}: the chain has {self.tip.height + 1}")
        if height < self.bounds.first_header and self.bounds.first_header > 1:
            return None

        def subtree(start: int, level: int) -> Hash:
            return Hash(self.row(Table.MMR, mmr_key(level, start >> level), bytes))

        return prove_mmr(height, count, subtree)

    def close(self) -> None:
        self.snapshot.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
