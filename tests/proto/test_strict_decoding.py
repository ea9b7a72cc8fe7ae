"""Every decoder takes one form of each object and refuses all others with a reason, at a cost its input bounds."""

from __future__ import annotations

import contextlib
import random
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import strategies
from tests.chains import certify, fake_members, some_hash
from tests.fuzz.campaign import Escaped, fuzz_by_mutation
from tests.fuzz.mutate import mutate
from tests.fuzz.targets import TARGETS, Found, Target
from trellis.address import (
    MultisigPolicy,
    decode_member_signatures,
    decode_policy,
    encode_member_signatures,
    format_address,
    make_policy,
    parse_address,
)
from trellis.block import Block, compact_body, decode_block, decode_compact_body
from trellis.certificate import Certificate, decode_certificate
from trellis.constants import MAX_TX_BODY_BYTES, MAX_VALIDATORS
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import AlgorithmPolicy, decode_policy_document
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.evidence import Evidence, decode_evidence, encode_evidence
from trellis.header import Header, Seal, decode_header, decode_seal
from trellis.merkle import InclusionProof, prove_inclusion, read_inclusion_proof
from trellis.messages import Message, decode_message, encode_message
from trellis.mmr import Mmr, MmrProof, decode_mmr, decode_mmr_proof, prove_mmr
from trellis.protowire import MAX_DEPTH, Field, FieldType
from trellis.protowire import Message as WireMessage
from trellis.protowire import decode as wire_decode
from trellis.protowire import encode as wire_encode
from trellis.receipt import decode_receipt
from trellis.records import (
    AddressRecord,
    SignedAddressRecord,
    SignedManifest,
    VerdictBatch,
    decode_signed_address_record,
    decode_signed_manifest,
    decode_verdict_batch,
)
from trellis.statetree import Node, StateProof, decode_state_proof
from trellis.transaction import MAX_OUTPUTS, TransactionBody, decode_body, decode_transaction
from trellis.types import Address, Height, View
from trellis.validators import ValidatorSet, decode_validator_set
from trellis.votes import Prepared, SignedVote, Vote, VoteKind, decode_signed_vote
from trellis.wire import Flags, Frame, FrameDecoder, encode_frame, next_sequence

# Text and JSON have many forms on purpose, frames are a stream: they have tests of their own.
MANY_FORMS = ("frames", "address", "peer_id", "genesis", "checkpoint", "keystore")
OBJECTS = [target for name, target in TARGETS.items() if name not in MANY_FORMS]


def some_cuts(size: int) -> list[int]:
    """Every length of a short object; of a long one its front, its end, and one in 97 between."""
    return sorted({n for n in range(size) if size < 1_500 or n < 600 or n > size - 60 or n % 97 == 0})


@pytest.mark.parametrize("target", OBJECTS, ids=lambda target: target.name)
def test_every_truncation_is_refused(target: Target) -> None:
    for seed in target.seeds():
        assert target.run(seed)
        accepted = [size for size in some_cuts(len(seed)) if target.run(seed[:size])]
        assert accepted == []


@pytest.mark.parametrize("target", OBJECTS, ids=lambda target: target.name)
def test_every_extension_is_refused(target: Target) -> None:
    for seed in target.seeds():
        for more in (b"\x00", b"\x01", b"\xff", bytes(4), bytes(64), seed):
            assert not target.run(seed + more)


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_mutated_bytes_are_refused_or_mean_exactly_what_they_say(target: Target) -> None:
    runs, _ = fuzz_by_mutation(target, seconds=60, seed=7, most_runs=400)
    assert runs == 400


def test_the_mutations_reach_acceptance_and_refusal_of_every_target() -> None:
    """A target that nothing ever passes, or nothing ever fails, would test nothing."""
    for target in TARGETS.values():
        draw, seeds = random.Random(3), target.seeds()
        answers = {target.run(seed) for seed in seeds} | {target.run(mutate(seeds[0], draw)) for _ in range(50)}
        assert answers == {True, False}, target.name


@pytest.mark.parametrize(
    "careless",
    [
        lambda data: data.hex(),
        lambda data: int(data.hex(), 16) // 0,
        lambda data: decode_header(data[:458].ljust(458, b"\0")),
    ],
    ids=["answers nonsense", "raises something else", "pads and cuts its input"],
)
def test_a_careless_decoder_is_found(careless: Callable[[bytes], object]) -> None:
    from tests.fuzz.targets import exact

    honest = TARGETS["header"]
    target = exact("careless", careless, lambda value: value.encode(), honest.seeds)
    with pytest.raises((Escaped, Found, AttributeError, TypeError)):
        fuzz_by_mutation(target, seconds=10, most_runs=50)


# Round trips


@given(strategies.headers())
def test_headers_round_trip(header: Header) -> None:
    assert decode_header(header.encode()) == header


