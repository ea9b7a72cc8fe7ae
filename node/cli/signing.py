"""How commands make a transaction: price it, show it, and only then ask for the password that signs it.

So on a terminal the password is the consent to exactly what was shown; elsewhere a password file gives it beforehand.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click

from node.cli.amounts import Unit, base_units_option, unit_for_paying
from node.cli.connection import client_of, read_trust
from node.cli.exits import CommandFailed, Exit
from node.cli.keyring import directory_option, key_path, password_option, read_key, require_password_source, unlock
from node.cli.options import Connection, online
from node.cli.output import emit_record, is_interactive
from node.cli.parsing import parsed_address
from trellis.address import address_of, format_address
from trellis.client import Client, LocalSigner, Submitted, Terms, Trust, UnsignedTransaction
from trellis.client.building import DEFAULT_VALID_BLOCKS
from trellis.crypto.keystore import Keystore
from trellis.crypto.policy import Role
from trellis.outcome import Outcome
from trellis.receipt import Finality
from trellis.transaction import Kind, Transaction
from trellis.types import Address

_FILE: Final = click.Path(dir_okay=False, path_type=Path)

_OPTIONS: Final = (
    click.option("--from", "sender", required=True, metavar="KEY", help="The name of the account's key."),
    click.option("--account", help="The account's address, where its key was rotated. [default: the key's own]"),
    directory_option,
    password_option,
    click.option("--fee", help="Exactly this fee. [default: what the node suggests, within --max-fee]"),
    click.option("--max-fee", help="At most this fee. [default: ten times the chain's minimum]"),
    click.option("--nonce", type=click.IntRange(0), help="[default: the next one, as the node tells it]"),
    click.option(
        "--valid-for",
        "valid_for_blocks",
        type=click.IntRange(1),
        default=DEFAULT_VALID_BLOCKS,
        show_default=True,
        help="Blocks in which it may still be included.",
    ),
    base_units_option,
    click.option("--dry-run", is_flag=True, help="Show what would be signed, and stop."),
    click.option("--wait/--no-wait", default=True, show_default=True, help="Wait until it is final, and prove it."),
    click.option(
        "--for", "wait_s", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds to wait for it."
    ),
    click.option("--receipt", "receipt_file", type=_FILE, help="Save the finality receipt here."),
)


@dataclass(frozen=True, slots=True)
class KeyAccount:
    """Whose transaction it is, known without the password."""

    alg_id: int
    public_key: bytes
    address: Address


@dataclass(frozen=True, slots=True)
class Paying:
    """What all sending commands share: who signs, what it may cost, and what happens after."""

    connection: Connection
    trust: Trust | None
    unit: Unit
    store: Keystore
    path: Path
    account: KeyAccount
    password_file: Path | None
    terms: Terms
    dry_run: bool
    wait: bool
    wait_s: float
    receipt_file: Path | None

    def units(self, text: str, what: str = "amount") -> int:
        return self.unit.parse(text, what)

    def signer(self) -> LocalSigner:
        """Asks for the password, or reads it."""
        return LocalSigner(unlock(self.store, self.path, self.password_file), self.account.address)

    def summary(self, unsigned: UnsignedTransaction, details: dict[str, Any]) -> dict[str, Any]:
        body = unsigned.body
        return {
            "txid": unsigned.txid.hex(),
            "kind": body.kind_name,
            "sender": format_address(body.sender),
            **details,
            "fee": str(body.fee),
            "nonce": body.nonce,
            "valid_until_height": body.valid_until_height,
        }


def paying(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options of sending, and hands it a `Paying` as `paying`."""

    @functools.wraps(command)
    def run(
        *arguments: Any,
        connection: Connection,
        sender: str,
        account: str | None,
        directory: Path,
        password_file: Path | None,
        fee: str | None,
        max_fee: str | None,
        nonce: int | None,
        valid_for_blocks: int,
        base_units: bool,
        dry_run: bool,
        wait: bool,
        wait_s: float,
        receipt_file: Path | None,
        **others: Any,
    ) -> None:
        if receipt_file is not None and (dry_run or not wait):
            raise CommandFailed(
                Exit.USAGE, "a receipt exists only once it is final", "leave out --no-wait and --dry-run"
            )
        path = key_path(directory, sender)
        store = read_key(path)
        if store.role is not Role.ACCOUNT:
            raise CommandFailed(
                Exit.LOCAL, f"{sender} is no account's key", "name a key of role account: trellis keys list"
            )
        if not dry_run:
            require_password_source(password_file)
        trust = _trust(connection)
        unit = unit_for_paying(trust, base_units)
        terms = Terms(
            fee=None if fee is None else unit.parse(fee, "--fee"),
            max_fee=None if max_fee is None else unit.parse(max_fee, "--max-fee"),
            nonce=nonce,
            valid_for_blocks=valid_for_blocks,
        )
        address = address_of(store.alg_id, store.public_key) if account is None else parsed_address(account)
        key_account = KeyAccount(store.alg_id, store.public_key, address)
        command(
            *arguments,
            paying=Paying(
                connection,
                trust,
                unit,
                store,
                path,
                key_account,
                password_file,
                terms,
                dry_run,
                wait,
                wait_s,
                receipt_file,
            ),
            **others,
        )

    wrapped: Callable[..., None] = online(run)
    for option in reversed(_OPTIONS):
        wrapped = option(wrapped)
    return wrapped


