"""`trellis localnet` and `trellis bench` as people use them: real processes, from up to down."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.home import read_genesis
from node.localnet.layout import Folder
from node.localnet.processes import find, names
from node.localnet.samples import ScrapeFault, fetch, total
from tests.e2e.network import wait_for
from tests.node.test_metrics import NAMES
from trellis.address import format_address
from trellis.client import Client, LocalSigner
from trellis.crypto.schemes import verify_all
from trellis.receipt import decode_receipt, verify_receipt

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-P", "-c", "from node.cli import main; main()"]
UP_S = 150
HEAL_S = 60


def trellis(*arguments: str, timeout_s: float = UP_S) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=timeout_s, check=False)


@contextmanager
def localnet(home: Path, *options: str) -> Iterator[Folder]:
    """Detached; whatever happens, nothing of it is left."""
    folder = Folder(home)
    try:
        started = trellis("localnet", "up", "--home", str(home), "--detach", *options)
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        if folder.exists:
            trellis("localnet", "down", "--home", str(home))
            assert all(find(folder, name) is None for name in names(folder.manifest()))


def rows(folder: Folder) -> dict[str, dict[str, Any]]:
    answer = trellis("localnet", "status", "--home", str(folder.path), "--output", "json")
    return {row["node"]: row for row in json.loads(answer.stdout)}


def heights(folder: Folder) -> dict[str, int]:
    """0 for a node that does not answer."""
    found = {}
    for entry in folder.manifest().nodes:
        try:
            found[entry.name] = int(total(fetch(entry.metrics_address), "ledger_height"))
        except ScrapeFault:
            found[entry.name] = 0
    return found


def height(folder: Folder, name: str) -> int:
    return int(total(fetch(folder.manifest().node(name).metrics_address), "ledger_height"))


MOVED_ELSEWHERE = {
    "consensus_current_view",  # a moment between two blocks
    "mempool_transactions",  # the same
    "mempool_bytes",
    "consensus_view_changes_total",  # only if the one that was killed led
    "consensus_banned_nodes",  # needs a validator that misbehaves for long
    "consensus_byzantine_violations_total{kind}",
    "consensus_round_proofs",  # needs a proof market
    "mempool_proofs",
    "mempool_proofs_processed_total",
    "p2p_handshake_failures_total{reason}",  # needs strangers
    "p2p_rejects_total{reason}",
    "p2p_msgs_total{topic}",  # gossip is for full nodes: validators use lanes
    "p2p_gossip_fanout",
}
"""Unit tests move these: here nobody misbehaves."""


def moved(folder: Folder) -> set[str]:
    """Metrics that are not zero on some node."""
    found = set()
    for entry in folder.manifest().nodes:
        with contextlib.suppress(ScrapeFault):
            scrape = fetch(entry.metrics_address)
            for name in NAMES:
                base = name.partition("{")[0]
                if total(scrape, base) or total(scrape, f"{base}_count"):
                    found.add(name)
    return found


def faults(folder: Folder, *arguments: str) -> str:
    done = trellis("localnet", "faults", *arguments, "--home", str(folder.path))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_payment_from_the_faucet_is_final_and_provable_and_a_load_is_measured(tmp_path: Path) -> None:
    with localnet(tmp_path / "net", "--accounts", "200") as folder:
        wallet = LocalSigner.generate()
        paid = trellis(
            "localnet", "fund", format_address(wallet.address), "12.5", "--home", str(folder.path), "--output", "json"
        )
        assert paid.returncode == 0, paid.stderr
        told = json.loads(paid.stdout)
        assert told["outcome"] == "OK"
        assert told["balance_base_units"] == 12_500_000
        endpoints = [entry.grpc_address for entry in folder.manifest().nodes]
        with Client(endpoints, trust=folder.genesis_path) as client:
            saved = client.receipt(told["txid"]).save(tmp_path / "payment.receipt")
        assert verify_receipt(decode_receipt(saved.read_bytes()), read_genesis(folder.genesis_path), verify_all)

        options = ("--rate", "100", "--seconds", "5", "--warm-up", "1", "--senders", "200", "--batch", "16")
        measured = trellis("bench", "--home", str(folder.path), *options, "--output", "json", timeout_s=240)
        assert measured.returncode == 0, measured.stderr
        figures = json.loads(measured.stdout)
        assert figures["admitted"] == figures["final"] == 200 + 600
        assert figures["outcomes"] == {"OK": 800}
        assert len(set(figures["roots"].values())) == 1
        assert len(figures["roots"]) == 4
        assert [check["verified"] for check in figures["checks"]] == [figures["variants"]] * 4
        assert len(figures["usage"]) == 4
        assert all(usage["uss_bytes"] > 0 for usage in figures["usage"])

        faults(folder, "kill", "node3")
        faults(folder, "restart", "node3")
        wait_for(lambda: not set(NAMES) - moved(folder) - MOVED_ELSEWHERE, HEAL_S, "every metric to move")


def test_faults_break_the_network_and_heal_mends_it(tmp_path: Path) -> None:
    with localnet(tmp_path / "net", "--proxied", "--heartbeat-ms", "300") as folder:
        wait_for(lambda: height(folder, "node0") >= 3, UP_S, "blocks")

        faults(folder, "partition", "node0", "node1")
        cut_at = max(height(folder, name) for name in ("node0", "node1", "node2", "node3"))
        time.sleep(3)  # that nothing happens shows only in time
        assert max(height(folder, name) for name in ("node0", "node3")) <= cut_at + 1, "two and two are no quorum"
        assert "cut: node0 – node2" in faults(folder, "heal")
        wait_for(lambda: height(folder, "node3") >= cut_at + 4, HEAL_S, "blocks after the partition")

        faults(folder, "kill", "node3")
        assert rows(folder)["node3"]["state"] == "dead"
        faults(folder, "freeze", "node2")
        assert rows(folder)["node2"]["state"] == "frozen"
        stuck_at = height(folder, "node0")
        done = faults(folder, "heal")
        assert "started node3" in done
        assert "thawed node2" in done
        target = stuck_at + 4
        all_beyond = lambda: min(heights(folder).values()) >= target  # noqa: E731 - one line
        try:
            wait_for(all_beyond, UP_S, "all nodes beyond the faults")
        except AssertionError as late:
            raise AssertionError(f"{late}: {rows(folder)}, stuck at {stuck_at}") from late

        faults(folder, "delay", "--ms", "50")
        slow_at = height(folder, "node0")
        wait_for(lambda: height(folder, "node0") >= slow_at + 3, HEAL_S, "blocks over slow links")
        faults(folder, "delay", "--ms", "0")

        again = trellis("localnet", "up", "--home", str(folder.path))
        assert again.returncode == 7
        assert "running already" in again.stderr


def test_ctrl_c_ends_everything_and_the_chain_goes_on_with_the_next_up(tmp_path: Path) -> None:
    folder = Folder(tmp_path / "net")
    try:
        first = _shown_until_height(folder, 3, signal.SIGINT, "--heartbeat-ms", "300")
        assert "grpcurl -plaintext" in first
        assert "finality" in first
        reached = folder.manifest()
        second = _shown_until_height(folder, 4, signal.SIGTERM)
        assert "going on with the network" in second
        assert folder.manifest() == reached
    finally:
        trellis("localnet", "down", "--home", str(folder.path))


def _shown_until_height(folder: Folder, wanted: int, how: signal.Signals, *options: str) -> str:
    """`localnet up` on a terminal, ended by a signal; what it showed."""
    terminal, inside = pty.openpty()
    command = [*COMMAND, "localnet", "up", "--home", str(folder.path), *options]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "160", "LINES": "40"}
    process = subprocess.Popen(command, stdin=inside, stdout=inside, stderr=inside, env=environment)
    os.close(inside)
    shown = b""
    os.set_blocking(terminal, False)

    def read() -> bytes:
        nonlocal shown
        try:
            while piece := os.read(terminal, 65_536):
                shown += piece
        except (BlockingIOError, OSError):  # nothing more at present, or at all
            pass
        return shown

    def reached() -> bool:
        read()
        if process.poll() is not None:
            raise AssertionError(shown.decode(errors="replace"))
        return b"Ctrl-C" in shown and height(folder, "node0") >= wanted

    try:
        wait_for(reached, UP_S, "a network that makes blocks")
        wait_for(lambda: b"node3" in read() and b"running" in shown, 20, "the table")
        process.send_signal(how)
        wait_for(lambda: read() is not None and process.poll() is not None, 30, "the end of the command")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        read()
        os.close(terminal)
    assert process.returncode == 130
    assert all(find(folder, name) is None for name in names(folder.manifest()))
    return shown.decode(errors="replace")
