"""`trellis version`."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed_version
from typing import Final

import click

from node.cli.output import emit_record, output_option
from trellis import __version__

_STANDS_ON: Final = ("cryptography", "pqcrypto", "grpcio", "protobuf", "libp2p", "trio", "lmdb", "z3-solver")


def _version_of(distribution: str) -> str:
    try:
        return installed_version(distribution)
    except PackageNotFoundError:
        return "not installed"


def versions() -> dict[str, str]:
    """Ours, and those of what decides over behaviour."""
    record = {"trellis": __version__, "python": platform.python_version()}
    return record | {name: _version_of(name) for name in _STANDS_ON}


@click.command()
@output_option
@click.pass_context
def version(ctx: click.Context) -> None:
    """Show the versions of Trellis and of what it stands on.

    \b
    Examples:
      trellis version
      trellis --output json version
    """
    emit_record(ctx, versions())
