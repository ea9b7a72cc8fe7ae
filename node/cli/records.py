"""What a node answered, as records: every field by its name in the schema, in the forms that JSON and people read.

Integers stay integers, bytes become hexadecimal, enumerations their short names in lower case, absent messages null. A
node's texts lose their control characters: they must not steer a terminal.
"""

from __future__ import annotations

import re
from typing import Any

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.message import Message

MAX_TEXT_CHARACTERS = 4_096
"""Stops a node from filling a terminal with one field; explanations of evidence fit."""


def record_of(message: Message) -> dict[str, Any]:
    return {field.name: _value(message, field) for field in message.DESCRIPTOR.fields}


def _value(message: Message, field: Any) -> Any:
    value = getattr(message, field.name)
    if field.is_repeated:
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            return {safe_text(str(key)): safe_text(str(item)) for key, item in value.items()}
        return [_single(item, field) for item in value]
    if field.has_presence and not message.HasField(field.name):
        return None
    return _single(value, field)


def _single(value: Any, field: Any) -> Any:
    if isinstance(value, Message):
        return record_of(value)
    if field.enum_type is not None:
        return enum_name(field.enum_type, value)
    if isinstance(value, bytes):
        return value.hex()
    return safe_text(value) if isinstance(value, str) else value


def safe_text(text: str) -> str:
    """Without control characters, and no longer than anybody reads."""
    return "".join(character if character.isprintable() else " " for character in text[:MAX_TEXT_CHARACTERS])


def enum_name(kind: EnumDescriptor, number: int) -> str | None:
    """NODE_ROLE_VALIDATOR is "validator"; what nobody set is None; a later version's number is told as it is."""
    found = kind.values_by_number.get(number)
    if found is None:
        return f"unknown-{number}"
    prefix = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", kind.name).upper() + "_"
    short = found.name.removeprefix(prefix).lower().replace("_", "-")
    return None if short == "unspecified" else short


def enum_number(kind: EnumDescriptor, name: str | None) -> Any:
    """The reverse, for options whose choices came from `enum_names`. Stubs give each enumeration a type of its own."""
    if name is None:
        return 0
    return next(value.number for value in kind.values if enum_name(kind, value.number) == name)


def enum_names(kind: EnumDescriptor) -> list[str]:
    return [name for value in kind.values if (name := enum_name(kind, value.number)) is not None]
