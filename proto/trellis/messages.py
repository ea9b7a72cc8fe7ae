"""Consensus messages between validators: votes with what must travel beside them."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final, assert_never

from trellis.certificate import MAX_CERTIFICATE_BYTES, Certificate, read_certificate
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.header import HEADER_BYTES, Header, decode_header
from trellis.types import Height
from trellis.votes import (
    MAX_SIGNED_VOTE_BYTES,
    SignedVote,
    VoteKind,
    read_signed_vote,
    read_signed_votes,
    write_signed_votes,
)


@dataclass(frozen=True, slots=True)
class Proposal:
    """PRE-PREPARE; with a justification it is NEW-VIEW (rule C4).

    NEW-VIEW carries one prepared certificate, the highest: one per VIEW-CHANGE would be 15 MB at n = 100.
    """

    signed: SignedVote
    header: Header
    parent_certificate: Certificate | None
    """The certificate of the parent that the block carries; None at height 1."""
    justification: tuple[SignedVote, ...] = ()
    prepared: Certificate | None = None
    body: bytes = b""
    """The compact body: opaque to consensus, decoded by `trellis.block`."""


@dataclass(frozen=True, slots=True)
class Ballot:
    """PREPARE or COMMIT."""

    signed: SignedVote


@dataclass(frozen=True, slots=True)
class ViewChange:
    """VIEW-CHANGE with the prepared certificate it names, if it names one."""

    signed: SignedVote
    prepared: Certificate | None = None


@dataclass(frozen=True, slots=True)
class DecidedNotice:
    """The answer to messages for a decided height: the certificate that decided it."""

    certificate: Certificate


@dataclass(frozen=True, slots=True)
class HeightNotice:
    """Sent on reconnect and at heartbeats: the height this replica works on. It is a hint, it proves nothing."""

    height: Height


Message = Proposal | Ballot | ViewChange | DecidedNotice | HeightNotice


class MessageKind(IntEnum):
    PROPOSAL = 1
    BALLOT = 2
    VIEW_CHANGE = 3
    DECIDED = 4
    HEIGHT = 5


MAX_COMPACT_BODY_BYTES: Final = 4 << 20
MAX_MESSAGE_BYTES: Final = 16 << 20
"""A NEW-VIEW at n = 1,000 with certificates fits; larger claims are refused before a byte is read."""


def _write_optional(writer: Writer, certificate: Certificate | None) -> None:
    writer.lp(b"" if certificate is None else certificate.encode())


def _read_optional(reader: Reader, what: str) -> Certificate | None:
    data = reader.lp(what, MAX_CERTIFICATE_BYTES)
    return decode_whole(data, what, MAX_CERTIFICATE_BYTES, read_certificate) if data else None


def encode_message(message: Message) -> bytes:
    match message:
        case Proposal():
            writer = Writer().u8(MessageKind.PROPOSAL)
            message.signed.write(writer)
            writer.raw(message.header.encode())
            _write_optional(writer, message.parent_certificate)
            write_signed_votes(writer, message.justification)
            _write_optional(writer, message.prepared)
            return writer.lp(message.body).done()
        case Ballot():
            return bytes([MessageKind.BALLOT]) + message.signed.encode()
        case ViewChange():
            writer = Writer().u8(MessageKind.VIEW_CHANGE)
            message.signed.write(writer)
            _write_optional(writer, message.prepared)
            return writer.done()
        case DecidedNotice():
            return bytes([MessageKind.DECIDED]) + message.certificate.encode()
        case HeightNotice():
            return Writer().u8(MessageKind.HEIGHT).u64(message.height).done()
        case _:
            assert_never(message)


def decode_message(data: bytes) -> Message:
    """Refuses bytes whose parts contradict each other in kind; whether they are justified is the core's question."""
    return decode_whole(data, "consensus message", MAX_MESSAGE_BYTES, _read_message)


def _read_message(reader: Reader) -> Message:
    number = reader.u8("message kind")
    if number not in MessageKind.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"consensus message kind {number}")
    match MessageKind(number):
        case MessageKind.PROPOSAL:
            return _read_proposal(reader)
        case MessageKind.BALLOT:
            signed = _read_vote_of(reader, VoteKind.PREPARE, VoteKind.COMMIT)
            return Ballot(signed)
        case MessageKind.VIEW_CHANGE:
            signed = _read_vote_of(reader, VoteKind.VIEW_CHANGE)
            return ViewChange(signed, _read_optional(reader, "prepared certificate"))
        case MessageKind.DECIDED:
            return DecidedNotice(read_certificate(reader))
        case MessageKind.HEIGHT:
            return HeightNotice(Height(reader.u64("height")))


def _read_vote_of(reader: Reader, *kinds: VoteKind) -> SignedVote:
    signed = read_signed_vote(reader)
    if signed.vote.kind not in kinds:
        raise DecodeError(Malformed.UNKNOWN_KIND, f"a {signed.vote.kind.name} vote does not belong in this message")
    return signed


def _read_proposal(reader: Reader) -> Proposal:
    signed = _read_vote_of(reader, VoteKind.PRE_PREPARE)
    header = decode_header(reader.fixed(HEADER_BYTES, "header"))
    parent = _read_optional(reader, "parent certificate")
    justification = read_signed_votes(reader, "justification")
    prepared = _read_optional(reader, "prepared certificate")
    return Proposal(signed, header, parent, justification, prepared, reader.lp("body", MAX_COMPACT_BODY_BYTES))


def message_height(message: Message) -> Height:
    match message:
        case Proposal() | Ballot() | ViewChange():
            return message.signed.vote.height
        case DecidedNotice():
            return message.certificate.height
        case HeightNotice():
            return message.height
        case _:
            assert_never(message)


MAX_BALLOT_BYTES: Final = 1 + MAX_SIGNED_VOTE_BYTES
