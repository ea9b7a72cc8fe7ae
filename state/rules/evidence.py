"""Evidence: an accusation that the rules verify themselves, against the set of the offence's height.

False evidence is a failed transaction: it pays for its checking. Its signatures are claims like any other, named from
the state before the block, so that every node checks the same ones.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from state.economy import is_punished, slash, slash_permille
from state.proofs import VERIFIERS, Limits, Verdict
from state.results import record_slash
from state.rules.rule import Rule, Source
from state.scope import BlockScope, Call, ClaimKey, SignatureClaim
from state.statements import read_statement, read_statement_bytes
from state.validator_sets import set_at
from state.view import StateView
from trellis.encoding import DecodeError
from trellis.evidence import Evidence, InvalidProofPrepare, decode_evidence, evidence_checks
from trellis.outcome import Outcome
from trellis.transaction import RevealProof, SubmitEvidence
from trellis.types import Hash
from trellis.validators import Validator, ValidatorSet


@lru_cache(maxsize=64)
def _decode(data: bytes) -> Evidence | None:
    """Asked three times a transaction: for its cost, its claims, its execution."""
    try:
        return decode_evidence(data)
    except DecodeError:
        return None


class _Accused(NamedTuple):
    validators: ValidatorSet
    """Of the offence's height."""
    offender: Validator


def _accused(parent: StateView, height: int, evidence: Evidence) -> _Accused | None:
    if not 1 <= evidence.height <= height:
        return None
    validators = set_at(parent, evidence.height)
    offender = None if validators is None else validators.get(evidence.offender)
    return None if validators is None or offender is None else _Accused(validators, offender)


def _claim_key(txid: Hash, accused: _Accused) -> ClaimKey:
    """The id covers votes and signatures, the set's hash the keys; algorithm 0 is no transaction's."""
    return ClaimKey(txid, 0, accused.validators.hash, txid)


def _claims(parent: StateView, source: Source, kind: SubmitEvidence) -> tuple[SignatureClaim, ...]:
    evidence = _decode(kind.evidence)
    if evidence is None or evidence.fault(source.genesis_hash) is not None:
        return ()
    accused = _accused(parent, source.height, evidence)
    if accused is None:
        return ()
    checks = evidence_checks(evidence, source.genesis_hash, accused.offender)
    return (SignatureClaim(_claim_key(source.txid, accused), checks),)


def _execute(call: Call, kind: SubmitEvidence) -> Outcome:
    block = call.block
    evidence = _decode(kind.evidence)
    if evidence is None:
        return Outcome.EVIDENCE_MALFORMED
    if evidence.fault(block.genesis_hash) is not None:
        return Outcome.EVIDENCE_INVALID
    parameters = block.network.parameters
    if block.height - evidence.height > parameters.evidence_window_blocks:
        return Outcome.EVIDENCE_TOO_OLD
    accused = _accused(block.parent, block.height, evidence)
    if accused is None:
        return Outcome.EVIDENCE_INVALID
    permille = slash_permille(evidence, parameters)
    if is_punished(call.state, evidence, permille):
        return Outcome.ALREADY_PUNISHED
    if not block.verdicts(_claim_key(call.txid, accused)):
        return Outcome.EVIDENCE_INVALID
    if isinstance(evidence, InvalidProofPrepare) and not _proof_is_invalid(block, evidence):
        return Outcome.EVIDENCE_INVALID
    done = slash(call, evidence, permille)
    record_slash(call.state, done, block.height, accused.validators)
    return Outcome.OK


def _proof_is_invalid(block: BlockScope, evidence: InvalidProofPrepare) -> bool:
    """Exactly INVALID: a proof beyond its limit refuses a block, and blames nobody."""
    reveal = evidence.transaction.parsed.kind
    if not isinstance(reveal, RevealProof):
        return False
    record = read_statement(block.parent, reveal.statement_id)
    content = read_statement_bytes(block.parent, reveal.statement_id)
    if record is None or content is None or record.verifier not in VERIFIERS:
        return False
    result = block.check_proof(record.verifier, content, reveal.proof, Limits(reveal.cost_limit))
    return result.verdict is Verdict.INVALID


def _proof_cost(kind: SubmitEvidence) -> int:
    evidence = _decode(kind.evidence)
    if not isinstance(evidence, InvalidProofPrepare):
        return 0
    try:
        reveal = evidence.transaction.parsed.kind
    except DecodeError:
        return 0
    return reveal.cost_limit if isinstance(reveal, RevealProof) else 0


EVIDENCE: Final = Rule(SubmitEvidence, _execute, _claims, _proof_cost)
