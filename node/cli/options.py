"""Options that several commands share, and what they add up to. No command loads gRPC by naming them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

DEFAULT_ENDPOINT: Final = "127.0.0.1:26610"
"""Where a node serves unless its configuration says otherwise."""

DEFAULT_TIMEOUT_S: Final = 10.0

Command = Callable[..., Any]

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_FOLDER: Final = click.Path(file_okay=False, path_type=Path)

home_option: Final = click.option(
    "--home", type=_FOLDER, envvar="TRELLIS_HOME", required=True, show_envvar=True, help="The node's folder."
)
genesis_option: Final = click.option(
    "--genesis",
    type=_FILE,
    envvar="TRELLIS_GENESIS",
    show_envvar=True,
    help="The network's genesis.json (or a checkpoint): what signatures and proofs start from.",
)

_TLS: Final = (
    click.option("--tls-ca", type=_FILE, envvar="TRELLIS_TLS_CA", show_envvar=True, help="PEM: who vouches for it."),
    click.option(
        "--tls-cert", type=_FILE, envvar="TRELLIS_TLS_CERT", show_envvar=True, help="PEM: our own certificate."
    ),
    click.option("--tls-key", type=_FILE, envvar="TRELLIS_TLS_KEY", show_envvar=True, help="PEM: its private key."),
    click.option(
        "--tls-server-name",
        envvar="TRELLIS_TLS_SERVER_NAME",
        show_envvar=True,
        help="The name its certificate must have, where that is not its address.",
    ),
)
_TIMEOUT: Final = click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.1, 3_600),
    default=DEFAULT_TIMEOUT_S,
    envvar="TRELLIS_TIMEOUT",
    show_default=True,
    show_envvar=True,
    help="Seconds for one question, with all its retries.",
)
_ONLINE: Final = (
    click.option(
        "--endpoint",
        "endpoints",
        multiple=True,
        envvar="TRELLIS_ENDPOINT",
        show_envvar=True,
        help=f"A node: host:port, https://host:port, or unix:/path. May be given several times; in the variable, "
        f"separated by spaces.  [default: {DEFAULT_ENDPOINT}]",
    ),
    genesis_option,
    click.option(
        "--token-file",
        type=_FILE,
        envvar="TRELLIS_TOKEN_FILE",
        show_envvar=True,
        help="A file with the token that the node asks for; or set TRELLIS_TOKEN.",
    ),
    *_TLS,
    _TIMEOUT,
)
_ADMIN: Final = (
    click.option(
        "--home", type=_FOLDER, envvar="TRELLIS_HOME", show_envvar=True, help="The node's folder, on this machine."
    ),
    click.option(
        "--admin-endpoint",
        envvar="TRELLIS_ADMIN_ENDPOINT",
        show_envvar=True,
        help="Its admin listener: unix:/path, or https://host:port. Default: what the folder's configuration says.",
    ),
    click.option(
        "--admin-token-file",
        type=_FILE,
        envvar="TRELLIS_ADMIN_TOKEN_FILE",
        show_envvar=True,
        help="A file with the admin token; or set TRELLIS_ADMIN_TOKEN. Default: the file in the configuration.",
    ),
    *_TLS,
    _TIMEOUT,
)


@dataclass(frozen=True, slots=True)
class TlsFiles:
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None

    @property
    def given(self) -> bool:
        return any((self.ca, self.certificate, self.key, self.server_name))


@dataclass(frozen=True, slots=True)
class Connection:
    """How to reach nodes, as the command line and the environment say it."""

    endpoints: tuple[str, ...] = ()
    genesis: Path | None = None
    token_file: Path | None = None
    tls: TlsFiles = TlsFiles()
    timeout_s: float = DEFAULT_TIMEOUT_S


@dataclass(frozen=True, slots=True)
class AdminConnection:
    """How to reach the admin listener of one node."""

    home: Path | None = None
    endpoint: str | None = None
    token_file: Path | None = None
    tls: TlsFiles = TlsFiles()
    timeout_s: float = DEFAULT_TIMEOUT_S


def online(command: Command) -> Command:
    """Gives a command the options of a connection, and hands it one as `connection`."""

    @functools.wraps(command)
    def run(
        *arguments: Any,
        endpoints: tuple[str, ...],
        genesis: Path | None,
        token_file: Path | None,
        timeout_s: float,
        **others: Any,
    ) -> Any:
        tls = _tls_files(others)
        return command(
            *arguments,
            connection=Connection(endpoints or (DEFAULT_ENDPOINT,), genesis, token_file, tls, timeout_s),
            **others,
        )

    return _with(run, _ONLINE)


def administered(command: Command) -> Command:
    """Gives a command the options of an admin connection, and hands it one as `connection`."""

    @functools.wraps(command)
    def run(
        *arguments: Any,
        home: Path | None,
        admin_endpoint: str | None,
        admin_token_file: Path | None,
        timeout_s: float,
        **others: Any,
    ) -> Any:
        tls = _tls_files(others)
        return command(
            *arguments,
            connection=AdminConnection(home, admin_endpoint, admin_token_file, tls, timeout_s),
            **others,
        )

    return _with(run, _ADMIN)


def _tls_files(given: dict[str, Any]) -> TlsFiles:
    return TlsFiles(given.pop("tls_ca"), given.pop("tls_cert"), given.pop("tls_key"), given.pop("tls_server_name"))


def _with(command: Command, options: tuple[Callable[[Command], Command], ...]) -> Command:
    for option in reversed(options):
        command = option(command)
    return command
