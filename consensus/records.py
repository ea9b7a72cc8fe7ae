"""Write-ahead records: what must survive a crash at the height in progress (rule C3), with one strict encoding each.

Layout: record kind u8, then its fields. A log is the records of one height at a time: `HeightBegun` comes first, and
makes every record before it superfluous once block height − 1 is in the store. Framing, checksums and torn tails are
the log file's business, not the record's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, assert_never

from trellis.certificate import MAX_CERTIFICATE_BYTES, Certificate, decode_certificate
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.messages import MAX_MESSAGE_BYTES, Proposal, decode_message, encode_message
from trellis.types import Height, View
from trellis.votes import Vote, VoteKind, read_vote

MAX_RECORD_BYTES: Final = 1 + 4 + MAX_MESSAGE_BYTES
"""The largest record is an accepted NEW-VIEW with its compact body."""


class RecordKind(IntEnum):
    HEIGHT_BEGUN = 1
    VOTED = 2
    PROPOSED = 3
    ACCEPTED = 4
    LOCKED = 5


@dataclass(frozen=True, slots=True)
class HeightBegun:
    """The first record of a height. Rule C6 needs the view in which this replica saw height − 1 decided."""

    height: Height
    previous_view: View

    @property
    def is_archival(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Voted:
    """An own vote, before it is signed. A VIEW-CHANGE is also the record of the view it moves to."""

    vote: Vote

    @property
    def height(self) -> Height:
        return self.vote.height

    @property
    def is_archival(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Proposed:
    """The own PRE-PREPARE, unsigned, with its justification, certificate and compact body."""

    proposal: Proposal

    @property
    def height(self) -> Height:
        return self.proposal.signed.vote.height

    @property
    def is_archival(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class Accepted:
    """A NEW-VIEW that this replica accepted, whole: the blame for a fork may need its justification and certificate.

    Not written for view 0: that proposal has no justification, and a PREPARE's record names its hash.
    """

    proposal: Proposal

    @property
    def height(self) -> Height:
        return self.proposal.signed.vote.height

    @property
    def is_archival(self) -> bool:
        return True


@dataclass(frozen=True, slots=True)
class Locked:
    """The lock: the certificate names prepared view and hash."""

    certificate: Certificate

    @property
    def height(self) -> Height:
        return self.certificate.height

    @property
    def is_archival(self) -> bool:
        return True


Record = HeightBegun | Voted | Proposed | Accepted | Locked


def encode_record(record: Record) -> bytes:
    match record:
        case HeightBegun():
            return Writer().u8(RecordKind.HEIGHT_BEGUN).u64(record.height).u64(record.previous_view).done()
        case Voted():
            writer = Writer().u8(RecordKind.VOTED)
            record.vote.write(writer)
            return writer.done()
        case Proposed():
            return Writer().u8(RecordKind.PROPOSED).lp(encode_message(record.proposal)).done()
        case Accepted():
            return Writer().u8(RecordKind.ACCEPTED).lp(encode_message(record.proposal)).done()
        case Locked():
            return Writer().u8(RecordKind.LOCKED).lp(record.certificate.encode()).done()
        case _:
            assert_never(record)


def decode_record(data: bytes) -> Record:
    return decode_whole(data, "log record", MAX_RECORD_BYTES, _read_record)


def _read_record(reader: Reader) -> Record:
    number = reader.u8("record kind")
    if number not in RecordKind.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"log record kind {number}")
    match RecordKind(number):
        case RecordKind.HEIGHT_BEGUN:
            return HeightBegun(Height(reader.u64("height")), View(reader.u64("previous view")))
        case RecordKind.VOTED:
            return Voted(read_vote(reader))
        case RecordKind.PROPOSED:
            proposal = _read_proposal(reader)
            if proposal.signed.signature:
                raise DecodeError(Malformed.NOT_CANONICAL, "an own proposal is logged before it is signed")
            return Proposed(proposal)
        case RecordKind.ACCEPTED:
            return Accepted(_read_proposal(reader))
        case RecordKind.LOCKED:
            certificate = decode_certificate(reader.lp("prepared certificate", MAX_CERTIFICATE_BYTES))
            if certificate.kind is not VoteKind.PREPARE:
                raise DecodeError(Malformed.UNKNOWN_KIND, "a lock is a certificate of PREPAREs")
            return Locked(certificate)


def _read_proposal(reader: Reader) -> Proposal:
    message = decode_message(reader.lp("proposal", MAX_MESSAGE_BYTES))
    if not isinstance(message, Proposal):
        raise DecodeError(Malformed.UNKNOWN_KIND, "this record takes a proposal")
    return message
