"""Where a new node begins: names and documents that list a few peers. Hints, believed only as to where to dial.

- A DNS name with TXT records, one peer each:
  `trellis=<first 8 hex digits of the genesis hash>,<address>/p2p/<peer id>`.
- A JSON document over HTTPS (plain HTTP from this machine only):
  `{"trellis": 1, "genesis_hash": "<hex>", "peers": ["<address>/p2p/<peer id>", …]}`.

Neither is authenticated against a quantum computer, nor need it be: the handshake proves who answers. A forged seed can
keep a new node from finding its network, so several seeds, or static peers beside them, are better than one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from ipaddress import ip_address
from typing import Final
from urllib.parse import urlsplit

import dns.asyncresolver
import dns.exception
import dns.rdatatype
import dns.resolver
import httpx
import trio

from p2p.dialing import PeerAddress
from p2p.discovery.addresses import MAX_TEXT, Reach, is_routable, parse_endpoint, parse_peer_address
from trellis.encoding import DecodeError
from trellis.types import Hash

TXT_PREFIX: Final = "trellis="
MAX_SEED_PEERS: Final = 64
"""Of one seed: it needs to name a few, and could name millions."""
MAX_DOCUMENT_BYTES: Final = 64 << 10
TIMEOUT_S: Final = 5.0
_PLAIN: Final = {"Accept-Encoding": "identity"}
"""The body is read as it comes: a small compressed one could grow without end."""


class SeedFault(StrEnum):
    """Why a seed gave nothing."""

    UNREACHABLE = "seed_unreachable"
    NOT_FOUND = "seed_not_found"
    MALFORMED = "seed_malformed"
    TOO_LARGE = "seed_too_large"
    OTHER_NETWORK = "seed_other_network"


class SeedError(Exception):
    """A seed is of no use now; the message names it."""

    def __init__(self, reason: SeedFault, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason


Seed = Callable[[], Awaitable[tuple[PeerAddress, ...]]]
"""Asks once. `SeedError` if there is no answer."""


def txt_line(genesis_hash: Hash, address: str) -> str:
    """What an operator puts into a TXT record; `address` ends with /p2p/ and the peer id."""
    return f"{TXT_PREFIX}{genesis_hash[:4].hex()},{address}"


def dns_seed(name: str, genesis_hash: Hash, reach: Reach, resolver: dns.asyncresolver.Resolver | None = None) -> Seed:
    """The TXT records of a name, through the system's resolvers unless another is given."""

    async def ask() -> tuple[PeerAddress, ...]:
        asked = resolver or dns.asyncresolver.Resolver()
        try:
            answer = await asked.resolve(name, dns.rdatatype.TXT, lifetime=TIMEOUT_S, search=False)
        except (dns.resolver.NXDOMAIN, dns.resolver.NoAnswer):
            raise SeedError(SeedFault.NOT_FOUND, f"{name} has no TXT records") from None
        except (dns.exception.DNSException, OSError) as fault:
            raise SeedError(SeedFault.UNREACHABLE, f"{name}: {type(fault).__name__}") from None
        prefix = txt_line(genesis_hash, "")
        # Other records of the name, and other networks', are not ours to judge.
        texts = [b"".join(record.strings).decode("ascii", "replace") for record in answer]
        return _peers([each.removeprefix(prefix) for each in texts if each.startswith(prefix)], reach)

    return ask


def json_seed(url: str, genesis_hash: Hash, reach: Reach) -> Seed:
    """A document at an HTTPS address. `ValueError` for any other kind of address."""
    parts = urlsplit(url)
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(parts.hostname or "")):
        raise ValueError(f"{url!r} is no https:// address")

    async def ask() -> tuple[PeerAddress, ...]:
        body = await trio.to_thread.run_sync(_fetch, url, abandon_on_cancel=True)  # type: ignore[call-arg] # newer than the stubs
        return _peers(_listed(body, url, genesis_hash), reach)

    return ask


def _fetch(url: str) -> bytes:
    """In a thread: httpx's asynchronous streams, left before their end, trip over trio's bookkeeping."""
    until_s = time.monotonic() + TIMEOUT_S
    body = b""
    try:
        with (
            httpx.Client(timeout=TIMEOUT_S, follow_redirects=False, trust_env=False) as client,
            client.stream("GET", url, headers=_PLAIN) as response,
        ):
            if response.status_code != httpx.codes.OK:
                raise SeedError(SeedFault.NOT_FOUND, f"{url}: HTTP status {response.status_code}")
            for part in response.iter_raw():
                body += part
                if len(body) > MAX_DOCUMENT_BYTES:
                    raise SeedError(SeedFault.TOO_LARGE, f"{url}: more than {MAX_DOCUMENT_BYTES} bytes")
                if time.monotonic() > until_s:
                    raise SeedError(SeedFault.UNREACHABLE, f"{url}: not all there in {TIMEOUT_S:.0f} s")
    except (httpx.HTTPError, OSError) as fault:
        raise SeedError(SeedFault.UNREACHABLE, f"{url}: {type(fault).__name__}") from None
    return body


def _listed(body: bytes, url: str, genesis_hash: Hash) -> list[str]:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        raise SeedError(SeedFault.MALFORMED, f"{url}: no JSON") from None
    if not isinstance(document, dict) or document.get("trellis") != 1 or not isinstance(document.get("peers"), list):
        raise SeedError(SeedFault.MALFORMED, f'{url}: no document with "trellis": 1 and "peers"')
    if document.get("genesis_hash") != genesis_hash.hex():
        raise SeedError(SeedFault.OTHER_NETWORK, f"{url} lists another network's peers")
    return [each for each in document["peers"] if isinstance(each, str)]


def _peers(texts: list[str], reach: Reach) -> tuple[PeerAddress, ...]:
    """One entry that is wrong does not spoil the others."""
    found: list[PeerAddress] = []
    for text in texts[:MAX_SEED_PEERS]:
        try:
            peer = parse_peer_address(text[: MAX_TEXT + 1])
        except DecodeError:
            continue
        (address,) = peer.addresses
        if parse_endpoint(address).named or is_routable(address, reach):
            found.append(peer)
    return tuple(found)


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
