"""HELLO, STATUS and GOODBYE between hosts, and their encodings."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from p2p import messages
from p2p.host import Host
from p2p.messages import (
    CertifiedBlock,
    CertifiedHeader,
    Credit,
    GetBlocks,
    GetChunk,
    GetHeaders,
    Goodbye,
    Hello,
    Status,
    decode_hello,
    decode_status,
)
from p2p.requests import Requests
from p2p.session import Sessions
from tests.p2p.kit import GENESIS
from tests.p2p.net import by_order, config, hosts, run, until
from trellis.encoding import DecodeError
from trellis.header import HEADER_BYTES
from trellis.types import Hash, Height, PeerId
from trellis.wire import MessageId

TIP = Hash(bytes(range(32)))


def status(height: int) -> Status:
    return Status(Height(height), TIP, Height(1), syncing=False)


class Node:
    """A host's sessions, and the statuses it heard."""

    def __init__(self, host: Host, height: int, versions: tuple[int, int] = (1, 1), genesis: Hash = GENESIS) -> None:
        self.host = host
        self.height = height
        self.heard: list[tuple[PeerId, Status | None]] = []
        self.requests = Requests(host, GENESIS)
        self.sessions = Sessions(
            host,
            self.requests,
            genesis,
            lambda: status(self.height),
            lambda peer, heard: self.heard.append((peer, heard)),
            versions=versions,
        )

    def height_of(self, other: Node) -> int:
        known = self.sessions.peers().get(other.host.peer)
        return -1 if known is None else known.status.height


@asynccontextmanager
async def running(*nodes: Node) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for node in nodes:
            nursery.start_soon(node.sessions.run)
        yield
        nursery.cancel_scope.cancel()


def test_both_sides_know_each_other_after_one_hello() -> None:
    async def main() -> None:
        first, second = by_order("a", "b")
        async with hosts(config(first), config(second)) as (a, b):
            one, other = Node(a, 7), Node(b, 9)
            # Whoever dials, the smaller peer id greets; who is connected before `run` is greeted too.
            await b.connect(a.peer, a.addresses[0])
            await until(lambda: a.connected(b.peer), "a knows b")
            async with running(one, other):
                await until(lambda: one.height_of(other) == 9 and other.height_of(one) == 7, "both know")
                assert (one.requests.asked, other.requests.asked) == (1, 0)
                hello = other.sessions.peers()[a.peer].hello
                assert (hello.transports, hello.agent) == (("tcp",), f"test/{first}")
                one.height = 8
                await one.sessions.refresh()
                assert other.height_of(one) == 8
                other.height = 12
                await one.sessions.refresh()
                assert one.height_of(other) == 12
                await a.disconnect(b.peer)
                await until(lambda: not one.sessions.peers() and not other.sessions.peers(), "both forgot")
                assert one.heard[-1] == (b.peer, None)

    run(main)


@pytest.mark.parametrize(
    ("versions", "agreed"), [((1, 1), 1), ((1, 3), 2), ((2, 5), 2), ((3, 4), None), ((0, 0), None)]
)
def test_the_newest_common_version_is_used_and_without_one_there_is_no_session(
    versions: tuple[int, int], agreed: int | None
) -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one, other = Node(a, 1, versions), Node(b, 1, (1, 2))
            async with running(one, other):
                await a.connect(b.peer, b.addresses[0])
                if agreed is None:
                    await until(lambda: one.sessions.incompatible(b.peer), "one sees it")
                    await until(lambda: other.sessions.incompatible(a.peer), "the other sees it")
                    assert a.counters.rejects["session_incompatible"] == 1
                    assert a.connected(b.peer)
                    assert not one.sessions.peers()
                else:
                    await until(lambda: bool(one.sessions.peers() and other.sessions.peers()), "a session")
                    assert one.sessions.peers()[b.peer].version == agreed
                    assert other.sessions.peers()[a.peer].version == agreed

    run(main)


def test_a_hello_of_another_chain_is_refused() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one, other = Node(a, 1), Node(b, 1, genesis=Hash(bytes(32)))
            async with running(one, other):
                await a.connect(b.peer, b.addresses[0])
                await until(lambda: a.counters.rejects["session_other_chain"] == 1, "a refused")
                await until(lambda: b.counters.rejects["session_other_chain"] == 1, "b refused")
                assert not one.heard + other.heard

    run(main)


def test_a_peer_without_hello_is_counted_and_asked_again() -> None:
    async def main() -> None:
        first, second = by_order("a", "b")
        async with hosts(config(first), config(second)) as (a, b):
            one = Node(a, 1)
            async with running(one):
                await a.connect(b.peer, b.addresses[0])
                await until(lambda: a.counters.rejects["session_no_hello"] == 1, "counted")
                Node(b, 5)
                await until(lambda: b.peer in one.sessions.peers(), "asked again")

    run(main)


def test_a_peer_that_leaves_says_so() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one, other = Node(a, 1), Node(b, 1)
            async with running(one, other):
                await a.connect(b.peer, b.addresses[0])
                await until(lambda: bool(one.sessions.peers() and other.sessions.peers()), "a session")
                await one.sessions.leave()
                await until(lambda: other.sessions.told["leaving"] == 1, "it was heard")
                assert not other.sessions.peers()

    run(main)


