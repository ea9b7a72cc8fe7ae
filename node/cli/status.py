"""`trellis status`: whether a node is well."""

from __future__ import annotations

import click

from node.cli.connection import client_of
from node.cli.exits import Exit
from node.cli.format import output_option
from node.cli.methods import GET_STATUS
from node.cli.moments import moment
from node.cli.options import Connection, online
from node.cli.output import emit_record
from node.cli.records import record_of
from trellis.v1 import node_service_pb2


@click.command()
@click.option("--check", is_flag=True, help="Exit with 1 unless the node takes traffic: for scripts.")
@output_option
@online
@click.pass_context
def status(ctx: click.Context, check: bool, connection: Connection) -> None:
    """Show who a node is, whether it is well, and what is wrong if it is not.

    \b
    Examples:
      trellis status
      trellis status --endpoint node.example:26610
      trellis status --check || systemctl restart trellis

    Exit codes: 0 the node answered (with --check: and takes traffic), 1 it does not take traffic, 4 no answer.
    """
    with client_of(connection) as client:
        answer = client.call(GET_STATUS, node_service_pb2.GetStatusRequest())
    record = record_of(answer)
    shown = {
        "serving": record["serving"],
        "problems": record["problems"] or "none",
        "height": answer.at.height,
        "last_commit": moment(answer.last_commit_ms),
        "sync": record["sync_stage"],
        "role": record["role"],
        "moniker": record["moniker"],
        "chain": record["chain_name"],
        "genesis_hash": record["genesis_hash"],
        "peers": answer.peer_count,
        "connected_validators": answer.connected_validators,
        "mempool_transactions": answer.mempool_transactions,
        "validator": record["validator"] or None,
        "peer_id": record["peer_id"],
        "listens_at": record["listen_addresses"],
        "draining": record["draining"],
        "started": moment(answer.started_at_ms),
        "software": record["software_version"],
    }
    emit_record(ctx, record, shown=shown)
    if check and not answer.serving:
        ctx.exit(Exit.NO)
