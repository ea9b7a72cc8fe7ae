"""HKDF-SHA3-256 and HMAC-SHA3-256, against the definitions written out over hashlib."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis.crypto.kdf import KEY_BYTES, expand, extract, hmac_sha3_256

BLOCK_BYTES = 136


def hmac_by_definition(key: bytes, data: bytes) -> bytes:
    """RFC 2104 over SHA3-256, whose block is its rate: 136 bytes."""
    if len(key) > BLOCK_BYTES:
        key = hashlib.sha3_256(key).digest()
    key = key.ljust(BLOCK_BYTES, b"\0")
    inner = hashlib.sha3_256(bytes(b ^ 0x36 for b in key) + data).digest()
    return hashlib.sha3_256(bytes(b ^ 0x5C for b in key) + inner).digest()


def expand_by_definition(prk: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 2.3."""
    out = block = b""
    counter = 1
    while len(out) < length:
        block = hmac_by_definition(prk, block + info + bytes([counter]))
        out += block
        counter += 1
    return out[:length]


@given(key=st.binary(max_size=300), data=st.binary(max_size=300))
def test_hmac_is_rfc_2104_over_sha3_256(key: bytes, data: bytes) -> None:
    assert hmac_sha3_256(key, data) == hmac_by_definition(key, data)


@given(salt=st.binary(max_size=200), ikm=st.binary(max_size=200))
def test_extract_is_an_hmac_keyed_with_the_salt(salt: bytes, ikm: bytes) -> None:
    assert extract(salt, ikm) == hmac_by_definition(salt, ikm)


@given(prk=st.binary(min_size=32, max_size=64), info=st.binary(max_size=100), length=st.integers(1, 200))
def test_expand_is_rfc_5869(prk: bytes, info: bytes, length: int) -> None:
    assert expand(prk, info, length) == expand_by_definition(prk, info, length)


@pytest.mark.parametrize(
    ("key_bytes", "message", "answer"),
    [
        (32, "keylen<blocklen", "4fe8e202c4f058e8dddc23d8c34e467343e23555e24fc2f025d598f558f67205"),
        (136, "keylen=blocklen", "68b94e2e538a9be4103bebb5aa016d47961d4d1aa906061313b557f8af2c3faa"),
        (168, "keylen>blocklen", "9bcf2c238e235c3ce88404e813bd2f3a97185ac6f238c63d6229a00b07974258"),
    ],
)
def test_hmac_gives_nists_example_answers(key_bytes: int, message: str, answer: str) -> None:
    """NIST CSRC, example values for HMAC-SHA3-256."""
    assert hmac_sha3_256(bytes(range(key_bytes)), f"Sample message for {message}".encode()).hex() == answer


def test_expand_gives_32_bytes_unless_told_and_longer_outputs_begin_with_shorter_ones() -> None:
    prk = extract(bytes(32), b"input keying material")
    assert len(expand(prk, b"info")) == KEY_BYTES
    assert expand(prk, b"info") == expand(prk, b"info", 64)[:32]
    assert expand(prk, b"info") != expand(prk, b"infp")


def test_expand_refuses_more_than_255_blocks() -> None:
    with pytest.raises(ValueError, match="derive"):
        expand(bytes(32), b"", 255 * 32 + 1)
