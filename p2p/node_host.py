"""libp2p's host with every handler behind a wrapper, bounded negotiation, and an identify that believes little."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import trio
from libp2p.abc import INetConn, INetStream
from libp2p.custom_types import StreamHandlerFn, TProtocol
from libp2p.host.basic_host import BasicHost
from libp2p.host.exceptions import StreamFailure
from libp2p.host.ping import ID as PING
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.identity.identify_push.identify_push import ID_PUSH as IDENTIFY_PUSH
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.peer.id import ID

from p2p import selection
from p2p.counters import Counters, StreamFault
from p2p.limits import Limits
from p2p.streams import LOST, ReadAhead, reset_quietly
from p2p.wiring import BoundedSwarm, BoundedYamux
from trellis.types import PeerId

logger = logging.getLogger(__name__)

Handler = Callable[[ReadAhead], Awaitable[None]]

MAX_IDENTIFY_BYTES: Final = 32 << 10
"""libp2p's takes a megabyte of addresses and parses each: seconds of the event loop for one message of a member."""
MAX_PROTOCOLS: Final = 128
MAX_AGENT_CHARS: Final = 64
IDENTIFY_TIMEOUT_S: Final = 10


@dataclass(frozen=True, slots=True)
class Introduction:
    """What a peer says of itself. Nothing but display and hints may depend on it."""

    agent: str
    protocols: frozenset[str]
    addresses: tuple[bytes, ...]
    """Raw multiaddresses, unchecked; signed address records are the ones to believe."""


