"""What both clients are made of: settings, and the flows joined over one caller."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from trellis.client.amounts import Amount
from trellis.client.calls import Answered, Caller
from trellis.client.chain import ChainReader
from trellis.client.effects import Flow
from trellis.client.endpoints import Endpoint, RetryPolicy, Tls, parse_endpoints
from trellis.client.errors import NoTrust
from trellis.client.follow import BlockFollower, FollowSettings
from trellis.client.methods import Method, Req, Res
from trellis.client.sealed import Trust, genesis_hash_of, load_trust
from trellis.client.wallet import Wallet
from trellis.crypto.algorithms import VerifyMany
from trellis.crypto.schemes import verify_all
from trellis.genesis import Genesis

Endpoints = str | Endpoint | Iterable[str | Endpoint]


def jitter() -> float:
    """From 0 to 1. Not a secret: it only spreads retries."""
    return random.random()  # noqa: S311 - the reason stands above


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What the core takes from outside, so that tests can hand in their own."""

    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = jitter
    verify: VerifyMany = verify_all


DEFAULT_SURROUNDINGS = Surroundings()


class Core:
    """One client's state and flows. Not for several threads at once: drivers see to that."""

    def __init__(
        self,
        endpoints: Endpoints,
        trust: Trust | str | Path | None,
        agree: int,
        tls: Tls | None,
        token: str | None,
        retry: RetryPolicy,
        around: Surroundings,
    ) -> None:
        self.trust = load_trust(trust) if isinstance(trust, str | Path) else trust
        parsed = parse_endpoints(endpoints, tls, token)
        genesis_hash = None if self.trust is None else genesis_hash_of(self.trust)
        self.caller = Caller(parsed, retry, agree, genesis_hash, around.clock, around.chance)
        self.chain = ChainReader(self.caller, self.trust, around.verify)
        self.wallet = Wallet(self.caller, self.chain)

    def call(self, method: Method[Req, Res], request: Req) -> Flow[Res]:
        answered: Answered[Res] = yield from self.caller.call(method, request)
        return answered.message

    def follower(self, settings: FollowSettings) -> BlockFollower:
        return BlockFollower(self.caller, self.chain, settings)

    def amount(self, text: str) -> Amount:
        """With the exponent of the trusted genesis: a node's word could make a payment a thousand times larger."""
        if not isinstance(self.trust, Genesis):
            raise NoTrust("reading an amount in the chain's unit (or use Amount.parse with the exponent you know)")
        return Amount.parse(text, self.trust.parameters.unit_exponent)
