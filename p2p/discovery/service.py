"""Discovery at work: a host, a peer book and requests, kept supplied with peers.

    discovery = Discovery(host, book, requests, DiscoveryConfig(genesis_hash, seeds=..., announce=...))
    async with host.run(), trio.open_nursery() as nursery:
        nursery.start_soon(discovery.run)
        contact = await discovery.find(peer)             # its signed record, or None

It asks seeds when it knows nobody to dial, dials candidates of the book until `wanted_peers` are connected, tells who
it is to those it meets and asks them whom they know, and looks itself and a random key up now and then, which keeps
the table filled and fresh. It also keeps the book on the disk, and has the host refuse whom the book bans, until the
ban ends. Configured peers are dialled by the host itself.
"""

from __future__ import annotations

import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio

from p2p.book import PeerBook, Source, SourceKind
from p2p.dialing import PeerAddress
from p2p.discovery.addresses import Reach, network_of_endpoint
from p2p.discovery.exchange import Asking, Exchange
from p2p.discovery.lookup import ANSWER_CONTACTS, PATHS, Lookup, Question
from p2p.discovery.mdns import local_peers
from p2p.discovery.records import Contact, RecordJudge, sign_record
from p2p.discovery.seeds import Seed, SeedError
from p2p.discovery.table import BUCKET, PER_NETWORK, Key, Table, key_of
from p2p.host import DialError, Host
from p2p.limits import UNKNOWN_ADDRESS
from p2p.requests import Requests
from trellis.constants import MAX_ADDRESSES_PER_RECORD
from trellis.types import Hash, PeerId
from trellis.wire import MessageId

logger = logging.getLogger(__name__)

DIALS_AT_ONCE: Final = 4
QUESTION_S: Final = 8
"""Dialling a peer and asking it."""
STARTS: Final = 3 * PATHS
KEEP_BOOK_S: Final = 1
FORGET_S: Final = 60
MEETINGS: Final = 64
"""Peers that connected and wait to be asked: in a flood of connections the others are asked when something needs it."""


def nobody(_peer: PeerId) -> bool:
    """No peer is exempt from bans."""
    return False


@dataclass(frozen=True, slots=True)
class DiscoveryConfig:
    """All that discovery is told."""

    genesis_hash: Hash
    reach: Reach = Reach.GLOBAL
    static: tuple[PeerAddress, ...] = ()
    seeds: tuple[tuple[str, Seed], ...] = ()
    """By name: `p2p.discovery.seeds` makes them."""
    announce: tuple[str, ...] = ()
    """This node's own addresses, as others reach it. None: it asks and is not told of (a private peer)."""
    mdns: bool = False
    mdns_interfaces: tuple[str, ...] | None = None
    wanted_peers: int = 16
    """It dials until so many are connected."""
    per_network: int = PER_NETWORK
    """Contacts of one /24 in a bucket of the table; where all peers share one, the bucket's size."""
    exempt: Callable[[PeerId], bool] = nobody
    """Whose connections a ban does not end: validators, whose consensus lanes no score may cut."""
    dial_s: float = 1
    seeds_s: float = 300
    refresh_s: float = 600

    @classmethod
    def within(cls, genesis_hash: Hash, reach: Reach) -> DiscoveryConfig:
        """Defaults for a reach: private networks often have all their peers in one /24."""
        return cls(genesis_hash, reach, per_network=PER_NETWORK if reach is Reach.GLOBAL else BUCKET)


