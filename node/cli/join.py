"""`trellis join`: a node's folder for a network that runs already, from its genesis and one address."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.format import output_option
from node.cli.init import init
from p2p.discovery.addresses import parse_peer_address
from trellis.encoding import DecodeError

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command()
@click.option("--genesis", "genesis_file", type=_FILE, required=True, help="The network's genesis.json; it is copied.")
@click.option("--peer", "peers", multiple=True, required=True, help="A node of it: a multiaddr that ends in /p2p/ID.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="TRELLIS_HOME",
    show_envvar=True,
    required=True,
    help="The folder to make.",
)
@click.option("--moniker", default="", help="A name for logs; nothing depends on it.")
@click.option("--listen", "listens", multiple=True, help="Where to hear peers.  [default: /ip4/0.0.0.0/tcp/26600]")
@click.option(
    "--password-file",
    type=_FILE,
    envvar="TRELLIS_KEY_PASSWORD_FILE",
    show_envvar=True,
    help="The new keys' password.  [default: one is drawn, and kept in the folder]",
)
@output_option
@click.pass_context
def join(
    ctx: click.Context,
    genesis_file: Path,
    peers: tuple[str, ...],
    home: Path,
    moniker: str,
    listens: tuple[str, ...],
    password_file: Path | None,
) -> None:
    """Make a folder for a node that follows a running network; start it with trellis start.

    The node fetches the chain from its peers, verifies it from genesis, serves clients, and hands their transactions
    on. It has no vote until its account has bonded stake: trellis tx stake bond. Compare the genesis hash with what the
    network's operators published. In a closed network one of them must list the peer id that is shown in p2p.allow.

    \b
    Examples:
      trellis join --genesis genesis.json --peer /ip4/192.0.2.7/tcp/26600/p2p/… --home /var/lib/trellis
      trellis start --home /var/lib/trellis
    """
    for text in peers:
        try:
            parse_peer_address(text)
        except DecodeError as fault:
            raise CommandFailed(
                Exit.USAGE, f"--peer {text}: {fault.detail}", "ask the network's operators for a node's address"
            ) from fault
    ctx.invoke(
        init,
        home=home,
        genesis_file=genesis_file,
        moniker=moniker,
        listens=listens,
        peers=peers,
        password_file=password_file,
        generate_password=password_file is None,
    )
