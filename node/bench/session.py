"""Whole measurements of a target: what `trellis bench` runs."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from node.bench.blocks import BlockWatch
from node.bench.figures import Checks, LoadFigures, sum_up
from node.bench.load import Shape, run_load
from node.bench.probes import Failover, failover, idle_latencies, leader_of
from node.bench.signing import Cache, Order, Recipe, Signed, prepare, recipe_for
from node.bench.target import BenchFault, SenderState, Target, TargetPlan
from node.bench.usage import NodeUsage, UsageMeter, measure_verify_us
from node.localnet.samples import Scrape, total

CHECKS_METRIC: Final = "node_signature_checks_total"
FAILOVER_SENDERS: Final = 200
FAILOVER_EACH: Final = 20
RECOVER_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Reporter:
    """Where a measurement tells how far it is."""

    phase: Callable[[str], None] = lambda _name: None
    progress: Callable[[str, int, int], None] = lambda _what, _done, _of: None


@dataclass(frozen=True, slots=True)
class Means:
    """What a measurement may use of this machine."""

    cache_folder: Path | None = None
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    pids: dict[str, int] = field(default_factory=dict)
    """Of the nodes' main processes, where they run on this machine."""
    reporter: Reporter = field(default_factory=Reporter)


async def measure_load(plan: TargetPlan, shape: Shape, body_bytes: int, means: Means) -> LoadFigures:
    """See `trellis bench --mode load`."""
    recipe = recipe_for(plan.genesis, plan.seed, body_bytes)
    async with Target(plan) as target:
        if shape.senders < shape.batch * len(target.submitted_to):
            raise BenchFault(
                f"a batch of {shape.batch} to each of {len(target.submitted_to)} nodes needs {shape.batch} senders "
                f"each: {shape.senders} are too few",
                "ask for more --senders, or a smaller --batch",
            )
        states = await _funded(target, shape.senders)
        orders = shape.orders(states)
        _require_funds(recipe, states, orders)
        signed = await _prepare(recipe, orders, means)
        verify_us = measure_verify_us()
        before = await target.scrape()
        watch = BlockWatch(target.watched, await target.height() + 1)
        meters: list[tuple[UsageMeter, float, float]] = []
        usage: list[NodeUsage] = []
        own_cpu: list[float] = []

        def on_window(begins: bool) -> None:
            if begins:
                meters.append((UsageMeter(means.pids), time.process_time(), time.monotonic()))
                return
            meter, cpu_s, at_s = meters[0]
            usage.extend(meter.read())
            own_cpu.append(100 * (time.process_time() - cpu_s) / (time.monotonic() - at_s))

        try:
            run = await run_load(
                target.submitted_to, watch, shape, signed, phase=means.reporter.phase, on_window=on_window
            )
            if watch.failed() is not None:
                raise BenchFault(f"the watch over {target.watched.endpoint.name} ended: {watch.failed()!r}")
            roots = await target.roots(run.watch.finals.height or await target.height())
            after = await target.scrape()
        finally:
            await watch.close()
    names = list(means.pids) if len(means.pids) == len(plan.metrics) else list(plan.metrics)
    return sum_up(
        run,
        shape,
        body_bytes=body_bytes,
        roots=roots,
        verify_us=verify_us,
        cores=os.cpu_count() or 1,
        checks=_checks(names, before, after),
        usage=usage,
        generator_cpu_percent=own_cpu[0],
    )