class Discovery:
    """See the module's text."""

    def __init__(
        self,
        host: Host,
        book: PeerBook,
        requests: Requests,
        config: DiscoveryConfig,
        random: Callable[[int], bytes] = secrets.token_bytes,
        asking: Asking | None = None,
    ) -> None:
        self._host = host
        self._book = book
        self._config = config
        self._random = random
        clock = host.config.clock
        self._clock = clock
        self.judge = RecordJudge(
            config.genesis_hash, config.reach, clock.wall_s, host.config.certificates, host.config.network.algorithms
        )
        self.table = Table(host.peer, per_network=config.per_network)
        self._own: Contact | None = None
        self.exchange = Exchange(
            self.table,
            self.judge,
            asking=asking or requests,
            own=lambda: self._own,
            heard=self._heard,
            offended=self._offended,
            now_ms=clock.steady_ms,
        )
        self.seed_faults: Counter[str] = Counter()
        self._refused: set[PeerId] = set()
        """Those whom the host was told to refuse."""
        self._meet_send, self._meet_receive = trio.open_memory_channel[PeerId](MEETINGS)
        requests.serve(MessageId.GET_PEERS, self.exchange.serve)
        host.on_connect(self._connected)
        for each in config.static:
            book.note(each.peer, each.addresses, Source(SourceKind.STATIC))

    def announce(self, addresses: Sequence[str]) -> None:
        """This node's own record from now on: signed anew, with a higher sequence."""
        sequence = max(self._clock.wall_s() * 1_000, 0 if self._own is None else self._own.sequence + 1)
        chosen = list(addresses)[:MAX_ADDRESSES_PER_RECORD]
        self._own = sign_record(self._host.config.identity, self._config.genesis_hash, chosen, sequence)

    async def run(self) -> None:
        """Until cancelled."""
        if self._config.announce:
            self.announce(self._config.announce)
        await self._enforce_bans()
        async with AsyncExitStack() as stack:
            if self._config.mdns:
                try:
                    await stack.enter_async_context(self._mdns())
                except OSError as fault:
                    logger.warning("no mDNS on this machine, the other ways remain: %s", fault)
            nursery = await stack.enter_async_context(trio.open_nursery())
            for work in (self._keep_book, self._keep_supplied, self._keep_fresh, self._meet_peers):
                nursery.start_soon(work)

    @asynccontextmanager
    async def _mdns(self) -> AsyncIterator[None]:
        def found(peer: PeerAddress) -> None:
            self._book.note(peer.peer, peer.addresses, Source(SourceKind.MDNS))

        config = self._config
        own, announced = self._host.peer, config.announce
        async with local_peers(
            own, config.genesis_hash, announced, found, reach=config.reach, interfaces=config.mdns_interfaces
        ):
            yield

    # Finding.

    async def find(self, peer: PeerId) -> Contact | None:
        """The newest signed record of a peer that the network tells, or None."""
        return (await self.look_up(key_of(peer), wanted=peer)).found

    async def look_up(self, key: Key, wanted: PeerId | None = None) -> Lookup:
        """Asks nearer and nearer peers; what it learns on the way stays in the table and the book."""
        lookup = Lookup(key, self.table.nearest(key, STARTS), wanted=wanted)
        send, receive = trio.open_memory_channel[tuple[Question, Sequence[Contact] | None]](PATHS)

        async def ask(question: Question) -> None:
            answer: Sequence[Contact] | None = None
            with trio.move_on_after(QUESTION_S):
                answer = await self._ask(question.contact, key)
            await send.send((question, answer))

        async with trio.open_nursery() as nursery:
            while True:
                for question in lookup.questions():
                    nursery.start_soon(ask, question)
                if lookup.done:
                    break
                question, answer = await receive.receive()
                if answer is None:
                    lookup.failed(question)
                else:
                    lookup.answered(question, answer)
            nursery.cancel_scope.cancel()
        return lookup

    async def _ask(self, contact: Contact, key: Key) -> Sequence[Contact] | None:
        """A connection that was made for one question ends with its answer, unless more peers are wanted anyway."""
        met = self._host.connected(contact.peer)
        if not met and not await self._dial(PeerAddress(contact.peer, contact.addresses)):
            self.table.failed(contact.peer)
            return None
        answer = await self.exchange.ask(contact.peer, key, ANSWER_CONTACTS)
        if not met and len(self._host.peers()) > self._config.wanted_peers:
            await self._host.disconnect(contact.peer)
        return answer

    async def _dial(self, to: PeerAddress) -> bool:
        if self._book.is_banned(to.peer) or to.peer == self._host.peer:
            return False
        for address in to.addresses:
            try:
                await self._host.connect(to.peer, address)
            except DialError:
                continue
            self._book.proven(to.peer, address)
            return True
        self._book.failed(to.peer)
        return False

    def _heard(self, teller: PeerId, contact: Contact) -> None:
        source = Source(SourceKind.EXCHANGE, self._network_of(teller))
        self._book.note(contact.peer, contact.addresses, source, sequence=contact.sequence)

    def _network_of(self, peer: PeerId) -> str:
        for health in self._host.peers():
            if health.peer == peer:
                return network_of_endpoint(health.address)
        return UNKNOWN_ADDRESS

    async def _offended(self, peer: PeerId, reason: str, amount: int) -> None:
        if self._book.penalise(peer, reason, amount):
            await self._enforce_bans()

    async def _enforce_bans(self) -> None:
        """Whoever banned a peer did so in the book: the host learns of it here, and of the ban's end."""
        banned = {each.peer for each in self._book.bans() if not self._config.exempt(each.peer)}
        for peer in sorted(self._refused - banned):
            self._host.unban(peer)
        fresh = sorted(banned - self._refused)
        self._refused = banned
        for peer in fresh:
            self.table.remove(peer)
            await self._host.ban(peer)

    # Keeping.

    def _connected(self, peer: PeerId) -> None:
        self._book.proven(peer)
        try:
            self._meet_send.send_nowait(peer)
        except trio.WouldBlock:
            return

    async def _meet_peers(self) -> None:
        """Tells our record to whoever connected, and hears whom it knows near us."""

        async def meet() -> None:
            async for peer in self._meet_receive:
                await self.exchange.ask(peer, key_of(self._host.peer), ANSWER_CONTACTS)

        async with trio.open_nursery() as nursery:
            for _ in range(DIALS_AT_ONCE):
                nursery.start_soon(meet)

    async def _keep_supplied(self) -> None:
        asked_seeds_at = -trio.current_time() - self._config.seeds_s
        while True:
            connected = frozenset(each.peer for each in self._host.peers())
            if len(connected) < self._config.wanted_peers:
                candidates = self._book.candidates(DIALS_AT_ONCE, connected | {self._host.peer})
                if not candidates and trio.current_time() >= asked_seeds_at + self._config.seeds_s:
                    asked_seeds_at = trio.current_time()
                    await self._ask_seeds()
                    continue
                async with trio.open_nursery() as nursery:
                    for candidate in candidates:
                        nursery.start_soon(self._dial, candidate)
            await trio.sleep(self._config.dial_s)

    async def _ask_seeds(self) -> None:
        for name, seed in self._config.seeds:
            try:
                peers = await seed()
            except SeedError as fault:
                self.seed_faults[str(fault.reason)] += 1
                logger.warning("a seed gave nothing: %s", fault)
                continue
            for each in peers:
                self._book.note(each.peer, each.addresses, Source(SourceKind.SEED, name))

    async def _keep_fresh(self) -> None:
        """Looks up the own key, which tells the neighbours of us, then a random one."""
        own = True
        while True:
            await self._somebody_known()
            await self.look_up(key_of(self._host.peer) if own else Key(int.from_bytes(self._random(32), "big")))
            own = not own
            await trio.sleep(self._config.refresh_s)

    async def _somebody_known(self) -> None:
        while not len(self.table):
            await trio.sleep(self._config.dial_s)

    async def _keep_book(self) -> None:
        forgotten_at = trio.current_time()
        while True:
            await trio.sleep(KEEP_BOOK_S)
            if trio.current_time() >= forgotten_at + FORGET_S:
                forgotten_at = trio.current_time()
                self._book.decay()
            await self._enforce_bans()
            self._book.flush()
            await trio.to_thread.run_sync(self._book.sync)
