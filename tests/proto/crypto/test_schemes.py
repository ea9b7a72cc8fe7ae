"""Signature schemes: interoperation of two libraries, verdicts on strangers' bytes, and secrets that stay inside."""

from __future__ import annotations

import copy
import pickle
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.crypto.kit import CONTEXT, slh_key, slh_signature, spoiled, valid_check
from tests.signing import real_signer
from trellis.constants import Context
from trellis.crypto import schemes
from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck
from trellis.crypto.schemes import SCHEMES, SigningKey, proves_itself, scheme, verify_all, verify_one

ML_DSA = [AlgId.ML_DSA_65, AlgId.ML_DSA_87]
CONTEXTS = [b"", b"c", b"trellis/vote/1", bytes(253)]
"""pqcrypto takes 253 bytes at the most, FIPS 204 allows 255: the protocol's longest has 18."""


def oracle(alg: AlgId) -> ModuleType:
    """The other implementation."""
    from pqcrypto.sign import ml_dsa_65, ml_dsa_87

    module: ModuleType = {AlgId.ML_DSA_65: ml_dsa_65, AlgId.ML_DSA_87: ml_dsa_87}[alg]
    return module


def oracle_accepts(alg: AlgId, public_key: bytes, message: bytes, signature: bytes, context: bytes) -> bool:
    try:
        oracle(alg).verify(public_key, message, signature, context)
    except ValueError:
        return False
    return True


def any_key(alg: AlgId) -> SigningKey:
    return slh_key() if alg is AlgId.SLH_DSA_SHAKE_128S else real_signer(1, alg)


@pytest.mark.parametrize("alg", ML_DSA)
@pytest.mark.parametrize("context", CONTEXTS)
def test_what_cryptography_signs_pqcrypto_verifies(alg: AlgId, context: bytes) -> None:
    key = real_signer(7, alg)
    signature = key.sign(b"a message", context)
    assert oracle_accepts(alg, key.public_key, b"a message", signature, context)
    assert not oracle_accepts(alg, key.public_key, b"a message", signature, context[:-1] + b"other")
    assert not oracle_accepts(alg, key.public_key, b"another", signature, context)


@pytest.mark.parametrize("alg", ML_DSA)
@pytest.mark.parametrize("context", CONTEXTS)
def test_what_pqcrypto_signs_cryptography_verifies(alg: AlgId, context: bytes) -> None:
    public_key, secret_key = oracle(alg).keygen()
    signature = oracle(alg).sign(secret_key, b"a message", context)
    verify = scheme(alg).verify
    assert verify(public_key, b"a message", signature, context)
    assert not verify(public_key, b"a message", signature, context[:-1] + b"other")
    assert not verify(public_key, b"another", signature, context)


@pytest.mark.parametrize("alg", ML_DSA)
def test_a_context_has_at_most_255_bytes(alg: AlgId) -> None:
    key = real_signer(7, alg)
    longest = bytes(255)
    signature = key.sign(b"m", longest)
    assert scheme(alg).verify(key.public_key, b"m", signature, longest)
    assert not scheme(alg).verify(key.public_key, b"m", signature, longest + b"\0")
    with pytest.raises(ValueError, match="at most 255"):
        key.sign(b"m", longest + b"\0")


def test_every_context_of_the_protocol_is_short_enough_for_both_libraries() -> None:
    assert max(len(context.value) for context in Context) <= 253


@pytest.mark.parametrize("alg", ML_DSA)
def test_both_libraries_refuse_the_same_one_byte_changes(alg: AlgId) -> None:
    key = real_signer(3, alg)
    signature = key.sign(b"m", CONTEXT)
    for at in range(0, len(signature), 97):
        changed = signature[:at] + bytes([signature[at] ^ 0x80]) + signature[at + 1 :]
        assert not scheme(alg).verify(key.public_key, b"m", changed, CONTEXT)
        assert not oracle_accepts(alg, key.public_key, b"m", changed, CONTEXT)


@pytest.mark.parametrize("alg", list(SIZES))
def test_a_key_made_from_its_secret_is_the_same_key(alg: AlgId) -> None:
    key = any_key(alg)
    again = scheme(alg).from_secret(key.secret())
    assert (again.alg_id, again.public_key, again.secret()) == (alg, key.public_key, key.secret())
    assert len(key.secret()) == SIZES[alg].secret_bytes
    assert len(key.public_key) == SIZES[alg].public_key_bytes


@pytest.mark.parametrize("alg", ML_DSA)
def test_a_generated_key_differs_from_the_last_one_and_signs(alg: AlgId) -> None:
    key, other = scheme(alg).generate(), scheme(alg).generate()
    assert key.public_key != other.public_key
    assert proves_itself(key)