@given(st.builds(Seal, st.integers(0, 2**256 - 1), strategies.u64s()))
def test_seals_round_trip(seal: Seal) -> None:
    assert decode_seal(seal.encode()) == seal


@given(strategies.signed_votes())
def test_votes_round_trip(signed: SignedVote) -> None:
    assert decode_signed_vote(signed.encode()) == signed


@given(strategies.certificates(max_size=20))
def test_certificates_round_trip(drawn: tuple[Certificate, ValidatorSet]) -> None:
    assert decode_certificate(drawn[0].encode()) == drawn[0]


@given(strategies.messages())
def test_messages_round_trip(message: Message) -> None:
    assert decode_message(encode_message(message)) == message


@given(strategies.evidence())
def test_evidence_round_trips(item: Evidence) -> None:
    assert decode_evidence(encode_evidence(item)) == item


@given(strategies.validator_sets())
def test_validator_sets_round_trip(validators: ValidatorSet) -> None:
    assert decode_validator_set(validators.encode()) == validators


@given(strategies.transaction_bodies())
def test_bodies_round_trip(body: TransactionBody) -> None:
    assert decode_body(body.encode()) == body


@given(strategies.multisig_accounts())
def test_multisig_policies_round_trip(drawn: tuple[MultisigPolicy, object]) -> None:
    assert decode_policy(drawn[0].encode()) == drawn[0]


@given(strategies.addresses())
def test_addresses_round_trip(address: Address) -> None:
    assert parse_address(format_address(address)) == address


@given(strategies.peer_infos())
def test_address_records_round_trip(drawn: tuple[AddressRecord, SignedAddressRecord]) -> None:
    record, signed = drawn
    assert decode_signed_address_record(signed.encode()).record() == record


@given(strategies.snapshot_manifests())
def test_manifests_round_trip(signed: SignedManifest) -> None:
    assert decode_signed_manifest(signed.encode()) == signed


@given(strategies.verdict_batches())
def test_verdict_batches_round_trip(batch: VerdictBatch) -> None:
    assert decode_verdict_batch(batch.encode()) == batch


@given(strategies.policies())
def test_algorithm_policies_round_trip(policy: AlgorithmPolicy) -> None:
    assert decode_policy_document(policy.encode()) == policy


@settings(max_examples=40)
@given(strategies.blocks())
def test_compact_bodies_round_trip(block: Block) -> None:
    entries = decode_compact_body(compact_body(block.transactions, strategies.GENESIS_HASH), 1 << 24)
    assert [e.txid for e in entries] == [t.txid(strategies.GENESIS_HASH) for t in block.transactions]
    assert [e.size_bytes for e in entries] == [len(t.encode()) for t in block.transactions]


# Reasons


def _header(version: int = 1) -> bytes:
    return version.to_bytes(2, "big") + bytes(456)


def _vote(kind: int = 1, tail: bytes = bytes(32)) -> bytes:
    return bytes([kind]) + bytes(16) + tail + bytes(32) + (3).to_bytes(4, "big") + b"sig"


