"""Pages of lists: how many items, where to go on, and tokens that nobody else can make.

A token is a position, bound to the method and its other arguments, under a keyed hash with a key of this process: a
client that changes one, or takes it to another list, is told so instead of getting a wrong page.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import sha3_256
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from node.rpc.errors import invalid
from trellis.v1 import common_pb2

T = TypeVar("T")

DEFAULT_PAGE_SIZE: Final = 100
MAX_PAGE_SIZE: Final = 1_000
MAX_TOKEN_CHARACTERS: Final = 256
MAX_PAGE_BYTES: Final = 2 << 20
"""Stops a page of large items from passing the message limit of an ordinary client."""

_TAG_BYTES: Final = 16


@dataclass(frozen=True, slots=True)
class Page(Generic[T]):
    """Some items, and the position after the last of them; None at the end of the list."""

    items: tuple[T, ...]
    position: bytes | None


class Pager:
    """Makes and reads tokens. One for each server."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def size(self, page: common_pb2.PageRequest) -> int:
        if page.page_size > MAX_PAGE_SIZE:
            raise invalid("page.page_size", f"{page.page_size} is more than {MAX_PAGE_SIZE}")
        return page.page_size or DEFAULT_PAGE_SIZE

    def position(self, request: Message) -> bytes | None:
        """Where the page begins, None for the first. `request` has a field `page`."""
        page: common_pb2.PageRequest = request.page  # type: ignore[attr-defined]  # every list request has one
        if not page.page_token:
            return None
        if len(page.page_token) > MAX_TOKEN_CHARACTERS:
            raise invalid("page.page_token", f"longer than {MAX_TOKEN_CHARACTERS} characters")
        try:
            raw = base64.b64decode(page.page_token, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError) as fault:
            raise invalid("page.page_token", "not made by this node") from fault
        tag, position = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not hmac.compare_digest(tag, self._tag(request, position)):
            raise invalid("page.page_token", "not made by this node since it started, or for other arguments")
        return position

    def response(self, request: Message, position: bytes | None) -> common_pb2.PageResponse:
        if position is None:
            return common_pb2.PageResponse()
        token = base64.urlsafe_b64encode(self._tag(request, position) + position).decode()
        return common_pb2.PageResponse(next_page_token=token)

    def _tag(self, request: Message, position: bytes) -> bytes:
        """Over the list and its arguments, the page apart."""
        arguments = type(request)()
        arguments.CopyFrom(request)
        arguments.ClearField("page")
        content = request.DESCRIPTOR.full_name.encode() + b"\0" + arguments.SerializeToString(deterministic=True)
        mac = hmac.new(self._key, len(content).to_bytes(4, "big") + content + position, sha3_256)
        return mac.digest()[:_TAG_BYTES]


def cut(items: Sequence[T], size: int, key: Callable[[T], bytes], after: bytes | None) -> Page[T]:
    """A page of a short list that is sorted ascending by `key`: what comes after the position."""
    rest = [item for item in items if after is None or key(item) > after]
    taken = tuple(rest[:size])
    return Page(taken, key(taken[-1]) if len(rest) > size else None)


class Budget:
    """Keeps a page below its size in bytes; the first item always fits."""

    __slots__ = ("_left", "_taken")

    def __init__(self, limit_bytes: int = MAX_PAGE_BYTES) -> None:
        self._left = limit_bytes
        self._taken = 0

    def fits(self, message: Message) -> bool:
        size = message.ByteSize()
        if self._taken and size > self._left:
            return False
        self._taken += 1
        self._left -= size
        return True
