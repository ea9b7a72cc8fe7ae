"""Each transaction kind, on a chain of its own: what succeeds, what fails, and what a failure costs."""

from __future__ import annotations

from dataclasses import replace

import pytest

from state.accounts import read_key
from state.errors import InvalidBlock, InvalidReason
from state.rules import RULES
from state.stake import read_roster, read_stake, read_unbondings
from state.transition import Applied
from tests.chains import signed_transaction
from tests.signing import FakeSigner
from tests.state.kit import PARAMETERS, Chain, address, make_chain, pay
from trellis.address import MultisigPolicy, encode_member_signatures, make_policy
from trellis.block import witness_root
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import AlgorithmPolicy, Role
from trellis.hashing import Tag
from trellis.outcome import Outcome
from trellis.peerid import peer_id
from trellis.transaction import (
    KIND_NAMES,
    Bond,
    Data,
    Output,
    RotateKey,
    Transaction,
    TransactionBody,
    Transfer,
    Unbond,
    Unjail,
    signing_bytes,
)
from trellis.types import Height


def test_every_kind_of_the_protocol_has_a_rule() -> None:
    assert set(RULES) == set(KIND_NAMES)


def bond(amount: int, seed: int, network_seed: int | None = None) -> Bond:
    key = FakeSigner(seed).public_key
    other = FakeSigner(seed if network_seed is None else network_seed).public_key
    return Bond(amount, AlgId.ML_DSA_65, key, peer_id(AlgId.ML_DSA_65, other))


def test_a_transfer_pays_every_output_and_the_fee() -> None:
    chain = make_chain()
    a, b, c, _ = chain.rich
    before = chain.account(a).balance
    kind = Transfer((Output(address(b), 5), Output(address(c), 7), Output(address(b), 1)))
    assert chain.outcome(a, kind, fee=9_000) is Outcome.OK
    assert chain.account(a) == (before - 13 - 9_000, 1)
    assert chain.account(b).balance == before + 6
    assert chain.account(c).balance == before + 7


def test_a_transfer_to_oneself_changes_nothing_but_the_fee() -> None:
    chain = make_chain()
    a = chain.rich[0]
    before = chain.account(a).balance
    assert chain.outcome(a, pay(address(a), before - 20_000)) is Outcome.OK
    assert chain.account(a).balance == before - 20_000


def test_a_transfer_beyond_the_balance_fails_pays_its_fee_and_uses_its_nonce() -> None:
    chain = make_chain()
    a, b, *_ = chain.rich
    before, other = chain.account(a).balance, chain.account(b).balance
    assert chain.outcome(a, pay(address(b), before)) is Outcome.INSUFFICIENT_FUNDS
    assert chain.account(a) == (before - 20_000, 1)
    assert chain.account(b).balance == other


def test_the_minimum_fee_is_burned_and_the_rest_goes_to_the_proposer() -> None:
    chain = make_chain()
    a = chain.rich[0]
    chain.step(chain.tx(a, Data(b"key")))
    transaction = chain.tx(a, Data(b"x"), fee=5_000)
    minimum = len(transaction.body) + chain.genesis.parameters.fee_ml_dsa_65
    proposer = chain.leader().address
    before, burned = chain.account(proposer).balance, chain.totals.burned
    done = chain.step(transaction)
    rewarded = sum(e.units for e in done.executed.events if getattr(e, "address", None) == proposer)
    assert chain.totals.burned == burned + minimum
    assert chain.account(proposer).balance == before + 5_000 - minimum + rewarded


def test_a_key_is_stored_at_first_use_and_left_out_after() -> None:
    chain = make_chain()
    a = chain.rich[0]
    first = chain.tx(a, Data(b"x"))
    assert first.public_key
    chain.step(first)
    known = read_key(chain.state, address(a))
    assert known is not None
    assert known.public_key == a.public_key
    assert not chain.tx(a, Data(b"x")).public_key


def test_two_first_transactions_in_one_block_both_carry_the_key() -> None:
    chain = make_chain()
    a = chain.rich[0]
    done = chain.step(chain.tx(a, Data(b"one")), chain.tx(a, Data(b"two"), after=1))
    assert [receipt.outcome for receipt in done.executed.receipts] == [Outcome.OK, Outcome.OK]


def test_bonding_makes_a_candidate_and_the_epochs_end_a_validator() -> None:
    chain = make_chain()
    a = chain.rich[0]
    assert chain.outcome(a, bond(500, 7_000)) is Outcome.OK
    assert address(a) in read_roster(chain.state)
    assert address(a) not in chain.validators
    joining = replace(chain.members[0], signer=FakeSigner(7_000), power=500)
    chain.run_to(10)
    assert chain.validators.power_of(address(a)) == 500
    member = chain.validators.get(address(a))
    assert member is not None
    assert member.public_key == joining.signer.public_key


