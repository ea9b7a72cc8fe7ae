"""The economy's promises, each for a hundred drawn chains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import state.execution
from state.conservation import ConservationValidator
from state.economy import base_emission, emission, shares
from state.epoch import Candidate, following_set
from state.errors import InvalidBlock, InvalidReason
from state.proofs import VERIFIERS, Limits, Verdict, VerificationResult, difficulty_milli
from state.results import read_rewards
from state.scope import Reward, RewardKind, check_proof
from state.stake import Stake, read_stake
from state.transition import Applied
from tests.chains import fake_members, set_of, some_hash
from tests.signing import FakeSigner
from tests.state.kit import PARAMETERS, Chain, address, make_chain, pay
from tests.state.rules.test_evidence import bonded, double_sign
from tests.state.rules.test_kinds import bond
from tests.state.rules.test_proofs import FORMULA, LIMIT, MODEL, WRONG, blame, commit, posted, reveal
from tests.state.transition.scenarios import SCENARIOS
from trellis.block import witness_root
from trellis.certificate import Certificate
from trellis.crypto.algorithms import AlgId
from trellis.evidence import encode_evidence
from trellis.outcome import Outcome
from trellis.parameters import Parameters
from trellis.peerid import peer_id
from trellis.transaction import Data, Kind, PostStatement, SubmitEvidence, Transaction, Unbond, Unjail
from trellis.types import Address, Height, View
from trellis.validators import changed_power, is_allowed_transition
from trellis.votes import VoteKind

hundred = settings(max_examples=100)


@st.composite
def actions(draw: st.DrawFn) -> list[tuple[int, str, int]]:
    """(who, what, how much) for a run of blocks."""
    kinds = st.sampled_from(["pay", "data", "bond", "unbond", "post", "evidence", "unjail", "none"])
    return draw(st.lists(st.tuples(st.integers(0, 3), kinds, st.integers(1, 3_000)), min_size=1, max_size=14))


def kind_of(chain: Chain, who: int, what: str, units: int) -> Kind:
    match what:
        case "pay":
            return pay(address(chain.rich[(who + 1) % 4]), units * 10_000)
        case "bond":
            return bond(units, 7_000 + who)
        case "unbond":
            return Unbond(units)
        case "post":
            formula = b"p cnf %d 1\n%d 0\n" % (units, units)
            return PostStatement("sat-model.v1", formula, units * 100, Height(chain.height + 4))
        case "evidence":
            height = max(1, chain.height - units % 40)
            return SubmitEvidence(encode_evidence(double_sign(chain, chain.members[who], height)))
        case "unjail":
            return Unjail()
        case _:
            return Data(b"x")


def play(chain: Chain, run: Sequence[tuple[int, str, int]]) -> None:
    for who, what, units in run:
        transactions: list[Transaction] = []
        if what != "none":
            transactions.append(chain.tx(chain.rich[who], kind_of(chain, who, what, units)))
        chain.step(*transactions)


@hundred
@given(actions())
def test_conservation_across_state_transitions(run: list[tuple[int, str, int]]) -> None:
    """`Chain.accept` compares, after every block, the whole sum, the incremental sum and the recorded totals."""
    chain = make_chain()
    play(chain, run)
    validator = ConservationValidator(chain.state.items())
    assert validator.validate()
    assert validator.calculate_total_value() == chain.totals.genesis_supply + chain.totals.emitted - chain.totals.burned


@hundred
@given(st.integers(1, 10**6), st.sampled_from([b"a", b"v", b"s"]))
def test_a_state_in_which_value_appeared_does_not_validate(units: int, prefix: bytes) -> None:
    chain = make_chain()
    posted(chain)
    rows = dict(chain.state.items())
    key = next(key for key in rows if key[:1] == prefix)
    rows[key] = (int.from_bytes(rows[key][:8], "big") + units).to_bytes(8, "big") + rows[key][8:]
    assert not ConservationValidator(rows.items()).validate()


@settings(max_examples=100)
@given(st.integers(12, 30), st.integers(1, 5), st.integers(1, 2_000))
def test_token_supply_conservation_over_many_rounds(rounds: int, halving: int, per_block: int) -> None:
    parameters = replace(PARAMETERS, halving_blocks=halving, emission_per_block=per_block, emission_cap=3 * per_block)
    chain = make_chain(parameters=parameters, rich=1)
    for _ in range(rounds):
        chain.step()
    totals = chain.totals
    assert totals.held == totals.owed
    assert totals.emitted <= parameters.emission_cap
    assert totals.burned == 0
    assert totals.held == chain.genesis.supply + totals.emitted


@hundred
@given(st.integers(1, 10**7), st.integers(0, 2 * 10**6), st.integers(1, 10**6), st.integers(0, 10**6))
def test_reward_difficulty_proportionality(height: int, cost: int, size: int, more: int) -> None:
    """A block's emission is the base times the difficulty in thousandths, to the unit, and grows with it."""
    parameters = Parameters(emission_cap=2**63)
    easy, hard = difficulty_milli(cost, size), difficulty_milli(cost + more, size)
    base = base_emission(height, parameters)
    assert emission(height, easy, 0, parameters) == base * easy // 1_000
    assert emission(height, easy, 0, parameters) <= emission(height, hard, 0, parameters)
    assert emission(height, 1_000, 0, parameters) == base


