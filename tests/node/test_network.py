"""The node's network side: who is admitted, what the pool tells gossip, what the store tells peers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path

import trio

from node.chain_service import ChainService
from node.home import CONFIG_NAME, Home, open_home
from node.network import NodeNetwork, Wires, admitter
from node.relaying import PoolRelay
from node.work import Admission, Blame, FetchBlocks, Offence
from p2p.book import PeerBook
from p2p.discovery.addresses import Reach
from p2p.gossip import Gossip, GossipLimits, Verdict
from p2p.gossip.gossip import Token
from p2p.handshake import LocalIdentity, Network, Reject
from p2p.host import Host, HostConfig
from p2p.messages import GetBlocks, GetHeaders, decode_certified_block, decode_headers
from state.mempool import Mempool, Reason
from state.store.chain import ChainStore, load_chain
from state.store.lmdb_store import LmdbStore
from state.store.pruning import Retention
from tests.node.cli.stored import BLOCKS, make_home
from tests.node.engines import EngineNet
from tests.p2p.kit import key
from tests.p2p.net import LOOPBACK
from trellis.header import HEADER_BYTES, decode_header
from trellis.parameters import Parameters
from trellis.peerid import peer_id_text
from trellis.transaction import Transaction
from trellis.types import Hash, Height, PeerId
from trellis.wire import MessageId

STRANGER = LocalIdentity.of(key("stranger")).peer
FRIEND = LocalIdentity.of(key("friend")).peer
MEMBER = LocalIdentity.of(key("member")).peer
NOW_MS = 1_800_000_000_000


def home_with(folder: Path, p2p: str = "") -> Home:
    directory = make_home(folder)
    text = (directory / CONFIG_NAME).read_text()
    (directory / CONFIG_NAME).write_text(text.replace("[p2p]\n", f"[p2p]\n{p2p}\n", 1))
    return open_home(directory, {})


def test_a_closed_network_admits_validators_the_listed_and_the_dialled_and_nobody_else(tmp_path: Path) -> None:
    home = home_with(tmp_path / "a", f'allow = ["{peer_id_text(FRIEND)}"]')
    admit = admitter(home, lambda: frozenset({MEMBER}))
    assert [admit(peer) for peer in (MEMBER, FRIEND)] == [None, None]
    assert admit(STRANGER) is Reject.NOT_A_MEMBER
    open_to_all = admitter(home_with(tmp_path / "b", "members_only = false"), frozenset)
    assert open_to_all(STRANGER) is None


def test_a_validator_that_has_just_been_elected_is_admitted(tmp_path: Path) -> None:
    members: set[PeerId] = set()
    admit = admitter(home_with(tmp_path), lambda: frozenset(members))
    assert admit(MEMBER) is Reject.NOT_A_MEMBER
    members.add(MEMBER)
    assert admit(MEMBER) is None


class FakeAsking:
    """Requests that nobody answers: the relay only registers what it serves."""

    async def ask(
        self, peer: PeerId, message_id: MessageId, payload: bytes, *, deadline_s: float, max_bytes: int
    ) -> list[object]:
        return []

    def serve(self, message_id: MessageId, handler: object) -> None:
        return None


class Relayed:
    """A pool's gossip side, without connections. `verdicts` says what the pool will answer."""

    def __init__(self, net: EngineNet, pool: Mempool) -> None:
        self.offered: list[tuple[Transaction, ...]] = []
        self.reason: Reason | None = None
        self.announced: list[bytes] = []
        self.judged: list[tuple[bytes, str]] = []
        host = Host(HostConfig(LocalIdentity.of(key("relay")), Network(net.genesis.hash, net.genesis.hash), LOOPBACK))
        gossip = Gossip(host, net.genesis.hash, GossipLimits.of(Parameters()))
        self.port = PoolRelay(gossip, FakeAsking(), net.genesis.hash, pool, self._offer, has_lanes=True)  # type: ignore[arg-type] # see there
        self.port.relay.announce = lambda ids, topic=None: self.announced.extend(ids)  # type: ignore[method-assign] # watched
        self.port.relay.verdict = lambda item, verdict: self.judged.append((item, verdict.value))  # type: ignore[method-assign] # watched

    def _offer(self, transactions: tuple[Transaction, ...], told: Callable[[tuple[Admission, ...]], None]) -> None:
        self.offered.append(transactions)
        told(tuple(Admission(Hash(bytes(32)), self.reason) for _ in transactions))


def test_the_pool_serves_by_witness_inclusive_id_and_remembers_what_became_final() -> None:
    net = EngineNet()
    transaction = net.transaction(net.accounts[1], 0)
    item = transaction.witness_id(net.genesis.hash)
    pool = net.nodes[0].engine.pool
    relayed = Relayed(net, pool)
    assert not relayed.port.have(item)
    net.submit(0, transaction)
    net.run_until(lambda: len(pool) == 1)
    assert relayed.port.get(item) == transaction.encode()
    assert pool.get(transaction.txid(net.genesis.hash)) is pool.variant(item)
    net.run_until(lambda: not len(pool))
    assert pool.variant(item) is None
    relayed.port.committed([transaction])
    assert relayed.port.have(item)


