"""The hybrid KEM: both halves count, malformed shares are refused with a reason, transcripts can be replayed."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis.crypto.kem import (
    CIPHERTEXT_BYTES,
    EK_BYTES,
    SHARED_BYTES,
    X25519_BYTES,
    DecapsulationKey,
    Encapsulation,
    HybridKem,
    KemError,
    KemFault,
    KemKey,
    KemProvider,
    encapsulate,
)

KEY = KemKey.from_seed(bytes(range(64)), bytes(range(32)))
Q = 3_329


def test_both_sides_share_sixty_four_bytes() -> None:
    key = KemKey.generate()
    answer = encapsulate(key.ek, key.x_public)
    assert (len(key.ek), len(key.x_public)) == (EK_BYTES, X25519_BYTES)
    assert (len(answer.ciphertext), len(answer.x_public), len(answer.shared)) == (CIPHERTEXT_BYTES, 32, SHARED_BYTES)
    assert key.decapsulate(answer.ciphertext, answer.x_public) == answer.shared


def test_every_encapsulation_is_fresh_in_both_halves() -> None:
    first, second = (encapsulate(KEY.ek, KEY.x_public) for _ in range(2))
    assert first.x_public != second.x_public
    assert first.ciphertext != second.ciphertext
    assert first.shared[:32] != second.shared[:32]
    assert first.shared[32:] != second.shared[32:]


def test_a_changed_ciphertext_changes_the_first_half_and_a_changed_share_the_second() -> None:
    answer = encapsulate(KEY.ek, KEY.x_public)
    bent = bytes([answer.ciphertext[0] ^ 1]) + answer.ciphertext[1:]
    shared = KEY.decapsulate(bent, answer.x_public)
    assert shared[:32] != answer.shared[:32]
    assert shared[32:] == answer.shared[32:]
    shared = KEY.decapsulate(answer.ciphertext, KemKey.generate().x_public)
    assert shared[:32] == answer.shared[:32]
    assert shared[32:] != answer.shared[32:]


def test_a_key_from_a_seed_is_the_same_key_every_time() -> None:
    again = KemKey.from_seed(bytes(range(64)), bytes(range(32)))
    answer = encapsulate(KEY.ek, KEY.x_public)
    assert (again.ek, again.x_public) == (KEY.ek, KEY.x_public)
    assert again.decapsulate(answer.ciphertext, answer.x_public) == answer.shared


@pytest.mark.parametrize("position", [0, 1, 255, 256, 767])
@pytest.mark.parametrize("value", [Q, Q + 1, 4_095])
def test_an_encapsulation_key_with_an_unreduced_coefficient_is_refused(position: int, value: int) -> None:
    """FIPS 203 7.2, the modulus check: 12-bit coefficients must be below q."""
    bits = int.from_bytes(KEY.ek[:1_152], "little")
    shift = 12 * position
    bits = bits & ~(0xFFF << shift) | value << shift
    with pytest.raises(KemError) as caught:
        encapsulate(bits.to_bytes(1_152, "little") + KEY.ek[1_152:], KEY.x_public)
    assert caught.value.reason is KemFault.MALFORMED_KEY


@pytest.mark.parametrize("position", [0, 767])
def test_the_largest_reduced_coefficient_is_accepted(position: int) -> None:
    bits = int.from_bytes(KEY.ek[:1_152], "little")
    bits = bits & ~(0xFFF << 12 * position) | (Q - 1) << 12 * position
    encapsulate(bits.to_bytes(1_152, "little") + KEY.ek[1_152:], KEY.x_public)


@pytest.mark.parametrize("share", [bytes(32), b"\x01" + bytes(31)], ids=["zero", "one"])
def test_a_share_of_small_order_is_refused_on_both_sides(share: bytes) -> None:
    answer = encapsulate(KEY.ek, KEY.x_public)
    for attempt in (lambda: encapsulate(KEY.ek, share), lambda: KEY.decapsulate(answer.ciphertext, share)):
        with pytest.raises(KemError) as caught:
            attempt()
        assert caught.value.reason is KemFault.SMALL_ORDER


@given(ek=st.binary(max_size=40), share=st.binary(max_size=40).filter(lambda b: len(b) != 32))
def test_shares_of_a_wrong_size_are_refused_with_that_reason(ek: bytes, share: bytes) -> None:
    answer = Encapsulation(bytes(CIPHERTEXT_BYTES), bytes(32), b"")
    for attempt in (
        lambda: encapsulate(ek, KEY.x_public),
        lambda: encapsulate(KEY.ek + b"\0", KEY.x_public),
        lambda: encapsulate(KEY.ek, share),
        lambda: KEY.decapsulate(ek, KEY.x_public),
        lambda: KEY.decapsulate(answer.ciphertext, share),
    ):
        with pytest.raises(KemError) as caught:
            attempt()
        assert caught.value.reason is KemFault.WRONG_SIZE


@given(st.binary(min_size=EK_BYTES, max_size=EK_BYTES), st.binary(min_size=32, max_size=32))
def test_any_well_sized_bytes_give_a_secret_or_a_kem_error(ek: bytes, share: bytes) -> None:
    try:
        answer = encapsulate(ek, share)
    except KemError as fault:
        assert fault.reason in (KemFault.MALFORMED_KEY, KemFault.SMALL_ORDER)  # noqa: PT017 - either outcome is right
    else:
        assert len(answer.shared) == SHARED_BYTES


def test_a_recorded_provider_replays_what_was_recorded() -> None:
    recorded = encapsulate(KEY.ek, KEY.x_public)

    class Recorded:
        def generate(self) -> DecapsulationKey:
            return KEY

        def encapsulate(self, ek: bytes, x_peer: bytes) -> Encapsulation:
            assert (ek, x_peer) == (KEY.ek, KEY.x_public)
            return recorded

    def run(provider: KemProvider) -> tuple[bytes, bytes]:
        key = provider.generate()
        answer = provider.encapsulate(key.ek, key.x_public)
        return answer.shared, key.decapsulate(answer.ciphertext, answer.x_public)

    assert run(Recorded()) == (recorded.shared, recorded.shared)
    ours, theirs = run(HybridKem())
    assert ours == theirs != recorded.shared


def test_seeds_of_a_wrong_size_are_host_misuse() -> None:
    for seed, secret in ((bytes(63), bytes(32)), (bytes(64), bytes(31))):
        with pytest.raises(ValueError, match="64 bytes"):
            KemKey.from_seed(seed, secret)


def test_secrets_are_never_shown_pickled_or_copied() -> None:
    answer = encapsulate(KEY.ek, KEY.x_public)
    assert "shared" not in repr(answer)
    assert answer.shared.hex() not in repr(answer)
    assert repr(KEY) == f"<ephemeral kem key {KEY.x_public[:8].hex()}…>"
    for thing in (answer, KEY):
        for leak in (pickle.dumps, copy.copy, copy.deepcopy):
            with pytest.raises(TypeError, match="cannot be pickled"):
                leak(thing)
