"""The path of a payment: build, sign, submit, wait, prove, save."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.proto.client.conftest import Workshop
from tests.proto.client.fake_chain import make_key
from tests.proto.client.fake_server import Refusal
from trellis.address import format_address, make_policy
from trellis.client import (
    Endpoint,
    FeeTooHigh,
    KeyNotInForce,
    LocalSigner,
    MultisigSigner,
    NonceTooLow,
    NotIncluded,
    NoTrust,
    Reason,
    SignerFault,
    Status,
    Terms,
    Tls,
    WaitTimeout,
    combine_parts,
    member_part,
    transfer,
)
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import verify_all
from trellis.outcome import Outcome
from trellis.receipt import decode_receipt, verify_receipt
from trellis.transaction import Data


def test_a_payment_becomes_final_and_its_receipt_verifies_offline(workshop: Workshop, tmp_path: Path) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    sent = client.send(to=format_address(workshop.bob.address), amount=client.amount("1.5"), signer=workshop.alice)
    assert sent.status is Status.PENDING
    assert not sent.duplicate
    chain.commit_pending()

    finality = client.wait(sent.txid)
    saved = client.receipt(sent.txid).save(tmp_path / "payment.receipt")

    assert (finality.txid, finality.outcome, finality.height) == (sent.txid, Outcome.OK, 1)
    assert client.balance(workshop.bob.address) == 1_500_005
    read = decode_receipt(saved.read_bytes())
    assert verify_receipt(read, chain.genesis, verify_all).txid == sent.txid
    assert [path.name for path in tmp_path.iterdir()] == ["payment.receipt"]


def test_the_key_is_carried_once_and_left_out_when_the_chain_knows_it(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    first = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit_pending()
    second = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert first.transaction.public_key == workshop.alice.public_key
    assert second.transaction.public_key == b""
    assert chain.genesis.parameters.fee_key_registration <= first.transaction.parsed.fee


def test_sends_in_a_row_use_ascending_nonces_without_waiting(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    # This node does not count what waits: the client's own book must.
    node.lie("GetAccount", lambda answer: setattr(answer.account, "pending_nonce", answer.account.nonce))
    nonces = [
        client.send(to=workshop.bob.address, amount=1, signer=workshop.alice).transaction.parsed.nonce for _ in "abc"
    ]
    assert nonces == [0, 1, 2]


def test_nonces_of_transactions_that_expired_are_used_again(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    kind = transfer([(workshop.bob.address, 1)])
    assert client.build(kind, workshop.alice, Terms(valid_for_blocks=2)).body.nonce == 0
    assert client.build(kind, workshop.alice, Terms(valid_for_blocks=2)).body.nonce == 1
    for _ in range(3):
        chain.commit()
    assert client.build(kind, workshop.alice).body.nonce == 0


def test_a_refused_nonce_is_raised_and_nothing_is_signed_again(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    node.refuse("SubmitTransaction", Refusal(Reason.NONCE_TOO_LOW, {"expected_nonce": "7"}))
    with pytest.raises(NonceTooLow, match="nothing is re-signed") as refused:
        client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert refused.value.number("expected_nonce") == 7
    assert node.calls["SubmitTransaction"] == 1
    assert client.send(to=workshop.bob.address, amount=1, signer=workshop.alice).transaction.parsed.nonce == 0


def test_submitting_twice_is_told_and_does_no_harm(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    again = client.submit(sent.transaction)
    assert again.duplicate
    assert again.txid == sent.txid


def test_a_failed_execution_is_final_and_says_so(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=10_000_000, signer=workshop.alice)
    chain.commit_pending()
    assert client.wait(sent).outcome is Outcome.INSUFFICIENT_FUNDS


def test_waiting_goes_on_over_several_answers_until_the_transaction_is_final(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    node.refuse("WaitForFinality", Refusal(Reason.WAIT_TIMEOUT), Refusal(Reason.WAIT_TIMEOUT))
    chain.commit_pending()
    assert client.wait(sent).height == 1
    assert node.calls["WaitForFinality"] == 3


def test_waiting_ends_at_its_own_time_limit(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    began = workshop.time.now_s
    with pytest.raises(WaitTimeout, match="call wait\\(\\) again"):
        client.wait(sent, timeout_s=30)
    assert 30 <= workshop.time.now_s - began < 32


def test_a_denied_transaction_is_looked_for_at_the_other_endpoints(workshop: Workshop) -> None:
    chain = workshop.chain()
    denier, honest = workshop.node(chain), workshop.node(chain)
    client = workshop.client(denier, honest, trust=chain.genesis)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit_pending()
    denier.lie("WaitForFinality", lambda answer: setattr(answer.transaction, "status", 4))
    assert client.wait(sent).txid == sent.txid
    honest.lie("WaitForFinality", lambda answer: setattr(answer.transaction, "status", 6))
    with pytest.raises(NotIncluded) as ended:
        client.wait(sent)
    assert sorted(ended.value.told_by) == sorted([denier.name, honest.name])


def test_a_fee_above_the_limit_is_refused_before_anything_is_signed(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    node.lie("EstimateFee", lambda answer: setattr(answer, "suggested_fee", "999999999"))
    with pytest.raises(FeeTooHigh):
        client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert node.calls["SubmitTransaction"] == 0
    agreed = client.build(transfer([(workshop.bob.address, 1)]), workshop.alice, Terms(fee=5_000))
    assert agreed.body.fee == 5_000


def test_a_fee_suggested_too_low_is_raised_to_the_chains_minimum(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    node.lie("EstimateFee", lambda answer: setattr(answer, "suggested_fee", "1"))
    unsigned = client.build(Data(b"x" * 500), workshop.alice)
    assert unsigned.body.fee == unsigned.minimum_fee(chain.genesis.parameters)
    assert client.estimate_fee(Data(b"x" * 500), workshop.alice).suggested == unsigned.body.fee


def test_nothing_is_signed_without_a_trusted_chain(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain))
    with pytest.raises(NoTrust, match="trust=load_trust"):
        client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert client.info().genesis_hash == chain.genesis.hash


def test_a_signer_with_another_key_than_the_chain_knows_is_refused(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit_pending()
    imposter = LocalSigner(make_key("mallory"), of=workshop.alice.address)
    with pytest.raises(KeyNotInForce, match="rotated"):
        client.send(to=workshop.bob.address, amount=1, signer=imposter)


class Device:
    """A hardware wallet: a signer without any of our classes."""

    def __init__(self, key: object, faulty: bool = False) -> None:
        self._inner = LocalSigner(key)  # type: ignore[arg-type]  # a key of schemes
        self.shown: list[bytes] = []
        self.faulty = faulty

    alg_id = property(lambda self: self._inner.alg_id)
    public_key = property(lambda self: self._inner.public_key)
    address = property(lambda self: self._inner.address)

    def sign(self, message: bytes, context: bytes) -> bytes:
        self.shown.append(message)
        return self._inner.sign(message + b"!" * self.faulty, context)


def test_a_device_sees_the_whole_body_that_it_signs(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    device = Device(workshop.alice.key)
    sent = client.send(to=workshop.bob.address, amount=1, signer=device)
    assert device.shown == [b"trellis/tx/1" + chain.genesis.hash + sent.transaction.body]


def test_a_faulty_device_is_found_before_anything_is_sent_and_its_nonce_is_free_again(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    with pytest.raises(SignerFault, match="nothing was sent"):
        client.send(to=workshop.bob.address, amount=1, signer=Device(workshop.alice.key, faulty=True))
    assert node.calls["SubmitTransaction"] == 0
    assert client.build(Data(b"x"), workshop.alice).body.nonce == 0


def test_a_multisignature_account_pays_with_its_members_here(workshop: Workshop) -> None:
    members = [LocalSigner(make_key(f"member {n}")) for n in range(3)]
    policy = make_policy(2, [(AlgId(m.alg_id), m.public_key) for m in members])
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    account = MultisigSigner(policy, (members[2], members[0]))
    client.send(to=account.address, amount=1_000_000, signer=workshop.alice)
    chain.commit_pending()
    sent = client.send(to=workshop.bob.address, amount=7, signer=account, terms=Terms(max_fee=50_000))
    chain.commit_pending()
    assert client.wait(sent).outcome is Outcome.OK
    assert all(verify_all(sent.transaction.checks(chain.genesis.hash, policy.encode())))


def test_members_on_other_machines_sign_parts_that_are_checked_and_joined(workshop: Workshop) -> None:
    members = [LocalSigner(make_key(f"member {n}")) for n in range(3)]
    policy = make_policy(2, [(AlgId(m.alg_id), m.public_key) for m in members])
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain), trust=chain.genesis)
    unsigned = client.build(Data(b"together"), MultisigSigner(policy, (members[0], members[1])))
    message, context = unsigned.signing_bytes, unsigned.context
    parts = [member_part(policy, member, message, context) for member in members[1:]]
    wrong = member_part(policy, members[0], message + b"!", context)
    with pytest.raises(SignerFault, match="does not verify"):
        combine_parts(policy, [parts[0], wrong], message, context)
    with pytest.raises(SignerFault, match="needs 2"):
        combine_parts(policy, parts[:1], message, context)
    sent = client.submit(unsigned.complete(combine_parts(policy, parts, message, context)))
    assert sent.txid == unsigned.txid


def test_a_batch_is_answered_item_by_item(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    kind = transfer([(workshop.bob.address, 1)])
    built = [client.build(kind, workshop.alice, Terms(nonce=nonce)) for nonce in (0, 1, 9)]
    results = client.submit_many([client.sign(item, workshop.alice) for item in built])
    assert [getattr(result, "txid", None) for result in results[:2]] == [built[0].txid, built[1].txid]
    assert results[2].reason is Reason.NONCE_GAP
    assert node.calls["SubmitTransactions"] == 1


def test_a_client_never_prints_a_token_or_a_key() -> None:
    endpoint = Endpoint.parse("https://node.example:9090", Tls(b"roots", b"private", b"own"), token="secret-token")
    assert "secret-token" not in repr(endpoint)
    assert "private" not in repr(Tls(b"roots", b"private", b"own"))
    signer = LocalSigner(make_key("alice"))
    assert signer.key.secret().hex() not in repr(signer)


def test_importing_the_package_needs_no_node_package() -> None:
    code = (
        "import sys, trellis.client;"
        "bad = [m for m in sys.modules if m.split('.')[0] in ('node', 'p2p', 'state', 'consensus', 'trio', 'libp2p')];"
        "sys.exit(repr(bad) if bad else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
