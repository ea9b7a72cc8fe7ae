"""`trellis tx wait`, `show`, `receipt`: what became of a transaction."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from node.cli.amounts import unit_for_showing
from node.cli.connection import client_of, read_trust
from node.cli.format import output_option
from node.cli.options import Connection, online
from node.cli.output import emit_record
from node.cli.parsing import parsed_hash
from node.cli.records import record_of
from node.cli.signing import proven, require_success, save_receipt
from trellis.address import format_address
from trellis.client.methods import GET_TRANSACTION
from trellis.receipt import Finality
from trellis.types import Hash
from trellis.v1 import transaction_service_pb2

_FILE: Final = click.Path(dir_okay=False, path_type=Path)


def parsed_txid(text: str) -> Hash:
    return parsed_hash(text, "transaction id", "copy it again: trellis tx send prints it")


def _facts(finality: Finality) -> dict[str, Any]:
    body = finality.body
    facts = {"txid": finality.txid.hex(), "kind": body.kind_name, "sender": format_address(body.sender)}
    return facts | {"fee": str(finality.fee)} | proven(finality) | {"timestamp_ms": finality.timestamp_ms}


@click.command()
@click.argument("txid")
@click.option("--for", "wait_s", type=click.FloatRange(0.1), default=60.0, show_default=True, help="Seconds to wait.")
@click.option("--receipt", "receipt_file", type=_FILE, help="Save the finality receipt here.")
@output_option
@online
@click.pass_context
def wait(ctx: click.Context, txid: str, wait_s: float, receipt_file: Path | None, connection: Connection) -> None:
    """Wait until the transaction TXID is final. Its finality is proven here, from --genesis, not believed.

    \b
    Examples:
      trellis tx wait 5f2a… --genesis genesis.json
      trellis tx wait 5f2a… --for 600 --receipt payment.receipt

    Exit codes: 0 final and executed, 1 final and failed, or never included, 6 not final in time.
    """
    wanted = parsed_txid(txid)
    with client_of(connection) as client:
        finality = client.wait(wanted, wait_s)
        record = _facts(finality)
        if receipt_file is not None:
            save_receipt(client, wanted.hex(), receipt_file)
            record["receipt"] = str(receipt_file)
    emit_record(ctx, record)
    require_success(finality)


@click.command()
@click.argument("txid")
@click.option("--bytes", "include", is_flag=True, help="With the transaction's own bytes.")
@output_option
@online
@click.pass_context
def show(ctx: click.Context, txid: str, include: bool, connection: Connection) -> None:
    """What a node knows of the transaction TXID: in its mempool, or in the blocks that it keeps.

    It is the node's word: trellis tx wait and trellis tx receipt prove it.

    \b
    Examples:
      trellis tx show 5f2a…
      trellis --output json tx show 5f2a… --bytes
    """
    wanted = parsed_txid(txid)
    with client_of(connection) as client:
        request = transaction_service_pb2.GetTransactionRequest(txid=wanted.hex(), include_transaction=include)
        record = record_of(client.call(GET_TRANSACTION, request).transaction)
        unit = unit_for_showing(client, read_trust(connection))
    shown = {name: value for name, value in record.items() if name not in {"block", "index", "transaction"}}
    shown["fee"] = unit.show(record["fee"])
    shown["outcome"] = record["outcome"] and record["outcome"]["name"]
    if record["block"] is not None:
        shown["block"] = f"{record['block']['height']}, place {record['index']}, {record['block']['block_hash']}"
    emit_record(ctx, record, shown=shown)


@click.command()
@click.argument("txid")
@click.option("--to", "file", type=_FILE, required=True, help="The receipt's file.")
@output_option
@online
@click.pass_context
def receipt(ctx: click.Context, txid: str, file: Path, connection: Connection) -> None:
    """Fetch the finality receipt of TXID, check it against --genesis, and save it.

    The file proves to anybody, for ever and without a network, that the transaction is final and what became of it:
    trellis tx verify, or python -m trellis verify, which needs no node's software.

    \b
    Examples:
      trellis tx receipt 5f2a… --to payment.receipt --genesis genesis.json
      trellis tx receipt 5f2a… --to payment.receipt --genesis checkpoint.json
    """
    wanted = parsed_txid(txid)
    with client_of(connection) as client:
        found = client.receipt(wanted)
        save_receipt(client, wanted.hex(), file)
    emit_record(ctx, _facts(found.finality) | {"receipt": str(file), "receipt_bytes": len(found.encode())})