def _lp(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value


def _member(address: int, power: int = 1, alg_id: int = 1, key: int = 1_952) -> bytes:
    return bytes([address]) * 32 + bytes([alg_id]) + _lp(bytes(key)) + _lp(b"id") + power.to_bytes(8, "big")


def _set(*members: bytes) -> bytes:
    return len(members).to_bytes(4, "big") + b"".join(members)


def _cert(kind: int = 3, signers: bytes = b"\x01", count: int = 1, signatures: bytes = _lp(b"s")) -> bytes:
    return bytes([kind]) + bytes(48) + _lp(signers) + count.to_bytes(4, "big") + signatures


def _path(count: int, indices: list[int], hashes: int = 0) -> bytes:
    packed = count.to_bytes(8, "big") + len(indices).to_bytes(4, "big")
    return packed + b"".join(i.to_bytes(8, "big") for i in indices) + hashes.to_bytes(4, "big") + bytes(32 * hashes)


def _policy(threshold: int, *keys: tuple[int, bytes]) -> bytes:
    return bytes([threshold, len(keys)]) + b"".join(bytes([alg]) + _lp(key) for alg, key in keys)


def _batch(*entries: tuple[int, int]) -> bytes:
    packed = b"trellis/verdicts/1" + bytes(40) + len(entries).to_bytes(4, "big")
    return packed + b"".join(bytes([statement]) * 32 + bytes([verdict]) for statement, verdict in entries)


def _rules(*entries: tuple[int, int, int, int]) -> bytes:
    packed = b"".join(bytes([r, a]) + on.to_bytes(8, "big") + off.to_bytes(8, "big") for r, a, on, off in entries)
    return len(entries).to_bytes(2, "big") + packed


def _record(*addresses: bytes, alg_id: int = 1, key: int = 1_952) -> bytes:
    packed = bytes(32) + bytes([alg_id]) + _lp(bytes(key)) + _lp(b"") + bytes(8) + len(addresses).to_bytes(2, "big")
    return _lp(packed + b"".join(_lp(item) for item in addresses)) + _lp(b"sig")


def _path_of(data: bytes) -> InclusionProof:
    return decode_whole(data, "path", 1 << 20, read_inclusion_proof)


K1, K2, SLH = b"a" * 1_952, b"b" * 1_952, b"s" * 32
POLICY = MultisigPolicy(2, ((AlgId.ML_DSA_65, K1), (AlgId.ML_DSA_65, K2), (AlgId.SLH_DSA_SHAKE_128S, SLH)))
SIG, SLH_SIG = bytes(3_309), bytes(7_856)
NEVER = 2**64 - 1
M = Malformed

REASONS: list[tuple[str, Callable[[bytes], object], bytes, Malformed]] = [
    ("a header of another version", decode_header, _header(2), M.UNKNOWN_VERSION),
    ("a header one byte short", decode_header, _header()[:-1], M.TRUNCATED),
    ("a header one byte long", decode_header, _header() + b"\0", M.TOO_LARGE),
    ("a vote of no kind", decode_signed_vote, _vote(0), M.UNKNOWN_KIND),
    ("a vote of a kind to come", decode_signed_vote, _vote(5), M.UNKNOWN_KIND),
    ("a flag of two", decode_signed_vote, _vote(4, b"\x02" + bytes(40)), M.NOT_CANONICAL),
    ("an absent lock with a view", decode_signed_vote, _vote(4, bytes(8) + b"\x01" + bytes(32)), M.NOT_CANONICAL),
    ("an absent lock with a hash", decode_signed_vote, _vote(4, bytes(9) + b"\x01" * 32), M.NOT_CANONICAL),
    ("a signature of 4,628 bytes", decode_signed_vote, _vote()[:-7] + _lp(bytes(4_628)), M.TOO_LARGE),
    ("a certificate of PRE-PREPAREs", decode_certificate, _cert(1), M.UNKNOWN_KIND),
    ("a certificate of VIEW-CHANGEs", decode_certificate, _cert(4), M.UNKNOWN_KIND),
    ("a bitmap for 10,001 validators", decode_certificate, _cert(3, bytes(1_251)), M.TOO_LARGE),
    ("more signatures than bits", decode_certificate, _cert(3, b"\x01", 9, _lp(b"s") * 9), M.TOO_MANY),
    ("signatures that do not follow", decode_certificate, _cert(3, b"\xff", 8, b""), M.TRUNCATED),
    ("an empty set", decode_validator_set, _set(), M.NOT_CANONICAL),
    ("a set out of order", decode_validator_set, _set(_member(2), _member(1)), M.NOT_CANONICAL),
    ("a validator twice", decode_validator_set, _set(_member(1), _member(1)), M.NOT_CANONICAL),
    ("power beyond 64 bits", decode_validator_set, _set(_member(1, NEVER), _member(2, 1)), M.NOT_CANONICAL),
    ("a validator without power", decode_validator_set, _set(_member(1, 0)), M.OUT_OF_RANGE),
    (
        "a validator with a slow key",
        decode_validator_set,
        _set(_member(1, 1, 3, 32)) + bytes(2_000),
        M.UNKNOWN_ALGORITHM,
    ),
    ("a validator with a group key", decode_validator_set, _set(_member(1, 1, 16)), M.UNKNOWN_ALGORITHM),
    ("a key of the other size", decode_validator_set, _set(_member(1, 1, 2)), M.WRONG_SIZE),
    ("more validators than allowed", decode_validator_set, (10_001).to_bytes(4, "big"), M.TOO_MANY),
    ("a million validators in four bytes", decode_validator_set, (9_999).to_bytes(4, "big"), M.TRUNCATED),
    ("a path in no tree", _path_of, _path(0, [0]), M.OUT_OF_RANGE),
    ("a path in too large a tree", _path_of, _path(2**32 + 1, [0]), M.OUT_OF_RANGE),
    ("a path of no leaf", _path_of, _path(3, []), M.NOT_CANONICAL),
    ("an index outside the tree", _path_of, _path(3, [3]), M.NOT_CANONICAL),
    ("an index twice", _path_of, _path(3, [1, 1]), M.NOT_CANONICAL),
    ("indices that descend", _path_of, _path(3, [1, 0]), M.NOT_CANONICAL),
    ("a policy of no keys", decode_policy, _policy(1), M.NOT_CANONICAL),
    ("a threshold of none", decode_policy, _policy(0, (1, K1)), M.NOT_CANONICAL),
    ("a threshold above the keys", decode_policy, _policy(2, (1, K1)), M.NOT_CANONICAL),
    ("keys that descend", decode_policy, _policy(1, (1, K2), (1, K1)), M.NOT_CANONICAL),
    ("a key twice", decode_policy, _policy(1, (1, K1), (1, K1)), M.NOT_CANONICAL),
    ("a policy within a policy", decode_policy, _policy(1, (16, K1)), M.UNKNOWN_ALGORITHM),
    ("nine keys", decode_policy, _policy(1, *((3, bytes([n]) * 32) for n in range(9))), M.TOO_MANY),
    ("a batch of nothing", decode_verdict_batch, _batch(), M.NOT_CANONICAL),
    ("a statement twice", decode_verdict_batch, _batch((1, 1), (1, 2)), M.NOT_CANONICAL),
    ("statements that descend", decode_verdict_batch, _batch((2, 1), (1, 1)), M.NOT_CANONICAL),
    ("a verdict of abstention", decode_verdict_batch, _batch((1, 0)), M.UNKNOWN_KIND),
    ("a batch under another tag", decode_verdict_batch, b"trellis/verdicts/2" + bytes(44), M.UNKNOWN_KIND),
    ("rules that descend", decode_policy_document, _rules((2, 1, 0, NEVER), (1, 1, 0, NEVER)), M.NOT_CANONICAL),
    ("a rule twice", decode_policy_document, _rules((3, 1, 0, 5), (3, 1, 6, 9)), M.NOT_CANONICAL),
    ("a sunset before dawn", decode_policy_document, _rules((3, 1, 5, 5)), M.NOT_CANONICAL),
    ("an unknown role", decode_policy_document, _rules((9, 1, 0, NEVER)), M.UNKNOWN_KIND),
    ("addresses that descend", decode_signed_address_record, _record(b"b", b"a"), M.NOT_CANONICAL),
    ("an address twice", decode_signed_address_record, _record(b"a", b"a"), M.NOT_CANONICAL),
    ("an address that is no text", decode_signed_address_record, _record(b"\xff"), M.NOT_UTF8),
    ("seventeen addresses", decode_signed_address_record, _record(*(b"%02d" % n for n in range(17))), M.TOO_MANY),
    ("an address of 257 bytes", decode_signed_address_record, _record(b"a" * 257), M.TOO_LARGE),
    ("a record of a group key", decode_signed_address_record, _record(alg_id=16), M.UNKNOWN_ALGORITHM),
    ("no receipt", decode_receipt, b"trellis-receipt\x01" + bytes(500), M.UNKNOWN_KIND),
    ("a receipt to come", decode_receipt, b"trellis-receipt\x00\x00\x02" + bytes(500), M.UNKNOWN_VERSION),
    (
        "an outcome to come",
        decode_receipt,
        b"trellis-receipt\0\0\x01" + _lp(b"x") + b"\xff\xff" + bytes(9),
        M.UNKNOWN_KIND,
    ),
    ("evidence of no kind", decode_evidence, b"\x00" + _vote(), M.UNKNOWN_KIND),
    ("a message of no kind", decode_message, b"\x00", M.UNKNOWN_KIND),
    ("a ballot that holds a VIEW-CHANGE", decode_message, b"\x02" + _vote(4, bytes(41)), M.UNKNOWN_KIND),
    ("a VIEW-CHANGE message that holds a COMMIT", decode_message, b"\x03" + _vote(3) + bytes(4), M.UNKNOWN_KIND),
    ("a proposal that holds a PREPARE", decode_message, b"\x01" + _vote(2) + bytes(500), M.UNKNOWN_KIND),
    ("an empty message", decode_message, b"", M.TRUNCATED),
    (
        "a compact body that lists one twice",
        lambda d: decode_compact_body(d, 9),
        (2).to_bytes(4, "big") + bytes(88),
        M.NOT_CANONICAL,
    ),
    (
        "a compact body of too much",
        lambda d: decode_compact_body(d, 9),
        (1).to_bytes(4, "big") + bytes(43) + b"\x0a",
        M.TOO_LARGE,
    ),
]


@pytest.mark.parametrize(("decode", "data", "reason"), [pytest.param(*c[1:], id=c[0]) for c in REASONS])
def test_the_reason_of_a_refusal_says_what_is_wrong(
    decode: Callable[[bytes], object], data: bytes, reason: Malformed
) -> None:
    with pytest.raises(DecodeError) as caught:
        decode(data)
    assert caught.value.reason is reason


def _members(*items: tuple[int, bytes]) -> bytes:
    return bytes([len(items)]) + b"".join(bytes([index]) + _lp(signature) for index, signature in items)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(_members((0, SIG)), M.INCONSISTENT, id="one of two"),
        pytest.param(_members((0, SIG), (1, SIG), (2, SLH_SIG)), M.INCONSISTENT, id="three where two are enough"),
        pytest.param(_members((1, SIG), (0, SIG)), M.NOT_CANONICAL, id="descending"),
        pytest.param(_members((1, SIG), (1, SIG)), M.NOT_CANONICAL, id="one member twice"),
        pytest.param(_members((0, SIG), (3, SIG)), M.NOT_CANONICAL, id="no such member"),
        pytest.param(_members((0, SIG), (2, SIG)), M.WRONG_SIZE, id="a signature of another algorithm's size"),
        pytest.param(_members((0, SIG), (1, SIG)) + b"\0", M.TRAILING_BYTES, id="something behind"),
    ],
)
def test_multi_signatures_have_one_form(data: bytes, reason: Malformed) -> None:
    assert decode_member_signatures(_members((0, SIG), (2, SLH_SIG)), POLICY) == ((0, SIG), (2, SLH_SIG))
    with pytest.raises(DecodeError) as caught:
        decode_member_signatures(data, POLICY)
    assert caught.value.reason is reason