def test_only_what_is_wrong_by_itself_is_held_against_who_sent_it() -> None:
    net = EngineNet()
    relayed = Relayed(net, Mempool())
    transaction = net.transaction(net.accounts[1], 0)
    item = transaction.witness_id(net.genesis.hash)
    for reason in (None, Reason.BAD_SIGNATURE, Reason.NONCE_TOO_LOW, Reason.KEY_MISSING, Reason.DUPLICATE):
        relayed.reason = reason
        relayed.port.received(STRANGER, [(item, transaction.encode())])
    assert [verdict for _, verdict in relayed.judged] == ["good", "bad_signature", "ignore", "ignore", "ignore"]


def test_what_lanes_carry_is_not_announced_and_what_a_peer_brought_only_once() -> None:
    net = EngineNet()
    relayed = Relayed(net, Mempool())
    own, theirs = (net.transaction(net.accounts[place], 0) for place in (1, 2))
    ids = [each.witness_id(net.genesis.hash) for each in (own, theirs)]
    relayed.port.received(STRANGER, [(ids[1], theirs.encode())])
    relayed.port.announce(ids, anybody=False)
    assert relayed.announced == []
    relayed.port.announce(ids, anybody=True)
    assert relayed.announced == ids[:1], "the relay itself announces on what it was brought"


async def collected(answer: AsyncIterator[tuple[MessageId, bytes]]) -> list[tuple[MessageId, bytes]]:
    return [each async for each in answer]


def opened(home: Home) -> ChainStore:
    return load_chain(LmdbStore(home.store_directory))


def test_headers_follow_the_newest_known_block_of_the_locator(tmp_path: Path) -> None:
    home = home_with(tmp_path)
    chain = opened(home)
    service = ChainService(chain.read)
    with chain.read() as reader:
        third, fourth = reader.block_hash(Height(3)), reader.block_hash(Height(4))

    def heights(*locator: Hash, count: int = 100) -> list[int]:
        frames = trio.run(collected, service._headers(STRANGER, GetHeaders(locator, count).encode()))
        return [decode_header(each.header).height for _, data in frames for each in decode_headers(data)]

    assert heights(Hash(bytes(32)), fourth, third) == [5]
    assert heights(third, count=1) == [4]
    assert heights(home.genesis.hash) == [1, 2, 3, 4, 5]
    assert heights(Hash(bytes(32))) == [], "of another history nothing is said"
    chain.close()


def test_a_pruned_body_is_said_to_be_pruned(tmp_path: Path) -> None:
    chain = opened(home_with(tmp_path))
    service = ChainService(chain.read)

    def ask(first: int) -> list[tuple[MessageId, bytes]]:
        return trio.run(collected, service._blocks(STRANGER, GetBlocks(Height(first), 10).encode()))

    whole = [decode_certified_block(data) for kind, data in ask(1) if kind == MessageId.BLOCKS]
    assert len(whole) == BLOCKS
    assert service.status(syncing=False).oldest == 1
    chain.prune(Retention(bodies=2, undo_blocks=1))
    assert ask(1) == [(MessageId.NOT_FOUND, (4).to_bytes(8, "big"))]
    assert [kind for kind, _ in ask(4)] == [MessageId.BLOCKS] * 2
    assert service.status(syncing=False).oldest == 4
    chain.close()


def network_of(home: Home, folder: Path) -> tuple[NodeNetwork, list[object], PeerBook]:
    heard: list[object] = []
    chain = opened(home)
    host = Host(HostConfig(LocalIdentity.of(home.network_key), Network(home.genesis.hash, home.genesis.hash), LOOPBACK))
    book = PeerBook(folder / "book", home.genesis.hash, lambda: NOW_MS)
    wires = Wires(heard.append, lambda transactions, told: None, Mempool(), chain.read, frozenset, lambda: False)
    return NodeNetwork(home, host, book, wires, validator=False), heard, book


def test_two_lies_while_others_catch_up_are_a_ban(tmp_path: Path) -> None:
    network, _, book = network_of(home_with(tmp_path / "net"), tmp_path)
    network.blame(Blame(STRANGER, Offence.WRONG_BODY))
    assert not book.is_banned(STRANGER)
    network.blame(Blame(STRANGER, Offence.BAD_CERTIFICATE))
    assert book.is_banned(STRANGER)
    book.close()


def test_a_header_on_gossip_that_is_none_is_held_against_its_sender(tmp_path: Path) -> None:
    network, heard, book = network_of(home_with(tmp_path / "net"), tmp_path)
    token = Token(1)
    assert network._heard_header(STRANGER, bytes(HEADER_BYTES - 1), token) is Verdict.REJECT
    assert network._heard_header(STRANGER, b"\xff" * HEADER_BYTES, token) is Verdict.REJECT
    assert heard == []
    book.close()


def test_an_unreachable_peer_answers_the_engine_all_the_same(tmp_path: Path) -> None:
    network, heard, book = network_of(home_with(tmp_path / "net"), tmp_path)
    trio.run(network._fetch_blocks, FetchBlocks(7, STRANGER, Height(1), 4))
    assert [repr(each) for each in heard] == ["BlocksFetched(job=7, blocks=None, pruned=False)"]
    assert not book.bans()
    book.close()


def test_a_node_that_listens_on_this_machine_alone_reaches_no_further(tmp_path: Path) -> None:
    network, _, book = network_of(home_with(tmp_path / "net"), tmp_path)
    assert network.discovery.judge._reach is Reach.LOOPBACK
    book.close()
