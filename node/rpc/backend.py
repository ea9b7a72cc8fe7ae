"""What all services share: the port, the bridge to it, the store's readers, and the answers to "which block?"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from threading import Lock
from typing import Any, Final

from node.rpc.blocks import BlockCache, BlockGone, LoadedBlock, read_transactions
from node.rpc.bridge import Bridge
from node.rpc.encode import block_ref, included_info, state_proof, waiting_info
from node.rpc.errors import Reason, Refused
from node.rpc.fields import bounded, hash_field, pruned, require_height
from node.rpc.ledger_half import final_height
from node.rpc.pages import Pager
from node.rpc.port import NodePort, ProvenRow, TxFate, TxStatus
from node.rpc.reading import Reading
from state.store.reader import ChainReader
from state.store.rows import Tip, TxLocation
from trellis.genesis import EngineKind, Genesis
from trellis.types import Address, Hash, Height
from trellis.v1 import chain_pb2, common_pb2
from trellis.validators import ValidatorSet, decode_validator_set

PROOFS_A_STEP: Final = 16
"""Proofs made between two steps of the node: some 2 ms."""

PROOF_ATTEMPTS: Final = 4
"""Many proofs are made in pieces and must be of one block; then they are asked for in one piece."""

MAX_KNOWN_SETS: Final = 16


@dataclass(frozen=True, slots=True)
class ProvenRows:
    """Rows with proofs under one block's state root."""

    tip: Tip
    rows: tuple[ProvenRow, ...]


