"""The payloads of direct streams, byte for byte: what is written here is what other implementations read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from p2p.messages import (
    CertifiedBlock,
    CertifiedHeader,
    Credit,
    GetBlocks,
    GetChunk,
    GetHeaders,
    Goodbye,
    Hello,
    Status,
    decode_certified_block,
    decode_credit,
    decode_get_blocks,
    decode_get_chunk,
    decode_get_headers,
    decode_goodbye,
    decode_headers,
    decode_hello,
    decode_snapshots,
    decode_status,
    encode_goodbye,
    encode_headers,
    encode_snapshots,
)
from trellis.encoding import DecodeError
from trellis.header import HEADER_BYTES
from trellis.types import Hash, Height


@dataclass(frozen=True)
class Golden:
    name: str
    encoded: str
    value: object
    encode: Callable[[], bytes]
    decode: Callable[[bytes], object]


A, B, C = Hash(b"\xaa" * 32), Hash(b"\xbb" * 32), Hash(b"\xcc" * 32)
CREDIT = Credit(65_536, 16, last=True)
STATUS = Status(Height(258), A, Height(3), syncing=True)
STATUS_HEX = "0000000000000102" + "aa" * 32 + "0000000000000003" + "01"
HELLO = Hello(1, 2, B, ("tcp", "ws"), "trellis/0.1", STATUS)
HEADERS_ASKED = GetHeaders((A, B), 1_024)
HEADERS = (CertifiedHeader(b"\x11" * HEADER_BYTES, b"\x22\x33"), CertifiedHeader(b"\x44" * HEADER_BYTES, b""))
BLOCKS_ASKED = GetBlocks(Height(7), 256)
BLOCK = CertifiedBlock(b"a block", b"\x55\x66\x77")
CHUNK_ASKED = GetChunk(C, 9)

GOLDEN = (
    Golden("credit", "00010000" + "00000010" + "01", CREDIT, CREDIT.encode, decode_credit),
    Golden("goodbye", "10", Goodbye.LEAVING, lambda: encode_goodbye(Goodbye.LEAVING), decode_goodbye),
    Golden("status", STATUS_HEX, STATUS, STATUS.encode, decode_status),
    Golden(
        "hello",
        "0001" + "0002" + "bb" * 32 + "00000002" + "00000003746370" + "000000027773"
        "0000000b7472656c6c69732f302e31" + STATUS_HEX,
        HELLO,
        HELLO.encode,
        decode_hello,
    ),
    Golden(
        "header request",
        "00000400" + "00000002" + "aa" * 32 + "bb" * 32,
        HEADERS_ASKED,
        HEADERS_ASKED.encode,
        decode_get_headers,
    ),
    Golden(
        "headers",
        "00000002" + "11" * HEADER_BYTES + "00000002" + "2233" + "44" * HEADER_BYTES + "00000000",
        HEADERS,
        lambda: encode_headers(HEADERS),
        decode_headers,
    ),
    Golden("block request", "0000000000000007" + "00000100", BLOCKS_ASKED, BLOCKS_ASKED.encode, decode_get_blocks),
    Golden("certified block", "00000003" + "556677" + b"a block".hex(), BLOCK, BLOCK.encode, decode_certified_block),
    Golden(
        "snapshots",
        "00000002" + "00000001" + "88" + "00000002" + "9999",
        (b"\x88", b"\x99\x99"),
        lambda: encode_snapshots((b"\x88", b"\x99\x99")),
        decode_snapshots,
    ),
    Golden("chunk request", "cc" * 32 + "00000009", CHUNK_ASKED, CHUNK_ASKED.encode, decode_get_chunk),
)


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda golden: golden.name)
def test_a_message_is_these_bytes_and_these_bytes_are_the_message(golden: Golden) -> None:
    assert golden.encode().hex() == golden.encoded
    assert golden.decode(bytes.fromhex(golden.encoded)) == golden.value


@pytest.mark.parametrize(
    "golden", [each for each in GOLDEN if each.name != "certified block"], ids=lambda each: each.name
)
def test_a_message_with_a_byte_more_or_less_is_refused(golden: Golden) -> None:
    encoded = bytes.fromhex(golden.encoded)
    for wrong in (encoded + b"\0", encoded[:-1], b""):
        with pytest.raises(DecodeError):
            golden.decode(wrong)


@pytest.mark.parametrize(
    ("decode", "encoded"),
    [
        (decode_credit, "00010000" + "00000010" + "02"),
        (decode_goodbye, "63"),
        (decode_status, "0000000000000002" + "aa" * 32 + "0000000000000004" + "00"),
        (decode_hello, "0003" + "0002" + "bb" * 32 + "00000000" + "00000000" + STATUS_HEX),
        (decode_get_headers, "00000401" + "00000000"),
        (decode_get_headers, "00000000" + "00000000"),
        (decode_get_headers, "00000001" + "00000041" + "aa" * 32 * 65),
        (decode_headers, "ffffffff"),
        (decode_get_blocks, "0000000000000007" + "00000101"),
        (decode_get_blocks, "0000000000000007" + "00000000"),
        (decode_certified_block, "ffffffff"),
        (decode_snapshots, "00000011" + "00000000" * 17),
    ],
)
def test_what_no_honest_peer_says_is_refused(decode: Callable[[bytes], object], encoded: str) -> None:
    with pytest.raises(DecodeError):
        decode(bytes.fromhex(encoded))
