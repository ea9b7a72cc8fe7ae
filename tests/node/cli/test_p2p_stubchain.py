"""The made-up chain: a peer that serves another one than it says is found out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from node.stubchain import StubChain, StubFault, sync
from p2p.requests import Requests
from tests.p2p.kit import GENESIS, POLICY
from tests.p2p.net import config, hosts, run
from trellis.block import Block, decode_block
from trellis.types import Hash, Height

HEIGHTS = 70


def chain(genesis_hash: Hash = GENESIS) -> StubChain:
    return StubChain.make(genesis_hash, HEIGHTS, 2)


def without_block(at: StubChain) -> StubChain:
    return replace(at, blocks=at.blocks[:-1])


def with_header_missing(at: StubChain) -> StubChain:
    return replace(at, headers=(*at.headers[:30], *at.headers[31:]))


def with_renumbered_header(at: StubChain) -> StubChain:
    renumbered = replace(at.headers[30], height=Height(99))
    return replace(at, headers=(*at.headers[:30], renumbered, *at.headers[31:]))


def with_a_fork(at: StubChain) -> StubChain:
    forked = replace(at.headers[30], parent_hash=POLICY)
    return replace(at, headers=(*at.headers[:30], forked, *at.headers[31:]))


def with_another_body(at: StubChain) -> StubChain:
    block = decode_block(at.blocks[30])
    forged = Block(block.header, None, block.transactions[::-1]).encode()
    return replace(at, blocks=(*at.blocks[:30], forged, *at.blocks[31:]))


def with_another_signature(at: StubChain) -> StubChain:
    block = decode_block(at.blocks[30])
    first = replace(block.transactions[0], signature=bytes(len(block.transactions[0].signature)))
    forged = Block(block.header, None, (first, *block.transactions[1:])).encode()
    return replace(at, blocks=(*at.blocks[:30], forged, *at.blocks[31:]))


def with_blocks_swapped(at: StubChain) -> StubChain:
    return replace(at, blocks=(at.blocks[1], at.blocks[0], *at.blocks[2:]))


def with_junk(at: StubChain) -> StubChain:
    return replace(at, blocks=(b"junk", *at.blocks[1:]))


def of_another_network(at: StubChain) -> StubChain:
    return replace(chain(POLICY), genesis_hash=at.genesis_hash)


def test_a_chain_arrives_whole() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            served = chain()
            served.serve(Requests(a, GENESIS))
            await b.connect(a.peer, a.addresses[0])
            done = await sync(Requests(b, GENESIS), a.peer, GENESIS)
            assert (done.headers, done.blocks, done.transactions) == (HEIGHTS, HEIGHTS, 2 * HEIGHTS)
            assert done.tip == served.headers[-1].hash
            assert done.size_bytes == sum(map(len, served.blocks))

    run(main)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (without_block, "of 6 blocks from height 65 on 5 came"),
        (with_header_missing, "header 32 does not follow 30"),
        (with_renumbered_header, "header 99 does not follow 30"),
        (with_a_fork, "header 31 does not follow 30"),
        (with_another_body, "block 31 has another body"),
        (with_another_signature, "block 31 has another body"),
        (with_blocks_swapped, "block 1 has another header"),
        (with_junk, "block 1: "),
        (of_another_network, "header 1 does not follow 0"),
    ],
)
def test_a_chain_that_is_not_what_its_headers_say_is_refused(
    spoil: Callable[[StubChain], StubChain], says: str
) -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            spoil(chain()).serve(Requests(a, GENESIS))
            await b.connect(a.peer, a.addresses[0])
            with pytest.raises(StubFault, match=says):
                await sync(Requests(b, GENESIS), a.peer, GENESIS)

    run(main)
