"""Peers of the same network on the same wire: multicast DNS. Off by default, as it tells everybody there who we are.

zeroconf works in threads of its own; what it finds is carried into trio's. Whoever is on the wire may announce what it
likes: names do not count, nor addresses beyond private ones and what the node allows, and all of mDNS is one source in
the book.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

import trio
from zeroconf import Error as ZeroconfError
from zeroconf import ServiceBrowser, ServiceInfo, ServiceListener, Zeroconf

from p2p.dialing import PeerAddress
from p2p.discovery.addresses import Reach, is_routable, parse_endpoint
from trellis.encoding import DecodeError
from trellis.peerid import parse_peer_id, peer_id_text
from trellis.types import Hash, PeerId

PEER_FIELD: Final = "peer"
ADDRESS_FIELD: Final = "a"
"""a0, a1, …"""
MAX_ADDRESSES: Final = 4
RESOLVE_MS: Final = 2_000


def service_type(genesis_hash: Hash) -> str:
    """One service type a network, so that others' announcements are not even read. It has room for 15 characters."""
    return f"_trls-{genesis_hash[:4].hex()}._udp.local."


@asynccontextmanager
async def local_peers(
    own: PeerId,
    genesis_hash: Hash,
    addresses: Sequence[str],
    found: Callable[[PeerAddress], None],
    *,
    reach: Reach,
    interfaces: Sequence[str] | None = None,
) -> AsyncIterator[None]:
    """Announces `addresses` and calls `found`, in trio's thread, for every other peer that does the same.

    `interfaces`: IP addresses of the interfaces to use; None: all. `OSError` where multicast is not to be had.
    """
    kind = service_type(genesis_hash)
    zero = await trio.to_thread.run_sync(lambda: Zeroconf() if interfaces is None else Zeroconf(list(interfaces)))
    try:
        if addresses:
            try:
                await trio.to_thread.run_sync(zero.register_service, _info(kind, own, addresses))
            except ZeroconfError as fault:
                raise OSError(f"mDNS refuses our announcement: {fault}") from fault
        browser = ServiceBrowser(zero, kind, listener=_Listener(own, found, reach, trio.lowlevel.current_trio_token()))
        try:
            yield
        finally:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(browser.cancel)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(zero.close)


def _info(kind: str, own: PeerId, addresses: Sequence[str]) -> ServiceInfo:
    name = peer_id_text(own)
    first = parse_endpoint(addresses[0])
    properties = {PEER_FIELD: name}
    properties |= {f"{ADDRESS_FIELD}{place}": each for place, each in enumerate(addresses[:MAX_ADDRESSES])}
    family = socket.AF_INET6 if ":" in first.host else socket.AF_INET
    packed = [] if first.named else [socket.inet_pton(family, first.host)]
    return ServiceInfo(
        kind, f"{name}.{kind}", first.port, properties=properties, addresses=packed, server=f"{name}.local."
    )


class _Listener(ServiceListener):
    """Called in zeroconf's thread with what a stranger announced."""

    def __init__(
        self, own: PeerId, found: Callable[[PeerAddress], None], reach: Reach, token: trio.lowlevel.TrioToken
    ) -> None:
        self._own = own
        self._found = found
        self._reach = reach
        self._token = token

    def add_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        info = zc.get_service_info(type_, name, timeout=RESOLVE_MS)
        peer = None if info is None else announced(info.properties, self._reach)
        if peer is not None and peer.peer != self._own:
            self._token.run_sync_soon(self._found, peer)

    def update_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        self.add_service(zc, type_, name)

    def remove_service(self, zc: Zeroconf, type_: str, name: str) -> None:
        return None


def announced(properties: Mapping[bytes, bytes | None], reach: Reach) -> PeerAddress | None:
    """What an announcement says, as far as it makes sense."""
    try:
        peer = parse_peer_id((properties.get(PEER_FIELD.encode()) or b"").decode("ascii"))
        texts = [(properties.get(f"{ADDRESS_FIELD}{place}".encode()) or b"") for place in range(MAX_ADDRESSES)]
        addresses = tuple(each.decode("ascii") for each in texts if each)
    except (DecodeError, UnicodeDecodeError):
        return None
    routable = tuple(each for each in addresses if is_routable(each, max(reach, Reach.PRIVATE)))
    return PeerAddress(peer, routable) if routable else None
