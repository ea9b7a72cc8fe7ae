"""Listeners: TLS, client certificates, the post-quantum group, tokens, unix sockets, quotas, limits, life and death."""

from __future__ import annotations

import datetime
import gzip
import socket
import stat
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from node.rpc import access
from node.rpc.bridge import Bridge, ShuttingDown
from node.rpc.dispatch import client_of
from node.rpc.encode import transaction_message
from node.rpc.errors import Refused
from node.rpc.listening import Listener, ListenFault, Tls, operators
from node.rpc.policies import POLICIES
from node.rpc.quotas import MAX_CLIENTS, QuotaLimits, Quotas
from node.rpc.server import PlaneSettings
from state.store.errors import CorruptStoreError
from tests.node.rpc.calls import METHODS, Caller, Refusal
from tests.node.rpc.rig import ALICE, MEMBERS, Rig
from tests.node.rpc.test_transactions import reached
from trellis.address import format_address
from trellis.client import Client
from trellis.client import Tls as ClientTls
from trellis.peerid import peer_id_text
from trellis.v1 import transaction_service_pb2


class Authority:
    """Certificates for tests, with the elliptic-curve keys that today's TLS stacks take."""

    def __init__(self) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test authority")])
        self.certificate = self._sign(self.name, self.key, ca=True)

    def _sign(self, name: x509.Name, key: ec.EllipticCurvePrivateKey, *, ca: bool = False) -> x509.Certificate:
        now = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
        builder = x509.CertificateBuilder().subject_name(name).issuer_name(self.name).public_key(key.public_key())
        builder = builder.serial_number(x509.random_serial_number())
        builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=7_300))
        alternative = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = builder.add_extension(alternative, critical=False)
        builder = builder.add_extension(x509.BasicConstraints(ca, None), critical=True)
        return builder.sign(self.key, hashes.SHA256())

    def issue(self, name: str) -> tuple[bytes, bytes]:
        """(certificate, key), as PEM."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._sign(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]), key)
        encoding, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, plain)
        return certificate.public_bytes(encoding), private

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def secure(rig: Rig, roots: bytes, pair: tuple[bytes, bytes] | None = None, place: int = 0) -> Caller:
    certificate, key = pair or (None, None)
    credentials = grpc.ssl_channel_credentials(roots, key, certificate)
    options = [("grpc.ssl_target_name_override", "localhost")]
    return Caller(grpc.secure_channel(rig.plane.addresses[place], credentials, options))


def test_tls_negotiates_the_post_quantum_group_and_a_wallet_connects(tmp_path: Path, authority: Authority) -> None:
    listener = Listener("localhost:0", tls=Tls(*authority.issue("node")), post_quantum_only=True)
    with Rig(tmp_path, listeners=[listener]) as rig:
        with secure(rig, authority.pem) as caller:
            assert caller.ask("LedgerService/GetServiceInfo").chain_name == "rig"
        tls = ClientTls(root_certificates=authority.pem)
        with Client([f"https://{rig.address}"], tls=tls, trust=rig.genesis) as client:
            assert client.info().chain_name == "rig"


def test_another_key_exchange_is_refused_where_only_the_post_quantum_one_is_taken(
    tmp_path: Path, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Our own stack negotiates X25519MLKEM768: to see a refusal, the listener asks for a group that nobody has.
    monkeypatch.setattr(access, "POST_QUANTUM_GROUP", b"X25519MLKEM1024")
    listener = Listener("localhost:0", tls=Tls(*authority.issue("node")), post_quantum_only=True)
    with Rig(tmp_path, listeners=[listener]) as rig, secure(rig, authority.pem) as caller:
        with pytest.raises(Refusal) as caught:
            caller.ask("LedgerService/GetServiceInfo")
        assert caught.value.code is grpc.StatusCode.UNAUTHENTICATED
        assert "X25519MLKEM768" in caught.value.failure.details
        health = health_pb2_grpc.HealthStub(caller.channel)
        with pytest.raises(grpc.RpcError):
            health.Check(health_pb2.HealthCheckRequest())


def test_with_client_certificates_strangers_do_not_connect_and_operators_do(
    tmp_path: Path, authority: Authority
) -> None:
    tls = Tls(*authority.issue("node"), client_ca=authority.pem)
    with Rig(tmp_path, listeners=[operators("localhost:0", tls=tls)]) as rig:
        with secure(rig, authority.pem) as stranger, pytest.raises(Refusal) as caught:
            stranger.ask("NodeService/GetStatus")
        assert caught.value.code is grpc.StatusCode.UNAVAILABLE
        with secure(rig, authority.pem, Authority().issue("forger")) as forger, pytest.raises(Refusal):
            forger.ask("NodeService/GetStatus")
        with secure(rig, authority.pem, authority.issue("olga")) as olga:
            assert olga.ask("AdminService/ListBans").bans == []


def test_an_operators_token_is_asked_for_and_never_shown(tmp_path: Path) -> None:
    listener = operators("127.0.0.1:0", token="secret-token")
    assert "secret-token" not in repr(listener)
    assert "secret-token" not in repr(listener.access)
    with Rig(tmp_path, listeners=[listener]) as rig:
        for metadata in ((), (("authorization", "Bearer wrong"),), (("authorization", "secret-token"),)):
            with Caller(rig.channel(), metadata) as caller, pytest.raises(Refusal) as caught:
                caller.ask("AdminService/ListBans")
            assert (caught.value.reason, caught.value.code.name) == ("ROLE_REQUIRED", "PERMISSION_DENIED")
            assert caught.value.metadata == {"role": "admin"}
        with Caller(rig.channel(), [("authorization", "Bearer secret-token")]) as caller:
            assert caller.ask("AdminService/ListBans").bans == []
            assert caller.ask("NodeService/GetStatus").serving


def test_the_public_listener_has_no_admin_service(rig: Rig, public: Caller) -> None:
    with pytest.raises(Refusal) as caught:
        public.ask("AdminService/ListBans")
    assert caught.value.code is grpc.StatusCode.UNIMPLEMENTED


def test_a_unix_socket_is_private_and_replaces_one_that_a_killed_node_left(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with Rig(tmp_path) as rig:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with Caller(rig.channel(1)) as operator:
            assert operator.ask("AdminService/ListBans").bans == []
    assert not path.exists()
    assert [item.name for item in tmp_path.iterdir() if item.name.startswith(".")] == []


def test_a_second_node_finds_port_and_socket_in_use_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with Rig(tmp_path / "one") as rig:
        for address in rig.plane.addresses:
            taken = operators(address) if address.startswith("unix:") else Listener(address)
            before = threading.active_count()
            with pytest.raises(BaseExceptionGroup) as caught, Rig(tmp_path / "two", listeners=[taken]):
                pass
            assert caught.group_contains(ListenFault, match="in use")
            assert threading.active_count() == before
            for item in (tmp_path / "two").rglob("*"):
                if item.is_file():
                    item.unlink()
            (tmp_path / "two" / "store").rmdir()
        with Caller(rig.channel()) as public:
            assert public.ask("NodeService/GetStatus").serving


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: operators("0.0.0.0:0"), "open to anyone"),
        (lambda: operators("0.0.0.0:0", token="t"), "plaintext"),
        (lambda: Listener("127.0.0.1:0", post_quantum_only=True), "tls_certificate"),
    ],
)
def test_a_listener_that_would_expose_the_operators_is_refused(make: Callable[[], Listener], told: str) -> None:
    with pytest.raises(ListenFault, match=told):
        make()


def test_a_client_beyond_its_quota_is_told_when_to_come_back(tmp_path: Path) -> None:
    limits = QuotaLimits(units_per_second=10, burst_units=20, open_calls_per_client=2)
    with Rig(tmp_path, listeners=[Listener("127.0.0.1:0", quotas=limits)]) as rig, Caller(rig.channel()) as public:
        with pytest.raises(Refusal) as caught:
            list(map(public.ask, ["NodeService/GetStatus"] * 40))
        refusal = caught.value
        assert (refusal.reason, refusal.code.name) == ("RATE_LIMITED", "RESOURCE_EXHAUSTED")
        assert 0 < (refusal.retry_after_ms or 0) <= 200


def test_open_streams_of_one_client_are_bounded(tmp_path: Path) -> None:
    limits = QuotaLimits(units_per_second=0, open_calls_per_client=2)
    with Rig(tmp_path, listeners=[Listener("127.0.0.1:0", quotas=limits)]) as rig, Caller(rig.channel()) as public:
        streams = [public.stream("SubscriptionService/SubscribeBlocks") for _ in range(2)]
        reached(lambda: rig.plane.open_calls == 2)
        with pytest.raises(Refusal) as caught:
            next(public.stream("SubscriptionService/SubscribeBlocks"))
        assert (caught.value.reason, caught.value.retry_after_ms) == ("RATE_LIMITED", 5_000)
        streams[0].cancel()
        reached(lambda: rig.plane.open_calls == 1)
        streams.append(public.stream("SubscriptionService/SubscribeBlocks"))
        reached(lambda: rig.plane.open_calls == 2)


def test_a_bucket_fills_with_time_and_the_idlest_client_is_forgotten_first() -> None:
    now = [0.0]
    quotas = Quotas(QuotaLimits(units_per_second=10, burst_units=20), clock=lambda: now[0])
    quotas.charge("a", 20)
    with pytest.raises(Refused) as caught:
        quotas.charge("a", 5)
    assert caught.value.retry_after_ms == 501
    now[0] = 0.5
    quotas.charge("a", 5)
    quotas.charge("rich", 500)
    with pytest.raises(Refused):
        quotas.charge("rich", 1)
    for number in range(MAX_CLIENTS):
        quotas.charge(f"client {number}", 1)
    assert len(quotas._buckets) == MAX_CLIENTS
    assert "a" not in quotas._buckets


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("ipv4:127.0.0.1:5050", "127.0.0.1"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D:5050", "2001:db8:1:2"),
        ("ipv6:[2001:db8:1:2:9:9:9:9]:1", "2001:db8:1:2"),
        ("unix:", "unix"),
    ],
)
def test_clients_are_told_apart_by_address_not_by_port(peer: str, client: str) -> None:
    assert client_of(peer) == client


def test_every_method_has_a_line_of_policy_and_every_line_a_method() -> None:
    standard = {"Health/Check", "Health/List", "Health/Watch", "ServerReflection/ServerReflectionInfo"}
    assert set(POLICIES) - standard == set(METHODS)
    assert len(METHODS) == 47
    assert all(POLICIES[name].admin == name.startswith("AdminService/") for name in METHODS)


def test_requests_above_the_size_limit_are_not_read_however_small_they_are_packed(tmp_path: Path) -> None:
    with Rig(tmp_path, settings=PlaneSettings(max_message_bytes=10_000)) as rig, Caller(rig.channel()) as public:
        with pytest.raises(Refusal) as caught:
            public.ask("LedgerService/GetAccount", address="x" * 20_000)
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        method = public.channel.unary_unary("/trellis.v1.LedgerService/GetServiceInfo")
        bomb = b"\n" + b"\xff\xff\xff\x07" + bytes(1 << 20)
        assert len(gzip.compress(bomb)) < 10_000
        with pytest.raises(grpc.RpcError) as refused:
            method(bomb, compression=grpc.Compression.Gzip, timeout=10)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert method(b"", compression=grpc.Compression.Gzip, timeout=10)
        assert public.ask("LedgerService/GetServiceInfo").chain_name == "rig"


def test_bytes_that_are_no_message_are_an_invalid_field(rig: Rig, public: Caller) -> None:
    with pytest.raises(Refusal) as caught:
        public.ask("LedgerService/GetBlock", b"\xff\xff\xff")
    assert (caught.value.reason, caught.value.metadata) == ("INVALID_FIELD", {"field": ""})


def test_health_follows_the_nodes_standing(rig: Rig, public: Caller) -> None:
    health = health_pb2_grpc.HealthStub(public.channel)
    serving, not_serving = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING

    def check(service: str = "") -> Any:
        return health.Check(health_pb2.HealthCheckRequest(service=service)).status

    watch = health.Watch(health_pb2.HealthCheckRequest(service="trellis.v1.LedgerService"))
    assert next(watch).status == serving
    assert check() == check("trellis.v1.TransactionService") == serving
    rig.stand(has_quorum=False)
    assert next(watch).status == not_serving
    assert check() == not_serving
    rig.stand(has_quorum=True)
    assert next(watch).status == serving
    with pytest.raises(grpc.RpcError) as caught:
        check("no.such.Service")
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="no.such.Service"))
    assert next(unknown).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN


def test_reflection_shows_the_schema_with_its_comments_under_both_names(rig: Rig, public: Caller) -> None:
    database = ProtoReflectionDescriptorDatabase(public.channel)
    names = set(database.get_services())
    assert {"trellis.v1.LedgerService", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= names
    assert "trellis.v1.AdminService" not in names
    file = database.FindFileContainingSymbol("trellis.v1.LedgerService")
    comments = [location.leading_comments for location in file.source_code_info.location]
    assert any("Which chain and node this is" in text or "which chain this is" in text for text in comments)
    call = public.channel.stream_stream(
        "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    asked = [
        reflection_pb2.ServerReflectionRequest(list_services=""),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="grpc.reflection.v1.ServerReflection"),
        reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Symbol"),
    ]
    listed, own, missing = call(iter(asked), timeout=10)
    assert {item.name for item in listed.list_services_response.service} == names
    assert own.file_descriptor_response.file_descriptor_proto
    assert missing.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


def test_reflection_can_be_turned_off(tmp_path: Path) -> None:
    with Rig(tmp_path, settings=PlaneSettings(reflection=False)) as rig, Caller(rig.channel()) as public:
        with pytest.raises(grpc.RpcError) as caught:
            list(ProtoReflectionDescriptorDatabase(public.channel).get_services())
        assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_calls_are_counted_by_method_and_code(rig: Rig, public: Caller) -> None:
    public.ask("NodeService/GetStatus")
    with pytest.raises(Refusal):
        public.ask("LedgerService/GetBlock", height="9")
    for line in (
        'grpc_requests_total{code="OK",method="NodeService/GetStatus"} 1.0',
        'grpc_requests_total{code="OUT_OF_RANGE",method="LedgerService/GetBlock"} 1.0',
        'grpc_request_seconds_count{method="NodeService/GetStatus"} 1.0',
    ):
        reached(lambda line=line: line in rig.metrics.exposition().decode())


# AdminService


def test_operators_add_ban_and_forget_peers(rig: Rig, operator: Caller) -> None:
    peer = peer_id_text(MEMBERS[1].validator.network_id)
    assert operator.ask("AdminService/AddPeer", address=f"/ip4/192.0.2.7/tcp/7000/p2p/{peer}").peer_id == peer
    assert (
        operator.ask("AdminService/BanPeer", peerId=peer, reason="noise", durationMs="5000").ban.expires_at_ms == 6_000
    )
    assert [ban.reason for ban in operator.ask("AdminService/ListBans").bans] == ["noise"]
    assert operator.ask("AdminService/UnbanPeer", peerId=peer).ban.peer_id == peer
    assert operator.ask("AdminService/RemovePeer", peerId=peer).disconnected
    for name, arguments, reason in (
        ("UnbanPeer", {"peerId": peer}, "NOT_FOUND"),
        ("RemovePeer", {"peerId": peer}, "NOT_FOUND"),
        ("AddPeer", {"address": "nonsense"}, "INVALID_FIELD"),
        ("AddPeer", {}, "INVALID_FIELD"),
        ("BanPeer", {"peerId": "?"}, "INVALID_FIELD"),
        ("BanPeer", {"peerId": peer, "reason": "x" * 257}, "INVALID_FIELD"),
        ("BanPeer", {"peerId": peer, "durationMs": "31536000001"}, "INVALID_FIELD"),
        ("SetLogLevel", {}, "INVALID_FIELD"),
        ("SetLogLevel", {"level": 9}, "INVALID_FIELD"),
        ("SetLogLevel", {"level": 1, "component": "kitchen"}, "INVALID_FIELD"),
        ("Prune", {"keepBlocks": "29"}, "INVALID_FIELD"),
        ("Drain", {"timeoutMs": "600001"}, "INVALID_FIELD"),
    ):
        with pytest.raises(Refusal) as caught:
            operator.ask(f"AdminService/{name}", **arguments)
        assert caught.value.reason == reason, name


def test_operators_change_the_log_level_and_make_snapshots(rig: Rig, operator: Caller) -> None:
    rig.commit()
    assert operator.ask("AdminService/SetLogLevel", level=1, component="p2p").previous_level == 2
    assert operator.ask("AdminService/SetLogLevel", level=2, component="p2p").previous_level == 1
    made = operator.ask("AdminService/CreateSnapshot")
    assert (made.block.height, made.chunk_count) == (1, 1)
    with Caller(rig.channel(1)) as again:
        assert again.ask("LedgerService/GetServiceInfo").at.height == 1


# Life and death


def test_stopping_ends_streams_and_waits_in_order_and_takes_under_two_seconds(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig, Caller(rig.channel()) as public:
        stream = public.stream("SubscriptionService/SubscribeBlocks", timeout=None)
        reached(lambda: rig.plane.open_calls == 1)
        waiting = public.raw("TransactionService/WaitForFinality").future(
            transaction_service_pb2.WaitForFinalityRequest(txid="00" * 32), timeout=60
        )
        reached(lambda: rig.plane.open_calls == 2)
        rig.on_node(lambda: setattr(rig.port, "hold", trio.Event()))
        request = transaction_service_pb2.SubmitTransactionRequest(transaction=transaction_message(rig.tx(ALICE)))
        hanging = public.raw("TransactionService/SubmitTransaction").future(request, timeout=60)
        reached(lambda: rig.port.submitting == 1)
        began = time.monotonic()
        rig.stop()
        assert time.monotonic() - began < 2.0
        with pytest.raises(Refusal) as caught:
            next(stream)
        assert caught.value.reason == "DRAINING"
        for future in (waiting, hanging):
            assert isinstance(future.exception(timeout=10), grpc.RpcError)
        assert rig.port.submitting == 0
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("grpc")]


def test_a_broken_invariant_found_by_a_call_stops_the_node(tmp_path: Path) -> None:
    with Rig(tmp_path) as rig, Caller(rig.channel()) as public:

        def broken(*_: object) -> None:
            raise CorruptStoreError("store", "a row is gone", "Restore a snapshot")

        rig.port.accounts = broken  # type: ignore[method-assign]  # a disk that lies
        with pytest.raises(Refusal) as answered:
            public.ask("LedgerService/BatchGetAccounts", addresses=[format_address(MEMBERS[0].address)])
        assert answered.value.code is grpc.StatusCode.INTERNAL
        assert "a row is gone" not in answered.value.failure.details
        rig._thread.join(10)
        assert isinstance(rig.fault, BaseExceptionGroup)
        assert rig.fault.subgroup(CorruptStoreError) is not None


class Quiet:
    """An app that only waits."""

    def __init__(self, bridge: Bridge, calls: list[Callable[[], Any]]) -> None:
        self.bridge = bridge
        self.calls = calls
        self.answers: list[Any] = []

    async def start(self) -> None:
        for call in self.calls:
            try:
                self.answers.append(await call())
            except Exception as fault:
                self.answers.append(fault)

    async def stop(self) -> None:
        with pytest.raises(ShuttingDown):
            raise ShuttingDown


def test_the_bridge_carries_answers_and_faults_back_and_survives_many_lives() -> None:
    async def slow(value: int) -> int:
        await trio.lowlevel.checkpoint()
        return value + 1

    def wrong() -> None:
        raise ValueError("mine")

    async def life() -> list[Any]:
        bridge = Bridge()
        app = Quiet(
            bridge,
            [lambda: bridge.call(pow, 2, 5), lambda: bridge.run(slow, 41), lambda: bridge.call(wrong)],
        )
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.serve, app)
            nursery.cancel_scope.cancel()
        return app.answers

    for _ in range(20):
        first, second, fault = trio.run(life)
        assert (first, second, str(fault)) == (32, 42, "mine")


def test_an_app_that_cannot_start_is_raised_where_it_was_started() -> None:
    class Failing(Quiet):
        async def start(self) -> None:
            raise OSError("no")

    async def life() -> None:
        bridge = Bridge()
        async with trio.open_nursery() as nursery:
            await nursery.start(bridge.serve, Failing(bridge, []))

    with pytest.raises(BaseExceptionGroup) as caught:
        trio.run(life)
    assert caught.group_contains(OSError)