def test_the_largest_multi_signature_and_its_policy_fit_their_caps() -> None:
    slow = make_policy(8, [(AlgId.SLH_DSA_SHAKE_128S, bytes([n]) * 32) for n in range(8)])
    signed = encode_member_signatures([(n, SLH_SIG) for n in range(8)])
    assert len(decode_member_signatures(signed, slow)) == 8
    large = make_policy(8, [(AlgId.ML_DSA_87, bytes([n]) * 2_592) for n in range(8)])
    assert decode_policy(large.encode()) == large


# Memory


def peak_bytes(target: Target, data: bytes) -> int:
    """The most that was allocated at once while the bytes were decoded."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    with contextlib.suppress(ValueError, UnicodeDecodeError):
        target.decode(data)
    return tracemalloc.get_traced_memory()[1] - before


DENSE: dict[str, list[bytes]] = {
    "body": [
        _dense
        for item in (b"\x0a\x00", b"\x0a\x02\x10\x01")
        for _dense in [b"\x0a\x20" + bytes(32) + b"\x18\x01\x52\xfc\xff\x3e" + (item * (1 << 19))[: 1_048_572 - 65_536]]
    ]
    + [b"\x0a\x20" + bytes(32) + b"\x18\x01\x92\x01\xfc\xff\x3e" + (b"\x1a\x00" * (1 << 19))[: 1_048_572 - 65_536]],
    "certificate": [_cert(3, b"\xff" * 1_250, 10_000, bytes(40_000))],
    "compact_body": [(5_000).to_bytes(4, "big") + b"".join(n.to_bytes(44, "big") for n in range(5_000))],
    "inclusion_proof": [_path(2**32, list(range(4_096)), 4_000)],
    "message": [
        b"\x01" + _vote(1) + _header() + bytes(4) + (9_000).to_bytes(4, "big") + _vote(4, bytes(41))[:-3] * 9_000
    ],
    "schedule": [bytes(88) + (9_000).to_bytes(4, "big") + bytes(52 * 9_000) + bytes(4)],
    "state_proof": [b"\0\0" + (64).to_bytes(4, "big") + bytes(48 * 64)],
    "block": [
        _header() + bytes(8) + (6_000).to_bytes(4, "big") + (_lp(b"\x0a\x01x\x10\x01\x22\x35" + bytes(53))) * 6_000
    ],
    "mmr": [b"\xff" * 8 + bytes(32 * 64)],
    "address_record": [_record(*(b"%02d" % n for n in range(16)))],
    "verdict_batch": [_batch(*((n, 1) for n in range(250)))],
    "transaction": [b"\x0a\x01x\x10\x01\x22\xff\xff\x03" + bytes(65_535)],
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=lambda target: target.name)
def test_no_decoder_allocates_much_more_than_its_input(target: Target) -> None:
    """Hostile lengths and counts at every place, and inputs of as many small items as fit."""
    draw, hostile = random.Random(11), list(DENSE.get(target.name, []))
    for seed in target.seeds()[:3]:
        for at in some_cuts(min(len(seed), 400)):
            for size in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\xff\xff\xff"):
                if draw.random() < 0.4:
                    hostile.append(seed[:at] + size + seed[at + 4 :])
    tracemalloc.start()
    try:
        for warm_up in target.seeds()[:1]:
            target.run(warm_up)
        worst = max(peak_bytes(target, data) - 16 * len(data) for data in hostile)
    finally:
        tracemalloc.stop()
    # Sixteen: a frozen object of a few integers costs a dozen times its bytes. The rest is for messages of errors.
    assert worst < 1 << 15


def test_a_body_of_empty_outputs_costs_what_its_bytes_cost() -> None:
    """Two bytes of an empty output once cost ninety in memory, half a million times."""
    items = b"\x0a\x00" * 500_000
    data = b"\x0a\x20" + bytes(32) + b"\x18\x01\x52" + b"\xc0\x84\x3d" + items
    tracemalloc.start()
    try:
        with pytest.raises(DecodeError) as caught:
            decode_body(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert caught.value.reason is Malformed.TOO_MANY
    assert peak < len(data)


# The wire form of protobuf

INNER = WireMessage("Inner", (Field(1, "number", FieldType.UINT64),))
OUTER = WireMessage(
    "Outer",
    (
        Field(1, "count", FieldType.UINT32),
        Field(2, "raw", FieldType.BYTES),
        Field(3, "text", FieldType.STRING),
        Field(4, "parts", FieldType.REPEATED_BYTES, most=3),
        Field(5, "inner", FieldType.MESSAGE, INNER),
        Field(6, "inners", FieldType.REPEATED_MESSAGE, INNER, most=2),
    ),
)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\x08", M.TRUNCATED, id="a tag without a value"),
        pytest.param(b"\x08\x80", M.TRUNCATED, id="a varint cut off"),
        pytest.param(b"\x08\x80\x00", M.OVERLONG_VARINT, id="zero in two bytes"),
        pytest.param(b"\x08\x81\x80\x00", M.OVERLONG_VARINT, id="one in three bytes"),
        pytest.param(b"\x88\x00\x01", M.OVERLONG_VARINT, id="a tag in two bytes"),
        pytest.param(b"\x12\x81\x00x", M.OVERLONG_VARINT, id="a length in two bytes"),
        pytest.param(b"\x08" + b"\xff" * 10, M.OVERLONG_VARINT, id="eleven bytes of varint"),
        pytest.param(b"\x08" + b"\xff" * 9 + b"\x02", M.OUT_OF_RANGE, id="65 bits"),
        pytest.param(b"\x08\x80\x80\x80\x80\x10", M.OUT_OF_RANGE, id="33 bits in uint32"),
        pytest.param(b"\x08\x00", M.ENCODED_DEFAULT, id="an encoded zero"),
        pytest.param(b"\x12\x00", M.ENCODED_DEFAULT, id="encoded empty bytes"),
        pytest.param(b"\x1a\x00", M.ENCODED_DEFAULT, id="an encoded empty string"),
        pytest.param(b"\x1a\x02\xc0\x80", M.NOT_UTF8, id="an overlong NUL"),
        pytest.param(b"\x1a\x03\xed\xa0\x80", M.NOT_UTF8, id="a surrogate"),
        pytest.param(b"\x08\x01\x08\x01", M.DUPLICATE_FIELD, id="a number twice"),
        pytest.param(b"\x12\x01a\x12\x01b", M.DUPLICATE_FIELD, id="bytes twice"),
        pytest.param(b"\x2a\x00\x2a\x00", M.DUPLICATE_FIELD, id="a message twice"),
        pytest.param(b"\x12\x01a\x08\x01", M.FIELD_ORDER, id="descending fields"),
        pytest.param(b"\x22\x01a\x12\x01b\x22\x01c", M.FIELD_ORDER, id="a repeated field in two parts"),
        pytest.param(b"\x38\x01", M.UNKNOWN_FIELD, id="an unknown number"),
        pytest.param(b"\x00\x01", M.UNKNOWN_FIELD, id="field zero"),
        pytest.param(b"\x0a\x01a", M.WRONG_WIRE_TYPE, id="bytes where a number belongs"),
        pytest.param(b"\x10\x01", M.WRONG_WIRE_TYPE, id="a number where bytes belong"),
        pytest.param(b"\x0d\x01\x00\x00\x00", M.WRONG_WIRE_TYPE, id="fixed32"),
        pytest.param(b"\x0b\x0c", M.WRONG_WIRE_TYPE, id="a group"),
        pytest.param(b"\x12\x05abc", M.TRUNCATED, id="bytes past the end"),
        pytest.param(b"\x2a\x02\x08\x01"[:-1], M.TRUNCATED, id="a message past the end"),
        pytest.param(b"\x2a\x01\x08\x01\x01", M.TRUNCATED, id="a varint past its message"),
        pytest.param(b"\x2a\x01\x08", M.TRUNCATED, id="a field cut off in a message"),
        pytest.param(b"\x22\x00" * 4, M.TOO_MANY, id="four of three"),
        pytest.param(b"\x32\x00" * 3, M.TOO_MANY, id="three messages of two"),
    ],
)
def test_protobuf_has_one_form_of_every_message(data: bytes, reason: Malformed) -> None:
    with pytest.raises(DecodeError) as caught:
        wire_decode(OUTER, data)
    assert caught.value.reason is reason


def test_messages_nest_only_as_deep_as_the_protocol_says() -> None:
    message, data = INNER, b""
    for _ in range(MAX_DEPTH):
        message = WireMessage("Deeper", (Field(1, "inner", FieldType.MESSAGE, message),))
    for depth in range(MAX_DEPTH):
        wire_decode(message, data)
        data = b"\x0a" + bytes([len(data)]) + data
        assert depth < MAX_DEPTH
    with pytest.raises(DecodeError) as caught:
        wire_decode(message, data)
    assert caught.value.reason is Malformed.TOO_MANY


@pytest.mark.parametrize(
    "values", [{"unknown": 1}, {"count": 2**32}, {"count": -1}, {"parts": [{"number": 1}]}], ids=str
)
def test_host_misuse_of_the_wire_codec_is_no_decode_error(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"no fields|out of range|no messages") as caught:
        wire_encode(OUTER, values)
    assert not isinstance(caught.value, DecodeError)


# The codec


WRITES: list[Callable[[Writer], Writer]] = [
    lambda writer: writer.u8(256),
    lambda writer: writer.u16(-1),
    lambda writer: writer.u32(2**32),
    lambda writer: writer.u64(2**64),
    lambda writer: writer.hash(bytes(31)),
    lambda writer: writer.fixed(b"abc", 2),
]


@pytest.mark.parametrize("write", WRITES)
def test_a_writer_refuses_what_does_not_fit(write: Callable[[Writer], Writer]) -> None:
    with pytest.raises(ValueError, match=r"does not fit|expected") as caught:
        write(Writer())
    assert not isinstance(caught.value, DecodeError)


def test_a_count_cannot_promise_more_than_follows() -> None:
    reader = Reader((3).to_bytes(4, "big") + bytes(29))
    with pytest.raises(DecodeError) as caught:
        reader.count("things", 100, 10)
    assert caught.value.reason is Malformed.TRUNCATED
    assert Reader((2).to_bytes(4, "big") + bytes(29)).count("things", 100, 10) == 2


def test_the_size_cap_comes_before_anything_is_read() -> None:
    def never(reader: Reader) -> object:
        raise AssertionError("read")

    with pytest.raises(DecodeError) as caught:
        decode_whole(bytes(11), "thing", 10, never)
    assert caught.value.reason is Malformed.TOO_LARGE


# Caps that belong together


def test_the_largest_transfer_is_accepted_and_one_more_output_is_not() -> None:
    output = b"\x0a\x24\x0a\x20" + bytes(32) + b"\x10\x01"
    for count, accepted in ((MAX_OUTPUTS, True), (MAX_OUTPUTS + 1, False)):
        outputs = output * count
        size = len(outputs)
        length = bytes([size & 127 | 128, size >> 7 & 127 | 128, size >> 14])
        data = b"\x0a\x20" + bytes(32) + b"\x18\x01\x52" + length + outputs
        if accepted:
            assert len(decode_body(data).kind.outputs) == count  # type: ignore[union-attr]  # it is a transfer
        else:
            with pytest.raises(DecodeError) as caught:
                decode_body(data)
            assert caught.value.reason is Malformed.TOO_MANY


def test_a_body_over_the_cap_is_refused_unread() -> None:
    with pytest.raises(DecodeError) as caught:
        decode_body(b"\xff" * (MAX_TX_BODY_BYTES + 1))
    assert caught.value.reason is Malformed.TOO_LARGE
    with pytest.raises(DecodeError) as caught:
        decode_transaction(b"\xff" * (2 * MAX_TX_BODY_BYTES))
    assert caught.value.reason is Malformed.TOO_LARGE


def test_a_certificate_of_the_largest_set_fits_its_caps() -> None:
    everyone = (MAX_VALIDATORS + 7) // 8
    signatures = (b"",) * MAX_VALIDATORS
    certificate = Certificate(VoteKind.COMMIT, Height(1), View(0), some_hash("x"), b"\xff" * everyone, signatures)
    assert decode_certificate(certificate.encode()) == certificate


# Frames


def test_sequences_wrap_at_32_bits() -> None:
    assert next_sequence(2**32 - 1) == 0
    assert next_sequence(0) == 1


@given(st.lists(strategies.frames(), max_size=5), st.lists(st.integers(0, 1_200), max_size=8))
def test_frames_survive_any_cut_of_the_stream(frames: list[Frame], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(frame) for frame in frames)
    edges = sorted({0, len(stream), *(cut for cut in cuts if cut < len(stream))})
    decoder, received = FrameDecoder(), []
    for start, end in pairwise(edges):
        received += list(decoder.feed(stream[start:end]))
    assert received == frames
    assert decoder.buffered_bytes == 0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"\x00\x00\x00\x06", M.TRUNCATED, id="shorter than its head"),
        pytest.param(b"\x00\x00\x00\x00", M.TRUNCATED, id="empty"),
        pytest.param(b"\x00\x00\x00\x6c", M.TOO_LARGE, id="one byte over the cap"),
        pytest.param(b"\xff\xff\xff\xff", M.TOO_LARGE, id="four gigabytes"),
        pytest.param(b"\x00\x00\x00\x07\x00\x01\x00\x00\x00\x00\x08", M.UNKNOWN_FIELD, id="an unknown flag"),
    ],
)
def test_a_frame_that_cannot_be_one_is_refused_at_once(data: bytes, reason: Malformed) -> None:
    decoder = FrameDecoder(max_payload_bytes=100)
    with pytest.raises(DecodeError) as caught:
        list(decoder.feed(data))
    assert caught.value.reason is reason


def test_frames_before_a_bad_one_still_arrive() -> None:
    good = Frame(1, 0, Flags.NONE, b"payload")
    decoder, received = FrameDecoder(100), []
    stream = decoder.feed(encode_frame(good) + b"\xff\xff\xff\xff")
    received.append(next(stream))
    with pytest.raises(DecodeError):
        next(stream)
    assert received == [good]


# State proofs and mountain ranges with impossible numbers


@pytest.mark.parametrize("node", [Node(bytes(32), 1 << 62, 0), Node(bytes(32), 0, 1 << 62)], ids=["leaves", "bytes"])
def test_counts_of_a_state_proof_that_overflow_are_refused(node: Node) -> None:
    """Else leaves and bytes would run into each other in a node's preimage."""
    data = StateProof(None, None, (node, node)).encode()
    with pytest.raises(DecodeError) as caught:
        decode_state_proof(data)
    assert caught.value.reason is Malformed.OUT_OF_RANGE