def test_signatures_have_the_size_of_their_algorithm_and_are_hedged() -> None:
    for alg in ML_DSA:
        first, second = (real_signer(1, alg).sign(b"m", CONTEXT) for _ in range(2))
        assert len(first) == len(second) == SIZES[alg].signature_bytes
        assert first != second
    assert len(slh_signature(b"m")) == SIZES[AlgId.SLH_DSA_SHAKE_128S].signature_bytes


def test_slh_dsa_signatures_are_bound_to_message_context_and_key() -> None:
    check = valid_check(0, AlgId.SLH_DSA_SHAKE_128S)
    assert verify_one(check)
    assert not verify_one(check._replace(message=b"n"))
    assert not verify_one(check._replace(context=b"trellis/cert/1"))
    assert not verify_one(check._replace(public_key=bytes(32)))
    assert not verify_one(spoiled(check))


@pytest.mark.parametrize("alg", list(SIZES))
def test_a_secret_of_the_wrong_size_is_refused_without_being_shown(alg: AlgId) -> None:
    for size in (0, SIZES[alg].secret_bytes - 1, SIZES[alg].secret_bytes + 1):
        with pytest.raises(ValueError, match="has") as caught:
            scheme(alg).from_secret(b"\xab" * size)
        assert "abab" not in str(caught.value)
        assert "\\xab" not in str(caught.value)


def test_swapped_halves_of_an_slh_dsa_secret_do_not_prove_themselves() -> None:
    secret = slh_key().secret()
    assert not proves_itself(scheme(AlgId.SLH_DSA_SHAKE_128S).from_secret(secret[32:] + secret[:32]))
    assert proves_itself(slh_key())


@pytest.mark.parametrize("number", [0, 4, 16, 255, 256, 2**70, -1])
def test_a_number_without_a_scheme_of_its_own_never_verifies(number: int) -> None:
    assert not verify_one(valid_check(1)._replace(alg_id=number))


def test_asking_for_the_scheme_of_a_multi_signature_is_host_misuse() -> None:
    with pytest.raises(ValueError, match="single-key"):
        scheme(AlgId.MULTISIG)


@given(
    alg=st.sampled_from([*AlgId, 0, 99]),
    public_key=st.binary(max_size=64) | st.sampled_from([bytes(s.public_key_bytes) for s in SIZES.values()]),
    message=st.binary(max_size=64),
    signature=st.binary(max_size=64) | st.sampled_from([bytes(s.signature_bytes) for s in SIZES.values()]),
    context=st.binary(max_size=300),
)
def test_verify_never_raises_on_a_strangers_bytes(
    alg: int, public_key: bytes, message: bytes, signature: bytes, context: bytes
) -> None:
    assert verify_one(SignatureCheck(alg, public_key, message, signature, context)) is False


@given(field=st.sampled_from(["public_key", "message", "signature", "context"]), data=st.data())
def test_any_one_bit_change_is_refused(field: str, data: st.DataObject) -> None:
    check = valid_check(2)
    value = bytearray(getattr(check, field))
    bit = data.draw(st.integers(0, 8 * len(value) - 1))
    value[bit // 8] ^= 1 << bit % 8
    changes: dict[str, Any] = {field: bytes(value)}
    assert not verify_one(check._replace(**changes))


def test_verdicts_come_in_the_order_of_the_checks() -> None:
    good = [valid_check(n) for n in range(4)]
    assert verify_all([good[0], spoiled(good[1]), good[2], spoiled(good[3])]) == [True, False, True, False]
    assert verify_all([]) == []


def test_the_cache_of_parsed_keys_is_bounded_and_does_not_mix_algorithms() -> None:
    schemes._parsed.cache_clear()
    check = valid_check(5)
    assert verify_all([check, check]) == [True, True]
    assert schemes._parsed.cache_info().maxsize == schemes.PARSED_KEYS
    assert (schemes._parsed.cache_info().hits, schemes._parsed.cache_info().misses) == (1, 1)
    assert not verify_one(check._replace(alg_id=AlgId.ML_DSA_87))
    # A key of the wrong size is refused before it could take a place.
    assert not verify_one(check._replace(public_key=check.public_key + b"\0"))
    assert (schemes._parsed.cache_info().currsize, schemes._parsed.cache_info().misses) == (1, 1)


@pytest.mark.parametrize("alg", list(SIZES))
def test_a_key_never_shows_pickles_or_copies_its_secret(alg: AlgId) -> None:
    key = any_key(alg)
    shown = repr(key) + str(key) + f"{key}"
    assert key.secret().hex()[:16] not in shown
    assert key.public_key[:8].hex() in shown
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="cannot be pickled"):
            leak(key)
    assert not hasattr(key, "__dict__")


def test_every_single_key_algorithm_has_a_scheme_that_says_its_name_and_sizes() -> None:
    assert set(SCHEMES) == set(SIZES)
    assert {s.name for s in SCHEMES.values()} == {"ML-DSA-65", "ML-DSA-87", "SLH-DSA-SHAKE-128s"}
    assert all(found.alg_id is alg and found.sizes == SIZES[alg] for alg, found in SCHEMES.items())