def test_a_ping_comes_back() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one, other = Node(a, 1), Node(b, 1)
            async with running(one, other):
                await a.connect(b.peer, b.addresses[0])
                (pong,) = await one.requests.ask(b.peer, MessageId.PING, b"12345678", deadline_s=5, max_bytes=64)
                assert (pong.message_id, pong.payload) == (MessageId.PONG, b"12345678")

    run(main)


HELLO = Hello(1, 2, GENESIS, ("tcp", "ws"), "trellis/0.1", status(7))

ENCODINGS: list[tuple[bytes, Callable[[bytes], object], object]] = [
    (HELLO.encode(), decode_hello, HELLO),
    (status(7).encode(), decode_status, status(7)),
    (Credit(5, 6, last=True).encode(), messages.decode_credit, Credit(5, 6, last=True)),
    (messages.encode_goodbye(Goodbye.BUSY), messages.decode_goodbye, Goodbye.BUSY),
    (GetHeaders((TIP, GENESIS), 9).encode(), messages.decode_get_headers, GetHeaders((TIP, GENESIS), 9)),
    (GetBlocks(Height(4), 3).encode(), messages.decode_get_blocks, GetBlocks(Height(4), 3)),
    (GetChunk(TIP, 3).encode(), messages.decode_get_chunk, GetChunk(TIP, 3)),
    (CertifiedBlock(b"block", b"cert").encode(), messages.decode_certified_block, CertifiedBlock(b"block", b"cert")),
    (messages.encode_snapshots((b"new", b"old")), messages.decode_snapshots, (b"new", b"old")),
    (
        messages.encode_headers((CertifiedHeader(bytes(HEADER_BYTES), b"certificate"),)),
        messages.decode_headers,
        (CertifiedHeader(bytes(HEADER_BYTES), b"certificate"),),
    ),
]
DECODERS = [decode for _, decode, _ in ENCODINGS]
# CertifiedBlock ends with an opaque block: a shorter one is another block, and its decoder is the one to see that.
EXACT = [each for each in ENCODINGS if not isinstance(each[2], CertifiedBlock)]


@pytest.mark.parametrize(("data", "decode", "value"), ENCODINGS)
def test_every_message_reads_back(data: bytes, decode: Callable[[bytes], object], value: object) -> None:
    assert decode(data) == value


@pytest.mark.parametrize(("data", "decode", "value"), EXACT)
def test_every_message_cut_short_or_with_a_byte_more_is_refused(
    data: bytes, decode: Callable[[bytes], object], value: object
) -> None:
    for end in range(len(data)):
        with pytest.raises(DecodeError):
            decode(data[:end])
    with pytest.raises(DecodeError):
        decode(data + b"\0")


@pytest.mark.parametrize(
    ("data", "decode"),
    [
        pytest.param(GetHeaders((), 0).encode(), messages.decode_get_headers, id="no headers"),
        pytest.param(GetHeaders((), 1_025).encode(), messages.decode_get_headers, id="too many headers"),
        pytest.param(GetHeaders((TIP,) * 65, 1).encode(), messages.decode_get_headers, id="too long a locator"),
        pytest.param(GetBlocks(Height(1), 0).encode(), messages.decode_get_blocks, id="no blocks"),
        pytest.param(GetBlocks(Height(1), 257).encode(), messages.decode_get_blocks, id="too many blocks"),
        pytest.param(Status(Height(1), TIP, Height(3), False).encode(), decode_status, id="pruned above its tip"),
        pytest.param(Hello(2, 1, GENESIS, (), "", status(1)).encode(), decode_hello, id="versions backwards"),
        pytest.param(Hello(1, 1, GENESIS, ("t",) * 9, "", status(1)).encode(), decode_hello, id="too many transports"),
        pytest.param(Hello(1, 1, GENESIS, (), "x" * 65, status(1)).encode(), decode_hello, id="too long an agent"),
        pytest.param(b"\x63", messages.decode_goodbye, id="an unknown goodbye"),
        pytest.param(messages.encode_snapshots((b"",) * 17), messages.decode_snapshots, id="too many snapshots"),
    ],
)
def test_what_is_beyond_a_cap_is_refused(data: bytes, decode: Callable[[bytes], object]) -> None:
    with pytest.raises(DecodeError):
        decode(data)


@given(st.binary(max_size=200), st.sampled_from(DECODERS))
def test_no_bytes_make_a_decoder_raise_anything_else(data: bytes, decode: Callable[[bytes], object]) -> None:
    try:
        decode(data)
    except DecodeError:
        return


def test_who_lost_its_session_alone_asks_for_it_itself() -> None:
    async def main() -> None:
        first, second = by_order("a", "b")
        async with hosts(config(first), config(second)) as (a, b):
            one, other = Node(a, 7), Node(b, 9)
            await a.connect(b.peer, b.addresses[0])
            async with running(one, other):
                await until(lambda: one.height_of(other) == 9 and other.height_of(one) == 7, "both know")
                # Another connection took over at the side that is greeted, and the one that greets saw nothing of it.
                other.sessions._disconnected(a.peer)
                other.sessions._connected(a.peer)
                await until(lambda: other.height_of(one) == 7, "it asked")
                assert other.requests.asked == 1

    run(main)
