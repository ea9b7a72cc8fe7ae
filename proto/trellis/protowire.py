"""A strict codec for the protobuf wire form, for messages whose bytes consensus must agree on.

The protobuf runtime accepts many encodings of one message; consensus accepts one. Fields ascend, none is unknown or
given twice, varints are minimal, no default is encoded, messages nest at most `MAX_DEPTH` deep. Bytes that this decoder
accepts are exactly those that the protobuf runtime would write for the same message.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto
from functools import cached_property
from typing import Final, cast

from trellis.encoding import DecodeError, Malformed
from trellis.types import U32_MAX, U64_MAX

MAX_DEPTH: Final = 4
_VARINT: Final = 0
_LENGTH_DELIMITED: Final = 2


class FieldType(Enum):
    UINT32 = auto()
    UINT64 = auto()
    BYTES = auto()
    STRING = auto()
    REPEATED_BYTES = auto()
    MESSAGE = auto()
    """Presence counts: an empty message is not a default."""
    REPEATED_MESSAGE = auto()


@dataclass(frozen=True, slots=True)
class Field:
    number: int
    name: str
    type: FieldType
    message: Message | None = None
    most: int = 0
    """Of a repeated field: more items are refused as they are read. An item of two bytes costs ninety in memory."""
    repeated: bool = dataclasses.field(init=False)
    largest: int = dataclasses.field(init=False)
    """Of an integer; zero for everything else."""
    plain: bool = dataclasses.field(init=False)
    """Bytes, once."""

    def __post_init__(self) -> None:
        # Told once, not at every field of every transaction.
        largest = {FieldType.UINT32: U32_MAX, FieldType.UINT64: U64_MAX}.get(self.type, 0)
        object.__setattr__(self, "repeated", self.type in (FieldType.REPEATED_BYTES, FieldType.REPEATED_MESSAGE))
        object.__setattr__(self, "largest", largest)
        object.__setattr__(self, "plain", self.type is FieldType.BYTES)


@dataclass(frozen=True)
class Message:
    """A message's fields, ascending by number."""

    name: str
    fields: tuple[Field, ...]

    @cached_property
    def by_tag(self) -> dict[int, Field]:
        return {field.number << 3 | _wire_type(field.type): field for field in self.fields}

    @cached_property
    def numbers(self) -> frozenset[int]:
        return frozenset(field.number for field in self.fields)


Value = int | bytes | str | list[bytes] | list["Values"] | dict[str, "Value"]
Values = dict[str, "Value"]


def _wire_type(kind: FieldType) -> int:
    return _VARINT if kind in (FieldType.UINT32, FieldType.UINT64) else _LENGTH_DELIMITED


