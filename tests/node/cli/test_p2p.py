"""`trellis p2p`: a listener in a process of its own, and the other commands against it."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from node.cli import trellis
from node.cli.exits import CommandFailed, Exit
from node.cli.p2p_session import _failure
from node.p2p_tool import TOOL_NETWORK, Tool
from node.stubchain import StubChain, StubFault
from p2p.handshake import LocalIdentity, Reject
from p2p.host import DialError, NotConnectedError
from p2p.requests import RequestError, RequestFault
from p2p.streams import StreamEnd, StreamError
from tests.p2p.kit import key
from trellis.peerid import peer_id_text

HEIGHTS, TRANSACTIONS = 150, 2
PATIENCE_S = 60
KILL_S = 20


@contextmanager
def listening(*options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A listener and the address that it printed."""
    command = [sys.executable, "-c", "from node.cli import main; main()", "p2p", "listen", "--output", "json", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            assert line, process.communicate()
            first = json.loads(line)
            assert first["event"] == "listening"
            yield process, first["addresses"][0]
        finally:
            process.kill()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with listening("--chain", str(HEIGHTS), "--transactions", str(TRANSACTIONS)) as (_, found):
        yield found


def run(*arguments: str) -> Result:
    return CliRunner().invoke(trellis, ["p2p", *arguments], standalone_mode=False)


def answer(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--output", "json")
    assert result.exit_code == Exit.OK, (result.output, result.exception)
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def code(result: Result) -> int:
    return result.exception.code if isinstance(result.exception, CommandFailed) else result.exit_code


def test_connecting_shows_the_handshake_and_identify_and_syncs_the_chain(address: str) -> None:
    shown = answer("connect", address)
    assert address.endswith(shown["peer"])
    assert shown["algorithm"] == "ML-DSA-65"
    assert shown["suite"] == "chacha20-poly1305"
    assert len(bytes.fromhex(shown["fingerprint"])) == 32
    assert 0 < shown["handshake_ms"] < shown["connect_ms"]
    assert shown["agent"] == "trellis-p2p"
    assert "/ipfs/ping/1.0.0" in shown["protocols"]
    chain = shown["chain"]
    expected = StubChain.make(TOOL_NETWORK.genesis_hash, HEIGHTS, TRANSACTIONS)
    assert (chain["headers"], chain["blocks"], chain["transactions"]) == (HEIGHTS, HEIGHTS, HEIGHTS * TRANSACTIONS)
    assert chain["tip"] == expected.headers[-1].hash.hex()
    assert chain["mb"] == round(sum(map(len, expected.blocks)) / 1e6, 2)


def test_people_get_tables(address: str) -> None:
    connected = run("connect", address)
    assert connected.exit_code == Exit.OK
    for text in ("fingerprint", "ML-KEM-768", "chain", "headers per s", "mb per s"):
        assert text in connected.output
    pinged = run("ping", "--count", "2", "--interval-ms", "0", address)
    assert "median ms" in pinged.output


def test_the_suite_and_the_key_are_chosen(address: str) -> None:
    assert answer("connect", "--no-sync", "--suite", "aes-256-gcm", "--algorithm", "ml-dsa-87", address)["suite"] == (
        "aes-256-gcm"
    )


def test_pinging_measures_every_round_trip(address: str) -> None:
    shown = answer("ping", "--count", "7", "--interval-ms", "0", address)
    trips = shown["round_trips_ms"]
    assert shown["pings"] == len(trips) == 7
    assert 0 < shown["min_ms"] == trips[0] <= shown["median_ms"] <= shown["p99_ms"] <= shown["max_ms"] == trips[-1]


def test_publishing_reports_what_arrived(address: str) -> None:
    shown = answer("publish", "--count", "40", "--rate", "200", "--size", "500", address)
    assert (shown["published"], shown["delivered"], shown["missing"]) == (40, 40, 0)
    assert shown["topic"] == "txs"


def test_publishing_far_above_the_limits_says_what_is_missing_and_answers_no(address: str) -> None:
    result = run("publish", "--count", "200", "--rate", "100000", "--topic", "blobs", "--output", "json", address)
    assert code(result) == Exit.NO
    shown = json.loads(result.stdout)
    assert 0 < shown["missing"] == 200 - shown["delivered"]


def test_a_listener_without_a_chain_stops_when_it_is_told(tmp_path: Path) -> None:
    with listening() as (process, address):
        assert answer("connect", address)["chain"] is None
        assert "serves no chain" in run("connect", address).output
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=KILL_S)
        events = [json.loads(line)["event"] for line in out.splitlines()]
        assert events == ["connected", "disconnected"] * 2 + ["stopped"]
        assert err == ""
        assert process.returncode == Exit.OK
        assert code(run("connect", address)) == Exit.UNREACHABLE


def test_a_listener_that_listens_once_ends_with_its_first_peer() -> None:
    with listening("--once", "--listen", "/ip4/127.0.0.1/tcp/0/ws") as (process, address):
        assert "/ws/p2p/" in address
        answer("connect", address)
        process.communicate(timeout=KILL_S)
        assert process.returncode == Exit.OK


def test_an_address_that_this_machine_does_not_have_is_a_local_fault() -> None:
    result = run("listen", "--listen", "/ip4/192.0.2.1/tcp/4001")
    assert code(result) == Exit.LOCAL
    assert "192.0.2.1" in str(result.exception)


def test_another_peer_id_at_that_address_is_nobody(address: str) -> None:
    stranger = LocalIdentity.of(key("somebody else")).peer
    result = run("connect", address.partition("/p2p/")[0] + "/p2p/" + peer_id_text(stranger))
    assert code(result) == Exit.UNREACHABLE
    assert "nobody answers as that peer" in str(result.exception)


@pytest.mark.parametrize("command", ["connect", "ping", "publish"])
@pytest.mark.parametrize("text", ["127.0.0.1:4001", "/ip4/127.0.0.1/tcp/4001", "/ip4/127.0.0.1/tcp/4001/p2p/x\x1b"])
def test_what_is_no_address_is_wrong_usage_and_says_what_to_paste(command: str, text: str) -> None:
    result = run(command, text)
    assert code(result) == Exit.USAGE
    assert isinstance(result.exception, CommandFailed)
    assert "\x1b" not in result.exception.message
    assert "paste" in result.exception.hint


def test_a_form_that_cannot_be_listened_on_is_wrong_usage() -> None:
    assert code(run("listen", "--listen", "localhost:1")) == Exit.USAGE


def test_a_missing_genesis_or_key_is_a_local_fault(tmp_path: Path, address: str) -> None:
    assert code(run("connect", "--genesis", str(tmp_path / "none.json"), address)) == Exit.LOCAL
    assert code(run("connect", "--key", "none", "--keys-dir", str(tmp_path), address)) == Exit.NOT_FOUND


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (DialError("x"), Exit.UNREACHABLE),
        (DialError("x", Reject.CLOSED), Exit.UNREACHABLE),
        (DialError("x", Reject.TIMEOUT), Exit.TIMEOUT),
        (DialError("x", Reject.NOT_A_MEMBER, told=True), Exit.REFUSED),
        (DialError("x", Reject.BAD_SIGNATURE), Exit.REFUSED),
        (RequestError(RequestFault.DEADLINE, "x"), Exit.TIMEOUT),
        (RequestError(RequestFault.BUSY, "x"), Exit.REFUSED),
        (StubFault("x"), Exit.NO),
        (StreamError(StreamEnd.RESET, "x"), Exit.UNREACHABLE),
        (NotConnectedError("x"), Exit.UNREACHABLE),
        (OSError("x"), Exit.LOCAL),
    ],
)
def test_each_thing_that_can_go_wrong_has_its_exit_code(fault: Exception, expected: Exit) -> None:
    failure = _failure(fault, "there")
    assert failure is not None
    assert failure.code is expected
    assert failure.hint


def test_an_own_fault_is_not_dressed_up() -> None:
    assert _failure(ZeroDivisionError(), "there") is None


@pytest.mark.parametrize("command", ["listen", "connect", "ping", "publish"])
def test_every_command_has_a_page_with_examples_and_exit_codes(command: str) -> None:
    page = run(command, "--help").output
    assert "Example" in page
    assert "Exit codes" in page or "as trellis p2p connect" in page
    assert "--output" in page


def test_the_groups_page_loads_neither_libp2p_nor_trio() -> None:
    script = (
        "import sys; sys.argv = ['trellis', 'p2p', '--help']\n"
        "from node.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(sorted({'libp2p', 'trio'} & set(sys.modules)))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=PATIENCE_S
    )
    assert shown.stdout.splitlines()[-1] == "[]"


def test_a_tool_keeps_count_for_a_bounded_number_of_publishers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("node.p2p_tool.MAX_RUNS", 3)
    tool = Tool(LocalIdentity.of(key("a")), TOOL_NETWORK, ())
    heard = tool._heard(next(iter(tool.gossip.limits.topics)))
    for number in range(10):
        heard(tool.host.peer, bytes([number]) * 16, 0)  # type: ignore[arg-type] # the token is not looked at
    assert len(tool._runs) == 3
