"""Attest: quorum power of a recent set signed verdicts on statements that only a solver can judge.

The signatures alone are checked, now and in every replay; nobody runs the solver here. Bounties of the statements that
the batch closes go, first, to the sender up to the minimum fee it paid (whoever carries 67 signatures pays for their
bytes); the rest is split equally over the signers, what division leaves going to the first of them.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from state.accounts import credit
from state.proofs import VERIFIERS
from state.rules.rule import Rule, Source
from state.scope import Call, ClaimKey, Due, SignatureClaim, StatementPaid
from state.statements import Statement, Status, bytes_needed_until, close, read_statement, write_statement
from state.validator_sets import set_at
from state.view import StateView
from trellis.constants import Context
from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck
from trellis.encoding import DecodeError, Writer
from trellis.outcome import Outcome
from trellis.records import AttestedVerdict, VerdictBatch, decode_verdict_batch
from trellis.transaction import Attest
from trellis.types import ZERO_HASH, Address, Hash
from trellis.validators import Validator, ValidatorSet

_STATUS: Final = {
    AttestedVerdict.PROVEN: Status.ATTESTED_PROVEN,
    AttestedVerdict.REFUTED: Status.ATTESTED_REFUTED,
}


@lru_cache(maxsize=64)
def _decode(data: bytes) -> VerdictBatch | None:
    try:
        return decode_verdict_batch(data)
    except DecodeError:
        return None


class _Signers(NamedTuple):
    validators: ValidatorSet
    members: tuple[Validator, ...]


def _signers(parent: StateView, source: Source, kind: Attest) -> _Signers | None:
    """Who signed, if the batch has the form of one: this chain, a known recent set, quorum power, sizes."""
    batch = _decode(kind.batch)
    if batch is None or batch.genesis_hash != source.genesis_hash or not 1 <= batch.height <= source.height:
        return None
    validators = set_at(parent, batch.height)
    if validators is None or len(kind.signers) != (len(validators) + 7) // 8:
        return None
    places = [place for place in range(8 * len(kind.signers)) if kind.signers[place // 8] >> place % 8 & 1]
    if len(places) != len(kind.signatures) or places[-1:] >= [len(validators)]:
        return None
    members = tuple(validators.members[place] for place in places)
    for member, signature in zip(members, kind.signatures, strict=True):
        if len(signature) != SIZES[AlgId(member.alg_id)].signature_bytes:
            return None
    if not validators.is_quorum(sum(member.power for member in members)):
        return None
    return _Signers(validators, members)


def _claim_key(txid: Hash, signers: _Signers) -> ClaimKey:
    return ClaimKey(txid, 0, signers.validators.hash, txid)


def _claims(parent: StateView, source: Source, kind: Attest) -> tuple[SignatureClaim, ...]:
    signers = _signers(parent, source, kind)
    if signers is None:
        return ()
    context = Context.ATTEST.value
    checks = tuple(
        SignatureCheck(member.alg_id, member.public_key, kind.batch, signature, context)
        for member, signature in zip(signers.members, kind.signatures, strict=True)
    )
    return (SignatureClaim(_claim_key(source.txid, signers), checks),)


def _open(call: Call, batch: VerdictBatch) -> list[tuple[Hash, AttestedVerdict, Statement]]:
    """The entries that still wait. Others are passed over: two batches may overlap."""
    found: list[tuple[Hash, AttestedVerdict, Statement]] = []
    for statement_id, verdict in batch.entries:
        record = read_statement(call.state, statement_id)
        if record is None or record.status is not Status.OPEN or record.verifier in VERIFIERS:
            continue
        # Signed before the statement was there, a verdict cannot be about it.
        if record.posted_at <= batch.height:
            found.append((statement_id, verdict, record))
    return found


def verdict_entry(txid: Hash, statement_id: Hash, verdict: AttestedVerdict) -> bytes:
    """What proof_commitment commits of an attested verdict: shorter than a proof's entry, so never mistaken for one."""
    return Writer().hash(txid).hash(statement_id).u8(verdict).done()


def _execute(call: Call, kind: Attest) -> Outcome:
    block = call.block
    batch = _decode(kind.batch)
    if batch is None:
        return Outcome.ATTESTATION_MALFORMED
    source = Source(block.genesis_hash, block.height, call.txid, call.sender, call.nonce)
    signers = _signers(block.parent, source, kind)
    if signers is None:
        return Outcome.ATTESTATION_INVALID
    entries = _open(call, batch)
    if not entries:
        return Outcome.STATEMENT_CLOSED
    if not block.verdicts(_claim_key(call.txid, signers)):
        return Outcome.ATTESTATION_INVALID
    until = bytes_needed_until(block.height, block.network.parameters.evidence_window_blocks)
    bounty = 0
    for statement_id, verdict, record in entries:
        closed = close(record, _STATUS[verdict], block.height, Address(ZERO_HASH))
        write_statement(call.state, statement_id, closed)
        block.proof_entries.append(verdict_entry(call.txid, statement_id, verdict))
        bounty += record.escrow
        call.later(Due.STATEMENT_BYTES, until, statement_id)
    _split(call, bounty, entries[0][0], tuple(member.address for member in signers.members))
    return Outcome.OK


def _split(call: Call, bounty: int, statement_id: Hash, signers: tuple[Address, ...]) -> None:
    carried = min(bounty, call.minimum_fee)
    share, rest = divmod(bounty - carried, len(signers))
    payments = [(call.sender, carried), (signers[0], rest), *((address, share) for address in signers)]
    for address, units in payments:
        if units:
            credit(call.state, address, units)
            call.events.append(StatementPaid(statement_id, address, units))


ATTEST: Final = Rule(Attest, _execute, _claims)
