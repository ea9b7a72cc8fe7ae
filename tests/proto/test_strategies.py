"""What the strategies draw is what they say: well formed, signed, and varied."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import strategies
from tests.chains import ReceiptStory, fake_members, set_of
from tests.signing import fake_verify_all
from tests.strategies import GENESIS_HASH
from trellis.block import Block, certificate_hash, decode_block, witness_root
from trellis.certificate import Certificate
from trellis.crypto.algorithms import AlgId
from trellis.evidence import Evidence, evidence_checks, evidence_fault
from trellis.genesis import Genesis, genesis_from_json
from trellis.receipt import verify_receipt
from trellis.records import AddressRecord, SignedAddressRecord
from trellis.transaction import KIND_NAMES, Kind, RevealProof, RotateKey, Transaction, decode_transaction
from trellis.validators import Validator, ValidatorSet, is_allowed_transition


@given(strategies.transactions())
def test_drawn_transactions_decode_and_their_signatures_hold(transaction: Transaction) -> None:
    assert decode_transaction(transaction.encode()) == transaction
    if transaction.public_key:
        assert transaction.carried_key_is_senders()
        assert all(fake_verify_all(transaction.checks(GENESIS_HASH, transaction.public_key)))
    kind = transaction.parsed.kind
    if isinstance(kind, RotateKey):
        body = transaction.parsed
        assert all(fake_verify_all(kind.checks(GENESIS_HASH, body.sender, body.nonce)))


def test_every_kind_of_transaction_is_drawn() -> None:
    seen: set[type[Kind]] = set()
    algorithms: set[int] = set()

    @settings(max_examples=300, database=None, derandomize=True)
    @given(strategies.transactions())
    def collect(transaction: Transaction) -> None:
        seen.add(type(transaction.parsed.kind))
        algorithms.add(transaction.alg_id)

    collect()
    assert seen == set(KIND_NAMES)
    assert algorithms == set(AlgId)


@settings(max_examples=40)
@given(strategies.blocks())
def test_drawn_blocks_name_their_own_content(block: Block) -> None:
    assert block.header.witness_root == witness_root(block.transactions)
    assert block.header.parent_certificate_hash == certificate_hash(block.parent_certificate)
    assert (block.seal is None) == (block.header.engine_seal_hash == bytes(32))
    again = decode_block(block.encode())
    assert again == block
    # A copy has to be put together anew; what was decoded remembers its bytes.
    assert replace(again).encode() == block.encode()


@settings(max_examples=20)
@given(strategies.proof_blocks())
def test_drawn_proof_blocks_reveal_proofs_alone(block: Block) -> None:
    assert block.transactions
    assert all(isinstance(t.parsed.kind, RevealProof) for t in block.transactions)


@given(strategies.certificates())
def test_drawn_certificates_hold_in_their_set(drawn: tuple[Certificate, ValidatorSet]) -> None:
    certificate, validators = drawn
    assert certificate.fault(GENESIS_HASH, validators, fake_verify_all) is None


@given(strategies.evidence(fake_members([1])[0]))
def test_drawn_evidence_is_true(item: Evidence) -> None:
    validators = set_of(fake_members([1]))
    assert evidence_fault(item, GENESIS_HASH, validators, fake_verify_all) is None
    offender: Validator = validators.members[0]
    assert all(fake_verify_all(evidence_checks(item, GENESIS_HASH, offender)))


@given(strategies.set_transitions())
def test_drawn_set_transitions_are_allowed(drawn: tuple[ValidatorSet, ValidatorSet]) -> None:
    assert is_allowed_transition(*drawn)


@given(strategies.peer_infos())
def test_drawn_peer_infos_are_signed(drawn: tuple[AddressRecord, SignedAddressRecord]) -> None:
    record, signed = drawn
    assert signed.record() == record
    assert fake_verify_all([signed.check()]) == [True]


@given(strategies.network_configurations())
def test_drawn_networks_survive_their_json_form(genesis: Genesis) -> None:
    assert genesis_from_json(genesis.to_json()).hash == genesis.hash


@settings(max_examples=50)
@given(strategies.receipts())
def test_drawn_receipts_hold(story: ReceiptStory) -> None:
    proven = verify_receipt(story.receipt, story.genesis, fake_verify_all)
    assert proven.txid == story.receipt.txid
    assert proven.height == story.receipt.header.height


@given(strategies.state_transitions())
def test_drawn_state_transitions_lead_from_before_to_after(step: strategies.StateTransition) -> None:
    state = dict(step.before)
    for key, value in sorted(step.changes.items()):
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
    assert state == step.after


@given(st.data())
def test_drawn_verification_results_match_verdict_and_code(data: st.DataObject) -> None:
    result = data.draw(strategies.verification_results())
    assert (result.verdict.name == "VALID") == (result.code.name == "OK")
