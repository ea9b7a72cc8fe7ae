"""libp2p with its sharp edges wrapped: connection upgrades with bounds, a guarded yamux, a swarm without leaks.

Each override names the behaviour of libp2p 0.8.1 that made it necessary; an upgrade of libp2p re-examines them all.
"""

from __future__ import annotations

import logging
import struct
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import trio
from libp2p.abc import IMuxedConn, IRawConnection, ISecureConn
from libp2p.io.abc import ReadWriteCloser
from libp2p.io.exceptions import IOException
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.stream_muxer.yamux import yamux
from libp2p.transport.exceptions import MuxerUpgradeFailure, SecurityUpgradeFailure
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from p2p import selection
from p2p.counters import ConnectionEnd, Counters
from p2p.endpoints import remote_endpoint
from p2p.handshake.reject import Reject
from p2p.handshake.schedule import PROTOCOL
from p2p.limits import Doorkeeper, Knock, Limits
from p2p.listening import Accept, OwnTcp, OwnWebsocket
from p2p.muxguard import PING, SYN, MuxError, MuxGuard
from p2p.muxstream import QuickStream, QuickYamux
from p2p.transport import LOST, PqSession, PqTransport

logger = logging.getLogger(__name__)

YAMUX: Final = "/yamux/1.0.0"
yamux.MAX_WINDOW_SIZE = 2 << 20
"""What one stream of one peer can make us hold. libp2p's own 16 MiB, times the streams it may open, is all memory."""
yamux.YamuxStream = QuickStream  # type: ignore[misc] # libp2p makes its streams of whatever stands there

RTT_EVERY_S: Final = 10
"""A busy connection is pinged too, for its round-trip time."""
UPGRADE_TIMEOUT_S: Final = 15
"""Security and muxer together; the handshake's own 10 s end first and give the reason."""


async def read_exactly(conn: IRawConnection, size: int) -> bytes:
    """libp2p's own retries an ended stream a hundred times and allocates what a stranger claims."""
    got = b""
    while len(got) < size:
        part = await conn.read(size - len(got))
        if not part:
            raise IOException("the stream ended in the middle")
        got += part
    return got


class GuardedConn:
    """A secured connection that shows every frame to the guard."""

    def __init__(self, conn: PqSession, guard: MuxGuard, counters: Counters) -> None:
        self.conn = conn
        self.guard = guard
        self._counters = counters
        self._broken = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.conn, name)

    async def read(self, n: int | None = None) -> bytes:
        data = b"" if self._broken else await self.conn.read(n)
        try:
            self.guard.arrived(data)
        except MuxError as broken:
            self._broken = True
            self._counters.reject(broken.fault)
            await self.conn.close()
            return b""
        return data

    async def write(self, data: bytes) -> None:
        self.guard.sends(data)
        await self.conn.write(data)

    async def close(self) -> None:
        await self.conn.close()


