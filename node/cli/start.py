"""`trellis start`: runs a node until it is told to stop."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click
import structlog
import trio

from node.cli.exits import CommandFailed, Exit
from node.config import ConfigInvalid
from node.home import Home, HomeFault, open_home
from node.journal import JournalFault
from node.logs import set_up_logs
from node.metrics import Metrics
from node.runtime import NodeStopped, Runtime, open_node
from state.store.errors import StoreError


@click.command()
@click.option(
    "--home",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="The node's folder, as `trellis testnet generate` made it.",
)
def start(directory: Path) -> None:
    """Run a node until SIGTERM or Ctrl-C."""
    try:
        home = open_home(directory, dict(os.environ))
        set_up_logs(home.config.log.level, home.config.log.format)
        _run_to_the_end(home)
    except (ConfigInvalid, HomeFault, JournalFault, StoreError) as fault:
        raise CommandFailed(Exit.LOCAL, str(fault)) from fault


def _run_to_the_end(home: Home) -> None:
    try:
        trio.run(_run, home)
    except* NodeStopped as stopped:
        reason = str(stopped.exceptions[0])
        structlog.get_logger().error("stopped", reason=reason)
        raise CommandFailed(Exit.INTERNAL, f"the node stopped itself: {reason}") from stopped


async def _run(home: Home) -> None:
    runtime = Runtime(home, open_node(home), Metrics())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        await runtime.run()


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            structlog.get_logger().info("stopping", signal=signal.Signals(number).name)
            scope.cancel()
            return
