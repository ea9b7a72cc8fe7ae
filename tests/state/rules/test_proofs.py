"""Statements, proofs and attestations: who is paid, who is not, and what happens when nobody comes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

import state.rules.post_statement as rule
from state.claims import required_proofs
from state.errors import InvalidBlock, InvalidReason
from state.proofs import Limits, Verdict, VerificationResult, difficulty_milli
from state.results import accuracy, read_incidents
from state.rules.reveal_proof import ProofWork
from state.scope import StatementPaid, check_proof
from state.statements import MAX_EXPIRIES_PER_HEIGHT, Status, read_statement, read_statement_bytes
from state.transition import Applied
from tests.chains import Member, some_hash
from tests.signing import FakeSigner
from tests.state.kit import Chain, address, make_chain
from tests.state.rules.test_evidence import bonded, double_sign, report
from trellis.block import Block, transaction_leaf
from trellis.constants import Context
from trellis.evidence import InvalidProofPrepare, encode_evidence
from trellis.header import PROOF_COMMITMENT_EMPTY
from trellis.merkle import merkle_root, prove_inclusion
from trellis.outcome import Outcome
from trellis.records import AttestedVerdict, VerdictBatch
from trellis.transaction import (
    Attest,
    CommitProof,
    PostStatement,
    RevealProof,
    SubmitEvidence,
    Transaction,
)
from trellis.types import Hash, Height, View
from trellis.votes import Vote, VoteKind

FORMULA = b"p cnf 3 2\n1 -3 0\n2 3 0\n"
MODEL = b"v 1 2 -3 0\n"
WRONG = b"v -1 -2 3 0\n"
SCRIPT = b"(set-logic QF_LIA)\n(declare-const x Int)\n(assert (= (* 2 x) 8))\n(check-sat)\n"
LIMIT = 10_000
SALT = bytes(range(32))


def post(
    verifier: str = "sat-model.v1", statement: bytes = FORMULA, bounty: int = 5_000, life: int = 100
) -> PostStatement:
    return PostStatement(verifier, statement, bounty, Height(life))


def reveal(statement_id: Hash, proof: bytes = MODEL, limit: int = LIMIT) -> RevealProof:
    return RevealProof(statement_id, proof, SALT, limit)


def commit(chain: Chain, prover: FakeSigner, kind: RevealProof) -> Outcome:
    return chain.outcome(prover, CommitProof(kind.statement_id, kind.commitment(address(prover))))


def posted(chain: Chain, **fields: object) -> Hash:
    kind = post(**fields)  # type: ignore[arg-type]  # named like the parameters of `post`
    assert chain.outcome(chain.rich[0], kind) is Outcome.OK
    return kind.statement_id


def test_a_prover_commits_reveals_and_is_paid_from_the_escrow() -> None:
    chain = make_chain()
    before = chain.account(chain.rich[0]).balance
    statement = posted(chain)
    assert chain.account(chain.rich[0]).balance == before - 5_000 - 20_000
    assert chain.totals.escrow == 5_000
    prover = chain.rich[1]
    assert commit(chain, prover, reveal(statement)) is Outcome.OK
    balance = chain.account(prover).balance
    done = chain.step(chain.tx(prover, reveal(statement)))
    assert done.executed.receipts[0].outcome is Outcome.OK
    assert chain.account(prover).balance == balance - 20_000 + 5_000
    assert StatementPaid(statement, address(prover), 5_000) in done.executed.events
    assert chain.totals.escrow == 0
    assert done.block.header.proof_commitment != PROOF_COMMITMENT_EMPTY
    record = read_statement(chain.state, statement)
    assert record is not None
    assert (record.status, record.winner, record.escrow) == (Status.PROVEN, address(prover), 0)


def test_a_copied_proof_earns_nothing() -> None:
    """The thief sees the proof in a pool: it has committed to nothing, and a commitment names its owner."""
    chain = make_chain()
    statement = posted(chain)
    prover, thief = chain.rich[1:3]
    kind = reveal(statement)
    commit(chain, prover, kind)
    assert chain.outcome(thief, kind) is Outcome.COMMITMENT_UNKNOWN
    stolen = CommitProof(statement, kind.commitment(address(prover)))
    assert chain.outcome(thief, stolen) is Outcome.OK
    assert chain.outcome(thief, kind) is Outcome.COMMITMENT_UNKNOWN
    assert chain.outcome(prover, kind) is Outcome.OK
    assert commit(chain, thief, kind) is Outcome.STATEMENT_CLOSED


def test_a_commitment_made_in_the_same_block_is_too_young() -> None:
    chain = make_chain()
    statement = posted(chain)
    thief, kind = chain.rich[2], reveal(statement)
    first = chain.tx(thief, CommitProof(statement, kind.commitment(address(thief))))
    done = chain.step(first, chain.tx(thief, kind, after=1))
    assert [r.outcome for r in done.executed.receipts] == [Outcome.OK, Outcome.COMMITMENT_TOO_YOUNG]


def test_a_wrong_proof_pays_for_its_checking_and_may_be_followed_by_a_better_one() -> None:
    chain = make_chain()
    statement = posted(chain)
    prover = chain.rich[1]
    bad = reveal(statement, WRONG)
    commit(chain, prover, bad)
    before = chain.account(prover).balance
    done = chain.step(chain.tx(prover, bad))
    assert done.executed.receipts[0].outcome is Outcome.PROOF_INVALID
    assert done.block.header.proof_commitment != PROOF_COMMITMENT_EMPTY
    assert chain.account(prover).balance == before - 20_000
    good = reveal(statement)
    assert commit(chain, prover, good) is Outcome.OK
    assert chain.outcome(prover, good) is Outcome.OK


def test_a_proof_beyond_its_declared_cost_cannot_be_in_a_block() -> None:
    chain = make_chain()
    statement = posted(chain)
    prover, kind = chain.rich[1], reveal(statement, limit=40)
    commit(chain, prover, kind)
    other = chain.tx(chain.rich[2], CommitProof(statement, some_hash("x")))
    built = chain.build([chain.tx(prover, kind), other])
    assert [each.reason for each in built.dropped] == [InvalidReason.PROOF_LIMIT]
    chain.accept(built.applied.block)
    assert chain.account(prover).nonce == 1


def test_a_block_with_a_proof_beyond_its_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """A lying proposer says that the checker finished."""
    chain = make_chain()
    statement = posted(chain)
    prover, kind = chain.rich[1], reveal(statement, limit=40)
    commit(chain, prover, kind)

    def lie(verifier: str, content: bytes, proof: bytes, limits: Limits) -> VerificationResult:
        return check_proof(verifier, content, proof, Limits(10**9))

    chain.check_proof = lie
    block = chain.build([chain.tx(prover, kind)]).applied.block
    chain.check_proof = check_proof
    result = chain.apply(block)
    assert isinstance(result, InvalidBlock)
    assert result.reason is InvalidReason.PROOF_LIMIT


def test_a_block_that_claims_a_wrong_proof_valid_is_refused_and_its_prepares_are_slashed() -> None:
    chain = make_chain()
    statement = posted(chain)
    prover, bad = chain.rich[1], reveal(statement, WRONG)
    commit(chain, prover, bad)

    def lie(verifier: str, content: bytes, proof: bytes, limits: Limits) -> VerificationResult:
        return VerificationResult(Verdict.VALID, 50, check_proof(verifier, content, MODEL, limits).code)

    chain.check_proof = lie
    transaction = chain.tx(prover, bad)
    block = chain.build([transaction]).applied.block
    chain.check_proof = check_proof
    assert isinstance(chain.apply(block), InvalidBlock)

    offender = chain.members[2]
    evidence = blame(chain, offender, block.header.height, transaction, block)
    chain.step()
    assert chain.outcome(chain.rich[3], SubmitEvidence(encode_evidence(evidence))) is Outcome.OK
    incidents = read_incidents(chain.state, offender.address)
    assert (incidents.latest[0].permille, incidents.latest[0].units) == (50, 50)
    assert accuracy(chain.state, offender.address).permille == 0
    assert accuracy(chain.state, chain.members[0].address).permille == 1_000


def blame(
    chain: Chain, offender: Member, height: Height, transaction: Transaction, block: Block
) -> InvalidProofPrepare:
    vote = Vote(VoteKind.PREPARE, height, View(0), block.hash)
    leaf = transaction_leaf(transaction.txid(chain.genesis.hash), Outcome.OK, transaction.parsed.fee)
    assert merkle_root([leaf]) == block.header.tx_root
    signed = offender.sign(vote, chain.genesis.hash)
    return InvalidProofPrepare(signed, block.header, prove_inclusion([leaf], [0]), transaction, transaction.parsed.fee)


def test_a_larger_slash_for_the_same_height_takes_only_the_difference() -> None:
    chain = make_chain()
    statement = posted(chain)
    prover, bad = chain.rich[1], reveal(statement, WRONG)
    commit(chain, prover, bad)
    chain.check_proof = lambda verifier, content, proof, limits: VerificationResult(
        Verdict.VALID, 50, check_proof(verifier, content, MODEL, limits).code
    )
    transaction = chain.tx(prover, bad)
    block = chain.build([transaction]).applied.block
    chain.check_proof = check_proof
    offender = chain.members[2]
    small = blame(chain, offender, block.header.height, transaction, block)
    chain.step()
    assert report(chain, small) is Outcome.OK
    assert bonded(chain, offender) == 950
    assert report(chain, double_sign(chain, offender, block.header.height)) is Outcome.OK
    assert bonded(chain, offender) == 800


def test_an_honest_prepare_of_a_good_proof_cannot_be_blamed() -> None:
    chain = make_chain()
    statement = posted(chain)
    prover, good = chain.rich[1], reveal(statement)
    commit(chain, prover, good)
    transaction = chain.tx(prover, good)
    done = chain.step(transaction)
    evidence = blame(chain, chain.members[0], chain.height, transaction, done.block)
    kind = SubmitEvidence(encode_evidence(evidence))
    assert chain.outcome(chain.rich[3], kind, fee=40_000) is Outcome.EVIDENCE_INVALID


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (post("nobody.v1"), Outcome.UNKNOWN_VERIFIER),
        (post(statement=b"p cnf 1 1\n1 0"), Outcome.STATEMENT_MALFORMED),
        (post(bounty=10**12), Outcome.INSUFFICIENT_FUNDS),
        (post(life=1), Outcome.EXPIRY_OUT_OF_RANGE),
        (post(life=2_000_000), Outcome.EXPIRY_OUT_OF_RANGE),
        (CommitProof(some_hash("none"), some_hash("x")), Outcome.STATEMENT_UNKNOWN),
        (reveal(some_hash("none")), Outcome.STATEMENT_UNKNOWN),
    ],
)
def test_claims_about_nothing_are_charged_and_answered(
    kind: PostStatement | CommitProof | RevealProof, outcome: Outcome
) -> None:
    chain = make_chain()
    assert chain.outcome(chain.rich[0], kind) is outcome
    assert chain.totals.escrow == 0


def test_a_statement_is_posted_once_whoever_posts_it() -> None:
    chain = make_chain()
    statement = posted(chain)
    assert chain.outcome(chain.rich[1], post(bounty=1)) is Outcome.STATEMENT_EXISTS
    prover, kind = chain.rich[1], reveal(statement)
    commit(chain, prover, kind)
    chain.step(chain.tx(prover, kind))
    assert chain.outcome(chain.rich[2], post(bounty=1)) is Outcome.STATEMENT_EXISTS


def test_an_unproven_statement_gives_its_escrow_back_and_may_be_posted_again() -> None:
    chain = make_chain()
    statement = posted(chain, life=8)
    before = chain.account(chain.rich[0]).balance
    chain.run_to(7)
    assert chain.account(chain.rich[0]).balance == before
    chain.run_to(8)
    assert chain.account(chain.rich[0]).balance == before + 5_000
    prover, kind = chain.rich[1], reveal(statement)
    assert commit(chain, prover, kind) is Outcome.STATEMENT_CLOSED
    assert posted(chain, life=60) == statement
    assert commit(chain, prover, kind) is Outcome.OK
    assert chain.outcome(prover, kind) is Outcome.OK


def test_bytes_of_a_closed_statement_stay_for_the_window_and_go_after_it() -> None:
    chain = make_chain()
    statement = posted(chain, life=5)
    chain.run_to(35)
    assert read_statement_bytes(chain.state, statement) == FORMULA
    chain.run_to(36)
    assert read_statement_bytes(chain.state, statement) is None
    assert read_statement(chain.state, statement) is None


def test_a_statement_posted_again_keeps_its_bytes_for_the_window_of_its_second_closing() -> None:
    chain = make_chain()
    statement = posted(chain, life=5)
    chain.run_to(5)
    assert posted(chain, life=12) == statement
    chain.run_to(42)
    assert read_statement_bytes(chain.state, statement) == FORMULA
    chain.run_to(43)
    assert read_statement_bytes(chain.state, statement) is None


def test_not_everything_can_expire_in_one_block() -> None:
    chain = make_chain()
    for place in range(3):
        formula = b"p cnf %d 1\n%d 0\n" % (place + 1, place + 1)
        assert chain.outcome(chain.rich[0], post(statement=formula, bounty=1, life=50)) is Outcome.OK
    assert MAX_EXPIRIES_PER_HEIGHT > 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rule, "MAX_EXPIRIES_PER_HEIGHT", 3)
        formula = b"p cnf 9 1\n9 0\n"
        assert chain.outcome(chain.rich[0], post(statement=formula, life=50)) is Outcome.EXPIRY_OUT_OF_RANGE
        assert chain.outcome(chain.rich[0], post(statement=formula, life=51)) is Outcome.OK


def test_workers_are_told_in_advance_which_proofs_a_block_will_check() -> None:
    chain = make_chain()
    statement = posted(chain)
    prover, kind = chain.rich[1], reveal(statement)
    commit(chain, prover, kind)
    block = chain.build([chain.tx(prover, kind)]).applied.block
    work = ProofWork("sat-model.v1", FORMULA, MODEL, Limits(LIMIT))
    assert required_proofs(chain.state, block) == (work,)
    asked: list[ProofWork] = []

    def note(verifier: str, content: bytes, proof: bytes, limits: Limits) -> VerificationResult:
        asked.append(ProofWork(verifier, content, proof, limits))
        return check_proof(verifier, content, proof, limits)

    chain.check_proof = note
    assert isinstance(chain.apply(block), Applied)
    assert asked == [work]


def test_rewards_of_a_proof_bearing_block_are_multiplied_by_its_difficulty() -> None:
    chain = make_chain()
    statement = posted(chain)
    prover, kind = chain.rich[1], reveal(statement)
    commit(chain, prover, kind)
    chain.step(chain.tx(prover, kind))
    plain = 900 // 4
    hardness = difficulty_milli(check_proof("sat-model.v1", FORMULA, MODEL, Limits(LIMIT)).cost, len(MODEL))
    units = 1_000 * hardness // 1_000
    rewards = [e.units for e in chain.step().executed.events if getattr(e, "kind", None) == 1]
    assert rewards == [(units - units // 10) // 4] * 4
    assert rewards[0] > plain
    assert [e.units for e in chain.step().executed.events if getattr(e, "kind", None) == 1] == [plain] * 4


# Attested statements.


def batch_of(chain: Chain, statements: Sequence[Hash], height: int | None = None) -> VerdictBatch:
    entries = tuple((statement, AttestedVerdict.PROVEN) for statement in sorted(statements))
    return VerdictBatch(chain.genesis.hash, Height(chain.height if height is None else height), entries)


def attest(chain: Chain, batch: VerdictBatch, signers: Sequence[Member]) -> Attest:
    raw = batch.encode()
    ordered = sorted(signers, key=lambda member: member.address)
    bitmap = bytearray((len(chain.validators) + 7) // 8)
    for member in ordered:
        place = chain.validators.index(member.address)
        assert place is not None
        bitmap[place // 8] |= 1 << place % 8
    signatures = tuple(member.signer.sign(raw, Context.ATTEST.value) for member in ordered)
    return Attest(raw, bytes(bitmap), signatures)


def test_quorum_power_of_attestations_closes_a_statement_and_shares_its_bounty() -> None:
    chain = make_chain()
    statement = posted(chain, verifier="z3-attest.v1", statement=SCRIPT, bounty=100_000)
    kind = attest(chain, batch_of(chain, [statement]), chain.members[:3])
    sender = chain.rich[2]
    chain.outcome(sender, CommitProof(statement, some_hash("x")))
    transaction = chain.tx(sender, kind)
    done = chain.step(transaction)
    assert done.executed.receipts[0].outcome is Outcome.OK
    paid = {e.address: 0 for e in done.executed.events if isinstance(e, StatementPaid)}
    for event in done.executed.events:
        if isinstance(event, StatementPaid):
            paid[event.address] += event.units
    assert sum(paid.values()) == 100_000
    assert set(paid) == {address(sender), *(member.address for member in chain.members[:3])}
    record = read_statement(chain.state, statement)
    assert record is not None
    assert record.status is Status.ATTESTED_PROVEN
    assert done.block.header.proof_commitment != PROOF_COMMITMENT_EMPTY


def test_half_of_the_power_attests_nothing() -> None:
    chain = make_chain()
    statement = posted(chain, verifier="z3-attest.v1", statement=SCRIPT)
    kind = attest(chain, batch_of(chain, [statement]), chain.members[:2])
    assert chain.outcome(chain.rich[2], kind) is Outcome.ATTESTATION_INVALID


@pytest.mark.parametrize("fault", ["signature", "chain", "future", "padding", "before"])
def test_a_batch_that_is_not_what_it_claims_attests_nothing(fault: str) -> None:
    chain = make_chain()
    chain.run_to(2)
    statement = posted(chain, verifier="z3-attest.v1", statement=SCRIPT)
    batch = batch_of(chain, [statement])
    wanted = Outcome.ATTESTATION_INVALID
    match fault:
        case "chain":
            batch = replace(batch, genesis_hash=some_hash("other"))
        case "future":
            batch = replace(batch, height=Height(chain.height + 5))
        case "before":
            batch, wanted = replace(batch, height=Height(1)), Outcome.STATEMENT_CLOSED
    kind = attest(chain, batch, chain.members)
    match fault:
        case "signature":
            kind = replace(kind, signatures=(bytes(len(kind.signatures[0])), *kind.signatures[1:]))
        case "padding":
            signatures = (*kind.signatures, kind.signatures[0])
            kind = replace(kind, signers=bytes([kind.signers[0] | 0x80]), signatures=signatures)
    assert chain.outcome(chain.rich[2], kind) is wanted
    record = read_statement(chain.state, statement)
    assert record is not None
    assert record.status is Status.OPEN


def test_an_unattested_statement_expires_after_k_blocks_and_its_fee_is_kept() -> None:
    chain = make_chain()
    before = chain.account(chain.rich[0]).balance
    statement = posted(chain, verifier="z3-attest.v1", statement=SCRIPT, life=1_000)
    chain.run_to(5)
    assert chain.account(chain.rich[0]).balance == before - 25_000
    chain.run_to(6)
    assert chain.account(chain.rich[0]).balance == before - 20_000
    kind = attest(chain, batch_of(chain, [statement]), chain.members)
    assert chain.outcome(chain.rich[2], kind) is Outcome.STATEMENT_CLOSED


def test_nobody_proves_an_attested_statement_with_bytes() -> None:
    chain = make_chain()
    statement = posted(chain, verifier="z3-attest.v1", statement=SCRIPT)
    assert chain.outcome(chain.rich[1], CommitProof(statement, some_hash("x"))) is Outcome.STATEMENT_CLOSED
    assert chain.outcome(chain.rich[1], reveal(statement)) is Outcome.STATEMENT_CLOSED
