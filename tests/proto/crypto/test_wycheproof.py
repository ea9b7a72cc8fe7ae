"""Every Wycheproof file beside this checkout: each group accounted for, each count asserted.

The files are found through TRELLIS_VECTORS, or as `shared/vectors` beside the repository.
"""

from __future__ import annotations

import gzip
import json
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from trellis.crypto import aead
from trellis.crypto.aead import Aead, AuthenticationError, Suite
from trellis.crypto.algorithms import AlgId
from trellis.crypto.kem import MLKEM_SEED_BYTES, KemError, KemFault, KemKey, encapsulate
from trellis.crypto.schemes import scheme

REPOSITORY = Path(__file__).resolve().parents[3]
VECTORS = Path(os.environ.get("TRELLIS_VECTORS", REPOSITORY.parent / "shared" / "vectors")) / "wycheproof"
KNOWN = {
    "chacha20_poly1305_test.json.gz",
    "mldsa_65_verify_test.json.gz",
    "mldsa_87_verify_test.json.gz",
    "mlkem_768_keygen_seed_test.json.gz",
    "mlkem_768_test.json.gz",
    "x25519_test.json.gz",
}

Case = tuple[dict[str, Any], dict[str, Any]]


def load(name: str) -> dict[str, Any]:
    path = VECTORS / name
    if not path.exists():
        pytest.skip(f"{name} is not in {VECTORS}: set TRELLIS_VECTORS to the folder that holds wycheproof/")
    with gzip.open(path) as file:
        document: dict[str, Any] = json.load(file)
    return document


def cases(name: str, kind: str, groups: int) -> Iterator[Case]:
    """Every case with its group; the file must hold exactly the groups and tests that it announces."""
    document = load(name)
    assert len(document["testGroups"]) == groups
    assert {group["type"] for group in document["testGroups"]} == {kind}
    assert sum(len(group["tests"]) for group in document["testGroups"]) == document["numberOfTests"]
    for group in document["testGroups"]:
        for case in group["tests"]:
            yield group, case


def raw(case: dict[str, Any], name: str) -> bytes:
    return bytes.fromhex(case[name])


def test_every_wycheproof_file_has_a_test_here() -> None:
    if not VECTORS.is_dir():
        pytest.skip(f"there is no {VECTORS}: set TRELLIS_VECTORS to the folder that holds wycheproof/")
    assert {path.name for path in VECTORS.iterdir()} == KNOWN


@pytest.mark.parametrize(
    ("alg", "name", "groups", "tally"),
    [
        (AlgId.ML_DSA_65, "mldsa_65_verify_test.json.gz", 25, {("valid", True): 79, ("invalid", False): 131}),
        (AlgId.ML_DSA_87, "mldsa_87_verify_test.json.gz", 26, {("valid", True): 71, ("invalid", False): 170}),
    ],
)
def test_ml_dsa_verdicts_are_wycheproofs(
    alg: AlgId, name: str, groups: int, tally: dict[tuple[str, bool], int]
) -> None:
    seen: Counter[tuple[str, bool]] = Counter()
    for group, case in cases(name, "MlDsaVerify", groups):
        context = bytes.fromhex(case.get("ctx", ""))  # five cases have a context of 256 bytes: too long, so invalid
        verdict = scheme(alg).verify(raw(group, "publicKey"), raw(case, "msg"), raw(case, "sig"), context)
        assert verdict == (case["result"] == "valid"), f"tcId {case['tcId']}: {case['comment']}"
        seen[case["result"], verdict] += 1
    assert seen == tally


def test_ml_kem_keys_grow_from_their_seeds_as_wycheproof_says() -> None:
    seen = 0
    for group, case in cases("mlkem_768_keygen_seed_test.json.gz", "MLKEMKeyGen", 1):
        assert group["parameterSet"] == "ML-KEM-768"
        key = KemKey.from_seed(raw(case, "seed"), bytes(32))
        assert case["result"] == "valid"
        assert key.ek == raw(case, "ek"), f"tcId {case['tcId']}"
        # The expanded dk is never held here; FIPS 203 puts ek, H(ek) and z at its end.
        assert raw(case, "dk")[1_152:2_336] == key.ek
        assert raw(case, "dk")[-32:] == raw(case, "seed")[32:]
        seen += 1
    assert seen == 100


