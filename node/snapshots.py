"""Snapshots of the committed state, made beside the running node: peers are served from them, operators keep them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import structlog
import trio

from node.home import Home
from node.restoring import write_anchor
from node.rpc.errors import Reason, Refused
from node.rpc.port import SnapshotView
from state.store.chain import ChainStore
from state.store.reader import ChainReader
from state.store.rows import ChainIdentity
from state.store.snapshots import SnapshotFiles, SnapshotSource
from trellis.constants import Context
from trellis.records import SignedManifest
from trellis.types import Hash, Height
from trellis.validators import ValidatorSet


def snapshot_name(height: int) -> str:
    return f"{height:012d}"


Sets = Callable[[Hash], ValidatorSet | None]
"""Every validator set that was ever in force, by its hash."""


async def make_snapshot(home: Home, chain: ChainStore, sets: Sets) -> SnapshotView:
    """Of the block that is the tip now. Readers never block the writer: the node goes on meanwhile."""
    return await trio.to_thread.run_sync(_make, home, chain, sets)


def _make(home: Home, chain: ChainStore, sets: Sets) -> SnapshotView:
    genesis, key = home.genesis, home.network_key
    with chain.read() as reader:
        height = reader.tip.height
        if not height:
            raise Refused(Reason.NOT_FOUND, "there is no block yet: wait for the first one")
        directory = home.snapshot_directory / snapshot_name(height)
        files = SnapshotFiles(directory)
        if not directory.exists():
            source = SnapshotSource(reader, ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2))
            signature = key.sign(source.manifest.encode(), Context.SNAPSHOT.value)
            files.write(source, SignedManifest(source.manifest, key.alg_id, key.public_key, signature))
            _try_anchor(directory, reader, height, sets)
        manifest = files.manifest().manifest
    return SnapshotView(
        height=manifest.height,
        block_hash=manifest.block_hash,
        path=str(directory),
        state_root=manifest.state_root,
        chunk_count=manifest.chunk_count,
        size_bytes=_size_of(directory),
    )


def _try_anchor(directory: Path, reader: ChainReader, height: Height, sets: Sets) -> None:
    """A node that began with a snapshot itself has no way back to genesis: its snapshots need others' word for it."""
    try:
        write_anchor(directory, reader, height, sets)
    except Refused as fault:
        structlog.get_logger().warning("a snapshot without an anchor", path=str(directory), reason=fault.message)


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())