@pytest.mark.parametrize(
    ("kind", "outcome"),
    [
        (bond(99, 7_000), Outcome.BELOW_MINIMUM_STAKE),
        (bond(10**12, 7_000), Outcome.INSUFFICIENT_FUNDS),
        (bond(500, 0), Outcome.KEY_IN_USE),
        (bond(500, 7_000, network_seed=1), Outcome.KEY_IN_USE),
        (Unbond(5), Outcome.NOT_A_VALIDATOR),
        (Unjail(), Outcome.NOT_A_VALIDATOR),
    ],
)
def test_who_is_no_validator_is_told_why(kind: Bond | Unbond | Unjail, outcome: Outcome) -> None:
    """Seeds 0 to 3 are the genesis validators': their consensus keys and network ids are taken."""
    chain = make_chain()
    assert chain.outcome(chain.rich[0], kind) is outcome
    assert read_stake(chain.state, address(chain.rich[0])) is None


def test_a_consensus_key_that_the_policy_does_not_allow_cannot_be_bonded() -> None:
    chain = make_chain()
    banned = (Role.CONSENSUS_VOTE, AlgId.ML_DSA_87)
    entries = tuple(e for e in chain.genesis.policy.entries if (e.role, e.alg_id) != banned)
    chain = Chain(replace(chain.genesis, policy=AlgorithmPolicy(entries)), chain.members, chain.rich)
    key = FakeSigner(7_000, AlgId.ML_DSA_87).public_key
    kind = Bond(500, AlgId.ML_DSA_87, key, peer_id(AlgId.ML_DSA_87, key))
    assert chain.outcome(chain.rich[0], kind) is Outcome.ALGORITHM_NOT_ALLOWED


def test_the_roster_does_not_grow_without_end() -> None:
    chain = make_chain(rich=8, parameters=replace(PARAMETERS, max_validators=4, min_stake=1))
    for place, signer in enumerate(chain.rich):
        wanted = Outcome.OK if 4 + place < 16 else Outcome.ROSTER_FULL
        assert chain.outcome(signer, bond(5, 7_000 + place)) is wanted
    chain = make_chain((10,), rich=4, parameters=replace(PARAMETERS, max_validators=1, min_stake=1))
    outcomes = [chain.outcome(signer, bond(5, 7_000 + place)) for place, signer in enumerate(chain.rich)]
    assert outcomes == [Outcome.OK, Outcome.OK, Outcome.OK, Outcome.ROSTER_FULL]


def test_unbonded_stake_comes_back_after_the_epoch_and_the_whole_delay() -> None:
    chain = make_chain()
    a = chain.rich[0]
    chain.step(chain.tx(a, bond(500, 7_000)))
    chain.run_to(12)
    assert chain.outcome(a, Unbond(300)) is Outcome.OK
    assert read_unbondings(chain.state, address(a)) == ((20 + 40, 300),)
    before = chain.account(a).balance
    chain.run_to(59)
    assert chain.account(a).balance == before
    chain.run_to(60)
    assert chain.account(a).balance == before + 300
    assert chain.validators.power_of(address(a)) == 200


@pytest.mark.parametrize(
    ("amount", "outcome"),
    [
        (501, Outcome.INSUFFICIENT_STAKE),
        (401, Outcome.BELOW_MINIMUM_STAKE),
        (400, Outcome.OK),
        (500, Outcome.OK),
    ],
)
def test_unbonding_leaves_nothing_or_the_minimum(amount: int, outcome: Outcome) -> None:
    chain = make_chain()
    a = chain.rich[0]
    chain.step(chain.tx(a, bond(500, 7_000)))
    assert chain.outcome(a, Unbond(amount)) is outcome


def test_who_has_left_is_forgotten_and_can_come_back_with_the_same_key() -> None:
    chain = make_chain()
    a = chain.rich[0]
    chain.step(chain.tx(a, bond(500, 7_000)))
    chain.run_to(11)
    chain.step(chain.tx(a, Unbond(500)))
    chain.run_to(70)
    assert address(a) not in read_roster(chain.state)
    assert read_stake(chain.state, address(a)) is None
    assert chain.outcome(a, bond(500, 7_000)) is Outcome.OK


def rotation(chain: Chain, old: FakeSigner, new: FakeSigner, by: FakeSigner | None = None) -> RotateKey:
    nonce = chain.account(old).nonce
    content = (chain.genesis.hash, address(old), nonce.to_bytes(8, "big"), bytes([new.alg_id]), new.public_key)
    message = Tag.KEY_POSSESSION.value + b"".join(content)
    return RotateKey(new.alg_id, new.public_key, (by or new).sign(message, Context.TX.value))


