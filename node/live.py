"""The half of the services' port that only the running node knows: submission, consensus, peers, operators' calls."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

import trio

from consensus.effects import Violation as CoreViolation
from node.engine import Engine
from node.pow_node import PowNode
from node.rpc.errors import Reason, Refused
from node.rpc.ledger_half import LedgerHalf
from node.rpc.port import (
    BanView,
    ConsensusView,
    DrainView,
    LogLevel,
    NodeFacts,
    PeerView,
    PrunedView,
    ReputationView,
    SnapshotView,
    Standing,
    Step,
    SubmitOutcome,
    SyncStage,
    SyncView,
    Violation,
    WorkView,
)
from node.rpc.sets import SetArchive
from node.runtime import Runtime
from node.snapshots import make_snapshot
from node.work import Committed
from state.store.pruning import Retention
from state.transactions import Candidate
from trellis.crypto.schemes import verify_all
from trellis.transaction import Transaction
from trellis.types import Hash, Height, PeerId
from trellis.validators import ValidatorSet, decode_validator_set

STANDING_PERIOD_S: Final = 0.5
DRAIN_POLL_S: Final = 0.05

_VIOLATIONS: Final = {
    CoreViolation.EQUIVOCATION: Violation.EQUIVOCATION,
    CoreViolation.LOCK_LIE: Violation.LOCK_LIE,
    CoreViolation.MALFORMED: Violation.MALFORMED_MESSAGE,
    CoreViolation.UNJUSTIFIED: Violation.MALFORMED_MESSAGE,
    CoreViolation.INVALID_BLOCK: Violation.WRONG_VERIFICATION,
    CoreViolation.TIMEOUT: Violation.TIMEOUT,
    CoreViolation.NON_PARTICIPATION: Violation.NON_PARTICIPATION,
    CoreViolation.BAD_SIGNATURE: Violation.INVALID_SIGNATURE,
}
_LEVELS: Final = {
    LogLevel.DEBUG: logging.DEBUG,
    LogLevel.INFO: logging.INFO,
    LogLevel.WARNING: logging.WARNING,
    LogLevel.ERROR: logging.ERROR,
}


class LiveNode(LedgerHalf):
    """`node.rpc.port.NodePort` over a running node."""

    def __init__(self, runtime: Runtime, facts: NodeFacts, archive: SetArchive) -> None:
        super().__init__(runtime.ledger, runtime.pool, runtime.opened.chain, archive)
        self._runtime = runtime
        self._facts = facts
        self._draining = False
        runtime.on_committed(self._saw_commit)

    @property
    def facts(self) -> NodeFacts:
        return self._facts

    def _saw_commit(self, committed: Committed, finality_ms: int) -> None:
        self.committed(committed.done, finality_ms)

    async def keep_standing(self) -> None:
        """Tells the services whenever the node's standing changes."""
        while True:
            self.stands(self._standing_now())
            await trio.sleep(STANDING_PERIOD_S)

    def _standing_now(self) -> Standing:
        runtime = self._runtime
        catch_up = runtime.engine.catch_up
        behind = catch_up.behind
        problems = []
        if not runtime.has_quorum:
            lacking = "lanes to validators of quorum power are not open" if runtime.votes else "no peer serves blocks"
            problems.append(f"{lacking}: check the peers and the network")
        if runtime.engine.observing:
            problems.append("the validator observes because its log or sign guard was lost: it votes again by itself")
        return Standing(
            stage=SyncStage.BLOCKS if behind else SyncStage.SYNCED,
            has_quorum=runtime.has_quorum,
            draining=self._draining,
            target_height=catch_up.target,
            problems=tuple(problems),
        )

    # Transactions.

    async def submit(self, transactions: Sequence[Transaction]) -> list[SubmitOutcome]:
        ready = tuple(self.prepared(each) for each in transactions)
        admissions = await self._runtime.submit(ready)
        return [self.outcome(each, admission.reason) for each, admission in zip(ready, admissions, strict=True)]

    async def verify_signature(self, transaction: Transaction) -> bool:
        claims = Candidate(transaction, self.ledger.state, self._head_terms()).claims(self.ledger.state)
        checks = [check for claim in claims for check in claim.checks]
        return bool(checks) and all(await trio.to_thread.run_sync(verify_all, checks))

    # Views.

    def consensus(self) -> ConsensusView:
        runtime, engine = self._runtime, self._runtime.engine
        if isinstance(engine, PowNode):
            work = WorkView(engine.target, engine.core.total_work(), engine.reorganised_blocks)
            return ConsensusView(Height(self.ledger.tip.height + 1), 0, Step.MINING, None, None, work=work)
        replica = engine.replica
        validators, standing, lock = replica.validators, replica.standing, replica.lock
        own = runtime.home.account if runtime.home.account in validators else None
        connected = sorted({*runtime.open_lanes, *((own,) if own is not None else ())})
        return ConsensusView(
            height=replica.height,
            view=replica.view,
            step=_step(engine),
            leader=replica.leader,
            own_validator=own,
            accepted_hash=standing.accepted,
            lock=None if lock is None else (lock.view, lock.block_hash),
            prepare_power=standing.prepare_power,
            commit_power=standing.commit_power,
            view_power=standing.view_power,
            connected_power=validators.power_of_all(connected),
            quorum_power=2 * validators.total_power // 3 + 1,
            total_power=validators.total_power,
            base_timeout_ms=replica.base_timeout_ms,
            view_timeout_ms=standing.timeout_ms,
            timer_armed=standing.is_armed,
            view_changes=runtime.view_changes,
            observing_until=engine.observing_until,
        )

    def peers(self) -> tuple[PeerView, ...]:
        return self._runtime.peering.views()

    def reputations(self) -> tuple[ReputationView, ...]:
        engine = self._runtime.engine
        if isinstance(engine, PowNode):
            return ()
        replica, found = engine.replica, []
        for member in replica.validators.members:
            statistics = replica.reputation.statistics(member.address)
            counts: dict[Violation, int] = {}
            for kind, number in statistics.violations:
                counts[_VIOLATIONS[kind]] = counts.get(_VIOLATIONS[kind], 0) + number
            violations = tuple(sorted(counts.items()))
            found.append(
                ReputationView(member.network_id, member.address, statistics.score, statistics.is_banned, violations)
            )
        return tuple(sorted(found, key=lambda view: view.peer_id))

    def sync(self) -> SyncView:
        runtime = self._runtime
        known = max(runtime.ledger.tip.height, runtime.engine.catch_up.target)
        return SyncView(header_height=Height(known), source_count=runtime.network.sources)

    def pending_evidence(self) -> tuple[bytes, ...]:
        return tuple(self._runtime.evidence)

    # The operator.

    async def add_peer(self, address: str) -> PeerId:
        return await self._runtime.peering.add(address)

    async def remove_peer(self, peer: PeerId) -> bool | None:
        return await self._runtime.peering.remove(peer)

    async def ban_peer(self, peer: PeerId, reason: str, duration_ms: int) -> BanView:
        return await self._runtime.peering.ban(peer, reason, duration_ms)

    async def unban_peer(self, peer: PeerId) -> BanView | None:
        return await self._runtime.peering.unban(peer)

    def bans(self) -> tuple[BanView, ...]:
        return self._runtime.peering.bans()

    def set_log_level(self, level: LogLevel, component: str) -> LogLevel:
        if component not in {"", "node", "p2p"}:
            raise Refused(Reason.INVALID_FIELD, "component: empty for all, or one of node, p2p", {"field": "component"})
        logger = logging.getLogger(component or None)
        before = logger.getEffectiveLevel()
        logger.setLevel(_LEVELS[level])
        return min(_LEVELS, key=lambda each: abs(_LEVELS[each] - before))

    async def create_snapshot(self) -> SnapshotView:
        return await make_snapshot(self._runtime.home, self._runtime.opened.chain, self.set_of)

    def set_of(self, set_hash: Hash) -> ValidatorSet | None:
        """Any validator set that was ever in force here. Any thread."""
        found = self.validator_set(set_hash)
        return None if found is None else decode_validator_set(found)

    async def prune(self, keep_blocks: int) -> PrunedView:
        chain = self._runtime.opened.chain
        before = self.ledger.tip.height
        removed = 0
        while step := chain.prune(Retention(keep_blocks)):
            removed += step
            await trio.lowlevel.checkpoint()
        with chain.read() as reader:
            lowest = reader.bounds.first_body
        return PrunedView(min(lowest, before), removed, 0)

    async def drain(self, timeout_ms: int) -> DrainView:
        """New work is refused from now on; what waits is committed by the network, as long as time allows."""
        self._draining = True
        self.stands(replace(self.standing, draining=True))
        with trio.move_on_after(timeout_ms / 1_000):
            while len(self.mempool):
                await trio.sleep(DRAIN_POLL_S)
        remaining = len(self.mempool)
        return DrainView(complete=not remaining, remaining_transactions=remaining)


def _step(engine: Engine) -> Step:
    replica = engine.replica
    if engine.catch_up.active:
        return Step.SYNCING
    if engine.observing:
        return Step.OBSERVING
    standing, validators = replica.standing, replica.validators
    if standing.accepted is not None:
        return Step.COMMIT if validators.is_quorum(standing.prepare_power) else Step.PREPARE
    if replica.view > 0:
        return Step.VIEW_CHANGE
    return Step.PROPOSAL if standing.is_armed else Step.IDLE
