"""`trellis p2p connect` and `ping`: what is to be seen of one peer."""

from __future__ import annotations

import statistics
from typing import Any

import click

from node.cli.output import OutputFormat, current_format, emit_record, emit_rows
from node.cli.p2p_session import Persona, as_persona, peer_address, run_tool
from node.p2p_tool import Met, Tool
from node.stubchain import sync
from p2p.requests import RequestError, RequestFault
from trellis.crypto.schemes import scheme
from trellis.peerid import peer_id_text
from trellis.types import PeerId


@click.command()
@click.argument("address")
@click.option("--sync/--no-sync", "wants_sync", default=True, show_default=True, help="Fetch the peer's made-up chain.")
@as_persona
@click.pass_context
def connect(ctx: click.Context, address: str, wants_sync: bool, persona: Persona) -> None:
    """Connect to ADDRESS, show what the handshake proved and what the peer says of itself, and sync its chain.

    ADDRESS ends with /p2p/ and a peer id, as `trellis p2p listen` prints it. The fingerprint is what people compare:
    it must be the one that the other side's operator reads out. If the peer serves a made-up chain (listen --chain),
    its headers are fetched and checked for their links, then its blocks against their headers.

    \b
    Fields: peer, algorithm and fingerprint of its key, suite, handshake_ms (the handshake alone), connect_ms (with TCP
    and the muxer), agent and protocols (what the peer says of itself: unproven), and of a chain headers, tip,
    headers_per_s, blocks, transactions, mb, blocks_per_s, mb_per_s.

    \b
    Example:
      trellis p2p connect /ip4/127.0.0.1/tcp/36999/p2p/QmZ…

    \b
    Exit codes:
      0    done
      1    the chain is not right
      2    no such form of an address
      4    nobody answers as that peer
      5    refused, by either side
      6    no whole handshake, or no answer, in time
      7    a file or key fails
    """
    to = peer_address(address)
    tool = persona.tool()

    async def work() -> None:
        met = await tool.meet(to)
        record = _described(met)
        if wants_sync:
            record["chain"] = await _synced(tool, to.peer)
        if current_format(ctx) is OutputFormat.TABLE:
            chain = record.pop("chain", None)
            emit_record(ctx, record | {"protocols": "\n".join(met.protocols)})
            if chain is not None:
                click.echo()
                emit_record(ctx, chain, title="chain")
            elif wants_sync:
                click.echo("\nthe peer serves no chain (listen --chain N makes one)")
        else:
            emit_record(ctx, record)

    run_tool(tool, work, address)


def _described(met: Met) -> dict[str, Any]:
    return {
        "peer": peer_id_text(met.proven.peer),
        "address": met.address,
        "algorithm": scheme(met.proven.algorithm).name,
        "fingerprint": met.proven.fingerprint.hex(),
        "certified_by_cold_key": met.proven.certified,
        "suite": met.proven.suite.name.lower().replace("_", "-"),
        "key_exchange": "ML-KEM-768 + X25519",
        "handshake_ms": round(met.handshake_ms, 2),
        "connect_ms": round(met.connect_ms, 2),
        "session_lifetime_s": met.proven.session_lifetime_s,
        "agent": met.agent,
        "protocols": list(met.protocols),
    }


async def _synced(tool: Tool, peer: PeerId) -> dict[str, Any] | None:
    """None if the peer serves no chain."""
    try:
        done = await sync(tool.requests, peer, tool.network.genesis_hash)
    except RequestError as fault:
        if fault.reason in (RequestFault.NOT_SERVED, RequestFault.NOT_TAKEN):
            return None
        raise
    return {
        "headers": done.headers,
        "tip": done.tip.hex(),
        "headers_per_s": round(done.headers / done.headers_s),
        "blocks": done.blocks,
        "transactions": done.transactions,
        "mb": round(done.size_bytes / 1e6, 2),
        "blocks_per_s": round(done.blocks / done.blocks_s),
        "mb_per_s": round(done.size_bytes / 1e6 / done.blocks_s, 1),
    }


@click.command()
@click.argument("address")
@click.option("--count", type=click.IntRange(1, 100_000), default=10, show_default=True, help="How many pings.")
@click.option("--interval-ms", type=click.IntRange(0, 60_000), default=100, show_default=True, help="Between two.")
@as_persona
@click.pass_context
def ping(ctx: click.Context, address: str, count: int, interval_ms: int, persona: Persona) -> None:
    """Measure round trips to ADDRESS: 32 bytes there and back on an open stream, the whole stack both ways.

    ADDRESS ends with /p2p/ and a peer id, as `trellis p2p listen` prints it. Any libp2p node that speaks /trellis/pq/1
    answers: the protocol is libp2p's own /ipfs/ping/1.0.0.

    \b
    Example:
      trellis p2p ping --count 100 --interval-ms 0 /ip4/127.0.0.1/tcp/36999/p2p/QmZ…

    Exit codes: as `trellis p2p connect`.
    """
    to = peer_address(address)
    tool = persona.tool()
    table = current_format(ctx) is OutputFormat.TABLE

    def seen(number: int, ms: float) -> None:
        if table:
            click.echo(f"{number:6}   {ms:8.3f} ms")

    async def work() -> None:
        await tool.meet(to)
        trips = sorted(await tool.ping(to.peer, count, interval_ms / 1_000, seen))
        summary = {
            "pings": len(trips),
            "min_ms": round(trips[0], 3),
            "median_ms": round(statistics.median(trips), 3),
            "p99_ms": round(trips[(len(trips) * 99 - 1) // 100], 3),
            "max_ms": round(trips[-1], 3),
        }
        if table:
            click.echo()
            emit_rows(ctx, "round_trips", [summary], list(summary))
        else:
            emit_record(ctx, summary | {"round_trips_ms": [round(each, 3) for each in trips]})

    run_tool(tool, work, address)
