"""Payloads of the messages on direct streams: what is said, in bytes, with a cap on each count before it is read.

Blocks, headers' certificates and snapshot manifests are opaque here: whoever asked checks them, and does so before
anything is built on them. All of these come from peers, so all decoders raise `DecodeError` and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from trellis.certificate import MAX_CERTIFICATE_BYTES
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.header import HEADER_BYTES
from trellis.types import HASH_BYTES, Hash, Height
from trellis.wire import MAX_FRAME_PAYLOAD_BYTES

MAX_TRANSPORTS: Final = 8
MAX_NAME_BYTES: Final = 64
"""Of a transport's name, and of an agent's: text for people, not a place to store things."""
MAX_LOCATOR_HASHES: Final = 64
"""The tip and exponentially older blocks: 64 reach back 2^54 blocks. More would be a scan of our index at our cost."""
MAX_HEADERS: Final = 1_024
"""Of one answer: 0.5 MB of headers, and their certificates."""
MAX_BLOCKS: Final = 256
"""Heights asked for at once. The credit bounds the bytes; this bounds the disk reads one small request can cause."""
MAX_SNAPSHOTS: Final = 16
MAX_MANIFEST_BYTES: Final = 1 << 20


class Goodbye(IntEnum):
    """Why nothing more follows: the last frame of an answer, or the last word of a peer that leaves."""

    DONE = 0
    """The answer is complete."""
    LIMIT = 1
    """The answer has more; the credit is spent and no more was promised."""
    NOT_SERVED = 2
    """This node does not serve such requests."""
    BUSY = 3
    """Too many requests are being answered already: ask somebody else, or later."""
    MALFORMED = 4
    """The request's payload is not what its id says."""
    TOO_SLOW = 5
    """The answer took longer than the server gives one."""
    FAILED = 6
    """The server could not answer, through no fault of the asker's."""
    REFUSED = 7
    """The asker is throttled or banned."""
    LEAVING = 16
    """The node stops."""
    INCOMPATIBLE = 17
    """There is no version that both speak."""


@dataclass(frozen=True, slots=True)
class Credit:
    """What the server may send from now on, beyond what it was granted before."""

    size_bytes: int
    """Of payloads."""
    frames: int
    last: bool
    """Nothing more will be granted: end the answer when this does not suffice."""

    def encode(self) -> bytes:
        return Writer().u32(self.size_bytes).u32(self.frames).u8(self.last).done()


def decode_credit(data: bytes) -> Credit:
    def read(reader: Reader) -> Credit:
        return Credit(reader.u32("bytes"), reader.u32("frames"), reader.flag("last"))

    return decode_whole(data, "credit", 9, read)


def encode_goodbye(reason: Goodbye) -> bytes:
    return bytes([reason])


def decode_goodbye(data: bytes) -> Goodbye:
    number = decode_whole(data, "goodbye", 1, lambda reader: reader.u8("reason"))
    if number not in Goodbye.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"goodbye {number}")
    return Goodbye(number)


@dataclass(frozen=True, slots=True)
class Status:
    """Where a node stands. A hint: it proves nothing, and nobody is punished for a stale one."""

    height: Height
    tip: Hash
    oldest: Height
    """The oldest block whose body it serves; pruned ones are older."""
    syncing: bool

    def write(self, writer: Writer) -> Writer:
        return writer.u64(self.height).hash(self.tip).u64(self.oldest).u8(self.syncing)

    def encode(self) -> bytes:
        return self.write(Writer()).done()


def _read_status(reader: Reader) -> Status:
    status = Status(
        Height(reader.u64("height")), reader.hash("tip"), Height(reader.u64("oldest")), reader.flag("syncing")
    )
    if status.oldest > status.height + 1:
        raise DecodeError(Malformed.INCONSISTENT, f"oldest block {status.oldest} above height {status.height}")
    return status


def decode_status(data: bytes) -> Status:
    return decode_whole(data, "status", 8 + HASH_BYTES + 8 + 1, _read_status)


@dataclass(frozen=True, slots=True)
class Hello:
    """The first thing two connected nodes say to each other."""

    oldest_version: int
    newest_version: int
    """Of the messages on direct streams; the newest that both speak is used."""
    genesis_hash: Hash
    transports: tuple[str, ...]
    agent: str
    status: Status

    def encode(self) -> bytes:
        writer = Writer().u16(self.oldest_version).u16(self.newest_version).hash(self.genesis_hash)
        writer.u32(len(self.transports))
        for name in self.transports:
            writer.text(name)
        return self.status.write(writer.text(self.agent)).done()


MAX_HELLO_BYTES: Final = 4 + HASH_BYTES + 4 + (MAX_TRANSPORTS + 1) * (4 + MAX_NAME_BYTES) + 8 + HASH_BYTES + 8 + 1


def decode_hello(data: bytes) -> Hello:
    def read(reader: Reader) -> Hello:
        oldest, newest, genesis = reader.u16("oldest version"), reader.u16("newest version"), reader.hash("genesis")
        if oldest > newest:
            raise DecodeError(Malformed.INCONSISTENT, f"versions {oldest} to {newest}")
        names = reader.count("transports", MAX_TRANSPORTS, 4)
        transports = tuple(reader.text("transport", MAX_NAME_BYTES) for _ in range(names))
        return Hello(oldest, newest, genesis, transports, reader.text("agent", MAX_NAME_BYTES), _read_status(reader))

    return decode_whole(data, "hello", MAX_HELLO_BYTES, read)


