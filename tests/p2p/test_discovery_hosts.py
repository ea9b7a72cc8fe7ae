"""Discovery over real sockets: hosts that know one peer find the others, and a book that outlives them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from p2p.book import PeerBook, Source, SourceKind
from p2p.dialing import PeerAddress
from p2p.discovery.addresses import Reach, peer_address_text
from p2p.discovery.exchange import encode_peers
from p2p.discovery.records import sign_record
from p2p.discovery.seeds import dns_seed, txt_line
from p2p.discovery.service import Discovery, DiscoveryConfig
from p2p.discovery.table import Key
from p2p.handshake import Reject
from p2p.host import DialError, Host
from p2p.requests import Requests
from tests.p2p.kit import GENESIS
from tests.p2p.net import config, hosts, run, until
from tests.p2p.test_discovery_seeds import NAME, dns_server
from trellis.types import PeerId
from trellis.wire import MessageId

QUICK = replace(DiscoveryConfig.within(GENESIS, Reach.LOOPBACK), dial_s=0.02, refresh_s=0.2)


@dataclass
class Node:
    host: Host
    book: PeerBook
    requests: Requests
    discovery: Discovery


def now_ms() -> int:
    return int(trio.current_time() * 1_000) + 1_800_000_000_000


def made(host: Host, path: Path, settings: DiscoveryConfig) -> Node:
    book = PeerBook(path, GENESIS, now_ms)
    requests = Requests(host, GENESIS)
    return Node(host, book, requests, Discovery(host, book, requests, settings))


@asynccontextmanager
async def network(
    tmp_path: Path, names: Sequence[str], settings: DiscoveryConfig, first: DiscoveryConfig | None = None
) -> AsyncIterator[list[Node]]:
    """Nodes that run discovery; all but the first are told of the first alone."""
    async with AsyncExitStack() as stack:
        running = await stack.enter_async_context(hosts(*(config(name) for name in names)))
        nursery = await stack.enter_async_context(trio.open_nursery())
        nodes: list[Node] = []
        for name, host in zip(names, running, strict=True):
            chosen = replace(settings if nodes or first is None else first, announce=host.addresses)
            if nodes:
                known = nodes[0].host
                chosen = replace(chosen, static=(PeerAddress(known.peer, known.addresses[:1]),))
            nodes.append(made(host, tmp_path / f"{name}.log", chosen))
            nursery.start_soon(nodes[-1].discovery.run)
        yield nodes
        nursery.cancel_scope.cancel()


def test_six_hosts_that_know_one_peer_find_and_reach_each_other(tmp_path: Path) -> None:
    async def main() -> None:
        async with network(tmp_path, ["a", "b", "c", "d", "e", "f"], QUICK) as nodes:
            everyone = {each.host.peer for each in nodes}
            await until(
                lambda: all(
                    {health.peer for health in each.host.peers()} == everyone - {each.host.peer} for each in nodes
                ),
                "everybody is connected to everybody",
            )
            for node in nodes:
                for other in nodes:
                    assert node.host.peer == other.host.peer or other.host.peer in node.book
                assert not node.book.bans()

    run(main)


def test_a_peer_is_found_through_others_without_a_connection_to_it_before(tmp_path: Path) -> None:
    async def main() -> None:
        # With one wanted peer nobody but the first is connected to more than it.
        alone = replace(QUICK, wanted_peers=1, refresh_s=60)
        async with network(tmp_path, ["a", "b", "c", "d", "e", "f"], alone) as nodes:
            middle, *leaves = nodes
            await until(lambda: len(middle.discovery.table) == len(leaves), "the first one knows all")
            asker, target = leaves[0], leaves[-1]
            assert target.host.peer not in asker.discovery.table
            found = await asker.discovery.find(target.host.peer)
            assert found is not None
            assert found.peer == target.host.peer
            assert found.addresses == tuple(sorted(target.host.addresses))
            assert await asker.discovery.find(PeerId(b"\x12\x20" + bytes(32))) is None

    run(main)


def test_a_liar_that_sends_forged_records_is_banned_and_the_ban_outlives_the_process(tmp_path: Path) -> None:
    async def main() -> None:
        async with hosts(config("victim"), config("liar")) as (victim, liar):
            node = made(victim, tmp_path / "victim.log", QUICK)
            forged = sign_record(liar.config.identity, GENESIS, liar.addresses, 1).signed

            async def lie(_peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
                yield MessageId.PEERS, encode_peers([forged[:-1] + bytes([forged[-1] ^ 1])])

            Requests(liar, GENESIS).serve(MessageId.GET_PEERS, lie)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.discovery.run)
                await victim.connect(liar.peer, liar.addresses[0])
                while not node.book.is_banned(liar.peer):
                    await node.discovery.exchange.ask(liar.peer, Key(0), 8)
                await until(lambda: not victim.connected(liar.peer), "the liar was shown the door")
                nursery.cancel_scope.cancel()
        (ban,) = PeerBook(tmp_path / "victim.log", GENESIS, now_ms).bans()
        assert (ban.peer, ban.reason) == (liar.peer, "record_bad_signature")

    run(main)


def test_a_node_with_nothing_but_a_dns_seed_joins(tmp_path: Path) -> None:
    async def main() -> None:
        async with hosts(config("old"), config("new")) as (old, new):
            text = txt_line(GENESIS, peer_address_text(old.peer, old.addresses[0]))
            async with dns_server([text]) as resolver, trio.open_nursery() as nursery:
                seeds = ((NAME, dns_seed(NAME, GENESIS, Reach.LOOPBACK, resolver)),)
                node = made(new, tmp_path / "new.log", replace(QUICK, seeds=seeds))
                made(old, tmp_path / "old.log", QUICK)
                nursery.start_soon(node.discovery.run)
                await until(lambda: new.connected(old.peer), "the seed's peer is connected")
                nursery.cancel_scope.cancel()

    run(main)


def test_a_restarted_node_finds_its_peers_in_its_book_alone(tmp_path: Path) -> None:
    async def main() -> None:
        async with hosts(config("old"), config("new")) as (old, new):
            before = PeerBook(tmp_path / "new.log", GENESIS, now_ms)
            before.note(old.peer, old.addresses, Source(SourceKind.EXCHANGE, "x"))
            before.close()
            node = made(new, tmp_path / "new.log", QUICK)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.discovery.run)
                await until(lambda: new.connected(old.peer), "connected from the book")
                nursery.cancel_scope.cancel()

    run(main)


def test_hosts_on_one_wire_meet_by_mdns_when_it_is_switched_on(tmp_path: Path) -> None:
    async def main() -> None:
        local = replace(QUICK, mdns=True, mdns_interfaces=("127.0.0.1",))
        async with hosts(config("a"), config("b")) as (a, b), trio.open_nursery() as nursery:
            for host in (a, b):
                node = made(host, tmp_path / f"{host.config.agent[-1]}.log", replace(local, announce=host.addresses))
                nursery.start_soon(node.discovery.run)
            await until(lambda: a.connected(b.peer) and b.connected(a.peer), "they met")
            nursery.cancel_scope.cancel()

    run(main)


def test_a_ban_of_the_book_is_enforced_until_it_ends_and_not_against_the_exempt(tmp_path: Path) -> None:
    async def main() -> None:
        async with hosts(config("node"), config("banned"), config("validator")) as (host, banned, validator):
            settings = replace(QUICK, exempt=lambda peer: peer == validator.peer)
            node = made(host, tmp_path / "node.log", settings)
            until_ms = now_ms() + 3_000
            node.book.ban(banned.peer, "from before the restart", until_ms)
            node.book.ban(validator.peer, "from before the restart", until_ms)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(node.discovery.run)
                await validator.connect(host.peer, host.addresses[0])
                with pytest.raises(DialError) as refused:
                    await banned.connect(host.peer, host.addresses[0])
                assert refused.value.reason is Reject.BANNED
                assert refused.value.told
                assert host.connected(validator.peer)
                await until(lambda: banned.peer not in node.discovery._refused, "the ban is over")
                await banned.connect(host.peer, host.addresses[0])
                nursery.cancel_scope.cancel()

    run(main)
