"""A lying node: whatever it says, nothing false is believed; one honest node beside it is enough for every proof."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tests.proto.client.conftest import Workshop
from tests.proto.client.fake_chain import FakeChain, make_key
from tests.proto.client.fake_server import FakeNode, Refusal
from trellis.client import BadAnswer, HeightFuture, LocalSigner, NotProvable, ProofInvalid, Reason
from trellis.genesis import EngineKind
from trellis.receipt import Checkpoint, decode_receipt
from trellis.types import Height


def _flip(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def _paid(workshop: Workshop) -> tuple[FakeChain, FakeNode, Any, Any]:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit_pending()
    return chain, node, client, sent


def test_a_receipt_with_any_byte_changed_is_refused(workshop: Workshop) -> None:
    _, node, client, sent = _paid(workshop)
    size = len(client.receipt(sent).encode())
    for at in range(0, size, 997):
        node.lie("GetReceipt", lambda answer, at=at: setattr(answer, "receipt", _flip(answer.receipt, at)))
        with pytest.raises(ProofInvalid, match="receipt"):
            client.receipt(sent)


def test_a_valid_receipt_of_another_transaction_is_refused(workshop: Workshop) -> None:
    chain, node, client, sent = _paid(workshop)
    other = client.send(to=workshop.bob.address, amount=2, signer=workshop.alice)
    chain.commit_pending()
    receipt = chain.receipt(other.txid)
    assert receipt is not None
    node.lie("GetReceipt", lambda answer: setattr(answer, "receipt", receipt.encode()))
    with pytest.raises(ProofInvalid, match="another transaction"):
        client.receipt(sent)


def test_a_receipt_with_a_better_outcome_is_refused(workshop: Workshop) -> None:
    _, node, client, sent = _paid(workshop)

    def cheaper(answer: Any) -> None:
        answer.receipt = replace(decode_receipt(answer.receipt), fee=1).encode()

    node.lie("GetReceipt", cheaper)
    with pytest.raises(ProofInvalid, match="not under the block's root"):
        client.receipt(sent)


def test_a_receipt_of_another_chain_is_refused(workshop: Workshop) -> None:
    _, node, client, sent = _paid(workshop)
    foreign = workshop.chain("foreign")
    foreign.commit(sent.transaction)
    receipt = foreign.receipt(foreign.blocks[0].included[0].txid)
    assert receipt is not None
    node.lie("GetReceipt", lambda answer: setattr(answer, "receipt", receipt.encode()))
    with pytest.raises(ProofInvalid, match="wrong_chain"):
        client.receipt(sent)


def test_an_honest_endpoint_beside_a_liar_is_enough(workshop: Workshop) -> None:
    chain = workshop.chain()
    liar, honest = workshop.node(chain), workshop.node(chain)
    client = workshop.client(liar, honest, trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit_pending()
    liar.lie("GetReceipt", lambda answer: setattr(answer, "receipt", b"no receipt at all"))
    assert client.wait(sent).txid == sent.txid
    assert client.receipt(sent).finality.txid == sent.txid
    honest.refuse("GetReceipt", Refusal(Reason.SYNCING))
    assert client.receipt(sent).finality.txid == sent.txid
    assert liar.calls["GetReceipt"] == 1  # not even while the honest one rests


def test_a_wait_that_is_lied_to_about_finality_is_not_believed(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit()
    real, node.chain = node.chain, _fork_with(chain, workshop, sent.transaction)
    assert node.chain.genesis.hash == real.genesis.hash
    with pytest.raises(ProofInvalid, match="bad_signature"):
        client.wait(sent)


def _fork_with(chain: FakeChain, workshop: Workshop, transaction: Any) -> FakeChain:
    """The same genesis, but blocks certified by keys that are not the validators'."""
    fork = workshop.chain()
    assert fork.genesis.hash == chain.genesis.hash
    strangers = [make_key(f"stranger {n}") for n in range(len(fork.validators))]
    fork.keys = dict(zip(fork.validators.addresses, strangers, strict=True))
    fork.commit()
    fork.blocks = list(chain.blocks)
    fork.commit(transaction)
    return fork


