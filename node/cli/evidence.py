"""`trellis evidence`: proofs of misbehaviour, listed as a node knows them, and explained from their own bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from node.cli.amounts import unit_for_showing
from node.cli.connection import client_of, read_trust
from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.keyring import read_bytes
from node.cli.methods import LIST_EVIDENCE
from node.cli.options import Connection, online
from node.cli.output import emit_record, emit_rows
from node.cli.paging import limit_option, read_pages, tell_more
from node.cli.parsing import parsed_address, parsed_hash
from node.cli.records import enum_names, enum_number, record_of
from trellis.address import format_address
from trellis.client import Trust
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.evidence import (
    MAX_EVIDENCE_BYTES,
    Evidence,
    EvidenceFault,
    decode_evidence,
    evidence_fault,
    evidence_id,
)
from trellis.explanation import explain as explain_in_full
from trellis.explanation import summary
from trellis.genesis import Genesis
from trellis.v1 import chain_pb2, consensus_service_pb2

_KINDS: Final = chain_pb2.EvidenceKind.DESCRIPTOR
_SEARCHED: Final = 100_000
"""Records looked through for one id."""


@click.group()
@output_option
def evidence() -> None:
    """List and explain proofs that a validator broke the rules. Anyone can check them from their bytes.

    \b
    Examples:
      trellis evidence list
      trellis evidence explain 9be0… --genesis genesis.json
    """


@evidence.command(name="list")
@click.option("--accused", help="Only against this validator.")
@click.option("--kind", type=click.Choice(enum_names(_KINDS)), help="Only of this kind.")
@click.option("--min-height", type=click.IntRange(0), default=0, help="Only offences from this height on.")
@click.option("--pending", is_flag=True, help="Also what the node holds and the chain has not accepted yet.")
@limit_option
@output_option
@online
@click.pass_context
def list_(
    ctx: click.Context,
    accused: str | None,
    kind: str | None,
    min_height: int,
    pending: bool,
    limit: int,
    connection: Connection,
) -> None:
    """List evidence, the newest first.

    \b
    Examples:
      trellis evidence list
      trellis --output json evidence list --kind equivocation --pending
    """
    request = consensus_service_pb2.ListEvidenceRequest(
        accused="" if accused is None else format_address(parsed_address(accused)),
        kind=enum_number(_KINDS, kind),
        min_height=min_height,
        include_pending=pending,
    )
    with client_of(connection) as client:
        found, _, more = read_pages(client, LIST_EVIDENCE, request, lambda page: page.evidence, limit)
        unit = unit_for_showing(client, read_trust(connection))
    rows = [record_of(item) for item in found]
    shown = [
        row | {"slashed": unit.show(row["slashed"] or "0"), "accepted": row["accepted_in"] is not None} for row in rows
    ]
    columns = ["height", "kind", "accused", "slashed", "accepted", "evidence_id"]
    emit_rows(ctx, "evidence", rows, columns, shown=shown)
    tell_more(more)


@evidence.command()
@click.argument("which", metavar="FILE|EVIDENCE_ID")
@output_option
@online
@click.pass_context
def explain(ctx: click.Context, which: str, connection: Connection) -> None:
    """Explain one piece of evidence: who signed what, and why both cannot be honest.

    A file is explained without any node; an id is looked up at the node first. With --genesis the very bytes that were
    signed are shown, with the steps by which anyone can check them, and the signatures are checked here, against the
    keys that genesis gives the validators.

    \b
    Examples:
      trellis evidence explain evidence.bin --genesis genesis.json
      trellis evidence explain 9be0…

    Exit codes: 0 explained, 1 it proves nothing, 3 the node knows no such evidence.
    """
    told: dict[str, Any] = {}
    if Path(which).exists():
        data = read_bytes(Path(which), "evidence", 2 * MAX_EVIDENCE_BYTES)
        data = _unhexed(data)
    else:
        told = _looked_up(which, connection)
        data = bytes.fromhex(told["evidence"])
    try:
        found = decode_evidence(data)
    except DecodeError as fault:
        raise CommandFailed(
            Exit.NO, f"{which} is no evidence: {fault.detail}", "copy it again, whole and without changes"
        ) from fault
    trust = read_trust(connection)
    genesis_hash = None if trust is None else trust.hash if isinstance(trust, Genesis) else trust.genesis_hash
    checked, disproof = _checked(found, trust)
    record = {
        "evidence_id": evidence_id(found).hex(),
        "offence": found.kind.name.lower().replace("_", "-"),
        "accused": format_address(found.offender),
        "height": found.height,
        "explanation": summary(found),
        "proof": None if genesis_hash is None else str(explain_in_full(found, genesis_hash)),
        "signatures": checked,
        "evidence": data.hex(),
    }
    if told:
        record["node"] = {name: value for name, value in told.items() if name != "evidence"}
    emit_record(ctx, record, shown={name: value for name, value in record.items() if name not in {"evidence", "node"}})
    if disproof is not None:
        ctx.exit(Exit.NO)


def _unhexed(data: bytes) -> bytes:
    """A file may hold the bytes, or their hexadecimal digits as answers in JSON have them."""
    try:
        return bytes.fromhex(data.decode("ascii"))
    except (UnicodeDecodeError, ValueError):
        return data


def _looked_up(which: str, connection: Connection) -> dict[str, Any]:
    wanted = parsed_hash(which, "file, and no id of evidence", "see: trellis evidence list")
    request = consensus_service_pb2.ListEvidenceRequest(include_pending=True)
    with client_of(connection) as client:
        found, _, _ = read_pages(client, LIST_EVIDENCE, request, lambda page: page.evidence, _SEARCHED)
    for item in found:
        if item.evidence_id == wanted.hex():
            return record_of(item)
    raise CommandFailed(
        Exit.NOT_FOUND, f"the node knows no evidence {wanted.hex()}", "see: trellis evidence list --pending"
    )


def _checked(found: Evidence, trust: Trust | None) -> tuple[str, EvidenceFault | None]:
    if not isinstance(trust, Genesis):
        return "not checked: name the network's genesis.json with --genesis", None
    fault = evidence_fault(found, trust.hash, trust.validators, verify_all)
    if fault is None:
        return "verify: the accused signed this", None
    if fault is EvidenceFault.UNKNOWN_VALIDATOR:
        return "not checked: the accused became a validator after genesis", None
    return f"prove nothing: {fault.replace('_', ' ')}", fault