@st.composite
def signed_sets(draw: st.DrawFn) -> tuple[list[int], list[int]]:
    powers = draw(st.lists(st.integers(1, 1_000), min_size=1, max_size=8))
    signers = draw(st.lists(st.integers(0, len(powers) - 1), min_size=1, unique=True))
    return powers, sorted(signers)


def certificate_by(powers: list[int], signers: list[int]) -> tuple[Certificate, object]:
    validators = set_of(fake_members(powers))
    bitmap = bytearray((len(powers) + 7) // 8)
    for place in signers:
        bitmap[place // 8] |= 1 << place % 8
    return Certificate(VoteKind.COMMIT, Height(1), View(0), some_hash("b"), bytes(bitmap), ()), validators


@hundred
@given(signed_sets(), st.integers(0, 10**9), st.integers(0, 1_000))
def test_multi_node_reward_distribution(drawn: tuple[list[int], list[int]], units: int, permille: int) -> None:
    """Every signer gets the same, who did not sign gets nothing, the sum stays within the emission, and nobody's share
    changes when another vote is left out; only the proposer's bonus does, and never upwards."""
    powers, signers = drawn
    validators = set_of(fake_members(powers))
    parameters = replace(PARAMETERS, bonus_proposer_permille=permille)
    proposer = Address(some_hash("proposer"))

    def split(chosen: list[int]) -> tuple[dict[Address, int], int]:
        certificate, _ = certificate_by(powers, chosen)
        rewards = shares(units, certificate, validators, proposer, parameters)
        commits = {r.address: r.units for r in rewards if r.kind is RewardKind.COMMIT}
        return commits, sum(r.units for r in rewards if r.kind is RewardKind.PROPOSER)

    commits, bonus = split(signers)
    share = (units - units * permille // 1_000) // len(powers)
    assert commits == ({validators.addresses[place]: share for place in signers} if share else {})
    assert sum(commits.values()) + bonus <= units
    fewer, less = split(signers[1:]) if len(signers) > 1 else (commits, bonus)
    assert less <= bonus
    assert all(fewer.get(each, share) == share for each in commits)


@settings(max_examples=100)
@given(st.lists(st.integers(0, 3), min_size=3, max_size=3, unique=True), st.booleans())
def test_reward_issuance_correctness(signers: list[int], everyone: bool) -> None:
    """Who signed block h is paid by block h+1, exactly the formula, into its balance and into what can be asked."""
    chain = make_chain(rich=1)
    chosen = chain.members if everyone else [chain.members[place] for place in signers]
    chain.step(signers=chosen)
    before = {m.address: chain.account(m.address).balance for m in chain.members}
    proposer = chain.leader().address
    done = chain.step()
    bonus = 100 * len(chosen) // 4
    for member in chain.members:
        due = (225 if member in chosen else 0) + (bonus if member.address == proposer else 0)
        assert chain.account(member.address).balance == before[member.address] + due
        assert read_rewards(chain.state, member.address).units == due
    assert sum(e.units for e in done.executed.events if isinstance(e, Reward)) == chain.totals.emitted


@hundred
@given(st.integers(0, 10**7), st.integers(0, 10**6), st.integers(0, 10**7), st.integers(0, 10**6))
def test_difficulty_monotonicity(cost: int, size: int, more_cost: int, more_size: int) -> None:
    assert difficulty_milli(cost, size) <= difficulty_milli(cost + more_cost, size + more_size)


@st.composite
def formulas(draw: st.DrawFn) -> tuple[bytes, bytes, bytes]:
    """A formula with a model that satisfies it, and one that does not."""
    count = draw(st.integers(1, 6))
    signs = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    model = [place + 1 if sign else -(place + 1) for place, sign in enumerate(signs)]
    clauses = b"".join(b"%d 0\n" % literal for literal in model)
    good = b"v " + b" ".join(b"%d" % literal for literal in model) + b" 0\n"
    flip = draw(st.integers(0, count - 1))
    wrong = [-literal if place == flip else literal for place, literal in enumerate(model)]
    bad = b"v " + b" ".join(b"%d" % literal for literal in wrong) + b" 0\n"
    return b"p cnf %d %d\n" % (count, count) + clauses, good, bad


@settings(max_examples=100)
@given(formulas())
def test_proof_verification_completeness(drawn: tuple[bytes, bytes, bytes]) -> None:
    """Every true statement that has a proof can be proven on the chain, by whoever holds it, and nothing else is."""
    formula, good, bad = drawn
    chain = make_chain(rich=2)
    statement = posted(chain, statement=formula)
    prover = chain.rich[1]
    for proof, wanted in ((bad, Outcome.PROOF_INVALID), (good, Outcome.OK)):
        kind = reveal(statement, proof)
        assert commit(chain, prover, kind) is Outcome.OK
        assert chain.outcome(prover, kind) is wanted


@settings(max_examples=100)
@given(st.integers(0, 3), st.integers(100, 5_000))
def test_slashing_on_invalid_verification(place: int, stake: int) -> None:
    """Whoever PREPAREs a block that claims a wrong proof valid loses 5 % of its stake, rounded down; others nothing."""
    chain = make_chain((stake, stake, stake, stake), rich=3)
    statement = posted(chain)
    prover, bad = chain.rich[1], reveal(statement, WRONG)
    commit(chain, prover, bad)
    good = check_proof("sat-model.v1", FORMULA, MODEL, Limits(LIMIT))
    assert VERIFIERS["sat-model.v1"].verify(FORMULA, WRONG, Limits(LIMIT)).verdict is Verdict.INVALID
    chain.check_proof = lambda *asked: VerificationResult(Verdict.VALID, good.cost, good.code)
    transaction = chain.tx(prover, bad)
    block = chain.build([transaction]).applied.block
    chain.check_proof = check_proof
    assert isinstance(chain.apply(block), InvalidBlock)
    offender = chain.members[place]
    evidence = blame(chain, offender, block.header.height, transaction, block)
    chain.step()
    assert chain.outcome(chain.rich[2], SubmitEvidence(encode_evidence(evidence))) is Outcome.OK
    for member in chain.members:
        assert bonded(chain, member) == (stake - stake * 50 // 1_000 if member == offender else stake)


@settings(max_examples=100)
@given(st.integers(1, 300), st.integers(1, 300))
def test_minimum_stake_enforcement(first: int, out: int) -> None:
    """No transaction ever leaves a bonded stake between nothing and the minimum."""
    chain = make_chain(rich=1)
    signer, least = chain.rich[0], PARAMETERS.min_stake
    assert (chain.outcome(signer, bond(first, 7_000)) is Outcome.OK) is (first >= least)
    chain.step(chain.tx(signer, Unbond(out)))
    stake = read_stake(chain.state, address(signer))
    held = 0 if stake is None else stake.bonded
    assert held == 0 or held >= least
    chain.run_to(10)
    assert (address(signer) in chain.validators) is (held > 0)


@settings(max_examples=100)
@given(st.integers(0, 3), st.integers(1, 12))
def test_no_offline_penalties(silent: int, rounds: int) -> None:
    """A validator that signs nothing loses no stake, no power, no freedom: it only earns nothing."""
    chain = make_chain(rich=1)
    quiet = chain.members[silent]
    others = [member for member in chain.members if member is not quiet]
    for _ in range(rounds):
        view = 0 if chain.leader().address != quiet.address else 1
        chain.step(view=view, signers=others)
    stake = read_stake(chain.state, quiet.address)
    assert stake is not None
    assert (stake.bonded, stake.jailed_until) == (1_000, 0)
    assert chain.validators.power_of(quiet.address) == 1_000
    assert read_rewards(chain.state, quiet.address).units == 0


@settings(max_examples=100)
@given(st.integers(0, 2), st.binary(min_size=1, max_size=4))
def test_signature_verification_before_consensus(place: int, noise: bytes) -> None:
    """A block with one signature that is not the sender's never executes, whatever else is in it."""
    chain = make_chain(rich=3)
    transactions = [chain.tx(signer, Data(b"x")) for signer in chain.rich]
    block = chain.build(transactions).applied.block
    signature = bytearray(transactions[place].signature)
    for at, byte in enumerate(noise):
        signature[at * 100] ^= byte
    forged = replace(transactions[place], signature=bytes(signature))
    changed = tuple(forged if at == place else each for at, each in enumerate(transactions))
    header = replace(block.header, witness_root=witness_root(changed))
    result = chain.apply(replace(block, header=header, transactions=changed))
    if forged == transactions[place]:
        assert isinstance(result, Applied)
    else:
        assert result == InvalidBlock(InvalidReason.BAD_SIGNATURE, "", place)


@settings(max_examples=100)
@given(st.integers(0, len(MODEL) - 1), st.integers(1, 255))
def test_cryptographic_proof_integrity(at: int, flip: int) -> None:
    """A revealed proof that differs in any byte from the committed one is not the committed proof; and the header binds
    the proof and its verdict."""
    chain = make_chain(rich=2)
    statement = posted(chain)
    prover = chain.rich[1]
    assert commit(chain, prover, reveal(statement)) is Outcome.OK
    other = bytes(byte ^ flip if place == at else byte for place, byte in enumerate(MODEL))
    assert chain.outcome(prover, reveal(statement, other)) is Outcome.COMMITMENT_UNKNOWN
    block = chain.build([chain.tx(prover, reveal(statement))]).applied.block
    commitment = bytes(byte ^ flip if place == at else byte for place, byte in enumerate(block.header.proof_commitment))
    result = chain.apply(replace(block, header=replace(block.header, proof_commitment=commitment)))
    assert result == InvalidBlock(InvalidReason.PROOF_COMMITMENT)


@st.composite
def candidates(draw: st.DrawFn) -> tuple[list[int], list[tuple[int, bool]]]:
    old = draw(st.lists(st.integers(1, 10_000), min_size=1, max_size=8))
    new = draw(st.lists(st.tuples(st.integers(0, 10_000), st.booleans()), min_size=1, max_size=12))
    return old, new


@hundred
@given(candidates())
def test_a_set_change_moves_at_most_a_third_and_never_empties_the_set(
    drawn: tuple[list[int], list[tuple[int, bool]]],
) -> None:
    powers, wishes = drawn
    old = set_of(fake_members(powers))
    found = []
    for seed, (units, jailed) in enumerate(wishes):
        key = FakeSigner(seed).public_key
        stake = Stake(units, 50 if jailed else 0, 1, key, peer_id(AlgId.ML_DSA_65, key))
        found.append(Candidate(fake_members([1], seed)[0].address, stake))
    found.sort(key=lambda candidate: candidate.address)
    sets = [old]
    for _ in range(40):
        sets.append(following_set(sets[-1], found, PARAMETERS))
        assert is_allowed_transition(sets[-2], sets[-1])
        assert len(sets[-1]) <= max(PARAMETERS.max_validators, len(old))
    # What may still differ is less than one unit in three: it goes on until nothing moves.
    assert changed_power(sets[-2], sets[-1]) * 3 <= sets[-2].total_power


def test_a_block_by_a_rule_that_makes_value_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    result = SCENARIOS[InvalidReason.CONSERVATION](monkeypatch).apply()
    assert isinstance(result, InvalidBlock)
    assert result.reason is InvalidReason.CONSERVATION
    assert "emitted" in result.detail
    assert state.execution.VALUE_CHECKS
