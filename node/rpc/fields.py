"""Request fields in the forms that the schema asks for; anything else is INVALID_FIELD with the field's name."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from node.rpc.errors import Reason, Refused, invalid
from trellis.address import format_address, parse_address
from trellis.encoding import DecodeError
from trellis.peerid import parse_peer_id
from trellis.types import HASH_BYTES, Address, Hash, Height, PeerId

MAX_ADDRESSES: Final = 100
_HEX: Final = frozenset("0123456789abcdef")

address_text = lru_cache(maxsize=16_384)(format_address)
"""bech32m costs some 50 µs in Python, and the same addresses come again and again."""


def hash_field(text: str, field: str) -> Hash:
    if len(text) != 2 * HASH_BYTES or not _HEX.issuperset(text):
        raise invalid(field, "64 lower-case hex digits are wanted")
    return Hash(bytes.fromhex(text))


def address_field(text: str, field: str) -> Address:
    try:
        return parse_address(text)
    except DecodeError as fault:
        raise invalid(field, fault.detail) from fault


def peer_field(text: str, field: str) -> PeerId:
    try:
        return parse_peer_id(text)
    except DecodeError as fault:
        raise invalid(field, fault.detail) from fault


def bounded(value: int, low: int, high: int, field: str) -> int:
    if not low <= value <= high:
        raise invalid(field, f"{value} is not from {low} to {high}")
    return value


def require_height(wanted: int, latest: int) -> Height:
    """For heights that this node has not reached."""
    if wanted > latest:
        metadata = {"latest_height": str(latest)}
        raise Refused(Reason.HEIGHT_FUTURE, f"height {wanted} is above this node's latest, {latest}", metadata)
    return Height(wanted)


def pruned(wanted: int, lowest: int) -> Refused:
    metadata = {"lowest_height": str(lowest)}
    return Refused(
        Reason.HEIGHT_PRUNED, f"height {wanted} is pruned here, the lowest kept is {lowest}: ask another node", metadata
    )
