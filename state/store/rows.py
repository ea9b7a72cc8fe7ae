"""The layouts of the store's rows. Malformed rows raise `DecodeError`; whoever reads a disk turns it into a finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from trellis.constants import MAX_BLOCK_TRANSACTIONS
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole, lp
from trellis.evidence import MAX_EVIDENCE_BYTES
from trellis.statetree import MAX_KEY_BYTES, MAX_VALUE_BYTES, Node
from trellis.types import HASH_BYTES, Address, Hash, Height

FORMAT_VERSION: Final = 1
FORMAT_KEY: Final = b"format"
TIP_KEY: Final = b"tip"
BOUNDS_KEY: Final = b"bounds"
CONSENSUS_KEY: Final = b"consensus"

_LOCATION: Final = Struct(">QIHQ")
_RESULT: Final = Struct(">32sHQ")
_TOUCHED: Final = Struct(">32sI")
"""Thousands of these are written with every block, so they bypass the codec's field by field writing."""

MAX_ROW_BYTES: Final = 1 << 31
"""Our own rows: a bound for the codec's sake, far above the largest block or undo record."""


def height_key(height: int) -> bytes:
    return height.to_bytes(8, "big")


def bucket_key(index: int) -> bytes:
    return index.to_bytes(4, "big")


def mmr_key(level: int, index: int) -> bytes:
    return level.to_bytes(1, "big") + index.to_bytes(8, "big")


def history_key(address: bytes, height: int, index: int) -> bytes:
    return address + height.to_bytes(8, "big") + index.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class ChainIdentity:
    """What a directory belongs to."""

    genesis_hash: Hash
    buckets_log2: int

    def encode(self) -> bytes:
        return Writer().u16(FORMAT_VERSION).hash(self.genesis_hash).u8(self.buckets_log2).done()


def format_version(row: bytes) -> int:
    """Readable in every format there will ever be: the first two bytes."""
    return int.from_bytes(row[:2], "big")


def decode_identity(row: bytes) -> ChainIdentity:
    def read(reader: Reader) -> ChainIdentity:
        reader.u16("format version")
        return ChainIdentity(reader.hash("genesis hash"), reader.u8("buckets"))

    return decode_whole(row, "format row", 64, read)


@dataclass(frozen=True, slots=True)
class Tip:
    """The last committed block, and the state after it. Height 0 is the genesis."""

    height: Height
    block_hash: Hash
    """At height 0 the genesis hash."""
    state_root: Hash
    leaves: int
    size_bytes: int

    @property
    def node(self) -> Node:
        return Node(self.state_root, self.leaves, self.size_bytes)

    def encode(self) -> bytes:
        writer = Writer().u64(self.height).hash(self.block_hash).hash(self.state_root)
        return writer.u64(self.leaves).u64(self.size_bytes).done()


def decode_tip(row: bytes) -> Tip:
    def read(reader: Reader) -> Tip:
        height, block_hash = Height(reader.u64("height")), reader.hash("block hash")
        return Tip(height, block_hash, reader.hash("state root"), reader.u64("leaves"), reader.u64("bytes"))

    return decode_whole(row, "tip row", 128, read)


@dataclass(frozen=True, slots=True)
class Bounds:
    """From which height on things are kept; below were they pruned, or never here (a node started from a snapshot)."""

    first_header: Height
    """Headers, certificates, hashes and mountain range nodes."""
    first_body: Height
    first_result: Height
    """Results, events, evidence, and the transaction and history indexes."""
    first_undo: Height

    def encode(self) -> bytes:
        writer = Writer().u64(self.first_header).u64(self.first_body)
        return writer.u64(self.first_result).u64(self.first_undo).done()


def decode_bounds(row: bytes) -> Bounds:
    def read(reader: Reader) -> Bounds:
        first_header, first_body = Height(reader.u64("first header")), Height(reader.u64("first body"))
        return Bounds(first_header, first_body, Height(reader.u64("first result")), Height(reader.u64("first undo")))

    return decode_whole(row, "bounds row", 64, read)


@dataclass(frozen=True, slots=True)
class TxResult:
    """What became of one transaction of a block: with the txid, its leaf under tx_root."""

    txid: Hash
    outcome: int
    fee: int


@dataclass(frozen=True, slots=True)
class TxLocation:
    """Where a transaction stands, and what became of it."""

    height: Height
    index: int
    outcome: int
    fee: int

    def encode(self) -> bytes:
        return _LOCATION.pack(self.height, self.index, self.outcome, self.fee)


def location_rows(height: int, results: Sequence[TxResult]) -> dict[bytes, bytes | None]:
    """Where the transactions of a block stand, by their ids."""
    pack = _LOCATION.pack
    return {result.txid: pack(height, index, result.outcome, result.fee) for index, result in enumerate(results)}


