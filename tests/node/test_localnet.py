"""Local networks without their processes: folders, ports, rules for links, readings of metrics, the proxy."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from node.cli import trellis
from node.cli.exits import CommandFailed, Exit
from node.home import open_home, read_genesis
from node.localnet import faults, processes, screen
from node.localnet.layout import Folder, LinkEntry, LocalnetFault, Manifest, NodeEntry, account_address
from node.localnet.making import DEFAULT_PORT, LENDABLE, free_ports, make, taken_ports
from node.localnet.processes import State
from node.localnet.proxy import Links, serve_connection
from node.localnet.rules import LinkRules, pair, read_rules, write_rules
from node.localnet.samples import Sample, Window, parse, quantile, read_sample
from node.metrics import FINALITY_BUCKETS_MS, Metrics
from trellis.address import parse_address

NAMES = ("node0", "node1", "node2", "node3")


# The folder.


def test_a_made_folder_opens_as_nodes_with_faucet_and_accounts_in_the_genesis(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "net")
    manifest = make(folder, nodes=3, accounts=5, proxied=True)
    genesis = read_genesis(folder.genesis_path)
    assert folder.manifest() == manifest
    assert manifest.genesis_hash == genesis.hash.hex()
    homes = [open_home(folder.home(entry.name), {}) for entry in manifest.nodes]
    assert {home.account for home in homes} == {member.address for member in genesis.validators.members}
    for entry, home in zip(manifest.nodes, homes, strict=True):
        assert home.config.grpc.listen == entry.grpc_address
        assert home.config.metrics.listen == entry.metrics_address
    funded = {account.address: account.balance for account in genesis.accounts}
    assert all(funded[account_address(key)] > 0 for key in folder.account_keys(range(5)))
    assert len(funded) == 3 + 5 + 1
    assert folder.seed_path.stat().st_mode & 0o077 == 0
    assert folder.faucet_path.stat().st_mode & 0o077 == 0


def test_with_proxies_each_node_dials_the_others_through_its_own_links(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "net")
    manifest = make(folder, nodes=3, proxied=True)
    assert len(manifest.links) == 6
    for entry in manifest.nodes:
        dialled = {int(peer.split("/")[4]) for peer in open_home(folder.home(entry.name), {}).config.p2p.static_peers}
        assert dialled == {link.port for link in manifest.links if link.here == entry.name}
    ports = [port for entry in manifest.nodes for port in (entry.p2p, entry.grpc, entry.metrics)]
    assert len({*ports, *(link.port for link in manifest.links)}) == 15


def test_without_proxies_nodes_dial_each_other(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "net")
    manifest = make(folder, nodes=2)
    (peer,) = open_home(folder.home("node0"), {}).config.p2p.static_peers
    assert int(peer.split("/")[4]) == manifest.node("node1").p2p


def test_a_folder_with_other_things_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("data")
    with pytest.raises(LocalnetFault, match="not empty"):
        make(Folder(tmp_path), nodes=1)
    assert (tmp_path / "precious").read_text() == "data"


def test_a_failed_make_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object, **_settings: object) -> None:
        raise OSError("the disk is full")

    monkeypatch.setattr("node.localnet.making.testnet.generate", fail)
    folder = Folder(tmp_path / "net")
    with pytest.raises(OSError, match="full"):
        make(folder, nodes=1)
    assert not folder.path.exists()


def test_an_unreadable_manifest_is_told_with_the_remedy(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    for text in ("", "{}", '{"version": 9}', '{"version": 1, "nodes": [{}], "links": []}'):
        folder.manifest_path.write_text(text)
        with pytest.raises(LocalnetFault, match="not what") as fault:
            folder.manifest()
        assert "rm -r" in fault.value.hint


@contextmanager
def listening(port: int) -> Iterator[None]:
    with socket.create_server(("127.0.0.1", port)):
        yield


def test_ports_that_are_taken_are_found_and_free_ones_are_none_that_the_system_lends_out() -> None:
    port = free_ports(1)[0]
    with listening(port):
        assert taken_ports([port]) == [port]
    assert taken_ports([port]) == []
    chosen = free_ports(40)
    assert len(set(chosen)) == 40
    assert set(chosen) <= set(LENDABLE)
    assert not taken_ports(chosen)


def test_a_port_that_was_asked_for_and_is_taken_is_named(tmp_path: Path) -> None:
    port = free_ports(1)[0]
    with listening(port), pytest.raises(LocalnetFault, match=f"port {port} is taken"):
        make(Folder(tmp_path / "net"), nodes=1, port=port)
    assert not (tmp_path / "net").exists()
    assert DEFAULT_PORT in LENDABLE


# Processes.


def _folder(tmp_path: Path) -> tuple[Folder, Manifest]:
    folder = Folder(tmp_path / "net")
    return folder, make(folder, nodes=1)


def _stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Folder:
    """A folder whose one node is a script."""
    folder, _ = _folder(tmp_path)
    monkeypatch.setattr(processes, "node_command", lambda of, name: [sys.executable, "-c", script, str(of.home(name))])
    return folder


SLEEPER = "import time; time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"


def test_a_process_is_found_frozen_thawed_and_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = _stand_in(tmp_path, monkeypatch, SLEEPER)
    with processes.start(folder, "node0") as child:
        found = processes.find(folder, "node0")
        assert found is not None
        assert found.pid == child.pid
        faults.freeze(folder, ["node0"])
        assert processes.wait_until(lambda: _state(folder) is State.FROZEN, 5)
        faults.thaw(folder, ["node0"])
        assert processes.wait_until(lambda: _state(folder) is State.RUNNING, 5)
        faults.freeze(folder, ["node0"])
        assert processes.stop(folder, ["node0"]) == []
        assert child.wait(5) == -signal.SIGTERM
    assert processes.find(folder, "node0") is None
    assert not folder.pid_path("node0").exists()


def _state(folder: Folder) -> State:
    found = processes.find(folder, "node0")
    return State.DEAD if found is None else found.state


def test_a_process_that_does_not_stop_when_asked_is_killed_and_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "STOP_S", 0.3)
    folder = _stand_in(tmp_path, monkeypatch, DEAF)
    with processes.start(folder, "node0") as child:
        assert processes.wait_until(lambda: "deaf" in folder.log_path("node0").read_text(), 10)
        assert processes.stop(folder, ["node0"]) == ["node0"]
        assert child.wait(5) == -signal.SIGKILL


def test_somebody_elses_process_with_our_number_is_left_alone(tmp_path: Path) -> None:
    folder, manifest = _folder(tmp_path)
    with subprocess.Popen([sys.executable, "-c", SLEEPER]) as stranger:
        try:
            folder.pid_path("node0").write_text(f"{stranger.pid}\n")
            assert processes.find(folder, "node0") is None
            processes.stop(folder, processes.names(manifest))
            assert stranger.poll() is None
            with pytest.raises(LocalnetFault, match="not running"):
                faults.kill(folder, ["node0"])
            assert stranger.poll() is None
        finally:
            stranger.kill()


@pytest.mark.parametrize("text", ["", "many", "0", "-1", "99999999"])
def test_a_process_id_that_is_none_means_dead(tmp_path: Path, text: str) -> None:
    folder, _ = _folder(tmp_path)
    folder.pid_path("node0").write_text(text)
    assert processes.find(folder, "node0") is None


def test_settings_of_one_node_in_the_environment_do_not_reach_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = "import os; print(sorted(k for k in os.environ if k.startswith('TRELLIS_')))"
    folder = _stand_in(tmp_path, monkeypatch, script)
    for name in ("TRELLIS_P2P_LISTEN", "TRELLIS_GRPC_LISTEN", "TRELLIS_LOG_LEVEL"):
        monkeypatch.setenv(name, "x")
    with processes.start(folder, "node0") as child:
        child.wait(10)
    assert "['TRELLIS_LOG_LEVEL']" in folder.log_path("node0").read_text()


# Rules for links.

groups = st.lists(st.sampled_from(NAMES), min_size=1, max_size=3, unique=True)


@given(groups, st.lists(st.tuples(st.lists(st.sampled_from(NAMES), max_size=4), st.integers(0, 500)), max_size=3))
def test_rules_survive_their_file_and_healing_leaves_none(
    group: list[str], delays: list[tuple[list[str], int]]
) -> None:
    rules = LinkRules().partition(group, NAMES)
    for nodes, delay_ms in delays:
        rules = rules.delayed(nodes, delay_ms)
    assert rules.generation == 1 + len(delays)
    for one in NAMES:
        for other in NAMES:
            if one != other:
                assert rules.is_cut(one, other) is ((one in group) != (other in group))
                assert rules.delay_ms(one, other) == rules.delay_ms(other, one)
    assert rules.healed() == LinkRules(rules.generation + 1)
    assert rules.healed().describe() == []


def test_the_file_of_rules_reads_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "links.json"
    assert read_rules(path) == LinkRules()
    rules = LinkRules().partition(["node0"], NAMES).delayed(["node1", "node2"], 30)
    write_rules(path, rules)
    assert read_rules(path) == rules
    assert rules.describe()[-1] == "delayed: node2 by 30 ms"
    for text in ("{}", "[]", '{"generation": 1, "cut": [1], "delays_ms": []}', "no json"):
        path.write_text(text)
        with pytest.raises(ValueError):  # noqa: PT011 - JSON's own message, or ours
            read_rules(path)


def test_faults_of_links_need_proxies(tmp_path: Path) -> None:
    folder, manifest = _folder(tmp_path)
    with pytest.raises(LocalnetFault, match="directly") as fault:
        faults.delay(folder, manifest, ["node0"], 10)
    assert "--proxied" in fault.value.hint


# The proxy, on a virtual clock over memory streams.

LINK = LinkEntry("node0", "node1", 1)


def on_link(scenario: Callable[[Links, trio.abc.Stream, trio.abc.Stream], Awaitable[None]]) -> None:
    """`scenario` is given both far ends of a link."""

    async def run() -> None:
        near, far_near = trio.testing.memory_stream_pair()
        listener = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener[0].socket.getsockname()[1]
        links = Links()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_connection, links, LINK, port, far_near)
            with trio.fail_after(1_000):
                accepted = await listener[0].accept() if not links.rules.cut else None
            assert accepted is not None
            await scenario(links, near, accepted)
            await near.aclose()
            await accepted.aclose()
        await listener[0].aclose()

    trio.run(run, clock=trio.testing.MockClock(autojump_threshold=0.05))


async def _read(stream: trio.abc.ReceiveStream, number: int) -> bytes:
    data = b""
    while len(data) < number:
        piece = await stream.receive_some(number - len(data))
        if not piece:
            break
        data += bytes(piece)
    return data


def test_a_whole_link_hands_bytes_on_both_ways_and_ends_with_its_ends() -> None:
    async def scenario(_links: Links, near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        await near.send_all(b"ping" * 50_000)
        assert await _read(far, 200_000) == b"ping" * 50_000
        await far.send_all(b"pong")
        assert await _read(near, 4) == b"pong"
        await far.aclose()
        assert await near.receive_some(1) == b""

    on_link(scenario)


def test_a_cut_link_holds_bytes_back_until_it_is_healed_and_loses_none() -> None:
    async def scenario(links: Links, near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        links.change(LinkRules(1, frozenset({pair("node1", "node0")})))
        await near.send_all(b"through")
        with trio.move_on_after(30) as waited:
            await far.receive_some(1)
        assert waited.cancelled_caught
        links.change(LinkRules(2))
        assert await _read(far, 7) == b"through"

    on_link(scenario)


def test_a_cut_elsewhere_leaves_the_link_alone() -> None:
    async def scenario(links: Links, near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        links.change(LinkRules(1, frozenset({pair("node0", "node2")})))
        await near.send_all(b"through")
        assert await _read(far, 7) == b"through"

    on_link(scenario)


def test_a_slow_link_delays_each_piece_and_keeps_the_order() -> None:
    async def scenario(links: Links, near: trio.abc.Stream, far: trio.abc.Stream) -> None:
        links.change(LinkRules(1, delays_ms=(("node0", 200), ("node1", 50))))
        began_s = trio.current_time()
        await near.send_all(b"one")
        await near.send_all(b"two")
        assert await _read(far, 6) == b"onetwo"
        assert 0.25 <= trio.current_time() - began_s < 0.5

    on_link(scenario)


# Readings.


def _sample(at_s: float, transactions: float, finality: tuple[tuple[float, float], ...] = ()) -> Sample:
    return Sample(at_s, height=1, view=0, peers=3, mempool=0, transactions=transactions, finality=finality)


def test_a_reading_is_what_the_node_counted() -> None:
    metrics = Metrics()
    metrics.height.set(12)
    metrics.view.set(1)
    metrics.peers.labels(state="connected").set(3)
    metrics.peers.labels(state="missing").set(2)
    metrics.mempool_transactions.set(7)
    metrics.transactions.labels(kind="data", outcome="ok").inc(5)
    metrics.transactions.labels(kind="transfer", outcome="ok").inc(2)
    metrics.finality_ms.observe(70)
    sample = read_sample(parse(metrics.exposition().decode()), 1.0)
    assert (sample.height, sample.view, sample.peers, sample.mempool, sample.transactions) == (12, 1, 3, 7, 7.0)
    assert [bound for bound, _ in sample.finality] == [*map(float, FINALITY_BUCKETS_MS), float("inf")]
    assert quantile(sample.finality, 0.5) == 75.0


@given(st.lists(st.floats(0, 4_999), min_size=1, max_size=200), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_quantile_lies_in_the_bucket_of_the_true_one(values: list[float], share: float) -> None:
    bounds = [*map(float, FINALITY_BUCKETS_MS), float("inf")]
    buckets = [(bound, float(sum(value <= bound for value in values))) for bound in bounds]
    found = quantile(buckets, share)
    assert found is not None
    true = sorted(values)[max(0, -(-int(share * 1_000) * len(values) // 1_000) - 1)]
    upper = min(bound for bound in bounds if bound >= true)
    lower = max((bound for bound in bounds if bound < upper), default=0.0)
    assert lower <= found <= upper


def test_no_observations_have_no_quantile_and_slow_ones_show_the_highest_bound() -> None:
    assert quantile([], 0.5) is None
    assert quantile([(10.0, 0.0), (float("inf"), 0.0)], 0.5) is None
    assert quantile([(10.0, 0.0), (float("inf"), 4.0)], 0.5) == 10.0


def test_rates_are_of_the_window_and_a_restarted_node_starts_anew() -> None:
    window = Window()
    assert window.tps is None
    for second in range(100):
        window.add(_sample(float(second), 50.0 * second))
    assert window.tps == pytest.approx(50.0)
    window.add(_sample(100.0, 3.0))
    assert window.tps is None
    window.add(_sample(101.0, 5.0))
    assert window.tps == pytest.approx(2.0)


def test_finality_is_of_the_window_too() -> None:
    window = Window()
    window.add(_sample(0.0, 0.0, ((10.0, 90.0), (50.0, 90.0), (float("inf"), 90.0))))
    assert window.finality_ms(0.5) == pytest.approx(5.0, abs=1)
    window.add(_sample(1.0, 0.0, ((10.0, 90.0), (50.0, 100.0), (float("inf"), 100.0))))
    assert window.finality_ms(0.5) == pytest.approx(30.0)


def test_rows_show_what_is_known_and_a_dash_for_the_rest() -> None:
    dead = screen.Row("node1", State.DEAD, False, None, None, None, None, None, None, None)
    alive = screen.Row("node0", State.RUNNING, True, 9, 0, 44.4, 91.0, 812.3, 3, 17)
    assert alive.cells() == ["node0", "running", "9", "0", "44", "91", "812", "3", "17"]
    assert dead.cells() == ["node1", "dead", *"–––––––"]
    assert screen.line([alive, dead]) == "node0 h9 v0 44/91 ms 812 tx/s 3 peers 17 waiting | node1 dead"
    assert json.loads(screen.as_json([alive]))[0]["tps"] == 812.3


def test_addresses_come_with_lines_to_paste(tmp_path: Path) -> None:
    manifest = Manifest("localnet", "ab" * 32, (NodeEntry("node0", 1, 2, 3),), (), 0)
    text = "\n".join(screen.addresses(Folder(tmp_path), manifest))
    assert "grpcurl -plaintext 127.0.0.1:2 list" in text
    assert "http://127.0.0.1:3/metrics" in text


# The command.


def run(*arguments: str) -> Result:
    return CliRunner().invoke(trellis, ["localnet", *arguments], standalone_mode=False)


def failure(result: Result) -> CommandFailed:
    assert isinstance(result.exception, CommandFailed), result.output
    return result.exception


def test_commands_on_a_folder_without_a_network_say_how_to_start_one(tmp_path: Path) -> None:
    home = ("--home", str(tmp_path / "none"))
    for command in (["status"], ["down"], ["faults", "heal"], ["faults", "kill", "node0"], ["fund", "trl1x", "1"]):
        told = failure(run(*command, *home))
        assert told.code == Exit.LOCAL
        assert "trellis localnet up" in told.hint


def test_down_on_a_stopped_network_keeps_the_folder_and_purge_removes_it(tmp_path: Path) -> None:
    folder, _ = _folder(tmp_path)
    home = ("--home", str(folder.path))
    assert run("down", *home).exception is None
    assert folder.exists
    assert run("down", "--purge", *home).exception is None
    assert not folder.path.exists()


def test_status_of_a_stopped_network_says_no_and_how_to_start_what_is_missing(tmp_path: Path) -> None:
    folder, _ = _folder(tmp_path)
    answer = run("status", "--home", str(folder.path))
    assert failure(answer).code == Exit.NO
    assert "node0 is dead" in answer.output


def test_up_refuses_options_that_contradict_the_folder(tmp_path: Path) -> None:
    folder, _ = _folder(tmp_path)
    for options in (["--nodes", "5"], ["--accounts", "3"], ["--proxied"], ["--port", "27000"]):
        told = failure(run("up", "--home", str(folder.path), *options))
        assert options[0] in str(told)
        assert "down --purge" in told.hint


def test_up_refuses_a_network_that_runs_and_ports_that_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _stand_in(tmp_path, monkeypatch, SLEEPER)
    manifest = folder.manifest()
    with processes.start(folder, "node0") as child:
        assert "running already" in str(failure(run("up", "--home", str(folder.path))))
        processes.stop(folder, ["node0"])
        child.wait(5)
    with listening(manifest.nodes[0].grpc):
        told = failure(run("up", "--home", str(folder.path)))
    assert f"port {manifest.nodes[0].grpc}" in str(told)


def test_a_node_that_ends_while_it_starts_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = _stand_in(tmp_path, monkeypatch, "print('the store is locked'); raise SystemExit(7)")
    told = failure(run("up", "--home", str(folder.path)))
    assert "node0 ended while it started" in str(told)
    assert "the store is locked" in str(told)


def test_unknown_nodes_are_refused_by_name(tmp_path: Path) -> None:
    folder, _ = _folder(tmp_path)
    told = failure(run("faults", "kill", "node7", "--home", str(folder.path)))
    assert "node7" in str(told)
    assert "node0" in told.hint


def test_fund_refuses_what_is_no_address(tmp_path: Path) -> None:
    folder, _ = _folder(tmp_path)
    assert "no address" in str(failure(run("fund", "trl1nonsense", "1", "--home", str(folder.path))))
    account = open_home(folder.home("node0"), {}).account
    assert parse_address(open_home(folder.home("node0"), {}).config.node.account) == account
