"""Sums a run up, and refuses to where its figures would mean nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from node.bench.load import Run, Shape
from node.bench.usage import NodeUsage

SHOWN_TXIDS: Final = 3


@dataclass(frozen=True, slots=True)
class Latency:
    """Milliseconds."""

    count: int
    p50: float
    p90: float
    p99: float
    most: float


def latency(samples_s: Sequence[float]) -> Latency | None:
    """By the nearest rank: each figure is one that was measured."""
    if not samples_s:
        return None
    ordered = sorted(samples_s)

    def rank(share: float) -> float:
        place = -(-share * len(ordered) // 1)
        return round(1_000 * ordered[max(0, int(place) - 1)], 1)

    return Latency(len(ordered), rank(0.5), rank(0.9), rank(0.99), rank(1.0))


@dataclass(frozen=True, slots=True)
class Checks:
    """Signatures of transactions that one node verified during the run."""

    node: str
    verified: int


@dataclass(frozen=True, slots=True)
class LoadFigures:
    rate: int
    seconds: int
    senders: int
    batch: int
    body_bytes: int
    committed_tps: float
    """Final at the watched node within the window, whenever they were due."""
    finality: Latency | None
    """Of what was due within the window: from when it was due until the watched node announced it."""
    due: int
    admitted: int
    final: int
    """Over the whole run, warm-up counted."""
    outcomes: dict[str, int]
    refused: dict[str, int]
    starved: int
    late_ms: float
    mean_rpc_ms: float
    blocks: int
    transactions_a_block: float
    roots: dict[str, str]
    verify_us: float
    ceiling_tps: float
    """cores ÷ (nodes × time of one verification): what verifying alone would allow on this machine."""
    share_of_ceiling: float
    variants: int
    """Distinct transactions that were submitted, each with one signature: what every node should verify."""
    checks: list[Checks] = field(default_factory=list)
    usage: list[NodeUsage] = field(default_factory=list)
    generator_cpu_percent: float = 0.0
    problems: list[str] = field(default_factory=list)
    """What makes the figures worthless; empty if they stand."""

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sum_up(
    run: Run,
    shape: Shape,
    *,
    body_bytes: int,
    roots: dict[str, str],
    verify_us: float,
    cores: int,
    checks: Sequence[Checks] = (),
    usage: Sequence[NodeUsage] = (),
    generator_cpu_percent: float = 0.0,
) -> LoadFigures:
    sent, finals = run.sent, run.watch.finals
    began_s, ended_s = run.window_s
    due = {txid: at_s for txid, at_s in sent.due_s.items() if began_s <= at_s < ended_s}
    samples = [finals.at_s[txid] - at_s for txid, at_s in due.items() if txid in finals.at_s]
    ours = sent.due_s.keys() & finals.at_s.keys()
    committed = sum(1 for txid in ours if began_s <= finals.at_s[txid] < ended_s)
    inside = [block.transactions for block in finals.blocks if began_s <= block.at_s < ended_s]
    committed_tps = committed / (ended_s - began_s)
    ceiling = cores * 1e6 / (max(1, len(roots)) * verify_us)
    return LoadFigures(
        rate=shape.rate,
        seconds=shape.seconds,
        senders=shape.senders,
        batch=shape.batch,
        body_bytes=body_bytes,
        committed_tps=round(committed_tps, 1),
        finality=latency(samples),
        due=len(due),
        admitted=len(sent.admitted),
        final=len(ours),
        outcomes=dict(sorted(finals.outcomes.items())),
        refused=dict(sorted(sent.refused.items())),
        starved=sent.starved,
        late_ms=round(1_000 * sent.late_s, 1),
        mean_rpc_ms=round(1_000 * sent.rpc_s / max(1, sent.rpcs), 1),
        blocks=len(inside),
        transactions_a_block=round(sum(inside) / max(1, len(inside)), 1),
        roots=roots,
        verify_us=round(verify_us, 1),
        ceiling_tps=round(ceiling, 1),
        share_of_ceiling=round(committed_tps / ceiling, 3),
        variants=len(sent.admitted),
        checks=list(checks),
        usage=list(usage),
        generator_cpu_percent=round(generator_cpu_percent, 1),
        problems=_problems(run, roots),
    )


def _problems(run: Run, roots: dict[str, str]) -> list[str]:
    sent, finals = run.sent, run.watch.finals
    found = []
    lost = sorted(sent.admitted - finals.at_s.keys())
    if lost:
        found.append(f"{len(lost)} admitted transactions never became final: {_some(lost)}")
    if finals.twice:
        found.append(f"{len(finals.twice)} transactions became final twice: {_some(sorted(finals.twice))}")
    if len(set(roots.values())) != 1:
        told = ", ".join(f"{name} {root[:16]}" for name, root in sorted(roots.items()))
        found.append(f"the nodes do not agree on the state: {told}")
    if not sent.admitted:
        found.append("no transaction was admitted")
    return found


def _some(txids: Sequence[str]) -> str:
    shown = ", ".join(txids[:SHOWN_TXIDS])
    return shown if len(txids) <= SHOWN_TXIDS else f"{shown}, …"
