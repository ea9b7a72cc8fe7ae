"""`trellis p2p listen`: the side that waits."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from typing import Any

import click
import trio

from node.cli.format import OutputFormat, current_format
from node.cli.p2p_session import Persona, as_persona, run_tool
from node.p2p_tool import Tool
from p2p.discovery.addresses import peer_address_text
from trellis.peerid import peer_id_text
from trellis.types import PeerId


@click.command()
@click.option(
    "--listen",
    "addresses",
    multiple=True,
    default=("/ip4/127.0.0.1/tcp/0",),
    show_default=True,
    help="Where; may be repeated. Port 0: any that is free. /ws at the end: over WebSocket.",
)
@click.option(
    "--chain",
    type=click.IntRange(0, 100_000),
    default=0,
    show_default=True,
    help="Serve a made-up chain of so many blocks. 0: none.",
)
@click.option(
    "--transactions",
    type=click.IntRange(0, 4_000),
    default=4,
    show_default=True,
    help="Of a made-up block; each has about 3.5 KB.",
)
@click.option("--once", is_flag=True, help="End when the first peer has left.")
@as_persona
@click.pass_context
def listen(
    ctx: click.Context, addresses: tuple[str, ...], chain: int, transactions: int, once: bool, persona: Persona
) -> None:
    """Listen for peers, and print the addresses to give to `connect`, `ping` and `publish`.

    Runs until Ctrl-C or SIGTERM. Each address ends with /p2p/ and the peer id: whoever dials it talks to this key or to
    nobody. Connections, and what was received when they end, are printed as they come; with --output json as one
    object a line, with an "event" of "listening", "connected", "disconnected" or "stopped".

    \b
    Examples:
      trellis p2p listen
      trellis p2p listen --listen /ip4/0.0.0.0/tcp/4001 --chain 1000
      trellis p2p listen --genesis genesis.json --key node0 --password-file password

    \b
    Exit codes:
      0    stopped, by a signal or by --once
      2    no such form of an address
      7    an address that cannot be listened on, or a file or key fails
    """
    tool = persona.tool(addresses)
    if chain:
        tool.serve_chain(chain, transactions)
    say = _event_writer(ctx)
    over = trio.Event()
    tool.host.on_connect(lambda peer: say("connected", peer=peer_id_text(peer)))
    tool.host.on_disconnect(lambda peer: _left(tool, say, peer, over if once else None))

    async def work() -> None:
        pasted = [peer_address_text(tool.host.peer, each) for each in tool.host.addresses]
        say("listening", addresses=pasted, chain=chain)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_signalled, over)
            await over.wait()
            nursery.cancel_scope.cancel()

    run_tool(tool, work)
    say("stopped", received=tool.received.total())


def _left(tool: Tool, say: Callable[..., None], peer: PeerId, over: trio.Event | None) -> None:
    say("disconnected", peer=peer_id_text(peer), received=tool.received.total())
    if over is not None:
        over.set()


async def _signalled(over: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            over.set()


def _event_writer(ctx: click.Context) -> Callable[..., None]:
    """One event a line, at once: somebody waits for it, or a script does."""

    def say(event: str, **fields: Any) -> None:
        if current_format(ctx) is OutputFormat.JSON:
            click.echo(json.dumps({"event": event} | fields))
            return
        if event == "listening":
            click.echo("listening; give one of these to `trellis p2p connect`, `ping` or `publish`:")
            for address in fields["addresses"]:
                click.echo(f"  {address}")
            return
        told = "   ".join(f"{name} {value}" for name, value in fields.items() if value)
        click.echo(f"{event}   {told}".rstrip())

    return say