def test_a_mountain_range_has_one_peak_for_each_bit_of_its_count() -> None:
    with pytest.raises(DecodeError):
        decode_mmr(Mmr(3, (some_hash(1),)).encode())
    with pytest.raises(DecodeError):
        decode_mmr(Mmr(4, (some_hash(1), some_hash(2))).encode())


def test_a_mountain_range_proof_has_no_more_hashes_than_a_range_has_levels() -> None:
    for path, others in ((65, 0), (0, 65)):
        proof = MmrProof(0, 1, (some_hash(1),) * path, (some_hash(2),) * others)
        with pytest.raises(DecodeError) as caught:
            decode_mmr_proof(proof.encode())
        assert caught.value.reason is Malformed.TOO_MANY


@pytest.mark.parametrize(("index", "count"), [(-1, 5), (5, 5), (0, 0), (0, 2**64)])
def test_no_leaf_stands_outside_a_mountain_range(index: int, count: int) -> None:
    with pytest.raises(ValueError, match="no leaf"):
        prove_mmr(index, count, lambda start, height: some_hash((start, height)))


@pytest.mark.parametrize("indices", [[], [3], [1, 1], [2, 1], [-1]], ids=str)
def test_a_proof_of_leaves_that_are_not_there_is_host_misuse(indices: list[int]) -> None:
    with pytest.raises(ValueError, match="indices must ascend"):
        prove_inclusion([some_hash(place) for place in range(3)], indices)