def test_an_account_is_proven_under_a_certified_root(workshop: Workshop) -> None:
    chain, _, client, _ = _paid(workshop)
    for address in (workshop.alice.address, workshop.bob.address, chain.validators.members[0].address):
        account = client.account(address, verify=True)
        assert account.proven
        assert account.at.hash == chain.hash_at(1)
        assert (account.balance, account.nonce) == chain.state.account(address)
    assert client.account(chain.validators.members[0].address, verify=True).bonded == 1_000_000
    assert client.account(workshop.alice.address, verify=True).public_key == workshop.alice.public_key


def test_an_account_that_was_never_used_is_proven_absent(workshop: Workshop) -> None:
    _, _, client, _ = _paid(workshop)
    nobody = LocalSigner(make_key("nobody")).address
    assert client.account(nobody, verify=True).proven
    assert client.balance(nobody, verify=True) == 0


ACCOUNT_LIES: dict[str, Callable[[Any], object]] = {
    "another balance": lambda a: setattr(a.account, "balance", "123456789"),
    "another nonce": lambda a: (setattr(a.account, "pending_nonce", 9), setattr(a.account, "nonce", 9)),
    "another key": lambda a: setattr(a.account, "public_key", bytes(1_952)),
    "another stake": lambda a: setattr(a.account, "bonded", "5"),
    "a row left out": lambda a: a.proof.entries.pop(0),
    "no proof": lambda a: a.ClearField("proof"),
    "a row denied": lambda a: (
        setattr(a.proof.entries[0], "value", b""),
        setattr(a.proof.entries[0], "present", False),
    ),
    "a row changed": lambda a: setattr(a.proof.entries[0], "value", bytes(16)),
    "a broken path": lambda a: setattr(a.proof.entries[1], "proof", _flip(a.proof.entries[1].proof, 2_100)),
    "a path of another row": lambda a: setattr(a.proof.entries[0], "proof", a.proof.entries[1].proof),
    "a bad certificate": lambda a: setattr(a.proof, "certificate", _flip(a.proof.certificate, 900)),
    "a certificate that is none": lambda a: setattr(a.proof, "certificate", b"\x03"),
    "another header": lambda a: setattr(a.proof, "header", _flip(a.proof.header, 200)),
    "another block": lambda a: setattr(a.at, "height", 9),
}


@pytest.mark.parametrize("lie", ACCOUNT_LIES)
def test_a_forged_account_proof_is_refused(workshop: Workshop, lie: str) -> None:
    _, node, client, _ = _paid(workshop)
    node.lie("GetAccount", lambda answer: (ACCOUNT_LIES[lie](answer), None)[1])
    with pytest.raises(ProofInvalid) as refused:
        client.account(workshop.alice.address, verify=True)
    assert refused.value.endpoint == node.name


def test_an_absence_that_no_path_proves_is_refused(workshop: Workshop) -> None:
    chain, node, client, _ = _paid(workshop)
    member = chain.validators.members[0].address

    def deny_the_stake(answer: Any) -> None:
        answer.account.bonded = "0"
        for entry in answer.proof.entries:
            if entry.key[:1] == b"v":
                entry.present, entry.value, entry.proof = False, b"", answer.proof.entries[0].proof

    node.lie("GetAccount", deny_the_stake)
    with pytest.raises(ProofInvalid, match="does not lead to"):
        client.account(member, verify=True)


def test_a_certificate_without_a_quorum_is_refused(workshop: Workshop) -> None:
    chain, node, client, _ = _paid(workshop)
    weak = chain.certify(chain.blocks[0].header, signers=2)
    node.lie("GetCertificate", lambda answer: setattr(answer, "certificate", weak.encode()))
    with pytest.raises(ProofInvalid, match="no_quorum"):
        client.header(1, verify=True)


def test_an_old_state_is_refused_once_a_newer_one_was_proven(workshop: Workshop) -> None:
    chain, node, client, _ = _paid(workshop)
    chain.commit()
    assert client.account(workshop.alice.address, verify=True).at.height == 2
    node.limit_height = 1
    with pytest.raises(HeightFuture):
        client.account(workshop.alice.address, verify=True)
    assert node.requests_of("GetAccount")[-1].consistency.min_height == 2
    node.deaf_to_consistency = True
    with pytest.raises(ProofInvalid, match="older than 2"):
        client.account(workshop.alice.address, verify=True)


