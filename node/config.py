"""Configuration: one TOML file, every key overridable by `TRELLIS_SECTION_KEY`, unknown keys refused.

`load_config` answers with the values in force and where each came from, which `trellis config show` prints.
"""

from __future__ import annotations

import dataclasses
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from node.logs import LogFormat, LogLevel
from node.trust import SyncMode

ENVIRONMENT_PREFIX: Final = "TRELLIS_"


class Reach(StrEnum):
    """Of addresses that strangers tell."""

    GLOBAL = "global"
    PRIVATE = "private"
    """And networks inside an organisation."""
    LOOPBACK = "loopback"
    """And this machine: for development and tests."""


class ConfigInvalid(ValueError):
    """The message names the key, where its value came from, and what it takes."""


def _key(default: Any, meaning: str) -> Any:
    return field(default=default, metadata={"meaning": meaning})


@dataclass(frozen=True, slots=True)
class NodeSection:
    data_dir: str = _key("data", "folder of the store and the write-ahead log")
    guard_dir: str = _key("guard", "folder of the sign guard; ideally on another disk")
    genesis: str = _key("genesis.json", "the network's genesis document")
    moniker: str = _key("", "a name for logs; nothing depends on it")
    validator: bool = _key(False, "vote with the consensus key, if this account is in the validator set")
    consensus_key: str = _key("keys/consensus.json", "keystore of the key that signs votes")
    network_key: str = _key("keys/network.json", "keystore of the key that names this peer")
    account: str = _key("", "address of the validator's account (trl1…)")
    password_file: str = _key("", "file with the keystores' password; its first line counts")
    payer_key: str = _key("", "keystore of the account that pays for evidence and verdicts this node brings")
    keep_heights: int = _key(0, "blocks that are kept; 0 keeps all")
    verify_workers: int = _key(1, "processes that verify signatures; 0 verifies in the node's own threads")


@dataclass(frozen=True, slots=True)
class P2pSection:
    listen: tuple[str, ...] = _key(("/ip4/0.0.0.0/tcp/26600",), "multiaddrs to listen at")
    static_peers: tuple[str, ...] = _key((), "multiaddrs with /p2p/ id, always dialled")
    announce: tuple[str, ...] = _key((), "multiaddrs at which others reach this node; empty tells nobody of it")
    reach: Reach = _key(Reach.GLOBAL, "how far records of peers may make this node dial: global, private or loopback")
    dns_seeds: tuple[str, ...] = _key((), "domain names that list peers in TXT records")
    json_seeds: tuple[str, ...] = _key((), "HTTPS addresses of documents that list peers")
    members_only: bool = _key(True, "refuse peers that are neither validators nor listed in allow")
    allow: tuple[str, ...] = _key((), "peer ids of full nodes that may connect")
    mdns: bool = _key(False, "announce and find peers on the local network")
    max_connections: int = _key(128, "connections in all; places for validators are reserved beside them")


@dataclass(frozen=True, slots=True)
class GrpcSection:
    listen: str = _key("127.0.0.1:26610", "address of the public services")
    tls_certificate: str = _key("", "PEM file; empty serves plaintext")
    tls_key: str = _key("", "PEM file")
    client_ca: str = _key("", "PEM file; when set, clients must present a certificate")
    post_quantum_only: bool = _key(False, "refuse TLS groups other than X25519MLKEM768")
    reflection: bool = _key(True, "serve the schemas by server reflection")
    admin_listen: str = _key("unix:admin.sock", "address of the admin service; empty turns it off")
    admin_token_file: str = _key("", "file with the token that admin calls must carry")
    max_message_bytes: int = _key(8 << 20, "the largest request")


@dataclass(frozen=True, slots=True)
class SyncSection:
    mode: SyncMode = _key(
        SyncMode.VERIFY, "verify checks every signature; certificate-trust a sample, under verified certificates"
    )
    snapshots: bool = _key(False, "while the store is empty: start from a certified snapshot that peers serve")


@dataclass(frozen=True, slots=True)
class MempoolSection:
    max_transactions: int = _key(100_000, "transactions that may wait")
    max_bytes: int = _key(256 << 20, "bytes that may wait")


@dataclass(frozen=True, slots=True)
class ProofsSection:
    attest: bool = _key(True, "ask the solver about statements that validators attest; without it this one abstains")
    workers: int = _key(1, "processes that check proofs, started when the first one comes")


@dataclass(frozen=True, slots=True)
class MetricsSection:
    listen: str = _key("127.0.0.1:26620", "address of /metrics, /health and /ready; empty turns it off")


@dataclass(frozen=True, slots=True)
class LogSection:
    level: LogLevel = _key(LogLevel.INFO, "debug, info, warning or error")
    format: LogFormat = _key(LogFormat.CONSOLE, "console or json")


