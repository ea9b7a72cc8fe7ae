"""`trellis export`: blocks or state as JSON lines, for whatever reads JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import IO, Any, Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import load_home_config
from node.cli.format import output_option
from node.cli.options import home_option
from node.cli.output import emit_record
from node.cli.progress import progress_bar
from node.cli.stopped import open_chain
from state.accounts import ACCOUNT_PREFIX
from state.store.chain import ChainStore
from state.store.reader import ChainReader
from state.store.store import Table
from trellis.address import format_address
from trellis.header import Header
from trellis.outcome import Outcome
from trellis.types import HASH_BYTES, Address, Height

_ROWS: Final = {
    b"a": "account",
    b"k": "key",
    b"v": "stake",
    b"u": "unbondings",
    b"x": "consensus key's holder",
    b"n": "network id's holder",
    b"o": "punishment",
    b"r": "rewards",
    b"i": "incidents",
    b"s": "statement",
    b"S": "statement's bytes",
    b"c": "commitment",
    b"d": "due",
    b"w": "validator set",
    b"m": "network",
}
"""What a row of the state is, by its first byte: state/README.md has their layouts."""


@click.command()
@click.argument("what", type=click.Choice(["blocks", "state"]))
@home_option
@click.option(
    "--out",
    "file",
    type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
    default="-",
    help="The file.  [default: standard output]",
)
@click.option("--from", "first", type=click.IntRange(1), default=1, show_default=True, help="Blocks: the first height.")
@click.option("--to", "last", type=click.IntRange(1), help="Blocks: the last height.  [default: the tip]")
@click.option("--bodies/--no-bodies", default=True, show_default=True, help="Blocks: with transactions' bytes.")
@click.option("--replace", is_flag=True, help="Overwrite an existing file.")
@output_option
@click.pass_context
def export(
    ctx: click.Context,
    what: str,
    home: Path,
    file: Path,
    first: int,
    last: int | None,
    bodies: bool,
    replace: bool,
) -> None:
    """Write a node's blocks, or its latest state, as JSON lines: one block, or one row of the state, a line.

    The node may be stopped or running: what is read is one moment of the store. A block's line has its header, its
    certificate, and its transactions with their outcomes; a row's line has key and value in hexadecimal, and for
    accounts the balance. The first line says what the file is.

    \b
    Examples:
      trellis export blocks --home /var/lib/trellis --out blocks.jsonl
      trellis export blocks --home net/node0 --from 100 --to 200 --no-bodies | jq .height
      trellis export state --home /var/lib/trellis --out state.jsonl
    """
    loaded = load_home_config(home)
    with open_chain(loaded) as chain, chain.read() as reader:
        if what == "state":
            lines, total = _state_lines(reader), reader.snapshot.count(Table.STATE)
        else:
            low, high = _range(reader, first, last)
            lines, total = _block_lines(reader, low, high, bodies), max(0, high - low + 1)
        with _opened(file, replace) as out:
            out.write(json.dumps(_about(chain, what)) + "\n")
            with progress_bar() as progress:
                for line in progress.track(lines, total=total, description=f"exporting {what}"):
                    out.write(json.dumps(line) + "\n")
        about = _about(chain, what)
    if str(file) != "-":
        emit_record(ctx, {"written": str(file), "lines": total, "height": about["height"]})


def _about(chain: ChainStore, what: str) -> dict[str, Any]:
    tip = chain.tip
    return {
        "trellis_export": what,
        "version": 1,
        "genesis_hash": chain.identity.genesis_hash.hex(),
        "height": tip.height,
        "block_hash": tip.block_hash.hex(),
        "state_root": tip.state_root.hex(),
    }


def _range(reader: ChainReader, first: int, last: int | None) -> tuple[int, int]:
    tip, lowest = reader.tip.height, reader.bounds.first_body
    high = tip if last is None else last
    if first < lowest or high > tip or (first > high and tip > 0):
        raise CommandFailed(
            Exit.NOT_FOUND,
            f"blocks {first} to {high} are not all here: the node keeps blocks {lowest} to {tip}",
            f"add --from {lowest}, or ask a node that keeps more",
        )
    return first, high


def _block_lines(reader: ChainReader, first: int, last: int, bodies: bool) -> Iterator[dict[str, Any]]:
    for height in range(first, last + 1):
        block, results = reader.block(Height(height)), reader.results(Height(height))
        if block is None:
            raise reader.corrupt(f"block {height} is missing")
        certificate = reader.certificate_bytes(Height(height))
        outcomes = [] if results is None else results.results
        transactions: list[dict[str, Any]] = []
        for place, transaction in enumerate(block.transactions):
            body = transaction.parsed
            item = {
                "txid": transaction.txid(block.header.genesis_hash).hex(),
                "sender": format_address(body.sender),
                "nonce": body.nonce,
                "kind": body.kind_name,
                "outcome": Outcome(outcomes[place].outcome).name if outcomes else None,
                "fee": str(outcomes[place].fee) if outcomes else None,
            }
            transactions.append(item | ({"raw": transaction.encode().hex()} if bodies else {}))
        yield header_record(block.header) | {
            "certificate": certificate.hex() if certificate else None,
            "transactions": transactions,
        }


def header_record(header: Header) -> dict[str, Any]:
    """Every field of a header, and its hash."""
    record: dict[str, Any] = {"block_hash": header.hash.hex()}
    for item in fields(header):
        value = getattr(header, item.name)
        record[item.name] = value.hex() if isinstance(value, bytes) else value
    record["proposer"] = format_address(header.proposer)
    return record


def _state_lines(reader: ChainReader) -> Iterator[dict[str, Any]]:
    for key, value in reader.snapshot.scan(Table.STATE):
        line: dict[str, Any] = {"row": _ROWS.get(key[:1], "unknown"), "key": key.hex(), "value": value.hex()}
        if key[:1] == ACCOUNT_PREFIX and len(key) == 1 + HASH_BYTES:
            line |= {
                "address": format_address(Address(key[1:])),
                "balance": str(int.from_bytes(value[:8], "big")),
                "nonce": int.from_bytes(value[8:16], "big"),
            }
        yield line


@contextmanager
def _opened(file: Path, replace: bool) -> Iterator[IO[str]]:
    if str(file) == "-":
        yield sys.stdout
        return
    try:
        with file.open("w" if replace else "x", encoding="utf-8") as out:
            yield out
    except FileExistsError as fault:
        raise CommandFailed(
            Exit.LOCAL, f"{file} exists already; it was left as it is", "choose another file, or add --replace"
        ) from fault
    except OSError as fault:
        raise CommandFailed(
            Exit.LOCAL, f"cannot write {file}: {fault.strerror}", "choose another place with --out"
        ) from fault
