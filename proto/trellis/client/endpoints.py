"""Where nodes are, how they are reached, and which of them is asked next.

Bare addresses are plaintext on this machine alone: anywhere else they mean TLS. `http://` and `https://` say it
outright.

>>> Endpoint.parse("127.0.0.1:9090").secure, Endpoint.parse("node.example:9090").secure
(False, True)
>>> Endpoint.parse("https://127.0.0.1:9090")
Endpoint('https://127.0.0.1:9090')
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from trellis.client.errors import Failure

MAX_REST_S: Final = 300.0
"""Stops a node from putting itself, and a wallet with one endpoint, to sleep for a year by RetryInfo."""

DISTRUST_S: Final = MAX_REST_S
"""How long an endpoint that gave a dishonest answer is asked last."""


@dataclass(frozen=True, slots=True)
class Tls:
    """PEM bytes. Without roots gRPC's own bundle is used; key and certificate together identify this client."""

    root_certificates: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    certificate: bytes | None = None
    server_name: str | None = None
    """The name that the certificate must have, where it is not the address."""

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate is None):
            raise ValueError("a client certificate needs its private key, and the key its certificate")

    @classmethod
    def load(
        cls,
        root_certificates: str | Path | None = None,
        private_key: str | Path | None = None,
        certificate: str | Path | None = None,
        server_name: str | None = None,
    ) -> Tls:
        """From PEM files."""
        paths = (root_certificates, private_key, certificate)
        roots, key, own = (None if path is None else Path(path).read_bytes() for path in paths)
        return cls(roots, key, own, server_name)


DEFAULT_TLS: Final = Tls()


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """One node. `token` goes along with every call as a bearer token; never in plaintext to other machines."""

    target: str
    """What gRPC dials: host:port, or unix:path."""
    tls: Tls | None = None
    token: str | None = None

    def __post_init__(self) -> None:
        if self.token is not None and self.tls is None and not _is_local(self.target):
            raise ValueError(f"a token must not travel in plaintext to {self.target}: use https://")

    @classmethod
    def parse(cls, address: str, tls: Tls | None = None, token: str | None = None) -> Endpoint:
        """host:port, https://host:port, http://host:port or unix:/path. `tls` may not contradict the scheme."""
        if address.startswith("https://"):
            target, secured = address.removeprefix("https://"), tls or DEFAULT_TLS
        elif address.startswith("http://"):
            if tls is not None:
                raise ValueError(f"{address} asks for plaintext, and TLS settings are given: use https://")
            target, secured = address.removeprefix("http://"), None
        else:
            target = address
            secured = tls if tls is not None or _is_local(address) else DEFAULT_TLS
        return cls(_checked(target.rstrip("/") if not target.startswith("unix:") else target), secured, token)

    @property
    def secure(self) -> bool:
        return self.tls is not None

    @property
    def name(self) -> str:
        """How errors name it: never with a token."""
        if self.target.startswith("unix:"):
            return self.target
        return f"{'https' if self.secure else 'http'}://{self.target}"

    def __repr__(self) -> str:
        return f"Endpoint({self.name!r})"


def _checked(target: str) -> str:
    if target.startswith("unix:"):
        if target == "unix:":
            raise ValueError("unix: wants a path, for example unix:/run/trellis/api.sock")
        return target
    host, _, port = target.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65_536 or "/" in target:
        raise ValueError(f"{target!r} is no endpoint: write host:port, https://host:port or unix:/path")
    return target


def _is_local(target: str) -> bool:
    if target.startswith("unix:"):
        return True
    host = target.rpartition(":")[0].strip("[]")
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def parse_endpoints(
    addresses: str | Endpoint | Iterable[str | Endpoint], tls: Tls | None = None, token: str | None = None
) -> tuple[Endpoint, ...]:
    given = [addresses] if isinstance(addresses, str | Endpoint) else list(addresses)
    endpoints = tuple(item if isinstance(item, Endpoint) else Endpoint.parse(item, tls, token) for item in given)
    if not endpoints:
        raise ValueError("a client needs at least one endpoint")
    if len({endpoint.name for endpoint in endpoints}) != len(endpoints):
        raise ValueError("an endpoint is given twice: one node must not count as two that agree")
    return endpoints


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How long and how often. All times in seconds."""

    attempts: int = 5
    """Of one call, over all endpoints together; at least one at each of them."""
    budget_s: float = 20.0
    """For one call with all its attempts and pauses."""
    attempt_s: float = 6.0
    """The deadline of one attempt: a node that hangs costs no more than this."""
    first_pause_s: float = 0.1
    longest_pause_s: float = 5.0

    def __post_init__(self) -> None:
        if self.attempts < 1 or min(self.budget_s, self.attempt_s, self.first_pause_s, self.longest_pause_s) <= 0:
            raise ValueError("attempts and times of a retry policy are above zero")

    def pause_s(self, failures: int, chance: float, asked_s: float | None) -> float:
        """Doubling, with half of it by chance, so that wallets that failed together do not return together. A pause
        that the node asked for is never shortened, only stretched by up to a tenth."""
        if asked_s is not None:
            return min(asked_s, MAX_REST_S) * (1 + chance / 10)
        whole = min(self.longest_pause_s, self.first_pause_s * 2.0 ** min(failures - 1, 30))
        return whole * (0.5 + chance / 2)


@dataclass(slots=True)
class Seat:
    """What is remembered about one endpoint."""

    endpoint: Endpoint
    place: int
    rests_until_s: float = float("-inf")
    failures: int = 0
    last_failure: Failure | None = None
    introduced: bool = False
    """Whether its chain was checked, since it was last lost sight of."""
    distrusted_until_s: float = float("-inf")

    @property
    def name(self) -> str:
        return self.endpoint.name


class Roster:
    """Chooses whom to ask: whoever rests least; among those who do not, the last that answered, then the order given.
    Who gave a dishonest answer comes after all others."""

    def __init__(self, endpoints: Collection[Endpoint], policy: RetryPolicy) -> None:
        self.seats: tuple[Seat, ...] = tuple(Seat(endpoint, place) for place, endpoint in enumerate(endpoints))
        self._policy = policy
        self._liked = 0

    def choose(self, now_s: float, exclude: Collection[str] = (), number: int = 1) -> list[Seat]:
        free = [seat for seat in self.seats if seat.name not in exclude]
        free.sort(
            key=lambda seat: (
                seat.distrusted_until_s > now_s,
                max(0.0, seat.rests_until_s - now_s),
                seat.place != self._liked,
                seat.place,
            )
        )
        return free[:number]

    def named(self, name: str) -> Seat | None:
        return next((seat for seat in self.seats if seat.name == name), None)

    def answered(self, seat: Seat) -> None:
        seat.failures, seat.rests_until_s, seat.last_failure = 0, float("-inf"), None
        self._liked = seat.place

    def failed(self, seat: Seat, failure: Failure, now_s: float, chance: float) -> None:
        """It rests; and since it may come back as another node, its chain is checked again."""
        seat.introduced = False
        self.rest(seat, failure, now_s, chance)

    def rest(self, seat: Seat, failure: Failure, now_s: float, chance: float) -> None:
        seat.failures += 1
        seat.last_failure = failure
        asked_s = None if failure.retry_after_ms is None else failure.retry_after_ms / 1_000
        seat.rests_until_s = now_s + self._policy.pause_s(seat.failures, chance, asked_s)

    def distrust(self, name: str, now_s: float) -> None:
        seat = self.named(name)
        if seat is not None:
            seat.distrusted_until_s = now_s + DISTRUST_S
