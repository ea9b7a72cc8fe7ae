"""How commands reach nodes, and what they say and exit with when they do not."""

from __future__ import annotations

import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from node.cli.connection import failed
from node.cli.exits import Exit
from tests.node.cli.conftest import World
from tests.node.cli.kit import run, serving
from tests.proto.client.fake_chain import FakeChain
from tests.proto.client.fake_server import Refusal
from trellis.client.errors import REASON_ERRORS, Failure, Reason, service_error

CODES = {
    Reason.TX_UNKNOWN: Exit.NOT_FOUND,
    Reason.NOT_FOUND: Exit.NOT_FOUND,
    Reason.HEIGHT_PRUNED: Exit.NOT_FOUND,
    Reason.HEIGHT_FUTURE: Exit.NOT_FOUND,
    Reason.WAIT_TIMEOUT: Exit.TIMEOUT,
}


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_its_exit_code_and_a_remedy_without_programmers_words(reason: Reason) -> None:
    code, _ = REASON_ERRORS[reason]
    told = failed(service_error(Failure("http://a:1", "Some", code, "details\x1b[1m", reason, {"field": "x"})))
    assert told.code == CODES.get(reason, Exit.REFUSED)
    assert reason in told.message
    assert "details [1m" in told.message
    assert "field x" in told.message
    assert told.hint
    assert "wait()" not in told.hint


def test_where_nobody_answers_the_hint_names_the_option(bare: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("TRELLIS_ENDPOINT", f"127.0.0.1:{taken.getsockname()[1]}")
        answer = run("status", "--timeout", "1")
    assert answer.code == Exit.UNREACHABLE
    assert "--endpoint" in answer.err
    assert "Traceback" not in answer.err


def test_a_node_that_hangs_costs_no_more_than_the_timeout(world: World) -> None:
    world.node.refuse("GetStatus", Refusal(code=grpc.StatusCode.DEADLINE_EXCEEDED, message="slow"))
    answer = run("status", "--timeout", "0.1")
    assert answer.code in {Exit.TIMEOUT, Exit.OK}
    world.node.refuse("GetStatus", *(Refusal(code=grpc.StatusCode.DEADLINE_EXCEEDED) for _ in range(9)))
    assert run("status", "--timeout", "0.5").code == Exit.TIMEOUT


def test_of_several_endpoints_one_that_answers_is_enough(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    dead = "127.0.0.1:1"
    assert run("block", "--endpoint", dead, "--endpoint", world.node.address).code == Exit.OK
    monkeypatch.setenv("TRELLIS_ENDPOINT", f"{dead} {world.node.address}")
    assert run("block").code == Exit.OK


def test_a_node_of_another_chain_is_refused(world: World) -> None:
    other = FakeChain("other")
    other.commit()
    with serving(other) as stranger:
        answer = run("block", "--endpoint", stranger.address)
    assert answer.code == Exit.DISHONEST
    assert "ask another node" in answer.err


@pytest.mark.parametrize("endpoint", ["nowhere", "host:99999", "unix:", "http://a:1/x"])
def test_an_endpoint_that_is_none_is_wrong_usage(bare: Path, endpoint: str) -> None:
    answer = run("status", "--endpoint", endpoint)
    assert answer.code == Exit.USAGE
    assert "host:port" in answer.err


def test_a_genesis_that_cannot_be_used_is_named(world: World) -> None:
    for content, told in ((b"{}", "genesis"), (b"\xff", "not JSON"), (None, "No such file")):
        world.genesis.unlink(missing_ok=True)
        if content is not None:
            world.genesis.write_bytes(content)
        answer = run("block")
        assert answer.code == Exit.LOCAL
        assert told in answer.err
        assert "hint:" in answer.err


def test_a_token_travels_from_its_file_to_the_node(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    token = world.folder / "token"
    token.write_text("opensesame\n")
    assert run("block", "--token-file", str(token)).code == Exit.OK
    monkeypatch.setenv("TRELLIS_TOKEN", "thistle")
    assert run("block").code == Exit.OK
    assert {"Bearer opensesame", "Bearer thistle"} <= set(world.node.tokens)


def _certificate(folder: Path) -> tuple[bytes, bytes]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "node.test")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("node.test")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(encoding, form, serialization.NoEncryption())
    (folder / "ca.pem").write_bytes(certificate.public_bytes(encoding))
    return secret, certificate.public_bytes(encoding)


def test_tls_with_a_private_authority_and_another_name(world: World) -> None:
    pair = _certificate(world.folder)
    with serving(world.chain, grpc.ssl_server_credentials([pair])) as node:
        options = ("--tls-ca", str(world.folder / "ca.pem"), "--tls-server-name", "node.test", "--timeout", "5")
        assert run("block", "--endpoint", f"https://{node.address}", *options).code == Exit.OK
        plain = run("block", "--endpoint", f"http://{node.address}", *options)
        assert plain.code == Exit.USAGE
        stranger = run("block", "--endpoint", f"https://{node.address}", "--timeout", "1")
        assert stranger.code == Exit.UNREACHABLE
    missing = run("block", "--tls-ca", str(world.folder / "none.pem"))
    assert missing.code == Exit.LOCAL
    assert "none.pem" in missing.err
    alone = run("block", "--tls-cert", str(world.folder / "ca.pem"))
    assert alone.code == Exit.USAGE
    assert "--tls-key" in alone.err
