"""A chain that nobody decided, for trying the network out: real headers and blocks, linked by their real hashes.

`StubChain` makes and serves one, `sync` fetches one from a peer and checks what can be checked without a state:
heights, hashes, and that each body is the one its header commits to. There are no certificates and no state, so it
shows transport and requests at work, and proves nothing about a ledger.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from hashlib import shake_128
from itertools import pairwise
from typing import Final

import trio

from p2p.messages import (
    MAX_HEADERS,
    CertifiedBlock,
    CertifiedHeader,
    GetBlocks,
    GetHeaders,
    decode_certified_block,
    decode_get_blocks,
    decode_get_headers,
    decode_headers,
    encode_headers,
)
from p2p.requests import Requests
from trellis.block import Block, decode_block, transaction_leaf, witness_root
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.encoding import DecodeError
from trellis.header import HEADER_BYTES, NOTE_ROOT_EMPTY, PROOF_COMMITMENT_EMPTY, SEAL_NONE, Header, decode_header
from trellis.merkle import merkle_root
from trellis.transaction import Transaction
from trellis.types import ZERO_HASH, Address, Hash, Height, PeerId, View
from trellis.wire import MessageId

BLOCK_MS: Final = 100
FIRST_BLOCK_MS: Final = 1_700_000_000_000
BODY_BYTES: Final = 200
"""Of a made-up transaction, beside a made-up signature of the usual size."""
WINDOW_BLOCKS: Final = 32
WINDOWS: Final = 4
"""Requests for blocks under way at once."""
MAX_WINDOW_BYTES: Final = 64 << 20
DEADLINE_S: Final = 30
MAX_SYNCED: Final = 100_000
"""Of one sync: a peer that never runs out of headers must not fill memory."""


class StubFault(Exception):
    """The peer's chain is none, or not linked; the message says where."""