def test_changes_of_the_validator_set_are_followed_with_proof(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    for number in range(3):
        chain.commit(next_validators=chain.add_validator(f"joiner {number}"))
    chain.commit()
    assert client.header(4, verify=True).hash == chain.hash_at(4)
    assert node.calls["GetValidatorTransitions"] == 3
    assert client.header(2, verify=True).hash == chain.hash_at(2)
    assert client.account(workshop.alice.address, verify=True).proven
    assert node.calls["GetValidatorTransitions"] == 3


def test_a_forged_change_of_the_validator_set_is_refused(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    chain.commit(next_validators=chain.add_validator("joiner"))
    chain.commit()
    other = chain.add_validator("usurper").encode()
    node.lie("GetValidatorTransitions", lambda a: setattr(a.transitions[0], "next_validators", other))
    with pytest.raises(ProofInvalid, match="hands over to another set"):
        client.header(2, verify=True)
    node.lie("GetValidatorTransitions", lambda a: a.ClearField("transitions"))
    with pytest.raises(ProofInvalid, match="no certified change leads to"):
        client.header(2, verify=True)
    node.lie(
        "GetValidatorTransitions",
        lambda a: setattr(a.transitions[0], "certificate", _flip(a.transitions[0].certificate, 500)),
    )
    with pytest.raises(ProofInvalid, match="bad_signature"):
        client.header(2, verify=True)


def test_a_retired_set_cannot_certify_a_later_header(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    old = chain.validators
    chain.commit(next_validators=chain.add_validator("joiner"))
    chain.commit()
    client.header(2, verify=True)
    chain.validators = old  # the old members go on as if they had not been replaced
    chain.commit()
    with pytest.raises(ProofInvalid, match=r"no certified change leads to|not in force"):
        client.header(3, verify=True)


def test_a_checkpoint_is_a_start_like_genesis(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    chain.commit(next_validators=chain.add_validator("joiner"))
    chain.commit()
    checkpoint = Checkpoint(chain.genesis.hash, Height(2), chain.hash_at(2), chain.validators)
    chain.commit()
    client = workshop.client(node, trust=checkpoint)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit_pending()
    assert client.wait(sent).trusted == "checkpoint at height 2"
    assert client.account(workshop.alice.address, verify=True).nonce == 1
    assert node.requests_of("GetReceipt")[-1].checkpoint_height == 2
    with pytest.raises(ProofInvalid, match="use an older start"):
        client.header(1, verify=True)


def test_parameters_that_the_chain_did_not_commit_to_are_refused(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    chain.commit()
    checkpoint = Checkpoint(chain.genesis.hash, Height(0), chain.genesis.hash, chain.validators)
    client = workshop.client(node, trust=checkpoint)
    node.lie("GetParameters", lambda answer: setattr(answer.parameters[12], "value", 5))
    with pytest.raises(ProofInvalid, match="parameters"):
        client.account(workshop.alice.address, verify=True)
    node.lies.clear()
    assert client.account(workshop.alice.address, verify=True).proven


def test_a_header_that_is_not_the_one_asked_for_is_refused(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    chain.commit()
    chain.commit()
    node.lie("GetHeader", lambda a: (a.header.CopyFrom(node.header(chain.blocks[0])), None)[1])
    with pytest.raises(BadAnswer, match="height 1, asked for 2"):
        client.header(2)
    node.lie("GetHeader", lambda a: setattr(a.header, "raw", chain.forged_header(2).encode()))
    with pytest.raises(BadAnswer, match="hashes to"):
        client.header(2)


def test_a_node_that_takes_another_transaction_than_was_sent_is_caught(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    node.lie("SubmitTransaction", lambda answer: setattr(answer.result, "txid", "ab" * 32))
    with pytest.raises(BadAnswer, match="it took abab"):
        client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)


def test_a_proof_of_work_chain_has_no_certificates_and_the_client_says_so(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    chain.genesis = replace(chain.genesis, engine=EngineKind.POW)
    client = workshop.client(node, trust=chain.genesis)
    with pytest.raises(NotProvable, match="proof-of-work"):
        client.account(workshop.alice.address, verify=True)
