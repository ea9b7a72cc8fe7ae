"""What a block did beside executing transactions, as bytes: kept with it for whoever asks, never read by the rules.

    each event: tag u8 ‖ its fields, integers big-endian

Sums stand under the root (`state.results`); here stands every single payment, so this can be pruned.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import Final, assert_never

from state.scope import Event, Reward, RewardKind, SetChanged, Slash, StatementExpired, StatementPaid
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.types import Address, Height

MAX_EVENTS_BYTES: Final = 1 << 26
"""Our own rows: a bound for the codec's sake, far above what the largest set and block can cause."""


class _Tag(IntEnum):
    REWARD = 1
    SLASH = 2
    STATEMENT_PAID = 3
    STATEMENT_EXPIRED = 4
    SET_CHANGED = 5


def encode_events(events: Iterable[Event]) -> bytes:
    writer = Writer()
    for event in events:
        _write(writer, event)
    return writer.done()


def _write(writer: Writer, event: Event) -> None:
    match event:
        case Reward():
            writer.u8(_Tag.REWARD).hash(event.address).u64(event.units).u8(event.kind)
        case Slash():
            writer.u8(_Tag.SLASH).hash(event.address).u64(event.offence_height).u8(event.evidence_kind)
            writer.u16(event.permille).u64(event.units)
        case StatementPaid():
            writer.u8(_Tag.STATEMENT_PAID).hash(event.statement_id).hash(event.address).u64(event.units)
        case StatementExpired():
            writer.u8(_Tag.STATEMENT_EXPIRED).hash(event.statement_id).hash(event.poster).u64(event.units)
        case SetChanged():
            writer.u8(_Tag.SET_CHANGED).u64(event.first).hash(event.set_hash)
        case _:
            assert_never(event)


def decode_events(data: bytes) -> tuple[Event, ...]:
    def read(reader: Reader) -> tuple[Event, ...]:
        found: list[Event] = []
        while reader.remaining_bytes:
            found.append(_read(reader))
        return tuple(found)

    return decode_whole(data, "events", MAX_EVENTS_BYTES, read)


def _read(reader: Reader) -> Event:
    tag = reader.u8("event")
    match tag:
        case _Tag.REWARD:
            address, units, kind = Address(reader.hash("address")), reader.u64("units"), reader.u8("kind")
            if kind not in RewardKind.__members__.values():
                raise DecodeError(Malformed.UNKNOWN_KIND, f"a reward of kind {kind}")
            return Reward(address, units, RewardKind(kind))
        case _Tag.SLASH:
            address, height, offence = Address(reader.hash("address")), reader.u64("offence"), reader.u8("kind")
            return Slash(address, Height(height), offence, reader.u16("permille"), reader.u64("units"))
        case _Tag.STATEMENT_PAID:
            return StatementPaid(reader.hash("statement"), Address(reader.hash("address")), reader.u64("units"))
        case _Tag.STATEMENT_EXPIRED:
            return StatementExpired(reader.hash("statement"), Address(reader.hash("poster")), reader.u64("units"))
        case _Tag.SET_CHANGED:
            return SetChanged(Height(reader.u64("first")), reader.hash("set hash"))
        case _:
            raise DecodeError(Malformed.UNKNOWN_KIND, f"event {tag}")
