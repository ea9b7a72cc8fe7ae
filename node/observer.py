"""Moves the metrics that nobody has at hand when they change: what a block did, and how the network stands.

Told of each block by the runtime; asked for the rest when somebody scrapes, so that an unwatched node pays nothing.
"""

from __future__ import annotations

from collections import Counter
from typing import Final

from node.engine import Engine
from node.http import HealthReport
from node.p2p_metrics import P2pMetrics
from node.runtime import Runtime
from node.work import Committed
from p2p.host import Host
from state.chain import read_totals
from state.results import accuracy
from state.scope import Reward, Slash
from trellis.constants import Context
from trellis.evidence import EvidenceKind
from trellis.transaction import RevealProof
from trellis.validators import ValidatorSet

_PURPOSES: Final = {context.value: context.name.lower() for context in Context}


class Observer:
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._metrics = runtime.metrics
        self._host: Host | None = None
        self._validators: ValidatorSet = runtime.engine.facts.validators
        """V of the next block."""
        self._counted: Counter[str] = Counter()
        self._metrics.samplers.append(self._sample)
        runtime.on_committed(self.committed)
        self._show_supply()
        self._show_accuracy()

    def started(self, host: Host) -> None:
        """The host runs: from now on scrapes read it."""
        self._host = host
        network = self._runtime.network
        figures = P2pMetrics(self._metrics, network.health, network.gossip.counters)
        self._metrics.samplers.append(figures.collect)

    # Blocks.

    def committed(self, committed: Committed, _finality_ms: int) -> None:
        applied = committed.done.applied
        proofs = sum(isinstance(transaction.parsed.kind, RevealProof) for transaction in applied.block.transactions)
        self._metrics.round_proofs.set(proofs)
        self._metrics.proofs_processed.inc(proofs)
        judged = proofs > 0
        for event in applied.executed.events:
            if isinstance(event, Reward):
                self._count_reward(event)
            elif isinstance(event, Slash):
                judged = judged or event.evidence_kind == EvidenceKind.INVALID_PROOF_PREPARE
        validators = self._runtime.engine.facts.validators
        if judged or validators.hash != self._validators.hash:
            self._show_accuracy()
        self._validators = validators
        self._show_supply()

    def _count_reward(self, reward: Reward) -> None:
        place = self._validators.index(reward.address)
        if place is not None:  # a proposer that has just left the set is paid, but has no place in it
            self._metrics.rewards.labels(validator=str(place)).inc(reward.units)

    def _show_accuracy(self) -> None:
        state = self._runtime.ledger.state
        for place, member in enumerate(self._runtime.engine.facts.validators.members):
            found = accuracy(state, member.address)
            self._metrics.accuracy.labels(validator=str(place)).set(found.permille / 1_000)

    def _show_supply(self) -> None:
        totals = read_totals(self._runtime.ledger.state)
        self._metrics.supply.set(totals.owed)

    # What is read when somebody scrapes.

    def _sample(self) -> None:
        engine = self._runtime.engine
        if isinstance(engine, Engine):
            replica = engine.replica
            scores = (replica.reputation.statistics(member.address) for member in replica.validators.members)
            self._metrics.banned.set(sum(score.is_banned for score in scores))
        for context, number in sorted(self._runtime.verified.items()):
            purpose = _PURPOSES[context]
            self._metrics.signature_checks.labels(purpose).inc(number - self._counted[purpose])
            self._counted[purpose] = number

    # Health.

    def health(self) -> HealthReport:
        runtime = self._runtime
        if self._host is None:
            return HealthReport(synced=False, quorum=False, detail={"height": runtime.ledger.tip.height})
        detail: dict[str, str | int | bool] = {
            "height": runtime.ledger.tip.height,
            "block": runtime.ledger.tip.block_hash.hex(),
            "peers": len(self._host.peers()),
            "validators_connected": len(runtime.open_lanes),
            "mempool_transactions": len(runtime.pool),
            "sync_sources": runtime.network.sources,
        }
        for name, depth in runtime.network.health.snapshot().queues.items():
            detail[f"queue_{name}"] = depth
        behind = runtime.engine.catch_up.behind
        return HealthReport(synced=not behind, quorum=runtime.has_quorum, detail=detail)
