"""The running node's network, but for the lanes: who is admitted and found, what is told, asked and served.

    network = NodeNetwork(home, host, book, wires)
    await nursery.start(network.run)
    network.announce(ids)          # the pool took these
    network.fetch(item)            # FetchHeaders, FetchBlocks: answered by an input, whatever comes of it
    network.committed(committed)   # after each block

Peers are judged here and in what stands below; the engine hears where they stand, what they answered, and whom to
blame it tells.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Final

import trio

from node.chain_service import ChainService, Read
from node.config import Reach as ReachKey
from node.home import Home, HomeFault
from node.inputs import BlocksFetched, HeadersFetched, Input, PeerLeft, PeerStands
from node.relaying import Offer, PoolRelay
from node.work import Blame, Committed, FetchBlocks, FetchHeaders, Offence
from p2p.book import PeerBook
from p2p.dialing import PeerAddress
from p2p.discovery.addresses import Reach, parse_endpoint, parse_peer_address
from p2p.discovery.seeds import dns_seed, json_seed
from p2p.discovery.service import Discovery, DiscoveryConfig
from p2p.gossip import Gossip, GossipLimits, Topic, Verdict
from p2p.gossip.gossip import Token
from p2p.handshake import Reject
from p2p.health import Health
from p2p.host import Host
from p2p.messages import GetBlocks, GetHeaders, Status, decode_certified_block, decode_headers
from p2p.requests import RequestError, RequestFault, Requests
from p2p.session import Sessions
from state.mempool import Mempool
from trellis.encoding import DecodeError
from trellis.genesis import Genesis
from trellis.header import HEADER_BYTES, decode_header
from trellis.peerid import parse_peer_id
from trellis.types import Hash, Height, PeerId
from trellis.wire import Frame, MessageId

if TYPE_CHECKING:
    from trio_typing import TaskStatus

HEADERS_S: Final = 8
BLOCKS_S: Final = 20
"""For one answer: a window of blocks over a link of half a megabyte a second."""
HEADERS_BYTES: Final = 8 << 20
BLOCKS_BYTES: Final = 8 << 20
ASKED_HEADERS: Final = 256

PENALTIES: Final = {
    Offence.MALFORMED: 200,
    Offence.BROKEN_CHAIN: 400,
    Offence.BAD_CERTIFICATE: 400,
    Offence.WRONG_BODY: 400,
    Offence.WRONG_CHUNK: 400,
}
"""In thousandths of a full score: two lies are a ban."""
_BROKEN_RULES: Final = frozenset(
    {
        RequestFault.BAD_FRAME,
        RequestFault.UNEXPECTED,
        RequestFault.OVERRUN,
    }
)
"""What an honest peer's answer never is."""
_REACH: Final = {
    ReachKey.GLOBAL: Reach.GLOBAL,
    ReachKey.PRIVATE: Reach.PRIVATE,
    ReachKey.LOOPBACK: Reach.LOOPBACK,
}


@dataclass(frozen=True, slots=True)
class Wires:
    """What the network side needs of the node it belongs to."""

    take: Callable[[Input], None]
    offer: Offer
    pool: Mempool
    read: Read
    members: Callable[[], frozenset[PeerId]]
    """Of the validators of the height in progress."""
    syncing: Callable[[], bool]


def static_peers(home: Home) -> tuple[PeerAddress, ...]:
    try:
        return tuple(parse_peer_address(text) for text in home.config.p2p.static_peers)
    except DecodeError as fault:
        raise HomeFault(f"p2p.static_peers: {fault.detail}") from fault


def admitter(home: Home, members: Callable[[], frozenset[PeerId]]) -> Callable[[PeerId], Reject | None]:
    """Who may connect: in a closed network validators, those the operator lists, and those the operator dials."""
    p2p = home.config.p2p
    try:
        listed = frozenset(parse_peer_id(text) for text in p2p.allow)
    except DecodeError as fault:
        raise HomeFault(f"p2p.allow: {fault.detail}") from fault
    allowed = listed | {each.peer for each in static_peers(home)}

    def admit(peer: PeerId) -> Reject | None:
        if not p2p.members_only or peer in allowed or peer in members():
            return None
        return Reject.NOT_A_MEMBER

    return admit


