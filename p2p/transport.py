"""The handshake as a libp2p security transport: `/trellis/pq/1` on any raw connection, records after it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Final

import trio
from libp2p.abc import IRawConnection, ISecureConn, ISecureTransport
from libp2p.connection_types import ConnectionType
from libp2p.crypto.keys import PrivateKey
from libp2p.io.exceptions import ConnectionClosedError, IOException
from libp2p.network.connection.exceptions import RawConnError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from libp2p.security.exceptions import HandshakeFailure
from multiaddr import Multiaddr

from p2p.counters import Counters
from p2p.endpoints import remote_endpoint
from p2p.handshake import HANDSHAKE_TIMEOUT_MS, Dialer, Established, Listener, Reject, Rejected, Setup
from p2p.handshake.messages import FRAME_HEADER_BYTES
from p2p.handshake.schedule import PROTOCOL
from p2p.keys import key_pair, naming_key, register
from p2p.limits import Limits
from p2p.records import RecordError, RecordFault, RecordOpener, RecordSealer
from trellis.types import PeerId

READ_BYTES: Final = 256 << 10
"""Of one read from the socket: four of the largest records."""

LOST: Final = (IOException, RawConnError, OSError, trio.ClosedResourceError, trio.BrokenResourceError)
"""What a raw connection raises when the other end is gone; libp2p has no common base for them."""


register()


class HandshakeRejectedError(HandshakeFailure):
    """The handshake ended with a refusal, ours or (`rejected.by_peer`) the peer's."""

    def __init__(self, rejected: Rejected) -> None:
        super().__init__(f"{rejected.reason.name}: {rejected.detail}")
        self.rejected = rejected


class PqSession(BaseSession, ISecureConn):
    """An established connection: what is written is sealed, what is read was opened."""

    def __init__(
        self,
        raw: IRawConnection,
        session: Established,
        local: tuple[ID, PrivateKey],
        limits: Limits,
        counters: Counters,
        *,
        dialled: bool,
    ) -> None:
        remote = session.remote
        super().__init__(
            local_peer=local[0],
            local_private_key=local[1],
            remote_peer=ID(remote.peer),
            remote_permanent_pubkey=naming_key(remote.alg, remote.public_key, remote.certificate),
            is_initiator=dialled,
        )
        self.remote = remote
        self.peer_limits = session.limits
        self.exporter = session.exporter
        self.suite = session.suite
        self.endpoint = remote_endpoint(raw)
        """Address and port of the peer."""
        self.truncated = False
        """The stream ended without the peer's close record."""
        self.fault: RecordFault | None = None
        self.bytes_in = 0
        self.bytes_out = 0
        self.heard_at_s = trio.current_time()
        """When bytes last arrived."""
        self._raw = raw
        self._wire_read, self._wire_write = _wire_of(raw)
        self._limits = limits
        self._counters = counters
        self._sealer = RecordSealer(session.suite, session.send_key, session.send_counter, _now_ms())
        self._opener = RecordOpener(session.suite, session.receive_key, session.receive_counter)
        self._plain = b"".join(self._opener.feed(session.leftover)) if session.leftover else b""
        self._plain_at = 0
        self._write_lock = trio.Lock()
        self._closed = False

    async def write(self, data: bytes) -> None:
        try:
            # An uncontended `acquire` is a turn of the event loop, for every frame.
            self._write_lock.acquire_nowait()
        except trio.WouldBlock:
            await self._write_lock.acquire()
        try:
            if self._closed:
                raise ConnectionClosedError("connection closed", transport="pq")
            await self._send(self._sealer.seal(data, _now_ms()))
        finally:
            self._write_lock.release()

    async def _send(self, wire: bytes) -> None:
        """All of it or the end of the connection: half a record would make everything after it unreadable.

        So a caller's cancellation waits here for the socket, at most `write_timeout_s`.
        """
        self.bytes_out += len(wire)
        self._counters.bytes_out += len(wire)
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.write_timeout_s) as scope:
            await self._wire_write(wire)
        if scope.cancelled_caught:
            await self._drop()
            raise ConnectionClosedError("connection closed: the peer takes no bytes", transport="pq")

    async def read(self, n: int | None = None) -> bytes:
        """For one reader at a time: yamux, or the negotiation before it."""
        if n == 0:
            return b""
        while self._plain_at >= len(self._plain):
            if not await self._read_more():
                return b""
        end = len(self._plain) if n is None else min(self._plain_at + n, len(self._plain))
        taken = self._plain[self._plain_at : end]
        self._plain_at = end
        return taken

    async def _read_more(self) -> bool:
        """Waits for bytes and opens what is complete; False at the end."""
        if self._opener.closed or self._closed:
            return False
        try:
            data = await self._wire_read(READ_BYTES)
        except LOST:
            data = b""
        try:
            if not data:
                if not self._closed:
                    self._opener.end_of_stream()
                return False
            self.heard_at_s = trio.current_time()
            self.bytes_in += len(data)
            self._counters.bytes_in += len(data)
            opened = self._opener.feed(data)
            self._plain = opened[0] if len(opened) == 1 else b"".join(opened)
            self._plain_at = 0
        except RecordError as broken:
            self.fault = broken.fault
            self.truncated = broken.fault is RecordFault.TRUNCATED
            self._counters.reject(broken.fault)
            await self._drop()
            return False
        return True

    async def close(self) -> None:
        """Says so to the peer, if it will listen for `close_timeout_s`, and ends the connection."""
        if self._closed:
            return
        with self._briefly(), suppress(*LOST):  # the peer is gone: there is nobody to say it to
            async with self._write_lock:
                if not self._closed:
                    await self._wire_write(self._sealer.close())
        await self._drop()

    async def abandon(self) -> None:
        """Ends the connection without a word, for a peer that is gone or not worth one."""
        await self._drop()

    async def _drop(self) -> None:
        self._closed = True
        with self._briefly(), suppress(*LOST):  # closed already, by the other side
            await self._raw.close()
        websocket = getattr(getattr(self._raw, "stream", None), "_ws_connection", None)
        if websocket is not None:
            # Its close waits for a task that libp2p may have ended before, and leaves the socket open.
            await trio.aclose_forcefully(websocket._stream)

    def _briefly(self) -> trio.CancelScope:
        return trio.CancelScope(shield=True, deadline=trio.current_time() + self._limits.close_timeout_s)

    def get_remote_address(self) -> tuple[str, int] | None:
        return self.endpoint if self.endpoint[1] else None

    def get_transport_addresses(self) -> list[Multiaddr]:
        return self._raw.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        return self._raw.get_connection_type()


