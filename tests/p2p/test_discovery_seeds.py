"""Seeds: TXT records from a DNS server on loopback, JSON from an HTTP server on loopback, and mDNS on loopback."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import dns.asyncresolver
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest
import trio

from p2p.dialing import PeerAddress
from p2p.discovery.addresses import Reach, peer_address_text
from p2p.discovery.mdns import announced, local_peers
from p2p.discovery.seeds import MAX_DOCUMENT_BYTES, MAX_SEED_PEERS, SeedError, SeedFault, dns_seed, json_seed, txt_line
from p2p.handshake import LocalIdentity
from tests.p2p.kit import GENESIS, POLICY, key
from tests.p2p.net import run, until
from trellis.peerid import peer_id_text
from trellis.types import Hash, PeerId

NAME = "seeds.trellis.test"
ADDRESS = "/ip4/45.1.2.3/tcp/4001"


def peer_of(name: str) -> PeerId:
    return LocalIdentity.of(key(name)).peer


def line(name: str, address: str = ADDRESS, genesis: Hash = GENESIS) -> str:
    return txt_line(genesis, peer_address_text(peer_of(name), address))


@asynccontextmanager
async def dns_server(
    texts: list[str], rcode: dns.rcode.Rcode = dns.rcode.NOERROR
) -> AsyncIterator[dns.asyncresolver.Resolver]:
    """A DNS server that knows one name; the resolver that asks it."""
    udp = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
    await udp.bind(("127.0.0.1", 0))
    port = udp.getsockname()[1]
    tcp = await trio.open_tcp_listeners(port, host="127.0.0.1")

    def answer(query: dns.message.Message, most_bytes: int) -> bytes:
        reply = dns.message.make_response(query)
        reply.set_rcode(rcode)
        if texts and query.question[0].name.to_text() == NAME + ".":
            quoted = [" ".join(f'"{text[at : at + 200]}"' for at in range(0, len(text), 200)) for text in texts]
            reply.answer.append(dns.rrset.from_text_list(NAME + ".", 60, "IN", "TXT", quoted))
        wire = reply.to_wire(max_size=65_535)
        if len(wire) > most_bytes:
            short = dns.message.make_response(query)
            short.flags |= dns.flags.TC
            wire = short.to_wire()
        return wire

    async def over_udp() -> None:
        while True:
            data, sender = await udp.recvfrom(4_096)
            await udp.sendto(answer(dns.message.from_wire(data), 1_232), sender)

    async def over_tcp(stream: trio.SocketStream) -> None:
        data = b""
        while len(data) < 2 or len(data) < 2 + int.from_bytes(data[:2], "big"):
            data += await stream.receive_some(4_096)
        wire = answer(dns.message.from_wire(data[2:]), 65_535)
        await stream.send_all(len(wire).to_bytes(2, "big") + wire)

    resolver = dns.asyncresolver.Resolver(configure=False)
    resolver.nameservers = ["127.0.0.1"]
    resolver.port = port
    async with trio.open_nursery() as nursery:
        nursery.start_soon(over_udp)
        nursery.start_soon(trio.serve_listeners, over_tcp, tcp)
        yield resolver
        nursery.cancel_scope.cancel()
    udp.close()


@asynccontextmanager
async def http_server(reply: bytes) -> AsyncIterator[str]:
    """Answers every request with these bytes; the address to ask."""

    async def serve(stream: trio.SocketStream) -> None:
        request = b""
        while b"\r\n\r\n" not in request:
            request += await stream.receive_some(4_096)
        try:
            await stream.send_all(reply)
        except trio.BrokenResourceError:
            return

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield f"http://127.0.0.1:{listeners[0].socket.getsockname()[1]}/seeds.json"
        nursery.cancel_scope.cancel()


def ok(body: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body) + body


def document(**changes: object) -> bytes:
    peers = [peer_address_text(peer_of("a"), ADDRESS)]
    return json.dumps({"trellis": 1, "genesis_hash": GENESIS.hex(), "peers": peers} | changes).encode()


def test_txt_records_of_this_network_are_peers_and_others_are_passed_over() -> None:
    async def main() -> None:
        texts = [
            line("a"),
            line("b", "/dns4/node.example/tcp/4001"),
            "v=spf1 -all",
            line("c", genesis=POLICY),
            line("d")[:-5] + "!!!!!",
            line("e", "/ip4/10.0.0.1/tcp/4001"),
        ]
        async with dns_server(texts) as resolver:
            found = await dns_seed(NAME, GENESIS, Reach.GLOBAL, resolver)()
        expected = {PeerAddress(peer_of("a"), (ADDRESS,)), PeerAddress(peer_of("b"), ("/dns4/node.example/tcp/4001",))}
        assert set(found) == expected

    run(main)


def test_an_answer_too_large_for_a_datagram_is_fetched_over_tcp_and_capped() -> None:
    async def main() -> None:
        texts = [line("a", f"/ip4/45.1.2.3/tcp/{port}") for port in range(1_000, 1_000 + 2 * MAX_SEED_PEERS)]
        async with dns_server(texts) as resolver:
            found = await dns_seed(NAME, GENESIS, Reach.GLOBAL, resolver)()
        assert len(found) == MAX_SEED_PEERS

    run(main)


@pytest.mark.parametrize(
    ("texts", "rcode", "fault"),
    [
        ([], dns.rcode.NOERROR, SeedFault.NOT_FOUND),
        ([], dns.rcode.NXDOMAIN, SeedFault.NOT_FOUND),
        ([], dns.rcode.SERVFAIL, SeedFault.UNREACHABLE),
    ],
)
def test_a_name_that_gives_nothing_says_why(texts: list[str], rcode: dns.rcode.Rcode, fault: SeedFault) -> None:
    async def main() -> None:
        async with dns_server(texts, rcode) as resolver:
            with pytest.raises(SeedError) as raised:
                await dns_seed(NAME, GENESIS, Reach.GLOBAL, resolver)()
        assert raised.value.reason is fault
        assert NAME in str(raised.value)

    run(main)


def test_a_json_document_lists_peers() -> None:
    async def main() -> None:
        async with http_server(ok(document())) as url:
            assert await json_seed(url, GENESIS, Reach.GLOBAL)() == (PeerAddress(peer_of("a"), (ADDRESS,)),)

    run(main)


@pytest.mark.parametrize(
    ("reply", "fault"),
    [
        (ok(b"nonsense"), SeedFault.MALFORMED),
        (ok(b"[" * 50_000), SeedFault.MALFORMED),
        (ok(b"[1]"), SeedFault.MALFORMED),
        (ok(document(trellis=2)), SeedFault.MALFORMED),
        (ok(document(peers="x")), SeedFault.MALFORMED),
        (ok(document(genesis_hash=POLICY.hex())), SeedFault.OTHER_NETWORK),
        (ok(b" " * (MAX_DOCUMENT_BYTES + 1)), SeedFault.TOO_LARGE),
        (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", SeedFault.NOT_FOUND),
        (b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n", SeedFault.NOT_FOUND),
        (b"SSH-2.0-x\r\n", SeedFault.UNREACHABLE),
    ],
)
def test_a_document_that_is_of_no_use_says_why(reply: bytes, fault: SeedFault) -> None:
    async def main() -> None:
        async with http_server(reply) as url:
            with pytest.raises(SeedError) as raised:
                await json_seed(url, GENESIS, Reach.GLOBAL)()
        assert raised.value.reason is fault

    run(main)


def test_entries_of_a_document_that_are_no_peers_do_not_spoil_the_others() -> None:
    async def main() -> None:
        good = peer_address_text(peer_of("a"), ADDRESS)
        peers = [1, None, "x", "x" * 10_000, good, peer_address_text(peer_of("b"), "/ip4/192.168.0.1/tcp/1")]
        async with http_server(ok(document(peers=peers))) as url:
            assert await json_seed(url, GENESIS, Reach.GLOBAL)() == (PeerAddress(peer_of("a"), (ADDRESS,)),)

    run(main)


@pytest.mark.parametrize("url", ["http://seeds.example/x", "ftp://127.0.0.1/x", "file:///etc/passwd", "seeds.example"])
def test_documents_come_over_https_or_from_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="https"):
        json_seed(url, GENESIS, Reach.GLOBAL)


# mDNS.


def test_two_nodes_on_one_wire_find_each_other_by_mdns() -> None:
    async def main() -> None:
        heard: dict[str, list[PeerAddress]] = {"a": [], "b": []}

        def local(name: str, port: int) -> AbstractAsyncContextManager[None]:
            return local_peers(
                peer_of(name),
                GENESIS,
                [f"/ip4/127.0.0.1/tcp/{port}"],
                heard[name].append,
                reach=Reach.LOOPBACK,
                interfaces=["127.0.0.1"],
            )

        async with local("a", 4_001), local("b", 4_002):
            await until(lambda: bool(heard["a"] and heard["b"]), "both heard of each other")
        assert set(heard["a"]) == {PeerAddress(peer_of("b"), ("/ip4/127.0.0.1/tcp/4002",))}
        assert set(heard["b"]) == {PeerAddress(peer_of("a"), ("/ip4/127.0.0.1/tcp/4001",))}

    run(main)


def test_an_announcement_counts_as_far_as_it_makes_sense() -> None:
    name = peer_id_text(peer_of("a")).encode()
    good = {b"peer": name, b"a0": b"/ip4/192.168.0.7/tcp/1", b"a1": b"/dns4/x.example/tcp/1", b"a9": ADDRESS.encode()}
    assert announced(good, Reach.GLOBAL) == PeerAddress(peer_of("a"), ("/ip4/192.168.0.7/tcp/1",))
    wrong: list[dict[bytes, bytes | None]] = [
        {},
        {b"peer": None},
        {b"peer": b"\xff"},
        {b"peer": name},
        {b"peer": name, b"a0": b"\xff"},
        {b"peer": name, b"a0": b"/ip4/127.0.0.1/tcp/1"},
        {b"peer": b"0" * 60, b"a0": ADDRESS.encode()},
    ]
    assert [announced(each, Reach.GLOBAL) for each in wrong] == [None] * len(wrong)
