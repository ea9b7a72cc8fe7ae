"""The algorithm policy: who may use what when, its one canonical form, its JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trellis.crypto.algorithms import VOTE_ALGORITHMS, AlgId
from trellis.crypto.policy import (
    DEFAULT_POLICY,
    MAX_POLICY_ENTRIES,
    AlgorithmPolicy,
    PolicyEntry,
    Role,
    decode_policy_document,
)
from trellis.encoding import DecodeError
from trellis.types import U64_MAX

FAST_ROLES = (Role.NETWORK_IDENTITY, Role.CONSENSUS_VOTE)
heights = st.integers(0, U64_MAX - 2)


def possible(role: Role, alg: AlgId) -> bool:
    if role in FAST_ROLES:
        return alg in VOTE_ALGORITHMS
    return not (role is Role.COLD_CERTIFICATION and alg is AlgId.MULTISIG)


PAIRS = [(role, alg) for role in Role for alg in AlgId if possible(role, alg)]


@st.composite
def entries(draw: st.DrawFn, pair: tuple[Role, AlgId]) -> PolicyEntry:
    activation = draw(heights)
    sunset = draw(st.none() | st.integers(activation + 1, U64_MAX - 1))
    return PolicyEntry(pair[0], pair[1], activation, sunset)


@st.composite
def policies(draw: st.DrawFn) -> AlgorithmPolicy:
    pairs = sorted(draw(st.sets(st.sampled_from(PAIRS))))
    return AlgorithmPolicy(tuple(draw(entries(pair)) for pair in pairs))


@given(policies())
def test_a_policy_survives_its_bytes_and_its_json(policy: AlgorithmPolicy) -> None:
    assert decode_policy_document(policy.encode()) == policy
    assert AlgorithmPolicy.from_json(json.loads(json.dumps(policy.to_json()))) == policy


@given(policies(), policies())
def test_different_policies_have_different_roots(one: AlgorithmPolicy, other: AlgorithmPolicy) -> None:
    assert (one.root() == other.root()) == (one == other)


@given(policies(), st.data())
def test_every_truncation_and_extension_is_refused(policy: AlgorithmPolicy, data: st.DataObject) -> None:
    whole = policy.encode()
    with pytest.raises(DecodeError):
        decode_policy_document(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DecodeError):
        decode_policy_document(whole + data.draw(st.binary(min_size=1, max_size=20)))


@given(st.binary(max_size=80))
def test_arbitrary_bytes_decode_to_their_own_encoding_or_not_at_all(data: bytes) -> None:
    try:
        policy = decode_policy_document(data)
    except DecodeError:
        return
    assert policy.encode() == data


def test_entries_out_of_order_or_twice_are_not_canonical() -> None:
    first = PolicyEntry(Role.ACCOUNT, AlgId.ML_DSA_65)
    second = PolicyEntry(Role.ACCOUNT, AlgId.ML_DSA_87)
    one, two = (AlgorithmPolicy((entry,)).encode()[2:] for entry in (first, second))
    assert decode_policy_document(b"\0\2" + one + two).entries == (first, second)
    for body in (two + one, one + one):
        with pytest.raises(DecodeError, match="not_canonical"):
            decode_policy_document(b"\0\2" + body)


def test_an_algorithm_serves_from_its_activation_up_to_its_sunset() -> None:
    policy = AlgorithmPolicy((PolicyEntry(Role.ACCOUNT, AlgId.ML_DSA_65, 10, 20),))
    assert [policy.allows(Role.ACCOUNT, 1, height) for height in (9, 10, 19, 20)] == [False, True, True, False]
    assert not policy.allows(Role.CONSENSUS_VOTE, 1, 15)
    assert not policy.allows(Role.ACCOUNT, 2, 15)
    assert not policy.allows(Role.ACCOUNT, 99, 15)


def test_the_default_lets_slow_signatures_serve_accounts_and_cold_keys_only() -> None:
    allowed = {(role, alg) for role in Role for alg in AlgId if DEFAULT_POLICY.allows(role, alg, 0)}
    slow = AlgId.SLH_DSA_SHAKE_128S
    assert {(role, alg) for role, alg in allowed if alg is slow} == {
        (Role.ACCOUNT, slow),
        (Role.COLD_CERTIFICATION, slow),
    }
    assert all((role, alg) in allowed for role in FAST_ROLES for alg in VOTE_ALGORITHMS)
    assert (Role.ACCOUNT, AlgId.MULTISIG) in allowed
    assert len(allowed) == 9


def test_the_default_policys_root_is_fixed_for_ever() -> None:
    assert DEFAULT_POLICY.root().hex() == "0ac0bc02c9a63f3f4475095b849dad26558485b8e9a0b5b4a8f2686d5e54aca9"


@pytest.mark.parametrize(
    ("role", "alg"), [(role, alg) for role in Role for alg in AlgId if (role, alg) not in set(PAIRS)]
)
def test_an_algorithm_that_can_never_serve_a_role_is_refused(role: Role, alg: AlgId) -> None:
    with pytest.raises(ValueError, match=r"cannot serve|one key"):
        PolicyEntry(role, alg)
    entry = bytes([role, alg]) + bytes(8) + b"\xff" * 8
    with pytest.raises(DecodeError):
        decode_policy_document(b"\0\1" + entry)


@pytest.mark.parametrize(("activation", "sunset"), [(-1, None), (2**64, None), (5, 5), (5, 4), (0, U64_MAX)])
def test_impossible_heights_are_refused(activation: int, sunset: int | None) -> None:
    with pytest.raises(ValueError, match=r"height|sunset"):
        PolicyEntry(Role.ACCOUNT, AlgId.ML_DSA_65, activation, sunset)


def test_a_count_that_promises_more_than_follows_allocates_nothing() -> None:
    with pytest.raises(DecodeError, match="truncated"):
        decode_policy_document(b"\xff\xff")
    with pytest.raises(DecodeError, match="too_large"):
        decode_policy_document(bytes(2 + (MAX_POLICY_ENTRIES + 1) * 18))


GOOD = {"role": "account", "algorithm": "ML_DSA_65"}


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "is a list"),
        ([1], r"\[0\] needs the fields"),
        ([GOOD, {"role": "account"}], r"\[1\] needs the fields"),
        ([GOOD | {"colour": "red"}], "unknown fields: colour"),
        ([GOOD | {"role": "king"}], "'king' is not one of network_identity"),
        ([GOOD | {"algorithm": "RSA"}], "'RSA' is not one of ML_DSA_65"),
        ([GOOD | {"activation_height": "7"}], "heights are integers"),
        ([GOOD | {"activation_height": True}], "heights are integers"),
        ([GOOD | {"sunset_height": 1.5}], "heights are integers"),
        ([GOOD | {"activation_height": 9, "sunset_height": 9}], "must come after"),
        ([GOOD, GOOD], "each pair once"),
    ],
)
def test_a_wrong_json_policy_is_refused_with_what_is_wrong(document: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        AlgorithmPolicy.from_json(document)


def test_the_golden_policy_decodes_and_hashes_as_recorded() -> None:
    document = json.loads((Path(__file__).parents[2] / "vectors" / "crypto" / "policy.json").read_text())
    policy = AlgorithmPolicy.from_json(document["policy"])
    assert policy == decode_policy_document(bytes.fromhex(document["canonical"])) == DEFAULT_POLICY
    assert policy.root().hex() == document["root"]
