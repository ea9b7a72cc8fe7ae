"""The host: authenticated connections to peers, and plain byte streams over them.

    host = Host(HostConfig(identity=..., network=..., listen=("/ip4/0.0.0.0/tcp/4001",)))
    host.serve("/trellis/echo/1", handler)               # async def handler(stream: Stream) -> None
    async with host.run():
        await host.connect(peer_id, "/ip4/192.0.2.7/tcp/4001")
        async with await host.open_stream(peer_id, "/trellis/echo/1") as stream:
            await stream.write(b"hello")

A handler may raise whatever it likes: its stream is reset and counted, nothing else happens. When it returns its
stream is closed. Peers that are configured (`HostConfig.peers`) are dialled again for as long as the host runs.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final

import trio
from libp2p.abc import INetConn, INetStream, INetwork, INotifee
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from p2p import selection
from p2p.counters import ConnectionEnd, ConnectionHealth, Counters, StreamFault
from p2p.dialing import PATIENCE_MS, PeerAddress, dials_first, wait_ms
from p2p.endpoints import shown
from p2p.handshake import PeerLimits, Reject, Setup
from p2p.handshake.certificates import CertificateBook
from p2p.node_host import Handler, NodeHost
from p2p.ownfaults import OwnFaults
from p2p.settings import HostConfig, everyone, system_clock
from p2p.streams import LOST, ReadAhead, Stream, StreamEnd, StreamError, reset_quietly
from p2p.transport import HandshakeRejectedError, PqSession, PqTransport
from p2p.wiring import BoundedSwarm, BoundedUpgrader, BoundedYamux
from trellis.encoding import DecodeError
from trellis.peerid import peer_id_text
from trellis.types import PeerId

logger = logging.getLogger(__name__)

DIAL_TIMEOUT_S: Final = 20
HOUSEKEEPING_S: Final = 60
SHUTDOWN_S: Final = 5


__all__ = [
    "ConnectionHealth",
    "DialError",
    "Host",
    "HostConfig",
    "NotConnectedError",
    "everyone",
    "system_clock",
]


class DialError(Exception):
    """A peer could not be reached. `reason` where the handshake gave one, `told` if it is the peer's."""

    def __init__(self, detail: str, reason: Reject | None = None, *, told: bool = False) -> None:
        super().__init__(detail)
        self.reason = reason
        self.told = told


class NotConnectedError(Exception):
    """There is no connection to that peer."""


@dataclass(eq=False, slots=True)
class _Connection:
    peer: PeerId
    swarm: SwarmConn
    muxed: BoundedYamux
    since_s: float

    @property
    def dialled(self) -> bool:
        return self.muxed.session.is_initiator


PeerCallback = Callable[[PeerId], None]


