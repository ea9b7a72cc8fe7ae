"""Every scenario runs against both clients: `Client`, and `AsyncClient` behind a face that blocks."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.proto.client.fake_chain import FakeChain, make_key
from tests.proto.client.fake_server import FakeNode
from trellis.client import AsyncClient, Client, LocalSigner, RetryPolicy
from trellis.client.core import Surroundings


@dataclass
class FakeTime:
    """A clock that only pauses move."""

    now_s: float = 1_000.0
    pauses: list[float] = field(default_factory=list)

    def clock(self) -> float:
        return self.now_s

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.now_s += seconds

    async def sleep_async(self, seconds: float) -> None:
        self.sleep(seconds)

    @property
    def surroundings(self) -> Surroundings:
        return Surroundings(clock=self.clock, chance=lambda: 0.5)


class _Blocking:
    """Lets a scenario for `Client` run `AsyncClient`: every coroutine is run to its end in one private loop."""

    def __init__(self, inner: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._inner = inner
        self._loop = loop

    def _finish(self, value: Any) -> Any:
        if inspect.isawaitable(value):
            value = self._loop.run_until_complete(value)
        return _Blocking(value, self._loop) if hasattr(value, "__anext__") else value

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._inner, name)
        return (lambda *args, **kwargs: self._finish(member(*args, **kwargs))) if callable(member) else member

    def __next__(self) -> Any:
        return self._finish(self._inner.__anext__())


class Workshop:
    """Makes chains, nodes and clients, and cleans up after the test."""

    def __init__(self, flavour: str) -> None:
        self.flavour = flavour
        self.alice = LocalSigner(make_key("alice"))
        self.bob = LocalSigner(make_key("bob"))
        self.time = FakeTime()
        self._nodes: list[FakeNode] = []
        self._clients: list[Any] = []
        self._loop = asyncio.new_event_loop() if flavour == "async" else None

    def chain(self, name: str = "fake") -> FakeChain:
        return FakeChain(name, {self.alice.address: 10_000_000, self.bob.address: 5})

    def node(self, chain: FakeChain, credentials: Any = None) -> FakeNode:
        node = FakeNode(chain, credentials).start()
        self._nodes.append(node)
        return node

    def client(self, *nodes: Any, retry: RetryPolicy | None = None, **settings: Any) -> Any:
        endpoints = [node.address if isinstance(node, FakeNode) else node for node in nodes]
        retry = retry or RetryPolicy(attempts=4, budget_s=1_000.0, attempt_s=30.0)
        around = self.time.surroundings
        client: Any
        if self._loop is None:
            client = Client(endpoints, retry=retry, around=around, sleep=self.time.sleep, **settings)
        else:
            inner = AsyncClient(endpoints, retry=retry, around=around, sleep=self.time.sleep_async, **settings)
            client = _Blocking(inner, self._loop)
        self._clients.append(client)
        return client

    def close(self) -> None:
        for client in self._clients:
            client.close()
        for node in self._nodes:
            node.stop()
        if self._loop is not None:
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()


@pytest.fixture(params=["sync", "async"])
def workshop(request: pytest.FixtureRequest) -> Iterator[Workshop]:
    made = Workshop(request.param)
    yield made
    made.close()
