"""What lies where in a local network's folder, and the manifest that describes the network."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from trellis.address import address_of
from trellis.crypto.algorithms import AlgId
from trellis.crypto.kdf import expand
from trellis.crypto.schemes import SigningKey, scheme
from trellis.types import Address

MANIFEST: Final = "localnet.json"
VERSION: Final = 1
HOST: Final = "127.0.0.1"
PASSWORD: Final = "localnet"  # noqa: S105 - known to all: these keys guard nothing
SEED_BYTES: Final = 32


class LocalnetFault(Exception):
    """The folder or a process in it is not as it must be; `hint` says what to do."""

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node, by its ports."""

    name: str
    p2p: int
    grpc: int
    metrics: int

    @property
    def grpc_address(self) -> str:
        return f"{HOST}:{self.grpc}"

    @property
    def metrics_address(self) -> str:
        return f"{HOST}:{self.metrics}"


@dataclass(frozen=True, slots=True)
class LinkEntry:
    """The proxy's port at which one node dials another."""

    here: str
    there: str
    port: int


@dataclass(frozen=True, slots=True)
class Manifest:
    chain_name: str
    genesis_hash: str
    nodes: tuple[NodeEntry, ...]
    links: tuple[LinkEntry, ...]
    """Empty without proxies."""
    accounts: int
    """Funded ones, whose keys derive from the folder's seed."""

    def node(self, name: str) -> NodeEntry:
        for entry in self.nodes:
            if entry.name == name:
                return entry
        raise LocalnetFault(f"there is no node {name!r}", f"they are called {', '.join(e.name for e in self.nodes)}")

    def encode(self) -> str:
        return json.dumps({"version": VERSION, **asdict(self)}, indent=2) + "\n"


def decode_manifest(text: str) -> Manifest:
    """Raises `ValueError`, `KeyError` or `TypeError` on what `encode` did not write."""
    document: dict[str, Any] = json.loads(text)
    if document.pop("version") != VERSION:
        raise ValueError(f"the manifest is not of version {VERSION}")
    document["nodes"] = tuple(NodeEntry(**entry) for entry in document["nodes"])
    document["links"] = tuple(LinkEntry(**entry) for entry in document["links"])
    return Manifest(**document)


@dataclass(frozen=True, slots=True)
class Folder:
    """A local network on the disk."""

    path: Path

    @property
    def manifest_path(self) -> Path:
        return self.path / MANIFEST

    @property
    def genesis_path(self) -> Path:
        return self.path / "genesis.json"

    @property
    def faucet_path(self) -> Path:
        return self.path / "faucet.json"

    @property
    def seed_path(self) -> Path:
        return self.path / "accounts.seed"

    @property
    def rules_path(self) -> Path:
        """The faults of links that the proxy is asked for."""
        return self.path / "links.json"

    @property
    def applied_path(self) -> Path:
        """The number of the rules that the proxy has in force."""
        return self.path / "links.applied"

    @property
    def proxy_log(self) -> Path:
        return self.path / "proxy.log"

    def home(self, node: str) -> Path:
        return self.path / node

    def log_path(self, node: str) -> Path:
        return self.home(node) / "node.log"

    def pid_path(self, process: str) -> Path:
        """Of a node, or of "proxy"."""
        return self.path / f"{process}.pid"

    @property
    def exists(self) -> bool:
        return self.manifest_path.exists()

    def manifest(self) -> Manifest:
        if not self.exists:
            raise LocalnetFault(f"there is no local network in {self.path}", "start one: trellis localnet up")
        try:
            return decode_manifest(self.manifest_path.read_text())
        except (ValueError, KeyError, TypeError) as fault:
            raise LocalnetFault(
                f"{self.manifest_path} is not what `localnet up` wrote: {fault}",
                f"remove the folder, or keep it and choose another: rm -r {self.path}",
            ) from fault

    def account_keys(self, indices: Sequence[int]) -> list[SigningKey]:
        """Of the funded accounts at these places."""
        try:
            seed = bytes.fromhex(self.seed_path.read_text().strip())
        except (OSError, ValueError) as fault:
            raise LocalnetFault(f"cannot read the accounts' seed {self.seed_path}: {fault}") from fault
        return [account_key(seed, index) for index in indices]


def account_key(seed: bytes, index: int) -> SigningKey:
    """The key of a funded account. It is for testing: whoever reads the seed holds all of them."""
    return scheme(AlgId.ML_DSA_65).from_secret(expand(seed, b"trellis/localnet/account/" + index.to_bytes(4, "big")))


def account_address(key: SigningKey) -> Address:
    return address_of(key.alg_id, key.public_key)