@dataclass(frozen=True, slots=True)
class GetHeaders:
    """Headers after the newest block of the locator that the server has in its chain, ascending."""

    locator: tuple[Hash, ...]
    """Newest first."""
    count: int

    def encode(self) -> bytes:
        return _write_hashes(Writer().u32(self.count), self.locator).done()


def decode_get_headers(data: bytes) -> GetHeaders:
    def read(reader: Reader) -> GetHeaders:
        count = reader.u32("count")
        if not 1 <= count <= MAX_HEADERS:
            raise DecodeError(Malformed.OUT_OF_RANGE, f"{count} headers, the most is {MAX_HEADERS}")
        return GetHeaders(_read_hashes(reader, "locator", MAX_LOCATOR_HASHES), count)

    return decode_whole(data, "header request", 8 + MAX_LOCATOR_HASHES * HASH_BYTES, read)


@dataclass(frozen=True, slots=True)
class CertifiedHeader:
    """A header's bytes and the certificate of its block, each as it was hashed or signed."""

    header: bytes
    certificate: bytes


def encode_headers(headers: tuple[CertifiedHeader, ...]) -> bytes:
    writer = Writer().u32(len(headers))
    for each in headers:
        writer.fixed(each.header, HEADER_BYTES).lp(each.certificate)
    return writer.done()


def decode_headers(data: bytes) -> tuple[CertifiedHeader, ...]:
    def read(reader: Reader) -> tuple[CertifiedHeader, ...]:
        number = reader.count("headers", MAX_HEADERS, HEADER_BYTES + 4)
        return tuple(
            CertifiedHeader(reader.fixed(HEADER_BYTES, "header"), reader.lp("certificate", MAX_CERTIFICATE_BYTES))
            for _ in range(number)
        )

    return decode_whole(data, "headers", MAX_FRAME_PAYLOAD_BYTES, read)


@dataclass(frozen=True, slots=True)
class GetBlocks:
    """Blocks by height, ascending: one BLOCKS frame each, as many as the credit allows."""

    first: Height
    count: int

    def encode(self) -> bytes:
        return Writer().u64(self.first).u32(self.count).done()


def decode_get_blocks(data: bytes) -> GetBlocks:
    def read(reader: Reader) -> GetBlocks:
        first, count = Height(reader.u64("first height")), reader.u32("count")
        if not 1 <= count <= MAX_BLOCKS:
            raise DecodeError(Malformed.OUT_OF_RANGE, f"{count} blocks, the most is {MAX_BLOCKS}")
        return GetBlocks(first, count)

    return decode_whole(data, "block request", 12, read)


@dataclass(frozen=True, slots=True)
class CertifiedBlock:
    """The payload of BLOCKS: one encoded block and its certificate."""

    block: bytes
    certificate: bytes

    def encode(self) -> bytes:
        return Writer().lp(self.certificate).raw(self.block).done()


def decode_certified_block(data: bytes) -> CertifiedBlock:
    def read(reader: Reader) -> CertifiedBlock:
        certificate = reader.lp("certificate", MAX_CERTIFICATE_BYTES)
        return CertifiedBlock(reader.fixed(reader.remaining_bytes, "block"), certificate)

    return decode_whole(data, "certified block", MAX_FRAME_PAYLOAD_BYTES, read)


def encode_snapshots(manifests: tuple[bytes, ...]) -> bytes:
    """The payload of SNAPSHOTS, newest first; GET_SNAPSHOTS has none."""
    writer = Writer().u32(len(manifests))
    for manifest in manifests:
        writer.lp(manifest)
    return writer.done()


def decode_snapshots(data: bytes) -> tuple[bytes, ...]:
    def read(reader: Reader) -> tuple[bytes, ...]:
        number = reader.count("snapshots", MAX_SNAPSHOTS, 4)
        return tuple(reader.lp("manifest", MAX_MANIFEST_BYTES) for _ in range(number))

    return decode_whole(data, "snapshots", MAX_FRAME_PAYLOAD_BYTES, read)


@dataclass(frozen=True, slots=True)
class GetChunk:
    """One chunk of a snapshot, by the certified root it belongs to; CHUNK's payload is the chunk."""

    state_root: Hash
    index: int

    def encode(self) -> bytes:
        return Writer().hash(self.state_root).u32(self.index).done()


def decode_get_chunk(data: bytes) -> GetChunk:
    def read(reader: Reader) -> GetChunk:
        return GetChunk(reader.hash("state root"), reader.u32("index"))

    return decode_whole(data, "chunk request", HASH_BYTES + 4, read)


def _write_hashes(writer: Writer, hashes: tuple[Hash, ...]) -> Writer:
    writer.u32(len(hashes))
    for each in hashes:
        writer.hash(each)
    return writer


def _read_hashes(reader: Reader, what: str, most: int) -> tuple[Hash, ...]:
    return tuple(reader.hash(what) for _ in range(reader.count(what, most, HASH_BYTES)))