def test_a_vote_says_in_its_kind_what_it_names() -> None:
    with pytest.raises(ValueError, match="VIEW-CHANGE"):
        Vote(VoteKind.VIEW_CHANGE, Height(1), View(1), block_hash=some_hash("x"))
    with pytest.raises(ValueError, match="VIEW-CHANGE"):
        Vote(VoteKind.PREPARE, Height(1), View(1))
    with pytest.raises(ValueError, match="prepared view"):
        Vote(VoteKind.PREPARE, Height(1), View(1), some_hash("x"), Prepared(View(0), some_hash("x")))


def test_a_block_with_an_unparsable_body_decodes_and_its_body_does_not() -> None:
    """Admission of bad bodies is for whoever applies the block, with the reason MALFORMED_TX."""
    members = fake_members([1])
    certificate = certify(Vote(VoteKind.COMMIT, Height(1), View(0), some_hash("x")), members, some_hash("g"))
    header = decode_header(_header())
    raw = b"\x0a\x01x\x10\x01\x22\x80\x01" + bytes(128)
    block = decode_block(replace(Block(header, certificate, (decode_transaction(raw),))).encode())
    with pytest.raises(DecodeError):
        _ = block.transactions[0].parsed


def test_an_inclusion_proof_with_a_hash_too_many_or_too_few_leads_nowhere() -> None:
    leaves = [some_hash(n) for n in range(7)]
    proof = prove_inclusion(leaves, [2, 5])
    assert proof.root([leaves[2], leaves[5]]) is not None
    for hashes in ((*proof.hashes, some_hash("more")), proof.hashes[:-1]):
        assert replace(proof, hashes=hashes).root([leaves[2], leaves[5]]) is None
    assert proof.root([leaves[2]]) is None
