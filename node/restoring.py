"""A node's store out of a snapshot's folder: certified from genesis, each chunk verified, nothing half done.

Beside manifest, index and chunks a snapshot's folder holds its anchor, so that it needs no network to be believed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final

from node.anchors import anchor_fault, anchor_of, decode_anchor
from node.home import HomeFault
from state.chain import MMR_KEY
from state.snapshot import ChunkRefusal
from state.store.lmdb_store import LmdbStore
from state.store.reader import ChainReader
from state.store.snapshots import SnapshotAnchor, SnapshotFiles, begin_import
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.genesis import Genesis
from trellis.mmr import decode_mmr
from trellis.records import SnapshotManifest
from trellis.types import Hash, Height
from trellis.validators import ValidatorSet

ANCHOR_NAME: Final = "anchor"


def write_anchor(
    directory: Path, reader: ChainReader, height: Height, sets: Callable[[Hash], ValidatorSet | None]
) -> None:
    """Into a snapshot's folder. `node.rpc.errors.Refused` where this node does not reach back to genesis itself."""
    (directory / ANCHOR_NAME).write_bytes(anchor_of(reader, height, sets).encode())


def restore_snapshot(directory: Path, genesis: Genesis, store_directory: Path) -> SnapshotManifest:
    """Goes on where an earlier attempt was cut off. `HomeFault` or `StoreError` says what is wrong, and what to do."""
    files = SnapshotFiles(directory)
    manifest = files.manifest().manifest
    try:
        anchor = decode_anchor((directory / ANCHOR_NAME).read_bytes())
    except (OSError, DecodeError) as fault:
        raise HomeFault(
            f"{directory} has no readable {ANCHOR_NAME} ({fault}): make the snapshot again with this version, "
            "or start from snapshots of peers with sync.snapshots"
        ) from fault
    wrong = anchor_fault(anchor, genesis, verify_all)
    named = (manifest.height, manifest.block_hash, manifest.state_root)
    if wrong is None and named != (anchor.header.height, anchor.header.hash, anchor.header.state_root):
        wrong = "the manifest is not of the certified block"
    if wrong is not None:
        raise HomeFault(f"{directory} is not certified by this network's validators: {wrong}")
    store = LmdbStore(store_directory)
    try:
        importing = begin_import(store, manifest, files.index())
        if isinstance(importing, ChunkRefusal):
            raise _damaged(directory, importing)
        for index in list(importing.missing()):
            refusal = importing.accept(index, files.chunk(index))
            if refusal is not None:
                raise _damaged(directory, refusal)
        mountains = importing.value(MMR_KEY)
        if mountains is None:
            raise HomeFault(f"{directory}: the state in it lacks the chain's own rows")
        certificate = anchor.certificate.encode()
        importing.finish(SnapshotAnchor(anchor.header, certificate, decode_mmr(mountains)))
    finally:
        store.close()
    return manifest


def _damaged(directory: Path, refusal: ChunkRefusal) -> HomeFault:
    piece = "its index" if refusal.index is None else f"chunk {refusal.index}"
    return HomeFault(f"{directory}: {piece} is damaged ({refusal.detail}): copy the snapshot again, then restore again")
