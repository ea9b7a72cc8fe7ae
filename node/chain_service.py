"""What this node's store tells peers of its chain: certified headers after a locator, and blocks by height.

Everything here is read from one snapshot of the store and given out piece by piece: the asker's credit bounds what is
read, so a small question never makes this node read its whole chain.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from typing import Final

import trio

from p2p.messages import (
    CertifiedBlock,
    CertifiedHeader,
    Status,
    decode_get_blocks,
    decode_get_headers,
    encode_headers,
)
from p2p.requests import Requests
from state.store.reader import ChainReader
from trellis.types import Hash, Height, PeerId
from trellis.wire import MessageId

HEADERS_FRAME_BYTES: Final = 128 << 10
"""Headers and certificates in one frame; the first always goes."""

Read = Callable[[], ChainReader]


def headers_after(reader: ChainReader, locator: tuple[Hash, ...], count: int) -> Iterator[CertifiedHeader]:
    """After the newest block of the locator that is in this chain; nothing if none of them is."""
    common = (found for each in locator if (found := _height_of(reader, each)) is not None)
    start = next(common, None)
    if start is None:
        return
    for height in range(start + 1, min(start + count, reader.tip.height) + 1):
        header, certificate = reader.header(Height(height)), reader.certificate_bytes(Height(height))
        if header is None or not certificate:
            return
        yield CertifiedHeader(header.encode(), certificate)


def _height_of(reader: ChainReader, block_hash: Hash) -> Height | None:
    found = reader.height_of(block_hash)
    if found is None and reader.bounds.first_header == 1 and block_hash == reader.block_hash(Height(0)):
        return Height(0)
    return found


def blocks_from(reader: ChainReader, first: Height, count: int) -> Iterator[CertifiedBlock]:
    """As many as there are; a pruned one ends it."""
    for height in range(max(first, 1), min(first + count - 1, reader.tip.height) + 1):
        block, certificate = reader.block_bytes(Height(height)), reader.certificate_bytes(Height(height))
        if block is None or not certificate:
            return
        yield CertifiedBlock(block, certificate)


class ChainService:
    def __init__(self, read: Read) -> None:
        self._read = read

    def serve(self, requests: Requests) -> None:
        requests.serve(MessageId.GET_HEADERS, self._headers)
        requests.serve(MessageId.GET_BLOCKS, self._blocks)

    def status(self, syncing: bool) -> Status:
        with self._read() as reader:
            tip, bounds = reader.tip, reader.bounds
        return Status(tip.height, tip.block_hash, min(bounds.first_body, Height(tip.height + 1)), syncing)

    async def _headers(self, _peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        asked = decode_get_headers(payload)
        with self._read() as reader:
            held: list[CertifiedHeader] = []
            size = 0
            for each in headers_after(reader, asked.locator, asked.count):
                size += len(each.header) + len(each.certificate)
                if held and size > HEADERS_FRAME_BYTES:
                    yield MessageId.HEADERS, encode_headers(tuple(held))
                    held, size = [], len(each.header) + len(each.certificate)
                held.append(each)
            yield MessageId.HEADERS, encode_headers(tuple(held))

    async def _blocks(self, _peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        asked = decode_get_blocks(payload)
        with self._read() as reader:
            oldest = reader.bounds.first_body
            if asked.first < oldest and asked.first <= reader.tip.height:
                # Pruned here: the asker goes elsewhere. The payload says from where on there are bodies.
                yield MessageId.NOT_FOUND, oldest.to_bytes(8, "big")
                return
            for each in blocks_from(reader, asked.first, asked.count):
                yield MessageId.BLOCKS, each.encode()
                await trio.lowlevel.checkpoint()
