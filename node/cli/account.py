"""`trellis account`: what an account has, proven if asked for, and what happened to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli.amounts import unit_for_showing
from node.cli.connection import client_of, read_trust
from node.cli.format import OutputFormat, current_format, output_option
from node.cli.keyring import KEY_NAME, directory_option, key_path, read_key
from node.cli.methods import LIST_ACCOUNT_TRANSACTIONS
from node.cli.options import Connection, online
from node.cli.output import emit_record, emit_rows
from node.cli.paging import read_pages, tell_more
from node.cli.parsing import parsed_address
from node.cli.records import record_of
from trellis.address import ADDRESS_PREFIX, address_of, format_address
from trellis.client.values import Account
from trellis.types import Address
from trellis.v1 import ledger_service_pb2


def _named(directory: Path, text: str) -> Address:
    """An address, or the name of a key here."""
    is_name = KEY_NAME.fullmatch(text) and not text.startswith(f"{ADDRESS_PREFIX}1")
    if not is_name:
        return parsed_address(text)
    store = read_key(key_path(directory, text))
    return address_of(store.alg_id, store.public_key)


def _record(found: Account) -> dict[str, Any]:
    return {
        "address": format_address(found.address),
        "balance": str(found.balance),
        "bonded": str(found.bonded),
        "unbondings": [{"amount": str(i.amount), "release_height": i.release_height} for i in found.unbondings],
        "nonce": found.nonce,
        "pending_nonce": found.pending_nonce,
        "alg_id": found.alg_id,
        "public_key": found.public_key.hex(),
        "height": found.at.height,
        "block_hash": found.at.hash.hex(),
        "proven": found.proven,
    }


@click.command()
@click.argument("address", metavar="ADDRESS|KEY")
@click.option("--verify", is_flag=True, help="Have it proven, from --genesis, instead of believing the node.")
@click.option("--history", type=click.IntRange(1, 100_000), help="Its last so many transactions too.")
@directory_option
@output_option
@online
@click.pass_context
def account(
    ctx: click.Context, address: str, verify: bool, history: int | None, directory: Path, connection: Connection
) -> None:
    """Show the account of an address, or of a key of yours by its name. Needs no password.

    An address that was never used has nothing; that is no error.

    \b
    Examples:
      trellis account trl1qq…
      trellis account alice --verify --genesis genesis.json
      trellis --output json account alice --history 20
    """
    wanted = _named(directory, address)
    with client_of(connection) as client:
        found = client.account(wanted, verify=verify)
        unit = unit_for_showing(client, read_trust(connection))
        rows, more = [], False
        if history is not None:
            request = ledger_service_pb2.ListAccountTransactionsRequest(address=format_address(wanted))
            items, _, more = read_pages(
                client, LIST_ACCOUNT_TRANSACTIONS, request, lambda answer: answer.transactions, history
            )
            rows = [record_of(item) for item in items]
    record = _record(found) | {"unit_exponent": unit.exponent}
    if history is not None:
        record["transactions"] = rows
    shown = {name: value for name, value in record.items() if name not in {"public_key", "block_hash", "unit_exponent"}}
    shown |= {name: unit.show(record[name]) for name in ("balance", "bonded")}
    shown["unbondings"] = [f"{unit.show(i['amount'])} at height {i['release_height']}" for i in record["unbondings"]]
    shown.pop("transactions", None)
    emit_record(ctx, record, shown=shown)
    if history is not None and current_format(ctx) is OutputFormat.TABLE:
        click.echo()
        lines = [
            {
                "txid": row["txid"],
                "kind": row["kind"],
                "height": row["block"] and row["block"]["height"],
                "outcome": row["outcome"] and row["outcome"]["name"],
                "fee": unit.show(row["fee"]),
            }
            for row in rows
        ]
        emit_rows(ctx, "transactions", lines, ["height", "kind", "outcome", "fee", "txid"])
        tell_more(more)
