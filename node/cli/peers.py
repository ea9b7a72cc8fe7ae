"""`trellis peers`: whom a node is connected to, and whom it shall or shall not be connected to."""

from __future__ import annotations

from typing import Any, Final

import click

from node.cli.connection import admin_of, client_of
from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.methods import ADD_PEER, BAN_PEER, LIST_BANS, LIST_PEERS, UNBAN_PEER
from node.cli.moments import Duration, moment
from node.cli.options import AdminConnection, Connection, administered, online
from node.cli.output import emit_record, emit_rows
from node.cli.paging import limit_option, read_pages, tell_more
from node.cli.records import record_of
from trellis.encoding import DecodeError
from trellis.peerid import parse_peer_id
from trellis.v1 import admin_service_pb2, node_service_pb2

_MAX_BAN_MS: Final = 31_536_000_000
_MAX_REASON: Final = 256


def _checked_peer(text: str) -> str:
    try:
        parse_peer_id(text)
    except DecodeError as fault:
        raise CommandFailed(
            Exit.USAGE, f"{text[:100]!r} is no peer id: {fault.detail}", "copy it from: trellis peers list"
        ) from fault
    return text


@click.group()
@output_option
def peers() -> None:
    """List a node's peers, and keep or ban them.

    Changing them goes through the node's admin listener: name its folder on the same machine with --home, or its
    address with --admin-endpoint.

    \b
    Examples:
      trellis peers list
      trellis peers ban 12D3… --for 12h --reason "floods us" --home /var/lib/trellis
    """


@peers.command(name="list")
@click.option("--all", "everyone", is_flag=True, help="Those too that are known, but not connected.")
@limit_option
@output_option
@online
@click.pass_context
def list_(ctx: click.Context, everyone: bool, limit: int, connection: Connection) -> None:
    """List the peers of a node.

    \b
    Examples:
      trellis peers list
      trellis --output json peers list --all --endpoint node.example:26610
    """
    request = node_service_pb2.ListPeersRequest(include_disconnected=everyone)
    with client_of(connection) as client:
        found, _, more = read_pages(client, LIST_PEERS, request, lambda page: page.peers, limit)
    rows = [record_of(item) for item in found]
    shown: list[dict[str, Any]] = [
        row
        | {
            "score": f"{row['score_permille'] / 1_000:.3f}",
            "rtt": f"{row['rtt_us'] / 1_000:.1f} ms" if row["rtt_us"] else None,
            "validator": row["validator"] or None,
        }
        for row in rows
    ]
    columns = ["peer_id", "connected", "direction", "address", "height", "rtt", "score", "validator"]
    emit_rows(ctx, "peers", rows, columns, shown=shown)
    tell_more(more)


@peers.command()
@limit_option
@output_option
@administered
@click.pass_context
def bans(ctx: click.Context, limit: int, connection: AdminConnection) -> None:
    """List the bans in force: the operator's, and the node's own.

    \b
    Example:
      trellis peers bans --home /var/lib/trellis
    """
    with admin_of(connection) as client:
        found, _, more = read_pages(
            client, LIST_BANS, admin_service_pb2.ListBansRequest(), lambda page: page.bans, limit
        )
    rows = [record_of(item) for item in found]
    shown = [row | {"until": _until(row), "by": "the node" if row["automatic"] else "the operator"} for row in rows]
    emit_rows(ctx, "bans", rows, ["peer_id", "by", "until", "reason"], shown=shown)
    tell_more(more)


@peers.command()
@click.argument("address", metavar="MULTIADDR")
@output_option
@administered
@click.pass_context
def add(ctx: click.Context, address: str, connection: AdminConnection) -> None:
    """Dial a peer, and keep it connected, over restarts too. MULTIADDR ends in its peer id.

    \b
    Example:
      trellis peers add /ip4/192.0.2.7/tcp/26600/p2p/12D3… --home /var/lib/trellis
    """
    head, _, peer = address.rpartition("/p2p/")
    if not head.startswith("/"):
        raise CommandFailed(
            Exit.USAGE,
            f"{address[:200]!r} does not say where and who",
            "write it like /ip4/192.0.2.7/tcp/26600/p2p/PEER_ID; trellis status shows a node's own",
        )
    _checked_peer(peer)
    with admin_of(connection) as client:
        answer = client.call(ADD_PEER, admin_service_pb2.AddPeerRequest(address=address))
    emit_record(ctx, {"added": answer.peer_id, "address": address})


@peers.command()
@click.argument("peer")
@click.option("--for", "duration_ms", type=Duration(), help="90s, 15m, 12h, 30d. [default: until it is lifted]")
@click.option("--reason", default="", help="Why, for the record.")
@output_option
@administered
@click.pass_context
def ban(ctx: click.Context, peer: str, duration_ms: int | None, reason: str, connection: AdminConnection) -> None:
    """Keep PEER away from gossip and sync. A validator's votes are still heard: bans cannot stop consensus.

    \b
    Examples:
      trellis peers ban 12D3… --home /var/lib/trellis
      trellis peers ban 12D3… --for 12h --reason "floods us" --admin-endpoint unix:/run/trellis/admin.sock
    """
    _checked_peer(peer)
    if duration_ms is not None and duration_ms > _MAX_BAN_MS:
        raise CommandFailed(
            Exit.USAGE, "a ban lasts a year at most", "leave out --for: it then lasts until it is lifted"
        )
    if len(reason) > _MAX_REASON:
        raise CommandFailed(Exit.USAGE, f"a reason has {_MAX_REASON} characters at most", "say it shorter")
    request = admin_service_pb2.BanPeerRequest(peer_id=peer, reason=reason, duration_ms=duration_ms or 0)
    with admin_of(connection) as client:
        record = record_of(client.call(BAN_PEER, request).ban)
    shown = {"banned": record["peer_id"], "until": _until(record), "reason": record["reason"] or None}
    emit_record(ctx, record, shown=shown)


@peers.command()
@click.argument("peer")
@output_option
@administered
@click.pass_context
def unban(ctx: click.Context, peer: str, connection: AdminConnection) -> None:
    """Lift the ban of PEER, whoever set it, and give it a fresh score.

    \b
    Example:
      trellis peers unban 12D3… --home /var/lib/trellis
    """
    _checked_peer(peer)
    with admin_of(connection) as client:
        record = record_of(client.call(UNBAN_PEER, admin_service_pb2.UnbanPeerRequest(peer_id=peer)).ban)
    emit_record(ctx, record, shown={"lifted": record["peer_id"], "was_banned_for": record["reason"] or None})


def _until(ban_record: dict[str, Any]) -> str:
    return moment(ban_record["expires_at_ms"]) if ban_record["expires_at_ms"] else "lifted"
