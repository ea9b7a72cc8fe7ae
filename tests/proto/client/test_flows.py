"""The core without any driver: effects performed by hand, and the error table against the schema."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import pkgutil
import resource
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
from google.protobuf import any_pb2
from google.rpc import error_details_pb2, status_pb2
from hypothesis import given
from hypothesis import strategies as st

import trellis.client
from tests.proto.client.fake_chain import FakeChain, make_key
from tests.proto.client.fake_server import FakeNode
from trellis.address import make_policy
from trellis.client import (
    AsyncClient,
    AsyncSigner,
    Client,
    Endpoint,
    LocalSigner,
    MultisigSigner,
    Reason,
    RetryPolicy,
    ServiceError,
    Signer,
)
from trellis.client.amounts import Amount, base_units
from trellis.client.calls import Caller
from trellis.client.chain import ChainReader
from trellis.client.core import Core
from trellis.client.effects import Ask, Close, Open, Pause, Quiet, Receive, Stream
from trellis.client.endpoints import MAX_REST_S, Roster
from trellis.client.errors import REASON_ERRORS, Course, Failure, course_after, service_error
from trellis.client.follow import BlockFollower, FollowSettings
from trellis.client.methods import REPEATABLE, Method
from trellis.client.state_rows import account_keys
from trellis.client.transport import failure_of
from trellis.client.values import txid_from
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import verify_all
from trellis.transaction import Data
from trellis.types import U64_MAX
from trellis.v1 import common_pb2, subscription_service_pb2


def test_the_reasons_are_exactly_those_of_the_schema() -> None:
    schema = {name.removeprefix("REASON_") for name, _ in common_pb2.Reason.items()} - {"UNSPECIFIED"}
    assert {reason.value for reason in Reason} == schema == {reason.value for reason in REASON_ERRORS}


def test_every_reason_has_the_code_that_the_schema_comments_it_with() -> None:
    text = (importlib.resources.files("trellis.v1") / "common.proto").read_text()
    for reason, (code, _) in REASON_ERRORS.items():
        comment = text[: text.index(f"REASON_{reason} =")].rpartition("  REASON_")[2]
        assert f"// {code.name}:" in comment, reason


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_has_an_exception_of_its_own_that_says_what_to_do(reason: Reason) -> None:
    code, kind = REASON_ERRORS[reason]
    error = service_error(Failure("http://a:1", "Some", code, "details", reason, {"field": "x"}, 5))
    assert type(error) is kind
    assert (error.reason, error.code, error.metadata, error.retry_after_ms) == (reason, code, {"field": "x"}, 5)
    assert kind.hint in str(error)
    assert kind.hint != ServiceError.hint
    assert len({kind for _, kind in REASON_ERRORS.values()}) == len(Reason)


def test_a_reason_with_another_code_than_its_own_is_no_reason() -> None:
    error = service_error(Failure("a", "m", grpc.StatusCode.INTERNAL, "", Reason.NONCE_GAP))
    assert type(error).__name__ == "Unexpected"


COURSES = [
    (grpc.StatusCode.UNAVAILABLE, None, None, Course.AGAIN),
    (grpc.StatusCode.UNAVAILABLE, Reason.SYNCING, None, Course.AGAIN),
    (grpc.StatusCode.UNAVAILABLE, Reason.DRAINING, None, Course.AGAIN),
    (grpc.StatusCode.DEADLINE_EXCEEDED, None, None, Course.AGAIN),
    (grpc.StatusCode.DEADLINE_EXCEEDED, Reason.WAIT_TIMEOUT, None, Course.FAIL),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.MEMPOOL_FULL, 5, Course.AGAIN),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.RATE_LIMITED, None, Course.AGAIN),
    (grpc.StatusCode.RESOURCE_EXHAUSTED, None, None, Course.FAIL),
    (grpc.StatusCode.OUT_OF_RANGE, Reason.HEIGHT_PRUNED, None, Course.ELSEWHERE),
    (grpc.StatusCode.NOT_FOUND, Reason.TX_UNKNOWN, None, Course.ELSEWHERE),
    (grpc.StatusCode.NOT_FOUND, Reason.NOT_FOUND, None, Course.FAIL),
    (grpc.StatusCode.INVALID_ARGUMENT, Reason.BAD_SIGNATURE, None, Course.FAIL),
    (grpc.StatusCode.PERMISSION_DENIED, Reason.ROLE_REQUIRED, None, Course.FAIL),
    (grpc.StatusCode.INTERNAL, None, None, Course.FAIL),
]


@pytest.mark.parametrize(("code", "reason", "retry_ms", "course"), COURSES)
def test_only_what_may_pass_is_repeated_and_only_if_repeating_is_safe(
    code: grpc.StatusCode, reason: Reason | None, retry_ms: int | None, course: Course
) -> None:
    failure = Failure("a", "m", code, "", reason, {}, retry_ms)
    assert course_after(failure, idempotent=True) is course
    assert course_after(failure, idempotent=False) is Course.FAIL


def test_every_rpc_of_the_schema_is_known_to_be_repeatable_or_not() -> None:
    names = ["admin", "consensus", "finality", "ledger", "node", "subscription", "transaction"]
    services = {}
    for name in names:
        module = importlib.import_module(f"trellis.v1.{name}_service_pb2")
        services |= dict(module.DESCRIPTOR.services_by_name)
    once = {
        f"{service}/{method.name}"
        for service, descriptor in services.items()
        for method in descriptor.methods
        if not Method(service, method.name, common_pb2.BlockRef, common_pb2.BlockRef).idempotent
    }
    changing = {"AddPeer", "RemovePeer", "BanPeer", "UnbanPeer", "SetLogLevel", "CreateSnapshot", "Prune", "Drain"}
    assert once == {f"AdminService/{name}" for name in changing} | {"TransactionService/SubmitStream"}
    known = {f"{service}/{method.name}" for service, d in services.items() for method in d.methods}
    assert known >= REPEATABLE


@given(st.binary(max_size=300))
def test_trailing_metadata_of_a_stranger_never_raises(raw: bytes) -> None:
    failure = failure_of(
        Endpoint.parse("a:1"), "m", grpc.StatusCode.UNAVAILABLE, "x", [("grpc-status-details-bin", raw)]
    )
    assert failure.code is grpc.StatusCode.UNAVAILABLE


def test_a_reason_of_another_domain_is_no_reason() -> None:
    detail = any_pb2.Any()
    detail.Pack(error_details_pb2.ErrorInfo(reason="NONCE_GAP", domain="proxy.example"))
    raw = status_pb2.Status(code=9, details=[detail]).SerializeToString()
    trailing = [("grpc-status-details-bin", raw)]
    failure = failure_of(Endpoint.parse("a:1"), "m", grpc.StatusCode.FAILED_PRECONDITION, "x", trailing)
    assert (failure.reason, failure.metadata) == (None, {})


@given(st.integers(1, 10_000), st.floats(0, 1), st.none() | st.floats(0, 1e12))
def test_pauses_are_bounded_and_never_shorter_than_asked(failures: int, chance: float, asked: float | None) -> None:
    policy = RetryPolicy()
    pause = policy.pause_s(failures, chance, asked)
    if asked is None:
        assert policy.first_pause_s / 2 <= pause <= policy.longest_pause_s
    else:
        assert min(asked, MAX_REST_S) <= pause <= MAX_REST_S * 1.1


def _caller(*names: str) -> Caller:
    endpoints = tuple(Endpoint.parse(name) for name in names)
    return Caller(endpoints, RetryPolicy(), 1, None, lambda: 0.0, lambda: 0.5)


def test_silence_closes_the_stream_and_opens_the_next_at_another_endpoint() -> None:
    caller = _caller("127.0.0.1:1", "127.0.0.1:2")
    settings = FollowSettings(start_height=5, heartbeat_ms=2_000)
    flow = BlockFollower(caller, ChainReader(caller, None, verify_all), settings).next_block()
    opened = flow.send(None)
    assert isinstance(opened, Open)
    stream = Stream()
    receive = flow.send(stream)
    assert receive == Receive(stream, 5.0)  # two heartbeats and a second
    assert flow.send(Quiet.SILENCE) == Close(stream)
    again = flow.send(None)
    assert isinstance(again, Open)
    assert again.endpoint != opened.endpoint
    assert isinstance(again.request, subscription_service_pb2.SubscribeBlocksRequest)
    assert again.request.start_height == 5
    flow.close()


def test_a_flood_of_heartbeats_does_not_hold_one_call_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trellis.client.follow.MAX_STEADY_HEARTBEATS", 3)
    caller = _caller("127.0.0.1:1")
    follower = BlockFollower(caller, ChainReader(caller, None, verify_all), FollowSettings(start_height=5))
    flow = follower.next_block()
    flow.send(None)
    flow.send(Stream())
    beat = subscription_service_pb2.SubscribeBlocksResponse(resume_height=5)
    assert isinstance(flow.send(beat), Receive)
    assert isinstance(flow.send(beat), Receive)
    assert isinstance(flow.send(beat), Close)
    with pytest.raises(trellis.client.BadAnswer, match="without end"):
        flow.send(None)


def test_agreement_asks_its_endpoints_at_once() -> None:
    core = Core(["a.example:1", "b.example:1", "c.example:1"], None, 2, None, None, RetryPolicy(), _still())
    flow = core.chain.header(3)
    effect = flow.send(None)
    assert isinstance(effect, Ask)
    assert [call.endpoint.name for call in effect.calls] == ["https://a.example:1", "https://b.example:1"]
    assert all(call.timeout_s > 0 for call in effect.calls)
    flow.close()


def _still() -> trellis.client.core.Surroundings:
    return trellis.client.core.Surroundings(clock=lambda: 0.0, chance=lambda: 0.5)


def test_a_failed_endpoint_rests_and_the_next_is_preferred_from_then_on() -> None:
    roster = Roster([Endpoint.parse(name) for name in ("a:1", "b:1")], RetryPolicy())
    first, second = roster.choose(0.0, number=2)
    roster.failed(first, Failure("a", "m", grpc.StatusCode.UNAVAILABLE), 0.0, 0.5)
    roster.answered(second)
    assert roster.choose(0.0)[0] is second
    assert roster.choose(99.0)[0] is second
    roster.distrust(second.name, 99.0)
    assert roster.choose(99.0)[0] is first


def test_a_wait_that_is_answered_too_early_pauses_before_it_asks_again() -> None:
    chain = FakeChain()
    core = Core("127.0.0.1:1", chain.genesis, 1, None, None, RetryPolicy(), _still())
    core.caller.roster.seats[0].introduced = True
    flow = core.wallet.wait(bytes(32), timeout_s=10)
    assert isinstance(flow.send(None), Ask)
    early = Failure("a", "WaitForFinality", grpc.StatusCode.DEADLINE_EXCEEDED, "", Reason.WAIT_TIMEOUT)
    assert flow.send([early]) == Pause(1.0)
    flow.close()


def test_both_clients_have_the_same_methods_with_the_same_arguments() -> None:
    import inspect

    def face(kind: type) -> dict[str, list[str]]:
        return {
            name: list(inspect.signature(member).parameters)
            for name, member in vars(kind).items()
            if callable(member) and not name.startswith("_")
        }

    assert face(Client) == face(AsyncClient)
    init = inspect.signature(Client.__init__).parameters
    assert list(init) == list(inspect.signature(AsyncClient.__init__).parameters)


def test_the_account_rows_are_where_the_ledger_keeps_them() -> None:
    accounts = pytest.importorskip("state.accounts", reason="the ledger is not installed beside this client")
    stake = pytest.importorskip("state.stake", reason="the ledger is not installed beside this client")
    prefixes = [accounts.ACCOUNT_PREFIX, accounts.KEY_PREFIX, stake.STAKE_PREFIX, stake.UNBONDING_PREFIX]
    assert account_keys(bytes(32)) == tuple(prefix + bytes(32) for prefix in prefixes)  # type: ignore[arg-type]  # an address


@pytest.mark.parametrize(
    "text", ["", "1.", ".5", "-1", "+1", "1e3", "1_000", "01", "١", " 1", "1,5", "9" * 65, "1.5\n"]
)
def test_text_that_is_no_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not an amount"):
        Amount.parse(text, 6)


@given(st.integers(0, U64_MAX), st.integers(0, 18))
def test_an_amount_survives_being_written_and_read(units: int, exponent: int) -> None:
    amount = Amount(units, exponent)
    assert Amount.parse(str(amount), exponent) == amount


@pytest.mark.parametrize("wrong", [1.5, "1.5", True, None])
def test_a_float_or_text_is_never_an_amount(wrong: object) -> None:
    with pytest.raises(TypeError, match=r"Amount\.parse"):
        base_units(wrong)  # type: ignore[arg-type]  # what a caller may try


@pytest.mark.parametrize("wrong", [0, -1, U64_MAX + 1])
def test_an_amount_out_of_range_is_refused(wrong: int) -> None:
    with pytest.raises(ValueError, match="from 1 to"):
        base_units(wrong)


def test_amounts_of_different_units_do_not_add_up() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        Amount(1, 6) + Amount(1, 8)


@pytest.mark.parametrize("wrong", ["", "ab", "zz" * 32, b"\x00" * 31])
def test_a_txid_that_is_none_is_refused(wrong: bytes | str) -> None:
    with pytest.raises(ValueError, match="transaction id"):
        txid_from(wrong)


def test_a_member_counts_once_and_must_be_in_the_policy() -> None:
    members = [LocalSigner(make_key(f"member {n}")) for n in range(3)]
    policy = make_policy(2, [(AlgId(m.alg_id), m.public_key) for m in members[:2]])
    with pytest.raises(ValueError, match="twice"):
        MultisigSigner(policy, (members[0], members[0]))
    with pytest.raises(ValueError, match="not in the multi-signature policy"):
        MultisigSigner(policy, (members[0], members[2]))
    with pytest.raises(ValueError, match="threshold of 2"):
        MultisigSigner(policy, (members[0],))


class AwaitedDevice:
    def __init__(self, key: object) -> None:
        self._inner = LocalSigner(key)  # type: ignore[arg-type]  # a key of schemes

    alg_id = property(lambda self: self._inner.alg_id)
    public_key = property(lambda self: self._inner.public_key)
    address = property(lambda self: self._inner.address)

    async def sign_async(self, message: bytes, context: bytes) -> bytes:
        return self._inner.sign(message, context)


def test_an_awaited_device_signs_for_the_async_client_and_is_refused_by_the_other() -> None:
    alice = AwaitedDevice(make_key("alice"))
    chain = FakeChain(funded={alice.address: 1_000_000})
    node = FakeNode(chain).start()

    async def pay() -> bytes:
        async with AsyncClient(node.address, trust=chain.genesis) as client:
            return (await client.send(to=alice.address, amount=1, signer=alice)).txid

    try:
        assert asyncio.run(pay()) in chain.pending
        with Client(node.address, trust=chain.genesis) as client, pytest.raises(TypeError, match="AsyncClient"):
            client.send(to=alice.address, amount=1, signer=alice)  # type: ignore[arg-type]  # what mypy would refuse
    finally:
        node.stop()


def test_threads_and_tasks_that_share_a_client_never_share_a_nonce() -> None:
    alice = LocalSigner(make_key("alice"))
    chain = FakeChain(funded={alice.address: 1_000_000})
    node = FakeNode(chain).start()

    async def build_at_once() -> list[int]:
        async with AsyncClient(node.address, trust=chain.genesis) as client:
            built = await asyncio.gather(*(client.build(Data(b"x"), alice) for _ in range(12)))
        return [item.body.nonce for item in built]

    try:
        with Client(node.address, trust=chain.genesis) as client, ThreadPoolExecutor(6) as pool:
            built = list(pool.map(lambda _: client.build(Data(b"x"), alice).body.nonce, range(12)))
        assert sorted(built) == list(range(12))
        assert sorted(asyncio.run(build_at_once())) == list(range(12))
    finally:
        node.stop()


def test_signers_are_told_apart_by_their_shape() -> None:
    local, awaited = LocalSigner(make_key("alice")), AwaitedDevice(make_key("alice"))
    assert isinstance(local, Signer)
    assert not isinstance(local, AsyncSigner)
    assert isinstance(awaited, AsyncSigner)
    assert not isinstance(awaited, Signer)


@pytest.mark.parametrize("name", [m.name for m in pkgutil.iter_modules(trellis.client.__path__)])
def test_examples_in_docstrings_run_as_written(name: str) -> None:
    module = importlib.import_module(f"trellis.client.{name}")
    failed, _ = doctest.testmod(module)
    assert failed == 0


def test_there_are_examples_to_run() -> None:
    modules = [
        importlib.import_module(f"trellis.client.{m.name}") for m in pkgutil.iter_modules(trellis.client.__path__)
    ]
    assert sum(doctest.testmod(module).attempted for module in modules) >= 8


BARE_SECONDS = 0.02
"""CPU time of a bare interpreter on the quiet two-core machine that the budgets are meant for."""


def _cpu_seconds(code: str) -> float:
    best = float("inf")
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        best = min(best, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return best


def test_importing_stays_quick() -> None:
    """Budgets of 0.1 s and 0.5 s, in multiples of a bare interpreter: a busy machine slows both alike."""
    bare = _cpu_seconds("pass")
    assert _cpu_seconds("import trellis") / bare < 0.1 / BARE_SECONDS
    assert _cpu_seconds("import trellis.client") / bare < 0.5 / BARE_SECONDS


def test_importing_trellis_alone_loads_nothing_else() -> None:
    code = "import sys; before = set(sys.modules); import trellis; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "['trellis']"
