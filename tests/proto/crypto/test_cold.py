"""Cold certificates: what a judge accepts at which moment, and the one canonical form of their bytes."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.proto.crypto.kit import slh_key
from tests.signing import FakeSigner, real_signer
from trellis.constants import Context
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.crypto.cold import (
    MAX_CERTIFICATE_BYTES,
    MAX_LIFETIME_S,
    SKEW_S,
    CertificateRefusal,
    ColdCertificate,
    Expected,
    HotKey,
    certify,
    decode_cold_certificate,
    refusal,
)
from trellis.crypto.policy import Role
from trellis.crypto.schemes import verify_one
from trellis.encoding import DecodeError, Malformed
from trellis.peerid import peer_id
from trellis.records import MAX_CERT_BYTES
from trellis.types import Hash

VECTORS = Path(__file__).parents[2] / "vectors" / "crypto"
GENESIS = Hash(bytes(range(32)))
NOW_S = 1_800_000_000
HOT = real_signer(1)
STATEMENT = HotKey(
    genesis_hash=GENESIS,
    role=Role.NETWORK_IDENTITY,
    alg_id=HOT.alg_id,
    public_key=HOT.public_key,
    not_before_s=NOW_S,
    not_after_s=NOW_S + MAX_LIFETIME_S,
    serial=7,
)
EXPECTED = Expected(GENESIS, Role.NETWORK_IDENTITY, HOT.alg_id, HOT.public_key)
COLD = FakeSigner(5, AlgId.SLH_DSA_SHAKE_128S)


def certified(**changes: Any) -> ColdCertificate:
    """Signed by a stand-in, with no regard for what `certify` would refuse."""
    hot = replace(STATEMENT, **changes)
    signature = COLD.sign(hot.encode(), Context.CERT.value)
    return ColdCertificate(hot, hot.encode(), COLD.alg_id, COLD.public_key, signature)


@cache
def golden() -> ColdCertificate:
    document = json.loads((VECTORS / "cold_certificate.json").read_text())
    return decode_cold_certificate(bytes.fromhex(document["certificate"]))


def test_a_real_cold_key_certifies_and_the_signature_holds() -> None:
    key = slh_key()
    certificate = certify(STATEMENT, key.alg_id, key.public_key, key.sign)
    assert verify_one(certificate.check())
    assert refusal(certificate, EXPECTED, NOW_S, 0) is None
    assert certificate.cold_peer_id == peer_id(key.alg_id, key.public_key)
    again = decode_cold_certificate(certificate.encode())
    assert again == certificate
    assert not verify_one(replace(again, statement=replace(STATEMENT, serial=8).encode()).check())


def test_the_golden_certificate_verifies_and_says_what_the_vector_says() -> None:
    document = json.loads((VECTORS / "cold_certificate.json").read_text())
    certificate = golden()
    assert verify_one(certificate.check())
    assert certificate.encode().hex() == document["certificate"]
    assert certificate.statement.hex() == document["statement"]
    hot = certificate.hot
    assert {
        "genesis_hash": hot.genesis_hash.hex(),
        "role": hot.role.name.lower(),
        "hot_algorithm": hot.alg_id.name,
        "hot_public_key": hot.public_key.hex(),
        "not_before_s": hot.not_before_s,
        "not_after_s": hot.not_after_s,
        "serial": hot.serial,
        "cold_algorithm": certificate.cold_alg_id.name,
        "cold_public_key": certificate.cold_public_key.hex(),
    } == document["fields"]


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, None),
        ({"genesis_hash": Hash(bytes(32))}, CertificateRefusal.WRONG_NETWORK),
        ({"role": Role.CONSENSUS_VOTE}, CertificateRefusal.WRONG_ROLE),
        ({"public_key": real_signer(2).public_key}, CertificateRefusal.WRONG_HOT_KEY),
        ({"alg_id": AlgId.ML_DSA_87}, CertificateRefusal.WRONG_HOT_KEY),
        ({"not_after_s": NOW_S}, CertificateRefusal.EMPTY_LIFETIME),
        ({"not_after_s": NOW_S - 1}, CertificateRefusal.EMPTY_LIFETIME),
        ({"not_after_s": NOW_S + MAX_LIFETIME_S + 1}, CertificateRefusal.LIFETIME_TOO_LONG),
        ({"not_before_s": NOW_S + SKEW_S}, None),
        ({"not_before_s": NOW_S + SKEW_S + 1}, CertificateRefusal.NOT_YET_VALID),
        ({"not_before_s": NOW_S - 9_999, "not_after_s": NOW_S - SKEW_S + 1}, None),
        ({"not_before_s": NOW_S - 9_999, "not_after_s": NOW_S - SKEW_S}, CertificateRefusal.EXPIRED),
        ({"serial": 3}, None),
        ({"serial": 2}, CertificateRefusal.SERIAL_TOO_LOW),
    ],
)
def test_a_certificate_is_judged_by_each_of_its_fields(
    changes: dict[str, Any], wanted: CertificateRefusal | None
) -> None:
    assert refusal(certified(**changes), EXPECTED, NOW_S, highest_serial=3) is wanted


def test_the_policy_says_which_algorithms_may_certify() -> None:
    none_allowed = replace(EXPECTED, cold_algorithms=(AlgId.ML_DSA_87,))
    assert refusal(certified(), none_allowed, NOW_S, 0) is CertificateRefusal.ALGORITHM_NOT_ALLOWED


def test_every_reason_is_reached_by_some_certificate() -> None:
    """The table above and the policy test name all of them."""
    named = {
        CertificateRefusal.WRONG_NETWORK,
        CertificateRefusal.WRONG_ROLE,
        CertificateRefusal.WRONG_HOT_KEY,
        CertificateRefusal.ALGORITHM_NOT_ALLOWED,
        CertificateRefusal.EMPTY_LIFETIME,
        CertificateRefusal.LIFETIME_TOO_LONG,
        CertificateRefusal.NOT_YET_VALID,
        CertificateRefusal.EXPIRED,
        CertificateRefusal.SERIAL_TOO_LOW,
    }
    assert named == set(CertificateRefusal)


@pytest.mark.parametrize("lifetime_s", [-1, 0, MAX_LIFETIME_S + 1])
def test_issuing_what_no_judge_would_accept_is_host_misuse(lifetime_s: int) -> None:
    with pytest.raises(ValueError, match="lives"):
        certify(replace(STATEMENT, not_after_s=NOW_S + lifetime_s), COLD.alg_id, COLD.public_key, COLD.sign)


hot_keys = st.builds(
    HotKey,
    genesis_hash=st.binary(min_size=32, max_size=32).map(Hash),
    role=st.sampled_from(list(Role)),
    alg_id=st.just(AlgId.ML_DSA_65),
    public_key=st.integers(0, 5).map(lambda n: FakeSigner(n).public_key),
    not_before_s=st.integers(0, 2**64 - 1),
    not_after_s=st.integers(0, 2**64 - 1),
    serial=st.integers(0, 2**64 - 1),
)


@given(hot_keys)
def test_a_certificate_survives_its_bytes(hot: HotKey) -> None:
    certificate = ColdCertificate(
        hot, hot.encode(), COLD.alg_id, COLD.public_key, COLD.sign(hot.encode(), Context.CERT.value)
    )
    assert decode_cold_certificate(certificate.encode()) == certificate


@given(st.data())
def test_every_truncation_and_extension_is_refused(data: st.DataObject) -> None:
    whole = certified().encode()
    with pytest.raises(DecodeError):
        decode_cold_certificate(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(DecodeError):
        decode_cold_certificate(whole + data.draw(st.binary(min_size=1, max_size=40)))


@given(st.data())
def test_any_one_bit_change_is_refused_or_fails_its_signature(data: st.DataObject) -> None:
    changed = bytearray(golden().encode())
    bit = data.draw(st.integers(0, 8 * len(changed) - 1))
    changed[bit // 8] ^= 1 << bit % 8
    try:
        certificate = decode_cold_certificate(bytes(changed))
    except DecodeError:
        return
    assert not verify_one(certificate.check())


@given(st.binary(max_size=300))
def test_arbitrary_bytes_are_refused_with_a_reason(data: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_cold_certificate(data)


def test_each_malformed_field_has_its_reason() -> None:
    whole = certified().encode()
    statement = STATEMENT.encode()
    tag = len(Context.CERT.value)

    def reason(changed: bytes) -> Malformed:
        with pytest.raises(DecodeError) as caught:
            decode_cold_certificate(changed)
        return caught.value.reason

    def with_statement(changed: bytes) -> bytes:
        return len(changed).to_bytes(4, "big") + changed + whole[4 + len(statement) :]

    after = 4 + len(statement)
    assert reason(with_statement(b"trellis/cert/2" + statement[tag:])) is Malformed.UNKNOWN_KIND
    assert reason(with_statement(statement[: tag + 32] + b"\x63" + statement[tag + 33 :])) is Malformed.UNKNOWN_KIND
    assert (
        reason(with_statement(statement[: tag + 33] + b"\x10" + statement[tag + 34 :])) is Malformed.UNKNOWN_ALGORITHM
    )
    assert reason(with_statement(statement[: tag + 33] + b"\x02" + statement[tag + 34 :])) is Malformed.WRONG_SIZE
    assert reason(with_statement(statement + b"\0")) is Malformed.TRAILING_BYTES
    assert reason(whole[:after] + b"\x10" + whole[after + 1 :]) is Malformed.UNKNOWN_ALGORITHM
    assert reason(whole[:after] + b"\x01" + whole[after + 1 :]) is Malformed.WRONG_SIZE
    short = replace(certified(), signature=bytes(SIZES[COLD.alg_id].signature_bytes - 1))
    assert reason(short.encode()) is Malformed.WRONG_SIZE
    assert reason(replace(certified(), cold_public_key=bytes(31)).encode()) is Malformed.WRONG_SIZE
    assert reason(bytes(MAX_CERTIFICATE_BYTES + 1)) is Malformed.TOO_LARGE
    assert reason(b"\xff\xff\xff\xff") is Malformed.TOO_LARGE


def test_every_certificate_fits_where_records_and_handshakes_carry_it() -> None:
    assert len(certified().encode()) < MAX_CERTIFICATE_BYTES <= MAX_CERT_BYTES
