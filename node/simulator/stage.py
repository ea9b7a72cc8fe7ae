"""Scripted schedules: what seeds hardly ever find. A script decides of each packet whether it arrives, and who turns.

The forks that a script tries are the ones that the rules on justification exist for: one replica decides alone, and the
corrupted leader of the next view, which knows that, proposes something else with a justification that is not one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from consensus.effects import Broadcast
from node.simulator.adversary import Adversary, PreparedLiar, ViewDriver
from node.simulator.checkers import SafetyViolation
from node.simulator.engine_host import EngineWorld
from node.simulator.host import Host, Packet, Parcel, Work
from node.simulator.ledger import ChainBlock, Operation, OperationKind
from node.simulator.network import US_PER_MS, Weather
from node.simulator.world import Scene, World, even_stakes
from trellis.messages import Ballot, Proposal, ViewChange
from trellis.parameters import Parameters
from trellis.types import Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind

QUICK: Final = Parameters(
    block_interval_ms=20,
    heartbeat_ms=500,
    min_base_timeout_ms=200,
    view_timer_cap_ms=1_000,
    rotation_blocks=32,
    demotion_heights=2,
    epoch_blocks=1_000,
    evidence_window_blocks=1_000,
    unbonding_blocks=2_000,
)
WORK_EVERY_US: Final = 100 * US_PER_MS
LIVENESS_US: Final = 20_000 * US_PER_MS


class Actor(Adversary):
    """Honest until a script turns it; only then is it free of its guard."""

    honest = True

    def _sign_and_send(self, effect: Broadcast) -> None:
        if self.honest:
            super(Adversary, self)._sign_and_send(effect)
        else:
            super()._sign_and_send(effect)

    def turn(self) -> None:
        self.honest = False


class Stage(World):
    """A world on which `passes` lets packets through."""

    def __init__(
        self,
        nodes: int = 4,
        seed: int = 0,
        parameters: Parameters = QUICK,
        roles: Mapping[int, type[Adversary]] = MappingProxyType({}),
        stakes: tuple[int, ...] | None = None,
    ) -> None:
        self._roles = roles
        self.passes: Callable[[int, int, Packet], bool] = lambda sender, receiver, packet: True
        self.actors: list[Actor] = []
        super().__init__(Scene(nodes, seed, stakes or even_stakes(nodes), parameters), self._cast)
        self.network.weather = Weather(latency_ms=10, jitter_ms=0)

    def _cast(self, world: World, index: int) -> Host:
        role = self._roles.get(index)
        if role is not None:
            return world.cast(role, index)
        actor = world.cast(Actor, index)
        self.actors.append(actor)
        return actor

    def send(self, sender: int, receivers: Iterable[int], packet: Packet) -> None:
        super().send(sender, [other for other in receivers if self.passes(sender, other, packet)], packet)

    def keep_working(self) -> None:
        self.new_work(OperationKind.DATA, self.hosts[0].me, 1)
        self.heap.after(WORK_EVERY_US, self.keep_working)

    def begin(self) -> None:
        self.start()
        self.keep_working()

    def run_ms(self, milliseconds: int) -> None:
        end_us = self.heap.now_us + milliseconds * US_PER_MS
        self.run_until(lambda: self.heap.now_us >= end_us, end_us)

    def leader(self, height: Height, view: int) -> Actor | None:
        """None as long as no actor has the state that says, or if it is none of them."""
        for actor in self.actors:
            if actor.height >= height - 1:
                state = actor.durable.states[height - 1]
                order = state.schedule.order(state.validators)
                leads = order[view % len(order)]
                return next((other for other in self.actors if other.me == leads), None)
        return None

    def progresses(self, heights: int = 2) -> bool:
        target = self.highest_honest() + heights
        return self.run_until(lambda: self.lowest_honest() >= target, self.heap.now_us + LIVENESS_US)


class EngineStage(Stage, EngineWorld):
    """The same on the node's engine."""


class Forgery(StrEnum):
    """What the corrupted leader puts in the place of a justification."""

    NOTHING = "no VIEW-CHANGEs at all"
    TOO_FEW = "one VIEW-CHANGE, its own"
    REPEATED = "its own VIEW-CHANGE three times"
    REPLACED = "a sound justification, but another block than the prepared one"
    UNPROVEN = "a prepared block that only it names, with the certificate of another"
    OTHER_VIEW = "sound VIEW-CHANGEs for the view before"
    OTHER_HEIGHT = "sound VIEW-CHANGEs of the height before"


