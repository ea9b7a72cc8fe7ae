"""Addresses and ids as people give them, with errors that say what they should look like."""

from __future__ import annotations

from node.cli.exits import CommandFailed, Exit
from trellis.address import parse_address
from trellis.encoding import DecodeError
from trellis.types import HASH_BYTES, Address, Hash


def parsed_address(text: str, what: str = "the address") -> Address:
    try:
        return parse_address(text)
    except DecodeError as fault:
        raise CommandFailed(
            Exit.USAGE, f"{what} {text[:100]!r}: {fault.detail}", "copy it again: it begins with trl1"
        ) from fault


def parsed_hash(text: str, what: str, hint: str) -> Hash:
    try:
        raw = bytes.fromhex(text)
    except ValueError:
        raw = b""
    if len(raw) != HASH_BYTES:
        raise CommandFailed(
            Exit.USAGE, f"{text[:100]!r} is no {what}: it has {2 * HASH_BYTES} hexadecimal digits", hint
        )
    return Hash(raw)