def test_a_rotated_key_is_in_force_from_the_next_block_on() -> None:
    chain = make_chain()
    a, new = chain.rich[0], FakeSigner(8_000, AlgId.ML_DSA_87)
    rotate = chain.tx(a, rotation(chain, a, new))
    same_block = chain.tx(a, Data(b"still the old key"), after=1)
    done = chain.step(rotate, same_block)
    assert [receipt.outcome for receipt in done.executed.receipts] == [Outcome.OK, Outcome.OK]
    body = TransactionBody(address(a), 2, Height(50), 20_000, Data(b"x"))
    by_new = signed_transaction(body, new, chain.genesis.hash, carry_key=False)
    by_old = signed_transaction(body, a, chain.genesis.hash, carry_key=False)
    assert [each.reason for each in chain.build([by_old]).dropped] == [InvalidReason.KEY_MISMATCH]
    assert not chain.build([by_new]).dropped


def test_nobody_hands_an_account_to_a_key_that_they_do_not_hold() -> None:
    chain = make_chain()
    a, new = chain.rich[0], FakeSigner(8_000)
    assert chain.outcome(a, rotation(chain, a, new, by=a)) is Outcome.POSSESSION_INVALID
    known = read_key(chain.state, address(a))
    assert known is not None
    assert known.public_key == a.public_key


def multisig(chain: Chain, policy: MultisigPolicy, signers: tuple[FakeSigner, ...], kind: Data) -> Transaction:
    body = TransactionBody(policy.address, 0, Height(50), 20_000, kind).encode()
    message = signing_bytes(chain.genesis.hash, body)
    members = []
    for signer in signers:
        index = policy.keys.index((signer.alg_id, signer.public_key))
        members.append((index, signer.sign(message, Context.TX.value)))
    return Transaction(body, AlgId.MULTISIG, policy.encode(), encode_member_signatures(members))


def test_two_of_three_may_spend_and_one_of_three_may_not() -> None:
    chain = make_chain()
    keys = tuple(FakeSigner(9_000 + place) for place in range(3))
    policy = make_policy(2, [(signer.alg_id, signer.public_key) for signer in keys])
    chain.step(chain.tx(chain.rich[0], pay(policy.address, 100_000)))
    alone = multisig(chain, policy, keys[:1], Data(b"x"))
    assert [each.reason for each in chain.build([alone]).dropped] == [InvalidReason.SIGNATURE_FORM]
    done = chain.step(multisig(chain, policy, keys[1:], Data(b"x")))
    assert done.executed.receipts[0].outcome is Outcome.OK


def test_one_bad_member_signature_spoils_a_multi_signature() -> None:
    chain = make_chain()
    keys = tuple(FakeSigner(9_000 + place) for place in range(2))
    policy = make_policy(2, [(signer.alg_id, signer.public_key) for signer in keys])
    chain.step(chain.tx(chain.rich[0], pay(policy.address, 100_000)))
    good = multisig(chain, policy, keys, Data(b"x"))
    block = chain.build([good]).applied.block
    forged = replace(good, signature=good.signature[:-1] + bytes([good.signature[-1] ^ 1]))
    header = replace(block.header, witness_root=witness_root((forged,)))
    result = chain.apply(replace(block, header=header, transactions=(forged,)))
    assert result == InvalidBlock(InvalidReason.BAD_SIGNATURE, "", 0)
    assert isinstance(chain.apply(block), Applied)


def test_stake_whose_power_is_kept_in_the_set_by_the_limit_is_not_paid_out_before_it_goes() -> None:
    """A validator with nearly all power leaves: the power takes epochs to go, the stake waits a delay after that."""
    chain = make_chain((9_000, 100, 100, 100))
    leaving = chain.members[0]
    before = chain.account(leaving.address).balance
    chain.step(chain.tx(leaving.signer, Unbond(9_000)))
    assert read_unbondings(chain.state, leaving.address) == ((50, 9_000),)
    while chain.validators.power_of(leaving.address):
        chain.step()
        assert sum(entry.amount for entry in read_unbondings(chain.state, leaving.address)) == 9_000
    gone_at = chain.height
    assert gone_at > 50
    chain.run_to(gone_at + 39)
    assert sum(entry.amount for entry in read_unbondings(chain.state, leaving.address)) == 9_000
    chain.run_to(gone_at + 40)
    assert read_unbondings(chain.state, leaving.address) == ()
    assert chain.account(leaving.address).balance >= before + 9_000 - 20_000
