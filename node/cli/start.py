"""`trellis start`: runs a node until it is told to stop."""

from __future__ import annotations

import os
import signal
import traceback
from pathlib import Path

import click
import structlog
import trio

from node.assembly import run_node
from node.cli.exits import CommandFailed, Exit
from node.cli.format import OutputFormat, current_format, output_option
from node.config import ConfigInvalid
from node.home import Home, HomeFault, open_home
from node.http import ListenFault
from node.journal import JournalFault
from node.logs import LogFormat, set_up_logs
from node.rpc.listening import ListenFault as ServiceListenFault
from node.runtime import NodeStopped
from p2p.booklog import PeerBookFault
from state.store.errors import StoreError


@click.command()
@click.option(
    "--home",
    "directory",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="TRELLIS_HOME",
    show_envvar=True,
    required=True,
    help="The node's folder, as `trellis init` or `trellis testnet generate` made it.",
)
@output_option
@click.pass_context
def start(ctx: click.Context, directory: Path) -> None:
    """Run a node until SIGTERM or Ctrl-C. It logs to the error stream; with --output json in JSON, whatever log.format
    says.

    \b
    Examples:
      trellis start --home /var/lib/trellis
      TRELLIS_LOG_LEVEL=debug trellis --output json start --home net/node0

    Exit codes: 0 stopped as told, 7 a file, key or setting, 70 the node stopped itself: the last line says why.
    """
    try:
        home = open_home(directory, dict(os.environ))
        json_logs = current_format(ctx) is OutputFormat.JSON
        set_up_logs(home.config.log.level, LogFormat.JSON if json_logs else home.config.log.format)
        _run_to_the_end(home)
    except (ConfigInvalid, HomeFault, JournalFault, StoreError) as fault:
        raise CommandFailed(Exit.LOCAL, str(fault)) from fault


def _run_to_the_end(home: Home) -> None:
    """Whatever ends a task of the node ends the process, with one last line that says what it was."""
    try:
        trio.run(_run, home)
    except* (HomeFault, JournalFault, StoreError, PeerBookFault) as unusable:
        raise CommandFailed(Exit.LOCAL, str(_first(unusable))) from unusable
    except* NodeStopped as stopped:
        reason = str(_first(stopped))
        structlog.get_logger().error("stopped", reason=reason)
        raise CommandFailed(Exit.INTERNAL, f"the node stopped itself: {reason}") from stopped
    except* ServiceListenFault as taken:
        raise CommandFailed(Exit.LOCAL, str(_first(taken))) from taken
    except* ListenFault as taken:
        raise CommandFailed(Exit.LOCAL, str(_first(taken)), "choose another: metrics.listen") from taken
    except* Exception as crash:
        fault = _first(crash)
        where = traceback.extract_tb(fault.__traceback__)[-1]
        reason = f"{type(fault).__name__} in {where.name} ({Path(where.filename).name}, line {where.lineno}): {fault}"
        structlog.get_logger().error("stopped", reason=reason, trace="".join(traceback.format_exception(fault)))
        raise CommandFailed(
            Exit.INTERNAL, f"the node stopped itself, by a fault of ours: {reason}", "report it: trellis debug dump"
        ) from crash


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """What started it. Nurseries wrap it once for each of them, and what it brought down comes after it."""
    fault: BaseException = group
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return fault


async def _run(home: Home) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_stop_on_signal, nursery.cancel_scope)
        await run_node(home)


async def _stop_on_signal(scope: trio.CancelScope) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for number in signals:
            structlog.get_logger().info("stopping", signal=signal.Signals(number).name)
            scope.cancel()
            return
