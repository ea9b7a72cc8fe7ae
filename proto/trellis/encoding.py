"""The one binary codec: big-endian integers, fixed byte strings, length-prefixed byte strings.

Whoever writes knows its values, so a value out of range is host misuse (`ValueError`). Whoever reads may hold a
stranger's bytes: every fault is a `DecodeError` with a reason from a closed set, and no read allocates more than the
input holds.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from trellis.types import HASH_BYTES, U8_MAX, U16_MAX, U32_MAX, U64_MAX, Hash

T = TypeVar("T")


class Malformed(StrEnum):
    """Why bytes were refused."""

    TRUNCATED = "truncated"
    TRAILING_BYTES = "trailing_bytes"
    TOO_LARGE = "too_large"
    TOO_MANY = "too_many"
    OUT_OF_RANGE = "out_of_range"
    NOT_CANONICAL = "not_canonical"
    UNKNOWN_VERSION = "unknown_version"
    UNKNOWN_KIND = "unknown_kind"
    UNKNOWN_FIELD = "unknown_field"
    UNKNOWN_ALGORITHM = "unknown_algorithm"
    DUPLICATE_FIELD = "duplicate_field"
    FIELD_ORDER = "field_order"
    WRONG_WIRE_TYPE = "wrong_wire_type"
    ENCODED_DEFAULT = "encoded_default"
    MISSING_FIELD = "missing_field"
    OVERLONG_VARINT = "overlong_varint"
    NOT_UTF8 = "not_utf8"
    WRONG_SIZE = "wrong_size"
    BAD_CHECKSUM = "bad_checksum"
    WRONG_PREFIX = "wrong_prefix"
    INCONSISTENT = "inconsistent"


class DecodeError(ValueError):
    """A stranger's bytes are not what they claim to be."""

    def __init__(self, reason: Malformed, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class Writer:
    """Appends canonical fields; every method returns the writer, so that a layout reads as one expression."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def _int(self, value: int, size: int, most: int) -> Writer:
        if not 0 <= value <= most:
            raise ValueError(f"{value} does not fit in {size} bytes")
        self._parts.append(value.to_bytes(size, "big"))
        return self

    def u8(self, value: int) -> Writer:
        return self._int(value, 1, U8_MAX)

    def u16(self, value: int) -> Writer:
        return self._int(value, 2, U16_MAX)

    def u32(self, value: int) -> Writer:
        return self._int(value, 4, U32_MAX)

    def u64(self, value: int) -> Writer:
        return self._int(value, 8, U64_MAX)

    def raw(self, value: bytes) -> Writer:
        """Bytes whose length the reader knows by other means."""
        self._parts.append(value)
        return self

    def fixed(self, value: bytes, size: int) -> Writer:
        if len(value) != size:
            raise ValueError(f"expected {size} bytes, got {len(value)}")
        self._parts.append(value)
        return self

    def hash(self, value: bytes) -> Writer:
        return self.fixed(value, HASH_BYTES)

    def lp(self, value: bytes) -> Writer:
        """Length-prefixed bytes: u32 length, then the bytes."""
        return self.u32(len(value)).raw(value)

    def text(self, value: str) -> Writer:
        return self.lp(value.encode())

    def done(self) -> bytes:
        return b"".join(self._parts)


def lp(value: bytes) -> bytes:
    """u32 big-endian length, then the bytes."""
    return len(value).to_bytes(4, "big") + value


class Reader:
    """Reads canonical fields from bytes that nobody vouches for."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def remaining_bytes(self) -> int:
        return len(self._data) - self._at

    def _take(self, size: int, what: str) -> bytes:
        end = self._at + size
        if end > len(self._data):
            raise DecodeError(Malformed.TRUNCATED, f"{what} needs {size} bytes, {self.remaining_bytes} are left")
        taken = self._data[self._at : end]
        self._at = end
        return taken

    def u8(self, what: str) -> int:
        return self._take(1, what)[0]

    def u16(self, what: str) -> int:
        return int.from_bytes(self._take(2, what), "big")

    def u32(self, what: str) -> int:
        return int.from_bytes(self._take(4, what), "big")

    def u64(self, what: str) -> int:
        return int.from_bytes(self._take(8, what), "big")

    def flag(self, what: str) -> bool:
        value = self.u8(what)
        if value > 1:
            raise DecodeError(Malformed.NOT_CANONICAL, f"{what} is {value}, a flag is 0 or 1")
        return value == 1

    def fixed(self, size: int, what: str) -> bytes:
        return self._take(size, what)

    def hash(self, what: str) -> Hash:
        return Hash(self._take(HASH_BYTES, what))

    def lp(self, what: str, max_bytes: int) -> bytes:
        size = self.u32(what)
        if size > max_bytes:
            raise DecodeError(Malformed.TOO_LARGE, f"{what} claims {size} bytes, the most is {max_bytes}")
        return self._take(size, what)

    def text(self, what: str, max_bytes: int) -> str:
        raw = self.lp(what, max_bytes)
        try:
            return raw.decode()
        except UnicodeDecodeError as fault:
            raise DecodeError(Malformed.NOT_UTF8, what) from fault

    def count(self, what: str, most: int, min_item_bytes: int) -> int:
        """A u32 count of items of at least `min_item_bytes` each: a count cannot promise more than follows."""
        number = self.u32(what)
        if number > most:
            raise DecodeError(Malformed.TOO_MANY, f"{what}: {number}, the most is {most}")
        if number * min_item_bytes > self.remaining_bytes:
            raise DecodeError(Malformed.TRUNCATED, f"{what}: {number} items cannot fit in {self.remaining_bytes} bytes")
        return number

    def end(self, what: str) -> None:
        if self.remaining_bytes:
            raise DecodeError(Malformed.TRAILING_BYTES, f"{self.remaining_bytes} bytes after {what}")


def decode_whole(data: bytes, what: str, max_bytes: int, read: Callable[[Reader], T]) -> T:
    """Decodes an object that must fill its bytes exactly; the size cap comes before anything is read."""
    if len(data) > max_bytes:
        raise DecodeError(Malformed.TOO_LARGE, f"{what} has {len(data)} bytes, the most is {max_bytes}")
    reader = Reader(data)
    value = read(reader)
    reader.end(what)
    return value