@dataclass(frozen=True, slots=True)
class Config:
    node: NodeSection = field(default_factory=NodeSection)
    p2p: P2pSection = field(default_factory=P2pSection)
    grpc: GrpcSection = field(default_factory=GrpcSection)
    sync: SyncSection = field(default_factory=SyncSection)
    mempool: MempoolSection = field(default_factory=MempoolSection)
    proofs: ProofsSection = field(default_factory=ProofsSection)
    metrics: MetricsSection = field(default_factory=MetricsSection)
    log: LogSection = field(default_factory=LogSection)


@dataclass(frozen=True, slots=True)
class Setting:
    """One key in force."""

    name: str
    value: Any
    source: str
    """"default", the file's name, or the variable's name."""
    meaning: str


@dataclass(frozen=True, slots=True)
class Loaded:
    config: Config
    settings: tuple[Setting, ...]
    base: Path
    """Relative paths in the configuration start here: the folder of its file."""

    def path(self, relative: str) -> Path:
        return self.base / relative


def load_config(file: Path | None, environment: Mapping[str, str]) -> Loaded:
    """Reads the file (if any), then the environment. Raises `ConfigInvalid`."""
    document: dict[str, Any] = {}
    if file is not None:
        try:
            document = tomllib.loads(file.read_text())
        except OSError as fault:
            raise ConfigInvalid(f"cannot read the configuration {file}: {fault.strerror}") from fault
        except tomllib.TOMLDecodeError as fault:
            raise ConfigInvalid(f"{file} is not TOML: {fault}") from fault
    sections: dict[str, Any] = {}
    settings: list[Setting] = []
    wanted = {item.name: typing.get_type_hints(Config)[item.name] for item in dataclasses.fields(Config)}
    _refuse_unknown(document, wanted, str(file))
    for name, kind in wanted.items():
        given = document.get(name, {})
        if not isinstance(given, dict):
            raise ConfigInvalid(f"{file}: {name} is a section: write [{name}]")
        sections[name] = _section(name, kind, given, str(file), environment, settings)
    _refuse_unknown_variables(environment, settings)
    base = file.parent if file is not None else Path()
    return Loaded(Config(**sections), tuple(settings), base)


def _refuse_unknown(given: Mapping[str, Any], known: Mapping[str, Any], where: str) -> None:
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigInvalid(f"{where}: unknown keys {', '.join(unknown)}; known are {', '.join(known)}")


def _refuse_unknown_variables(environment: Mapping[str, str], settings: list[Setting]) -> None:
    """A misspelt variable would be ignored in silence. Those of the command line (`TRELLIS_KEY_…`) are not ours."""
    known = {variable_name(setting.name) for setting in settings}
    sections = tuple(f"{ENVIRONMENT_PREFIX}{item.name.upper()}_" for item in dataclasses.fields(Config))
    unknown = sorted(name for name in environment if name.startswith(sections) and name not in known)
    if unknown:
        raise ConfigInvalid(f"unknown variables {', '.join(unknown)}: `trellis config show` lists all keys")


def variable_name(key: str) -> str:
    return ENVIRONMENT_PREFIX + key.replace(".", "_").upper()


def _section(
    section: str,
    kind: Any,
    given: Mapping[str, Any],
    file: str,
    environment: Mapping[str, str],
    settings: list[Setting],
) -> Any:
    hints = typing.get_type_hints(kind)
    items = dataclasses.fields(kind)
    _refuse_unknown(given, {item.name: None for item in items}, f"{file}: [{section}]")
    defaults, values = kind(), {}
    for item in items:
        name = f"{section}.{item.name}"
        variable = variable_name(name)
        if variable in environment:
            source, value = variable, _from_text(environment[variable], hints[item.name], variable)
        elif item.name in given:
            source, value = file, _checked(given[item.name], hints[item.name], f"{file}: {name}")
        else:
            source, value = "default", getattr(defaults, item.name)
        values[item.name] = value
        settings.append(Setting(name, value, source, item.metadata["meaning"]))
    return kind(**values)


def _from_text(text: str, kind: Any, where: str) -> Any:
    if kind is bool:
        if text.lower() not in {"true", "false"}:
            raise ConfigInvalid(f"{where} is {text!r}: it takes true or false")
        return text.lower() == "true"
    if kind is int:
        try:
            return int(text)
        except ValueError as fault:
            raise ConfigInvalid(f"{where} is {text!r}: it takes an integer") from fault
    if kind == tuple[str, ...]:
        return tuple(part.strip() for part in text.split(",") if part.strip())
    return _checked(text, kind, where)


def _checked(value: Any, kind: Any, where: str) -> Any:
    if kind == tuple[str, ...]:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigInvalid(f"{where} is {value!r}: it takes a list of strings")
        return tuple(value)
    if issubclass(kind, StrEnum):
        if value not in kind.__members__.values():
            raise ConfigInvalid(f"{where} is {value!r}: it is one of {', '.join(kind)}")
        return kind(value)
    if type(value) is not kind:
        raise ConfigInvalid(f"{where} is {value!r}: it takes a {kind.__name__}")
    return value
