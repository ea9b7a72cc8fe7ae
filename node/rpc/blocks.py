"""Blocks as the services need them: read, decoded and serialised once, however many ask.

A subscriber to blocks, a wallet that waits and one that wants its receipt all look at the newest blocks. They share
one decoded block, one serialised form of it, and one Merkle tree over its outcomes.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from node.rpc.encode import block_ref, header_message, included_info
from node.rpc.reading import Reading
from state.store.reader import ChainReader
from state.store.rows import TxResult
from state.transactions import transaction_bytes
from trellis.block import Block, decode_block, transaction_leaf
from trellis.header import HEADER_BYTES
from trellis.merkle import InclusionProof, node_hash, split
from trellis.transaction import Transaction, Transfer, decode_transaction
from trellis.types import Hash, Height
from trellis.v1 import chain_pb2, common_pb2, subscription_service_pb2

MAX_CACHED_BLOCKS: Final = 256
MAX_CACHED_BYTES: Final = 48 << 20
"""Of blocks as they travelled; decoded they take some three times as much."""


class LoadedBlock:
    """A block with the outcomes of its transactions. Immutable, but for what it remembers to have computed."""

    def __init__(self, block: Block, results: tuple[TxResult, ...], size_bytes: int) -> None:
        if len(results) != len(block.transactions):
            raise ValueError(f"block {block.header.height} has other results than transactions")
        self.block = block
        self.header = block.header
        self.results = results
        self.raw_bytes = size_bytes
        self._streamed: dict[bool, bytes] = {}

    @cached_property
    def size_bytes(self) -> int:
        """Bodies and witnesses."""
        return sum(transaction_bytes(transaction) for transaction in self.block.transactions)

    def ref(self, *, final: bool) -> common_pb2.BlockRef:
        return block_ref(self.header.height, self.header.hash, final=final)

    def info(self, index: int, *, final: bool, include: bool) -> chain_pb2.TransactionInfo:
        result = self.results[index]
        transaction = self.block.transactions[index]
        ref = self.ref(final=final)
        return included_info(result.txid, transaction, index, result.outcome, result.fee, ref, include=include)

    def message(self, *, final: bool, include: bool) -> chain_pb2.Block:
        places = range(len(self.results))
        return chain_pb2.Block(
            header=header_message(self.header, self.block),
            final=final,
            transactions=[self.info(place, final=final, include=include) for place in places],
            size_bytes=self.size_bytes,
        )

    def streamed(self, *, include: bool) -> bytes:
        """All of a `SubscribeBlocksResponse` but its field `at`, made once for all subscribers."""
        found = self._streamed.get(include)
        if found is None:
            block = self.message(final=True, include=include)
            message = subscription_service_pb2.SubscribeBlocksResponse(
                block=block, resume_height=self.header.height + 1
            )
            found = self._streamed[include] = message.SerializeToString()
        return found

    def is_streamed(self, *, include: bool) -> bool:
        return include in self._streamed

    @cached_property
    def _index(self) -> dict[bytes | str, tuple[int, ...]]:
        """Places by txid, by kind, and by the address that sent or was paid."""
        found: dict[bytes | str, list[int]] = {}
        for place, (transaction, result) in enumerate(zip(self.block.transactions, self.results, strict=True)):
            body = transaction.parsed
            keys: dict[bytes | str, None] = {result.txid: None, body.kind_name: None, body.sender: None}
            if isinstance(body.kind, Transfer):
                keys.update((output.recipient, None) for output in body.kind.outputs)
            for key in keys:
                found.setdefault(key, []).append(place)
        return {key: tuple(places) for key, places in found.items()}

    def places(self, *wanted: Collection[bytes | str]) -> list[int]:
        """Of the transactions that match every filter that is not empty, in block order."""
        chosen: set[int] | None = None
        for names in wanted:
            if names:
                matching = {place for name in names for place in self._index.get(name, ())}
                chosen = matching if chosen is None else chosen & matching
        return sorted(range(len(self.results)) if chosen is None else chosen)

    @cached_property
    def _tree(self) -> dict[tuple[int, int], Hash]:
        """Every subtree of the outcomes' Merkle tree, by (start, leaves)."""
        leaves = [transaction_leaf(result.txid, result.outcome, result.fee) for result in self.results]
        nodes: dict[tuple[int, int], Hash] = {}

        def grow(start: int, count: int) -> Hash:
            if count == 1:
                node = leaves[start]
            else:
                left = split(count)
                node = node_hash(grow(start, left), grow(start + left, count - left), count)
            nodes[start, count] = node
            return node

        grow(0, len(leaves))
        return nodes

    def path(self, index: int) -> InclusionProof:
        """What `trellis.merkle.prove_inclusion` makes, without hashing the whole block for each receipt."""
        hashes: list[tuple[int, Hash]] = []
        start, count = 0, len(self.results)
        while count > 1:
            left = split(count)
            if index < start + left:
                hashes.append((start + left, self._tree[start + left, count - left]))
                count = left
            else:
                hashes.append((start, self._tree[start, left]))
                start, count = start + left, count - left
        return InclusionProof(len(self.results), (index,), tuple(node for _, node in sorted(hashes)))


