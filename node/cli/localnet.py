"""`trellis localnet`: a network of real processes on this machine, in one folder."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import click
from rich.console import Console
from rich.live import Live

from node.cli.exits import CommandFailed, Exit
from node.cli.localnet_faults import faults
from node.cli.localnet_folder import home_option, reporting
from node.cli.output import OutputFormat, current_format, emit_record, output_option
from node.localnet import screen
from node.localnet.layout import Folder, LocalnetFault, Manifest
from node.localnet.making import make, taken_ports
from node.localnet.processes import PROXY, find, last_lines, names, start, stop
from node.localnet.samples import Watch, is_ready
from trellis.parameters import Parameters

UP_S: Final = 120.0
"""For all nodes to be ready: n interpreters load at once."""
REFRESH_S: Final = 1.0
LINE_S: Final = 5.0
"""Between lines where the output is no terminal."""


@click.group()
def localnet() -> None:
    """A network of real nodes on this machine: start, watch, fund, break, stop."""


@localnet.command()
@home_option
@click.option("--nodes", type=click.IntRange(1, 50), default=4, show_default=True, help="Validators.")
@click.option("--accounts", type=click.IntRange(0, 100_000), default=0, help="Funded accounts, for `trellis bench`.")
@click.option("--port", type=click.IntRange(1_024, 65_000), help="First port; without it the usual or any free ones.")
@click.option("--proxied", is_flag=True, help="A proxy between the nodes, so that links can be cut and slowed.")
@click.option("--heartbeat-ms", type=click.IntRange(100, 86_400_000), help="An idle network makes a block this often.")
@click.option("--detach", is_flag=True, help="Return when all nodes are ready, and leave them running.")
@output_option
@click.pass_context
@reporting
def up(
    ctx: click.Context,
    folder: Folder,
    nodes: int,
    accounts: int,
    port: int | None,
    proxied: bool,
    heartbeat_ms: int | None,
    detach: bool,
) -> None:
    """Start a network, and show it until Ctrl-C. A folder that holds one goes on with its chain."""
    with _terminable():
        manifest = _prepare(ctx, folder, nodes, accounts, port, proxied, heartbeat_ms)
        children = []
        try:
            folder.rules_path.unlink(missing_ok=True)  # faults of links end with the network that they were in
            for name in names(manifest):
                children.append(start(folder, name))
            _await_ready(folder, manifest)
            _announce(ctx, folder, manifest, detach=detach)
            if detach:
                return
            with contextlib.closing(Watch({entry.name: entry.metrics_address for entry in manifest.nodes})) as watch:
                _show(ctx, folder, manifest, watch, children)
        except BaseException:
            _say(ctx, "stopping …")
            killed = stop(folder, names(manifest))
            for child in children:
                child.wait()
            if killed:
                _say(ctx, f"these did not stop when asked, and were killed: {', '.join(killed)}")
            _say(ctx, f"stopped. The chain is kept in {folder.path}; remove it: trellis localnet down --purge")
            raise


def _prepare(
    ctx: click.Context,
    folder: Folder,
    nodes: int,
    accounts: int,
    port: int | None,
    proxied: bool,
    heartbeat_ms: int | None,
) -> Manifest:
    if not folder.exists:
        _say(ctx, f"making a network of {nodes} in {folder.path} …")
        parameters = Parameters() if heartbeat_ms is None else Parameters(heartbeat_ms=heartbeat_ms)
        return make(folder, nodes=nodes, accounts=accounts, proxied=proxied, port=port, parameters=parameters)
    manifest = folder.manifest()
    running = [name for name in names(manifest) if find(folder, name) is not None]
    if running:
        raise LocalnetFault(
            f"the network in {folder.path} is running already ({', '.join(running)})",
            "see it: trellis localnet status; stop it: trellis localnet down",
        )
    given = ctx.get_parameter_source
    asked = {
        "nodes": nodes != len(manifest.nodes),
        "accounts": accounts != manifest.accounts,
        "proxied": proxied != bool(manifest.links),
        "port": True,
        "heartbeat_ms": True,
    }
    for name, differs in asked.items():
        if differs and given(name) is click.core.ParameterSource.COMMANDLINE:
            raise LocalnetFault(
                f"{folder.path} holds a network already, and --{name.replace('_', '-')} is decided when one is made",
                "leave the option out to go on with that network, or start afresh: trellis localnet down --purge",
            )
    ports = [port for entry in manifest.nodes for port in (entry.p2p, entry.grpc, entry.metrics)]
    taken = taken_ports(ports + [link.port for link in manifest.links])
    if taken:
        raise LocalnetFault(
            f"port {taken[0]}, which this network uses, is taken by another process",
            "stop that process, or start afresh with other ports: trellis localnet down --purge",
        )
    _say(ctx, f"going on with the network in {folder.path}")
    return manifest


def _await_ready(folder: Folder, manifest: Manifest) -> None:
    end = time.monotonic() + UP_S
    while True:
        for name in names(manifest):
            if find(folder, name) is None:
                log = folder.proxy_log if name == PROXY else folder.log_path(name)
                said = "".join(f"\n    {text}" for text in last_lines(log))
                raise LocalnetFault(f"{name} ended while it started:{said}", f"read all of it: {log}")
        late = [entry.name for entry in manifest.nodes if not is_ready(entry.metrics_address)]
        if not late:
            return
        if time.monotonic() > end:
            raise LocalnetFault(f"{', '.join(late)} not ready within {UP_S:.0f} s", f"see the logs in {folder.path}")
        time.sleep(0.1)


def _announce(ctx: click.Context, folder: Folder, manifest: Manifest, *, detach: bool) -> None:
    if current_format(ctx) is OutputFormat.JSON:
        if detach:
            emit_record(ctx, _description(folder, manifest))
        return
    for text in screen.addresses(folder, manifest):
        click.echo(text)
    click.echo(f"\nrunning; stop it: trellis localnet down --home {folder.path}" if detach else "\nCtrl-C stops it.\n")


def _description(folder: Folder, manifest: Manifest) -> dict[str, Any]:
    return {
        "folder": str(folder.path),
        "genesis_hash": manifest.genesis_hash,
        "nodes": [
            {
                "name": entry.name,
                "grpc": entry.grpc_address,
                "metrics": f"http://{entry.metrics_address}/metrics",
                "log": str(folder.log_path(entry.name)),
            }
            for entry in manifest.nodes
        ],
    }


def _show(
    ctx: click.Context, folder: Folder, manifest: Manifest, watch: Watch, children: list[subprocess.Popen[bytes]]
) -> None:
    """Until a signal ends it."""

    def now() -> list[screen.Row]:
        watch.poll()
        for child in children:
            child.poll()  # one that was killed is no zombie
        return screen.rows(folder, manifest, watch)

    if sys.stdout.isatty() and current_format(ctx) is OutputFormat.TABLE:
        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                live.update(screen.whole(folder, manifest, now()), refresh=True)
                time.sleep(REFRESH_S)
    in_json = current_format(ctx) is OutputFormat.JSON
    while True:
        rows = now()
        click.echo(screen.as_json(rows) if in_json else f"{time.strftime('%H:%M:%S')} {screen.line(rows)}")
        time.sleep(LINE_S)


@contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM and a closed terminal end the command as Ctrl-C does, so that nothing is left running."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield  # signals belong to the main thread
        return
    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _say(ctx: click.Context, text: str) -> None:
    if current_format(ctx) is OutputFormat.TABLE:
        click.echo(text, err=True)


@localnet.command()
@home_option
@click.option("--purge", is_flag=True, help="Remove the folder too, with chain, keys and logs.")
@output_option
@click.pass_context
@reporting
def down(ctx: click.Context, folder: Folder, purge: bool) -> None:
    """Stop all processes of the network."""
    manifest = folder.manifest()
    running = [name for name in names(manifest) if find(folder, name) is not None]
    killed = stop(folder, names(manifest))
    if purge:
        shutil.rmtree(folder.path)
    emit_record(ctx, {"stopped": running, "killed": killed, "folder": "removed" if purge else str(folder.path)})


@localnet.command()
@home_option
@output_option
@click.pass_context
@reporting
def status(ctx: click.Context, folder: Folder) -> None:
    """Show each node once. Exit code 1 if one of them does not run or answer."""
    manifest = folder.manifest()
    with contextlib.closing(Watch({entry.name: entry.metrics_address for entry in manifest.nodes})) as watch:
        watch.poll()
        rows = screen.rows(folder, manifest, watch)
    if current_format(ctx) is OutputFormat.JSON:
        click.echo(screen.as_json(rows))
    else:
        Console().print(screen.table(rows))
        for sentence in screen.troubles(folder, manifest, rows):
            click.echo(sentence)
    if not all(row.answers for row in rows):
        raise CommandFailed(Exit.NO, "not all nodes run", "start what is missing: trellis localnet faults heal")


@localnet.command()
@home_option
@click.argument("address")
@click.argument("amount")
@output_option
@click.pass_context
@reporting
def fund(ctx: click.Context, folder: Folder, address: str, amount: str) -> None:
    """Pay AMOUNT (in the chain's unit, as "12.5") to ADDRESS from the faucet, and wait until it is final."""
    from node.localnet.faucet import pay  # noqa: PLC0415 - gRPC is for this command alone

    emit_record(ctx, pay(folder, folder.manifest(), address, amount))


@localnet.command("env")
@home_option
@reporting
def environment(folder: Folder) -> None:
    """Print what a shell needs to know of the network: eval "$(trellis localnet env)"."""
    nodes = folder.manifest().nodes
    variables = {
        "TRELLIS_LOCALNET": str(folder.path),
        "TRELLIS_GENESIS": str(folder.genesis_path),
        "TRELLIS_ENDPOINT": " ".join(entry.grpc_address for entry in nodes),
        **{entry.name.upper(): entry.grpc_address for entry in nodes},
    }
    for name, value in variables.items():
        click.echo(f"export {name}={shlex.quote(value)}")


localnet.add_command(faults)
