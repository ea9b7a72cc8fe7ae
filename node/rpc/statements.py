"""Statements of the proof market: what the state says of them, and what only blocks remember.

The state keeps what the rules need. How large the bounty was and which transaction settled a statement stand in the
blocks where it was posted and closed; where those are pruned, these fields stay empty.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Final

from node.rpc.backend import Backend
from node.rpc.blocks import BlockGone, LoadedBlock, load_block
from node.rpc.errors import Reason, Refused
from node.rpc.fields import address_field, address_text, bounded, hash_field
from node.rpc.pages import Budget
from state.statements import (
    BYTES_PREFIX,
    RECORD_PREFIX,
    Statement,
    Status,
    read_statement,
    read_statement_bytes,
)
from state.store.reader import ChainReader
from state.store.store import Table
from trellis.encoding import DecodeError
from trellis.outcome import Outcome
from trellis.records import decode_verdict_batch
from trellis.transaction import Attest, Kind, PostStatement, RevealProof, Transaction
from trellis.types import ZERO_HASH, Address, Hash, Height
from trellis.v1 import ledger_service_pb2

_L = ledger_service_pb2

_STATUS: Final = {
    Status.OPEN: _L.STATEMENT_STATUS_OPEN,
    Status.PROVEN: _L.STATEMENT_STATUS_PROVEN,
    Status.ATTESTED_PROVEN: _L.STATEMENT_STATUS_PROVEN,
    Status.ATTESTED_REFUTED: _L.STATEMENT_STATUS_REFUTED,
    Status.EXPIRED: _L.STATEMENT_STATUS_EXPIRED,
}
MAX_VERIFIER_CHARACTERS: Final = 64
MAX_BLOCKS_A_PAGE: Final = 64
"""Read and parsed for one page: some 20 ms each where they are full."""


class Statements:
    """The two methods about statements."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def one(self, request: _L.GetStatementRequest) -> _L.GetStatementResponse:
        statement_id = hash_field(request.statement_id, "statement_id")
        backend = self._backend

        def look(reader: ChainReader) -> _L.GetStatementResponse:
            backend.check_fresh(request.consistency, reader.tip.height)
            record = read_statement(reader, statement_id)
            if record is None:
                raise Refused(Reason.NOT_FOUND, "the state holds no statement with this id")
            message = describe(reader, statement_id, record, {})
            message.statement = read_statement_bytes(reader, statement_id) or b""
            return _L.GetStatementResponse(at=backend.at(reader), statement=message)

        return await backend.reading.later(look)

    async def many(self, request: _L.ListStatementsRequest) -> _L.ListStatementsResponse:
        backend = self._backend
        size, position = backend.pager.size(request.page), backend.pager.position(request)
        bounded(request.status, 0, len(_L.StatementStatus.keys()) - 1, "status")
        bounded(len(request.verifier), 0, MAX_VERIFIER_CHARACTERS, "verifier")
        poster = address_field(request.poster, "poster") if request.poster else None

        def wanted(record: Statement) -> bool:
            right_status = not request.status or _STATUS[record.status] == request.status
            return right_status and request.verifier in ("", record.verifier) and poster in (None, record.poster)

        def look(reader: ChainReader) -> _L.ListStatementsResponse:
            rows = ((_newest_first(record, key), key, record) for key, record in _all(reader) if wanted(record))
            later = (row for row in rows if position is None or row[0] > position)
            chosen = heapq.nsmallest(size + 1, later, key=lambda row: row[0])
            blocks: dict[Height, LoadedBlock | BlockGone] = {}
            found: list[_L.Statement] = []
            budget = Budget()
            for _, statement_id, record in chosen[:size]:
                message = describe(reader, statement_id, record, blocks)
                if not budget.fits(message):
                    break
                found.append(message)
                if len(blocks) >= MAX_BLOCKS_A_PAGE:
                    break
            after = chosen[len(found) - 1][0] if found and len(found) < len(chosen) else None
            page = backend.pager.response(request, after)
            return _L.ListStatementsResponse(at=backend.at(reader), statements=found, page=page)

        return await backend.reading.later(look)


def _all(reader: ChainReader) -> list[tuple[Hash, Statement]]:
    found: list[tuple[Hash, Statement]] = []
    for key, _ in reader.snapshot.scan(Table.STATE, RECORD_PREFIX, bytes((RECORD_PREFIX[0] + 1,))):
        record = read_statement(reader, Hash(key[1:]))
        if record is not None:
            found.append((Hash(key[1:]), record))
    return found


def _newest_first(record: Statement, statement_id: Hash) -> bytes:
    return ((1 << 64) - 1 - record.posted_at).to_bytes(8, "big") + statement_id


def describe(
    reader: ChainReader, statement_id: Hash, record: Statement, blocks: dict[Height, LoadedBlock | BlockGone]
) -> _L.Statement:
    """`blocks` remembers what was read, for lists."""
    content = reader.state(BYTES_PREFIX + statement_id)
    posted = _transaction_in(reader, record.posted_at, blocks, lambda kind: _posts(kind, statement_id))
    settled = None
    if record.status not in (Status.OPEN, Status.EXPIRED):
        settled = _transaction_in(reader, record.closed_at, blocks, lambda kind: _settles(kind, statement_id))
    bounty, size = record.escrow, 0 if content is None else len(content)
    if posted is not None and isinstance(posted[1].parsed.kind, PostStatement):
        bounty, size = posted[1].parsed.kind.bounty, len(posted[1].parsed.kind.statement)
    return _L.Statement(
        statement_id=statement_id.hex(),
        verifier=record.verifier,
        status=_STATUS[record.status],
        poster=address_text(record.poster),
        bounty=str(bounty),
        posted_height=record.posted_at,
        expiry_height=record.expiry,
        size_bytes=size,
        prover="" if record.winner == Address(ZERO_HASH) else address_text(record.winner),
        settled_by_txid="" if settled is None else settled[0].hex(),
        settled_height=record.closed_at,
        difficulty=record.difficulty_milli,
    )


def _transaction_in(
    reader: ChainReader, height: Height, blocks: dict[Height, LoadedBlock | BlockGone], sought: Callable[[Kind], bool]
) -> tuple[Hash, Transaction] | None:
    """The first successful transaction of a block that fits, with its id."""
    if height not in blocks:
        blocks[height] = load_block(reader, height) if height else BlockGone(Height(1))
    loaded = blocks[height]
    if isinstance(loaded, BlockGone):
        return None
    for transaction, result in zip(loaded.block.transactions, loaded.results, strict=True):
        if result.outcome == Outcome.OK and sought(transaction.parsed.kind):
            return result.txid, transaction
    return None


def _posts(kind: Kind, statement_id: Hash) -> bool:
    return isinstance(kind, PostStatement) and kind.statement_id == statement_id


def _settles(kind: Kind, statement_id: Hash) -> bool:
    match kind:
        case RevealProof():
            return kind.statement_id == statement_id
        case Attest():
            try:
                batch = decode_verdict_batch(kind.batch)
            except DecodeError:
                return False
            return any(entry == statement_id for entry, _ in batch.entries)
        case _:
            return False