class ForkAttempt:
    """One replica decides a block alone; then the corrupted leader of the next view proposes another."""

    def __init__(self, forgery: Forgery, seed: int = 0, stage: type[Stage] = Stage) -> None:
        self.forgery = forgery
        self.stage = stage(seed=seed)
        self.stage.passes = self._passes
        self.height = Height(2 if forgery is Forgery.OTHER_HEIGHT else 1)
        self.view = View(2 if forgery is Forgery.OTHER_VIEW else 1)
        self.changes: dict[tuple[int, int, int], SignedVote] = {}
        self.forged: ChainBlock | None = None
        self.over = False
        self._planned = False

    def run(self) -> str:
        """What a checker says; nothing if the attempt came to nothing and the network went on."""
        stage = self.stage
        try:
            stage.begin()
            stage.run_until(lambda: self.forged is not None, LIVENESS_US)
            if self.forged is None:
                raise RuntimeError("the script never came to its forgery")
            stage.run_ms(600)
            self.over = True
            stage.lanes_changed()
            return "" if stage.progresses() else "no progress"
        except SafetyViolation as violation:
            return str(violation)

    def _passes(self, sender: int, receiver: int, packet: Packet) -> bool:
        if self.over:
            return True
        decider = self.stage.leader(self.height, self.view - 1)
        if decider is not None and decider.height >= self.height and decider.index in (sender, receiver):
            return False
        if not isinstance(packet, Proposal | Ballot | ViewChange):
            return True
        vote = packet.signed.vote
        if isinstance(packet, ViewChange):
            self._remember(packet.signed)
        if vote.height == self.height - 1:
            return self.forgery is not Forgery.OTHER_HEIGHT or not isinstance(packet, Proposal) or vote.view > 0
        if vote.height != self.height or decider is None:
            return True
        return self._passes_at_height(sender, receiver, packet, decider)

    def _passes_at_height(
        self, sender: int, receiver: int, packet: Proposal | Ballot | ViewChange, decider: Actor
    ) -> bool:
        vote = packet.signed.vote
        if isinstance(packet, Proposal) and vote.view < self.view - 1:
            return False
        if vote.kind is VoteKind.COMMIT and vote.view == self.view - 1:
            return receiver == decider.index
        traitor = self.stage.leader(self.height, self.view)
        if vote.view == self.view and traitor is not None and sender == traitor.index and vote.block_hash is not None:
            return self.forged is not None and vote.block_hash == self.forged.hash
        return True

    def _remember(self, signed: SignedVote) -> None:
        vote = signed.vote
        self.changes[vote.height, vote.view, self.stage.index_of(signed.signer)] = signed
        asked = [place for place in self.changes if place[:2] == (self.height, self.view)]
        if len(asked) >= 3 and not self._planned:
            self._planned = True
            self.stage.heap.after(30 * US_PER_MS, self._forge)

    def _forge(self) -> None:
        traitor = self.stage.leader(self.height, self.view)
        decider = self.stage.leader(self.height, self.view - 1)
        if traitor is None or decider is None or traitor.replica is None or decider.height < self.height:
            raise RuntimeError("the script went another way")
        traitor.turn()
        fresh = self.forgery is not Forgery.UNPROVEN
        certificate = traitor.durable.chain[-1][1] if traitor.durable.chain else None
        block = traitor.make_block(
            self.view if fresh else View(self.view - 1),
            certificate,
            [Operation(1 << 42, OperationKind.DATA, traitor.me, 1)],
            traitor.clock_ms(),
            traitor.me if fresh else decider.me,
        )
        self.forged = block
        traitor.durable.bodies[block.hash] = block
        vote = Vote(VoteKind.PRE_PREPARE, self.height, self.view, block.hash)
        proven = traitor.replica.lock if self.forgery in (Forgery.REPLACED, Forgery.UNPROVEN) else None
        entries = self._entries(traitor, Prepared(View(self.view - 1), block.hash))
        proposal = Proposal(traitor.sign(vote), block.header, certificate, entries, proven, traitor.compact(block))
        traitor.send_all(proposal)
        for kind in (VoteKind.PREPARE, VoteKind.COMMIT):
            traitor.send_all(Ballot(traitor.sign(replace(vote, kind=kind))))

    def _entries(self, traitor: Actor, named: Prepared) -> tuple[SignedVote, ...]:
        own = traitor.sign(Vote(VoteKind.VIEW_CHANGE, self.height, self.view))
        match self.forgery:
            case Forgery.NOTHING:
                return ()
            case Forgery.TOO_FEW:
                return (own,)
            case Forgery.REPEATED:
                return (own,) * 3
            case Forgery.REPLACED:
                return (own, *self._heard(self.height, self.view, but=traitor.index))
            case Forgery.UNPROVEN:
                liar = traitor.sign(replace(own.vote, prepared=named))
                return (liar, *self._heard(self.height, self.view, but=traitor.index))
            case Forgery.OTHER_VIEW:
                return self._heard(self.height, self.view - 1)
            case Forgery.OTHER_HEIGHT:
                return self._heard(self.height - 1, 1)

    def _heard(self, height: int, view: int, but: int = -1) -> tuple[SignedVote, ...]:
        at = [place for place in sorted(self.changes) if place[:2] == (height, view) and place[2] != but]
        return tuple(self.changes[place] for place in at)[: 3 if but < 0 else 2]


