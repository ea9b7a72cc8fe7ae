"""`trellis proof post` and `list`: statements and what became of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from node.cli.amounts import unit_for_showing
from node.cli.connection import client_of, read_trust
from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.keyring import read_bytes
from node.cli.methods import LIST_STATEMENTS
from node.cli.options import Connection, online
from node.cli.output import emit_rows
from node.cli.paging import limit_option, read_pages, tell_more
from node.cli.parsing import parsed_address
from node.cli.records import enum_names, enum_number, record_of
from node.cli.signing import Paying, carry_out, paying
from state.proofs import MAX_STATEMENT_BYTES, STATEMENTS, Code
from trellis.address import format_address
from trellis.transaction import PostStatement
from trellis.types import Height
from trellis.v1 import ledger_service_pb2

_STATUS: Final = ledger_service_pb2.StatementStatus.DESCRIPTOR
_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_DEFAULT_LIFE: Final = 10_000


@click.command()
@click.argument("verifier", type=click.Choice(sorted(STATEMENTS)))
@click.argument("statement", type=_FILE)
@click.option("--bounty", required=True, help="What a proof earns; held in escrow until then.")
@click.option(
    "--blocks",
    type=click.IntRange(1, 1_000_000),
    default=_DEFAULT_LIFE,
    show_default=True,
    help="How many blocks long it can be proven; then the bounty comes back.",
)
@output_option
@paying
@click.pass_context
def post(ctx: click.Context, verifier: str, statement: Path, bounty: str, blocks: int, paying: Paying) -> None:
    """Post the STATEMENT in a file, with a bounty for whoever proves it to VERIFIER.

    lrat.v1 takes a formula to be refuted, sat-model.v1 one to be satisfied, both in DIMACS CNF; z3-attest.v1 an SMT-LIB
    script, on which the validators' own solvers decide. The statement's form is checked here first.

    \b
    Examples:
      trellis proof post lrat.v1 problem.cnf --bounty 50 --from alice
      trellis proof post z3-attest.v1 claim.smt2 --bounty 5 --blocks 50 --from alice
    """
    content = read_bytes(statement, "statement", MAX_STATEMENT_BYTES)
    code = STATEMENTS[verifier].check_statement(content)
    if code is not Code.OK:
        raise CommandFailed(
            Exit.NO,
            f"{statement} is no statement of {verifier}: {code.name.lower().replace('_', ' ')}",
            "state/README.md tells the form; for CNF, state.proofs.cnf.canonical_cnf makes it",
        )
    units = paying.units(bounty, "--bounty")
    with client_of(paying.connection) as client:
        height = client.header().height
    kind = PostStatement(verifier, content, units, Height(height + blocks))
    details = {
        "statement_id": kind.statement_id.hex(),
        "verifier": verifier,
        "bounty": str(units),
        "expiry_height": kind.expiry_height,
    }
    carry_out(ctx, paying, kind, details)


@click.command(name="list")
@click.option("--status", type=click.Choice(enum_names(_STATUS)), help="Only those.")
@click.option("--verifier", help="Only of this verifier.")
@click.option("--poster", help="Only those that this address posted.")
@limit_option
@output_option
@online
@click.pass_context
def list_(
    ctx: click.Context, status: str | None, verifier: str | None, poster: str | None, limit: int, connection: Connection
) -> None:
    """List statements, the newest first.

    \b
    Examples:
      trellis proof list --status open
      trellis --output json proof list --verifier lrat.v1
    """
    request = ledger_service_pb2.ListStatementsRequest(
        status=enum_number(_STATUS, status),
        verifier=verifier or "",
        poster="" if poster is None else format_address(parsed_address(poster)),
    )
    with client_of(connection) as client:
        found, _, more = read_pages(client, LIST_STATEMENTS, request, lambda page: page.statements, limit)
        unit = unit_for_showing(client, read_trust(connection))
    rows: list[dict[str, Any]] = [record_of(item) for item in found]
    shown = [row | {"bounty": unit.show(row["bounty"] or "0")} for row in rows]
    columns = ["statement_id", "verifier", "status", "bounty", "expiry_height", "size_bytes"]
    emit_rows(ctx, "statements", rows, columns, shown=shown)
    tell_more(more)