class PqTransport(ISecureTransport):
    """The one security protocol of a node."""

    def __init__(self, setup: Setup, limits: Limits, counters: Counters) -> None:
        self._setup = setup
        self._limits = limits
        self._counters = counters
        local = setup.local
        self.key_pair = key_pair(naming_key(local.signer.alg_id, local.signer.public_key, local.certificate))
        self._local = (ID(setup.local.peer), self.key_pair.private_key)
        # What signs runs off the event loop, and no more than so many at once: a flood queues here.
        self._workers = trio.CapacityLimiter(limits.handshake_workers)

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        return await self._secure(conn, Listener(self._setup), b"", dialled=False)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        dialer = Dialer(self._setup, PeerId(peer_id.to_bytes()))
        return await self._secure(conn, dialer, dialer.start(), dialled=True)

    async def _secure(
        self, conn: IRawConnection, machine: Dialer | Listener, first: bytes, *, dialled: bool
    ) -> PqSession:
        started = trio.current_time()
        outcome: Established | Rejected | None = None
        with trio.move_on_after(HANDSHAKE_TIMEOUT_MS / 1_000):
            try:
                outcome = await self._shake(conn, machine, first)
            except LOST:
                outcome = _refusal(machine, Reject.CLOSED)
        if outcome is None:
            outcome = _refusal(machine, Reject.TIMEOUT)
        if isinstance(outcome, Rejected):
            if outcome.by_peer:
                self._counters.told[outcome.reason.name.lower()] += 1
            else:
                self._counters.reject(outcome.reason)
            raise HandshakeRejectedError(outcome)
        self._counters.handshake(int((trio.current_time() - started) * 1_000_000))
        return PqSession(conn, outcome, self._local, self._limits, self._counters, dialled=dialled)

    async def _shake(
        self, conn: IRawConnection, machine: Dialer | Listener, first: bytes
    ) -> Established | Rejected | None:
        """Drives the machine. It is read exactly as many bytes as it wants: nothing of the records is read ahead."""
        if first:
            await conn.write(first)
        while True:
            wanted = machine.wants_bytes
            data = await conn.read(wanted)
            if not data:
                return machine.end_of_stream().outcome
            # A message is complete only by the last bytes that were asked for; all before is bookkeeping.
            if machine.signs_next and len(data) == wanted > FRAME_HEADER_BYTES:
                step = await trio.to_thread.run_sync(machine.receive, data, limiter=self._workers)
            else:
                step = machine.receive(data)
            if step.send:
                await conn.write(step.send)
            if step.outcome is not None:
                return step.outcome


def _wire_of(raw: IRawConnection) -> tuple[Callable[[int], Awaitable[bytes]], Callable[[bytes], Awaitable[None]]]:
    """Of a TCP connection its socket: two layers of libp2p between cost a turn of the event loop each way."""
    stream = getattr(getattr(raw, "stream", None), "stream", None)
    if isinstance(stream, trio.SocketStream):
        return stream.receive_some, stream.send_all
    return raw.read, raw.write


def _refusal(machine: Dialer | Listener, reason: Reject) -> Rejected:
    step = machine.expire() if reason is Reject.TIMEOUT else machine.end_of_stream()
    if not isinstance(step.outcome, Rejected):
        raise TypeError("a handshake that was given up must end with a refusal")
    return step.outcome


def _now_ms() -> int:
    return int(trio.current_time() * 1_000)


__all__ = ["PROTOCOL", "HandshakeRejectedError", "PqSession", "PqTransport"]
