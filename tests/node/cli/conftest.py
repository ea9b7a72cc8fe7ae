"""A world for commands: a node with a chain, keys with a password file, and an environment that names them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.node.cli.kit import PASSWORD, OperatedNode, serving, write_key
from tests.proto.client.fake_chain import FakeChain, make_key
from trellis.address import address_of


@dataclass
class World:
    chain: FakeChain
    node: OperatedNode
    folder: Path

    @property
    def genesis(self) -> Path:
        return self.folder / "genesis.json"

    @property
    def keys(self) -> Path:
        return self.folder / "keys"


@pytest.fixture
def bare(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An environment in which nothing is set but a home without anything in it."""
    for name in [name for name in os.environ if name.startswith("TRELLIS")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("COLUMNS", "250")
    return tmp_path


@pytest.fixture
def world(bare: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    alice, bob = make_key("alice"), make_key("bob")
    chain = FakeChain("orchard", {address_of(key.alg_id, key.public_key): 10_000_000 for key in (alice, bob)})
    chain.commit()
    with serving(chain) as node:
        made = World(chain, node, bare)
        made.genesis.write_text(json.dumps(chain.genesis.to_json()))
        write_key(made.keys, "alice", alice)
        write_key(made.keys, "bob", bob)
        (bare / "password").write_text(PASSWORD + "\n")
        monkeypatch.setenv("TRELLIS_ENDPOINT", node.address)
        monkeypatch.setenv("TRELLIS_GENESIS", str(made.genesis))
        monkeypatch.setenv("TRELLIS_KEYS_DIR", str(made.keys))
        monkeypatch.setenv("TRELLIS_KEY_PASSWORD_FILE", str(bare / "password"))
        yield made
