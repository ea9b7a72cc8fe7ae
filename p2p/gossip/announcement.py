"""What is said about transactions, in bytes: announcements (on topics and as INV), questions for them, and answers.

    announcement, INV   u8 version = 1 ‖ u32 count ‖ ids[32] ‖ u32 riding ‖ riding × (u16 place ‖ lp(transaction))
    GET_DATA, NOT_FOUND u32 count ‖ ids[32]
    DATA                u32 count ‖ count × (id[32] ‖ lp(transaction))

Ids are the witness-inclusive ones, so that each variant of a signature is a thing of its own. All of these come from
peers: every decoder checks its counts before it reads, and raises `DecodeError` alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from p2p.gossip.topics import MAX_ANNOUNCED_IDS, MAX_RIDING_BYTES
from trellis.encoding import DecodeError, Malformed, Reader, Writer
from trellis.transaction import MAX_TX_BYTES
from trellis.types import HASH_BYTES

VERSION: Final = 1
MAX_ASKED_IDS: Final = 256
"""Of one question: 8 KiB that could cause 256 lookups and, credit permitting, 256 transactions."""
DATA_BYTES: Final = 256 << 10
"""An answer's frame is sent when it has this much: what the server holds in memory for an asker that reads slowly."""


@dataclass(frozen=True, slots=True)
class Announcement:
    ids: tuple[bytes, ...]
    riding: tuple[tuple[int, bytes], ...] = ()
    """(place of its id, transaction): small payloads that ride along."""


def _ids(writer: Writer, ids: Sequence[bytes]) -> Writer:
    return writer.u32(len(ids)).raw(b"".join(ids))


def _read_ids(reader: Reader, what: str, most: int) -> tuple[bytes, ...]:
    number = reader.count(what, most, HASH_BYTES)
    raw = reader.fixed(number * HASH_BYTES, what)
    ids = tuple([raw[at : at + HASH_BYTES] for at in range(0, len(raw), HASH_BYTES)])
    if not ids or len(set(ids)) != number:
        raise DecodeError(Malformed.INCONSISTENT, f"{what}: none, or one of them twice")
    return ids


def encode_announcement(announcement: Announcement) -> bytes:
    writer = _ids(Writer().u8(VERSION), announcement.ids).u32(len(announcement.riding))
    for place, transaction in announcement.riding:
        writer.u16(place).lp(transaction)
    return writer.done()


def decode_announcement(data: bytes, most: int = MAX_ANNOUNCED_IDS) -> Announcement:
    reader = Reader(data)
    version = reader.u8("version")
    if version != VERSION:
        raise DecodeError(Malformed.UNKNOWN_VERSION, f"announcement version {version}")
    ids = _read_ids(reader, "announced ids", most)
    riding = []
    left, next_place = MAX_RIDING_BYTES, 0
    for _ in range(reader.count("payloads", len(ids), 6)):
        place = reader.u16("place")
        if not next_place <= place < len(ids):
            raise DecodeError(Malformed.INCONSISTENT, "payloads out of order, or for no id")
        transaction = reader.lp("payload", min(left, MAX_TX_BYTES))
        left -= len(transaction)
        next_place = place + 1
        riding.append((place, transaction))
    reader.end("announcement")
    return Announcement(ids, tuple(riding))


def encode_ids(ids: Sequence[bytes]) -> bytes:
    return _ids(Writer(), ids).done()


def decode_ids(data: bytes) -> tuple[bytes, ...]:
    reader = Reader(data)
    ids = _read_ids(reader, "ids", MAX_ASKED_IDS)
    reader.end("ids")
    return ids


def encode_data(items: Sequence[tuple[bytes, bytes]]) -> bytes:
    parts = [len(items).to_bytes(4, "big")]
    for each, transaction in items:
        parts += (each, len(transaction).to_bytes(4, "big"), transaction)
    return b"".join(parts)


def decode_data(data: bytes) -> list[tuple[bytes, bytes]]:
    reader = Reader(data)
    number = reader.count("transactions", MAX_ASKED_IDS, HASH_BYTES + 5)
    items = [(reader.fixed(HASH_BYTES, "id"), reader.lp("transaction", MAX_TX_BYTES)) for _ in range(number)]
    reader.end("data")
    return items
