"""`trellis block`: one block, and what its transactions came to."""

from __future__ import annotations

from typing import Any

import click

from node.cli.connection import client_of
from node.cli.exits import CommandFailed, Exit
from node.cli.format import OutputFormat, current_format, output_option
from node.cli.methods import GET_BLOCK
from node.cli.moments import moment
from node.cli.options import Connection, online
from node.cli.output import emit_record, emit_rows
from node.cli.records import record_of
from trellis.types import HASH_BYTES, U64_MAX
from trellis.v1 import ledger_service_pb2


def _request(which: str) -> ledger_service_pb2.GetBlockRequest:
    if which == "latest":
        return ledger_service_pb2.GetBlockRequest()
    if which.isascii() and which.isdigit() and len(which) <= 20 and 0 < int(which) <= U64_MAX:
        return ledger_service_pb2.GetBlockRequest(height=int(which))
    try:
        raw = bytes.fromhex(which)
    except ValueError:
        raw = b""
    if len(raw) != HASH_BYTES:
        raise CommandFailed(
            Exit.USAGE,
            f"{which[:100]!r} names no block",
            "give a height from 1 on, a block's hash of 64 hexadecimal digits, or latest",
        )
    return ledger_service_pb2.GetBlockRequest(block_hash=raw.hex())


@click.command()
@click.argument("which", default="latest", metavar="[HEIGHT|HASH|latest]")
@click.option("--transactions/--no-transactions", default=True, show_default=True, help="List its transactions.")
@click.option("--verify", is_flag=True, help="Have it proven final, from --genesis, instead of believing the node.")
@output_option
@online
@click.pass_context
def block(ctx: click.Context, which: str, transactions: bool, verify: bool, connection: Connection) -> None:
    """Show a block: by height, by hash, or the latest.

    \b
    Examples:
      trellis block
      trellis block 1200 --verify --genesis genesis.json
      trellis --output json block latest --no-transactions
    """
    with client_of(connection) as client:
        answer = client.call(GET_BLOCK, _request(which)).block
        header = record_of(answer.header)
        if verify:
            proven = client.header(answer.header.height, verify=True)
            if proven.encode() != answer.header.raw:
                raise CommandFailed(
                    Exit.DISHONEST,
                    f"the node showed block {answer.header.block_hash[:64]}, and proved {proven.hash.hex()}",
                    "ask another node, and find out what is wrong with this one before you use it again",
                )
    record: dict[str, Any] = header | {
        "final": answer.final,
        "proven": verify,
        "size_bytes": answer.size_bytes,
        "transaction_count": len(answer.transactions),
    }
    rows = [record_of(item) for item in answer.transactions]
    names = ["height", "block_hash", "time", "proposer", "view", "parent_hash", "state_root", "final", "proven"]
    shown = record | {"time": moment(header["timestamp_ms"])}
    shown = {name: shown[name] for name in [*names, "transaction_count", "size_bytes"]}
    emit_record(ctx, record | ({"transactions": rows} if transactions else {}), shown=shown)
    if transactions and rows and current_format(ctx) is OutputFormat.TABLE:
        click.echo()
        lines = [row | {"outcome": row["outcome"] and row["outcome"]["name"]} for row in rows]
        emit_rows(ctx, "transactions", lines, ["index", "kind", "outcome", "fee", "sender", "txid"])
