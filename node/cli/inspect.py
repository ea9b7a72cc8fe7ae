"""`trellis inspect`: what a stopped node's folder holds, and whether it is sound."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import guard_directory, load_home_config, log_directory, store_directory
from node.cli.format import output_option
from node.cli.moments import moment
from node.cli.options import home_option
from node.cli.output import emit_record
from node.cli.stopped import genesis_of, open_chain, require_stopped
from node.config import Loaded
from node.journal import GuardFile, Journal, JournalFault
from state.chain import read_totals
from state.store.check import check_directory
from state.store.store import Table
from trellis.genesis import Genesis


@click.command()
@home_option
@click.option("--full", is_flag=True, help="Read every page and row, and check each against what it must be.")
@output_option
@click.pass_context
def inspect(ctx: click.Context, home: Path, full: bool) -> None:
    """Look into a stopped node's folder: chain, log, sign guard. Changes nothing.

    Without --full it opens the store as the node does, which checks its head, the tip, and the state's root.

    \b
    Examples:
      trellis inspect --home /var/lib/trellis
      trellis --output json inspect --home /var/lib/trellis --full

    Exit codes: 0 sound, 1 faults were found, 3 no store yet, 7 the node runs, or its folder cannot be opened.
    """
    loaded = load_home_config(home)
    require_stopped(loaded)
    genesis = genesis_of(loaded)
    faults = check_directory(store_directory(loaded)) if full and store_directory(loaded).exists() else []
    record: dict[str, Any] = {"home": str(home), "chain_name": genesis.chain_name, "genesis_hash": genesis.hash.hex()}
    if not faults:
        record |= _chain(loaded)
    record |= _votes(loaded, genesis) | {"checked": "every row" if full else "head and state root", "faults": faults}
    emit_record(ctx, record)
    if faults:
        ctx.exit(Exit.NO)


def _chain(loaded: Loaded) -> dict[str, Any]:
    with open_chain(loaded) as chain, chain.read() as reader:
        tip, bounds = chain.tip, chain.bounds
        header = reader.header(tip.height) if tip.height else None
        totals = read_totals(chain.state)
        return {
            "height": tip.height,
            "block_hash": tip.block_hash.hex(),
            "block_time": "-" if header is None else moment(header.timestamp_ms),
            "state_root": tip.state_root.hex(),
            "state_rows": tip.leaves,
            "state_bytes": tip.size_bytes,
            "store_bytes": chain.store.size_bytes(),
            "transactions": reader.snapshot.count(Table.TRANSACTIONS),
            "blocks_kept_from": bounds.first_body,
            "results_kept_from": bounds.first_result,
            "can_roll_back_to": max(0, bounds.first_undo - 1),
            "certified": bool(reader.certificate_bytes(tip.height)) if tip.height else False,
            "value_held": str(totals.held),
        }


def _votes(loaded: Loaded, genesis: Genesis) -> dict[str, Any]:
    """Log and guard, where they are: opening them here would make what is missing."""
    log, guard = log_directory(loaded), guard_directory(loaded)
    record: dict[str, Any] = {"log_height": None, "guard_height": None, "guard_view": None}
    try:
        if any(log.glob("log.*")):
            journal = Journal(log)
            record["log_height"] = max((item.height for item in journal.records()), default=0)
            journal.close()
        if any(guard.glob("guard*")):
            file = GuardFile(guard, genesis.hash)
            record["guard_height"], record["guard_view"] = file.guard.height, file.guard.view
            file.close()
    except JournalFault as fault:
        raise CommandFailed(
            Exit.LOCAL, str(fault), "a node without its log observes three heights before it votes again"
        ) from fault
    record["votes_at_once"] = (record["log_height"] or 0) >= (record["guard_height"] or 0)
    return record
