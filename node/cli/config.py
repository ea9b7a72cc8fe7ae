"""`trellis config`: what is in force, and where each value came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.folder import config_from, load_genesis, load_home_config
from node.cli.format import output_option
from node.cli.output import emit_record, emit_rows
from node.config import Loaded

_FILE: Final = click.Path(dir_okay=False, path_type=Path)
_SOURCES: Final = (
    click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="TRELLIS_HOME",
        show_envvar=True,
        help="A node's folder.",
    ),
    click.option("--file", type=_FILE, help="Or a configuration file by itself."),
)


def _sources(command: Any) -> Any:
    for option in reversed(_SOURCES):
        command = option(command)
    return command


def _loaded(home: Path | None, file: Path | None) -> Loaded:
    if home is not None and file is None:
        return load_home_config(home)
    if file is not None and not file.exists():
        raise CommandFailed(
            Exit.NOT_FOUND, f"there is no file {file}", "name another, or the node's folder with --home"
        )
    return config_from(file)


@click.group()
@output_option
def config() -> None:
    """Show or check a node's configuration: its trellis.toml, and TRELLIS_SECTION_KEY in the environment.

    The environment goes before the file, the file before the defaults. Unknown keys are refused.

    \b
    Examples:
      trellis config show --home /var/lib/trellis
      TRELLIS_LOG_LEVEL=debug trellis config show --home /var/lib/trellis --changed
      trellis config validate --home /var/lib/trellis
    """


@config.command()
@_sources
@click.option("--changed", is_flag=True, help="Only what is not at its default.")
@output_option
@click.pass_context
def show(ctx: click.Context, home: Path | None, file: Path | None, changed: bool) -> None:
    """Show every key in force, where its value came from, and what it means. Without a folder or file: the defaults.

    \b
    Examples:
      trellis config show
      trellis config show --home /var/lib/trellis --changed
      trellis --output json config show --file trellis.toml
    """
    rows: list[dict[str, Any]] = [
        {
            "key": setting.name,
            "value": list(setting.value) if isinstance(setting.value, tuple) else setting.value,
            "source": setting.source,
            "meaning": setting.meaning,
        }
        for setting in _loaded(home, file).settings
        if not changed or setting.source != "default"
    ]
    emit_rows(ctx, "settings", rows, ["key", "value", "source", "meaning"])


@config.command()
@_sources
@output_option
@click.pass_context
def validate(ctx: click.Context, home: Path | None, file: Path | None) -> None:
    """Check a configuration: every key and value, and that the files which it names are there.

    \b
    Examples:
      trellis config validate --home /var/lib/trellis
      trellis config validate --file trellis.toml

    Exit codes: 0 a node can start with it, 1 it names what is not there, 7 it cannot be used.
    """
    if home is None and file is None:
        raise CommandFailed(Exit.USAGE, "which configuration?", "give --home DIR or --file FILE; or set TRELLIS_HOME")
    loaded = _loaded(home, file)
    problems = _problems(loaded)
    named = [setting.name for setting in loaded.settings if setting.source != "default"]
    emit_record(ctx, {"valid": not problems, "problems": problems, "keys_set": len(named), "base": str(loaded.base)})
    if problems:
        ctx.exit(Exit.NO)


def _problems(loaded: Loaded) -> list[str]:
    """What would keep a node from starting; each names the key."""
    node, grpc = loaded.config.node, loaded.config.grpc
    wanted = {
        "node.genesis": node.genesis,
        "node.network_key": node.network_key,
        "node.password_file": node.password_file,
    }
    if node.validator:
        wanted["node.consensus_key"] = node.consensus_key
    wanted |= {
        f"grpc.{name}": value
        for name in ("tls_certificate", "tls_key", "client_ca", "admin_token_file")
        if (value := getattr(grpc, name))
    }
    problems = [
        f"{name} is not set" if not value else f"{name}: there is no file {loaded.path(value)}"
        for name, value in wanted.items()
        if not value or not loaded.path(value).is_file()
    ]
    if bool(grpc.tls_certificate) != bool(grpc.tls_key):
        problems.append("grpc.tls_certificate and grpc.tls_key go together")
    if node.validator and not node.account:
        problems.append("node.account is not set: a validator needs its account's address")
    if loaded.path(node.genesis).is_file():
        try:
            load_genesis(loaded.path(node.genesis))
        except CommandFailed as fault:
            problems.append(fault.message)
    return problems
