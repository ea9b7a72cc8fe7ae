"""Genesis documents: what makes a network, and every impossible one refused by the name of its field."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.chains import Member, fake_members, set_of, small_genesis, some_hash
from tests.signing import FakeSigner
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import AlgorithmPolicy, PolicyEntry, Role
from trellis.genesis import GenesisAccount, GenesisInvalid, genesis_from_json
from trellis.parameters import DEFAULTS, Parameters, parameter_meanings, parameters_from_json
from trellis.types import U64_MAX, Address
from trellis.validators import make_validator_set

GENESIS = small_genesis(
    fake_members([5, 6]),
    accounts=[GenesisAccount(Address(some_hash("rich")), 10), GenesisAccount(Address(some_hash("x")), 0)],
)

Change = Callable[[Any], object]


def at(*path: Any, to: Any) -> Change:
    def change(document: Any) -> object:
        for step in path[:-1]:
            document = document[step]
        document[path[-1]] = to
        return None

    return change


def without(*path: Any) -> Change:
    def change(document: Any) -> object:
        for step in path[:-1]:
            document = document[step]
        return document.pop(path[-1])

    return change


def doubled(name: str) -> Change:
    return lambda document: document[name].append(copy.deepcopy(document[name][0]))


def two_sunsets(document: Any) -> object:
    entry = next(item for item in document["algorithm_policy"] if item["role"] == "account")
    return document["algorithm_policy"].append({**entry, "sunset_height": 7})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        pytest.param(without("chain_name"), "chain_name", id="no name"),
        pytest.param(at("chain_name", to=""), "chain name", id="an empty name"),
        pytest.param(at("chain_name", to="x" * 65), "chain name", id="a long name"),
        pytest.param(at("chain_name", to="\ud800"), "surrogates", id="a name that is no text"),
        pytest.param(at("version", to=2), "version 2", id="another version"),
        pytest.param(at("version", to=True), "version", id="a version that is true"),
        pytest.param(at("time_ms", to=-1), "genesis time", id="before 1970"),
        pytest.param(at("time_ms", to=1.5), "time_ms", id="half a millisecond"),
        pytest.param(at("engine", to="poa"), "engine", id="an unknown engine"),
        pytest.param(at("more", to=1), "unknown fields: more", id="an unknown field"),
        pytest.param(at("validators", to=[]), "cannot be empty", id="no validators"),
        pytest.param(at("validators", 0, to=7), "validators[0]", id="a number for a validator"),
        pytest.param(at("validators", 1, "stake", to="0"), "power above zero", id="no stake"),
        pytest.param(at("validators", 1, "stake", to=5), "stake", id="a stake as a number"),
        pytest.param(at("validators", 1, "stake", to="05"), "stake", id="a leading zero"),
        pytest.param(at("validators", 1, "stake", to="+5"), "stake", id="a sign"),
        pytest.param(at("validators", 1, "stake", to="٣"), "stake", id="digits of another script"),
        pytest.param(at("validators", 1, "stake", to="9" * 5_000), "stake", id="five thousand digits"),
        pytest.param(at("accounts", 0, "balance", to=str(2**64)), "balance", id="65 bits"),
        pytest.param(at("accounts", 0, "balance", to=str(U64_MAX)), "64 bits", id="a supply of 65 bits"),
        pytest.param(at("accounts", 0, "balance", to=""), "balance", id="an empty balance"),
        pytest.param(at("accounts", 0, "address", to="trl1"), "accounts[0]: address", id="no address"),
        pytest.param(doubled("accounts"), "accounts ascend", id="an account twice"),
        pytest.param(doubled("validators"), "each once", id="a validator twice"),
        pytest.param(
            at("validators", 0, "algorithm", to="MULTISIG"), "algorithm 'MULTISIG'", id="a group of voters as one"
        ),
        pytest.param(
            at("validators", 0, "algorithm", to="SLH_DSA_SHAKE_128S"), "SLH_DSA", id="a voter with a slow key"
        ),
        pytest.param(at("validators", 0, "algorithm", to="RSA"), "RSA", id="an unknown algorithm"),
        pytest.param(at("validators", 0, "public_key", to="00"), "public_key", id="a short key"),
        pytest.param(at("validators", 0, "public_key", to="zz"), "not hex", id="a key that is no hex"),
        pytest.param(at("validators", 0, "network_id", to="0"), "validators[0]", id="no peer id"),
        pytest.param(doubled("algorithm_policy"), "each pair once", id="a rule twice"),
        pytest.param(two_sunsets, "each pair once", id="two rules, one without sunset"),
        pytest.param(at("algorithm_policy", to=[]), "not allowed at height 1", id="a policy that silences all"),
        pytest.param(at("algorithm_policy", to={}), "list of entries", id="a policy that is no list"),
        pytest.param(at("algorithm_policy", 0, "role", to="king"), "role 'king'", id="an unknown role"),
        pytest.param(at("verifiers", to=[]), "verifiers", id="verifiers as a list"),
        pytest.param(at("verifiers", "lrat.v1", to="zz"), "lrat.v1", id="a build that is no hex"),
        pytest.param(at("verifiers", "lrat.v1", to=5), "lrat.v1", id="a build that is a number"),
        pytest.param(at("verifiers", "", to=""), "verifier's name", id="a verifier without a name"),
        pytest.param(at("verifiers", "x" * 33, to=""), "verifier's name", id="a verifier that none can name"),
        pytest.param(at("parameters", "rotation_blocks", to=0), "rotation_blocks", id="no turns"),
        pytest.param(at("parameters", "rotation_blocks", to=True), "rotation_blocks", id="turns that are true"),
        pytest.param(at("parameters", "speed", to=1), "unknown parameters speed", id="an unknown parameter"),
        pytest.param(at("parameters", "unbonding_blocks", to=50_000), "unbonding_blocks", id="stake leaves too early"),
        pytest.param(at("parameters", "min_stake", to=6), "below min_stake", id="a stake that is too small"),
        pytest.param(at("parameters", "emission_cap", to=U64_MAX), "emission cap", id="more coins than can be counted"),
    ],
)
def test_an_impossible_document_is_refused_by_the_name_of_its_field(change: Change, says: str) -> None:
    document = json.loads(json.dumps(GENESIS.to_json()))
    assert genesis_from_json(document) == GENESIS
    change(document)
    with pytest.raises(GenesisInvalid) as caught:
        genesis_from_json(document)
    assert says in str(caught.value)


@pytest.mark.parametrize("document", [None, [], "genesis", 7, {}], ids=repr)
def test_what_is_no_document_is_refused(document: object) -> None:
    with pytest.raises(GenesisInvalid):
        genesis_from_json(document)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path] if path else []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += _places(item, (*path, key))
    return found


PLACES = _places(GENESIS.to_json())


@settings(max_examples=500)
@given(st.sampled_from(PLACES), JSON | st.sampled_from(["MULTISIG", "SLH_DSA_SHAKE_128S", "ML_DSA_87", "pow", "0"]))
def test_anything_in_any_place_is_accepted_or_refused_and_never_raises_something_else(place: Any, value: Any) -> None:
    document = json.loads(json.dumps(GENESIS.to_json()))
    at(*place, to=value)(document)
    try:
        genesis = genesis_from_json(document)
    except GenesisInvalid:
        return
    assert genesis_from_json(genesis.to_json()).hash == genesis.hash


def test_a_missing_policy_is_the_default_one() -> None:
    document = GENESIS.to_json()
    del document["algorithm_policy"]
    assert genesis_from_json(document).hash == GENESIS.hash


def test_two_validators_cannot_share_a_consensus_key_or_a_network_id() -> None:
    first, second = (member.validator for member in fake_members([5, 6]))
    for shared in (replace(second, public_key=first.public_key), replace(second, network_id=first.network_id)):
        with pytest.raises(ValueError, match="two validators share"):
            replace(GENESIS, validators=make_validator_set([first, shared]))


def test_a_validator_set_that_the_policy_does_not_let_vote_cannot_start_a_chain() -> None:
    later = AlgorithmPolicy((PolicyEntry(Role.CONSENSUS_VOTE, AlgId.ML_DSA_65, activation=2),))
    with pytest.raises(ValueError, match="not allowed at height 1"):
        replace(GENESIS, policy=later)
    strong = [Member(FakeSigner(1, AlgId.ML_DSA_87), 5)]
    only_65 = AlgorithmPolicy((PolicyEntry(Role.CONSENSUS_VOTE, AlgId.ML_DSA_65),))
    with pytest.raises(ValueError, match="ML_DSA_87: not allowed"):
        replace(GENESIS, policy=only_65, validators=set_of(strong))


def test_every_parameter_has_a_meaning_and_a_default_within_its_bounds() -> None:
    meanings = parameter_meanings()
    assert set(meanings) == set(DEFAULTS.to_json())
    assert all(meanings.values())
    assert parameters_from_json({}) == DEFAULTS
    assert parameters_from_json(DEFAULTS.to_json()) == DEFAULTS


def test_the_defaults_are_those_of_the_protocol() -> None:
    wanted = {
        "block_interval_ms": 100,
        "heartbeat_ms": 30_000,
        "clock_drift_ms": 2_000,
        "min_base_timeout_ms": 200,
        "rotation_blocks": 32,
        "demotion_heights": 16,
        "view_timer_cap_ms": 4_000,
        "epoch_blocks": 1_000,
        "evidence_window_blocks": 50_000,
        "unbonding_blocks": 100_000,
        "attestation_expiry_blocks": 50,
        "state_buckets_log2": 16,
        "max_block_bytes": 4 << 20,
        "max_block_transactions": 4_000,
        "slash_double_sign_permille": 200,
        "slash_wrong_verdict_permille": 50,
    }
    assert {name: getattr(DEFAULTS, name) for name in wanted} == wanted


def test_each_parameter_changes_the_hash() -> None:
    hashes = {DEFAULTS.hash_with({})}
    for name, value in DEFAULTS.to_json().items():
        for other in (value + 1, value - 1):
            try:
                changed = Parameters(**{**DEFAULTS.to_json(), name: other})
            except ValueError:
                continue
            hashes.add(changed.hash_with({}))
            break
        else:
            raise AssertionError(f"{name} has one value only")
    assert len(hashes) == 1 + len(DEFAULTS.to_json())
