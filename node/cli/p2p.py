"""`trellis p2p`: try the network out between two shells, before there is a node or beside one."""

from __future__ import annotations

from typing import Final

import click

from node.cli.format import output_option
from node.cli.lazy import Commands, LazyGroup

_COMMANDS: Final[Commands] = {
    "listen": ("node.cli.p2p_listen:listen", "Wait for peers, and print the address to give them."),
    "connect": ("node.cli.p2p_dial:connect", "Show what a handshake proves, and sync a made-up chain."),
    "ping": ("node.cli.p2p_dial:ping", "Measure round trips."),
    "publish": ("node.cli.p2p_publish:publish", "Publish on a gossip topic, and see what arrives."),
}


@click.group(cls=LazyGroup, lazy=_COMMANDS)
@output_option
def p2p() -> None:
    """Try the network out: listen, connect, ping, publish.

    Works before there is a node: two shells on one machine, or two machines, show the post-quantum handshake, what
    peers say of themselves, round trips, gossip, and a chain synced from one to the other.

    \b
    Examples:
      trellis p2p listen --chain 1000                                in one shell; it prints an ADDRESS
      trellis p2p connect ADDRESS                                    in the other
      trellis p2p ping ADDRESS
      trellis p2p publish --count 1000 ADDRESS
    """
