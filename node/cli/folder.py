"""A node's folder as offline commands use it: its configuration, genesis and store, opened with errors that help."""

from __future__ import annotations

import os
from pathlib import Path

from node.cli.exits import CommandFailed, Exit
from node.config import ConfigInvalid, Loaded, load_config
from node.home import CONFIG_NAME, LOG_NAME, SNAPSHOTS_NAME, STORE_NAME, HomeFault, read_genesis
from trellis.genesis import Genesis


def load_home_config(home: Path) -> Loaded:
    """What is in force for a node's folder, the environment included."""
    path = home / CONFIG_NAME
    if not path.exists():
        raise CommandFailed(
            Exit.NOT_FOUND,
            f"{home} is no node's folder: it has no {CONFIG_NAME}",
            "name the folder with --home, or make one: trellis init, trellis testnet generate",
        )
    return config_from(path)


def config_from(path: Path | None) -> Loaded:
    try:
        return load_config(path, dict(os.environ))
    except ConfigInvalid as fault:
        raise CommandFailed(Exit.LOCAL, str(fault), "mend that, then look again: trellis config validate") from fault


def load_genesis(path: Path) -> Genesis:
    try:
        return read_genesis(path)
    except HomeFault as fault:
        raise CommandFailed(
            Exit.LOCAL, str(fault), "check the file: trellis genesis validate; or get the network's genesis.json again"
        ) from fault


def store_directory(loaded: Loaded) -> Path:
    return loaded.path(loaded.config.node.data_dir) / STORE_NAME


def log_directory(loaded: Loaded) -> Path:
    return loaded.path(loaded.config.node.data_dir) / LOG_NAME


def guard_directory(loaded: Loaded) -> Path:
    return loaded.path(loaded.config.node.guard_dir)


def snapshots_directory(loaded: Loaded) -> Path:
    return loaded.path(loaded.config.node.data_dir) / SNAPSHOTS_NAME