@dataclass
class Backend:
    """Belongs to the asyncio thread."""

    port: NodePort
    bridge: Bridge
    reading: Reading
    blocks: BlockCache
    pager: Pager
    _sets: dict[Hash, ValidatorSet] = field(default_factory=dict)
    _sets_lock: Lock = field(default_factory=Lock)

    @cached_property
    def genesis(self) -> Genesis:
        return self.port.genesis

    # Which block, and how final.

    def is_final(self, height: int, tip: int) -> bool:
        return height <= final_height(self.genesis, tip)

    def tip_ref(self, tip: Tip) -> common_pb2.BlockRef:
        return block_ref(tip.height, tip.block_hash, final=self.is_final(tip.height, tip.height))

    def at(self, reader: ChainReader) -> common_pb2.BlockRef:
        """The latest block in a snapshot of the store."""
        return self.tip_ref(reader.tip)

    def ref(self, reader: ChainReader, height: Height, tip: int) -> common_pb2.BlockRef:
        block_hash = reader.block_hash(height) if height else self.genesis.hash
        return block_ref(height, block_hash, final=self.is_final(height, tip))

    def latest(self) -> common_pb2.BlockRef:
        return self.reading.now(self.at)

    def height(self) -> int:
        return self.reading.now(lambda reader: reader.tip.height)

    def final_height(self) -> Height:
        return final_height(self.genesis, self.height())

    def final_ref(self, height: Height) -> common_pb2.BlockRef:
        return self.reading.now(lambda reader: self.ref(reader, height, reader.tip.height))

    def check_body(self, height: int) -> None:
        lowest = self.reading.now(lambda reader: max(reader.bounds.first_body, reader.bounds.first_result))
        if height < lowest:
            raise pruned(height, lowest)

    def check_fresh(self, consistency: common_pb2.Consistency, tip: int) -> None:
        require_height(consistency.min_height, tip)

    def named_block(self, request: Any, reader: ChainReader) -> Height:
        """The block that a request's `oneof block` names, the latest by default. Its header is kept here."""
        tip, lowest = reader.tip.height, reader.bounds.first_header
        match request.WhichOneof("block"):
            case "height":
                bounded(request.height, 1, (1 << 64) - 1, "height")
                height = require_height(request.height, tip)
            case "block_hash":
                found = reader.height_of(hash_field(request.block_hash, "block_hash"))
                if found is None:
                    raise Refused(Reason.NOT_FOUND, "no block with this hash stands in the chain of this node")
                height = found
            case _:
                height = require_height(max(tip, 1), tip)
        if height < lowest:
            raise pruned(height, lowest)
        return height

    def check_kept(self, reader: ChainReader, height: int) -> None:
        """Headers are never pruned, but a node that began with a snapshot has none from before."""
        lowest = reader.bounds.first_header
        if 0 < height < lowest:
            raise pruned(height, lowest)

    async def loaded(self, height: Height) -> LoadedBlock:
        found = await self.blocks.get(height)
        if isinstance(found, BlockGone):
            raise pruned(height, found.lowest)
        return found

    # Validator sets.

    def validators(self, set_hash: Hash) -> ValidatorSet | None:
        """Any thread."""
        with self._sets_lock:
            found = self._sets.get(set_hash)
        if found is None:
            data = self.port.validator_set(set_hash)
            if data is None:
                return None
            found = decode_validator_set(data)
            with self._sets_lock:
                if len(self._sets) >= MAX_KNOWN_SETS:
                    del self._sets[next(iter(self._sets))]
                self._sets[set_hash] = found
        return found

    # Proofs of state.

    async def prove(self, keys: Sequence[bytes]) -> ProvenRows:
        """Under the state root of one certified header. The first header is block 1's."""
        for attempt in range(PROOF_ATTEMPTS):
            whole = attempt == PROOF_ATTEMPTS - 1
            proven = await self._prove(keys, len(keys) if whole else PROOFS_A_STEP)
            if proven is not None:
                require_height(1, proven.tip.height)
                return proven
        raise Refused(Reason.RATE_LIMITED, "the chain moves faster than the proofs are made", retry_after_ms=100)

    async def _prove(self, keys: Sequence[bytes], step: int) -> ProvenRows | None:
        """None if a block was committed meanwhile."""
        rows: list[ProvenRow] = []
        first: Tip | None = None
        for start in range(0, len(keys), step):
            piece = keys[start : start + step]
            tip, proven = await self.bridge.call(lambda piece=piece: (self.port.tip(), self.port.prove(piece)))
            if first is not None and tip != first:
                return None
            first = tip
            rows += proven
        return None if first is None else ProvenRows(first, tuple(rows))

    def certified(self, height: Height) -> tuple[bytes, bytes]:
        """A header and a certificate of it; proof of work has none."""
        return self.reading.now(lambda reader: _certified_bytes(reader, height))

    def proof_message(self, proven: ProvenRows) -> chain_pb2.StateProof:
        header, certificate = self.certified(proven.tip.height)
        return state_proof(proven.tip.state_root, proven.rows, header, certificate)

    # Transactions.

    async def fate(self, txid: Hash) -> TxFate | None:
        """Where a transaction is: the index of the store first, which costs no wake-up."""
        location = self.reading.now(lambda reader: reader.transaction(txid))
        if location is None:
            return (await self.bridge.call(self.port.lookup, (txid,)))[0]
        final = self.is_final(location.height, self.height())
        return TxFate(TxStatus.FINAL if final else TxStatus.INCLUDED, location=location)

    async def info(self, txid: Hash, fate: TxFate, *, include: bool) -> chain_pb2.TransactionInfo:
        """What is known of it, with the transaction itself where it was asked for and is kept."""
        if fate.location is not None:
            return await self._included(txid, fate.location, include=include)
        if fate.summary is None:
            raise ValueError("a transaction in no block has a summary")
        return waiting_info(fate.summary, fate.status, fate.transaction if include else None)

    async def _included(self, txid: Hash, location: TxLocation, *, include: bool) -> chain_pb2.TransactionInfo:
        tip, ref = self.reading.now(
            lambda reader: (reader.tip.height, self.ref(reader, location.height, reader.tip.height))
        )
        known = self.blocks.peek(Hash(bytes.fromhex(ref.block_hash)))
        if known is None and tip - location.height < RECENT_BLOCKS:
            # Others will ask for the newest blocks too.
            known = await self.loaded(location.height)
        if known is not None:
            return known.info(location.index, final=ref.final, include=include)
        found = await self.reading.later(lambda reader: read_transactions(reader, location.height, (location.index,)))
        if found is None:
            lowest = self.reading.now(lambda reader: reader.bounds.first_body)
            raise pruned(location.height, lowest)
        fee, outcome = location.fee, location.outcome
        return included_info(txid, found[0], location.index, outcome, fee, ref, include=include)

    @property
    def is_mined(self) -> bool:
        return self.genesis.engine is EngineKind.POW


RECENT_BLOCKS: Final = 8


def _certified_bytes(reader: ChainReader, height: Height) -> tuple[bytes, bytes]:
    header = reader.header(height)
    if header is None:
        raise reader.corrupt(f"the header of block {height} is missing")
    return header.encode(), reader.certificate_bytes(height) or b""


def account_keys(address: Address) -> tuple[bytes, ...]:
    """All rows that an account has, in ascending order of key, as `trellis.client` wants them proven."""
    return tuple(prefix + address for prefix in (b"a", b"k", b"u", b"v"))


def statement_keys(statement: Hash) -> tuple[bytes, ...]:
    return (b"S" + statement, b"s" + statement)


def unknown_transaction() -> Refused:
    return Refused(
        Reason.TX_UNKNOWN, "no such transaction in this node's mempool or in the blocks that it keeps: submit it again"
    )
