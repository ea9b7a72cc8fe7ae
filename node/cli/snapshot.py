"""`trellis snapshot`: the whole state at one height, in verified chunks, from which another node can start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli.connection import admin_of
from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_home_config, snapshots_directory, store_directory
from node.cli.format import output_option
from node.cli.keyring import password_from, read_key, unlock_with
from node.cli.methods import CREATE_SNAPSHOT
from node.cli.options import AdminConnection, administered, home_option
from node.cli.output import emit_record, emit_rows
from node.cli.records import record_of
from node.cli.stopped import genesis_of, open_chain, require_stopped, runs, store_errors
from node.config import Loaded
from node.home import HomeFault
from node.restoring import restore_snapshot, write_anchor
from node.rpc.errors import Refused
from node.rpc.sets import SETS_FILE, SetArchive
from node.snapshots import snapshot_name
from state.store.errors import StoreError
from state.store.reader import ChainReader
from state.store.snapshots import SnapshotFiles, SnapshotSource
from trellis.constants import Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import SigningKey, verify_one
from trellis.peerid import peer_id, peer_id_text
from trellis.records import SignedManifest
from trellis.types import Hash, Height
from trellis.v1 import admin_service_pb2
from trellis.validators import ValidatorSet, decode_validator_set


@click.group()
@output_option
def snapshot() -> None:
    """Make, list and restore snapshots of the state. Whoever imports one checks every chunk against a certified header.

    \b
    Examples:
      trellis snapshot create --home /var/lib/trellis
      trellis snapshot list --home /var/lib/trellis
      trellis snapshot restore /backup/000000120000 --home /var/lib/trellis
    """


@snapshot.command()
@output_option
@administered
@click.pass_context
def create(ctx: click.Context, connection: AdminConnection) -> None:
    """Write a snapshot of the latest final state, and answer when it is on the disk.

    A running node is asked to, through its admin listener, and goes on meanwhile; for a stopped one the command does it
    itself, signed by the node's network key.

    \b
    Examples:
      trellis snapshot create --home /var/lib/trellis
      trellis --output json snapshot create --admin-endpoint unix:/run/trellis/admin.sock --timeout 600
    """
    if connection.home is not None and connection.endpoint is None:
        loaded = load_home_config(connection.home)
        if not runs(loaded):
            emit_record(ctx, _made_here(loaded))
            return
    with admin_of(connection) as client:
        record = record_of(client.call(CREATE_SNAPSHOT, admin_service_pb2.CreateSnapshotRequest()))
    at = record.pop("block") or {}
    emit_record(ctx, {"height": at.get("height"), "block_hash": at.get("block_hash")} | record)


def _made_here(loaded: Loaded) -> dict[str, Any]:
    key = _network_key(loaded)
    with open_chain(loaded) as chain, chain.read() as reader, store_errors():
        if chain.tip.height == 0:
            raise CommandFailed(Exit.NOT_FOUND, "there is no block yet", "a node starts from genesis just as well")
        source = SnapshotSource(reader, chain.identity)
        manifest = source.manifest
        signature = key.sign(manifest.encode(), Context.SNAPSHOT.value)
        directory = snapshots_directory(loaded) / snapshot_name(manifest.height)
        if directory.exists():
            raise CommandFailed(
                Exit.LOCAL, f"{directory} is there already; it was left as it is", "see: trellis snapshot list"
            )
        SnapshotFiles(directory).write(source, SignedManifest(manifest, key.alg_id, key.public_key, signature))
        _anchored(loaded, directory, reader, manifest.height)
    return _described(directory)


def _anchored(loaded: Loaded, directory: Path, reader: ChainReader, height: Height) -> None:
    archive = SetArchive(loaded.path(loaded.config.node.data_dir) / SETS_FILE)
    genesis = genesis_of(loaded)
    archive.add(genesis.validators)

    def find(set_hash: Hash) -> ValidatorSet | None:
        return decode_validator_set(archive.get(set_hash) or b"") if set_hash in archive else None

    try:
        write_anchor(directory, reader, height, find)
    except Refused as fault:
        click.echo(f"note: it can be restored only with the help of peers: {fault.message}", err=True)
    finally:
        archive.close()


@snapshot.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@home_option
@output_option
@click.pass_context
def restore(ctx: click.Context, source: Path, home: Path) -> None:
    """Make the store of a stopped node out of the snapshot in the folder SOURCE.

    The node's genesis is all that is trusted: the snapshot's block must be certified from there on, and every chunk
    must prove itself. The node must have no store yet; move an old one away first. A restored validator watches for
    some blocks before it votes again, because nobody knows what its key signed since.

    \b
    Examples:
      trellis snapshot restore /backup/000000120000 --home /var/lib/trellis
      trellis snapshot restore net/node0/data/snapshots/000000000120 --home net/node4
    """
    loaded = load_home_config(home)
    require_stopped(loaded)
    try:
        with store_errors():
            manifest = restore_snapshot(source, genesis_of(loaded), store_directory(loaded))
    except HomeFault as fault:
        raise CommandFailed(Exit.LOCAL, str(fault)) from fault
    record = {"height": manifest.height, "block_hash": manifest.block_hash.hex(), "home": str(home)}
    emit_record(ctx, record | {"state_root": manifest.state_root.hex(), "chunk_count": manifest.chunk_count})


def _network_key(loaded: Loaded) -> SigningKey:
    node = loaded.config.node
    path = loaded.path(node.network_key)
    if not node.password_file:
        raise CommandFailed(
            Exit.LOCAL, "node.password_file is not set", "name the file with the password of the node's keys there"
        )
    return unlock_with(read_key(path), path, password_from(loaded.path(node.password_file)))


@snapshot.command(name="list")
@home_option
@output_option
@click.pass_context
def list_(ctx: click.Context, home: Path) -> None:
    """List the snapshots in a node's folder, and whether each is whole and signed.

    \b
    Examples:
      trellis snapshot list --home /var/lib/trellis
      trellis --output json snapshot list --home /var/lib/trellis
    """
    found = [path for path in snapshots_directory(load_home_config(home)).glob("*") if path.is_dir()]
    rows: list[dict[str, Any]] = []
    for directory in sorted(found, key=lambda path: (len(path.name), path.name)):
        try:
            rows.append(_described(directory))
        except StoreError as fault:
            rows.append({"path": str(directory), "problem": fault.what})
    columns = ["height", "block_hash", "chunk_count", "size_bytes", "made_by", "path"]
    emit_rows(ctx, "snapshots", rows, [*columns, "problem"] if any(row["problem"] for row in rows) else columns)


def _described(directory: Path) -> dict[str, Any]:
    files = SnapshotFiles(directory)
    signed = files.manifest()
    manifest = signed.manifest
    chunks = len(list(directory.glob("chunk-*")))
    problem = None
    if not verify_one(signed.check()):
        problem = "the manifest's signature does not verify"
    elif chunks != manifest.chunk_count:
        problem = f"it has {chunks} of {manifest.chunk_count} chunks"
    return {
        "height": manifest.height,
        "block_hash": manifest.block_hash.hex(),
        "state_root": manifest.state_root.hex(),
        "chunk_count": manifest.chunk_count,
        "size_bytes": sum(path.stat().st_size for path in directory.iterdir()),
        "made_by": peer_id_text(peer_id(AlgId(signed.alg_id), signed.public_key)),
        "path": str(directory),
        "problem": problem,
    }
