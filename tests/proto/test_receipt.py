"""Finality receipts: what holds, what does not and why, and that no bit of one can change."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from tests.chains import Member, certify, commit, fake_members, receipt_story, set_of
from tests.proto.receipt_cases import SETS, Case, TrustedBlock, all_cases, crossing, plain
from tests.signing import fake_verify_all, real_signer
from trellis.crypto.algorithms import VerifyMany
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.genesis import Genesis
from trellis.outcome import Outcome
from trellis.receipt import (
    Checkpoint,
    Finality,
    FinalityReceipt,
    ReceiptInvalid,
    checkpoint_from_json,
    decode_receipt,
    verify_receipt,
)
from trellis.types import Hash, Height


def trust_of(case: Case) -> Genesis | Checkpoint:
    if isinstance(case.trust, TrustedBlock):
        at = case.trust
        return Checkpoint(at.genesis_hash, Height(at.height), Hash(bytes(32)), at.validators)
    return case.trust


def refusal(data: bytes, trust: Genesis | Checkpoint, verify: VerifyMany = fake_verify_all) -> tuple[str, str] | None:
    """Fault and detail, or None if the receipt holds. Anything else that is raised escapes to the test."""
    try:
        verify_receipt(decode_receipt(data), trust, verify)
    except ReceiptInvalid as fault:
        return str(fault.fault), fault.detail
    except DecodeError as fault:
        return str(fault.reason), fault.detail
    return None


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case.name)
def test_a_receipt_holds_or_is_refused_for_the_right_reason(case: Case) -> None:
    found = refusal(case.data, trust_of(case))
    if case.fault is None:
        assert found is None
    else:
        assert found is not None
        assert found[0] == case.fault
        assert case.detail in found[1]


def test_what_a_receipt_proves_is_what_it_says() -> None:
    story = crossing()
    proven = verify_receipt(story.receipt, story.genesis, fake_verify_all)
    assert proven == Finality(
        txid=story.receipt.txid,
        body=proven.body,
        outcome=Outcome.OK,
        fee=story.receipt.fee,
        height=Height(31),
        block_hash=story.receipt.header.hash,
        timestamp_ms=story.receipt.header.timestamp_ms,
        signed_power=80,
        total_power=80,
        trusted="genesis",
    )
    assert proven.body.encode() == story.receipt.body


def test_verify_says_which_trust_was_used() -> None:
    story = plain()
    checkpoint = Checkpoint(story.genesis.hash, Height(0), story.genesis.hash, set_of(SETS[0]))
    assert verify_receipt(story.receipt, story.genesis, fake_verify_all).trusted == "genesis"
    assert verify_receipt(story.receipt, checkpoint, fake_verify_all).trusted == "checkpoint at height 0"


def test_only_the_signers_power_counts_as_signed() -> None:
    story = plain()
    quorum = [SETS[0][0], SETS[0][1], SETS[0][3]]
    header, validators = story.receipt.header, set_of(SETS[0])
    certificate = certify(story.receipt.certificate.vote, quorum, header.genesis_hash, validators)
    proven = verify_receipt(replace(story.receipt, certificate=certificate), story.genesis, fake_verify_all)
    assert (proven.signed_power, proven.total_power) == (60, 80)


def test_old_keys_of_a_retired_set_still_convince_who_starts_at_genesis_and_never_who_starts_later() -> None:
    """The stated limit of trust in genesis, and the reason for checkpoints."""
    story = crossing()
    header = replace(story.receipt.header, validators_hash=set_of(SETS[0]).hash, height=Height(10**6))
    stolen = replace(story.receipt, header=header, certificate=commit(header, SETS[0]), transitions=())
    assert refusal(stolen.encode(), story.genesis) is None
    recent = Checkpoint(story.genesis.hash, Height(30), Hash(bytes(32)), set_of(SETS[3]))
    found = refusal(stolen.encode(), recent)
    assert found is not None
    assert found[0] == "unknown_set"


def flips_that_pass(receipt: FinalityReceipt, genesis: Genesis, bits: list[int], verify: VerifyMany) -> list[int]:
    data, passed = receipt.encode(), []
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        if refusal(bytes(changed), genesis, verify) is None:
            passed.append(bit)
    return passed


def test_no_bit_of_a_small_receipt_can_change() -> None:
    story = receipt_story([fake_members([5])], neighbours=2)
    size = 8 * len(story.receipt.encode())
    assert flips_that_pass(story.receipt, story.genesis, list(range(size)), fake_verify_all) == []


def test_no_byte_of_a_receipt_with_four_signers_can_change() -> None:
    story, draw = plain(), random.Random(5)
    bits = [8 * place + draw.randrange(8) for place in range(len(story.receipt.encode()))]
    assert flips_that_pass(story.receipt, story.genesis, bits, fake_verify_all) == []


def test_no_sampled_bit_of_a_receipt_over_a_change_can_change() -> None:
    story = receipt_story([fake_members([3], 0), fake_members([4], 9)])
    bits = random.Random(6).sample(range(8 * len(story.receipt.encode())), 4_000)
    assert flips_that_pass(story.receipt, story.genesis, bits, fake_verify_all) == []


def test_no_bit_of_a_receipt_with_real_signatures_can_change() -> None:
    sets = [[Member(real_signer(10 * epoch + place), 10) for place in range(4)] for epoch in range(2)]
    story = receipt_story(sets)
    size, draw = len(story.receipt.encode()), random.Random(9)
    assert refusal(story.receipt.encode(), story.genesis, verify_all) is None
    bits = sorted(draw.sample(range(8 * size), 150))
    assert flips_that_pass(story.receipt, story.genesis, bits, verify_all) == []


def test_a_receipt_is_about_as_small_as_promised() -> None:
    one, three = plain(), crossing()
    small = len(one.receipt.encode())
    assert 10_000 < small < 25_000
    assert (len(three.receipt.encode()) - small) // 3 < 30_000


# Checkpoints


def test_a_checkpoint_survives_its_json_form() -> None:
    checkpoint = Checkpoint(Hash(bytes(32)), Height(2**64 - 1), Hash(b"\x01" * 32), set_of(SETS[0]))
    assert checkpoint_from_json(checkpoint.to_json()) == checkpoint


@pytest.mark.parametrize(
    ("field", "value", "says"),
    [
        pytest.param("height", -1, "height", id="a negative height"),
        pytest.param("height", 2**64, "height", id="a height of 65 bits"),
        pytest.param("height", True, "height", id="a height that is true"),
        pytest.param("height", "7", "height", id="a height as text"),
        pytest.param("genesis_hash", "zz", "genesis_hash", id="no hex"),
        pytest.param("genesis_hash", "00" * 31, "genesis_hash", id="31 bytes"),
        pytest.param("block_hash", 7, "block_hash", id="a number for a hash"),
        pytest.param("validators", "00", "validators", id="no validator set"),
        pytest.param("validators", "0", "validators", id="half a byte"),
        pytest.param("more", 1, "exactly the fields", id="an unknown field"),
    ],
)
def test_an_impossible_checkpoint_is_refused_by_the_name_of_its_field(field: str, value: object, says: str) -> None:
    document = Checkpoint(Hash(bytes(32)), Height(5), Hash(bytes(32)), set_of(SETS[0])).to_json()
    document[field] = value
    with pytest.raises(ValueError, match=says):
        checkpoint_from_json(document)


def test_a_checkpoint_lacking_a_field_is_refused() -> None:
    document = Checkpoint(Hash(bytes(32)), Height(5), Hash(bytes(32)), set_of(SETS[0])).to_json()
    del document["validators"]
    with pytest.raises(ValueError, match="exactly the fields"):
        checkpoint_from_json(document)