def test_ml_kem_decapsulation_gives_wycheproofs_secrets_and_refuses_its_bad_ciphertexts() -> None:
    seen: Counter[str] = Counter()
    peer = KemKey.from_seed(bytes(64), bytes(range(32)))
    for group, case in cases("mlkem_768_test.json.gz", "MLKEMTest", 2):
        assert group["parameterSet"] == "ML-KEM-768"
        seed, ciphertext = raw(case, "seed"), raw(case, "c")
        if case["result"] == "valid":
            key = KemKey.from_seed(seed, bytes(32))
            assert key.ek == raw(case, "ek")
            assert key.decapsulate(ciphertext, peer.x_public)[:32] == raw(case, "K"), f"tcId {case['tcId']}"
            seen["valid"] += 1
        elif len(seed) != MLKEM_SEED_BYTES:
            with pytest.raises(ValueError, match="a seed has 64 bytes"):
                KemKey.from_seed(seed, bytes(32))
            seen["seed of a wrong size"] += 1
        else:
            with pytest.raises(KemError) as caught:
                KemKey.from_seed(seed, bytes(32)).decapsulate(ciphertext, peer.x_public)
            assert caught.value.reason is KemFault.WRONG_SIZE
            seen["ciphertext of a wrong size"] += 1
    assert seen == {"valid": 153, "seed of a wrong size": 20, "ciphertext of a wrong size": 20}


def test_x25519_gives_wycheproofs_secrets_and_refuses_small_orders() -> None:
    """Of its 254 `acceptable` cases we accept what RFC 7748 demands (twisted and non-canonical shares: 223 with a
    secret to compare) and refuse what the handshake forbids (31 whose secret is zero)."""
    ciphertext = encapsulate(KemKey.from_seed(bytes(64), bytes(32)).ek, KemKey.generate().x_public).ciphertext
    seen: Counter[tuple[str, bool]] = Counter()
    for group, case in cases("x25519_test.json.gz", "XdhComp", 1):
        assert group["curve"] == "curve25519"
        key = KemKey.from_seed(bytes(64), raw(case, "private"))
        zero = "ZeroSharedSecret" in case["flags"]
        seen[case["result"], zero] += 1
        if zero:
            assert raw(case, "shared") == bytes(32)
            with pytest.raises(KemError) as caught:
                key.decapsulate(ciphertext, raw(case, "public"))
            assert caught.value.reason is KemFault.SMALL_ORDER
        else:
            shared = key.decapsulate(ciphertext, raw(case, "public"))
            assert shared[32:] == raw(case, "shared"), f"tcId {case['tcId']}"
    assert seen == {("valid", False): 264, ("acceptable", False): 223, ("acceptable", True): 31}


def test_chacha20_poly1305_seals_and_opens_as_wycheproof_says(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: Counter[tuple[int, str]] = Counter()
    iv = b""
    # The suite knows counters alone; here each case brings its nonce.
    monkeypatch.setattr(aead, "nonce", lambda counter: iv)
    for group, case in cases("chacha20_poly1305_test.json.gz", "AeadTest", 10):
        iv = raw(case, "iv")
        cipher = Aead(Suite.CHACHA20_POLY1305, raw(case, "key"))
        sealed, message, aad = raw(case, "ct") + raw(case, "tag"), raw(case, "msg"), raw(case, "aad")
        seen[group["ivSize"], case["result"]] += 1
        if case["result"] == "valid":
            assert cipher.seal(0, message, aad) == sealed, f"tcId {case['tcId']}"
            assert cipher.open(0, sealed, aad) == message
        elif group["ivSize"] == 96:
            with pytest.raises(AuthenticationError):
                cipher.open(0, sealed, aad)
        else:
            # Nine cases have nonces of other sizes, which our interface cannot even express.
            with pytest.raises(ValueError, match=r"[Nn]once"):
                cipher.open(0, sealed, aad)
    assert seen == {(96, "valid"): 256, (96, "invalid"): 60} | {
        (size, "invalid"): 1 for size in (0, 64, 88, 104, 112, 128, 160, 192, 256)
    }
