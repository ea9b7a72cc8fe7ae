"""Several endpoints: fail-over, retries, agreement, TLS."""

from __future__ import annotations

import datetime
import ipaddress

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.proto.client.conftest import Workshop
from tests.proto.client.fake_server import FakeNode, Refusal
from trellis.client import (
    BadAnswer,
    ClientClosed,
    ClientError,
    Endpoint,
    EndpointsDisagree,
    HeightFuture,
    HeightPruned,
    InsufficientFunds,
    MempoolFull,
    NotEnoughAnswers,
    RateLimited,
    Reason,
    RetryPolicy,
    Status,
    Syncing,
    TimedOut,
    Tls,
    TxUnknown,
    Unexpected,
    Unreachable,
    WrongChain,
)
from trellis.client.methods import unary
from trellis.transaction import Data
from trellis.v1 import admin_service_pb2


def test_a_dead_endpoint_is_passed_over_without_a_pause(workshop: Workshop) -> None:
    chain = workshop.chain()
    dead, alive = workshop.node(chain), workshop.node(chain)
    client = workshop.client(dead, alive, trust=chain.genesis)
    dead.stop()
    assert client.info().genesis_hash == chain.genesis.hash
    assert workshop.time.pauses == []
    client.info()
    assert alive.calls["GetServiceInfo"] == 2


