"""`trellis bench`: what a network can do, measured as its users meet it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final, TypeVar

import click
import grpc
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from node.bench.figures import LoadFigures, latency
from node.bench.load import Shape
from node.bench.session import Means, Reporter, measure_failover, measure_idle, measure_load
from node.bench.target import BenchFault, TargetPlan
from node.cli.exits import CommandFailed, Exit
from node.cli.output import OutputFormat, current_format, emit_record, emit_rows, is_interactive, output_option
from node.config import load_config
from node.home import CONFIG_NAME, HomeFault, read_genesis
from node.localnet import faults
from node.localnet.layout import Folder, LocalnetFault, Manifest
from node.localnet.processes import find, start
from node.localnet.samples import ScrapeFault, fetch, total
from trellis.client.endpoints import Endpoint, Tls

T = TypeVar("T")
RECOVER_S: Final = 90.0
MODES: Final = ("load", "idle", "failover")


@click.command()
@click.option("--mode", type=click.Choice(MODES), default="load", show_default=True, help="What to measure.")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    envvar="TRELLIS_LOCALNET",
    help="A local network's folder, as `trellis localnet up --accounts N` made it; endpoints and keys are in it.",
)
@click.option("--endpoint", "endpoints", multiple=True, help="A node; at least two. The last one is only watched.")
@click.option("--genesis", type=click.Path(dir_okay=False, path_type=Path), help="The network's genesis document.")
@click.option(
    "--seed-file", type=click.Path(dir_okay=False, path_type=Path), help="Seed of the funded senders' keys, in hex."
)
@click.option("--metrics", "metrics", multiple=True, help="HOST:PORT of a node's metrics, to count its verifications.")
@click.option("--ca", type=click.Path(dir_okay=False, path_type=Path), help="Root certificates, for TLS endpoints.")
@click.option("--rate", type=click.IntRange(1, 100_000), default=800, show_default=True, help="Transactions a second.")
@click.option("--seconds", type=click.IntRange(1, 86_400), default=60, show_default=True, help="Of the measurement.")
@click.option("--warm-up", type=click.IntRange(0, 3_600), default=10, show_default=True, help="Seconds before it.")
@click.option(
    "--senders", type=click.IntRange(1, 100_000), default=1_000, show_default=True, help="Accounts that send."
)
@click.option("--batch", type=click.IntRange(1, 256), default=64, show_default=True, help="Transactions in one call.")
@click.option("--body-bytes", type=click.IntRange(128, 65_536), default=512, show_default=True, help="Signature extra.")
@click.option("--samples", type=click.IntRange(1, 10_000), default=50, show_default=True, help="With --mode idle.")
@click.option("--rounds", type=click.IntRange(1, 100), default=5, show_default=True, help="With --mode failover.")
@output_option
@click.pass_context
def bench(
    ctx: click.Context,
    mode: str,
    home: Path | None,
    endpoints: tuple[str, ...],
    genesis: Path | None,
    seed_file: Path | None,
    metrics: tuple[str, ...],
    ca: Path | None,
    rate: int,
    seconds: int,
    warm_up: int,
    senders: int,
    batch: int,
    body_bytes: int,
    samples: int,
    rounds: int,
) -> None:
    """Measure a network. Transactions are signed before the clock starts, about a millisecond of a core each.

    \b
    load      open-loop load: throughput, time to finality, verifications, CPU and memory
    idle      one transaction at a time on a quiet network
    failover  kills the leader of a local network and waits for the next block

    Exit code 1, and no figures, if a transaction was lost or became final twice, or the nodes' states differ.
    """
    with _reported(), _progress(ctx) as reporter:
        folder = None if home is None else Folder(home.expanduser().absolute())
        if folder is not None:
            plan, pids = _local_plan(folder)
        else:
            plan, pids = _remote_plan(endpoints, genesis, seed_file, metrics, ca), {}
        means = Means(cache_folder=None if folder is None else folder.path, pids=pids, reporter=reporter)
        if mode == "load":
            shape = Shape(rate, seconds, warm_up, senders, batch)
            figures = _run(measure_load(plan, shape, body_bytes, means))
        elif mode == "idle":
            times = _run(measure_idle(plan, samples, body_bytes, means))
        else:
            if folder is None:
                raise BenchFault("only the nodes of a local network can be killed", "give its folder: --home DIR")
            deaths = _run(_failovers(folder, rounds, body_bytes, means))
    if mode == "load":
        _report_load(ctx, figures)
    elif mode == "idle":
        found = latency(times)
        record = (
            {}
            if found is None
            else {"p50_ms": found.p50, "p90_ms": found.p90, "p99_ms": found.p99, "max_ms": found.most}
        )
        emit_record(ctx, {"transactions": len(times), **record})
    else:
        rows = [
            {"leader": death.leader, "height": death.height, "next_commit_ms": round(1_000 * death.until_next_s)}
            for death in deaths
        ]
        emit_rows(ctx, "failovers", rows, ["leader", "height", "next_commit_ms"])
        if current_format(ctx) is OutputFormat.TABLE:
            waits = [row["next_commit_ms"] for row in rows]
            click.echo(f"median {median(waits):.0f} ms, longest {max(waits)} ms")


def _run(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@contextmanager
def _reported() -> Iterator[None]:
    try:
        yield
    except BenchFault as fault:
        raise CommandFailed(Exit.NO, str(fault), fault.hint) from fault
    except LocalnetFault as fault:
        raise CommandFailed(Exit.LOCAL, str(fault), fault.hint) from fault
    except (HomeFault, ValueError) as fault:
        raise CommandFailed(Exit.LOCAL, str(fault)) from fault
    except grpc.RpcError as fault:
        told = f"{fault.code().name}: {fault.details()}" if isinstance(fault, grpc.aio.AioRpcError) else str(fault)
        raise CommandFailed(Exit.UNREACHABLE, f"a node did not answer: {told}", "is the network running?") from fault


@contextmanager
def _progress(ctx: click.Context) -> Iterator[Reporter]:
    quiet = current_format(ctx) is OutputFormat.JSON
    if not is_interactive() or quiet:
        yield Reporter(phase=lambda name: None if quiet else click.echo(f"{name} …", err=True))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, transient=True) as bars:
        task = bars.add_task("", total=None)

        def progress(_what: str, done: int, of: int) -> None:
            bars.update(task, completed=done, total=of)

        yield Reporter(lambda name: bars.reset(task, description=name, total=None), progress)


def _local_plan(folder: Folder) -> tuple[TargetPlan, dict[str, int]]:
    manifest = folder.manifest()
    pids = {entry.name: found.pid for entry in manifest.nodes if (found := find(folder, entry.name)) is not None}
    if len(pids) < len(manifest.nodes):
        dead = [entry.name for entry in manifest.nodes if entry.name not in pids]
        raise LocalnetFault(f"{', '.join(dead)} is not running", "start what is missing: trellis localnet faults heal")
    return _plan_of(folder, manifest), pids


def _plan_of(folder: Folder, manifest: Manifest, without: str = "") -> TargetPlan:
    nodes = [entry for entry in manifest.nodes if entry.name != without]
    return TargetPlan(
        genesis=read_genesis(folder.genesis_path),
        endpoints=tuple(Endpoint.parse(entry.grpc_address) for entry in nodes),
        seed=bytes.fromhex(folder.seed_path.read_text().strip()),
        metrics=tuple(entry.metrics_address for entry in nodes),
    )


def _remote_plan(
    endpoints: tuple[str, ...],
    genesis: Path | None,
    seed_file: Path | None,
    metrics: tuple[str, ...],
    ca: Path | None,
) -> TargetPlan:
    if genesis is None or seed_file is None or not endpoints:
        raise CommandFailed(
            Exit.USAGE, "what shall be measured?", "give --home DIR, or --endpoint (twice), --genesis and --seed-file"
        )
    tls = None if ca is None else Tls.load(root_certificates=ca)
    try:
        seed = bytes.fromhex(seed_file.read_text().strip())
        places = tuple(Endpoint.parse(text, tls) for text in endpoints)
    except (OSError, ValueError) as fault:
        raise CommandFailed(Exit.USAGE, str(fault)) from fault
    return TargetPlan(read_genesis(genesis), places, seed, metrics)


async def _failovers(folder: Folder, rounds: int, body_bytes: int, means: Means) -> Any:
    manifest = folder.manifest()
    names = {
        load_config(folder.home(entry.name) / CONFIG_NAME, {}).config.node.account: entry.name
        for entry in manifest.nodes
    }
    plans = {address: _plan_of(folder, manifest, without=name) for address, name in names.items()}

    async def mend(address: str) -> None:
        start(folder, names[address])
        await _caught_up(folder, manifest)

    return await measure_failover(
        plans, rounds, body_bytes, means, lambda address: faults.kill(folder, [names[address]]), mend
    )


async def _caught_up(folder: Folder, manifest: Manifest) -> None:
    """Until all nodes are at one height, so that the next death finds a whole network."""
    end_s = time.monotonic() + RECOVER_S
    while time.monotonic() < end_s:
        heights = []
        for entry in manifest.nodes:
            with contextlib.suppress(ScrapeFault):
                heights.append(total(await asyncio.to_thread(fetch, entry.metrics_address), "ledger_height"))
        if len(heights) == len(manifest.nodes) and max(heights) - min(heights) <= 1:
            return
        await asyncio.sleep(0.5)
    raise BenchFault(f"the killed node was not at the others' height within {RECOVER_S:.0f} s", f"see {folder.path}")


def _report_load(ctx: click.Context, figures: LoadFigures) -> None:
    if figures.problems:
        raise CommandFailed(
            Exit.NO,
            "no figures: " + "; ".join(figures.problems),
            "keep the nodes' logs; what a node says of one of them: trellis tx show TXID",
        )
    if current_format(ctx) is OutputFormat.JSON:
        click.echo(json.dumps(figures.to_json(), indent=2))
        return
    emit_record(ctx, _load_record(figures), title="load")
    if figures.usage:
        emit_rows(ctx, "usage", [_usage_row(each) for each in figures.usage], list(_usage_row(figures.usage[0])))


def _load_record(figures: LoadFigures) -> dict[str, Any]:
    finality = figures.finality
    return {
        "asked for": f"{figures.rate} tx/s for {figures.seconds} s, {figures.senders} senders, "
        f"bodies of {figures.body_bytes} B, {figures.batch} a call",
        "committed": f"{figures.committed_tps} tx/s, in {figures.blocks} blocks of {figures.transactions_a_block}",
        "ceiling": f"{figures.ceiling_tps} tx/s by verification alone ({figures.verify_us} µs each); "
        f"reached {100 * figures.share_of_ceiling:.0f} %",
        "finality": "nothing became final"
        if finality is None
        else f"p50 {finality.p50} ms, p90 {finality.p90} ms, p99 {finality.p99} ms, max {finality.most} ms",
        "transactions": f"{figures.admitted} admitted, {figures.final} final, none lost, none twice",
        "outcomes": _counts(figures.outcomes),
        "refused": _counts(figures.refused),
        "generator": f"at most {figures.late_ms} ms late, {figures.starved} not there when due, "
        f"CPU {figures.generator_cpu_percent} %; a call took {figures.mean_rpc_ms} ms",
        "verifications": ", ".join(f"{check.node} {check.verified}" for check in figures.checks)
        + f"; distinct variants {figures.variants}, {len(figures.roots)} × admitted "
        f"{len(figures.roots) * figures.admitted}",
        "roots": f"{next(iter(figures.roots.values()))[:32]}… on all {len(figures.roots)} nodes",
    }


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {number}" for name, number in counts.items()) or "none"


def _usage_row(each: Any) -> dict[str, Any]:
    return {
        "node": each.name,
        "cpu_percent": f"{each.cpu_percent:.0f}",
        "uss_mib": f"{each.uss_bytes / 2**20:.0f}",
        "workers_cpu_percent": f"{each.workers_cpu_percent:.0f}",
        "workers_uss_mib": f"{each.workers_uss_bytes / 2**20:.0f}",
    }
