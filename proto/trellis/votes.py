"""Votes and the consensus messages that carry them: what is signed, and how it travels.

Four kinds are signed (rule C4), each with its kind and the genesis hash: PRE-PREPARE, PREPARE and COMMIT name a block;
VIEW-CHANGE names the view it moves to and the prepared view and hash of its signer. Signatures never enter equality or
hashing of content: ML-DSA signing is hedged, two signatures of one vote differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from trellis.constants import MAX_VALIDATORS, Context
from trellis.crypto.algorithms import SignatureCheck
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.types import ZERO_HASH, Address, Hash, Height, View
from trellis.validators import Validator

MAX_VOTE_SIGNATURE_BYTES: Final = 4_627
"""ML-DSA-87, the larger of the two algorithms that may sign votes."""


class VoteKind(IntEnum):
    PRE_PREPARE = 1
    PREPARE = 2
    COMMIT = 3
    VIEW_CHANGE = 4


@dataclass(frozen=True, slots=True)
class Prepared:
    """The block a validator holds a prepared certificate of: its lock, as VIEW-CHANGE names it."""

    view: View
    hash: Hash


@dataclass(frozen=True, slots=True)
class Vote:
    """The signed content. `block_hash` is set for all kinds but VIEW-CHANGE, `prepared` only for VIEW-CHANGE."""

    kind: VoteKind
    height: Height
    view: View
    block_hash: Hash | None = None
    prepared: Prepared | None = None

    def __post_init__(self) -> None:
        if (self.kind is VoteKind.VIEW_CHANGE) == (self.block_hash is not None):
            raise ValueError("a VIEW-CHANGE names no block; every other vote names one")
        if self.prepared is not None and self.kind is not VoteKind.VIEW_CHANGE:
            raise ValueError("only a VIEW-CHANGE names a prepared view")

    def signing_bytes(self, genesis_hash: Hash) -> bytes:
        """kind u8 ‖ genesis_hash ‖ height u64 ‖ view u64 ‖ (block_hash | has_prepared u8 ‖ pv u64 ‖ phash)."""
        writer = Writer().u8(self.kind).hash(genesis_hash).u64(self.height).u64(self.view)
        if self.block_hash is not None:
            return writer.hash(self.block_hash).done()
        _write_prepared(writer, self.prepared)
        return writer.done()

    def write(self, writer: Writer) -> None:
        writer.u8(self.kind).u64(self.height).u64(self.view)
        if self.block_hash is not None:
            writer.hash(self.block_hash)
        else:
            _write_prepared(writer, self.prepared)


def _write_prepared(writer: Writer, prepared: Prepared | None) -> None:
    if prepared is None:
        writer.u8(0).u64(0).hash(ZERO_HASH)
    else:
        writer.u8(1).u64(prepared.view).hash(prepared.hash)


def _read_prepared(reader: Reader) -> Prepared | None:
    present = reader.flag("prepared flag")
    view, block_hash = View(reader.u64("prepared view")), reader.hash("prepared hash")
    if present:
        return Prepared(view, block_hash)
    if view or block_hash != ZERO_HASH:
        raise DecodeError(Malformed.NOT_CANONICAL, "an absent prepared view must be zeros")
    return None


def read_vote(reader: Reader) -> Vote:
    number = reader.u8("vote kind")
    if number not in VoteKind.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"vote kind {number}")
    kind = VoteKind(number)
    height, view = Height(reader.u64("vote height")), View(reader.u64("vote view"))
    if kind is VoteKind.VIEW_CHANGE:
        return Vote(kind, height, view, prepared=_read_prepared(reader))
    return Vote(kind, height, view, block_hash=reader.hash("vote block hash"))


@dataclass(frozen=True, slots=True)
class SignedVote:
    """A vote, who claims to have signed it, and the signature."""

    vote: Vote
    signer: Address
    signature: bytes

    def check(self, genesis_hash: Hash, validator: Validator) -> SignatureCheck:
        """The signature that must verify; `validator` is the signer's entry in V(height)."""
        message = self.vote.signing_bytes(genesis_hash)
        return SignatureCheck(validator.alg_id, validator.public_key, message, self.signature, Context.VOTE.value)

    def write(self, writer: Writer) -> None:
        self.vote.write(writer)
        writer.hash(self.signer).lp(self.signature)

    def encode(self) -> bytes:
        writer = Writer()
        self.write(writer)
        return writer.done()


SIGNED_VOTE_MIN_BYTES: Final = 1 + 8 + 8 + 32 + 32 + 4
MAX_SIGNED_VOTE_BYTES: Final = 1 + 8 + 8 + 1 + 8 + 32 + 32 + 4 + MAX_VOTE_SIGNATURE_BYTES


def read_signed_vote(reader: Reader) -> SignedVote:
    vote = read_vote(reader)
    signer = Address(reader.hash("signer"))
    return SignedVote(vote, signer, reader.lp("vote signature", MAX_VOTE_SIGNATURE_BYTES))


def decode_signed_vote(data: bytes) -> SignedVote:
    return decode_whole(data, "signed vote", MAX_SIGNED_VOTE_BYTES, read_signed_vote)


def write_signed_votes(writer: Writer, votes: tuple[SignedVote, ...]) -> None:
    writer.u32(len(votes))
    for vote in votes:
        vote.write(writer)


def read_signed_votes(reader: Reader, what: str) -> tuple[SignedVote, ...]:
    number = reader.count(what, MAX_VALIDATORS, SIGNED_VOTE_MIN_BYTES)
    return tuple(read_signed_vote(reader) for _ in range(number))
