"""One running node, put together: runtime, services, metrics. What `trellis start` runs.

The order of ending matters: services and runtime stop together, and only then are store, log and guard closed.
"""

from __future__ import annotations

import gc
import importlib.metadata
from typing import Final

import structlog
import trio

from node.home import Home, HomeFault
from node.http import serve_http
from node.live import LiveNode
from node.metrics import Metrics
from node.observer import Observer
from node.rpc.listening import Listener, Tls, operators
from node.rpc.port import NodeFacts, Role
from node.rpc.server import ControlPlane, PlaneSettings
from node.rpc.sets import SETS_FILE, SetArchive
from node.runtime import Runtime, now_ms, open_node
from node.snapshot_service import SnapshotService
from node.state_sync import start_from_snapshot
from state.store.shelf import SnapshotShelf
from trellis.peerid import fingerprint, peer_id, peer_id_text

_SHOWN: Final = ("cryptography", "grpcio", "libp2p", "lmdb", "protobuf", "trio", "z3-solver")


async def run_node(home: Home) -> None:
    """Until cancelled; raises what stopped the node."""
    metrics = Metrics()
    if home.config.sync.snapshots:
        await start_from_snapshot(home)
    opened = open_node(home)
    runtime = Runtime(home, opened, metrics)
    archive = SetArchive(home.data_directory / SETS_FILE)
    observer = Observer(runtime)
    try:
        async with trio.open_nursery() as nursery:
            if home.config.metrics.listen:
                await nursery.start(serve_http, home.config.metrics.listen, metrics, observer.health)
            await nursery.start(runtime.run)
            observer.started(runtime.host)
            live = LiveNode(runtime, _facts(home, runtime), archive)
            nursery.start_soon(live.keep_standing)
            shelf = SnapshotShelf(home.snapshot_directory)
            SnapshotService(shelf, opened.chain.read, live.set_of).serve(runtime.network.requests)
            plane = ControlPlane(live, listeners(home), metrics, _settings(home))
            await nursery.start(plane.run)
            _settle_memory()
            structlog.get_logger().info("serving", addresses=plane.addresses)
    finally:
        runtime.close()
        archive.close()


def _settle_memory() -> None:
    """What start-up made stays for ever, and a pool of transactions is no garbage: looking through both again and again
    took 6 % of a transaction's time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


def _settings(home: Home) -> PlaneSettings:
    return PlaneSettings(home.config.grpc.max_message_bytes, home.config.grpc.reflection)


def listeners(home: Home) -> list[Listener]:
    """What the configuration asks for; relative files and sockets lie in the node's folder."""
    grpc = home.config.grpc
    tls = _tls(home)
    public = Listener(_address(home, grpc.listen), tls=tls, post_quantum_only=grpc.post_quantum_only)
    if not grpc.admin_listen:
        return [public]
    token = _read(home, grpc.admin_token_file).decode().strip() if grpc.admin_token_file else None
    is_unix = grpc.admin_listen.startswith("unix:")
    return [public, operators(_address(home, grpc.admin_listen), token, None if is_unix else tls)]


def _address(home: Home, address: str) -> str:
    path = address.removeprefix("unix:")
    return address if path == address else f"unix:{home.loaded.path(path)}"


def _tls(home: Home) -> Tls | None:
    grpc = home.config.grpc
    if not grpc.tls_certificate and not grpc.tls_key:
        return None
    if not grpc.tls_certificate or not grpc.tls_key:
        raise HomeFault("grpc.tls_certificate and grpc.tls_key go together: set both, or neither")
    client_ca = _read(home, grpc.client_ca) if grpc.client_ca else None
    return Tls(_read(home, grpc.tls_certificate), _read(home, grpc.tls_key), client_ca)


def _read(home: Home, name: str) -> bytes:
    path = home.loaded.path(name)
    try:
        return path.read_bytes()
    except OSError as fault:
        raise HomeFault(f"cannot read {path}: {fault.strerror}") from fault


def _facts(home: Home, runtime: Runtime) -> NodeFacts:
    key = home.network_key
    own = peer_id(key.alg_id, key.public_key)
    validator = home.account if home.account in runtime.engine.facts.validators else None
    return NodeFacts(
        software_version=importlib.metadata.version("trellis-node"),
        started_at_ms=now_ms(),
        moniker=home.config.node.moniker,
        peer_id=own,
        fingerprint=fingerprint(key.alg_id, key.public_key),
        listen_addresses=tuple(f"{address}/p2p/{peer_id_text(own)}" for address in runtime.host.addresses),
        role=Role.VALIDATOR if validator is not None else Role.FULL,
        validator=validator,
        components=tuple((name, importlib.metadata.version(name)) for name in _SHOWN),
    )
