"""How fast a new node gets a chain of full blocks from one source: `python -m tests.bench sync`.

Two real processes on loopback: a validator's folder with blocks of 500 signed transactions, and a node that follows it,
once in each mode. The rate is from its first block to its last; its CPU time, by process, holds on a busy machine too.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil

from node.home import CONFIG_NAME, open_home
from node.localnet.making import free_ports
from node.testnet import generate
from node.trust import SyncMode
from state.genesis_state import genesis_changes
from state.ledger import Ledger
from state.store.chain import create_chain
from state.store.lmdb_store import LmdbStore
from state.store.rows import ChainIdentity
from state.transition import Proposal
from tests.e2e.network import Node, wait_for
from trellis.address import address_of, format_address
from trellis.certificate import Certificate, make_certificate
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import SigningKey, scheme, verify_all
from trellis.genesis import Genesis, GenesisAccount
from trellis.parameters import Parameters
from trellis.transaction import Data, Transaction, TransactionBody, signing_bytes
from trellis.types import Height, View
from trellis.votes import SignedVote, Vote, VoteKind

SENDERS = 500
BLOCKS = 30
BODY = bytes(400)
VALIDATORS = 4


def sections(_place: int) -> str:
    grpc, metrics = free_ports(2)
    return f'\n[grpc]\nlisten = "127.0.0.1:{grpc}"\n\n[metrics]\nlisten = "127.0.0.1:{metrics}"\n'


def make_chain(folder: Path) -> tuple[Genesis, list[Path]]:
    """Folders of a network; the first one's store has the chain."""
    senders = [scheme(AlgId.ML_DSA_65).generate() for _ in range(SENDERS)]
    genesis = generate(
        folder,
        name="sync",
        ports=free_ports(VALIDATORS),
        time_ms=1_700_000_000_000,
        parameters=Parameters(heartbeat_ms=86_400_000),
        accounts=[GenesisAccount(address_of(key.alg_id, key.public_key), 10**9) for key in senders],
        sections=sections,
    )
    homes = [folder / f"node{place}" for place in range(VALIDATORS)]
    opened = [open_home(home, {}) for home in homes]
    identity = ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2)
    chain = create_chain(LmdbStore(opened[0].store_directory), identity, genesis_changes(genesis))
    ledger = Ledger(genesis, chain)
    certificate: Certificate | None = None
    for place in range(BLOCKS):
        offered = [signed(genesis, key, place) for key in senders]
        leader = ledger.facts_after(ledger.tip.block_hash)
        assert leader is not None
        proposal = Proposal(leader.schedule.leader, View(0), genesis.time_ms + 100 * (place + 1), certificate)
        block = ledger.propose(proposal, offered, lambda _key: True).applied.block
        assert len(block.transactions) == SENDERS
        vote = Vote(VoteKind.COMMIT, block.header.height, View(0), block.hash)
        message = vote.signing_bytes(genesis.hash)
        votes = [
            SignedVote(vote, home.account, home.consensus_key.sign(message, Context.VOTE.value)) for home in opened[:3]
        ]
        certificate = make_certificate(votes, genesis.validators)
        ledger.commit(block.hash, certificate)
    chain.close()
    return genesis, homes


def signed(genesis: Genesis, key: SigningKey, nonce: int) -> Transaction:
    body = TransactionBody(address_of(key.alg_id, key.public_key), nonce, Height(10_000), 60_000, Data(BODY)).encode()
    signature = key.sign(signing_bytes(genesis.hash, body), Context.TX.value)
    return Transaction(body, key.alg_id, key.public_key if nonce == 0 else b"", signature)


def verify_us(genesis: Genesis) -> float:
    """One signature, in a batch, on this machine, now."""
    key = scheme(AlgId.ML_DSA_65).generate()
    checks = signed(genesis, key, 0).checks(genesis.hash, key.public_key) * 500
    began = time.thread_time()
    assert all(verify_all(checks))
    return (time.thread_time() - began) / len(checks) * 1e6


def follow(source: Path, home: Path, mode: SyncMode) -> tuple[float, float, float]:
    """Seconds from its first block to its last, and CPU seconds of the node and of its workers."""
    shutil.rmtree(home / "data", ignore_errors=True)
    node = Node(home)
    node.log_path.unlink(missing_ok=True)
    os.environ["TRELLIS_SYNC_MODE"] = str(mode)
    try:
        node.start()
        assert node.process is not None
        process = psutil.Process(node.process.pid)
        wait_for(lambda: bool(node.events("started")), 60, "a node that runs")
        before = cpu_s(process)
        wait_for(lambda: node.height == BLOCKS, 300, "the whole chain")
        own, workers = (after - begun for after, begun in zip(cpu_s(process), before, strict=True))
        assert node.events("started")[0]["sync"] == str(mode)
        times = [datetime.fromisoformat(entry["timestamp"]).timestamp() for entry in node.events("final")]
        return times[-1] - times[0], own, workers
    finally:
        node.kill()
        del os.environ["TRELLIS_SYNC_MODE"]


def cpu_s(process: psutil.Process) -> tuple[float, float]:
    own = process.cpu_times()
    workers = [child.cpu_times() for child in process.children(recursive=True)]
    return own.user + own.system, sum(each.user + each.system for each in workers)


def joined(folder: Path, homes: list[Path]) -> Path:
    """A follower: the second validator's folder, its account another, the first its only peer."""
    home = homes[1]
    text = (home / CONFIG_NAME).read_text()
    peers = json.loads(text.partition("static_peers = ")[2].splitlines()[0])
    source = next(peer for peer in peers if f"/tcp/{_port(homes[0])}/" in peer)
    other = scheme(AlgId.ML_DSA_65).generate()
    changed = {
        "static_peers": json.dumps([source]),
        "account": json.dumps(format_address(address_of(other.alg_id, other.public_key))),
    }
    lines = [
        f"{name} = {changed[name]}" if (name := line.partition(" = ")[0]) in changed else line
        for line in text.splitlines()
    ]
    (home / CONFIG_NAME).write_text("\n".join(lines) + "\n")
    return home


def _port(home: Path) -> str:
    return (home / CONFIG_NAME).read_text().partition("/tcp/")[2].partition('"')[0]


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "net"
        began = time.perf_counter()
        genesis, homes = make_chain(folder)
        cost_us = verify_us(genesis)
        print(f"sync: {BLOCKS} blocks of {SENDERS} transactions made in {time.perf_counter() - began:.0f} s;", end=" ")
        print(f"verifying one signature costs {cost_us:.0f} µs of CPU: two cores verify {2e6 / cost_us:,.0f}/s at most")
        source = Node(homes[0])
        follower = joined(folder, homes)
        try:
            source.start()
            wait_for(lambda: bool(source.events("started")), 60, "the source")
            for mode in SyncMode:
                took_s, own_s, workers_s = follow(homes[0], follower, mode)
                rate = (BLOCKS - 1) * SENDERS / took_s
                each_us = 1e6 / (BLOCKS * SENDERS)
                print(
                    f"  {mode}: {rate:,.0f} tx/s ({rate * cost_us / 2e6:.0%} of that); "
                    f"CPU a transaction: {own_s * each_us:.0f} µs in the node, {workers_s * each_us:.0f} µs in workers"
                )
        finally:
            source.kill()


if __name__ == "__main__":
    main()
