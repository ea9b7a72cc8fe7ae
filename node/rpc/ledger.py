"""LedgerService: blocks, accounts, history, supply, parameters, the mempool."""

from __future__ import annotations

import heapq
from dataclasses import fields
from typing import Final

from node.rpc.backend import Backend, account_keys
from node.rpc.blocks import block_measures, read_transactions
from node.rpc.dispatch import Call
from node.rpc.encode import account_message, header_message, included_info, state_proof, waiting_info
from node.rpc.errors import Reason, Refused, invalid
from node.rpc.fields import address_field, bounded, require_height
from node.rpc.ledger_half import summary_of
from node.rpc.pages import MAX_PAGE_SIZE, Budget
from node.rpc.port import ProvenRow, TxStatus
from node.rpc.statements import Statements
from node.rpc.transactions import MAX_BATCH, MAX_WAIT_MS
from state.chain import MMR_KEY, read_network, read_totals
from state.mempool import Entry
from state.proofs import VERIFIERS
from state.store.reader import ChainReader
from state.store.rows import HistoryEntry, Tip, decode_history_key, history_key
from state.store.store import Table
from trellis.address import ADDRESS_PREFIX
from trellis.genesis import EngineKind
from trellis.parameters import Parameters, parameter_meanings
from trellis.types import Height
from trellis.v1 import chain_pb2, ledger_service_pb2

_L = ledger_service_pb2

MAX_ADDRESSES: Final = 100
MAX_BLOCKS_A_PAGE: Final = 64
"""Bodies that one page of history, or of blocks, reads from the disk: up to 16 MiB each."""


