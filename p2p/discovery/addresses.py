"""Multiaddresses as text: the few forms that a node dials, and which of them a stranger may make it dial.

A record's addresses are dialled by everybody who reads it. So a stranger's record could point a whole network at a
printer, at a host inside somebody's network, or at a name whose owner decides later: from strangers only plain IP
addresses within the node's reach count, and names only from the operator's own configuration and seeds.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from p2p.dialing import PeerAddress
from p2p.limits import UNKNOWN_ADDRESS, neighbourhood, plain_address
from trellis.constants import MAX_MULTIADDR_BYTES
from trellis.encoding import DecodeError, Malformed
from trellis.peerid import MAX_PEER_ID_TEXT, parse_peer_id, peer_id_text
from trellis.types import PeerId

_NAMES: Final = frozenset({"dns", "dns4", "dns6"})
_IPS: Final = {"ip4": IPv4Address, "ip6": IPv6Address}
_PEER: Final = "/p2p/"
_TRANSLATED: Final = IPv6Network("64:ff9b::/96")
"""An IPv4 address in IPv6 clothes, private ones included."""
MAX_TEXT: Final = MAX_MULTIADDR_BYTES + len(_PEER) + MAX_PEER_ID_TEXT


class Reach(IntEnum):
    """How far a stranger's record may send us. Each includes those before it."""

    GLOBAL = 1
    """The public internet: the default."""
    PRIVATE = 2
    """And private networks (10/8, 192.168/16, fc00::/7 …): a network inside an organisation."""
    LOOPBACK = 3
    """And this machine: networks for development and tests."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a multiaddress points."""

    host: str
    port: int
    named: bool
    """`host` is a name, not an IP address."""
    websocket: bool


def parse_endpoint(address: str) -> Endpoint:
    """`/ip4/192.0.2.1/tcp/4001`, `/dns4/node.example/tcp/4002/ws` and their like; `DecodeError` for anything else."""
    if len(address) > MAX_MULTIADDR_BYTES:
        raise DecodeError(Malformed.TOO_LARGE, f"a multiaddress of {len(address)} characters")
    parts = address.split("/")
    websocket = len(parts) == 6 and parts[5] == "ws"
    if len(parts) != 5 + websocket or parts[0] or parts[3] != "tcp":
        raise DecodeError(Malformed.NOT_CANONICAL, "a multiaddress is /ip4/…/tcp/…, with /ws or without")
    _, kind, host, _, port_text = parts[:5]
    port = int(port_text) if port_text.isascii() and port_text.isdigit() and len(port_text) <= 5 else 0
    if not 0 < port < 65_536 or str(port) != port_text:
        raise DecodeError(Malformed.OUT_OF_RANGE, "a port is 1 to 65535")
    if kind in _NAMES:
        if not _is_name(host):
            raise DecodeError(Malformed.NOT_CANONICAL, "no host name")
    elif kind not in _IPS:
        raise DecodeError(Malformed.UNKNOWN_KIND, "a multiaddress begins with /ip4, /ip6, /dns, /dns4 or /dns6")
    else:
        try:
            if str(_IPS[kind](host)) != host:
                raise DecodeError(Malformed.NOT_CANONICAL, "an IP address in another spelling than the usual one")
        except ValueError as fault:
            raise DecodeError(Malformed.NOT_CANONICAL, "no IP address") from fault
    return Endpoint(host, port, kind in _NAMES, websocket)


def _is_name(host: str) -> bool:
    letters = host.replace("-", "").replace(".", "").replace("_", "")
    return 0 < len(host) <= 253 and letters.isascii() and letters.isalnum() and ".." not in host


def is_routable(address: str, reach: Reach) -> bool:
    """Whether a stranger may make us dial it."""
    try:
        endpoint = parse_endpoint(address)
    except DecodeError:
        return False
    if endpoint.named:
        return False
    ip = ip_address(plain_address(endpoint.host))
    if ip.is_loopback:
        return reach is Reach.LOOPBACK
    if ip.is_unspecified or ip.is_multicast or ip.is_link_local or ip.is_reserved:
        return False
    if isinstance(ip, IPv6Address) and (ip.sixtofour or ip.teredo or ip in _TRANSLATED):
        return False
    return ip.is_global or (ip.is_private and reach >= Reach.PRIVATE)


def network_of(address: str) -> str:
    """The /24 or /48 of an address's host, its name if it has one: what one operator commonly controls."""
    endpoint = parse_endpoint(address)
    return endpoint.host if endpoint.named else neighbourhood(plain_address(endpoint.host))


def network_of_endpoint(shown: str) -> str:
    """The same for `192.0.2.1:4001` or `[2001:db8::1]:4001`, as a connection's health shows it."""
    host = plain_address(shown.rpartition(":")[0].strip("[]"))
    return UNKNOWN_ADDRESS if host == UNKNOWN_ADDRESS else neighbourhood(host)


def parse_peer_address(text: str) -> PeerAddress:
    """`/ip4/192.0.2.1/tcp/4001/p2p/12D3…`: where, and who is expected there. `DecodeError` if it is no such thing."""
    if len(text) > MAX_TEXT:
        raise DecodeError(Malformed.TOO_LARGE, f"an address of {len(text)} characters")
    address, found, peer = text.rpartition(_PEER)
    if not found:
        raise DecodeError(Malformed.MISSING_FIELD, "the address lacks its peer id: /ip4/…/tcp/…/p2p/PEER-ID")
    parse_endpoint(address)
    return PeerAddress(parse_peer_id(peer), (address,))


def peer_address_text(peer: PeerId, address: str) -> str:
    """What `parse_peer_address` reads: to paste, to publish."""
    return f"{address}{_PEER}{peer_id_text(peer)}"
