"""`trellis validators`: who votes, with how much, and who waits, fails or sits in jail."""

from __future__ import annotations

from typing import Any

import click

from node.cli.amounts import unit_for_showing
from node.cli.connection import client_of, read_trust
from node.cli.format import output_option
from node.cli.methods import LIST_VALIDATORS
from node.cli.options import Connection, online
from node.cli.output import emit_rows
from node.cli.paging import limit_option, read_pages, tell_more
from node.cli.records import record_of
from trellis.v1 import consensus_service_pb2


@click.command()
@click.option("--all", "everyone", is_flag=True, help="Those too that are bonded but do not vote.")
@limit_option
@output_option
@online
@click.pass_context
def validators(ctx: click.Context, everyone: bool, limit: int, connection: Connection) -> None:
    """List the validators of the next height.

    \b
    Examples:
      trellis validators
      trellis --output json validators --all
    """
    request = consensus_service_pb2.ListValidatorsRequest(include_inactive=everyone)
    with client_of(connection) as client:
        found, answer, more = read_pages(client, LIST_VALIDATORS, request, lambda page: page.validators, limit)
        unit = unit_for_showing(client, read_trust(connection))
    rows = [record_of(item) for item in found]
    beside = {name: value for name, value in record_of(answer).items() if name not in {"validators", "page"}}
    shown = [row | {"standing": _standing(row), "stake": unit.show(row["bonded"])} for row in rows]
    columns = ["index", "address", "power", "stake", "standing", "strikes", "peer_id"]
    emit_rows(ctx, "validators", rows, columns, beside, shown=shown)
    tell_more(more)


def _standing(row: dict[str, Any]) -> str:
    if row["jailed"]:
        return f"jailed to {row['jailed_until_height']}"
    if not row["active"]:
        return "waits"
    return f"demoted to {row['demoted_until_height']}" if row["demoted_until_height"] else "votes"