class LedgerService:
    """Each method as its comment in the schema says."""

    def __init__(self, backend: Backend, statements: Statements, max_request_bytes: int) -> None:
        self._backend = backend
        self._statements = statements
        self._max_request_bytes = max_request_bytes

    async def get_service_info(self, request: _L.GetServiceInfoRequest, call: Call) -> _L.GetServiceInfoResponse:
        backend, genesis = self._backend, self._backend.genesis
        at, lowest = backend.reading.now(lambda reader: (backend.at(reader), reader.bounds.first_body))
        mined = genesis.engine is EngineKind.POW
        return _L.GetServiceInfoResponse(
            at=at,
            chain_name=genesis.chain_name,
            genesis_hash=genesis.hash.hex(),
            genesis_time_ms=genesis.time_ms,
            engine=_L.CONSENSUS_ENGINE_POW if mined else _L.CONSENSUS_ENGINE_PBFT,
            unit_exponent=genesis.parameters.unit_exponent,
            address_prefix=ADDRESS_PREFIX,
            lowest_height=lowest,
            software_version=backend.port.facts.software_version,
            max_page_size=MAX_PAGE_SIZE,
            max_batch_size=MAX_BATCH,
            max_wait_ms=MAX_WAIT_MS,
            max_request_bytes=self._max_request_bytes,
        )

    # Blocks.

    async def get_block(self, request: _L.GetBlockRequest, call: Call) -> _L.GetBlockResponse:
        backend = self._backend
        height = backend.reading.now(lambda reader: backend.named_block(request, reader))
        loaded = await backend.loaded(height)
        at = backend.latest()
        final, include = backend.is_final(height, at.height), request.include_transactions
        block = await backend.reading.compute(lambda: loaded.message(final=final, include=include))
        return _L.GetBlockResponse(at=at, block=block)

    async def get_header(self, request: _L.GetHeaderRequest, call: Call) -> _L.GetHeaderResponse:
        backend = self._backend

        def look(reader: ChainReader) -> _L.GetHeaderResponse:
            height = backend.named_block(request, reader)
            header = reader.header(height)
            if header is None:
                raise reader.corrupt(f"the header of block {height} is missing")
            final = backend.is_final(height, reader.tip.height)
            return _L.GetHeaderResponse(at=backend.at(reader), header=header_message(header), final=final)

        answer = backend.reading.now(look)
        if backend.is_mined:
            height = Height(answer.header.height)
            answer.header.seal = await backend.reading.later(lambda reader: _seal(reader, height))
        if request.include_history_proof:
            await self._prove_history(answer)
        return answer

    async def _prove_history(self, answer: _L.GetHeaderResponse) -> None:
        """By the mountain range in the state after the latest block, which covers all blocks before that one."""
        backend, height = self._backend, Height(answer.header.height)
        proven = await backend.prove((MMR_KEY,))
        answer.at.CopyFrom(backend.tip_ref(proven.tip))
        if height == proven.tip.height:
            return
        count = proven.tip.height
        path = backend.reading.now(lambda reader: reader.prove_block(height, count))
        if path is not None:
            proof = _L.HistoryProof(proof=path.encode(), root=backend.proof_message(proven))
            answer.history_proof.CopyFrom(proof)

    async def list_blocks(self, request: _L.ListBlocksRequest, call: Call) -> _L.ListBlocksResponse:
        backend = self._backend
        size, position = backend.pager.size(request.page), backend.pager.position(request)

        def look(reader: ChainReader) -> _L.ListBlocksResponse:
            tip = reader.tip.height
            low, high = _span(reader, request.min_height, request.max_height)
            if position is not None:
                place = int.from_bytes(position, "big")
                low, high = (place, high) if request.ascending else (low, place)
            wanted = range(low, high + 1) if request.ascending else range(high, low - 1, -1)
            found: list[chain_pb2.BlockSummary] = []
            budget = Budget()
            for height in wanted:
                summary = self._summary(reader, Height(height), tip)
                if len(found) == min(size, MAX_PAGE_SIZE) or not budget.fits(summary):
                    page = backend.pager.response(request, height.to_bytes(8, "big"))
                    return _L.ListBlocksResponse(at=backend.at(reader), blocks=found, page=page)
                found.append(summary)
            return _L.ListBlocksResponse(
                at=backend.at(reader), blocks=found, page=backend.pager.response(request, None)
            )

        return await backend.reading.later(look)

    def _summary(self, reader: ChainReader, height: Height, tip: int) -> chain_pb2.BlockSummary:
        header, data = reader.header(height), reader.block_bytes(height)
        if header is None or data is None:
            raise reader.corrupt(f"block {height} is missing")
        count, size = block_measures(data)
        return chain_pb2.BlockSummary(
            block=self._backend.ref(reader, height, tip),
            timestamp_ms=header.timestamp_ms,
            proposer=header_message(header).proposer,
            view=header.view,
            transaction_count=count,
            size_bytes=size,
        )

    # Accounts.

    async def get_account(self, request: _L.GetAccountRequest, call: Call) -> _L.GetAccountResponse:
        backend, port = self._backend, self._backend.port
        address = address_field(request.address, "address")
        keys = account_keys(address) if request.include_proof else ()

        def look() -> tuple[Tip, _L.Account, tuple[ProvenRow, ...]]:
            # One step of the node: account and proofs are of one state.
            tip = port.tip()
            require_height(max(request.consistency.min_height, 1 if keys else 0), tip.height)
            return tip, account_message(port.accounts((address,))[0]), port.prove(keys)

        tip, account, rows = await backend.bridge.call(look)
        answer = _L.GetAccountResponse(at=backend.tip_ref(tip), account=account)
        if keys:
            header, certificate = backend.certified(tip.height)
            answer.proof.CopyFrom(state_proof(tip.state_root, rows, header, certificate))
        return answer

    async def batch_get_accounts(self, request: _L.BatchGetAccountsRequest, call: Call) -> _L.BatchGetAccountsResponse:
        backend, port = self._backend, self._backend.port
        bounded(len(request.addresses), 1, MAX_ADDRESSES, "addresses")
        places = enumerate(request.addresses)
        addresses = [address_field(text, f"addresses[{place}]") for place, text in places]
        tip, found = await backend.bridge.call(lambda: (port.tip(), port.accounts(addresses)))
        backend.check_fresh(request.consistency, tip.height)
        accounts = [account_message(account) for account in found]
        return _L.BatchGetAccountsResponse(at=backend.tip_ref(tip), accounts=accounts)

    async def list_account_transactions(
        self, request: _L.ListAccountTransactionsRequest, call: Call
    ) -> _L.ListAccountTransactionsResponse:
        backend = self._backend
        address = address_field(request.address, "address")
        size, position = backend.pager.size(request.page), backend.pager.position(request)

        def look(reader: ChainReader) -> _L.ListAccountTransactionsResponse:
            lowest = max(reader.bounds.first_body, reader.bounds.first_result)
            top = request.max_height or reader.tip.height
            require_height(max(request.min_height, top), reader.tip.height)
            start = history_key(address, max(request.min_height, lowest), 0)
            end = history_key(address, top + 1, 0)
            if position is not None:
                start, end = (position, end) if request.ascending else (start, position)
            entries, more = _history(reader, start, end, size, ascending=request.ascending)
            infos, taken = self._infos(reader, entries, include=request.include_transactions)
            after = None
            if more or taken < len(entries):
                last = entries[taken - 1]
                key = history_key(address, last.height, last.index)
                after = key + b"\0" if request.ascending else key
            return _L.ListAccountTransactionsResponse(
                at=backend.at(reader),
                transactions=infos,
                page=backend.pager.response(request, after),
                lowest_height=lowest,
            )

        return await backend.reading.later(look)

    def _infos(
        self, reader: ChainReader, entries: list[HistoryEntry], *, include: bool
    ) -> tuple[list[chain_pb2.TransactionInfo], int]:
        """As many as fit into a page, and how many that are. Transactions of one block are read together."""
        backend, tip = self._backend, reader.tip.height
        by_height: dict[Height, list[int]] = {}
        for entry in entries:
            if entry.height not in by_height and len(by_height) == MAX_BLOCKS_A_PAGE:
                break
            by_height.setdefault(entry.height, []).append(entry.index)
        found: list[chain_pb2.TransactionInfo] = []
        budget = Budget()
        for height, places in by_height.items():
            ordered = sorted(places)
            transactions = dict(zip(ordered, read_transactions(reader, height, ordered) or (), strict=True))
            ref = backend.ref(reader, height, tip)
            for place in places:
                transaction = transactions[place]
                txid = transaction.txid(backend.genesis.hash)
                location = reader.transaction(txid)
                if location is None:
                    raise reader.corrupt(f"the index lacks transaction {txid.hex()}")
                fee, outcome = location.fee, location.outcome
                info = included_info(txid, transaction, place, outcome, fee, ref, include=include)
                if not budget.fits(info):
                    return found, len(found)
                found.append(info)
        return found, len(found)

    # The pool.

    async def get_mempool(self, request: _L.GetMempoolRequest, call: Call) -> _L.GetMempoolResponse:
        backend, port = self._backend, self._backend.port
        sender = address_field(request.sender, "sender") if request.sender else None
        size, position = backend.pager.size(request.page), backend.pager.position(request)
        tip, view = await backend.bridge.call(lambda: (port.tip(), port.pool(sender)))

        def best() -> list[tuple[bytes, Entry]]:
            keyed = ((_pool_key(entry), entry) for entry in view.entries)
            after = (item for item in keyed if position is None or item[0] > position)
            return heapq.nsmallest(size + 1, after, key=lambda item: item[0])

        rows = await backend.reading.compute(best)
        found: list[chain_pb2.TransactionInfo] = []
        budget = Budget()
        for _, entry in rows[:size]:
            kept = entry.transaction if request.include_transactions else None
            info = waiting_info(summary_of(entry), TxStatus.PENDING, kept)
            if not budget.fits(info):
                break
            found.append(info)
        after = rows[len(found) - 1][0] if found and len(found) < len(rows) else None
        return _L.GetMempoolResponse(
            at=backend.tip_ref(tip),
            transaction_count=view.count,
            size_bytes=view.size_bytes,
            capacity_count=view.capacity_count,
            capacity_bytes=view.capacity_bytes,
            proof_count=view.proofs,
            transactions=found,
            page=backend.pager.response(request, after),
        )

    # The whole.

    async def get_supply(self, request: _L.GetSupplyRequest, call: Call) -> _L.GetSupplyResponse:
        backend = self._backend

        def look(reader: ChainReader) -> _L.GetSupplyResponse:
            totals = read_totals(reader)
            return _L.GetSupplyResponse(
                at=backend.at(reader),
                total=str(totals.held),
                genesis=str(totals.genesis_supply),
                emitted=str(totals.emitted),
                burned=str(totals.burned),
                balances=str(totals.balances),
                bonded=str(totals.bonded),
                unbonding=str(totals.unbonding),
                escrow=str(totals.escrow),
                pools="0",  # rewards are paid by the very block that earns them
                emission_cap=str(read_network(reader).parameters.emission_cap),
            )

        return backend.reading.now(look)

    async def get_parameters(self, request: _L.GetParametersRequest, call: Call) -> _L.GetParametersResponse:
        backend = self._backend
        network, at = backend.reading.now(lambda reader: (read_network(reader), backend.at(reader)))
        meanings = parameter_meanings()
        return _L.GetParametersResponse(
            at=at,
            params_hash=network.params_hash.hex(),
            parameters=[
                _L.ChainParameter(
                    name=item.name, value=getattr(network.parameters, item.name), meaning=meanings[item.name]
                )
                for item in fields(Parameters)
            ],
            verifiers=[
                _L.ProofVerifier(name=name, build_hash=network.verifiers[name].hex(), attested=name not in VERIFIERS)
                for name in sorted(network.verifiers)
            ],
        )

    # The proof market.

    async def get_statement(self, request: _L.GetStatementRequest, call: Call) -> _L.GetStatementResponse:
        return await self._statements.one(request)

    async def list_statements(self, request: _L.ListStatementsRequest, call: Call) -> _L.ListStatementsResponse:
        return await self._statements.many(request)


