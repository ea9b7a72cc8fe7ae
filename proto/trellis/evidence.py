"""Evidence: signed proof that a validator broke a rule, which anyone can verify from bytes and the validator set alone.

Three offences cost stake: two votes that contradict each other; a *lock lie* (a COMMIT, then a VIEW-CHANGE that denies
the lock it took); a PREPARE on a block that claims an invalid proof valid. Content is compared, never signatures:
ML-DSA signing is hedged, so two signatures of one vote differ. Different hashes in different views are no offence.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Final, assert_never

from trellis.block import transaction_leaf
from trellis.crypto.algorithms import SignatureCheck, VerifyMany
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.header import HEADER_BYTES, Header, decode_header
from trellis.merkle import InclusionProof, read_inclusion_proof
from trellis.outcome import Outcome
from trellis.transaction import MAX_TX_BYTES, RevealProof, Transaction, decode_transaction
from trellis.types import Address, Hash, Height
from trellis.validators import Validator, ValidatorSet
from trellis.votes import MAX_SIGNED_VOTE_BYTES, SignedVote, Vote, VoteKind, read_signed_vote

MAX_EVIDENCE_BYTES: Final = 2 * MAX_SIGNED_VOTE_BYTES + HEADER_BYTES + MAX_TX_BYTES + 8_192


class EvidenceKind(IntEnum):
    CONFLICTING_VOTES = 1
    LOCK_LIE = 2
    INVALID_PROOF_PREPARE = 3


class EvidenceFault(StrEnum):
    """Why an accusation proves nothing."""

    DIFFERENT_SIGNERS = "different_signers"
    DIFFERENT_HEIGHTS = "different_heights"
    NO_CONFLICT = "no_conflict"
    NOT_ORDERED = "not_ordered"
    NO_LOCK_LIE = "no_lock_lie"
    WRONG_KIND = "wrong_kind"
    WRONG_CHAIN = "wrong_chain"
    WRONG_BLOCK = "wrong_block"
    NOT_IN_BLOCK = "not_in_block"
    NOT_A_PROOF = "not_a_proof"
    UNKNOWN_VALIDATOR = "unknown_validator"
    BAD_SIGNATURE = "bad_signature"


def votes_conflict(first: Vote, second: Vote) -> bool:
    """(a) two contents for one (height, view, kind); (a2) PREPARE and COMMIT of one view for different blocks."""
    if (first.height, first.view) != (second.height, second.view) or first == second:
        return False
    if first.kind is second.kind:
        return True
    return {first.kind, second.kind} == {VoteKind.PREPARE, VoteKind.COMMIT} and first.block_hash != second.block_hash


def is_lock_lie(commit: Vote, view_change: Vote) -> bool:
    """(b) COMMIT (h,v,·), and VIEW-CHANGE (h,v′>v) naming a prepared view below v; none counts as below view 0."""
    if commit.kind is not VoteKind.COMMIT or view_change.kind is not VoteKind.VIEW_CHANGE:
        return False
    if commit.height != view_change.height or view_change.view <= commit.view:
        return False
    return view_change.prepared is None or view_change.prepared.view < commit.view


@dataclass(frozen=True, slots=True)
class ConflictingVotes:
    """Ordered by the votes' encoding, so that one offence has one form."""

    first: SignedVote
    second: SignedVote

    kind = EvidenceKind.CONFLICTING_VOTES

    @property
    def offender(self) -> Address:
        return self.first.signer

    @property
    def height(self) -> Height:
        return self.first.vote.height

    def fault(self, genesis_hash: Hash) -> EvidenceFault | None:
        if self.first.signer != self.second.signer:
            return EvidenceFault.DIFFERENT_SIGNERS
        if not votes_conflict(self.first.vote, self.second.vote):
            return EvidenceFault.NO_CONFLICT
        if _order(self.first, genesis_hash) >= _order(self.second, genesis_hash):
            return EvidenceFault.NOT_ORDERED
        return None

    def signed_votes(self) -> tuple[SignedVote, ...]:
        return (self.first, self.second)


@dataclass(frozen=True, slots=True)
class LockLie:
    commit: SignedVote
    view_change: SignedVote

    kind = EvidenceKind.LOCK_LIE

    @property
    def offender(self) -> Address:
        return self.commit.signer

    @property
    def height(self) -> Height:
        return self.commit.vote.height

    def fault(self, genesis_hash: Hash) -> EvidenceFault | None:
        if self.commit.signer != self.view_change.signer:
            return EvidenceFault.DIFFERENT_SIGNERS
        return None if is_lock_lie(self.commit.vote, self.view_change.vote) else EvidenceFault.NO_LOCK_LIE

    def signed_votes(self) -> tuple[SignedVote, ...]:
        return (self.commit, self.view_change)


