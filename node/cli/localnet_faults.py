"""`trellis localnet faults`: breaks a local network on purpose, and mends it."""

from __future__ import annotations

import click

from node.cli.localnet_folder import home_option, reporting
from node.localnet import faults as harm
from node.localnet.layout import Folder, Manifest
from node.localnet.rules import MAX_DELAY_MS


@click.group()
def faults() -> None:
    """Break the network on purpose, and mend it."""


nodes_argument = click.argument("nodes", nargs=-1, required=True, metavar="NODE...")


def _checked(folder: Folder, nodes: tuple[str, ...]) -> Manifest:
    manifest = folder.manifest()
    for name in nodes:
        manifest.node(name)
    return manifest


@faults.command()
@nodes_argument
@home_option
@reporting
def kill(folder: Folder, nodes: tuple[str, ...]) -> None:
    """End processes without warning (SIGKILL)."""
    _checked(folder, nodes)
    harm.kill(folder, nodes)
    click.echo(f"killed {', '.join(nodes)}; start again: trellis localnet faults restart {' '.join(nodes)}")


@faults.command()
@nodes_argument
@home_option
@reporting
def freeze(folder: Folder, nodes: tuple[str, ...]) -> None:
    """Stop processes where they are (SIGSTOP)."""
    _checked(folder, nodes)
    harm.freeze(folder, nodes)
    click.echo(f"froze {', '.join(nodes)}; end it: trellis localnet faults thaw {' '.join(nodes)}")


@faults.command()
@nodes_argument
@home_option
@reporting
def thaw(folder: Folder, nodes: tuple[str, ...]) -> None:
    """Let frozen processes go on (SIGCONT)."""
    _checked(folder, nodes)
    harm.thaw(folder, nodes)
    click.echo(f"thawed {', '.join(nodes)}")


@faults.command()
@nodes_argument
@home_option
@reporting
def restart(folder: Folder, nodes: tuple[str, ...]) -> None:
    """Stop nodes in order if they run, and start them."""
    _checked(folder, nodes)
    harm.restart(folder, nodes)
    click.echo(f"started {', '.join(nodes)}")


@faults.command()
@nodes_argument
@home_option
@reporting
def partition(folder: Folder, nodes: tuple[str, ...]) -> None:
    """Cut the named nodes off from all others."""
    rules = harm.partition(folder, _checked(folder, nodes), nodes)
    click.echo("\n".join([*rules.describe(), "end it: trellis localnet faults heal"]))


@faults.command()
@click.argument("nodes", nargs=-1, metavar="[NODE...]")
@click.option(
    "--ms", "delay_ms", type=click.IntRange(0, MAX_DELAY_MS), required=True, help="Added each way; 0 ends it."
)
@home_option
@reporting
def delay(folder: Folder, nodes: tuple[str, ...], delay_ms: int) -> None:
    """Slow every message to and from the named nodes, or all nodes."""
    manifest = _checked(folder, nodes)
    rules = harm.delay(folder, manifest, nodes or [entry.name for entry in manifest.nodes], delay_ms)
    click.echo("\n".join([*rules.describe(), "end it: trellis localnet faults heal"]))


@faults.command()
@home_option
@reporting
def heal(folder: Folder) -> None:
    """Undo every fault: links whole, frozen nodes thawed, dead ones started."""
    done = harm.heal(folder, folder.manifest())
    click.echo("\n".join(done) if done else "nothing was wrong")
