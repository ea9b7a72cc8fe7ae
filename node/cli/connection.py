"""Clients for commands: made from their options, and their errors turned into an exit code, a message and a remedy."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_home_config
from node.cli.keyring import read_text
from node.cli.options import AdminConnection, Connection, TlsFiles
from trellis.client import (
    Client,
    ClientError,
    DishonestAnswer,
    Endpoint,
    FeeTooHigh,
    HeightFuture,
    HeightPruned,
    KeyNotInForce,
    NotEnoughAnswers,
    NotFinal,
    NotFound,
    NotIncluded,
    NotProvable,
    NoTrust,
    RetryPolicy,
    RoleRequired,
    ServiceError,
    SignerFault,
    TimedOut,
    Tls,
    Trust,
    TxUnknown,
    Unreachable,
    WaitTimeout,
    load_trust,
)
from trellis.client.errors import printable

_HINTS: Final[dict[type[ClientError], str]] = {
    Unreachable: "is the node running, and is this its address? Name it with --endpoint, or set TRELLIS_ENDPOINT; "
    "for TLS write https://",
    TimedOut: "raise --timeout, or ask another node with --endpoint; what was submitted may still be included",
    WaitTimeout: "it may still become final: run trellis tx wait again, with a longer --for",
    NotFinal: "wait for it first: trellis tx wait TXID",
    RoleRequired: "give the admin token: --admin-token-file FILE, or set TRELLIS_ADMIN_TOKEN",
    NoTrust: "name the network's genesis: --genesis FILE, or set TRELLIS_GENESIS. A chain's id is never taken from "
    "a node",
    FeeTooHigh: "add --max-fee AMOUNT if you agree to pay that much",
    KeyNotInForce: "was the key rotated? Sign with the new one, and name the account: --account trl1…",
    NotEnoughAnswers: "name more nodes with --endpoint",
    NotIncluded: "make sure that it can never be included before you pay again: trellis account SENDER --verify must "
    "show its nonce used by another transaction, or a height above its last valid one",
    NotProvable: "read without --verify, from several nodes",
    SignerFault: "see whether the key file is whole: trellis keys list",
}
"""Where the command line knows better what to do than the client's own words, which speak to programmers."""

_CODES: Final[tuple[tuple[type[ClientError], Exit], ...]] = (
    (Unreachable, Exit.UNREACHABLE),
    (NotEnoughAnswers, Exit.UNREACHABLE),
    (TimedOut, Exit.TIMEOUT),
    (WaitTimeout, Exit.TIMEOUT),
    (TxUnknown, Exit.NOT_FOUND),
    (NotFound, Exit.NOT_FOUND),
    (HeightFuture, Exit.NOT_FOUND),
    (HeightPruned, Exit.NOT_FOUND),
    (NotIncluded, Exit.NO),
    (DishonestAnswer, Exit.DISHONEST),
    (NoTrust, Exit.USAGE),
    (NotProvable, Exit.USAGE),
    (FeeTooHigh, Exit.USAGE),
    (KeyNotInForce, Exit.LOCAL),
    (SignerFault, Exit.LOCAL),
)


def failed(fault: ClientError) -> CommandFailed:
    """What a command says and exits with when its client raised this."""
    code = next((code for kind, code in _CODES if isinstance(fault, kind)), Exit.REFUSED)
    hint = next((hint for kind, hint in _HINTS.items() if isinstance(fault, kind)), "")
    if not isinstance(fault, ServiceError):
        return CommandFailed(code, _told(fault), hint or _last_resort(code))
    what = fault.reason or fault.code.name
    facts = ", ".join(f"{printable(name)} {printable(value)}" for name, value in sorted(fault.metadata.items()))
    told = printable(fault.failure.details)
    message = (
        f"{fault.endpoint}: {fault.method}: {what}" + (f": {told}" if told else "") + (f" ({facts})" * bool(facts))
    )
    return CommandFailed(code, message, hint or fault.hint)


def _told(fault: ClientError) -> str:
    """Without what the client's words tell programmers to do, and without control characters."""
    match fault:
        case FeeTooHigh():
            return f"a fee of {fault.asked} base units is asked for, the limit is {fault.limit}: nothing was signed"
        case NoTrust():
            text = str(fault).partition(":")[0]
        case NotIncluded():
            text = f"transaction {fault.txid} is {fault.status}, say {', '.join(fault.told_by)}"
        case _:
            text = str(fault)
    return "".join(character if character.isprintable() else " " for character in text)


