"""Snapshots of the committed state, made beside the running node: peers are served from them, operators keep them."""

from __future__ import annotations

from pathlib import Path

import trio

from node.home import Home
from node.rpc.errors import Reason, Refused
from node.rpc.port import SnapshotView
from state.store.chain import ChainStore
from state.store.rows import ChainIdentity
from state.store.snapshots import SnapshotFiles, SnapshotSource
from trellis.constants import Context
from trellis.records import SignedManifest


def snapshot_name(height: int) -> str:
    return f"{height:012d}"


async def make_snapshot(home: Home, chain: ChainStore) -> SnapshotView:
    """Of the block that is the tip now. Readers never block the writer: the node goes on meanwhile."""
    return await trio.to_thread.run_sync(_make, home, chain)


def _make(home: Home, chain: ChainStore) -> SnapshotView:
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
        manifest = files.manifest().manifest
    return SnapshotView(
        height=manifest.height,
        block_hash=manifest.block_hash,
        path=str(directory),
        state_root=manifest.state_root,
        chunk_count=manifest.chunk_count,
        size_bytes=_size_of(directory),
    )


def _size_of(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.iterdir())