async def measure_idle(plan: TargetPlan, samples: int, body_bytes: int, means: Means) -> list[float]:
    """Seconds, in the order of the measurement. The senders' keys are known before it begins."""
    recipe = recipe_for(plan.genesis, plan.seed, body_bytes)
    async with Target(plan) as target:
        (state,) = await _funded(target, 1)
        nonces = range(state.nonce, state.nonce + samples + 1)
        orders = [Order(0, nonce, nonce == state.nonce and not state.key_known) for nonce in nonces]
        _require_funds(recipe, [state], orders)
        signed = await _prepare(recipe, orders, means)
        watch = BlockWatch(target.watched, await target.height() + 1)
        try:
            means.reporter.phase("one transaction at a time")
            found = await idle_latencies(
                # One node: another might not have heard of the sender's last transaction yet.
                target.submitted_to[:1],
                watch,
                signed,
                lambda done: means.reporter.progress("transactions", done, len(signed)),
            )
        finally:
            await watch.close()
    return found[1:]


async def measure_failover(
    plans: dict[str, TargetPlan],
    rounds: int,
    body_bytes: int,
    means: Means,
    kill: Callable[[str], None],
    mend: Callable[[str], Awaitable[None]],
) -> list[Failover]:
    """`plans`: by a validator's address, the network without it. `kill` and `mend` are given that address too."""
    found = []
    for number in range(rounds):
        means.reporter.phase(f"leader {number + 1} of {rounds}")
        any_plan = next(iter(plans.values()))
        recipe = recipe_for(any_plan.genesis, any_plan.seed, body_bytes)
        async with Target(any_plan) as target:
            states = await _funded(target, FAILOVER_SENDERS)
            leader = await leader_of(target.watched)
        if leader not in plans:
            raise BenchFault(f"the leader {leader} is not one of the nodes that can be killed here")
        orders = [
            Order(state.index, state.nonce + turn, turn == 0 and not state.key_known)
            for turn in range(FAILOVER_EACH)
            for state in states
        ]
        _require_funds(recipe, states, orders)
        signed = await _prepare(recipe, orders, means)
        async with Target(plans[leader]) as target:
            watch = BlockWatch(target.watched, await target.height() + 1)

            async def strike(leader: str = leader) -> None:
                kill(leader)

            try:
                found.append(await failover(watch, target.submitted_to[:1], signed, leader, strike))
            finally:
                await watch.close()
                await mend(leader)
    return found


async def _funded(target: Target, number: int) -> list[SenderState]:
    states = await target.senders(number)
    poor = [state.index for state in states if state.balance == 0]
    if poor:
        raise BenchFault(
            f"{len(poor)} of {number} senders have no funds",
            f"start a network that funds them: trellis localnet up --accounts {number}",
        )
    return states


def _require_funds(recipe: Recipe, states: Sequence[SenderState], orders: Sequence[Order]) -> None:
    """Generously: a transaction pays for its bytes, its signature, and at most once for its key."""
    parameters = recipe.parameters
    fee = parameters.fee_per_body_byte * recipe.body_bytes + parameters.fee_ml_dsa_65
    needed = fee * -(-len(orders) // len(states)) + parameters.fee_key_registration
    poor = [state for state in states if state.balance < needed]
    if poor:
        raise BenchFault(
            f"{len(poor)} senders cannot pay for their share: {needed} base units are needed, "
            f"sender {poor[0].index} has {poor[0].balance}",
            "ask for less, with fewer --seconds or more --senders, or fund them",
        )


async def _prepare(recipe: Recipe, orders: Sequence[Order], means: Means) -> list[Signed]:
    means.reporter.phase(f"signing {len(orders)} transactions")
    cache = None if means.cache_folder is None else Cache(means.cache_folder, recipe)
    ready = await asyncio.to_thread(
        prepare,
        recipe,
        orders,
        workers=means.workers,
        cache=cache,
        progress=lambda done: means.reporter.progress("signed", done, len(orders)),
    )
    return [ready[order] for order in orders]


def _checks(names: Sequence[str], before: Sequence[Scrape], after: Sequence[Scrape]) -> list[Checks]:
    return [
        Checks(name, int(total(new, CHECKS_METRIC, purpose="tx") - total(old, CHECKS_METRIC, purpose="tx")))
        for name, old, new in zip(names, before, after, strict=True)
    ]