@dataclass(frozen=True, slots=True)
class StubChain:
    """Encoded headers and blocks of heights 1 to n."""

    genesis_hash: Hash
    headers: tuple[Header, ...]
    blocks: tuple[bytes, ...]

    @classmethod
    def make(cls, genesis_hash: Hash, heights: int, transactions: int) -> StubChain:
        """The same for the same arguments."""
        headers: list[Header] = []
        blocks: list[bytes] = []
        parent = genesis_hash
        for height in range(1, heights + 1):
            body = tuple(_transaction(height, place) for place in range(transactions))
            header = _header(genesis_hash, Height(height), parent, body)
            parent = header.hash
            headers.append(header)
            blocks.append(Block(header, None, body).encode())
        return cls(genesis_hash, tuple(headers), tuple(blocks))

    def serve(self, requests: Requests) -> None:
        requests.serve(MessageId.GET_HEADERS, self._headers)
        requests.serve(MessageId.GET_BLOCKS, self._blocks)

    async def _headers(self, _peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        asked = decode_get_headers(payload)
        places = {self.genesis_hash: 0} | {header.hash: header.height for header in self.headers}
        start = next((places[each] for each in asked.locator if each in places), 0)
        found = self.headers[start : start + asked.count]
        yield MessageId.HEADERS, encode_headers(tuple(CertifiedHeader(each.encode(), b"") for each in found))

    async def _blocks(self, _peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        asked = decode_get_blocks(payload)
        for block in self.blocks[max(asked.first, 1) - 1 :][: asked.count]:
            yield MessageId.BLOCKS, CertifiedBlock(block, b"").encode()


def _transaction(height: int, place: int) -> Transaction:
    size = BODY_BYTES + SIZES[AlgId.ML_DSA_65].signature_bytes
    noise = shake_128(height.to_bytes(8, "big") + place.to_bytes(4, "big")).digest(size)
    return Transaction(noise[:BODY_BYTES], AlgId.ML_DSA_65, b"", noise[BODY_BYTES:])


def _tx_root(genesis_hash: Hash, body: tuple[Transaction, ...]) -> Hash:
    return merkle_root([transaction_leaf(each.txid(genesis_hash), 0, 0) for each in body])


def _header(genesis_hash: Hash, height: Height, parent: Hash, body: tuple[Transaction, ...]) -> Header:
    return Header(
        genesis_hash=genesis_hash,
        height=height,
        view=View(0),
        timestamp_ms=FIRST_BLOCK_MS + height * BLOCK_MS,
        parent_hash=parent,
        parent_certificate_hash=ZERO_HASH,
        tx_root=_tx_root(genesis_hash, body),
        witness_root=witness_root(body),
        state_root=ZERO_HASH,
        note_root=NOTE_ROOT_EMPTY,
        proof_commitment=PROOF_COMMITMENT_EMPTY,
        validators_hash=ZERO_HASH,
        next_validators_hash=ZERO_HASH,
        params_hash=ZERO_HASH,
        engine_seal_hash=SEAL_NONE,
        proposer=Address(ZERO_HASH),
    )


@dataclass(frozen=True, slots=True)
class Synced:
    """What came, and how fast."""

    headers: int
    tip: Hash
    headers_s: float
    blocks: int
    transactions: int
    size_bytes: int
    """Of the blocks."""
    blocks_s: float


async def sync(requests: Requests, peer: PeerId, genesis_hash: Hash) -> Synced:
    """Headers first, then bodies in windows. `StubFault` if they are not what they should be; `RequestError` if the
    peer does not answer."""
    began = time.perf_counter()
    headers = await _fetch_headers(requests, peer, genesis_hash)
    headers_s = time.perf_counter() - began
    began = time.perf_counter()
    size_bytes = transactions = 0
    slots = trio.CapacityLimiter(WINDOWS)

    async def fetch(first: int) -> None:
        nonlocal size_bytes, transactions
        async with slots:
            window = headers[first : first + WINDOW_BLOCKS]
            for block, size in await _fetch_blocks(requests, peer, window):
                size_bytes += size
                transactions += len(block.transactions)

    failure: Exception | None = None
    try:
        async with trio.open_nursery() as nursery:
            for first in range(0, len(headers), WINDOW_BLOCKS):
                nursery.start_soon(fetch, first)
    except* Exception as several:  # the first of them says enough, and callers look for its kind
        failure = _first_of(several)
    if failure is not None:
        raise failure
    tip = headers[-1].hash if headers else genesis_hash
    took_s = time.perf_counter() - began
    return Synced(len(headers), tip, headers_s, len(headers), transactions, size_bytes, took_s)


def _first_of(several: BaseExceptionGroup[Exception]) -> Exception:
    inner = several.exceptions[0]
    return _first_of(inner) if isinstance(inner, BaseExceptionGroup) else inner


async def _fetch_headers(requests: Requests, peer: PeerId, genesis_hash: Hash) -> list[Header]:
    headers: list[Header] = []
    tip = genesis_hash
    while True:
        request = GetHeaders((tip,), MAX_HEADERS).encode()
        frames = await requests.ask(
            peer, MessageId.GET_HEADERS, request, deadline_s=DEADLINE_S, max_bytes=MAX_HEADERS * (HEADER_BYTES + 4) + 4
        )
        try:
            fresh = [decode_header(each.header) for frame in frames for each in decode_headers(frame.payload)]
        except DecodeError as fault:
            raise StubFault(f"after height {len(headers)} no headers came: {fault.detail}") from None
        if not fresh:
            return headers
        _check_links(genesis_hash, headers[-1] if headers else None, fresh)
        headers += fresh
        tip = headers[-1].hash
        if len(headers) > MAX_SYNCED:
            raise StubFault(f"the peer has more than {MAX_SYNCED} headers")


def _check_links(genesis_hash: Hash, last: Header | None, fresh: list[Header]) -> None:
    first = fresh[0]
    height, tip = (0, genesis_hash) if last is None else (last.height, last.hash)
    if first.height != height + 1 or first.parent_hash != tip:
        raise StubFault(f"header {first.height} does not follow {height}")
    for parent, child in pairwise(fresh):
        if child.height != parent.height + 1 or child.parent_hash != parent.hash:
            raise StubFault(f"header {child.height} does not follow {parent.height}")
    if any(each.genesis_hash != genesis_hash for each in fresh):
        raise StubFault("headers of another network")


async def _fetch_blocks(requests: Requests, peer: PeerId, window: list[Header]) -> list[tuple[Block, int]]:
    request = GetBlocks(window[0].height, len(window)).encode()
    frames = await requests.ask(
        peer, MessageId.GET_BLOCKS, request, deadline_s=DEADLINE_S, max_bytes=MAX_WINDOW_BYTES, max_frames=len(window)
    )
    if len(frames) != len(window):
        raise StubFault(f"of {len(window)} blocks from height {window[0].height} on {len(frames)} came")
    blocks: list[tuple[Block, int]] = []
    for header, frame in zip(window, frames, strict=True):
        try:
            encoded = decode_certified_block(frame.payload).block
            block = decode_block(encoded)
        except DecodeError as fault:
            raise StubFault(f"block {header.height}: {fault.detail}") from None
        if block.hash != header.hash:
            raise StubFault(f"block {header.height} has another header than was asked for")
        body = block.transactions
        if (witness_root(body), _tx_root(header.genesis_hash, body)) != (header.witness_root, header.tx_root):
            raise StubFault(f"block {header.height} has another body than its header commits to")
        blocks.append((block, len(encoded)))
    return blocks