def test_an_endpoint_that_comes_back_is_found_again(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    client.info()
    node.stop()
    with pytest.raises(Unreachable, match="add another endpoint"):
        client.account(workshop.alice.address)
    node.start()
    # The channel itself re-dials after at most a second of real time; the policy's own pauses are the fake clock's.
    patient = workshop.client(node, trust=chain.genesis)
    assert patient.balance(workshop.alice.address) == 10_000_000


def test_pauses_double_and_are_spread_by_chance(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis, retry=RetryPolicy(attempts=4, budget_s=100, attempt_s=30))
    node.refuse("GetTransaction", *[Refusal(Reason.SYNCING)] * 4)
    with pytest.raises(Syncing) as failed:
        client.status(bytes(32))
    assert workshop.time.pauses == pytest.approx([0.075, 0.15, 0.3])
    assert node.calls["GetTransaction"] == 4
    assert len(failed.value.__notes__) == 3


def test_a_pause_that_the_node_asks_for_is_kept(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    node.refuse("SubmitTransaction", Refusal(Reason.MEMPOOL_FULL, retry_after_ms=7_000))
    client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert len(workshop.time.pauses) == 1
    assert 7.0 <= workshop.time.pauses[0] <= 7.7
    assert node.calls["SubmitTransaction"] == 2


def test_a_pause_longer_than_the_budget_is_told_at_once(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis, retry=RetryPolicy(budget_s=20))
    node.refuse("GetAccount", Refusal(Reason.RATE_LIMITED, retry_after_ms=60_000))
    for _ in range(2):  # while the node rests, it is not even asked
        with pytest.raises(RateLimited) as refused:
            client.account(workshop.alice.address)
        assert refused.value.retry_after_ms == 60_000
    assert node.calls["GetAccount"] == 1
    assert workshop.time.pauses == []


def test_another_endpoint_is_asked_while_a_full_one_rests(workshop: Workshop) -> None:
    chain = workshop.chain()
    full, free = workshop.node(chain), workshop.node(chain)
    client = workshop.client(full, free, trust=chain.genesis)
    full.refuse("SubmitTransaction", *[Refusal(Reason.MEMPOOL_FULL, retry_after_ms=60_000)] * 9)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert sent.endpoint == free.name
    assert workshop.time.pauses == []


def test_every_full_endpoint_raises_the_typed_error(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis, retry=RetryPolicy(attempts=2, budget_s=1_000, attempt_s=30))
    node.refuse("SubmitTransaction", *[Refusal(Reason.MEMPOOL_FULL, retry_after_ms=1_000)] * 2)
    with pytest.raises(MempoolFull):
        client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)


def test_a_refusal_for_good_is_not_repeated_anywhere(workshop: Workshop) -> None:
    chain = workshop.chain()
    first, second = workshop.node(chain), workshop.node(chain)
    client = workshop.client(first, second, trust=chain.genesis)
    first.refuse("SubmitTransaction", Refusal(Reason.INSUFFICIENT_FUNDS, {"balance": "5", "needed": "10"}))
    with pytest.raises(InsufficientFunds, match=r"balance=5, needed=10"):
        client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert second.calls["SubmitTransaction"] == 0


@pytest.mark.parametrize("reason", [Reason.HEIGHT_PRUNED, Reason.HEIGHT_FUTURE, Reason.TX_UNKNOWN])
def test_what_one_node_lacks_another_is_asked_for(workshop: Workshop, reason: Reason) -> None:
    chain = workshop.chain()
    chain.commit()
    lacking, having = workshop.node(chain), workshop.node(chain)
    client = workshop.client(lacking, having, trust=chain.genesis)
    lacking.refuse("GetHeader", Refusal(reason))
    assert client.header(1).height == 1
    lacking.refuse("GetHeader", Refusal(reason))
    having.refuse("GetHeader", Refusal(reason))
    with pytest.raises((HeightPruned, HeightFuture, TxUnknown)):
        client.header(1)
    assert workshop.time.pauses == []


def test_a_call_that_must_not_be_repeated_is_made_once(workshop: Workshop) -> None:
    chain = workshop.chain()
    first, second = workshop.node(chain), workshop.node(chain)
    client = workshop.client(first, second, trust=chain.genesis)
    prune = unary("AdminService", "Prune", admin_service_pb2.PruneRequest, admin_service_pb2.PruneResponse)
    assert not prune.idempotent
    first.stop()
    # The introduction may go elsewhere; the call itself is made once, and this node does not serve it.
    with pytest.raises(Unexpected) as refused:
        client.call(prune, admin_service_pb2.PruneRequest())
    assert refused.value.endpoint == second.name
    assert refused.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_an_unanswered_call_that_must_not_be_repeated_is_not(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node)
    prune = unary("AdminService", "Prune", admin_service_pb2.PruneRequest, admin_service_pb2.PruneResponse)
    node.stop()
    with pytest.raises(Unreachable):
        client.call(prune, admin_service_pb2.PruneRequest())
    assert workshop.time.pauses == []


def test_every_call_has_a_deadline(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, retry=RetryPolicy(attempts=1, attempt_s=0.05))
    with chain.changed:
        node.before["GetServiceInfo"] = lambda: chain.changed.acquire() and chain.changed.release()
        with pytest.raises(TimedOut, match="may still be included"):
            client.info()


def test_agreeing_endpoints_answer_as_one(workshop: Workshop) -> None:
    chain = workshop.chain()
    chain.commit()
    nodes = [workshop.node(chain) for _ in range(3)]
    client = workshop.client(*nodes, trust=chain.genesis, agree=2)
    assert client.balance(workshop.alice.address) == 10_000_000
    assert client.header(1).hash == chain.hash_at(1)
    assert sum(node.calls["GetAccount"] for node in nodes) == 2


def test_a_dead_endpoint_is_replaced_in_an_agreement(workshop: Workshop) -> None:
    chain = workshop.chain()
    chain.commit()
    nodes = [workshop.node(chain) for _ in range(3)]
    client = workshop.client(*nodes, trust=chain.genesis, agree=2)
    nodes[0].stop()
    assert client.balance(workshop.alice.address) == 10_000_000


def test_too_few_living_endpoints_cannot_agree(workshop: Workshop) -> None:
    chain = workshop.chain()
    nodes = [workshop.node(chain) for _ in range(2)]
    client = workshop.client(*nodes, trust=chain.genesis, agree=2)
    nodes[0].stop()
    with pytest.raises(NotEnoughAnswers, match="2 endpoints must agree, 1 answered") as lonely:
        client.balance(workshop.alice.address)
    assert nodes[0].name in lonely.value.failures


def test_a_differing_balance_names_both_endpoints(workshop: Workshop) -> None:
    chain = workshop.chain()
    chain.commit()
    honest, liar = workshop.node(chain), workshop.node(chain)
    client = workshop.client(honest, liar, trust=chain.genesis, agree=2)
    liar.lie("GetAccount", lambda answer: setattr(answer.account, "balance", "77"))
    with pytest.raises(EndpointsDisagree) as split:
        client.balance(workshop.alice.address)
    assert set(split.value.answers) == {honest.name, liar.name}
    assert "balance 77" in split.value.answers[liar.name]


def test_a_transaction_final_in_two_blocks_is_a_disagreement(workshop: Workshop) -> None:
    chain = workshop.chain()
    honest, liar = workshop.node(chain), workshop.node(chain)
    client = workshop.client(honest, liar, trust=chain.genesis, agree=2)
    sent = client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    assert client.status(sent).status is Status.PENDING
    chain.commit_pending()
    assert client.status(sent).block.height == 1
    liar.lie("GetTransaction", lambda answer: setattr(answer.transaction.outcome, "code", 1))
    with pytest.raises(EndpointsDisagree, match="INSUFFICIENT_FUNDS"):
        client.status(sent)


def test_honest_nodes_a_block_apart_do_not_disagree(workshop: Workshop) -> None:
    chain = workshop.chain()
    chain.commit()
    chain.commit()
    ahead, behind = workshop.node(chain), workshop.node(chain)
    behind.limit_height = 1
    client = workshop.client(ahead, behind, trust=chain.genesis, agree=2)

    def catch_up() -> None:
        if behind.calls["GetAccount"] == 2:
            behind.limit_height = None
        else:
            behind.before["GetAccount"] = catch_up

    behind.before["GetAccount"] = catch_up
    assert client.account(workshop.alice.address).at.height == 2
    assert (ahead.calls["GetAccount"], behind.calls["GetAccount"]) == (1, 2)
    behind.limit_height = 1
    with pytest.raises(NotEnoughAnswers, match="verify=True"):
        client.account(workshop.alice.address)


def test_two_final_blocks_of_one_height_are_found_whatever_is_read(workshop: Workshop) -> None:
    chain, other = workshop.chain(), workshop.chain()
    chain.commit()
    one, two = workshop.node(chain), workshop.node(other)
    client = workshop.client(one, two, trust=chain.genesis)
    assert client.info().at.height == 1
    other.commit(client.sign(client.build(Data(b"fork"), workshop.alice), workshop.alice))
    one.stop()
    with pytest.raises(EndpointsDisagree, match="the block at height 1") as fork:
        client.info()
    assert fork.value.answers == {one.name: chain.hash_at(1).hex(), two.name: other.hash_at(1).hex()}


def test_an_endpoint_of_another_chain_is_refused_by_name(workshop: Workshop) -> None:
    chain, foreign = workshop.chain(), workshop.chain("foreign")
    node = workshop.node(foreign)
    client = workshop.client(node, trust=chain.genesis)
    with pytest.raises(WrongChain, match="check the address") as wrong:
        client.balance(workshop.alice.address)
    assert (wrong.value.endpoint, wrong.value.found) == (node.name, foreign.genesis.hash.hex())
    assert node.calls["GetAccount"] == 0


def test_an_endpoint_that_returns_as_another_chain_is_refused(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    client.balance(workshop.alice.address)
    node.refuse("GetAccount", Refusal())
    node.chain = workshop.chain("foreign")
    with pytest.raises(WrongChain):
        client.balance(workshop.alice.address)
    assert node.calls["GetAccount"] == 2  # after the failure it was not asked again before it said who it is


def test_an_answer_about_another_account_is_refused(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    node.lie("GetAccount", lambda answer: setattr(answer.account, "balance", "-5"))
    with pytest.raises(BadAnswer, match="a balance is not an amount"):
        client.balance(workshop.alice.address)


def test_a_node_cannot_talk_in_escape_sequences(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    node.refuse("GetAccount", Refusal(Reason.INVALID_FIELD, message="\x1b[31mred\x07" + "x" * 9_000))
    with pytest.raises(ClientError) as refused:
        client.balance(workshop.alice.address)
    assert "\x1b" not in str(refused.value)
    assert len(str(refused.value)) < 700


def test_a_closed_client_says_so(workshop: Workshop) -> None:
    chain = workshop.chain()
    client = workshop.client(workshop.node(chain))
    client.info()
    client.close()
    with pytest.raises(ClientClosed):
        client.info()


def _certificate(name: str, issuer: tuple[x509.Certificate, ec.EllipticCurvePrivateKey] | None = None) -> tuple:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer[0].subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName(name), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), True)
        .sign(issuer[1] if issuer else key, hashes.SHA256())
    )
    return certificate, key


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


def _key_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _tls_node(workshop: Workshop, *, ask_client: bool = False) -> tuple[FakeNode, bytes, tuple]:
    authority, authority_key = _certificate("authority")
    certificate, key = _certificate("localhost", (authority, authority_key))
    credentials = grpc.ssl_server_credentials(
        [(_key_pem(key), _pem(certificate))], _pem(authority) if ask_client else None, ask_client
    )
    return workshop.node(workshop.chain(), credentials), _pem(authority), (authority, authority_key)


def test_tls_with_the_right_root_carries_the_token(workshop: Workshop) -> None:
    node, root, _ = _tls_node(workshop)
    endpoint = f"https://127.0.0.1:{node.port}"
    client = workshop.client(endpoint, trust=node.chain.genesis, tls=Tls(root), token="a-token")
    assert client.balance(workshop.alice.address) == 10_000_000
    assert node.tokens[-1] == "Bearer a-token"


def test_tls_with_another_root_is_refused(workshop: Workshop) -> None:
    node, _, _ = _tls_node(workshop)
    stranger, _ = _certificate("stranger")
    retry = RetryPolicy(attempts=1)
    client = workshop.client(f"https://127.0.0.1:{node.port}", tls=Tls(_pem(stranger)), retry=retry)
    with pytest.raises(Unreachable, match="TLS"):
        client.info()
    plaintext = workshop.client(f"http://127.0.0.1:{node.port}", retry=retry)
    with pytest.raises(Unreachable, match="TLS"):
        plaintext.info()
    assert node.calls["GetServiceInfo"] == 0


def test_a_client_certificate_opens_a_node_that_asks_for_one(workshop: Workshop) -> None:
    node, root, authority = _tls_node(workshop, ask_client=True)
    endpoint = f"https://127.0.0.1:{node.port}"
    certificate, key = _certificate("wallet", authority)
    own = Tls(root, _key_pem(key), _pem(certificate))
    assert workshop.client(endpoint, tls=own).info().genesis_hash == node.chain.genesis.hash
    anonymous = workshop.client(endpoint, tls=Tls(root), retry=RetryPolicy(attempts=1))
    with pytest.raises(Unreachable):
        anonymous.info()


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("127.0.0.1:9090", "http://127.0.0.1:9090"),
        ("localhost:9090", "http://localhost:9090"),
        ("[::1]:9090", "http://[::1]:9090"),
        ("unix:/run/api.sock", "unix:/run/api.sock"),
        ("node.example:9090", "https://node.example:9090"),
        ("10.0.0.1:9090", "https://10.0.0.1:9090"),
        ("http://node.example:9090/", "http://node.example:9090"),
        ("https://127.0.0.1:9090", "https://127.0.0.1:9090"),
    ],
)
def test_plaintext_is_the_default_on_this_machine_alone(address: str, name: str) -> None:
    assert Endpoint.parse(address).name == name


@pytest.mark.parametrize("address", ["", "node", "node:", ":9090", "node:0", "node:65536", "node:x", "a/b:1", "unix:"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ValueError, match=r"host:port|path"):
        Endpoint.parse(address)


def test_a_token_never_travels_in_plaintext_to_another_machine() -> None:
    with pytest.raises(ValueError, match="plaintext"):
        Endpoint.parse("http://node.example:9090", token="secret")


def test_one_node_never_counts_as_two(workshop: Workshop) -> None:
    with pytest.raises(ValueError, match="twice"):
        workshop.client("127.0.0.1:9090", "http://127.0.0.1:9090")
    with pytest.raises(ValueError, match="agree=2"):
        workshop.client("127.0.0.1:9090", agree=2)