class NodeHost(BasicHost):
    """What gossipsub and the stock protocols see as their libp2p host."""

    def __init__(self, swarm: BoundedSwarm, limits: Limits, counters: Counters, agent: str) -> None:
        self._limits = limits
        self._counters = counters
        self._agent = agent
        self._introductions: dict[PeerId, Introduction] = {}
        self.nursery: trio.Nursery | None = None
        self.connection_to: Callable[[ID], INetConn | None] = lambda _peer: None
        """The connection to a peer that new streams go over."""
        super().__init__(network=swarm, disable_identify_address_discovery=True)
        self._own: dict[str, Handler] = {}
        ping = PingService(self)
        self.multiselect.handlers = {PING: ping.handle_ping}
        self._own[str(IDENTIFY)] = self._tell
        self._own[str(IDENTIFY_PUSH)] = self._listen
        swarm.set_stream_handler(self._on_stream)

    def serve(self, protocol: str, handler: Handler) -> None:
        self._own[protocol] = handler

    def offered(self) -> tuple[str, ...]:
        """Every protocol that is served here, stock ones included."""
        return (*self._own, *(str(each) for each in self.multiselect.handlers if each is not None))

    async def _on_stream(self, stream: INetStream) -> None:
        """Every stream that a peer opens passes here. In libp2p an exception of a handler ends the whole host, and a
        handler that returns without closing leaks the stream at both ends."""
        ahead = ReadAhead(stream)
        try:
            protocol = await self._agree(ahead)
            if protocol is not None:
                await self._serve(ahead, protocol)
        except LOST as lost:
            logger.debug("stream ended: %s", type(lost).__name__)
            await reset_quietly(stream)
        except Exception as fault:  # whatever a handler raises ends its stream, never the host
            logger.debug("handler failed: %s", type(fault).__name__)
            self._counters.reject(StreamFault.HANDLER_FAILED)
            await reset_quietly(stream)

    async def _agree(self, ahead: ReadAhead) -> str | None:
        """The protocol that the peer asks for; None if the stream was ended instead."""
        fault: StreamFault | None = StreamFault.NEGOTIATION_TIMEOUT
        protocol = ""
        with trio.move_on_after(self._limits.negotiation_timeout_s):
            try:
                protocol = await selection.answer(ahead.stream, ahead.read_exactly, self.offered())
                fault = None
            except selection.SelectionError:
                fault = StreamFault.NO_PROTOCOL
        if fault is None and _open_streams(ahead)[protocol] >= self._limits.streams_per_protocol:
            fault = StreamFault.TOO_MANY
        if fault is not None:
            self._counters.reject(fault)
            await reset_quietly(ahead.stream)
            return None
        return protocol

    async def _serve(self, ahead: ReadAhead, protocol: str) -> None:
        ahead.stream.set_protocol(TProtocol(protocol))
        handler = self._own.get(protocol)
        if handler is None:
            stock = self.multiselect.handlers[TProtocol(protocol)]
            if stock is None:
                raise StreamFailure(f"no handler for {protocol}")
            handler = _adapted(stock)
        open_streams = _open_streams(ahead)
        open_streams[protocol] += 1
        try:
            await handler(ahead)
            await self._end(ahead)
        finally:
            open_streams[protocol] -= 1

    async def _end(self, ahead: ReadAhead) -> None:
        """Our end is closed; the peer gets some time to close its own."""
        await ahead.stream.close()
        if not await ahead.drain(self._limits.stream_linger_s):
            self._counters.reject(StreamFault.NEVER_CLOSED)
            await reset_quietly(ahead.stream)

    async def new_stream(self, peer_id: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        """For stock protocols. Never dials: libp2p's does, behind the dialer's back."""
        connection = self.connection_to(peer_id)
        if connection is None:
            raise StreamFailure(f"no connection to {peer_id}")
        ahead = ReadAhead(await connection.new_stream())
        agreed = ""
        try:
            with trio.move_on_after(self._limits.negotiation_timeout_s):
                agreed = await selection.propose(ahead.stream, ahead.read_exactly, [str(each) for each in protocol_ids])
        except (selection.SelectionError, *LOST) as lost:
            raise StreamFailure(f"no stream to {peer_id}: {lost}") from None
        finally:
            if not agreed:
                await reset_quietly(ahead.stream)
        if not agreed:
            raise StreamFailure(f"no stream to {peer_id}: no answer")
        ahead.stream.set_protocol(TProtocol(agreed))
        return cast(INetStream, ahead)

    # Identify.

    async def _tell(self, ahead: ReadAhead) -> None:
        """Answers with what we are. No signed record: libp2p's cannot be made with these keys."""
        said = Identify(
            protocol_version="trellis/1",
            agent_version=self._agent,
            public_key=self.get_public_key().serialize(),
            listen_addrs=[address.to_bytes() for address in self.get_transport_addrs()],
            protocols=self.offered(),
        ).SerializeToString()
        await ahead.stream.write(_varint(len(said)) + said)

    async def _listen(self, ahead: ReadAhead) -> None:
        peer = PeerId(ahead.stream.muxed_conn.peer_id.to_bytes())
        with trio.fail_after(IDENTIFY_TIMEOUT_S):
            self._introductions[peer] = await _read_introduction(ahead)

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """libp2p's runs as a system task, whose failure ends the process, and stores whatever it is told."""
        if self.nursery is not None:
            self.nursery.start_soon(self._ask, peer_id)

    async def _ask(self, peer_id: ID) -> None:
        try:
            ahead: Any = await self.new_stream(peer_id, [IDENTIFY])
        except (StreamFailure, *LOST):
            return
        try:
            with trio.move_on_after(IDENTIFY_TIMEOUT_S):
                peer = PeerId(peer_id.to_bytes())
                introduction = await _read_introduction(ahead)
                if self.get_network().get_connections(peer_id):
                    self._introductions[peer] = introduction
        except Exception as fault:  # a stranger's introduction may break libp2p's parsing in any way
            logger.debug("identify failed: %s", type(fault).__name__)
            self._counters.reject(StreamFault.HANDLER_FAILED)
        finally:
            await reset_quietly(ahead.stream)

    def _on_notifee_disconnected(self, conn: Any) -> None:
        if isinstance(conn, SwarmConn) and not self.get_network().get_connections(conn.muxed_conn.peer_id):
            self._introductions.pop(PeerId(conn.muxed_conn.peer_id.to_bytes()), None)

    def introduction_of(self, peer: PeerId) -> Introduction | None:
        return self._introductions.get(peer)

    def agent_of(self, peer: PeerId) -> str:
        known = self._introductions.get(peer)
        return "" if known is None else known.agent


def _open_streams(ahead: ReadAhead) -> Counter[str]:
    """Streams of each protocol that the peer has open on this connection."""
    muxed = ahead.stream.muxed_conn
    if not isinstance(muxed, BoundedYamux):
        raise TypeError("a stream of a connection that did not pass our upgrader")
    return muxed.served


def _adapted(stock: StreamHandlerFn) -> Handler:
    async def handle(ahead: ReadAhead) -> None:
        await stock(cast(INetStream, ahead))

    return handle


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out) + bytes([value])


async def _read_introduction(ahead: ReadAhead) -> Introduction:
    size = shift = 0
    while True:
        byte = (await ahead.read_exactly(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if not byte & 0x80:
            break
        if shift > 14:
            raise selection.SelectionError("an introduction of a megabyte or more")
    if size > MAX_IDENTIFY_BYTES:
        raise selection.SelectionError(f"an introduction of {size} bytes, the most is {MAX_IDENTIFY_BYTES}")
    said = Identify.FromString(await ahead.read_exactly(size))
    agent = "".join(letter for letter in said.agent_version[:MAX_AGENT_CHARS] if letter.isprintable())
    return Introduction(agent, frozenset(said.protocols[:MAX_PROTOCOLS]), tuple(said.listen_addrs[:16]))
