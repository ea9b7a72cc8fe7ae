"""A stopped node's store, opened by commands that look into it or change it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_genesis, store_directory
from node.config import Loaded
from state.store.chain import ChainStore, load_chain
from state.store.errors import StoreBusyError, StoreError, StoreMissingError
from state.store.lmdb_store import LmdbStore
from state.store.lock import is_locked
from state.store.rows import ChainIdentity
from trellis.genesis import Genesis


@contextmanager
def store_errors() -> Iterator[None]:
    """What a store raises says which folder and what to do; here it gets its exit code."""
    try:
        yield
    except StoreMissingError as fault:
        raise CommandFailed(
            Exit.NOT_FOUND, f"{fault.directory}: {fault.what}", "the node was never started: trellis start"
        ) from fault
    except StoreBusyError as fault:
        raise CommandFailed(
            Exit.LOCAL, f"{fault.directory}: {fault.what}", "stop the node first: this needs its folder for itself"
        ) from fault
    except StoreError as fault:
        raise CommandFailed(Exit.LOCAL, f"{fault.directory}: {fault.what}", fault.remedy) from fault


def genesis_of(loaded: Loaded) -> Genesis:
    return load_genesis(loaded.path(loaded.config.node.genesis))


def runs(loaded: Loaded) -> bool:
    """Whether some process has the store open for writing."""
    return is_locked(store_directory(loaded))


def require_stopped(loaded: Loaded) -> None:
    if runs(loaded):
        raise CommandFailed(
            Exit.LOCAL, f"the node of {loaded.base} is running", "stop it first: this needs its folder for itself"
        )


@contextmanager
def open_chain(loaded: Loaded, *, read_only: bool = True) -> Iterator[ChainStore]:
    """The committed chain. Reading beside a running node is safe; writing takes the folder's lock."""
    genesis = genesis_of(loaded)
    identity = ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2)
    with store_errors():
        directory: Path = store_directory(loaded)
        if not directory.exists():
            raise StoreMissingError(str(directory), "there is no store here", "Start the node")
        chain = load_chain(LmdbStore(directory, read_only=read_only), identity)
        try:
            yield chain
        finally:
            chain.close()
