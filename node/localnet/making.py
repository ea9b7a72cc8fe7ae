"""Makes a local network's folder: ports, genesis, keys, configuration, faucet, funded accounts."""

from __future__ import annotations

import secrets
import shutil
import socket
import time
from typing import Final

from node import testnet
from node.localnet.layout import (
    HOST,
    PASSWORD,
    SEED_BYTES,
    Folder,
    LinkEntry,
    LocalnetFault,
    Manifest,
    NodeEntry,
    account_address,
)
from trellis.crypto.algorithms import AlgId
from trellis.crypto.keystore import ScryptCost, lock, write_keystore
from trellis.crypto.policy import Role
from trellis.crypto.schemes import scheme
from trellis.genesis import GenesisAccount
from trellis.parameters import Parameters

DEFAULT_PORT: Final = 26_600
PORTS_A_NODE: Final = 3
LENDABLE: Final = range(20_000, 32_000)
FAUCET_BALANCE: Final = 10**15
ACCOUNT_BALANCE: Final = 10**11
"""Fees of a million transactions of 512 bytes and more."""
_CHEAP: Final = ScryptCost(n_log2=14)


def make(
    folder: Folder,
    *,
    nodes: int,
    accounts: int = 0,
    proxied: bool = False,
    port: int | None = None,
    parameters: Parameters | None = None,
) -> Manifest:
    """Writes the folder; it must be empty or missing. With `port` the nodes take the ports from there on."""
    if folder.path.exists() and any(folder.path.iterdir()):
        raise LocalnetFault(
            f"{folder.path} is not empty, and holds no local network",
            "choose another folder with --home, or empty this one",
        )
    entries = _choose_nodes(nodes, port)
    links = _choose_links(entries) if proxied else ()
    port_of = {(link.here, link.there): link.port for link in links}
    seed = secrets.token_bytes(SEED_BYTES)
    faucet = scheme(AlgId.ML_DSA_65).generate()
    folder.path.mkdir(parents=True, exist_ok=True)
    try:
        _write_secret(folder, seed)
        store = lock(faucet, PASSWORD, role=Role.ACCOUNT, label="faucet", cost=_CHEAP)
        write_keystore(folder.faucet_path, store)
        funded = [GenesisAccount(account_address(faucet), FAUCET_BALANCE)]
        for key in folder.account_keys(range(accounts)):
            funded.append(GenesisAccount(account_address(key), ACCOUNT_BALANCE))
        genesis = testnet.generate(
            folder.path,
            name="localnet",
            ports=[entry.p2p for entry in entries],
            time_ms=time.time_ns() // 1_000_000,
            parameters=parameters or Parameters(),
            accounts=funded,
            sections=lambda place: _sections(entries[place]),
            dialled=lambda here, there: port_of.get((entries[here].name, entries[there].name), entries[there].p2p),
        )
        manifest = Manifest(genesis.chain_name, genesis.hash.hex(), entries, links, accounts)
        # Last: a folder with a manifest is whole.
        folder.manifest_path.write_text(manifest.encode())
    except BaseException:
        shutil.rmtree(folder.path, ignore_errors=True)
        raise
    return manifest


def _write_secret(folder: Folder, seed: bytes) -> None:
    folder.seed_path.touch(mode=0o600)
    folder.seed_path.write_text(seed.hex() + "\n")


def _sections(entry: NodeEntry) -> str:
    return f"""
[grpc]
listen = "{entry.grpc_address}"

[metrics]
listen = "{entry.metrics_address}"

[log]
format = "json"
"""


def _choose_nodes(number: int, port: int | None) -> tuple[NodeEntry, ...]:
    """The ports that were asked for, else the usual ones, else whichever are free."""
    count = number * PORTS_A_NODE
    first = DEFAULT_PORT if port is None else port
    ports = list(range(first, first + count))
    taken = taken_ports(ports)
    if taken and port is not None:
        raise LocalnetFault(f"port {taken[0]} is taken", "choose others with --port, or leave it out to take free ones")
    if taken:
        ports = free_ports(count)
    rows = [ports[at : at + PORTS_A_NODE] for at in range(0, count, PORTS_A_NODE)]
    return tuple(NodeEntry(f"node{place}", *row) for place, row in enumerate(rows))


def _choose_links(entries: tuple[NodeEntry, ...]) -> tuple[LinkEntry, ...]:
    pairs = [(here.name, there.name) for here in entries for there in entries if here is not there]
    return tuple(LinkEntry(*pair, port) for pair, port in zip(pairs, free_ports(len(pairs)), strict=True))


def free_ports(number: int) -> list[int]:
    """Below those that the system gives to outgoing connections: a port that is kept for later must not be lent out
    meanwhile."""
    found: list[int] = []
    for port in secrets.SystemRandom().sample(LENDABLE, len(LENDABLE)):
        if len(found) == number:
            return found
        if not taken_ports([port]):
            found.append(port)
    raise LocalnetFault(f"there are no {number} free ports", "stop what listens on this machine, or name ports: --port")


def taken_ports(ports: list[int]) -> list[int]:
    """Those of them that somebody listens at."""
    taken = []
    for port in ports:
        with socket.socket() as probe:
            # As servers bind: a connection that lingers from the last run does not make a port taken.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, port))
            except OSError:
                taken.append(port)
    return taken
