"""`trellis debug dump`: a bundle for a bug report, made of what may be shown.

It is built from a list of what goes in, never by leaving things out of a copy: no key file, password, token or log is
ever read for it. Paths of the machine are cut to their meaning.
"""

from __future__ import annotations

import io
import json
import os
import platform
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import click

from node.cli.exits import CommandFailed
from node.cli.export import header_record
from node.cli.folder import load_home_config, store_directory
from node.cli.format import output_option
from node.cli.keyring import write_file
from node.cli.options import home_option
from node.cli.output import emit_record
from node.cli.stopped import genesis_of, open_chain, runs
from node.cli.version import versions
from node.config import Loaded
from state.store.rows import Tip
from trellis.types import Height

_OPEN_SETTINGS: Final = ("node.keep_heights", "node.validator", "node.verify_workers", "mempool.", "log.", "metrics.")
"""Whose values are shown. Of all other keys only whether they are set: they name people, places or files."""

_MORE_OPEN: Final = (
    "p2p.members_only",
    "p2p.mdns",
    "p2p.max_connections",
    "grpc.post_quantum_only",
    "grpc.reflection",
    "grpc.max_message_bytes",
)
_TAIL: Final = 20


@click.group()
@output_option
def debug() -> None:
    """Gather what a bug report needs.

    \b
    Example:
      trellis debug dump --home /var/lib/trellis --to bug.tar.gz
    """


@debug.command()
@home_option
@click.option(
    "--to", "file", type=click.Path(dir_okay=False, path_type=Path), required=True, help="The bundle: .tar.gz"
)
@click.option("--replace", is_flag=True, help="Overwrite an existing file.")
@output_option
@click.pass_context
def dump(ctx: click.Context, home: Path, file: Path, replace: bool) -> None:
    """Write a bundle for a bug report. It holds no keys, passwords, tokens, logs, addresses of machines or file names.

    In it: versions, the machine's kind, the configuration with values only where they tell nothing about you, the
    genesis, the chain's head and its last headers, and what could not be read. Look into it before you send it.

    \b
    Examples:
      trellis debug dump --home /var/lib/trellis --to bug.tar.gz
      tar -xzf bug.tar.gz -O trellis-debug/configuration.json
    """
    loaded = load_home_config(home)
    parts: dict[str, Callable[[], Any]] = {
        "about.json": _about,
        "configuration.json": lambda: _configuration(loaded),
        "genesis.json": lambda: genesis_of(loaded).to_json(),
        "chain.json": lambda: _chain(loaded),
        "files.json": lambda: _files(loaded),
    }
    contents = {name: _gathered(make) for name, make in parts.items()}
    write_file(file, _bundle(contents), replace)
    emit_record(ctx, {"written": str(file), "parts": list(contents), "bytes": file.stat().st_size})


def _gathered(make: Callable[[], Any]) -> Any:
    """A broken node is what bundles are made for: what cannot be read is told, by its kind alone."""
    try:
        return make()
    except CommandFailed as fault:
        return {"unreadable": type(fault.__cause__ or fault).__name__}


def _about() -> dict[str, Any]:
    return {
        "made_at_ms": time.time_ns() // 1_000_000,
        "versions": versions(),
        "system": platform.system(),
        "release": platform.release(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
    }


def _configuration(loaded: Loaded) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for setting in loaded.settings:
        source = setting.source if setting.source == "default" or setting.source.startswith("TRELLIS_") else "file"
        is_open = setting.source == "default" or setting.name.startswith(_OPEN_SETTINGS) or setting.name in _MORE_OPEN
        value = setting.value
        if not is_open:
            value = f"{len(value)} entries" if isinstance(value, tuple) else "set" if value else "empty"
        rows.append({"key": setting.name, "value": value, "source": source})
    return rows


def _chain(loaded: Loaded) -> dict[str, Any]:
    with open_chain(loaded) as chain, chain.read() as reader:
        tip: Tip = chain.tip
        first = max(int(reader.bounds.first_header), tip.height - _TAIL + 1)
        return {
            "running": runs(loaded),
            "height": tip.height,
            "block_hash": tip.block_hash.hex(),
            "state_root": tip.state_root.hex(),
            "state_rows": tip.leaves,
            "store_bytes": chain.store.size_bytes(),
            "bounds": {name: getattr(reader.bounds, name) for name in ("first_header", "first_body", "first_undo")},
            "headers": [header_record(header) for header in reader.headers(Height(first), _TAIL)],
        }


def _files(loaded: Loaded) -> dict[str, int]:
    """Sizes in the store's folder, whose file names are our own."""
    return {path.name: path.stat().st_size for path in sorted(store_directory(loaded).glob("*")) if path.is_file()}


def _bundle(contents: dict[str, Any]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as bundle:
        for name, content in contents.items():
            data = json.dumps(content, indent=2).encode() + b"\n"
            entry = tarfile.TarInfo(f"trellis-debug/{name}")
            entry.size = len(data)
            bundle.addfile(entry, io.BytesIO(data))
    return raw.getvalue()