class Host:
    """See the module's text. One task tree: everything it starts ends with `run`."""

    def __init__(self, config: HostConfig) -> None:
        # Strangers' faults are counted, not logged: libp2p writes a line, or a traceback, for each of them.
        logging.getLogger("libp2p").setLevel(logging.CRITICAL)
        for address in (*config.listen, *(one for each in config.peers for one in each.addresses)):
            _parsed(address)
        if any(not each.addresses for each in config.peers):
            raise ValueError("a configured peer has at least one address")
        self.config = config
        self.peer: PeerId = config.identity.peer
        self.counters = Counters()
        self.own_faults = OwnFaults()
        self._validators = config.validators
        self._handlers: dict[str, Callable[[Stream], Awaitable[None]]] = {}
        self._connections: dict[PeerId, list[_Connection]] = {}
        self._in_use: dict[PeerId, _Connection] = {}
        """The one connection to each peer that new streams go over, and that callbacks were told of."""
        self._changed: dict[PeerId, trio.Event] = {}
        self._banned: set[PeerId] = set()
        self._kept: dict[PeerId, trio.CancelScope] = {}
        self._on_connect: list[PeerCallback] = []
        self._on_disconnect: list[PeerCallback] = []
        self._nursery: trio.Nursery | None = None
        limits = config.limits
        self._transport = PqTransport(self._setup(), limits, self.counters)
        self._swarm = BoundedSwarm(
            ID(self.peer),
            BoundedUpgrader(self._transport, limits, self.counters),
            limits,
            self.counters,
            config.clock.steady_ms,
        )
        self._swarm.peerstore.add_key_pair(ID(self.peer), self._transport.key_pair)
        self._swarm.register_notifee(_Watcher(self))
        self.libp2p = NodeHost(self._swarm, limits, self.counters, config.agent)
        """For gossipsub, which wants a libp2p host. Its own streams pass the same wrappers as ours."""
        self.libp2p.connection_to = self._swarm_connection
        self._dials = trio.CapacityLimiter(limits.dials)

    def _setup(self) -> Setup:
        config = self.config
        return Setup(
            network=config.network,
            local=config.identity,
            clock=config.clock,
            random=config.random,
            kem=config.kem,
            certificates=config.certificates or CertificateBook(config.network.genesis_hash),
            admit=self._admit,
            limits=PeerLimits(config.limits.streams_per_connection, config.session_lifetime_s, 0),
        )

    # Whom to admit.

    def _admit(self, peer: PeerId) -> Reject | None:
        if peer in self._banned:
            return Reject.BANNED
        refusal = self.config.admit(peer)
        if refusal is not None:
            return refusal
        limits = self.config.limits
        free = limits.connections - self._total()
        reserved = 0 if peer in self._validators else limits.connections_reserved - self._validators_connected()
        return Reject.TOO_MANY_CONNECTIONS if free <= max(reserved, 0) and peer not in self._connections else None

    def _total(self) -> int:
        return sum(len(each) for each in self._connections.values())

    def _validators_connected(self) -> int:
        return sum(1 for peer in self._connections if peer in self._validators)

    def set_validators(self, validators: frozenset[PeerId]) -> None:
        """Who has reserved places from now on."""
        self._validators = validators
        self._reserve_slots()

    def _reserve_slots(self) -> None:
        known = {
            address.split("/")[2]
            for each in self.config.peers
            if each.peer in self._validators
            for address in each.addresses
            if address.startswith(("/ip4/", "/ip6/"))
        }
        self._swarm.doorkeeper.reserve_for(frozenset(known))

    async def ban(self, peer: PeerId) -> None:
        """Refuses the peer from now on and ends its connections. Reasons and expiry are the peer book's."""
        self._banned.add(peer)
        await self.disconnect(peer)

    def unban(self, peer: PeerId) -> None:
        self._banned.discard(peer)

    # Running.

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Listens, keeps configured peers connected, and ends it all on leaving. `OSError` if an address is taken."""
        self._reserve_slots()
        wanted = [_parsed(address) for address in self.config.listen]
        failure: Exception | None = None
        async with self.libp2p.run(wanted), trio.open_nursery() as nursery:
            try:
                if len(self._swarm.listeners) < len(wanted):
                    raise OSError(f"cannot listen on all of {', '.join(self.config.listen)}")  # noqa: TRY301 - the same way out
                self._start(nursery)
                yield
            except Exception as raised:  # raised again below: five nurseries would wrap it five times
                failure = raised
            finally:
                self._nursery = None
                self.libp2p.nursery = None
                nursery.cancel_scope.cancel()
                await self._shut()
        if failure is not None:
            raise failure

    async def _shut(self) -> None:
        """Ends every connection and listener. libp2p closes them one by one in a task that is being cancelled: it gets
        no further than the first, and leaks the sockets of the others."""
        with trio.CancelScope(shield=True, deadline=trio.current_time() + SHUTDOWN_S):
            async with trio.open_nursery() as closing:
                for connection in self._swarm.get_connections():
                    closing.start_soon(connection.close)
                for some in list(self._connections.values()):
                    for each in some:
                        # A listener that ends takes the sockets that it accepted along, before a farewell is said.
                        await each.muxed.event_closed.wait()
                for listener in self._swarm.listeners.values():
                    closing.start_soon(listener.close)

    def _start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self.libp2p.nursery = nursery
        for each in self.config.peers:
            self.keep(each)
        nursery.start_soon(self._keep_house)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where the host listens, with the ports that the system chose."""
        return tuple(str(address) for listener in self._swarm.listeners.values() for address in listener.get_addrs())

    async def _keep_house(self) -> None:
        while True:
            await trio.sleep(HOUSEKEEPING_S)
            for connection in [each for some in self._connections.values() for each in some]:
                # The dialer renews first; the listener ends what its dialer forgot.
                lifetime_s = self.config.session_lifetime_s * (1.0 if connection.dialled else 1.1)
                if trio.current_time() - connection.since_s > lifetime_s:
                    self.counters.reject(ConnectionEnd.EXPIRED)
                    await connection.swarm.close()

    # Connections.

    def connected(self, peer: PeerId) -> bool:
        return peer in self._in_use

    def on_connect(self, callback: PeerCallback) -> None:
        """Called when a connection to a peer is the one in use. Must not block and must not raise.

        For each peer the calls of `on_connect` and `on_disconnect` alternate. A connection that takes over from another
        one is both, in one moment: no stream of the old one goes on, so whoever holds state of it must begin anew."""
        self._on_connect.append(callback)

    def on_disconnect(self, callback: PeerCallback) -> None:
        """Called when the connection that was in use is over."""
        self._on_disconnect.append(callback)

    async def connect(self, peer: PeerId, address: str) -> None:
        """Returns when there is a connection to `peer`. `DialError` if it cannot be reached there."""
        if peer == self.peer:
            raise ValueError("a node does not dial itself")
        if not self.connected(peer):
            await self._dial(peer, address)

    def keep(self, to: PeerAddress) -> None:
        """Dials this peer again for as long as the host runs, or until it is forgotten. Replaces older addresses."""
        if self._nursery is None:
            raise RuntimeError("the host does not run")
        if to.peer != self.peer:
            self.forget(to.peer)
            scope = self._kept[to.peer] = trio.CancelScope()
            self._nursery.start_soon(self._keep_connected, to, scope)

    def forget(self, peer: PeerId) -> bool:
        """Dials the peer no more; a connection that stands is left. False if it was not kept."""
        scope = self._kept.pop(peer, None)
        if scope is None:
            return False
        scope.cancel()
        return True

    def keeps(self, peer: PeerId) -> bool:
        return peer in self._kept

    async def disconnect(self, peer: PeerId) -> None:
        """Returns when nothing passes any more. libp2p's own bookkeeping takes a fifth of a second longer, most of it
        asleep, and ends in the background."""
        for connection in list(self._connections.get(peer, ())):
            if self._nursery is None:
                await connection.swarm.close()
            else:
                self._in_background(connection.swarm.close)
                await connection.muxed.event_closed.wait()

    async def _dial(self, peer: PeerId, address: str) -> None:
        self.counters.dials += 1
        fault: BaseException | None = None
        async with self._dials:
            with trio.move_on_after(DIAL_TIMEOUT_S) as scope:
                try:
                    await self._swarm.dial_addr(_parsed(address), ID(peer))
                except SwarmException as failed:
                    fault = failed
        if fault is None and not scope.cancelled_caught:
            return
        self.counters.failed_dials += 1
        detail = f"no connection to {peer_id_text(peer)} at {address}"
        cause = fault
        while cause is not None:
            if isinstance(cause, HandshakeRejectedError):
                rejected = cause.rejected
                raise DialError(f"{detail}: {rejected.reason.name}", rejected.reason, told=rejected.by_peer) from None
            cause = cause.__cause__
        raise DialError(detail if fault is None else f"{detail}: {fault}") from None

    async def _keep_connected(self, to: PeerAddress, scope: trio.CancelScope) -> None:
        with scope:
            await self._dial_again_and_again(to)

    async def _dial_again_and_again(self, to: PeerAddress) -> None:
        failures = 0
        if not dials_first(self.peer, to.peer):
            await self._wait_for(to.peer, PATIENCE_MS)
        while True:
            if self.connected(to.peer):
                failures = 0
                await self._change_of(to.peer).wait()
                if not self.connected(to.peer) and not dials_first(self.peer, to.peer):
                    await self._wait_for(to.peer, PATIENCE_MS)
                continue
            try:
                await self._dial(to.peer, to.addresses[failures % len(to.addresses)])
            except DialError:
                await self._wait_for(to.peer, wait_ms(failures, self.config.jitter))
                failures += 1

    def _change_of(self, peer: PeerId) -> trio.Event:
        return self._changed.setdefault(peer, trio.Event())

    async def _wait_for(self, peer: PeerId, most_ms: int) -> None:
        """Until the peer is connected, at most so long."""
        with trio.move_on_after(most_ms / 1_000):
            while not self.connected(peer):
                await self._change_of(peer).wait()

    async def _connection_opened(self, swarm: SwarmConn) -> None:
        muxed = swarm.muxed_conn
        if not isinstance(muxed, BoundedYamux):
            raise TypeError("a connection that did not pass our upgrader")
        if swarm.is_closed:
            return
        peer = PeerId(muxed.peer_id.to_bytes())
        if self._total() >= self.config.limits.connections:
            # Several handshakes were admitted at once for the last place.
            self.counters.reject(Reject.TOO_MANY_CONNECTIONS)
            self._in_background(swarm.close)
            return
        if muxed.event_shutting_down.is_set():
            # It was over before libp2p told of it.
            return
        opened = _Connection(peer, swarm, muxed, trio.current_time())
        self._connections.setdefault(peer, []).append(opened)
        muxed.ended = lambda: self._connection_closed(swarm)
        self._settle(peer)

    def _settle(self, peer: PeerId) -> None:
        """Of several connections one stays: that of the smaller peer id, and of those the newest."""
        several = self._connections.get(peer, [])
        keep = max(several, key=lambda each: (each.dialled == dials_first(self.peer, peer), each.since_s), default=None)
        for each in [one for one in several if one is not keep]:
            self.counters.reject(ConnectionEnd.DUPLICATE)
            several.remove(each)
            self._in_background(each.swarm.close)
        if not several:
            self._connections.pop(peer, None)
        before = self._in_use.get(peer)
        if before is keep:
            return
        if before is not None:
            del self._in_use[peer]
            self._tell(self._on_disconnect, peer)
        if keep is not None and peer not in self._in_use:
            self._in_use[peer] = keep
            self._tell(self._on_connect, peer)

    def _tell(self, callbacks: list[PeerCallback], peer: PeerId) -> None:
        self._notify_change(peer)
        for callback in callbacks:
            callback(peer)

    def _connection_closed(self, swarm: SwarmConn) -> None:
        peer = PeerId(swarm.muxed_conn.peer_id.to_bytes())
        several = self._connections.get(peer, [])
        left = [each for each in several if each.swarm is not swarm]
        if len(left) < len(several):
            self._connections[peer] = left
            self._settle(peer)

    def _notify_change(self, peer: PeerId) -> None:
        self._changed.pop(peer, trio.Event()).set()

    def _in_background(self, work: Callable[[], Awaitable[None]]) -> None:
        async def contained() -> None:
            try:
                await work()
            except Exception as fault:  # libp2p raises what it likes while it closes; counted, it ends nothing
                logger.debug("closing failed: %s", fault)
                self.counters.reject(ConnectionEnd.BROKEN)

        if self._nursery is not None:
            self._nursery.start_soon(contained)

    def _best(self, peer: PeerId) -> _Connection:
        connection = self._in_use.get(peer)
        if connection is None:
            raise NotConnectedError(f"no connection to {peer_id_text(peer)}")
        return connection

    def _swarm_connection(self, peer: ID) -> SwarmConn | None:
        connection = self._in_use.get(PeerId(peer.to_bytes()))
        return None if connection is None else connection.swarm

    def session(self, peer: PeerId) -> PqSession:
        """What the handshake with a connected peer settled. `NotConnectedError` if there is no connection."""
        return self._best(peer).muxed.session

    # Streams.

    def serve(self, protocol: str, handler: Callable[[Stream], Awaitable[None]]) -> None:
        """Streams that peers open for `protocol` go to `handler`, one task each."""
        self._handlers[protocol] = handler
        self.libp2p.serve(protocol, self._handler(protocol))

    def _handler(self, protocol: str) -> Handler:
        async def handle(ahead: ReadAhead) -> None:
            stream = self._stream(ahead, PeerId(ahead.muxed_conn.peer_id.to_bytes()), protocol)
            try:
                await self._handlers[protocol](stream)
            except (StreamError, DecodeError) as remote:
                logger.debug("stream of %s ended: %s", protocol, type(remote).__name__)
                self.counters.reject(StreamFault.HANDLER_FAILED)
                await stream.reset()
            except Exception as fault:  # of this program: it ends one stream, and people hear of it
                self.own_faults.note(protocol, fault)
                self.counters.reject(StreamFault.HANDLER_FAILED)
                await stream.reset()

        return handle

    def _stream(self, ahead: ReadAhead, peer: PeerId, protocol: str) -> Stream:
        return Stream(ahead, peer, protocol, self.config.limits.write_timeout_s, self._linger)

    async def open_stream(self, peer: PeerId, protocol: str) -> Stream:
        """`NotConnectedError` without a connection; `StreamError` if the peer does not take the stream."""
        connection = self._best(peer)
        limits = self.config.limits
        try:
            with trio.fail_after(limits.negotiation_timeout_s):
                raw = await connection.swarm.new_stream()
        except (trio.TooSlowError, *LOST) as lost:
            raise StreamError(StreamEnd.RESET, type(lost).__name__) from None
        ahead = ReadAhead(raw)
        agreed = False
        try:
            with trio.move_on_after(limits.negotiation_timeout_s):
                await selection.propose(raw, ahead.read_exactly, (protocol,))
                agreed = True
        except (selection.SelectionError, *LOST) as lost:
            raise StreamError(StreamEnd.RESET, f"{protocol}: {type(lost).__name__}") from None
        finally:
            if not agreed:
                await reset_quietly(raw)
        if not agreed:
            raise StreamError(StreamEnd.BLOCKED, f"{protocol}: no answer in {limits.negotiation_timeout_s} s")
        return self._stream(ahead, peer, protocol)

    def _linger(self, stream: Stream) -> None:
        async def wait() -> None:
            if not await stream.ahead.drain(self.config.limits.stream_linger_s):
                self.counters.reject(StreamFault.NEVER_CLOSED)
                await stream.reset()

        self._in_background(wait)

    # What operators see.

    def peers(self) -> tuple[ConnectionHealth, ...]:
        """Every connection, in the order of peer ids."""
        return tuple(self._health(each) for peer in sorted(self._connections) for each in self._connections[peer])

    def _health(self, of: _Connection) -> ConnectionHealth:
        session, now_s = of.muxed.session, trio.current_time()
        return ConnectionHealth(
            peer=of.peer,
            address=shown(session.endpoint),
            dialled=of.dialled,
            age_s=int(now_s - of.since_s),
            rtt_us=int(of.muxed.rtt() * 1_000_000),
            silent_ms=int((now_s - session.heard_at_s) * 1_000),
            bytes_in=session.bytes_in,
            bytes_out=session.bytes_out,
            streams=of.muxed.guard.streams,
            validator=of.peer in self._validators,
            agent=self.libp2p.agent_of(of.peer),
        )


def _parsed(address: str) -> Multiaddr:
    """ValueError for text that is no multiaddress; the library has several kinds of exceptions for that."""
    try:
        return Multiaddr(address)
    except Exception as fault:  # see above
        raise ValueError(f"{address!r} is no multiaddress such as /ip4/192.0.2.1/tcp/4001") from fault


class _Watcher(INotifee):
    """Tells the host what happens in libp2p's swarm."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        if isinstance(conn, SwarmConn):
            await self._host._connection_opened(conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        if isinstance(conn, SwarmConn):
            self._host._connection_closed(conn)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        return None

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        return None

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        return None

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        return None
