"""The statement registry: what was posted, with which escrow, and what became of it. Deduplicated by content hash."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple

from state.accounts import credit
from state.overlay import Overlay
from state.scope import BlockScope, Due, StatementExpired, read_due
from state.view import StateView
from trellis.encoding import Reader, Writer
from trellis.transaction import MAX_VERIFIER_NAME_BYTES
from trellis.types import HASH_BYTES, ZERO_HASH, Address, Hash, Height

RECORD_PREFIX: Final = b"s"
BYTES_PREFIX: Final = b"S"
COMMITMENT_PREFIX: Final = b"c"

MAX_STATEMENT_LIFE_BLOCKS: Final = 1_000_000
"""An escrow comes back some day, even if its poster mistyped the expiry."""

MAX_EXPIRIES_PER_HEIGHT: Final = 1_024
"""Stops posters from letting all their statements expire in one block, whose end would then take seconds."""

COMMITMENT_LIFE_BLOCKS: Final = 10_000
"""A commitment that nobody reveals is forgotten: rows must not pile up for ever."""


class Status(IntEnum):
    OPEN = 0
    PROVEN = 1
    """By a proof that every validator checked."""
    ATTESTED_PROVEN = 2
    ATTESTED_REFUTED = 3
    EXPIRED = 4
    """May be posted again."""


@dataclass(frozen=True, slots=True)
class Statement:
    verifier: str
    poster: Address
    escrow: int
    """Zero once it was paid out or returned."""
    posted_at: Height
    expiry: Height
    """The last height at which it can be closed."""
    status: Status
    closed_at: Height
    winner: Address
    """Who proved it; zero where nobody did, or where attesting validators shared."""
    difficulty_milli: int

    def encode(self) -> bytes:
        writer = Writer().u64(self.escrow).u8(self.status).text(self.verifier).hash(self.poster)
        writer.u64(self.posted_at).u64(self.expiry).u64(self.closed_at).hash(self.winner)
        return writer.u64(self.difficulty_milli).done()


def escrow_in(row: bytes) -> int:
    """The value that a statement's row holds."""
    return int.from_bytes(row[:8], "big")


def open_statement(verifier: str, poster: Address, bounty: int, posted_at: Height, expiry: Height) -> Statement:
    nobody = Address(ZERO_HASH)
    return Statement(verifier, poster, bounty, posted_at, expiry, Status.OPEN, Height(0), nobody, 0)


def read_statement(view: StateView, statement: Hash) -> Statement | None:
    row = view.get(RECORD_PREFIX + statement)
    if row is None:
        return None
    reader = Reader(row)
    escrow, status = reader.u64("escrow"), Status(reader.u8("status"))
    verifier, poster = reader.text("verifier", MAX_VERIFIER_NAME_BYTES), Address(reader.hash("poster"))
    posted_at, expiry = Height(reader.u64("posted")), Height(reader.u64("expiry"))
    closed_at, winner = Height(reader.u64("closed")), Address(reader.hash("winner"))
    difficulty = reader.u64("difficulty")
    return Statement(verifier, poster, escrow, posted_at, expiry, status, closed_at, winner, difficulty)


def write_statement(state: Overlay, statement: Hash, record: Statement) -> None:
    state.put(RECORD_PREFIX + statement, record.encode())


def read_statement_bytes(view: StateView, statement: Hash) -> bytes | None:
    return view.get(BYTES_PREFIX + statement)


def write_statement_bytes(state: Overlay, statement: Hash, content: bytes) -> None:
    state.put(BYTES_PREFIX + statement, content)


class Commitment(NamedTuple):
    hash: Hash
    height: Height


_HEIGHT: Final = Struct(">Q")


def read_commitment(view: StateView, statement: Hash, sender: Address) -> Commitment | None:
    row = view.get(COMMITMENT_PREFIX + statement + sender)
    if row is None:
        return None
    return Commitment(Hash(row[:HASH_BYTES]), Height(_HEIGHT.unpack_from(row, HASH_BYTES)[0]))


def write_commitment(state: Overlay, statement: Hash, sender: Address, commitment: Commitment) -> None:
    state.put(COMMITMENT_PREFIX + statement + sender, commitment.hash + _HEIGHT.pack(commitment.height))


def delete_commitment(state: Overlay, statement: Hash, sender: Address) -> None:
    state.delete(COMMITMENT_PREFIX + statement + sender)


def bytes_needed_until(closed_at: int, window: int) -> int:
    """Evidence about a proof of this statement may come as long as the window lasts after it closed."""
    return closed_at + window + 1


def close(record: Statement, status: Status, at: Height, winner: Address, difficulty_milli: int = 0) -> Statement:
    return Statement(
        record.verifier, record.poster, 0, record.posted_at, record.expiry, status, at, winner, difficulty_milli
    )


def expire_statements(block: BlockScope) -> None:
    """Whatever is still open at its expiry gives its escrow back; its fee is kept."""
    window = block.network.parameters.evidence_window_blocks
    for item in read_due(block.state, Due.STATEMENT, block.height):
        record = read_statement(block.state, Hash(item))
        if record is None or record.status is not Status.OPEN or record.expiry != block.height:
            continue
        credit(block.state, record.poster, record.escrow)
        closed = close(record, Status.EXPIRED, block.height, Address(ZERO_HASH))
        write_statement(block.state, Hash(item), closed)
        until = bytes_needed_until(block.height, window)
        block.due.setdefault((Due.STATEMENT_BYTES, until), []).append(item)
        block.events.append(StatementExpired(Hash(item), record.poster, record.escrow))


def forget_statements(block: BlockScope) -> None:
    """Drops the bytes of statements that closed a window ago, and the whole record of those that merely expired."""
    window = block.network.parameters.evidence_window_blocks
    for item in read_due(block.state, Due.STATEMENT_BYTES, block.height):
        record = read_statement(block.state, Hash(item))
        if record is None or record.status is Status.OPEN:
            continue
        if bytes_needed_until(record.closed_at, window) > block.height:
            # Posted again in the meantime, and closed again: a later entry of the list is the one that counts.
            continue
        block.state.delete(BYTES_PREFIX + item)
        if record.status is Status.EXPIRED:
            block.state.delete(RECORD_PREFIX + item)


def forget_commitments(block: BlockScope) -> None:
    for item in read_due(block.state, Due.COMMITMENT, block.height):
        statement, sender = Hash(item[:HASH_BYTES]), Address(item[HASH_BYTES:])
        commitment = read_commitment(block.state, statement, sender)
        if commitment is not None and commitment.height + COMMITMENT_LIFE_BLOCKS <= block.height:
            delete_commitment(block.state, statement, sender)