def _read_varint(data: bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end:
            raise DecodeError(Malformed.TRUNCATED, "a varint runs past the end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            break
        shift += 7
        if shift > 63:
            raise DecodeError(Malformed.OVERLONG_VARINT, "a varint has more than ten bytes")
    if byte == 0 and shift:
        raise DecodeError(Malformed.OVERLONG_VARINT, "a varint has leading zero groups")
    if value > U64_MAX:
        raise DecodeError(Malformed.OUT_OF_RANGE, "a varint does not fit in 64 bits")
    return value, at


def decode(message: Message, data: bytes) -> Values:
    """Fields that are absent are absent from the answer. The caller has capped the size of `data`."""
    return _decode(message, data, 0, len(data), 1)


def _decode(message: Message, data: bytes, at: int, end: int, depth: int) -> Values:
    if depth > MAX_DEPTH:
        raise DecodeError(Malformed.TOO_MANY, f"messages nest more than {MAX_DEPTH} deep")
    values: Values = {}
    by_tag, previous = message.by_tag, 0
    while at < end:
        # One byte is nearly always all there is to a tag or a length, and then it is minimal: a call each would double
        # what reading a transfer costs.
        tag = data[at]
        if tag < 0x80:
            at += 1
        else:
            tag, at = _read_varint(data, at, end)
        field = by_tag.get(tag)
        if field is None:
            kind = Malformed.WRONG_WIRE_TYPE if tag >> 3 in message.numbers else Malformed.UNKNOWN_FIELD
            raise DecodeError(kind, f"field {tag >> 3} with wire type {tag & 7} in {message.name}")
        if field.number <= previous:
            if field.number < previous:
                raise DecodeError(Malformed.FIELD_ORDER, f"{message.name}.{field.name} after field {previous}")
            if not field.repeated:
                raise DecodeError(Malformed.DUPLICATE_FIELD, f"{message.name}.{field.name}")
        previous = field.number
        if at < end and data[at] < 0x80:
            number = data[at]
            at += 1
        else:
            number, at = _read_varint(data, at, end)
        if field.largest:
            if number == 0:
                raise DecodeError(Malformed.ENCODED_DEFAULT, f"{message.name}.{field.name} is an encoded zero")
            if number > field.largest:
                raise DecodeError(Malformed.OUT_OF_RANGE, f"{message.name}.{field.name} does not fit in 32 bits")
            values[field.name] = number
            continue
        stop = at + number
        if stop > end:
            raise DecodeError(Malformed.TRUNCATED, f"{message.name}.{field.name} claims {number} bytes")
        if field.plain and at < stop:
            values[field.name] = data[at:stop]
        else:
            _take_delimited(message, field, data, at, stop, depth, values)
        at = stop
    return values


def _take_delimited(
    message: Message, field: Field, data: bytes, at: int, stop: int, depth: int, values: Values
) -> None:
    if field.type is FieldType.MESSAGE and field.message is not None:
        values[field.name] = _decode(field.message, data, at, stop, depth + 1)
        return
    if field.type in (FieldType.REPEATED_BYTES, FieldType.REPEATED_MESSAGE):
        items = cast(list[bytes | Values], values.setdefault(field.name, []))
        if len(items) >= field.most:
            raise DecodeError(Malformed.TOO_MANY, f"{message.name}.{field.name} has more than {field.most} items")
        items.append(data[at:stop] if field.message is None else _decode(field.message, data, at, stop, depth + 1))
        return
    if at == stop:
        raise DecodeError(Malformed.ENCODED_DEFAULT, f"{message.name}.{field.name} is encoded empty")
    raw = data[at:stop]
    if field.type is FieldType.BYTES:
        values[field.name] = raw
        return
    try:
        values[field.name] = raw.decode()
    except UnicodeDecodeError as fault:
        raise DecodeError(Malformed.NOT_UTF8, f"{message.name}.{field.name}") from fault


def varint(value: int) -> bytes:
    if value < 0x80:
        return value.to_bytes(1, "big")
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode(message: Message, values: Mapping[str, Value]) -> bytes:
    """The canonical bytes; zeros and empty strings are left out."""
    known = {field.name for field in message.fields}
    if not known.issuperset(values):
        raise ValueError(f"{message.name} has no fields {sorted(set(values) - known)}")
    out: list[bytes] = []
    for field in message.fields:
        value = values.get(field.name)
        if value is None:
            continue
        tag = varint(field.number << 3 | _wire_type(field.type))
        if isinstance(value, int):
            if not 0 <= value <= (U32_MAX if field.type is FieldType.UINT32 else U64_MAX):
                raise ValueError(f"{message.name}.{field.name} = {value} is out of range")
            if value:
                out += (tag, varint(value))
            continue
        for raw in _raw_items(field, value):
            out += (tag, varint(len(raw)), raw)
    return b"".join(out)


def _raw_items(field: Field, value: bytes | str | list[bytes] | list[Values] | Values) -> list[bytes]:
    if isinstance(value, bytes):
        return [value] if value else []
    if isinstance(value, str):
        return [value.encode()] if value else []
    inner = [value] if isinstance(value, dict) else value
    raw: list[bytes] = []
    for item in inner:
        if isinstance(item, bytes):
            raw.append(item)
        elif field.message is not None:
            raw.append(encode(field.message, item))
        else:
            raise ValueError(f"field {field.name} takes no messages")
    return raw
