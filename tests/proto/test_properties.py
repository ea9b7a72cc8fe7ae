"""Properties that the protocol promises for every value: signatures, ids, quorums, differential reading, evidence."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from google.protobuf.message import DecodeError as RuntimeRefusal
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import strategies
from tests.chains import Member, certify, header_of, payment, set_of, signed_transaction, small_genesis, some_hash
from tests.fuzz.mutate import mutate
from tests.proto import independent
from tests.signing import FakeSigner, fake_verify_all, real_signer
from tests.strategies import GENESIS_HASH
from tests.vectors.trees import SmallStateTree, perfect
from trellis.block import transaction_leaf
from trellis.certificate import decode_certificate
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId, SignatureCheck
from trellis.crypto.cold import HotKey, decode_cold_certificate
from trellis.crypto.cold import certify as certify_hot
from trellis.crypto.policy import Role
from trellis.crypto.schemes import verify_all, verify_one
from trellis.encoding import DecodeError
from trellis.evidence import (
    ConflictingVotes,
    Evidence,
    EvidenceFault,
    InvalidProofPrepare,
    LockLie,
    accuse_of_conflict,
    decode_evidence,
    encode_evidence,
    evidence_fault,
    is_lock_lie,
    votes_conflict,
)
from trellis.genesis import Genesis
from trellis.hashing import Tag
from trellis.merkle import merkle_root, proof_commitment, prove_inclusion
from trellis.mmr import EMPTY_MMR, prove_mmr
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.records import (
    AddressRecord,
    SignedAddressRecord,
    SignedManifest,
    SnapshotManifest,
    decode_signed_address_record,
    decode_signed_manifest,
)
from trellis.statetree import StateProof, bucket_of
from trellis.transaction import (
    MAX_REVEALED_PROOF_BYTES,
    Output,
    RevealProof,
    SubmitEvidence,
    Transaction,
    TransactionBody,
    Transfer,
    decode_body,
    decode_transaction,
    txid_of,
)
from trellis.types import Address, Hash, Height, View
from trellis.v1 import transaction_pb2
from trellis.validators import ValidatorSet, changed_power, is_allowed_transition
from trellis.votes import Prepared, SignedVote, Vote, VoteKind, decode_signed_vote

# One-bit changes of signed objects, with real signatures

MEMBERS = tuple(Member(real_signer(place), 10) for place in range(4))
GENESIS = small_genesis(MEMBERS)
ACCOUNT = real_signer(50)


def _transaction_holds(data: bytes) -> bool:
    transaction = decode_transaction(data)
    checks = transaction.checks(GENESIS.hash, transaction.public_key)
    return transaction.carried_key_is_senders() and all(verify_all(checks))


def _vote_holds(data: bytes) -> bool:
    signed = decode_signed_vote(data)
    validator = GENESIS.validators.get(signed.signer)
    return validator is not None and verify_one(signed.check(GENESIS.hash, validator))


def _certificate_holds(data: bytes) -> bool:
    return decode_certificate(data).fault(GENESIS.hash, GENESIS.validators, verify_all) is None


def _evidence_holds(data: bytes) -> bool:
    return evidence_fault(decode_evidence(data), GENESIS.hash, GENESIS.validators, verify_all) is None


def _record_holds(data: bytes) -> bool:
    signed = decode_signed_address_record(data)
    return signed.record().hot_peer_id == MEMBERS[0].validator.network_id and verify_one(signed.check())


def _manifest_holds(data: bytes) -> bool:
    signed = decode_signed_manifest(data)
    return signed.public_key == ACCOUNT.public_key and verify_one(signed.check())


def _cold_holds(data: bytes) -> bool:
    certificate = decode_cold_certificate(data)
    return certificate.cold_public_key == ACCOUNT.public_key and verify_one(certificate.check())


def _vote() -> Vote:
    return Vote(VoteKind.PREPARE, Height(7), View(1), some_hash("block"))


def signed_objects() -> dict[str, tuple[bytes, Callable[[bytes], bool]]]:
    other = Vote(VoteKind.COMMIT, Height(7), View(1), some_hash("another block"))
    pair = [MEMBERS[0].sign(vote, GENESIS.hash) for vote in (_vote(), other)]
    record = AddressRecord(
        GENESIS.hash, MEMBERS[0].signer.alg_id, MEMBERS[0].signer.public_key, b"", 3, ("/ip4/1.2.3.4/tcp/5",)
    )
    body = record.encode()
    manifest = SnapshotManifest(GENESIS.hash, Height(5), some_hash("b"), some_hash("s"), 10, 1_000, 16, 1 << 20, 1)
    made = SignedManifest(
        manifest, ACCOUNT.alg_id, ACCOUNT.public_key, ACCOUNT.sign(manifest.encode(), Context.SNAPSHOT.value)
    )
    hot = HotKey(GENESIS.hash, Role.NETWORK_IDENTITY, AlgId.ML_DSA_65, MEMBERS[0].signer.public_key, 100, 200, 1)
    cold = certify_hot(hot, ACCOUNT.alg_id, ACCOUNT.public_key, ACCOUNT.sign)
    signature = MEMBERS[0].signer.sign(body, Context.ADDRESS_RECORD.value)
    return {
        "transaction": (signed_transaction(payment(ACCOUNT), ACCOUNT, GENESIS.hash).encode(), _transaction_holds),
        "vote": (MEMBERS[0].sign(_vote(), GENESIS.hash).encode(), _vote_holds),
        "certificate": (certify(_vote(), MEMBERS, GENESIS.hash).encode(), _certificate_holds),
        "evidence": (encode_evidence(accuse_of_conflict(pair[0], pair[1], GENESIS.hash)), _evidence_holds),
        "address record": (SignedAddressRecord(body, signature).encode(), _record_holds),
        "snapshot manifest": (made.encode(), _manifest_holds),
        "cold certificate": (cold.encode(), _cold_holds),
    }


@pytest.mark.parametrize(
    "name",
    ["transaction", "vote", "certificate", "evidence", "address record", "snapshot manifest", "cold certificate"],
)
def test_any_one_bit_change_of_a_signed_object_is_refused(name: str) -> None:
    data, holds = signed_objects()[name]
    assert holds(data)
    draw = random.Random(name)
    # All bits of the front, where the structure is, and a sample of the rest.
    bits = [*range(8 * 60), *draw.sample(range(8 * 60, 8 * len(data)), 250)]
    passed = []
    for bit in bits:
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        try:
            if holds(bytes(changed)):
                passed.append(bit)
        except DecodeError:
            continue
    assert passed == []


def test_a_signature_for_one_purpose_serves_no_other() -> None:
    message = b"the same bytes"
    for signed_for in Context:
        signature = ACCOUNT.sign(message, signed_for.value)
        for used_for in Context:
            check = SignatureCheck(ACCOUNT.alg_id, ACCOUNT.public_key, message, signature, used_for.value)
            assert verify_one(check) == (signed_for is used_for)


# Hashes and ids


def test_no_tag_is_a_prefix_of_another() -> None:
    tags = [tag.value for tag in Tag]
    assert len(set(tags)) == len(tags)
    assert not [(a, b) for a in tags for b in tags if a != b and b.startswith(a)]
    assert all(tag.startswith(b"trellis/") and tag.endswith(b"/1") for tag in tags)


@given(strategies.transaction_bodies(), strategies.transaction_bodies())
def test_two_different_bodies_never_share_a_txid(one: TransactionBody, other: TransactionBody) -> None:
    assume(one != other)
    assert one.encode() != other.encode()
    assert txid_of(GENESIS_HASH, one.encode()) != txid_of(GENESIS_HASH, other.encode())


@settings(max_examples=40)
@given(strategies.transaction_bodies(), strategies.hashes(), strategies.hashes())
def test_one_body_has_another_txid_on_another_chain(body: TransactionBody, here: Hash, there: Hash) -> None:
    assume(here != there)
    assert txid_of(here, body.encode()) != txid_of(there, body.encode())


@settings(max_examples=50)
@given(strategies.transactions(), st.integers(0, 3_000), st.integers(0, 7))
def test_variants_of_one_transaction_share_the_txid_and_nothing_else(
    transaction: Transaction, place: int, bit: int
) -> None:
    changed = bytearray(transaction.signature)
    changed[place % len(changed)] ^= 1 << bit
    variant = Transaction(transaction.body, transaction.alg_id, transaction.public_key, bytes(changed))
    assert variant.txid(GENESIS_HASH) == transaction.txid(GENESIS_HASH)
    assert variant.witness_leaf != transaction.witness_leaf
    assert variant.witness_id(GENESIS_HASH) != transaction.witness_id(GENESIS_HASH)


@given(st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60), st.binary(max_size=60))
def test_key_and_signature_never_run_into_each_other_in_a_witness(a: bytes, b: bytes, c: bytes, d: bytes) -> None:
    assume((a, b) != (c, d))
    one, other = Transaction(b"x", 1, a, b), Transaction(b"x", 1, c, d)
    assert one.witness_leaf != other.witness_leaf


# Quorums


@settings(max_examples=200)
@given(st.data())
def test_two_quorums_share_more_than_a_third_of_power(data: st.DataObject) -> None:
    """For every n from 1 to 100 and every split of stake, not only n = 3f + 1."""
    size = data.draw(st.integers(1, 100))
    most = data.draw(st.sampled_from([1, 2, 3, 10, 10**6, 2**56]))
    powers = data.draw(st.lists(st.integers(1, most), min_size=size, max_size=size))
    total = sum(powers)
    validators = _set_of_powers(powers)
    order = data.draw(st.permutations(range(size)))
    one = _smallest_quorum(validators, powers, order)
    other = _smallest_quorum(validators, powers, list(reversed(order)))
    shared = sum(powers[place] for place in one & other)
    assert 3 * shared > total
    assert validators.is_blocking(shared)
    # Whoever is left out of a quorum cannot make another, and no quorum forms without a blocking minority.
    left = total - sum(powers[place] for place in one)
    assert not validators.is_quorum(left)
    assert not validators.is_blocking(left) or validators.is_quorum(total - left)


def _set_of_powers(powers: list[int]) -> ValidatorSet:
    return set_of([Member(_cheap(place), power) for place, power in enumerate(powers)])


def _cheap(place: int) -> FakeSigner:
    return FakeSigner(place)


def _smallest_quorum(validators: ValidatorSet, powers: list[int], order: list[int]) -> set[int]:
    chosen: set[int] = set()
    for place in order:
        if validators.is_quorum(sum(powers[at] for at in chosen)):
            break
        chosen.add(place)
    return chosen


@pytest.mark.parametrize("size", range(1, 101))
def test_equal_stakes_need_more_than_two_thirds_of_the_heads(size: int) -> None:
    validators = _set_of_powers([1] * size)
    needed = next(count for count in range(size + 1) if validators.is_quorum(count))
    assert needed == (2 * size) // 3 + 1
    blocking = next(count for count in range(size + 1) if validators.is_blocking(count))
    assert blocking == size // 3 + 1
    # Faults that a quorum survives: f < n/3.
    assert size - needed == (size - 1) // 3


@pytest.mark.parametrize("total", [3, 6, 9, 300, 3 * 2**60])
def test_exactly_two_thirds_is_no_quorum_and_exactly_a_third_blocks_nothing(total: int) -> None:
    third = total // 3
    validators = _set_of_powers([third, third, third])
    assert not validators.is_quorum(2 * third)
    assert validators.is_quorum(2 * third + 1)
    assert not validators.is_blocking(third)
    assert validators.is_blocking(third + 1)


@given(strategies.set_transitions())
def test_a_quorum_of_the_old_set_keeps_more_than_a_third_of_its_power_in_the_new(
    drawn: tuple[ValidatorSet, ValidatorSet],
) -> None:
    old, new = drawn
    assert 3 * changed_power(old, new) <= old.total_power
    for before, after in pairwise([old, new]):
        kept = sum(min(before.power_of(a), after.power_of(a)) for a in before.addresses)
        assert 3 * kept >= 2 * before.total_power


def test_no_set_holds_a_validator_without_power() -> None:
    with pytest.raises(ValueError, match="power above zero"):
        _set_of_powers([1, 0])


def test_a_transition_of_a_hair_more_than_a_third_is_not_allowed() -> None:
    old = _set_of_powers([10, 10, 10])
    assert is_allowed_transition(old, _set_of_powers([10, 10]))
    assert is_allowed_transition(old, _set_of_powers([10, 10, 20]))
    assert not is_allowed_transition(old, _set_of_powers([10, 9]))
    assert not is_allowed_transition(old, _set_of_powers([10, 10, 21]))


# The strict decoder against the protobuf runtime


def _runtime(data: bytes) -> transaction_pb2.TransactionBody | None:
    message = transaction_pb2.TransactionBody()
    try:
        message.ParseFromString(data)
    except RuntimeRefusal:
        return None
    return message


@given(strategies.transaction_bodies())
def test_what_the_strict_codec_writes_the_runtime_reads_to_the_same_values(body: TransactionBody) -> None:
    parsed = _runtime(body.encode())
    assert parsed is not None
    assert parsed.SerializeToString(deterministic=True) == body.encode()
    assert (parsed.sender, parsed.nonce, parsed.fee) == (body.sender, body.nonce, body.fee)
    assert parsed.valid_until_height == body.valid_until_height
    assert parsed.WhichOneof("kind") == body.kind_name
    if isinstance(body.kind, Transfer):
        assert [(o.recipient, o.amount) for o in parsed.transfer.outputs] == [
            (o.recipient, o.amount) for o in body.kind.outputs
        ]


@settings(max_examples=200)
@given(
    st.binary(min_size=32, max_size=32),
    strategies.u64s(),
    strategies.u64s(),
    st.lists(st.tuples(st.sampled_from([b"", bytes(31), bytes(32), b"\1" * 32]), strategies.u64s()), max_size=3),
)
def test_what_the_runtime_writes_is_accepted_exactly_if_it_is_valid(
    sender: bytes, nonce: int, until: int, outputs: list[tuple[bytes, int]]
) -> None:
    message = transaction_pb2.TransactionBody(sender=sender, nonce=nonce, valid_until_height=until)
    message.transfer.SetInParent()
    for recipient, amount in outputs:
        message.transfer.outputs.add(recipient=recipient, amount=amount)
    valid = until > 0 and bool(outputs) and all(len(recipient) == 32 and amount for recipient, amount in outputs)
    data = message.SerializeToString(deterministic=True)
    try:
        body = decode_body(data)
    except DecodeError:
        assert not valid
        return
    assert valid
    assert body.kind == Transfer(tuple(Output(Address(Hash(recipient)), amount) for recipient, amount in outputs))


@settings(max_examples=200)
@given(strategies.transaction_bodies(), st.integers(0, 2**32))
def test_mutated_bodies_that_are_accepted_are_what_the_runtime_would_write(body: TransactionBody, seed: int) -> None:
    data = mutate(body.encode(), random.Random(seed))
    try:
        decode_body(data)
    except DecodeError:
        return
    parsed = _runtime(data)
    assert parsed is not None
    assert parsed.SerializeToString(deterministic=True) == data


@given(strategies.transaction_bodies())
def test_fields_in_another_order_are_refused_though_the_runtime_reads_them(body: TransactionBody) -> None:
    data = body.encode()
    sender, rest = data[:34], data[34:]
    assert _runtime(rest + sender) is not None
    with pytest.raises(DecodeError):
        decode_body(rest + sender)
    with pytest.raises(DecodeError):
        decode_body(sender + data)


# Evidence


@given(strategies.evidence(MEMBERS[0], GENESIS.hash))
@settings(max_examples=30)
def test_true_evidence_with_real_signatures_holds_and_against_nobody_else(item: Evidence) -> None:
    assert evidence_fault(item, GENESIS.hash, GENESIS.validators, verify_all) is None
    others = set_of(MEMBERS[1:])
    assert evidence_fault(item, GENESIS.hash, others, verify_all) is EvidenceFault.UNKNOWN_VALIDATOR


@given(strategies.conflicting_votes())
def test_one_offence_has_one_form(item: Any) -> None:
    swapped = accuse_of_conflict(item.second, item.first, GENESIS_HASH)
    assert swapped == item
    assert ConflictingVotes(item.second, item.first).fault(GENESIS_HASH) is EvidenceFault.NOT_ORDERED


def test_votes_of_two_validators_accuse_neither() -> None:
    one, other = (
        MEMBERS[0].sign(_of(VoteKind.PREPARE, 1, A), GENESIS.hash),
        MEMBERS[1].sign(_of(VoteKind.PREPARE, 1, B), GENESIS.hash),
    )
    item = accuse_of_conflict(one, other, GENESIS.hash)
    assert evidence_fault(item, GENESIS.hash, GENESIS.validators, verify_all) is EvidenceFault.DIFFERENT_SIGNERS
    commit_vote = MEMBERS[0].sign(_of(VoteKind.COMMIT, 0, A), GENESIS.hash)
    denial = MEMBERS[1].sign(_of(VoteKind.VIEW_CHANGE, 1), GENESIS.hash)
    lie = LockLie(commit_vote, denial)
    assert evidence_fault(lie, GENESIS.hash, GENESIS.validators, verify_all) is EvidenceFault.DIFFERENT_SIGNERS


def test_two_signatures_of_one_vote_are_no_offence() -> None:
    """ML-DSA signing is hedged: content is compared, never signature bytes."""
    twice = [MEMBERS[0].sign(_vote(), GENESIS.hash) for _ in range(2)]
    assert twice[0].signature != twice[1].signature
    item = accuse_of_conflict(twice[0], twice[1], GENESIS.hash)
    assert item.fault(GENESIS.hash) is EvidenceFault.NO_CONFLICT


A, B = some_hash("a"), some_hash("b")


def _of(
    kind: VoteKind, view: int, block_hash: Hash | None = None, lock: Prepared | None = None, height: int = 5
) -> Vote:
    return Vote(kind, Height(height), View(view), block_hash, lock)


@pytest.mark.parametrize(
    ("one", "other", "conflict"),
    [
        pytest.param(_of(VoteKind.PREPARE, 1, A), _of(VoteKind.PREPARE, 1, B), True, id="two PREPAREs"),
        pytest.param(_of(VoteKind.COMMIT, 1, A), _of(VoteKind.COMMIT, 1, B), True, id="two COMMITs"),
        pytest.param(_of(VoteKind.PRE_PREPARE, 1, A), _of(VoteKind.PRE_PREPARE, 1, B), True, id="two proposals"),
        pytest.param(_of(VoteKind.PREPARE, 1, A), _of(VoteKind.COMMIT, 1, B), True, id="PREPARE one, COMMIT another"),
        pytest.param(_of(VoteKind.PREPARE, 1, A), _of(VoteKind.COMMIT, 1, A), False, id="PREPARE and COMMIT one"),
        pytest.param(
            _of(VoteKind.PRE_PREPARE, 1, A), _of(VoteKind.PREPARE, 1, B), False, id="propose one, PREPARE another"
        ),
        pytest.param(_of(VoteKind.PREPARE, 1, A), _of(VoteKind.PREPARE, 2, B), False, id="different views"),
        pytest.param(_of(VoteKind.PREPARE, 1, A), _of(VoteKind.PREPARE, 1, B, height=6), False, id="different heights"),
        pytest.param(_of(VoteKind.PREPARE, 1, A), _of(VoteKind.PREPARE, 1, A), False, id="the same vote"),
        pytest.param(
            _of(VoteKind.VIEW_CHANGE, 2),
            _of(VoteKind.VIEW_CHANGE, 2, lock=Prepared(View(0), A)),
            True,
            id="a lock and none",
        ),
        pytest.param(
            _of(VoteKind.VIEW_CHANGE, 2, lock=Prepared(View(0), A)),
            _of(VoteKind.VIEW_CHANGE, 2, lock=Prepared(View(1), A)),
            True,
            id="two locks",
        ),
        pytest.param(_of(VoteKind.VIEW_CHANGE, 2), _of(VoteKind.VIEW_CHANGE, 3), False, id="VIEW-CHANGEs to two views"),
        pytest.param(_of(VoteKind.VIEW_CHANGE, 1), _of(VoteKind.PREPARE, 1, A), False, id="VIEW-CHANGE and PREPARE"),
    ],
)
def test_which_votes_contradict_each_other(one: Vote, other: Vote, conflict: bool) -> None:
    assert votes_conflict(one, other) is votes_conflict(other, one) is conflict


@pytest.mark.parametrize(
    ("commit_vote", "view_change", "lie"),
    [
        pytest.param(_of(VoteKind.COMMIT, 0, A), _of(VoteKind.VIEW_CHANGE, 1), True, id="none counts as below view 0"),
        pytest.param(
            _of(VoteKind.COMMIT, 3, A),
            _of(VoteKind.VIEW_CHANGE, 4, lock=Prepared(View(2), A)),
            True,
            id="an older lock",
        ),
        pytest.param(
            _of(VoteKind.COMMIT, 3, A),
            _of(VoteKind.VIEW_CHANGE, 4, lock=Prepared(View(3), A)),
            False,
            id="the lock it took",
        ),
        pytest.param(
            _of(VoteKind.COMMIT, 3, A),
            _of(VoteKind.VIEW_CHANGE, 9, lock=Prepared(View(5), B)),
            False,
            id="a newer lock",
        ),
        pytest.param(_of(VoteKind.COMMIT, 3, A), _of(VoteKind.VIEW_CHANGE, 3), False, id="to the same view"),
        pytest.param(_of(VoteKind.COMMIT, 3, A), _of(VoteKind.VIEW_CHANGE, 2), False, id="before the COMMIT"),
        pytest.param(_of(VoteKind.COMMIT, 0, A), _of(VoteKind.VIEW_CHANGE, 1, height=6), False, id="at another height"),
        pytest.param(_of(VoteKind.PREPARE, 0, A), _of(VoteKind.VIEW_CHANGE, 1), False, id="a PREPARE takes no lock"),
        pytest.param(_of(VoteKind.COMMIT, 0, A), _of(VoteKind.COMMIT, 1, A), False, id="two COMMITs"),
    ],
)
def test_what_is_a_lock_lie(commit_vote: Vote, view_change: Vote, lie: bool) -> None:
    assert is_lock_lie(commit_vote, view_change) is lie


@settings(max_examples=5)
@given(strategies.invalid_proof_prepares(MEMBERS[0], GENESIS.hash))
def test_an_accusation_that_does_not_fit_together_names_its_fault(item: InvalidProofPrepare) -> None:
    transfer = signed_transaction(payment(ACCOUNT), ACCOUNT, GENESIS.hash)
    leaf = transaction_leaf(transfer.txid(GENESIS.hash), Outcome.OK, 3_000)
    header = header_of(GENESIS, item.header.height, MEMBERS[0].address, tx_root=leaf)
    prepare = MEMBERS[0].sign(Vote(VoteKind.PREPARE, header.height, View(0), header.hash), GENESIS.hash)
    harmless = InvalidProofPrepare(prepare, header, prove_inclusion([leaf], [0]), transfer, 3_000)
    committed = MEMBERS[0].sign(replace(item.prepare.vote, kind=VoteKind.COMMIT), GENESIS.hash)
    cases = {
        EvidenceFault.WRONG_KIND: replace(item, prepare=committed),
        EvidenceFault.WRONG_CHAIN: replace(item, header=replace(item.header, genesis_hash=A)),
        EvidenceFault.WRONG_BLOCK: replace(item, header=replace(item.header, timestamp_ms=1)),
        EvidenceFault.NOT_IN_BLOCK: replace(item, fee=item.fee ^ 1),
        EvidenceFault.NOT_A_PROOF: harmless,
    }
    for fault, changed in cases.items():
        assert evidence_fault(changed, GENESIS.hash, GENESIS.validators, fake_verify_all) is fault


def test_evidence_of_the_largest_proof_fits_one_transaction() -> None:
    """Else a validator could vouch for an invalid proof that is too large to be held against it."""
    most = 2**64 - 1
    for size, accepted in ((MAX_REVEALED_PROOF_BYTES, True), (MAX_REVEALED_PROOF_BYTES + 1, False)):
        reveal = TransactionBody(Address(A), most, Height(most), most, RevealProof(A, bytes(size), A, most))
        if not accepted:
            with pytest.raises(DecodeError):
                decode_body(reveal.encode())
            return
        transaction = Transaction(decode_body(reveal.encode()).encode(), 16, bytes(32 << 10), bytes(64 << 10))
        header = header_of(GENESIS, 5, MEMBERS[0].address)
        prepare = SignedVote(Vote(VoteKind.PREPARE, Height(5), View(0), header.hash), MEMBERS[0].address, bytes(4_627))
        path = prove_inclusion([some_hash(place) for place in range(100)], [50])
        item = InvalidProofPrepare(prepare, header, path, decode_transaction(transaction.encode()), most)
        accusation = TransactionBody(Address(A), most, Height(most), most, SubmitEvidence(encode_evidence(item)))
        assert decode_body(accusation.encode()) == accusation
        assert decode_evidence(encode_evidence(item)) == item


# Trees


@settings(max_examples=60)
@given(st.data())
def test_every_set_of_leaves_has_one_proof_that_leads_to_the_root(data: st.DataObject) -> None:
    leaves = [some_hash(place) for place in range(data.draw(st.integers(1, 70)))]
    chosen = sorted(data.draw(st.sets(st.integers(0, len(leaves) - 1), min_size=1, max_size=6)))
    proof = prove_inclusion(leaves, chosen)
    assert merkle_root(leaves) == independent.merkle([bytes(leaf) for leaf in leaves])
    assert proof.root([leaves[place] for place in chosen]) == merkle_root(leaves)
    spoiled = [leaves[place] for place in chosen]
    spoiled[data.draw(st.integers(0, len(spoiled) - 1))] = some_hash("not there")
    assert proof.root(spoiled) != merkle_root(leaves)


@given(st.integers(0, 40), st.integers(0, 40))
def test_trees_of_different_sizes_have_different_roots(one: int, other: int) -> None:
    assume(one != other)
    assert merkle_root([A] * one) != merkle_root([A] * other)
    assert proof_commitment([b"x"] * one) != proof_commitment([b"x"] * other)


@settings(max_examples=60)
@given(st.integers(1, 300), st.data())
def test_every_old_block_is_provably_in_the_mountain_range(count: int, data: st.DataObject) -> None:
    leaves = [some_hash(place) for place in range(count)]
    range_ = EMPTY_MMR
    for leaf in leaves:
        range_ = range_.append(leaf)
    assert range_.root == independent.mmr_root([bytes(leaf) for leaf in leaves])
    index = data.draw(st.integers(0, count - 1))
    proof = prove_mmr(index, count, lambda start, height: perfect(leaves, start, height))
    assert proof.verifies(leaves[index], range_.root)
    assert not proof.verifies(some_hash("not there"), range_.root)
    assert len(proof.path) + len(proof.others) < 2 * count.bit_length()


@settings(max_examples=60)
@given(
    st.dictionaries(st.binary(min_size=1, max_size=4), st.binary(max_size=4), max_size=40),
    st.binary(max_size=4),
    st.integers(4, 6),
)
def test_every_key_is_provably_there_or_not_there(state: dict[bytes, bytes], key: bytes, buckets_log2: int) -> None:
    tree = SmallStateTree(state, buckets_log2)
    root = Hash(tree.root.hash)
    assert root == independent.state_root(state, buckets_log2)[0]
    for asked in (key, *list(state)[:3]):
        proof = tree.prove(asked)
        assert proof.lookup(asked, root, buckets_log2) == (True, state.get(asked))
        assert proof.lookup(asked, A, buckets_log2) == (False, None)
        assert proof.lookup(asked, root, buckets_log2 + 1) == (False, None)
        if asked in state and proof.left is not None:
            other = proof.left.value + b"!"
            lied = replace(proof, left=replace(proof.left, value=other))
            assert lied.lookup(asked, root, buckets_log2) == (False, None)


@settings(max_examples=100)
@given(st.dictionaries(st.binary(min_size=1, max_size=2), st.binary(max_size=2), min_size=2, max_size=60), st.data())
def test_nobody_proves_the_absence_of_what_is_there(state: dict[bytes, bytes], data: st.DataObject) -> None:
    """Neighbours that are not adjacent, ends that are not ends, another bucket's emptiness: none of it convinces."""
    tree = SmallStateTree(state, 4)
    root, key = Hash(tree.root.hash), data.draw(st.sampled_from(sorted(state)))
    honest = tree.prove(key)
    keys = tree.buckets[bucket_of(key, 4)]
    entries = [None, *(tree.prove(other).left for other in keys if other != key)]
    left, right = data.draw(st.sampled_from(entries)), data.draw(st.sampled_from(entries))
    forged = StateProof(left, right, honest.buckets)
    assert forged.lookup(key, root, 4) == (False, None)
    elsewhere = tree.prove(data.draw(st.sampled_from(sorted(state))) + b"x")
    assert elsewhere.lookup(key, root, 4) in ((False, None), (True, state[key]))


# Networks


@given(strategies.network_configurations(), strategies.network_configurations())
@settings(max_examples=40)
def test_different_networks_have_different_hashes(one: Genesis, other: Genesis) -> None:
    assume(one != other)
    assert one.hash != other.hash


@given(strategies.parameter_sets(), strategies.parameter_sets())
def test_different_parameters_have_different_hashes(one: Parameters, other: Parameters) -> None:
    assume(one != other)
    assert one.hash_with({}) != other.hash_with({})
    assert one.hash_with({}) != one.hash_with({"lrat.v1": b""})
    assert one.hash_with({"lrat.v1": b"1"}) != one.hash_with({"lrat.v1": b"2"})


@given(strategies.signed_votes())
def test_votes_of_another_chain_do_not_verify_here(signed: SignedVote) -> None:
    validator = next(
        m.validator for base in range(0, 400, 100) for m in [Member(FakeSigner(base), 1)] if m.address == signed.signer
    )
    assert fake_verify_all([signed.check(GENESIS_HASH, validator)]) == [True]
    assert fake_verify_all([signed.check(A, validator)]) == [False]
