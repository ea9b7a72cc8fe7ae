"""The two AEAD suites behind one interface."""

from __future__ import annotations

import copy
import pickle

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM, ChaCha20Poly1305
from hypothesis import given
from hypothesis import strategies as st

from trellis.crypto.aead import TAG_BYTES, Aead, AuthenticationError, Suite, nonce

KEY = bytes(range(32))
suites = st.sampled_from(list(Suite))


@given(suite=suites, counter=st.integers(0, 2**64 - 1), plaintext=st.binary(max_size=200), aad=st.binary(max_size=50))
def test_what_was_sealed_opens(suite: Suite, counter: int, plaintext: bytes, aad: bytes) -> None:
    cipher = Aead(suite, KEY)
    sealed = cipher.seal(counter, plaintext, aad)
    assert len(sealed) == len(plaintext) + TAG_BYTES
    assert cipher.open(counter, sealed, aad) == plaintext


@given(suite=suites, plaintext=st.binary(min_size=1, max_size=60), data=st.data())
def test_any_one_bit_change_of_the_record_is_refused(suite: Suite, plaintext: bytes, data: st.DataObject) -> None:
    cipher = Aead(suite, KEY)
    sealed = bytearray(cipher.seal(7, plaintext, b"aad"))
    bit = data.draw(st.integers(0, 8 * len(sealed) - 1))
    sealed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(AuthenticationError):
        cipher.open(7, bytes(sealed), b"aad")


@pytest.mark.parametrize("suite", list(Suite))
def test_another_counter_key_suite_or_associated_data_does_not_open(suite: Suite) -> None:
    sealed = Aead(suite, KEY).seal(7, b"text", b"aad")
    other = next(s for s in Suite if s is not suite)
    for cipher, counter, aad in (
        (Aead(suite, KEY), 8, b"aad"),
        (Aead(suite, KEY), 7, b"aae"),
        (Aead(suite, bytes(32)), 7, b"aad"),
        (Aead(other, KEY), 7, b"aad"),
    ):
        with pytest.raises(AuthenticationError):
            cipher.open(counter, sealed, aad)


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("size", [0, 1, 15])
def test_a_record_shorter_than_its_tag_is_refused_like_any_other(suite: Suite, size: int) -> None:
    with pytest.raises(AuthenticationError):
        Aead(suite, KEY).open(0, bytes(size), b"")


def test_the_nonce_is_four_zero_bytes_and_the_counter_big_endian() -> None:
    assert nonce(0) == bytes(12)
    assert nonce(0x0102030405060708) == bytes([0, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8])
    assert Aead(Suite.CHACHA20_POLY1305, KEY).seal(1, b"x", b"a") == ChaCha20Poly1305(KEY).encrypt(nonce(1), b"x", b"a")
    assert Aead(Suite.AES_256_GCM, KEY).seal(1, b"x", b"a") == AESGCM(KEY).encrypt(nonce(1), b"x", b"a")


@pytest.mark.parametrize("counter", [-1, 2**64])
def test_a_counter_that_wrapped_is_host_misuse(counter: int) -> None:
    with pytest.raises(ValueError, match="64 bits"):
        Aead(Suite.AES_256_GCM, KEY).seal(counter, b"", b"")


@pytest.mark.parametrize("suite", list(Suite))
@pytest.mark.parametrize("size", [0, 16, 31, 33])
def test_a_key_of_another_size_is_refused_without_being_shown(suite: Suite, size: int) -> None:
    with pytest.raises(ValueError, match="32 bytes") as caught:
        Aead(suite, b"\xab" * size)
    assert "xab" not in str(caught.value)


def test_the_wire_numbers_of_the_suites_are_the_protocols() -> None:
    assert {suite.name: suite.value for suite in Suite} == {"CHACHA20_POLY1305": 1, "AES_256_GCM": 2}


@pytest.mark.parametrize("suite", list(Suite))
def test_a_cipher_never_shows_pickles_or_copies_its_key(suite: Suite) -> None:
    cipher = Aead(suite, KEY)
    assert repr(cipher) == f"<aead {suite.name}>"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            leak(cipher)
