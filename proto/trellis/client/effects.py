"""What the core asks of a driver. The core is generators that yield these values and are sent the answers.

So every rule of this package exists once, without sockets, threads, clocks or coroutines; `blocking` and `aio` are
loops of a few dozen lines that perform effects, and tests perform them by hand.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum
from typing import Any, Generic, TypeVar

from google.protobuf.message import Message

from trellis.client.endpoints import Endpoint
from trellis.client.errors import Failure
from trellis.client.methods import Method, Req, Res
from trellis.client.signers import AnySigner

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Call(Generic[Req, Res]):
    """One attempt at one endpoint."""

    endpoint: Endpoint
    method: Method[Req, Res]
    request: Req
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Ask:
    """Perform all calls at once. Answer: a list of responses or `Failure`s in their order."""

    calls: tuple[Call[Any, Any], ...]


@dataclass(frozen=True, slots=True)
class Pause:
    """Answer: None, after that time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Sign:
    """Answer: the signature."""

    signer: AnySigner
    message: bytes
    context: bytes


class Stream:
    """A driver's handle of an open stream."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class Open:
    """Open a stream. Answer: a `Stream`; that nobody answers shows at the first `Receive`."""

    endpoint: Endpoint
    method: Method[Any, Any]
    request: Message


class Quiet(Enum):
    """What a stream says beside messages and failures."""

    SILENCE = "silence"
    """Nothing came within the time."""
    ENDED = "ended"
    """The node closed the stream without a fault."""


@dataclass(frozen=True, slots=True)
class Receive:
    """Answer: the next message, a `Failure`, or a `Quiet`."""

    stream: Stream
    within_s: float


@dataclass(frozen=True, slots=True)
class Close:
    """Cancel a stream, whatever it does at the moment. Answer: None."""

    stream: Stream


Effect = Ask | Pause | Sign | Open | Receive | Close

Flow = Generator[Effect, Any, T]
"""A computation of T. What is sent in is what the effect's comment says; `ask` and its like give it its type."""


def ask(call: Call[Req, Res]) -> Flow[Res | Failure]:
    answers: list[Res | Failure] = yield Ask((call,))
    return answers[0]


def ask_all(calls: tuple[Call[Req, Res], ...]) -> Flow[list[Res | Failure]]:
    answers: list[Res | Failure] = yield Ask(calls)
    return answers


def pause(seconds: float) -> Flow[None]:
    yield Pause(seconds)


def sign(signer: AnySigner, message: bytes, context: bytes) -> Flow[bytes]:
    signature: bytes = yield Sign(signer, message, context)
    return signature


def open_stream(endpoint: Endpoint, method: Method[Any, Any], request: Message) -> Flow[Stream]:
    stream: Stream = yield Open(endpoint, method, request)
    return stream


def receive(stream: Stream, within_s: float) -> Flow[Message | Failure | Quiet]:
    item: Message | Failure | Quiet = yield Receive(stream, within_s)
    return item


def close_stream(stream: Stream) -> Flow[None]:
    yield Close(stream)
