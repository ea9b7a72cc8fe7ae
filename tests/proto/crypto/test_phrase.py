"""Recovery phrases: BIP-39's words there and back, typos found by position, nothing secret in an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from tests.proto.crypto.kit import slh_key
from trellis.crypto.algorithms import AlgId
from trellis.crypto.phrase import WORDS, PhraseError, phrases_to_secret, secret_to_phrases
from trellis.crypto.schemes import scheme

BIP39 = Mnemonic("english")
SECRET = bytes(range(100, 132))
secrets = st.binary(min_size=32, max_size=32)


@given(secrets)
def test_a_phrase_is_bip_39s_and_leads_back(secret: bytes) -> None:
    (phrase,) = secret_to_phrases(secret)
    assert phrase == BIP39.to_mnemonic(secret)
    assert phrases_to_secret(phrase) == secret == bytes(BIP39.to_entropy(phrase))


LEGAL = "legal winner thank year wave sausage worth useful "
VOID = (
    "void come effort suffer camp survey warrior heavy shoot primary clutch crush "
    "open amazing screen patrol group space point ten exist slush involve unfold"
)


@pytest.mark.parametrize(
    ("secret", "phrase"),
    [
        ("00" * 32, "abandon " * 23 + "art"),
        ("7f" * 32, LEGAL * 2 + "legal winner thank year wave sausage worth title"),
        ("ff" * 32, "zoo " * 23 + "vote"),
        ("f585c11aec520db57dd353c69554b21a89b20fb0650966fa0a9d6f74fd989d8f", VOID),
    ],
)
def test_the_published_bip_39_vectors_hold(secret: str, phrase: str) -> None:
    assert secret_to_phrases(bytes.fromhex(secret)) == (phrase,)
    assert phrases_to_secret(phrase).hex() == secret


def test_case_line_breaks_and_spaces_do_not_matter() -> None:
    (phrase,) = secret_to_phrases(SECRET)
    assert phrases_to_secret("\n  ".join(phrase.upper().split()) + "\n") == SECRET


def test_an_ml_dsa_key_comes_back_from_one_phrase_and_an_slh_dsa_key_from_two() -> None:
    ml_dsa = scheme(AlgId.ML_DSA_65).from_secret(SECRET)
    (phrase,) = secret_to_phrases(ml_dsa.secret())
    assert scheme(AlgId.ML_DSA_65).from_secret(phrases_to_secret(phrase)).public_key == ml_dsa.public_key
    first, second = secret_to_phrases(slh_key().secret())
    back = scheme(AlgId.SLH_DSA_SHAKE_128S).from_secret(phrases_to_secret(f"{first}\n{second}"))
    assert (back.public_key, back.secret()) == (slh_key().public_key, slh_key().secret())


@given(secrets, st.integers(0, WORDS - 1), st.sampled_from(["abandn", "zzz", "wörd", "1"]))
def test_a_word_that_is_in_no_list_is_named_by_its_position_alone(secret: bytes, place: int, typo: str) -> None:
    words = secret_to_phrases(secret)[0].split()
    words[place] = typo
    with pytest.raises(PhraseError) as caught:
        phrases_to_secret(" ".join(words))
    assert str(caught.value) == f"not in the word list: word {place + 1}"


def test_several_typos_are_all_named() -> None:
    words = secret_to_phrases(SECRET)[0].split()
    words[0], words[11], words[23] = "xx", "yy", "zz"
    with pytest.raises(PhraseError, match="words 1, 12, 24"):
        phrases_to_secret(" ".join(words))


def test_a_wrong_word_of_the_list_fails_the_checksum_with_a_clear_message() -> None:
    words = secret_to_phrases(SECRET)[0].split()
    messages = []
    for other in BIP39.wordlist[:64]:
        try:
            phrases_to_secret(" ".join([*words[:5], other, *words[6:]]))
        except PhraseError as fault:
            messages.append(str(fault))
    assert len(messages) >= 60  # eight bits of checksum let one in 256 through
    assert all("the checksum does not match" in message for message in messages)


def test_the_phrase_at_fault_of_two_is_named() -> None:
    first, second = secret_to_phrases(slh_key().secret())
    words = second.split()
    words[3], words[4] = words[4], words[3]
    if words == second.split():
        words[0], words[23] = words[23], words[0]
    with pytest.raises(PhraseError, match="phrase 2 of 2"):
        phrases_to_secret(f"{first} {' '.join(words)}")


@pytest.mark.parametrize("number", [0, 1, 12, 23, 25, 47])
def test_a_wrong_number_of_words_is_said(number: int) -> None:
    with pytest.raises(PhraseError, match=f"24 words.*not {number}"):
        phrases_to_secret(" ".join(["abandon"] * number))


@pytest.mark.parametrize("size", [0, 31, 33, 63])
def test_a_secret_that_does_not_divide_into_phrases_is_host_misuse(size: int) -> None:
    with pytest.raises(ValueError, match="do not divide"):
        secret_to_phrases(bytes(size))


@given(st.text(max_size=200))
def test_any_text_is_a_secret_or_a_phrase_error(text: str) -> None:
    with pytest.raises(PhraseError):
        phrases_to_secret(text)


def test_the_golden_phrases_lead_to_the_golden_keys() -> None:
    path = Path(__file__).parents[2] / "vectors" / "crypto" / "phrases.json"
    for case in json.loads(path.read_text())["cases"]:
        secret = phrases_to_secret("\n".join(case["phrases"]))
        key = scheme(AlgId[case["algorithm"]]).from_secret(secret)
        assert secret.hex() == case["secret"]
        assert key.public_key.hex() == case["public_key"]
        assert list(secret_to_phrases(secret)) == case["phrases"]
