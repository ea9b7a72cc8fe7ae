"""What connected nodes know of each other: HELLO once, STATUS now and then, GOODBYE at the end.

Of a pair the smaller peer id asks HELLO and both learn everything from it: its own HELLO is the request, the other's
the answer. Nothing here proves anything: a height is a hint whom to ask, headers and certificates are what convinces.
A peer without a common version stays connected, as lanes and gossip have versions of their own; it has no session, so
nobody asks it for blocks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import trio

from p2p.dialing import dials_first
from p2p.host import Host
from p2p.messages import (
    MAX_HELLO_BYTES,
    Goodbye,
    Hello,
    Status,
    decode_goodbye,
    decode_hello,
    decode_status,
    encode_goodbye,
)
from p2p.requests import RequestError, RequestFault, Requests
from trellis.encoding import DecodeError, Malformed
from trellis.types import Hash, PeerId
from trellis.wire import MessageId

VERSION: Final = 1
"""Of the messages on direct streams. A node of a later version that still speaks this one says so in its HELLO."""
HELLO_S: Final = 5
STATUS_EVERY_S: Final = 10
STATUS_S: Final = 5
GOODBYE_S: Final = 1
RETRY_S: Final = (1, 2, 4, 8, 16, 30)
"""A connected peer that answers no HELLO is asked again, ever more seldom."""
GREETED_WITHIN_S: Final = 2
"""Whoever should be asked asks itself if it was not: the one who asks may not have noticed that a connection took over
from another one, and believes that it has asked already."""
MAX_PING_BYTES: Final = 64


class SessionFault(StrEnum):
    """Why a connected peer has no session. A closed set: it labels counters."""

    NO_HELLO = "session_no_hello"
    MALFORMED = "session_malformed"
    OTHER_CHAIN = "session_other_chain"
    """Its HELLO names another genesis than the handshake proved: a broken node."""
    INCOMPATIBLE = "session_incompatible"


@dataclass(frozen=True, slots=True)
class PeerSession:
    """What a peer said of itself."""

    version: int
    """The newest that both speak."""
    hello: Hello
    status: Status
    heard_s: float
    """When, on trio's clock."""


OnStatus = Callable[[PeerId, Status | None], None]


