"""Write-ahead records: one encoding each, and nothing else is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consensus.records import (
    Accepted,
    HeightBegun,
    Locked,
    Proposed,
    Record,
    Voted,
    decode_record,
    encode_record,
)
from tests.chains import certify, fake_members, header_of, small_genesis, some_hash
from trellis.encoding import DecodeError, Malformed
from trellis.messages import Ballot, Proposal, encode_message
from trellis.types import Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind

MEMBERS = fake_members([1] * 4)
GENESIS = small_genesis(MEMBERS)
HEADER = header_of(GENESIS, 1, MEMBERS[0].address)
PRE_PREPARE = Vote(VoteKind.PRE_PREPARE, Height(1), View(0), HEADER.hash)
PREPARED = certify(Vote(VoteKind.PREPARE, Height(1), View(0), HEADER.hash), MEMBERS, GENESIS.hash)
CHANGE = Vote(VoteKind.VIEW_CHANGE, Height(1), View(1), prepared=Prepared(View(0), HEADER.hash))
UNSIGNED = Proposal(SignedVote(PRE_PREPARE, MEMBERS[0].address, b""), HEADER, None, body=b"body")
ACCEPTED = Proposal(
    MEMBERS[0].sign(PRE_PREPARE, GENESIS.hash),
    HEADER,
    None,
    tuple(member.sign(CHANGE, GENESIS.hash) for member in MEMBERS),
    PREPARED,
)

RECORDS: list[Record] = [
    HeightBegun(Height(7), View(3)),
    Voted(CHANGE),
    Voted(PRE_PREPARE),
    Proposed(UNSIGNED),
    Accepted(ACCEPTED),
    Locked(PREPARED),
]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_a_record_survives_its_bytes_and_names_its_height(record: Record) -> None:
    assert decode_record(encode_record(record)) == record
    assert record.height == (7 if isinstance(record, HeightBegun) else 1)


def test_only_what_blame_for_a_fork_may_need_is_archived() -> None:
    assert [type(record) for record in RECORDS if record.is_archival] == [Accepted, Locked]


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: type(record).__name__)
def test_cut_or_extended_records_are_refused(record: Record) -> None:
    data = encode_record(record)
    for bad in (b"", data[:-1], data[: len(data) // 2], data + b"\0"):
        with pytest.raises(DecodeError):
            decode_record(bad)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"\x09", Malformed.UNKNOWN_KIND),
        (b"\x00", Malformed.UNKNOWN_KIND),
        (encode_record(Proposed(ACCEPTED)), Malformed.NOT_CANONICAL),
        (
            encode_record(
                Locked(certify(Vote(VoteKind.COMMIT, Height(1), View(0), HEADER.hash), MEMBERS, GENESIS.hash))
            ),
            Malformed.UNKNOWN_KIND,
        ),
    ],
    ids=["kind 9", "kind 0", "a signed own proposal", "a lock of COMMITs"],
)
def test_records_that_nobody_writes_are_refused(data: bytes, reason: Malformed) -> None:
    with pytest.raises(DecodeError) as fault:
        decode_record(data)
    assert fault.value.reason is reason


def test_a_record_of_a_proposal_takes_no_other_message() -> None:
    ballot = encode_message(
        Ballot(MEMBERS[0].sign(Vote(VoteKind.PREPARE, Height(1), View(0), HEADER.hash), GENESIS.hash))
    )
    data = b"\x04" + len(ballot).to_bytes(4, "big") + ballot
    with pytest.raises(DecodeError) as fault:
        decode_record(data)
    assert fault.value.reason is Malformed.UNKNOWN_KIND


@given(st.binary(max_size=300))
def test_any_other_bytes_are_refused_with_a_reason_or_are_canonical(data: bytes) -> None:
    try:
        record = decode_record(data)
    except DecodeError:
        return
    assert encode_record(record) == data


@given(st.sampled_from(RECORDS), st.data())
def test_a_flipped_bit_is_refused_or_is_another_canonical_record(record: Record, data: st.DataObject) -> None:
    raw = bytearray(encode_record(record))
    at = data.draw(st.integers(0, 8 * len(raw) - 1))
    raw[at // 8] ^= 1 << at % 8
    try:
        other = decode_record(bytes(raw))
    except DecodeError:
        return
    assert encode_record(other) == bytes(raw)
    assert other != record


def test_hashes_in_records_are_those_of_the_header() -> None:
    assert some_hash("other") != HEADER.hash
    assert decode_record(encode_record(Proposed(UNSIGNED))).height == HEADER.height