class BoundedYamux(QuickYamux):
    """yamux with a guard at its door, pings that notice a dead peer, and a close that ends."""

    def __init__(self, session: PqSession, limits: Limits, counters: Counters) -> None:
        self.guard = MuxGuard(limits.streams_per_connection, dialer=session.is_initiator)
        self.session = session
        self.served: Counter[str] = Counter()
        """Streams of each protocol that the peer has open and we serve."""
        self.ended: Callable[[], None] = _nothing
        """Called when the connection is over: libp2p's own word comes a fifth of a second later."""
        self._limits = limits
        self._counters = counters
        guarded: Any = GuardedConn(session, self.guard, counters)
        super().__init__(guarded, session.remote_peer, is_initiator=session.is_initiator)

    async def _write_frame(self, data: bytes) -> None:
        """libp2p formats a log line for each frame and gives the event loop two turns that nobody needs."""
        try:
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            await self.secured_conn.write(data)
        finally:
            self._write_lock.release()

    async def start(self) -> None:
        """An exception that leaves a connection's task ends libp2p's whole host."""
        try:
            await super().start()
        except Exception as fault:  # see above: the edge between one peer and the host
            logger.debug("connection failed: %s", fault)
            self._counters.reject(ConnectionEnd.BROKEN)
            await self.session.abandon()
            await self._cleanup_on_error()

    async def _measure_rtt_loop(self) -> None:
        """libp2p asks every 30 s and draws no conclusion, and its health monitor opens a stream for every ping, which
        costs both sides milliseconds. A yamux ping is 12 bytes, and anything that arrives proves life as well."""
        interval_s = self._limits.ping_interval_ms / 1_000
        silence_s = self._limits.silence_ms / 1_000
        asked_at_s: float | None = None
        forgave_at_s = trio.current_time()
        while not self.event_shutting_down.is_set():
            slept_from_s = trio.current_time()
            await trio.sleep(interval_s)
            now_s, heard_s = trio.current_time(), self.session.heard_at_s
            if now_s - forgave_at_s >= 1:
                self.guard.second_passed()
                forgave_at_s = now_s
            if now_s - slept_from_s > 2 * interval_s or (asked_at_s is not None and heard_s >= asked_at_s):
                # It was this process that stood still, or the peer has spoken since: no verdict, ask again.
                asked_at_s = None
            if asked_at_s is not None and now_s - heard_s >= silence_s:
                self._counters.reject(ConnectionEnd.SILENT)
                # The read loop notices, and cleans up.
                await self.session.abandon()
                return
            if now_s - heard_s >= interval_s or now_s - self._ping_sent_time >= RTT_EVERY_S:
                asked_at_s = now_s if asked_at_s is None else asked_at_s
                await self._ask(now_s, interval_s)

    async def _ask(self, now_s: float, patience_s: float) -> None:
        self._ping_id = (self._ping_id + 1) & 0xFFFFFFFF
        self._ping_sent_time = now_s
        ping = struct.pack(yamux.YAMUX_HEADER_FORMAT, 0, PING, SYN, 0, self._ping_id)
        with trio.move_on_after(patience_s), suppress(*LOST):  # the read loop learns the same
            await self._write_frame(ping)

    async def close(self, error_code: int = yamux.GO_AWAY_NORMAL) -> None:
        """libp2p says farewell holding the lock of all streams, so that a peer that reads nothing would hold it for
        ever, and sleeps a tenth of a second afterwards. Here the session's close record is the farewell."""
        with trio.CancelScope(shield=True):  # what is awaited below has deadlines of its own
            if not self.event_closed.is_set():
                await self._cleanup_on_error()

    async def _cleanup_on_error(self) -> None:
        self.event_shutting_down.set()
        self.ended()
        await super()._cleanup_on_error()


def _nothing() -> None:
    return None


class BoundedUpgrader(TransportUpgrader):
    """Raw connection → PQ session → yamux: one protocol at each step, agreed on with bounds."""

    def __init__(self, transport: PqTransport, limits: Limits, counters: Counters) -> None:
        super().__init__({}, {})
        self._transport = transport
        self._limits = limits
        self._counters = counters

    async def upgrade_security(
        self, raw_conn: IRawConnection, is_initiator: bool, peer_id: ID | None = None
    ) -> ISecureConn:
        await self._agree(raw_conn, PROTOCOL, is_initiator)
        if not is_initiator:
            return await self._transport.secure_inbound(raw_conn)
        if peer_id is None:
            raise ValueError("a dialer knows whom it dials")
        return await self._transport.secure_outbound(raw_conn, peer_id)

    async def _agree(self, raw_conn: IRawConnection, protocol: str, is_initiator: bool) -> None:
        reason: Reject | None = Reject.TIMEOUT
        with trio.move_on_after(self._limits.negotiation_timeout_s):
            try:
                await select(raw_conn, protocol, is_initiator)
                reason = None
            except selection.SelectionError:
                reason = Reject.NOT_NEGOTIATED
            except LOST:
                reason = Reject.CLOSED
        if reason is not None:
            self._counters.reject(reason)
            raise SecurityUpgradeFailure(f"no agreement on {protocol}: {reason.name}")

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        if not isinstance(conn, PqSession):
            raise TypeError("only sessions of this transport are multiplexed")
        try:
            await select(conn, YAMUX, conn.is_initiator)
        except (selection.SelectionError, *LOST) as fault:
            self._counters.reject(Reject.NOT_NEGOTIATED)
            raise MuxerUpgradeFailure(f"no agreement on {YAMUX}") from fault
        return BoundedYamux(conn, self._limits, self._counters)


