"""Who may knock how often, and how many may wait at the door: no libp2p, no clock of its own."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Final, NewType

from p2p.handshake.reject import Reject

Knock = NewType("Knock", bool)
"""A half-open slot that was taken. True: one of those reserved for configured validators."""

UNKNOWN_ADDRESS: Final = "unknown"
"""All peers whose address a transport cannot tell share one bucket."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Every cap of the host in one place; the comment of each names what it stops."""

    knocks_per_address: int = 64
    """Burst of one address: a flood of handshakes. 1 to 1.5 ms of a core each, once mac1 passes."""
    knocks_per_address_per_s: int = 16
    knocks_per_network: int = 256
    """Burst of one /24 (IPv6: /48): the same flood from neighbouring addresses."""
    knocks_per_network_per_s: int = 64
    tracked_addresses: int = 4_096
    """Buckets kept: a flood from ever new addresses evicts the oldest ones instead of filling memory."""
    half_open: int = 64
    """Connections that have not finished their handshake: slow and silent peers."""
    half_open_reserved: int = 16
    """Of those, kept free for the addresses of configured validators."""
    handshake_workers: int = 2
    """KEM and signature work at once: the semaphore behind which a flood queues."""
    connections: int = 192
    """Established connections altogether: memory and tasks."""
    connections_reserved: int = 64
    """Of those, kept free for configured validators."""
    streams_per_connection: int = 256
    """Streams that one peer may have open towards us: tasks and buffers."""
    streams_per_protocol: int = 32
    """Of one connection and one protocol."""
    negotiation_timeout_s: int = 10
    """Agreeing on a stream's protocol: silent streams."""
    stream_linger_s: int = 10
    """After our end closed: a peer that never closes its own."""
    write_timeout_s: int = 20
    """One write to a stream: a peer that reads nothing."""
    close_timeout_s: int = 1
    """Saying goodbye: a peer whose window is closed."""
    ping_interval_ms: int = 500
    """Of a connection on which nothing arrives."""
    silence_ms: int = 2_000
    """Nothing at all arrived for so long after a ping: the connection is dead (a frozen or vanished peer)."""
    dials: int = 16
    """Outgoing dials at once."""

    def __post_init__(self) -> None:
        if not 0 <= self.half_open_reserved < self.half_open:
            raise ValueError("some half-open slots must be for everyone")
        if not 0 <= self.connections_reserved < self.connections:
            raise ValueError("some connections must be for everyone")
        if self.ping_interval_ms >= self.silence_ms:
            raise ValueError("silence is noticed by a ping: it must last longer than the time between two")


class TokenBucket:
    """`burst` at once, then `per_s` each second."""

    __slots__ = ("_at_ms", "_burst", "_millitokens", "_per_s")

    def __init__(self, burst: int, per_s: int, now_ms: int) -> None:
        self._burst = burst
        self._per_s = per_s
        self._millitokens = burst * 1_000
        self._at_ms = now_ms

    def take(self, now_ms: int) -> bool:
        grown = self._millitokens + max(now_ms - self._at_ms, 0) * self._per_s
        self._millitokens = min(grown, self._burst * 1_000)
        self._at_ms = max(now_ms, self._at_ms)
        if self._millitokens < 1_000:
            return False
        self._millitokens -= 1_000
        return True


class TokenBuckets:
    """One bucket for each name, the longest unused dropped first."""

    __slots__ = ("_buckets", "_burst", "_most", "_per_s")

    def __init__(self, burst: int, per_s: int, most: int) -> None:
        self._burst = burst
        self._per_s = per_s
        self._most = most
        self._buckets: OrderedDict[str, TokenBucket] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, now_ms: int) -> bool:
        bucket = self._buckets.get(name)
        if bucket is None:
            bucket = self._buckets[name] = TokenBucket(self._burst, self._per_s, now_ms)
            if len(self._buckets) > self._most:
                self._buckets.popitem(last=False)
        else:
            self._buckets.move_to_end(name)
        return bucket.take(now_ms)


def plain_address(address: str) -> str:
    """One spelling of one address: an IPv4 address that came through an IPv6 socket is an IPv4 address."""
    try:
        parsed = ip_address(address.split("%", 1)[0])
    except ValueError:
        return UNKNOWN_ADDRESS
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return str(parsed)


def neighbourhood(address: str) -> str:
    """The /24 of an IPv4 address; the /48 of an IPv6 one, which is what one customer commonly gets."""
    if address == UNKNOWN_ADDRESS:
        return address
    parsed = ip_address(address)
    if isinstance(parsed, IPv4Address):
        return f"{IPv4Address(int(parsed) >> 8 << 8)}/24"
    return f"{IPv6Address(int(parsed) >> 80 << 80)}/48"


class Doorkeeper:
    """Decides on an incoming connection before a byte of it is read."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        most = limits.tracked_addresses
        self._addresses = TokenBuckets(limits.knocks_per_address, limits.knocks_per_address_per_s, most)
        self._networks = TokenBuckets(limits.knocks_per_network, limits.knocks_per_network_per_s, most)
        # Validators have buckets of their own, so that a neighbour of theirs cannot use theirs up.
        self._validators = TokenBuckets(limits.knocks_per_address, limits.knocks_per_address_per_s, most)
        self._validator_addresses: frozenset[str] = frozenset()
        self._open_for_all = 0
        self._open_reserved = 0

    @property
    def half_open(self) -> int:
        return self._open_for_all + self._open_reserved

    def reserve_for(self, addresses: frozenset[str]) -> None:
        """The addresses from which configured validators connect."""
        self._validator_addresses = frozenset(map(plain_address, addresses)) - {UNKNOWN_ADDRESS}

    def knock(self, address: str, now_ms: int) -> Knock | Reject:
        """A slot, to be given back with `leave`, or why not."""
        address = plain_address(address)
        known = address in self._validator_addresses
        if known:
            allowed = self._validators.take(address, now_ms)
        else:
            allowed = self._addresses.take(address, now_ms) and self._networks.take(neighbourhood(address), now_ms)
        if not allowed:
            return Reject.RATE_LIMITED
        if self._open_for_all < self._limits.half_open - self._limits.half_open_reserved:
            self._open_for_all += 1
            return Knock(False)
        if known and self._open_reserved < self._limits.half_open_reserved:
            self._open_reserved += 1
            return Knock(True)
        return Reject.HALF_OPEN_FULL

    def leave(self, knock: Knock) -> None:
        if knock:
            self._open_reserved -= 1
        else:
            self._open_for_all -= 1
