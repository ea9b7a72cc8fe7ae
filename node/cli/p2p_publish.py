"""`trellis p2p publish`: gossip, and what arrives of it."""

from __future__ import annotations

from typing import Final

import click
import trio

from node.cli.exits import CommandFailed, Exit
from node.cli.output import emit_record
from node.cli.p2p_session import Persona, as_persona, peer_address, run_tool
from node.p2p_tool import RUN_BYTES
from p2p.gossip.topics import Topic

MESH_S: Final = 10
QUIET_S: Final = 2
"""Without any more arriving, after which the rest counts as lost."""


@click.command()
@click.argument("address")
@click.option("--count", type=click.IntRange(1, 1_000_000), default=100, show_default=True, help="How many messages.")
@click.option(
    "--topic",
    type=click.Choice([str(each) for each in Topic]),
    default=str(Topic.TXS),
    show_default=True,
    help="Where.",
)
@click.option(
    "--size", type=click.IntRange(RUN_BYTES + 4, 64 << 10), default=1_024, show_default=True, help="Bytes of a message."
)
@click.option(
    "--rate",
    type=click.IntRange(1, 100_000),
    default=100,
    show_default=True,
    help="Messages a second. Peers drop, and count, what is above their limits.",
)
@as_persona
@click.pass_context
def publish(ctx: click.Context, address: str, count: int, topic: str, size: int, rate: int, persona: Persona) -> None:
    """Publish messages on a gossip topic through ADDRESS, and report how many arrived there.

    A development tool: the messages are random numbers, and only `trellis p2p listen` counts them and says how many it
    has. Gossip is lossy by design, so less than all is an answer (exit code 1), not a failure.

    \b
    Example:
      trellis p2p publish --count 1000 --size 4096 /ip4/127.0.0.1/tcp/36999/p2p/QmZ…

    \b
    Exit codes:
      0    all arrived
      1    some did not
      others as of trellis p2p connect
    """
    to = peer_address(address)
    tool = persona.tool()
    missing = [0]

    async def work() -> None:
        await tool.meet(to)
        chosen = Topic(topic)
        if not await tool.wait_for_mesh(chosen, MESH_S):
            raise CommandFailed(Exit.TIMEOUT, f"{address} does not listen to {topic}", "is it `trellis p2p listen`?")
        began = trio.current_time()
        run = await tool.publish(chosen, count, size, rate)
        arrived = await tool.delivered(to.peer, run, count, QUIET_S)
        took_s = trio.current_time() - began
        missing[0] = count - arrived
        record = {
            "topic": topic,
            "published": count,
            "delivered": arrived,
            "missing": missing[0],
            "bytes_each": size,
            "seconds": round(took_s, 2),
            "messages_per_s": round(arrived / took_s),
        }
        emit_record(ctx, record)

    run_tool(tool, work, address)
    if missing[0]:
        raise CommandFailed(Exit.NO, f"{missing[0]} of {count} messages did not arrive", "try a lower --rate")
