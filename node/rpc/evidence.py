"""Evidence of misbehaviour in the schema's words, with the bytes that anyone can verify."""

from __future__ import annotations

from typing import Final

from node.rpc.fields import address_text
from state.store.reader import ChainReader
from state.store.rows import AcceptedEvidence, evidence_key
from state.store.store import Table
from trellis.evidence import ConflictingVotes, Evidence, EvidenceKind, LockLie, decode_evidence, evidence_id
from trellis.explanation import explain
from trellis.types import Hash, Height
from trellis.v1 import chain_pb2, common_pb2

LEDGER_KINDS: Final = {
    chain_pb2.EVIDENCE_KIND_EQUIVOCATION: EvidenceKind.CONFLICTING_VOTES,
    chain_pb2.EVIDENCE_KIND_PREPARE_COMMIT_CONFLICT: EvidenceKind.CONFLICTING_VOTES,
    chain_pb2.EVIDENCE_KIND_LOCK_LIE: EvidenceKind.LOCK_LIE,
    chain_pb2.EVIDENCE_KIND_WRONG_VERIFICATION: EvidenceKind.INVALID_PROOF_PREPARE,
}
"""The schema tells two sorts of conflicting votes apart, the ledger does not."""


def kind_of(evidence: Evidence) -> chain_pb2.EvidenceKind.ValueType:
    match evidence:
        case ConflictingVotes():
            same = evidence.first.vote.kind is evidence.second.vote.kind
            return chain_pb2.EVIDENCE_KIND_EQUIVOCATION if same else chain_pb2.EVIDENCE_KIND_PREPARE_COMMIT_CONFLICT
        case LockLie():
            return chain_pb2.EVIDENCE_KIND_LOCK_LIE
        case _:
            return chain_pb2.EVIDENCE_KIND_WRONG_VERIFICATION


def record(data: bytes, genesis_hash: Hash) -> chain_pb2.EvidenceRecord:
    """What the bytes alone say."""
    evidence = decode_evidence(data)
    return chain_pb2.EvidenceRecord(
        evidence_id=evidence_id(evidence).hex(),
        kind=kind_of(evidence),
        accused=address_text(evidence.offender),
        height=evidence.height,
        view=_view_of(evidence),
        slashed="0",
        explanation=str(explain(evidence, genesis_hash)),
        evidence=data,
    )


def accepted_record(
    accepted: AcceptedEvidence, block: common_pb2.BlockRef, genesis_hash: Hash
) -> chain_pb2.EvidenceRecord:
    """Of evidence that a block accepted."""
    message = record(accepted.evidence, genesis_hash)
    message.accepted_in.CopyFrom(block)
    message.txid = accepted.txid.hex()
    message.reporter = address_text(accepted.reporter)
    message.slashed = str(accepted.units)
    return message


def accepted_at(reader: ChainReader, height: Height) -> list[AcceptedEvidence]:
    """In block order."""
    rows = reader.snapshot.scan(Table.EVIDENCE, evidence_key(height, 0), evidence_key(height + 1, 0))
    return [reader.accepted(key, row).evidence for key, row in rows]


def _view_of(evidence: Evidence) -> int:
    match evidence:
        case ConflictingVotes():
            return evidence.first.vote.view
        case LockLie():
            return evidence.view_change.vote.view
        case _:
            return evidence.prepare.vote.view
