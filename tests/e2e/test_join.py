"""A node that joins late: it syncs under load, serves receipts, hands transactions on, bonds, becomes a validator."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from node.home import CONFIG_NAME, read_genesis
from node.localnet.layout import Folder
from node.localnet.making import free_ports, make
from tests.e2e.network import Node, wait_for
from trellis.client import Client, LocalSigner
from trellis.crypto.keystore import read_keystore
from trellis.crypto.schemes import verify_all
from trellis.genesis import Genesis
from trellis.parameters import Parameters
from trellis.peerid import peer_id, peer_id_text
from trellis.receipt import decode_receipt, verify_receipt
from trellis.transaction import Bond

pytestmark = pytest.mark.e2e

COMMAND = [sys.executable, "-P", "-c", "from node.cli import main; main()"]
START_S = 120
PASSWORD = "localnet"
SHORT_EPOCHS = Parameters(heartbeat_ms=400, epoch_blocks=20, state_buckets_log2=8)


def trellis(*arguments: str) -> dict[str, Any]:
    done = subprocess.run(
        [*COMMAND, *arguments, "--output", "json"], capture_output=True, text=True, timeout=START_S, check=False
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def health(metrics: str) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://{metrics}/health", timeout=2) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError as fault:
        return dict(json.load(fault))
    except OSError:
        return {}


class Network:
    """Four validators in one folder, and whoever joined."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.folder = Folder(path / "net")
        (port,) = free_ports(1)
        self.manifest = make(self.folder, nodes=4, accounts=8, parameters=SHORT_EPOCHS, port=port)
        self.genesis: Genesis = read_genesis(self.folder.genesis_path)
        self.validators = [Node(self.folder.home(entry.name)) for entry in self.manifest.nodes]
        self.running: list[Node] = []
        self.grpc = [entry.grpc_address for entry in self.manifest.nodes]

    def join(self) -> tuple[Node, str, str]:
        """A folder from the genesis and one address; the validators are told to let it in. Its gRPC and metrics."""
        entry = self.manifest.nodes[1]
        network = read_keystore(self.folder.home(entry.name) / "keys" / "network.json")
        other = peer_id(network.alg_id, network.public_key)
        p2p, grpc, metrics = free_ports(3)
        home = self.path / "joined"
        (self.path / "password").write_text(PASSWORD + "\n")
        told = trellis(
            "join", "--genesis", str(self.folder.genesis_path), "--home", str(home),
            "--peer", f"/ip4/127.0.0.1/tcp/{entry.p2p}/p2p/{peer_id_text(other)}",
            "--listen", f"/ip4/127.0.0.1/tcp/{p2p}", "--password-file", str(self.path / "password"),
        )  # fmt: skip
        config = home / CONFIG_NAME
        sections = f'\n[grpc]\nlisten = "127.0.0.1:{grpc}"\n\n[metrics]\nlisten = "127.0.0.1:{metrics}"\n'
        config.write_text(config.read_text() + sections)
        for node in self.validators:
            text = (node.home / CONFIG_NAME).read_text()
            allowed = f'allow = ["{told["peer_id"]}"]\nstatic_peers'
            (node.home / CONFIG_NAME).write_text(text.replace("static_peers", allowed, 1))
        return Node(home), f"127.0.0.1:{grpc}", f"127.0.0.1:{metrics}"

    def start(self, *nodes: Node) -> None:
        for node in nodes:
            self.running.append(node)
            node.start()

    def height(self) -> int:
        return max(node.height for node in self.validators)


@contextmanager
def running(path: Path) -> Iterator[Network]:
    network = Network(path)
    try:
        yield network
    finally:
        for node in network.running:
            if node.process is not None and node.process.poll() is None:
                node.kill()


@contextmanager
def load(network: Network) -> Iterator[list[str]]:
    """Payments, one after another, through one validator; ids of those that became final."""
    final: list[str] = []
    stop = threading.Event()
    faults: list[BaseException] = []
    payer, payee = network.folder.account_keys([0, 1])

    def pay() -> None:
        try:
            with Client([network.grpc[0]], trust=network.folder.genesis_path) as client:
                receiver = LocalSigner(payee).address
                while not stop.is_set():
                    sent = client.send(to=receiver, amount=1, signer=LocalSigner(payer))
                    client.wait(sent.txid, timeout_s=60)
                    final.append(sent.txid.hex())
        except BaseException as fault:  # told to the test below
            faults.append(fault)

    payer_thread = threading.Thread(target=pay)
    payer_thread.start()
    try:
        yield final
    finally:
        stop.set()
        payer_thread.join(90)
    assert not faults, faults


def test_a_node_joins_late_under_load_syncs_serves_hands_on_bonds_and_votes(tmp_path: Path) -> None:
    with running(tmp_path) as network:
        joined, grpc, metrics = network.join()
        network.start(*network.validators)
        wait_for(lambda: network.height() >= 8, START_S, "eight blocks")
        with load(network) as final:
            wait_for(lambda: len(final) >= 3, START_S, "payments before it joins")
            network.start(joined)
            wait_for(
                lambda: joined.height >= network.height() - 2 > 8, START_S, "the joined node at the others' height"
            )
            wait_for(lambda: bool(health(metrics).get("ready")), 30, "a node that is ready")
            early = final[0]
        with Client([grpc], trust=network.folder.genesis_path) as client:
            saved = client.receipt(early).save(tmp_path / "early.receipt")
            proven = verify_receipt(decode_receipt(saved.read_bytes()), network.genesis, verify_all)
            assert proven.height >= 1

            (sender,) = network.folder.account_keys([2])
            sent = client.send(to=LocalSigner(sender).address, amount=1, signer=LocalSigner(sender))
            client.wait(sent.txid, timeout_s=30)
            saved = client.receipt(sent.txid).save(tmp_path / "own.receipt")
            proven = verify_receipt(decode_receipt(saved.read_bytes()), network.genesis, verify_all)
            assert proven.height >= 1

            account = LocalSigner(read_keystore(joined.home / "keys" / "account.json").unlock(PASSWORD))
            faucet = LocalSigner(read_keystore(network.folder.faucet_path).unlock(PASSWORD))
            paid = client.send(to=account.address, amount=100_000_000, signer=faucet)
            client.wait(paid.txid, timeout_s=30)
            vote = read_keystore(joined.home / "keys" / "consensus.json")
            name = read_keystore(joined.home / "keys" / "network.json")
            bond = Bond(20_000_000, vote.alg_id, vote.public_key, peer_id(name.alg_id, name.public_key))
            bonded = client.execute(bond, account)
            client.wait(bonded.txid, timeout_s=30)

        def lanes() -> int:
            return int(health(metrics).get("validators_connected", 0))

        wait_for(lambda: lanes() == 4, START_S, "lanes to the four others after the epoch")
        # Forty of sixty million are no quorum, and thirty are left without it: from here on every block has its vote.
        network.validators[3].kill()
        reached = network.height()
        target = reached + 6
        wait_for(lambda: joined.height >= target, START_S, "blocks with its vote")

        chains = [node.finals() for node in (joined, *network.validators[:3])]
        common = set.intersection(*(set(chain) for chain in chains))
        assert len(common) >= 8
        assert all(len({chain[height] for chain in chains}) == 1 for height in common)
