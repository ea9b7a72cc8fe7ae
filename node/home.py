"""A node's folder: what is in it, how it is made, how it is opened."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from node.config import Config, Loaded, load_config
from trellis.address import parse_address
from trellis.crypto.keystore import KeystoreError, read_keystore
from trellis.crypto.schemes import SigningKey
from trellis.encoding import DecodeError
from trellis.genesis import Genesis, GenesisInvalid, genesis_from_json
from trellis.types import Address

CONFIG_NAME: Final = "trellis.toml"
STORE_NAME: Final = "store"
LOG_NAME: Final = "log"
SNAPSHOTS_NAME: Final = "snapshots"


class HomeFault(Exception):
    """The folder cannot be used; the message names the file and says what to do."""


@dataclass(frozen=True, slots=True)
class Home:
    """Everything that a node needs to start, read and checked."""

    loaded: Loaded
    genesis: Genesis
    account: Address
    consensus_key: SigningKey
    network_key: SigningKey
    payer_key: SigningKey | None

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def data_directory(self) -> Path:
        return self.loaded.path(self.config.node.data_dir)

    @property
    def store_directory(self) -> Path:
        return self.data_directory / STORE_NAME

    @property
    def log_directory(self) -> Path:
        return self.data_directory / LOG_NAME

    @property
    def snapshot_directory(self) -> Path:
        return self.data_directory / SNAPSHOTS_NAME

    @property
    def guard_directory(self) -> Path:
        return self.loaded.path(self.config.node.guard_dir)


def read_genesis(path: Path) -> Genesis:
    try:
        return genesis_from_json(json.loads(path.read_text()))
    except OSError as fault:
        raise HomeFault(f"cannot read the genesis {path}: {fault.strerror}") from fault
    except json.JSONDecodeError as fault:
        raise HomeFault(f"{path} is not JSON: {fault}") from fault
    except GenesisInvalid as fault:
        raise HomeFault(f"{path}: {fault}") from fault


def open_home(directory: Path, environment: dict[str, str]) -> Home:
    path = directory / CONFIG_NAME
    if not path.exists():
        raise HomeFault(
            f"{directory} is no node's folder: it lacks {CONFIG_NAME}; make one with `trellis testnet generate`"
        )
    loaded = load_config(path, environment)
    node = loaded.config.node
    try:
        account = parse_address(node.account)
    except DecodeError as fault:
        raise HomeFault(f"{path}: node.account: {fault.detail}") from fault
    if not node.password_file:
        raise HomeFault(f"{path}: node.password_file must name the file with the keystores' password")
    password = _password(loaded.path(node.password_file))
    return Home(
        loaded=loaded,
        genesis=read_genesis(loaded.path(node.genesis)),
        account=account,
        consensus_key=_unlock(loaded.path(node.consensus_key), password),
        network_key=_unlock(loaded.path(node.network_key), password),
        payer_key=_unlock(loaded.path(node.payer_key), password) if node.payer_key else None,
    )


def _password(path: Path) -> str:
    try:
        lines = path.read_text().splitlines()
    except OSError as fault:
        raise HomeFault(f"cannot read the password file {path}: {fault.strerror}") from fault
    if not lines or not lines[0]:
        raise HomeFault(f"the first line of {path} is empty: it must be the password")
    return lines[0]


def _unlock(path: Path, password: str) -> SigningKey:
    try:
        return read_keystore(path).unlock(password)
    except OSError as fault:
        raise HomeFault(f"cannot read the key {path}: {fault.strerror}") from fault
    except KeystoreError as fault:
        raise HomeFault(f"{path}: {fault}") from fault