def history_rows(height: int, touched: Iterable[tuple[Address, int]]) -> dict[bytes, bytes | None]:
    """What a block adds to the histories of addresses."""
    place = height.to_bytes(8, "big")
    return {b"%b%b%b" % (address, place, index.to_bytes(4, "big")): b"" for address, index in touched}


def decode_tx_location(row: bytes) -> TxLocation:
    def read(reader: Reader) -> TxLocation:
        height, index = Height(reader.u64("height")), reader.u32("index")
        return TxLocation(height, index, reader.u16("outcome"), reader.u64("fee"))

    return decode_whole(row, "transaction row", 22, read)


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A transaction that touched an address."""

    address: Address
    height: Height
    index: int


def decode_history_key(key: bytes) -> HistoryEntry:
    if len(key) != HASH_BYTES + 12:
        raise DecodeError(Malformed.WRONG_SIZE, f"a history key of {len(key)} bytes")
    height = int.from_bytes(key[HASH_BYTES:-4], "big")
    return HistoryEntry(Address(key[:HASH_BYTES]), Height(height), int.from_bytes(key[-4:], "big"))


@dataclass(frozen=True, slots=True)
class BlockResults:
    """What came of a block: all that taking it back, pruning it or proving a transaction in it needs."""

    results: tuple[TxResult, ...]
    touched: tuple[tuple[Address, int], ...]
    """An address, and the index of a transaction that touched it."""

    def encode(self) -> bytes:
        parts = [len(self.results).to_bytes(4, "big")]
        pack = _RESULT.pack
        parts += [pack(result.txid, result.outcome, result.fee) for result in self.results]
        parts.append(len(self.touched).to_bytes(4, "big"))
        parts += [_TOUCHED.pack(*pair) for pair in self.touched]
        return b"".join(parts)


def decode_results(row: bytes) -> BlockResults:
    def read(reader: Reader) -> BlockResults:
        number = reader.count("results", MAX_BLOCK_TRANSACTIONS, HASH_BYTES + 10)
        results = tuple(TxResult(reader.hash("txid"), reader.u16("outcome"), reader.u64("fee")) for _ in range(number))
        number = reader.count("touched addresses", MAX_ROW_BYTES, HASH_BYTES + 4)
        touched = tuple((Address(reader.hash("address")), reader.u32("index")) for _ in range(number))
        return BlockResults(results, touched)

    return decode_whole(row, "results row", MAX_ROW_BYTES, read)


def evidence_key(height: int, index: int) -> bytes:
    return height.to_bytes(8, "big") + index.to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class AcceptedEvidence:
    """An accusation that cost stake. Rare, and paid for by its sender, so it is kept whole beside the block."""

    index: int
    """Of its transaction in the block."""
    kind: int
    """Of `trellis.evidence.EvidenceKind`."""
    accused: Address
    offence_height: Height
    units: int
    """Stake taken."""
    reporter: Address
    txid: Hash
    evidence: bytes

    def encode(self) -> bytes:
        writer = Writer().u8(self.kind).hash(self.accused).u64(self.offence_height).u64(self.units)
        return writer.hash(self.reporter).hash(self.txid).lp(self.evidence).done()


def decode_evidence_row(key: bytes, row: bytes) -> tuple[Height, AcceptedEvidence]:
    """The block's height, and what it accepted."""
    if len(key) != 12:
        raise DecodeError(Malformed.WRONG_SIZE, f"an evidence key of {len(key)} bytes")
    index = int.from_bytes(key[8:], "big")

    def read(reader: Reader) -> AcceptedEvidence:
        kind, accused = reader.u8("kind"), Address(reader.hash("accused"))
        offence, units = Height(reader.u64("offence height")), reader.u64("units")
        reporter, txid = Address(reader.hash("reporter")), reader.hash("txid")
        data = reader.lp("evidence", MAX_EVIDENCE_BYTES)
        return AcceptedEvidence(index, kind, accused, offence, units, reporter, txid, data)

    found = decode_whole(row, "evidence row", MAX_EVIDENCE_BYTES + 256, read)
    return Height(int.from_bytes(key[:8], "big")), found


def encode_undo(previous: Mapping[bytes, bytes | None]) -> bytes:
    """number u32 ‖ (lp(key) ‖ flag ‖ lp(value) if there was one) each."""
    parts = [len(previous).to_bytes(4, "big")]
    for key, value in previous.items():
        parts += (lp(key), b"\0") if value is None else (lp(key), b"\1", lp(value))
    return b"".join(parts)


def decode_undo(row: bytes) -> dict[bytes, bytes | None]:
    def read(reader: Reader) -> dict[bytes, bytes | None]:
        previous: dict[bytes, bytes | None] = {}
        for _ in range(reader.count("undone keys", MAX_ROW_BYTES, 5)):
            key = reader.lp("key", MAX_KEY_BYTES)
            previous[key] = reader.lp("value", MAX_VALUE_BYTES) if reader.flag("presence") else None
        return previous

    return decode_whole(row, "undo row", MAX_ROW_BYTES, read)