def _stays_here(address: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        endpoint = parse_endpoint(address)
    except DecodeError:
        return False
    return not endpoint.named and ip_address(endpoint.host).is_loopback


class NodeNetwork:
    def __init__(self, home: Home, host: Host, book: PeerBook, wires: Wires, *, validator: bool) -> None:
        """Made before the host runs. `validator`: this node has lanes to the others."""
        genesis = home.genesis
        self._home = home
        self._host = host
        self._book = book
        self._wires = wires
        self._validator = validator
        self._heights: dict[PeerId, Status] = {}
        self.requests = Requests(host, genesis.hash)
        self.requests.desk.refuses = lambda peer: book.is_banned(peer) and peer not in wires.members()
        self.chain = ChainService(wires.read)
        self.chain.serve(self.requests)
        self.sessions = Sessions(host, self.requests, genesis.hash, self._status, self._heard_status)
        self.gossip = Gossip(host, genesis.hash, GossipLimits.of(genesis.parameters), book)
        self.relay = PoolRelay(self.gossip, self.requests, genesis.hash, wires.pool, wires.offer, has_lanes=validator)
        self.gossip.on_message(Topic.HEADERS, self._heard_header)
        self.discovery = self._make_discovery(genesis)
        self.health = Health(host, book)
        self._watch_queues()

    def _make_discovery(self, genesis: Genesis) -> Discovery:
        p2p = self._home.config.p2p
        local = bool(p2p.listen) and all(map(_stays_here, p2p.listen))
        reach = Reach.LOOPBACK if local else _REACH[p2p.reach]
        seeds = [(name, dns_seed(name, genesis.hash, reach)) for name in p2p.dns_seeds]
        seeds += [(url, json_seed(url, genesis.hash, reach)) for url in p2p.json_seeds]
        base = DiscoveryConfig.within(genesis.hash, reach)
        config = DiscoveryConfig(
            genesis_hash=genesis.hash,
            reach=reach,
            static=static_peers(self._home),
            seeds=tuple(seeds),
            announce=p2p.announce or (p2p.listen if local else ()),
            mdns=p2p.mdns,
            per_network=base.per_network,
            exempt=lambda peer: peer in self._wires.members(),
        )
        return Discovery(self._host, self._book, self.requests, config)

    def _watch_queues(self) -> None:
        queue, gossip, relay = self.health.queue, self.gossip.snapshot, self.relay.relay.snapshot
        queue("gossip_outbox", lambda: gossip().outbox_messages)
        queue("gossip_held", lambda: gossip().held)
        queue("relay_to_announce", lambda: relay().to_announce)
        queue("relay_wanted", lambda: relay().wanted)
        queue("relay_unjudged", lambda: relay().unjudged)
        queue("requests_served", self.requests.desk.active.total)

    async def run(self, *, task_status: TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """While the host runs, until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            await nursery.start(self.gossip.run)
            await nursery.start(self.relay.relay.run)
            nursery.start_soon(self.sessions.run)
            nursery.start_soon(self.discovery.run)
            task_status.started()

    # What peers say of themselves.

    @property
    def sources(self) -> int:
        """Peers that blocks can be asked of."""
        return len(self._heights)

    def height_of(self, peer: PeerId) -> Height:
        known = self._heights.get(peer)
        return Height(0) if known is None else known.height

    def _status(self) -> Status:
        return self.chain.status(self._wires.syncing())

    def _heard_status(self, peer: PeerId, status: Status | None) -> None:
        if status is None:
            self._heights.pop(peer, None)
            self._wires.take(PeerLeft(peer))
        elif not self._book.is_banned(peer):
            self._heights[peer] = status
            self._wires.take(PeerStands(peer, status.height, status.oldest))

    def _heard_header(self, peer: PeerId, data: bytes, _token: Token) -> Verdict:
        """A block that the sender says to have. It is passed on by whoever has it too, once that is so."""
        if len(data) != HEADER_BYTES:
            return Verdict.REJECT
        try:
            header = decode_header(data)
        except DecodeError:
            return Verdict.REJECT
        known = self._heights.get(peer)
        if known is not None and header.height > known.height:
            status = Status(header.height, header.hash, known.oldest, known.syncing)
            self._heights[peer] = status
            self._wires.take(PeerStands(peer, status.height, status.oldest))
        return Verdict.IGNORE

    # What this node tells.

    def _anybody(self) -> bool:
        """Whether a peer is connected that does not hear of everything by lanes."""
        if not self._validator:
            return True
        members = self._wires.members()
        return any(peer not in members for peer in self._heights)

    def announce(self, ids: tuple[Hash, ...]) -> None:
        self.relay.announce(ids, anybody=self._anybody())

    def committed(self, committed: Committed, _finality_ms: int) -> None:
        block = committed.done.applied.block
        self.relay.committed(block.transactions)
        self._validator = self._host.peer in self._wires.members()
        if committed.certificate is not None and self._anybody() and not self._wires.syncing():
            self.gossip.publish(Topic.HEADERS, block.header.encode())

    # What the engine asks of peers.

    def fetch(self, item: FetchHeaders | FetchBlocks) -> None:
        if isinstance(item, FetchHeaders):
            self._nursery.start_soon(self._fetch_headers, item)
        else:
            self._nursery.start_soon(self._fetch_blocks, item)

    async def _fetch_headers(self, item: FetchHeaders) -> None:
        found: tuple[tuple[bytes, bytes], ...] | None = None
        request = GetHeaders(item.locator, ASKED_HEADERS).encode()
        frames = await self._ask(item.peer, MessageId.GET_HEADERS, request, HEADERS_S, HEADERS_BYTES)
        if frames is not None:
            try:
                several = [each for frame in frames for each in decode_headers(frame.payload)]
                found = tuple((each.header, each.certificate) for each in several)
            except DecodeError:
                self.blame(Blame(item.peer, Offence.MALFORMED))
        self._wires.take(HeadersFetched(item.job, found))

    async def _fetch_blocks(self, item: FetchBlocks) -> None:
        found: tuple[bytes, ...] | None = None
        pruned = False
        request = GetBlocks(item.first, item.count).encode()
        frames = await self._ask(item.peer, MessageId.GET_BLOCKS, request, BLOCKS_S, BLOCKS_BYTES)
        if frames is not None:
            pruned = any(frame.message_id == MessageId.NOT_FOUND for frame in frames)
            bodies = [frame.payload for frame in frames if frame.message_id == MessageId.BLOCKS]
            try:
                found = tuple(decode_certified_block(payload).block for payload in bodies)
            except DecodeError:
                self.blame(Blame(item.peer, Offence.MALFORMED))
        self._wires.take(BlocksFetched(item.job, found, pruned))

    async def _ask(
        self, peer: PeerId, message_id: MessageId, request: bytes, deadline_s: float, max_bytes: int
    ) -> list[Frame] | None:
        try:
            return await self.requests.ask(peer, message_id, request, deadline_s=deadline_s, max_bytes=max_bytes)
        except RequestError as fault:
            if fault.reason in _BROKEN_RULES:
                self.blame(Blame(peer, Offence.MALFORMED))
            return None

    def blame(self, item: Blame) -> None:
        """The book bans whoever lied twice; discovery ends the connections of those, validators excepted."""
        self._host.counters.rejects[str(item.offence)] += 1
        self._book.penalise(item.peer, str(item.offence), PENALTIES[item.offence])
