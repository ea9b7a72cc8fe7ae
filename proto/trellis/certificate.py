"""Certificates: signatures of quorum power on one vote. One of COMMITs makes a block final, one of PREPAREs locks it.

Certificates are not unique: any signers with quorum power will do, so ledger effects read only the one that the next
block carries.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from typing import Final

from trellis.constants import MAX_VALIDATORS, Context
from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck, VerifyMany
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.types import Address, Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import MAX_VOTE_SIGNATURE_BYTES, SignedVote, Vote, VoteKind

_CERTIFIED_KINDS: Final = (VoteKind.PREPARE, VoteKind.COMMIT)
MAX_BITMAP_BYTES: Final = (MAX_VALIDATORS + 7) // 8
MAX_CERTIFICATE_BYTES: Final = 64 + MAX_BITMAP_BYTES + MAX_VALIDATORS * (4 + MAX_VOTE_SIGNATURE_BYTES)


class CertificateFault(StrEnum):
    """Why a certificate proves nothing."""

    WRONG_KIND = "wrong_kind"
    WRONG_HEIGHT = "wrong_height"
    WRONG_VIEW = "wrong_view"
    WRONG_HASH = "wrong_hash"
    BITMAP_LENGTH = "bitmap_length"
    BITMAP_PADDING = "bitmap_padding"
    SIGNATURE_COUNT = "signature_count"
    SIGNATURE_SIZE = "signature_size"
    NO_QUORUM = "no_quorum"
    BAD_SIGNATURE = "bad_signature"


@dataclass(frozen=True)
class Certificate:
    """Who signed (bit i is member i of V(height), least significant bit first) and the signatures in that order."""

    kind: VoteKind
    height: Height
    view: View
    block_hash: Hash
    signers: bytes
    signatures: tuple[bytes, ...]

    @property
    def vote(self) -> Vote:
        return Vote(self.kind, self.height, self.view, self.block_hash)

    def encode(self) -> bytes:
        writer = Writer()
        self.write(writer)
        return writer.done()

    def write(self, writer: Writer) -> None:
        writer.u8(self.kind).u64(self.height).u64(self.view).hash(self.block_hash).lp(self.signers)
        writer.u32(len(self.signatures))
        for signature in self.signatures:
            writer.lp(signature)

    @cached_property
    def hash(self) -> Hash:
        """parent_certificate_hash of the block that carries it."""
        return hash_tagged(Tag.CERTIFICATE, self.encode())

    def signer_indices(self) -> tuple[int, ...]:
        return tuple(8 * place + bit for place, byte in enumerate(self.signers) for bit in range(8) if byte >> bit & 1)

    def shape_fault(self, validators: ValidatorSet) -> CertificateFault | None:
        """Everything but the signatures: bitmap, counts, sizes, quorum power in this set."""
        if len(self.signers) != (len(validators) + 7) // 8:
            return CertificateFault.BITMAP_LENGTH
        indices = self.signer_indices()
        if indices and indices[-1] >= len(validators):
            return CertificateFault.BITMAP_PADDING
        if len(indices) != len(self.signatures):
            return CertificateFault.SIGNATURE_COUNT
        members = [validators.members[index] for index in indices]
        for member, signature in zip(members, self.signatures, strict=True):
            if len(signature) != SIZES[AlgId(member.alg_id)].signature_bytes:
                return CertificateFault.SIGNATURE_SIZE
        if not validators.is_quorum(sum(member.power for member in members)):
            return CertificateFault.NO_QUORUM
        return None

    def signer_addresses(self, validators: ValidatorSet) -> tuple[Address, ...]:
        """Only for a certificate whose shape was found in order."""
        return tuple(validators.members[index].address for index in self.signer_indices())

    def checks(self, genesis_hash: Hash, validators: ValidatorSet) -> tuple[SignatureCheck, ...]:
        """The signatures that must verify, for a certificate whose shape was found in order."""
        message = self.vote.signing_bytes(genesis_hash)
        members = (validators.members[index] for index in self.signer_indices())
        return tuple(
            SignatureCheck(member.alg_id, member.public_key, message, signature, Context.VOTE.value)
            for member, signature in zip(members, self.signatures, strict=True)
        )

    def fault(self, genesis_hash: Hash, validators: ValidatorSet, verify: VerifyMany) -> CertificateFault | None:
        """None if quorum power of `validators` signed exactly this vote on this chain."""
        shape = self.shape_fault(validators)
        if shape is not None:
            return shape
        if not all(verify(self.checks(genesis_hash, validators))):
            return CertificateFault.BAD_SIGNATURE
        return None


def read_certificate(reader: Reader) -> Certificate:
    number = reader.u8("certificate kind")
    if number not in _CERTIFIED_KINDS:
        raise DecodeError(Malformed.UNKNOWN_KIND, f"certificates are of PREPARE or COMMIT, not of kind {number}")
    kind = VoteKind(number)
    height, view = Height(reader.u64("certificate height")), View(reader.u64("certificate view"))
    block_hash = reader.hash("certificate block hash")
    signers = reader.lp("certificate signers", MAX_BITMAP_BYTES)
    number = reader.count("certificate signatures", min(MAX_VALIDATORS, 8 * len(signers)), 4)
    signatures = tuple(reader.lp("certificate signature", MAX_VOTE_SIGNATURE_BYTES) for _ in range(number))
    return Certificate(kind, height, view, block_hash, signers, signatures)


def decode_certificate(data: bytes) -> Certificate:
    return decode_whole(data, "certificate", MAX_CERTIFICATE_BYTES, read_certificate)


def make_certificate(votes: Iterable[SignedVote], validators: ValidatorSet) -> Certificate:
    """Joins verified votes of distinct validators on one content. The caller has counted a quorum."""
    by_index: dict[int, SignedVote] = {}
    for signed in votes:
        index = validators.index(signed.signer)
        if index is None or index in by_index:
            raise ValueError("a certificate takes one vote of each of several validators of its set")
        by_index[index] = signed
    ordered = [by_index[index] for index in sorted(by_index)]
    if not ordered or any(signed.vote != ordered[0].vote for signed in ordered):
        raise ValueError("a certificate takes votes of one content")
    vote = ordered[0].vote
    if vote.kind not in _CERTIFIED_KINDS or vote.block_hash is None:
        raise ValueError("a certificate takes PREPARE or COMMIT votes")
    bitmap = bytearray((len(validators) + 7) // 8)
    for index in by_index:
        bitmap[index // 8] |= 1 << index % 8
    signatures = tuple(signed.signature for signed in ordered)
    return Certificate(vote.kind, vote.height, vote.view, vote.block_hash, bytes(bitmap), signatures)
