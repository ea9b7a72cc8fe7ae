"""`trellis demo`: three guided tours of the consensus core, on the engine that `trellis sim` runs."""

from __future__ import annotations

import resource
import time
from typing import Any

import click

from node.cli.exits import CommandFailed, Exit
from node.cli.output import OutputFormat, current_format, emit_record, emit_rows, output_option
from node.simulator.adversary import ADVERSARIES
from node.simulator.checkers import SafetyViolation
from node.simulator.scale import AllToAll, growth
from node.simulator.stage import Stage
from trellis.types import Height

BYZANTINE_STRATEGIES = ("equivocating_leader", "equivocating_voter", "lock_liar", "quiet_leader", "silent")


@click.group()
def demo() -> None:
    """Guided tours: consensus, byzantine, scalability."""


def _say(ctx: click.Context, text: str) -> None:
    if current_format(ctx) is OutputFormat.TABLE:
        click.echo(text)


def _decide(stage: Stage, heights: int) -> None:
    """Until every honest node has that many more blocks."""
    try:
        decided = stage.progresses(heights)
    except SafetyViolation as violation:
        raise CommandFailed(Exit.NO, f"a checker found: {violation}") from violation
    if not decided:
        raise CommandFailed(Exit.NO, "the network made no progress")


def _blocks(stage: Stage) -> list[dict[str, Any]]:
    """The chain of the first honest node."""
    host = stage.honest()[0]
    rows = []
    for block, certificate in host.durable.chain:
        validators = host.durable.states[block.header.height - 1].validators
        signers = [stage.index_of(address) for address in certificate.signer_addresses(validators)]
        rows.append(
            {
                "height": block.header.height,
                "view": block.header.view,
                "proposer": stage.index_of(block.header.proposer),
                "committed_by": " ".join(map(str, signers)),
                "operations": int.from_bytes(block.body[:4], "big"),
                "block": block.hash.hex()[:16],
            }
        )
    return rows


@demo.command()
@click.option("--heights", type=click.IntRange(1, 1_000), default=6, show_default=True, help="Blocks to decide.")
@output_option
@click.pass_context
def consensus(ctx: click.Context, heights: int) -> None:
    """Four nodes commit: the rules of the first block one by one, then the chain."""
    stage = Stage()
    stage.lines = []
    stage.begin()
    _say(ctx, "Four validators of equal stake; any three are a quorum. Hops take 10 ms. The first block:\n")
    _decide(stage, 1)
    for line in stage.lines:
        _say(ctx, line)
    _decide(stage, heights - 1) if heights > 1 else None
    _say(ctx, "\nEvery node holds this chain; a later view means that a leader was replaced:\n")
    emit_rows(ctx, "blocks", _blocks(stage), ["height", "view", "proposer", "committed_by", "operations", "block"])


@demo.command()
@click.option("--strategy", type=click.Choice(BYZANTINE_STRATEGIES), default="equivocating_voter", show_default=True)
@click.option("--heights", type=click.IntRange(1, 1_000), default=12, show_default=True, help="Blocks to decide.")
@output_option
@click.pass_context
def byzantine(ctx: click.Context, strategy: str, heights: int) -> None:
    """One of four misbehaves: it is outvoted, accused by what it signed, and loses stake."""
    first = Stage().leader(Height(1), 0)
    if first is None:
        raise RuntimeError("height 1 has a leader")
    stage = Stage(roles={first.index: ADVERSARIES[strategy]})
    sentence = " ".join((ADVERSARIES[strategy].__doc__ or "").split())
    _say(ctx, f"Node {first.index} leads first, and is corrupted ({strategy}): {sentence}\n")
    stage.begin()
    _decide(stage, heights)
    host = stage.honest()[0]
    evidence = stage.checkers.accused_hosts.get(first.index)
    votes = [] if evidence is None else [signed.vote for signed in evidence.signed_votes()]
    record = {
        "corrupted": first.index,
        "strategy": strategy,
        "heights": host.height,
        "proposed_by_it": sum(block.header.proposer == first.me for block, _ in host.durable.chain),
        "heights_that_needed_another_leader": sum(block.header.view > 0 for block, _ in host.durable.chain),
        "accused_of": None if evidence is None else evidence.kind.name.lower(),
        "it_signed": "; ".join(f"{vote.kind.name} h{vote.height} v{vote.view} {_content(vote)}" for vote in votes),
        "stake_before": dict(stage.genesis.stakes)[first.me],
        "stake_now": dict(host.state.stakes)[first.me],
        "honest_nodes_agree": _agree(stage),
    }
    emit_record(ctx, record)
    _say(ctx, "\nThe honest chain (the checkers compared every block, state and signature of every honest node):\n")
    if current_format(ctx) is OutputFormat.TABLE:
        emit_rows(ctx, "blocks", _blocks(stage), ["height", "view", "proposer", "committed_by", "block"])


def _agree(stage: Stage) -> bool:
    chains = [[block.hash for block, _ in host.durable.chain] for host in stage.honest()]
    shared = min(map(len, chains))
    return all(chain[:shared] == chains[0][:shared] for chain in chains)


def _content(vote: Any) -> str:
    if vote.block_hash is not None:
        return str(vote.block_hash.hex()[:16])
    return "nothing prepared" if vote.prepared is None else f"prepared v{vote.prepared.view}"


@demo.command()
@click.option("--nodes", type=click.IntRange(10, 10_000), default=160, show_default=True, help="The largest network.")
@click.option(
    "--replicas", type=click.IntRange(4, 10_000), default=1_000, show_default=True, help="At most so many run whole."
)
@output_option
@click.pass_context
def scalability(ctx: click.Context, nodes: int, replicas: int) -> None:
    """10 to N validators, doubling: one block each, its time, messages and throughput, and how they grow.

    With more validators than --replicas, that many production replicas receive the votes of all; then the number of all
    messages is computed, and labelled so.
    """
    sizes = [10]
    while sizes[-1] * 2 <= nodes:
        sizes.append(sizes[-1] * 2)
    if sizes[-1] < nodes:
        sizes.append(nodes)
    rows = []
    for size in sizes:
        _say(ctx, f"{size} validators …")
        rows.append(_measure(size, replicas))
    columns = [
        "validators",
        "replicas",
        "virtual_ms",
        "delivered",
        "all_messages",
        "real_ms",
        "deliveries_a_second",
        "peak_mb",
    ]
    emit_rows(ctx, "networks", rows, columns)
    if len(rows) > 1:
        _say(ctx, "\ngrowth with the number of validators n, between the smallest and the largest network:")
        for name in ("messages", "delivered", "real_ms"):
            exponent = growth(_point(rows[0], name), _point(rows[-1], name))
            _say(ctx, f"  {name.replace('_', ' ')}: n^{exponent:.2f}")
        _say(ctx, f"peak memory: {rows[-1]['peak_mb']} MB")
        _say(ctx, "PBFT is all to all: two rounds of n² votes a block. Real time is of this one process for all nodes.")


def _measure(size: int, replicas: int) -> dict[str, Any]:
    began = time.perf_counter()
    scale = AllToAll(size, replicas).run()
    took_s = time.perf_counter() - began
    return {
        "validators": size,
        "replicas": scale.replicas,
        "virtual_ms": scale.virtual_ms,
        "delivered": scale.delivered,
        "messages": scale.total,
        "computed": scale.replicas < size,
        "real_ms": round(took_s * 1_000),
        "per_second": round(scale.delivered / took_s),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1_024,
    }


def _point(row: dict[str, Any], name: str) -> tuple[float, float]:
    return row["validators"], row[name]