def _span(reader: ChainReader, low: int, high: int) -> tuple[int, int]:
    """The heights asked for, as far as bodies are kept."""
    tip, lowest = reader.tip.height, reader.bounds.first_body
    require_height(max(low, high), tip)
    if low > (high or tip):
        raise invalid("min_height", f"{low} is above max_height")
    if 0 < low < lowest or 0 < high < lowest:
        metadata = {"lowest_height": str(lowest)}
        raise Refused(Reason.HEIGHT_PRUNED, f"blocks below {lowest} are pruned here: ask another node", metadata)
    return max(low, lowest), high or tip


def _seal(reader: ChainReader, height: Height) -> bytes:
    block = reader.block(height)
    return b"" if block is None or block.seal is None else block.seal.encode()


def _history(
    reader: ChainReader, start: bytes, end: bytes, size: int, *, ascending: bool
) -> tuple[list[HistoryEntry], bool]:
    """A page of the index, and whether there is more."""
    found: list[HistoryEntry] = []
    for key, _ in reader.snapshot.scan(Table.HISTORY, start, end, reverse=not ascending):
        if len(found) == size:
            return found, True
        found.append(decode_history_key(key))
    return found, False


def _pool_key(entry: Entry) -> bytes:
    """Ascending: the highest fee a byte first, then by id."""
    return ((1 << 128) - 1 - entry.density).to_bytes(16, "big") + entry.txid
