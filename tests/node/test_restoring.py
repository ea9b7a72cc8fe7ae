"""A store out of a snapshot's folder: the same chain, and nothing from a damaged or foreign one."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from node.home import Home, HomeFault, open_home
from node.restoring import ANCHOR_NAME, restore_snapshot, write_anchor
from node.snapshots import snapshot_name
from state.store.chain import load_chain
from state.store.errors import ForeignChainError
from state.store.lmdb_store import LmdbStore
from state.store.rows import ChainIdentity
from state.store.snapshots import SnapshotFiles, SnapshotSource
from tests.node.cli.stored import BLOCKS, make_home
from trellis.constants import Context
from trellis.records import SignedManifest
from trellis.types import Hash, Height
from trellis.validators import ValidatorSet


def taken(folder: Path) -> tuple[Home, Path]:
    """A node's home, and a snapshot of its chain."""
    home = open_home(make_home(folder), {})
    chain = load_chain(LmdbStore(home.store_directory))
    sets: dict[Hash, ValidatorSet] = {home.genesis.validators.hash: home.genesis.validators}
    directory = home.snapshot_directory / snapshot_name(BLOCKS)
    with chain.read() as reader:
        source = SnapshotSource(reader, ChainIdentity(home.genesis.hash, 4), 4_096)
        key = home.network_key
        signature = key.sign(source.manifest.encode(), Context.SNAPSHOT.value)
        SnapshotFiles(directory).write(source, SignedManifest(source.manifest, key.alg_id, key.public_key, signature))
        write_anchor(directory, reader, Height(BLOCKS), sets.get)
    chain.close()
    return home, directory


def test_a_restored_store_is_the_same_chain_at_the_same_tip(tmp_path: Path) -> None:
    home, directory = taken(tmp_path / "net")
    manifest = restore_snapshot(directory, home.genesis, tmp_path / "store")
    assert manifest.height == BLOCKS
    mine, theirs = load_chain(LmdbStore(tmp_path / "store")), load_chain(LmdbStore(home.store_directory))
    assert mine.tip == theirs.tip
    mine.close()
    theirs.close()
    with pytest.raises(ForeignChainError):
        restore_snapshot(directory, home.genesis, tmp_path / "store")


def test_a_damaged_chunk_is_named_and_restoring_goes_on_with_a_good_copy(tmp_path: Path) -> None:
    home, directory = taken(tmp_path / "net")
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    chunk = copy / "chunk-00001"
    data = chunk.read_bytes()
    chunk.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(HomeFault, match="chunk 1 is damaged"):
        restore_snapshot(copy, home.genesis, tmp_path / "store")
    assert restore_snapshot(directory, home.genesis, tmp_path / "store").height == BLOCKS


def test_a_snapshot_of_another_network_or_without_its_proof_is_refused(tmp_path: Path) -> None:
    home, _ = taken(tmp_path / "net")
    _, foreign = taken(tmp_path / "other")
    with pytest.raises(HomeFault, match="not certified by this network's validators"):
        restore_snapshot(foreign, home.genesis, tmp_path / "store")
    (foreign / ANCHOR_NAME).unlink()
    with pytest.raises(HomeFault, match="has no readable anchor"):
        restore_snapshot(foreign, home.genesis, tmp_path / "store")
    assert not (tmp_path / "store").exists()