async def select(conn: IRawConnection, protocol: str, is_initiator: bool) -> None:
    async def read(size: int) -> bytes:
        return await read_exactly(conn, size)

    if is_initiator:
        await selection.propose(conn, read, (protocol,))
    else:
        await selection.answer(conn, read, (protocol,))


class NoAutoConnector(AutoConnector):
    """libp2p dials peers of its own choosing, up to the mean of its watermarks. Here the host alone decides."""

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        return None

    async def maybe_connect(self) -> None:
        return None


class BoundedSwarm(Swarm):
    """libp2p's swarm: incoming connections pass a doorkeeper, and give their places back when they end."""

    def __init__(
        self,
        peer: ID,
        upgrader: BoundedUpgrader,
        limits: Limits,
        counters: Counters,
        steady_ms: Callable[[], int],
    ) -> None:
        self._doorkeeper = Doorkeeper(limits)
        self._counters = counters
        self._steady_ms = steady_ms
        self._knocked: dict[tuple[str, int], Knock] = {}
        """Of WebSocket connections that have not come beyond HTTP."""
        # Nothing is pruned or dialled behind our back: the watermarks are where they never matter.
        config = ConnectionConfig(
            max_connections=2 * limits.connections,
            min_connections=0,
            low_watermark=0,
            high_watermark=2 * limits.connections,
            max_connections_per_peer=8,
            inbound_upgrade_timeout=UPGRADE_TIMEOUT_S,
            outbound_upgrade_timeout=UPGRADE_TIMEOUT_S,
        )
        super().__init__(
            peer,
            PeerStore(),
            upgrader,
            transports=[OwnTcp(), OwnWebsocket(upgrader, limits, self._with_knock)],
            retry_config=RetryConfig(max_retries=0),
            connection_config=config,
        )
        self.auto_connector = NoAutoConnector(self)

    @property
    def doorkeeper(self) -> Doorkeeper:
        return self._doorkeeper

    def _knock(self, address: str) -> Knock | Reject:
        knock = self._doorkeeper.knock(address, self._steady_ms())
        if isinstance(knock, Reject):
            self._counters.reject(knock)
        return knock

    def _with_knock(self, upgrade: Accept) -> Accept:
        """WebSocket's HTTP is half open too: silent and slow strangers take their places before it."""

        async def accepted(stream: trio.SocketStream) -> None:
            endpoint = remote_endpoint(stream)
            knock = self._knock(endpoint[0])
            if isinstance(knock, Reject):
                return
            self._knocked[endpoint] = knock
            try:
                await upgrade(stream)
            except Exception as fault:  # the edge between a stranger and the listener
                logger.debug("incoming WebSocket connection ended: %s", type(fault).__name__)
            finally:
                # Not taken over by the handshake, which gives it back itself.
                unused = self._knocked.pop(endpoint, None)
                if unused is not None:
                    self._counters.reject(Reject.NOT_NEGOTIATED)
                    self._doorkeeper.leave(unused)

        return accepted

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """libp2p keeps the place of an incoming connection until the swarm ends: after `max_connections` of them, ever,
        it accepts no more. Here the task ends with its connection."""
        endpoint = remote_endpoint(read_write_closer)
        knock: Knock | Reject | None = self._knocked.pop(endpoint, None)
        if knock is None:
            knock = self._knock(endpoint[0])
        if isinstance(knock, Reject):
            await _close_quietly(read_write_closer)
            return
        try:
            muxed = await self.upgrade_inbound_raw_conn(RawConnection(read_write_closer, False), maddr)
        except Exception as fault:  # the edge between a stranger and the listener; refusals were counted below
            logger.debug("incoming connection ended: %s", fault)
            await _close_quietly(read_write_closer)
            return
        finally:
            self._doorkeeper.leave(knock)
        if isinstance(muxed, BoundedYamux):
            await muxed.event_closed.wait()


async def _close_quietly(conn: ReadWriteCloser) -> None:
    scope = trio.CancelScope(shield=True, deadline=trio.current_time() + 1)
    with scope, suppress(*LOST):  # the stranger was faster
        await conn.close()