def _trust(connection: Connection) -> Trust:
    trust = read_trust(connection)
    if trust is None:
        raise CommandFailed(
            Exit.USAGE,
            "signing needs the network's genesis: a chain's id is never taken from a node",
            "give --genesis FILE, or set TRELLIS_GENESIS",
        )
    return trust


def carry_out(
    ctx: click.Context,
    paying: Paying,
    kind: Kind,
    details: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Builds, shows, signs, sends, waits and answers: one transaction, from a command's beginning to its end."""
    with client_of(paying.connection) as client:
        unsigned = client.build(kind, paying.account, paying.terms)
        summary = paying.summary(unsigned, details or {})
        if paying.dry_run:
            show_unsigned(ctx, paying, summary)
            return
        finish(ctx, client, paying, unsigned, summary, after or {})


def show_unsigned(ctx: click.Context, paying: Paying, summary: dict[str, Any]) -> None:
    """What `--dry-run` answers."""
    summary = summary | {"status": "not signed"}
    emit_record(ctx, summary, shown=_shown(paying, summary))


def finish(
    ctx: click.Context,
    client: Client,
    paying: Paying,
    unsigned: UnsignedTransaction,
    summary: dict[str, Any],
    after: dict[str, Any],
) -> None:
    submitted = sign_and_submit(client, paying, unsigned, summary)
    if not paying.wait:
        summary |= {"status": str(submitted.status), "duplicate": submitted.duplicate}
        emit_record(ctx, summary | after, shown=_shown(paying, summary) | after)
        return
    finality = await_end(client, paying, submitted)
    summary |= proven(finality)
    if paying.receipt_file is not None:
        save_receipt(client, submitted.txid.hex(), paying.receipt_file)
        summary["receipt"] = str(paying.receipt_file)
    emit_record(ctx, summary | after, shown=_shown(paying, summary) | after)
    require_success(finality)


def sign_and_submit(
    client: Client, paying: Paying, unsigned: UnsignedTransaction, summary: dict[str, Any]
) -> Submitted:
    return client.submit(sign(client, paying, unsigned, summary))


def sign(client: Client, paying: Paying, unsigned: UnsignedTransaction, summary: dict[str, Any]) -> Transaction:
    if is_interactive() and paying.password_file is None:
        for name, value in _shown(paying, summary).items():
            click.echo(f"{name.replace('_', ' '):>20}  {value}", err=True)
    return client.sign(unsigned, paying.signer())


def await_end(client: Client, paying: Paying, submitted: Submitted) -> Finality:
    if is_interactive():
        click.echo(f"sent {submitted.txid.hex()}; waiting until it is final", err=True)
    return client.wait(submitted.txid, paying.wait_s)


def proven(finality: Finality) -> dict[str, Any]:
    return {
        "status": "final",
        "outcome": finality.outcome.name,
        "height": finality.height,
        "block_hash": finality.block_hash.hex(),
    }


def require_success(finality: Finality) -> None:
    """Final is not successful: a script must learn it from the exit code."""
    if finality.outcome is not Outcome.OK:
        raise CommandFailed(
            Exit.NO,
            f"transaction {finality.txid.hex()} is final, and failed with {finality.outcome.name}; its fee was kept",
            "proto/README.md explains every outcome; mend the cause, and send another transaction",
        )


def save_receipt(client: Client, txid: str, file: Path) -> None:
    receipt = client.receipt(txid)
    try:
        receipt.save(file)
    except OSError as fault:
        raise CommandFailed(
            Exit.LOCAL,
            f"cannot write {file}: {fault.strerror}",
            f"the transaction is final; fetch its receipt again: trellis tx receipt {txid} --to FILE",
        ) from fault


def _shown(paying: Paying, summary: dict[str, Any]) -> dict[str, Any]:
    """For people: amounts in the chain's unit, and no hashes that the transaction's id already stands for."""
    shown = {name: value for name, value in summary.items() if name != "block_hash"}
    for name in ("amount", "bounty", "total", "fee"):
        if name in shown:
            shown[name] = paying.unit.show(shown[name])
    if "payments" in shown:
        shown["payments"] = ", ".join(f"{paying.unit.show(p['amount'])} to {p['to']}" for p in summary["payments"])
    return shown
