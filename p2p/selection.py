"""multistream-select 1.0.0 with bounds: agreeing on what a stream is for, whatever the other side sends.

libp2p's own reads a length of up to 64 bits from an unauthenticated stranger and then so many bytes, and lets a byte
that is no UTF-8 end the host. Here a message has at most `MAX_MESSAGE_BYTES` and a peer `MAX_ATTEMPTS` tries.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from typing import Final, Protocol

MULTISTREAM: Final = "/multistream/1.0.0"
NOT_AVAILABLE: Final = "na"
LIST: Final = "ls"

MAX_MESSAGE_BYTES: Final = 1_024
"""A protocol id is some tens of bytes: a longer message is an attempt to fill memory."""
MAX_ATTEMPTS: Final = 16
"""A peer that keeps asking for what we do not speak keeps a task of ours."""


class SelectionError(Exception):
    """The other side did not agree, or did not speak multistream-select."""


class ByteStream(Protocol):
    async def write(self, data: bytes) -> None: ...


ReadExactly = Callable[[int], Awaitable[bytes]]
"""Exactly so many bytes; raises if the stream ends before."""


def message(text: str) -> bytes:
    """varint length ‖ text ‖ newline."""
    raw = text.encode() + b"\n"
    if len(raw) > MAX_MESSAGE_BYTES:
        raise ValueError(f"a protocol id of {len(raw)} bytes, the most is {MAX_MESSAGE_BYTES}")
    if len(raw) < 0x80:
        return bytes([len(raw)]) + raw
    return bytes([len(raw) & 0x7F | 0x80, len(raw) >> 7]) + raw


async def read_message(read: ReadExactly) -> str:
    size = (await read(1))[0]
    if size & 0x80:
        high = (await read(1))[0]
        size = size & 0x7F | high << 7
    if not 0 < size <= MAX_MESSAGE_BYTES:
        raise SelectionError(f"a message of {size} bytes or more, the most is {MAX_MESSAGE_BYTES}")
    raw = await read(size)
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        raise SelectionError("a message that is no UTF-8") from None
    if not text.endswith("\n"):
        raise SelectionError("a message that does not end with a newline")
    return text[:-1]


async def answer(stream: ByteStream, read: ReadExactly, offered: Collection[str]) -> str:
    """The listener's side: the protocol that the peer asked for and we speak."""
    await stream.write(message(MULTISTREAM))
    if await read_message(read) != MULTISTREAM:
        raise SelectionError("the peer does not speak multistream-select 1.0.0")
    for _ in range(MAX_ATTEMPTS):
        asked = await read_message(read)
        if asked in offered:
            await stream.write(message(asked))
            return asked
        # A listing of everything costs us more than the peer; nobody needs it who is a member.
        await stream.write(message(NOT_AVAILABLE))
    raise SelectionError(f"{MAX_ATTEMPTS} protocols were asked for, none is spoken here")


async def propose(stream: ByteStream, read: ReadExactly, protocols: Collection[str]) -> str:
    """The dialer's side: the first of `protocols` that the peer speaks. Greeting and first proposal go in one write."""
    greeting = message(MULTISTREAM)
    greeted = False
    for protocol in protocols:
        await stream.write(greeting + message(protocol))
        greeting = b""
        if not greeted:
            if await read_message(read) != MULTISTREAM:
                raise SelectionError("the peer does not speak multistream-select 1.0.0")
            greeted = True
        reply = await read_message(read)
        if reply == protocol:
            return protocol
        if reply != NOT_AVAILABLE:
            raise SelectionError("the peer answered with another protocol than the one proposed")
    raise SelectionError(f"the peer speaks none of {', '.join(protocols)}")
