"""`trellis testnet generate`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from node import testnet as networks
from node.cli.exits import CommandFailed, Exit
from node.cli.output import emit_record, output_option
from trellis.parameters import Parameters


@click.group()
@output_option
def testnet() -> None:
    """Make the folders of a test network.

    \b
    Example:
      trellis testnet generate --out net
    """


@testnet.command()
@click.option("--validators", type=click.IntRange(1, 100), default=4, show_default=True, help="How many.")
@click.option(
    "--out",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="A folder that does not hold a network yet.",
)
@click.option("--name", default="testnet", show_default=True, help="The chain's name.")
@click.option("--port", type=click.IntRange(1, 65_000), default=26_600, show_default=True, help="First p2p port.")
@click.option("--heartbeat-ms", type=int, default=30_000, show_default=True, help="An empty block this often.")
@output_option
@click.pass_context
def generate(ctx: click.Context, validators: int, directory: Path, name: str, port: int, heartbeat_ms: int) -> None:
    """Make a genesis, and one folder a validator with keys and configuration.

    The keys are protected by a known password: they are for testing.

    \b
    Examples:
      trellis testnet generate --out net
      trellis testnet generate --out net --validators 7 --heartbeat-ms 500
    """
    ports = [port + place for place in range(validators)]
    parameters = Parameters(heartbeat_ms=heartbeat_ms)
    now_ms = time.time_ns() // 1_000_000
    try:
        genesis = networks.generate(directory, name=name, ports=ports, time_ms=now_ms, parameters=parameters)
    except FileExistsError as fault:
        raise CommandFailed(Exit.LOCAL, str(fault)) from fault
    record = {
        "genesis_hash": genesis.hash.hex(),
        "folder": str(directory),
        "nodes": validators,
        "start_each_with": f"trellis start --home {directory}/node0",
    }
    emit_record(ctx, record)