@dataclass(frozen=True, slots=True)
class BlockGone:
    """The body or the outcomes of the block are not kept here."""

    lowest: Height


class BlockCache:
    """Belongs to the asyncio thread; the reading itself happens on the reading threads."""

    def __init__(self, reading: Reading) -> None:
        self._reading = reading
        self._blocks: OrderedDict[Hash, LoadedBlock] = OrderedDict()
        self._bytes = 0
        self._loading: dict[Hash, asyncio.Task[LoadedBlock | BlockGone]] = {}

    async def get(self, height: Height) -> LoadedBlock | BlockGone:
        """The block that stands at a height that the chain has."""
        block_hash = self._reading.now(lambda reader: reader.block_hash(height))
        found = self._blocks.get(block_hash)
        if found is not None:
            self._blocks.move_to_end(block_hash)
            return found
        task = self._loading.get(block_hash)
        if task is None:
            task = self._loading[block_hash] = asyncio.ensure_future(self._load(height, block_hash))
        # One caller's cancellation is not everybody's.
        return await asyncio.shield(task)

    def peek(self, block_hash: Hash) -> LoadedBlock | None:
        """Only what is here already."""
        return self._blocks.get(block_hash)

    async def _load(self, height: Height, block_hash: Hash) -> LoadedBlock | BlockGone:
        try:
            loaded = await self._reading.later(lambda reader: load_block(reader, height))
            if isinstance(loaded, LoadedBlock):
                self._keep(block_hash, loaded)
            return loaded
        finally:
            del self._loading[block_hash]

    def _keep(self, block_hash: Hash, loaded: LoadedBlock) -> None:
        self._blocks[block_hash] = loaded
        self._bytes += loaded.raw_bytes
        while len(self._blocks) > 1 and (len(self._blocks) > MAX_CACHED_BLOCKS or self._bytes > MAX_CACHED_BYTES):
            self._bytes -= self._blocks.popitem(last=False)[1].raw_bytes


def load_block(reader: ChainReader, height: Height) -> LoadedBlock | BlockGone:
    data, results = reader.block_bytes(height), reader.results(height)
    if data is None or results is None:
        bounds = reader.bounds
        return BlockGone(Height(max(bounds.first_body, bounds.first_result)))
    return LoadedBlock(decode_block(data), results.results, len(data))


def block_measures(data: bytes) -> tuple[int, int]:
    """Number of transactions, and the bytes of bodies and witnesses, of a block as it travelled."""
    at = _transactions_at(data)
    count = int.from_bytes(data[at - 4 : at], "big")
    return count, len(data) - at - 4 * count


def _transactions_at(data: bytes) -> int:
    """Where the first transaction's length stands: after header, parent certificate, seal and the count."""
    at = HEADER_BYTES
    for _ in range(2):
        at += 4 + int.from_bytes(data[at : at + 4], "big")
    return at + 4


def read_transactions(reader: ChainReader, height: Height, places: Sequence[int]) -> list[Transaction] | None:
    """Some transactions of a block, without parsing the thousands between them; None where the body is not kept.
    `places` ascend."""
    data = reader.block_bytes(height)
    if data is None:
        return None
    at, place = _transactions_at(data), 0
    found: list[Transaction] = []
    for wanted in places:
        while place < wanted:
            at += 4 + int.from_bytes(data[at : at + 4], "big")
            place += 1
        found.append(decode_transaction(data[at + 4 : at + 4 + int.from_bytes(data[at : at + 4], "big")]))
    return found