def _last_resort(code: Exit) -> str:
    if code is Exit.DISHONEST:
        return "ask another node, and find out what is wrong with this one before you use it again"
    return "see: trellis status"


@contextmanager
def errors_told() -> Iterator[None]:
    """Whatever a client raises within becomes a `CommandFailed`."""
    try:
        yield
    except ClientError as fault:
        raise failed(fault) from fault


def read_trust(connection: Connection) -> Trust | None:
    if connection.genesis is None:
        return None
    try:
        return load_trust(connection.genesis)
    except OSError as fault:
        raise CommandFailed(
            Exit.LOCAL, f"cannot read the genesis {connection.genesis}: {fault.strerror}", "name another with --genesis"
        ) from fault
    except ValueError as fault:
        raise CommandFailed(
            Exit.LOCAL,
            f"{connection.genesis}: {fault}",
            "get the network's genesis.json, or a checkpoint, from somebody you trust",
        ) from fault


@contextmanager
def client_of(connection: Connection) -> Iterator[Client]:
    """A client for a command's lifetime; its errors are told as they leave."""
    trust = read_trust(connection)
    token = _secret(connection.token_file, "TRELLIS_TOKEN", "token file")
    endpoints = _parsed(connection.endpoints, _tls(connection.tls), token)
    retry = RetryPolicy(budget_s=connection.timeout_s, attempt_s=connection.timeout_s)
    with errors_told(), Client(endpoints, trust=trust, retry=retry) as client:
        yield client


@contextmanager
def admin_of(connection: AdminConnection) -> Iterator[Client]:
    """A client of one node's admin listener."""
    endpoint, token_file = connection.endpoint, connection.token_file
    if connection.home is not None:
        found, file = _configured_admin(connection.home)
        endpoint, token_file = endpoint or found, token_file or file
    if endpoint is None:
        raise CommandFailed(
            Exit.USAGE,
            "which node? Its admin listener is not known",
            "give --home DIR on its own machine, or --admin-endpoint; or set TRELLIS_HOME",
        )
    token = _secret(token_file, "TRELLIS_ADMIN_TOKEN", "admin token file")
    retry = RetryPolicy(budget_s=connection.timeout_s, attempt_s=connection.timeout_s)
    with errors_told(), Client(_parsed((endpoint,), _tls(connection.tls), token), retry=retry) as client:
        yield client


def _configured_admin(home: Path) -> tuple[str | None, Path | None]:
    """The listener and the token file that a node's own configuration names."""
    loaded = load_home_config(home)
    listen, token_file = loaded.config.grpc.admin_listen, loaded.config.grpc.admin_token_file
    if listen.startswith("unix:"):
        listen = f"unix:{loaded.path(listen.removeprefix('unix:')).absolute()}"
    return listen or None, loaded.path(token_file) if token_file else None


def _secret(file: Path | None, variable: str, what: str) -> str | None:
    """A token from its file, or from the environment. Never shown, not even in part."""
    if file is None:
        return os.environ.get(variable)
    token = read_text(file, what).strip()
    if not token:
        raise CommandFailed(Exit.LOCAL, f"the {what} {file} is empty", "write the token into its first line")
    return token


def _parsed(addresses: tuple[str, ...], tls: Tls | None, token: str | None) -> list[Endpoint]:
    try:
        # A unix socket needs no TLS, whatever else the command line names.
        return [Endpoint.parse(item, None if item.startswith("unix:") else tls, token) for item in addresses]
    except ValueError as fault:
        raise CommandFailed(
            Exit.USAGE, str(fault), "an endpoint is host:port, https://host:port, or unix:/path"
        ) from fault


def _tls(files: TlsFiles) -> Tls | None:
    if not files.given:
        return None
    try:
        return Tls.load(files.ca, files.key, files.certificate, files.server_name)
    except OSError as fault:
        raise CommandFailed(
            Exit.LOCAL, f"cannot read {fault.filename}: {fault.strerror}", "check the --tls files"
        ) from (fault)
    except ValueError as fault:
        raise CommandFailed(Exit.USAGE, str(fault), "give --tls-cert and --tls-key together") from fault