def starved_view(on: type[Stage] = Stage) -> str:
    """A block is prepared, but nobody hears a COMMIT; proposed again, nobody hears a PREPARE; then all is heard."""
    stage = on()

    def passes(sender: int, receiver: int, packet: Packet) -> bool:
        if not isinstance(packet, Ballot) or packet.signed.vote.height != 1:
            return True
        vote = packet.signed.vote
        return vote.view > 1 or (vote.view == 0 and vote.kind is VoteKind.PREPARE)

    stage.passes = passes
    return _verdict(stage)


def late_prepares(on: type[Stage] = Stage) -> str:
    """PREPAREs of the first view arrive once everybody has moved on."""
    stage = on()
    held: list[tuple[int, int, Packet]] = []

    def passes(sender: int, receiver: int, packet: Packet) -> bool:
        if not isinstance(packet, Ballot) or packet.signed.vote.height != 1 or packet.signed.vote.view:
            return True
        held.append((sender, receiver, packet))
        return False

    def release() -> None:
        stage.passes = lambda sender, receiver, packet: True
        for sender, receiver, packet in held:
            stage.send(sender, (receiver,), packet)

    stage.passes = passes
    stage.begin()
    stage.run_until(lambda: all(a.replica is not None and a.replica.view == 1 for a in stage.actors), LIVENESS_US)
    release()
    return _verdict(stage, begun=True)


def poisoned_views(on: type[Stage] = Stage) -> str:
    """The first leader proposes nothing, and asks for every view first, naming a prepared block that does not exist."""
    first = on().leader(Height(1), 0)
    return _verdict(on(roles={} if first is None else {first.index: PreparedLiar}))


def silent_start(on: type[Stage] = Stage) -> str:
    """For four seconds nothing but work gets through, and nobody notices: what was said must be said again (C10)."""
    stage = on()
    stage.passes = lambda sender, receiver, packet: (
        isinstance(packet, Work | Parcel) or stage.heap.now_us > 4_000 * US_PER_MS
    )
    return _verdict(stage)


def one_driver(on: type[Stage] = Stage) -> str:
    """One validator asks for view after view."""
    return _verdict(on(roles={3: ViewDriver}))


def _verdict(stage: Stage, *, begun: bool = False) -> str:
    try:
        if not begun:
            stage.begin()
        return "" if stage.progresses(3) else "no progress"
    except SafetyViolation as violation:
        return str(violation)


MOST_VIEWS_APART: Final = 3


def long_partition(on: type[Stage] = Stage) -> str:
    """Two halves for twenty seconds: neither has a quorum, so no view above the first ever runs out (rule C11)."""
    stage = on()
    try:
        stage.begin()
        stage.run_ms(1_000)
        stage.network.partition([0, 1], [2, 3])
        stage.lanes_changed()
        stage.run_ms(20_000)
        highest = max(actor.replica.view for actor in stage.actors if actor.replica is not None)
        if highest > MOST_VIEWS_APART:
            return f"runaway views: view {highest} in a partition"
        stage.network.heal()
        stage.lanes_changed()
        return "" if stage.progresses() else "no progress"
    except SafetyViolation as violation:
        return str(violation)
