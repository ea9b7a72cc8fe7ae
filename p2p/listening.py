"""Listening sockets of our own, and a door in front of WebSocket's HTTP.

libp2p 0.8.1 listens with SO_REUSEPORT, for a hole punching that is not used here: two nodes that are told the same port
share it silently, and each gets half of the connections. And it lets whoever opens a connection to a WebSocket port
wait for a minute before a word of HTTP is said, in any number, before anybody looks at who that is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

import trio
from libp2p.custom_types import THandler
from libp2p.io.trio import TrioTCPStream
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP, TCPListener
from libp2p.transport.websocket.connection import P2PWebSocketConnection
from libp2p.transport.websocket.transport import WebsocketTransport
from libp2p.utils.multiaddr_utils import extract_ip_from_multiaddr, multiaddr_from_socket
from multiaddr import Multiaddr
from trio_websocket import WebSocketConnection, WebSocketRequest, WebSocketServer

from p2p.limits import Limits

MAX_MESSAGE_BYTES: Final = 1 << 20
"""Of one WebSocket message, which is held whole: a record is 64 KiB."""

Accept = Callable[[trio.SocketStream], Awaitable[None]]
Door = Callable[[Accept], Accept]
"""Puts a check before whatever is done with a socket that was accepted."""


class OwnListener(TCPListener):
    """One address. `OSError` from `listen` if it is taken."""

    def __init__(self, handler: THandler) -> None:
        super().__init__(handler)
        self._suffix = ""

    async def listen(self, maddr: Multiaddr) -> None:
        port = maddr.value_for_protocol("tcp")
        if port is None:
            raise OpenConnectionError(f"there is no TCP port in {maddr}")
        host = extract_ip_from_multiaddr(maddr)
        async with self._lifecycle_lock:
            if self._closed:
                raise OpenConnectionError(f"the listener of {maddr} is closed")
            # The name of an address or none at all: both open every interface that they mean, or fail.
            sockets = await trio.open_tcp_listeners(int(port), host=host)
            if self._nursery is None:
                await self._spawn_background_task()
            if self._nursery is None:
                raise OpenConnectionError(f"the listener of {maddr} has ended")
            await self._nursery.start(trio.serve_listeners, self._accepted, sockets)
            self.listeners.extend(sockets)

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        return tuple(Multiaddr(f"{multiaddr_from_socket(each.socket)}{self._suffix}") for each in self.listeners)

    async def _accepted(self, stream: trio.SocketStream) -> None:
        await self.handler(TrioTCPStream(stream))


class _ClosingSoon(P2PWebSocketConnection):
    """WebSocket's farewell waits for an answer. A stranger that was refused and gives none would keep its place at the
    door, and its socket, for as long as it likes."""

    def __init__(self, websocket: WebSocketConnection, stream: trio.SocketStream, close_s: int) -> None:
        super().__init__(websocket)
        self._stream = stream
        self._close_s = close_s

    async def close(self) -> None:
        with trio.CancelScope(shield=True, deadline=trio.current_time() + self._close_s):
            await super().close()
        await trio.aclose_forcefully(self._stream)


class OwnWebsocketListener(OwnListener):
    """The same, with HTTP and WebSocket before whatever comes."""

    def __init__(self, handler: THandler, limits: Limits, door: Door) -> None:
        super().__init__(handler)
        self._suffix = "/ws"
        self._negotiation_s = limits.negotiation_timeout_s
        self._close_s = limits.close_timeout_s
        self._enter = door(self._upgraded)

    async def _accepted(self, stream: trio.SocketStream) -> None:
        await self._enter(stream)

    async def _upgraded(self, stream: trio.SocketStream) -> None:
        async def requested(request: WebSocketRequest) -> None:
            try:
                await self.handler(_ClosingSoon(await request.accept(), stream, self._close_s))
            finally:
                # Whatever has ended the handler: what closes the connection next would wait again.
                await trio.aclose_forcefully(stream)

        # The class wants listeners only to accept from, which is done here; its handling of one socket is what we need.
        server = WebSocketServer(
            requested,
            [*self.listeners],
            max_message_size=MAX_MESSAGE_BYTES,
            connect_timeout=self._negotiation_s,
            disconnect_timeout=self._close_s,
        )
        await server._handle_connection(stream)


class OwnTcp(TCP):
    def create_listener(self, handler_function: THandler) -> TCPListener:
        return OwnListener(handler_function)


class OwnWebsocket(WebsocketTransport):
    def __init__(self, upgrader: Any, limits: Limits, door: Door) -> None:
        super().__init__(upgrader)
        self._limits = limits
        self._door = door

    def create_listener(self, handler: THandler) -> OwnWebsocketListener:
        return OwnWebsocketListener(handler, self._limits, self._door)