class Sessions:
    """Greets whoever connects. `on_status` hears each new status, and None when a peer is gone."""

    def __init__(
        self,
        host: Host,
        requests: Requests,
        genesis_hash: Hash,
        status: Callable[[], Status],
        on_status: OnStatus,
        *,
        versions: tuple[int, int] = (VERSION, VERSION),
    ) -> None:
        self.told: Counter[str] = Counter()
        """Goodbyes that were heard, by reason."""
        self._host = host
        self._requests = requests
        self._genesis_hash = genesis_hash
        self._status = status
        self._on_status = on_status
        self._versions = versions
        self._sessions: dict[PeerId, PeerSession] = {}
        self._incompatible: set[PeerId] = set()
        self._nursery: trio.Nursery | None = None
        requests.serve(MessageId.HELLO, self._hello)
        requests.serve(MessageId.STATUS, self._state)
        requests.serve(MessageId.PING, _pong)
        requests.serve(MessageId.GOODBYE, self._goodbye)
        host.on_connect(self._connected)
        host.on_disconnect(self._disconnected)

    def peers(self) -> dict[PeerId, PeerSession]:
        """Who can be asked for something, in the order of peer ids."""
        return {peer: self._sessions[peer] for peer in sorted(self._sessions)}

    def incompatible(self, peer: PeerId) -> bool:
        return peer in self._incompatible

    def hello(self) -> Hello:
        transports = tuple(sorted({"ws" if "/ws" in address else "tcp" for address in self._host.addresses}))
        return Hello(*self._versions, self._genesis_hash, transports, self._host.config.agent[:64], self._status())

    async def run(self) -> None:
        """Greets, and asks everybody's status every `STATUS_EVERY_S`, until it is cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            try:
                for peer in sorted({health.peer for health in self._host.peers()}):
                    self._connected(peer)
                while True:
                    await trio.sleep(STATUS_EVERY_S)
                    await self.refresh()
            finally:
                self._nursery = None

    async def refresh(self) -> None:
        """Tells every peer our status and hears theirs: at once after something changed that they wait for."""
        async with trio.open_nursery() as nursery:
            for peer in self.peers():
                nursery.start_soon(self._ask_status, peer)

    async def leave(self) -> None:
        """The last word to everybody, before the host ends."""
        async with trio.open_nursery() as nursery:
            for peer in self.peers():
                nursery.start_soon(self._say_goodbye, peer, Goodbye.LEAVING)

    # Asking.

    def _connected(self, peer: PeerId) -> None:
        if self._nursery is not None:
            self._nursery.start_soon(self._greet, peer, 0 if dials_first(self._host.peer, peer) else GREETED_WITHIN_S)

    def _disconnected(self, peer: PeerId) -> None:
        self._incompatible.discard(peer)
        if self._sessions.pop(peer, None) is not None:
            self._on_status(peer, None)

    async def _greet(self, peer: PeerId, after_s: int) -> None:
        await trio.sleep(after_s)
        failures = 0
        while self._host.connected(peer) and peer not in self._sessions and peer not in self._incompatible:
            hello = await self._ask_hello(peer)
            if hello is not None:
                self._heard_hello(peer, hello)
                return
            await trio.sleep(RETRY_S[min(failures, len(RETRY_S) - 1)])
            failures += 1

    async def _ask_hello(self, peer: PeerId) -> Hello | None:
        try:
            frames = await self._requests.ask(
                peer, MessageId.HELLO, self.hello().encode(), deadline_s=HELLO_S, max_bytes=MAX_HELLO_BYTES
            )
            return decode_hello(frames[0].payload if frames else b"")
        except DecodeError:
            self._count(SessionFault.MALFORMED)
        except RequestError as fault:
            if fault.reason is not RequestFault.NOT_CONNECTED:
                self._count(SessionFault.NO_HELLO)
        return None

    async def _ask_status(self, peer: PeerId) -> None:
        try:
            frames = await self._requests.ask(
                peer, MessageId.STATUS, self._status().encode(), deadline_s=STATUS_S, max_bytes=1_024
            )
            for frame in frames[:1]:
                self._heard_status(peer, decode_status(frame.payload))
        except DecodeError:
            self._count(SessionFault.MALFORMED)
        except RequestError:
            # Counted by its reason; what is known stays known, with its age.
            return

    async def _say_goodbye(self, peer: PeerId, reason: Goodbye) -> None:
        try:
            await self._requests.ask(
                peer, MessageId.GOODBYE, encode_goodbye(reason), deadline_s=GOODBYE_S, max_bytes=1_024
            )
        except RequestError:
            # It is gone already, or will find out.
            return

    # Answering.

    async def _hello(self, peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        hello = decode_hello(payload)
        yield MessageId.HELLO, self.hello().encode()
        self._heard_hello(peer, hello)

    async def _state(self, peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        self._heard_status(peer, decode_status(payload))
        yield MessageId.STATUS, self._status().encode()

    async def _goodbye(self, peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        self.told[decode_goodbye(payload).name.lower()] += 1
        self._disconnected(peer)
        for nothing in _NOTHING:
            yield nothing

    def _heard_hello(self, peer: PeerId, hello: Hello) -> None:
        version = min(hello.newest_version, self._versions[1])
        if hello.genesis_hash != self._genesis_hash:
            self._count(SessionFault.OTHER_CHAIN)
            self._incompatible.add(peer)
        elif version < max(hello.oldest_version, self._versions[0]):
            self._count(SessionFault.INCOMPATIBLE)
            self._incompatible.add(peer)
        elif self._host.connected(peer):
            self._sessions[peer] = PeerSession(version, hello, hello.status, trio.current_time())
            self._on_status(peer, hello.status)

    def _heard_status(self, peer: PeerId, status: Status) -> None:
        known = self._sessions.get(peer)
        if known is not None:
            self._sessions[peer] = replace(known, status=status, heard_s=trio.current_time())
            self._on_status(peer, status)

    def _count(self, fault: SessionFault) -> None:
        self._host.counters.rejects[str(fault)] += 1


_NOTHING: Final[tuple[tuple[MessageId, bytes], ...]] = ()


async def _pong(_peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
    if len(payload) > MAX_PING_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, f"a ping of {len(payload)} bytes, the most is {MAX_PING_BYTES}")
    yield MessageId.PONG, payload