@dataclass(frozen=True, slots=True)
class InvalidProofPrepare:
    """A PREPARE of a block whose tx_root claims that a proof was accepted; the verifier says exactly INVALID.

    This object shows that the signer stood for the block and that the block claims the proof. That the proof is invalid
    is for the ledger's rules, which hold the statement and the verifier, to find.
    """

    prepare: SignedVote
    header: Header
    path: InclusionProof
    transaction: Transaction
    fee: int
    """The fee in the transaction's leaf."""

    kind = EvidenceKind.INVALID_PROOF_PREPARE

    @property
    def offender(self) -> Address:
        return self.prepare.signer

    @property
    def height(self) -> Height:
        return self.prepare.vote.height

    def fault(self, genesis_hash: Hash) -> EvidenceFault | None:
        vote = self.prepare.vote
        if vote.kind is not VoteKind.PREPARE:
            return EvidenceFault.WRONG_KIND
        if self.header.genesis_hash != genesis_hash:
            return EvidenceFault.WRONG_CHAIN
        if vote.block_hash != self.header.hash or vote.height != self.header.height:
            return EvidenceFault.WRONG_BLOCK
        leaf = transaction_leaf(self.transaction.txid(genesis_hash), Outcome.OK, self.fee)
        if self.path.root([leaf]) != self.header.tx_root:
            return EvidenceFault.NOT_IN_BLOCK
        try:
            kind = self.transaction.parsed.kind
        except DecodeError:
            return EvidenceFault.NOT_A_PROOF
        return None if isinstance(kind, RevealProof) else EvidenceFault.NOT_A_PROOF

    def signed_votes(self) -> tuple[SignedVote, ...]:
        return (self.prepare,)


Evidence = ConflictingVotes | LockLie | InvalidProofPrepare


def _order(signed: SignedVote, genesis_hash: Hash) -> bytes:
    return signed.vote.signing_bytes(genesis_hash)


def accuse_of_conflict(one: SignedVote, other: SignedVote, genesis_hash: Hash) -> ConflictingVotes:
    """The canonical form of this accusation, whichever vote was seen first."""
    first, second = sorted((one, other), key=lambda signed: _order(signed, genesis_hash))
    return ConflictingVotes(first, second)


def evidence_checks(evidence: Evidence, genesis_hash: Hash, offender: Validator) -> tuple[SignatureCheck, ...]:
    """The signatures that must verify; `offender` is its entry in V(evidence.height)."""
    return tuple(signed.check(genesis_hash, offender) for signed in evidence.signed_votes())


def evidence_fault(
    evidence: Evidence, genesis_hash: Hash, validators: ValidatorSet, verify: VerifyMany
) -> EvidenceFault | None:
    """None if the accusation holds, as far as signed bytes can show it. `validators` is V(evidence.height)."""
    fault = evidence.fault(genesis_hash)
    if fault is not None:
        return fault
    offender = validators.get(evidence.offender)
    if offender is None:
        return EvidenceFault.UNKNOWN_VALIDATOR
    if not all(verify(evidence_checks(evidence, genesis_hash, offender))):
        return EvidenceFault.BAD_SIGNATURE
    return None


def encode_evidence(evidence: Evidence) -> bytes:
    """kind u8, then the signed votes; for an invalid proof also header, lp(path), lp(transaction), fee u64."""
    writer = Writer().u8(evidence.kind)
    for signed in evidence.signed_votes():
        signed.write(writer)
    if isinstance(evidence, InvalidProofPrepare):
        path = Writer()
        evidence.path.write(path)
        writer.raw(evidence.header.encode()).lp(path.done()).lp(evidence.transaction.encode()).u64(evidence.fee)
    return writer.done()


def evidence_id(evidence: Evidence) -> Hash:
    return hash_tagged(Tag.EVIDENCE, encode_evidence(evidence))


def decode_evidence(data: bytes) -> Evidence:
    return decode_whole(data, "evidence", MAX_EVIDENCE_BYTES, _read_evidence)


def _read_evidence(reader: Reader) -> Evidence:
    number = reader.u8("evidence kind")
    if number not in EvidenceKind.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"evidence kind {number}")
    kind = EvidenceKind(number)
    signed = read_signed_vote(reader)
    match kind:
        case EvidenceKind.CONFLICTING_VOTES:
            return ConflictingVotes(signed, read_signed_vote(reader))
        case EvidenceKind.LOCK_LIE:
            return LockLie(signed, read_signed_vote(reader))
        case EvidenceKind.INVALID_PROOF_PREPARE:
            header = decode_header(reader.fixed(HEADER_BYTES, "header"))
            path = decode_whole(reader.lp("path", 4_096), "path", 4_096, read_inclusion_proof)
            transaction = decode_transaction(reader.lp("transaction", MAX_TX_BYTES))
            return InvalidProofPrepare(signed, header, path, transaction, reader.u64("fee"))
        case _:
            assert_never(kind)
