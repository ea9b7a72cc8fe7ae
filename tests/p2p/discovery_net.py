"""A network of nodes in one process, some of them liars: real tables, exchanges, lookups and signed records, and in
place of the wire a function call. Everything is drawn from one seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from enum import StrEnum
from functools import cache
from itertools import zip_longest

from p2p.discovery.addresses import Reach
from p2p.discovery.exchange import Exchange, decode_get_peers, encode_peers
from p2p.discovery.lookup import ANSWER_CONTACTS, PATHS, Lookup
from p2p.discovery.records import Contact, RecordJudge, sign_record
from p2p.discovery.table import Key, Table, distance, key_of
from p2p.handshake import LocalIdentity
from p2p.requests import RequestError, RequestFault
from tests.p2p.kit import GENESIS, WALL_S, key
from trellis.types import PeerId
from trellis.wire import Flags, Frame, MessageId

ENTRANCES = 4
"""Peers through which a node joins: seeds, configured ones, whoever connected. If all of them lie, it is lost."""


WANTED = 16
"""Connections that a node keeps, as in `DiscoveryConfig`."""


class Liar(StrEnum):
    """What a dishonest node answers."""

    JUNK = "junk"
    FRIENDS = "friends"
    """Only liars, the nearest to what was asked."""
    ITSELF = "itself"
    SILENT = "silent"
    FORGED = "forged"
    """Records of honest peers with another signature."""


@cache
def contact_of(name: str) -> Contact:
    """A real record with a real signature; every node lives in a network of its own."""
    number = int(name.removeprefix("node"))
    address = f"/ip4/45.{number >> 8}.{number & 255}.1/tcp/4001"
    return sign_record(LocalIdentity.of(key(name)), GENESIS, [address], 1)


class SimulatedNode:
    def __init__(self, net: SimulatedNetwork, name: str, liar: Liar | None) -> None:
        self.net = net
        self.contact = contact_of(name)
        self.peer = self.contact.peer
        self.liar = liar
        self.table = Table(self.peer)
        self.offences: Counter[str] = Counter()
        self.heard: dict[PeerId, list[PeerId]] = {}
        """Of whom, by who told."""
        self.exchange = Exchange(
            self.table,
            net.judge,
            asking=self,
            own=lambda: self.contact,
            heard=self._heard,
            offended=self._offended,
            now_ms=lambda: net.now_ms,
        )

    def _heard(self, teller: PeerId, contact: Contact) -> None:
        self.heard.setdefault(teller, []).append(contact.peer)

    async def meet(self, wanted: int) -> None:
        """As the service does it: so many peers are met, of those heard of, from every source in turn."""
        met = {self.peer}
        for row in zip_longest(*list(self.heard.values())):
            for peer in row:
                if peer is not None and peer not in met and len(met) <= wanted:
                    met.add(peer)
                    await self.exchange.ask(peer, key_of(self.peer), ANSWER_CONTACTS)

    async def _offended(self, peer: PeerId, reason: str, _amount: int) -> None:
        self.offences[reason] += 1
        self.table.failed(peer)

    async def ask(
        self, peer: PeerId, message_id: MessageId, payload: bytes, *, deadline_s: float, max_bytes: int
    ) -> list[Frame]:
        """The wire."""
        assert message_id is MessageId.GET_PEERS
        assert deadline_s > 0
        self.net.now_ms += 1_000
        frames = []
        async for kind, body in self.net.nodes[peer].answer(self.peer, payload):
            assert len(body) <= max_bytes
            frames.append(Frame(kind, 0, Flags.NONE, body))
        return frames

    async def answer(self, asker: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        target = decode_get_peers(payload).key
        match self.liar:
            case None:
                async for frame in self.exchange.serve(asker, payload):
                    yield frame
            case Liar.SILENT:
                raise RequestError(RequestFault.DEADLINE, "silent")
            case Liar.JUNK:
                yield MessageId.PEERS, self.net.chance.randbytes(3_000)
            case Liar.ITSELF:
                yield MessageId.PEERS, encode_peers([self.contact.signed])
            case Liar.FRIENDS:
                friends = sorted(self.net.liars, key=lambda each: distance(key_of(each.peer), target))
                yield MessageId.PEERS, encode_peers([each.contact.signed for each in friends[:ANSWER_CONTACTS]])
            case Liar.FORGED:
                honest = [each.contact.signed for each in self.net.honest[:ANSWER_CONTACTS]]
                yield MessageId.PEERS, encode_peers([each[:-1] + bytes([each[-1] ^ 1]) for each in honest])

    async def look_up(self, target: Key, wanted: PeerId | None = None) -> Lookup:
        """As the service does it, one question after another: in the order in which they were put."""
        lookup = Lookup(target, self.table.nearest(target, 3 * PATHS), wanted=wanted)
        while not lookup.done:
            for question in lookup.questions():
                answer = await self.exchange.ask(question.contact.peer, target, ANSWER_CONTACTS)
                if answer is None:
                    lookup.failed(question)
                else:
                    lookup.answered(question, answer)
        return lookup


class SimulatedNetwork:
    def __init__(self, nodes: int, liars: Sequence[Liar], seed: int = 1) -> None:
        """The last `len(liars)` nodes lie, each in its way; they join among the others, in an order drawn."""
        self.chance = random.Random(seed)
        self.now_ms = 0
        self.judge = RecordJudge(GENESIS, Reach.GLOBAL, lambda: WALL_S)
        kinds = [None] * (nodes - len(liars)) + list(liars)
        made = [SimulatedNode(self, f"node{place}", kind) for place, kind in enumerate(kinds)]
        self.nodes = {node.peer: node for node in made}
        self.honest = [node for node in made if node.liar is None]
        self.liars = [node for node in made if node.liar is not None]

    async def grow(self) -> None:
        """Everybody joins through four (any may lie), looks itself up, meets some of whom it has heard, and
        later refreshes twice."""
        order = [*self.nodes.values()]
        first, *others = order[:5]
        rest = order[5:]
        self.chance.shuffle(rest)
        there = [first]
        for node in [*others, *rest]:
            for entrance in self.chance.sample(there, min(ENTRANCES, len(there))):
                await node.exchange.ask(entrance.peer, key_of(node.peer), ANSWER_CONTACTS)
            await node.look_up(key_of(node.peer))
            await node.meet(WANTED)
            there.append(node)
        for node in self.honest:
            await node.look_up(key_of(node.peer))
            await node.look_up(Key(self.chance.getrandbits(256)))
