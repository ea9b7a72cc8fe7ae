"""Scale: one block decided by many validators, all to all, on production replicas and as little else as can be.

Every vote of every validator is one heap entry that expands as it arrives. With more validators than replicas the
others are voters: they sign what an honest validator would, at the moment at which the sampled replica that stands for
them does, and nothing is delivered to them. What they would have received is computed, and said to be.
"""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from consensus import Replica, Rule, authenticate
from consensus.effects import Broadcast, CheckBlock, Decide, Effect, RequestBlock, VotingMessage, signed_by
from consensus.events import BlockChecked, BlockProposed, Event, MessageReceived, WorkPending
from node.simulator.checkers import SafetyViolation
from node.simulator.heap import Heap
from node.simulator.machine import GENESIS, Council
from node.simulator.network import US_PER_MS
from trellis.messages import Ballot
from trellis.types import Hash
from trellis.votes import Vote

LATENCY_US: Final = 10 * US_PER_MS
JITTER_US: Final = 20 * US_PER_MS


@dataclass(slots=True)
class Scale:
    """What one block took."""

    validators: int
    replicas: int
    delivered: int = 0
    """Messages that production replicas received."""
    decided: int = 0
    virtual_ms: int = 0
    """Until the last replica decided. Later votes still arrive, and are delivered."""

    @property
    def total(self) -> int:
        """All messages of the block: computed, where not every validator is a replica."""
        others = self.validators - 1
        return others + 2 * self.validators * others


@dataclass(slots=True)
class _Seat:
    """One production replica and its host."""

    number: int
    replica: Replica
    stands_for: list[int]
    """Voters that do as it does, at the same time."""
    events: deque[Event] = field(default_factory=deque)
    decided: Hash | None = None


class AllToAll:
    def __init__(self, validators: int, replicas: int | None = None, seed: int = 0) -> None:
        count = validators if replicas is None else min(replicas, validators)
        self.council = Council(validators)
        self.heap = Heap()
        self.chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
        self.scale = Scale(validators, count)
        keys = self.council.keys
        self.seats = [
            _Seat(number, Replica(keys[number].address, GENESIS), list(range(number + count, validators, count)))
            for number in range(count)
        ]

    def run(self) -> Scale:
        for seat in self.seats:
            self._feed(seat, self.council.started, WorkPending(overdue=seat.number == 0))
        while self.heap.run_next():
            if not self.scale.virtual_ms and all(seat.decided is not None for seat in self.seats):
                self.scale.virtual_ms = self.heap.now_us // US_PER_MS
        blocks = {seat.decided for seat in self.seats}
        if len(blocks) != 1 or None in blocks:
            raise SafetyViolation(f"{len(blocks)} outcomes among {len(self.seats)} replicas")
        self.scale.decided = len(self.seats)
        return self.scale

    def _feed(self, seat: _Seat, *events: Event) -> None:
        seat.events.extend(events)
        while seat.events:
            for effect in seat.replica.step(seat.events.popleft()):
                self._do(seat, effect)

    def _do(self, seat: _Seat, effect: Effect) -> None:
        match effect:
            case Broadcast():
                vote = effect.message.signed.vote
                message = signed_by(effect.message, self.council.sign(seat.number, vote).signature)
                seat.events.append(MessageReceived(message, None))
                self._spread(seat.number, message)
                if isinstance(message, Ballot):
                    self._vote_too(seat.stands_for, vote)
            case CheckBlock():
                seat.events.append(BlockChecked(effect.height, effect.view, effect.block_hash, True))
            case RequestBlock():
                header = self.council.block(seat.number, effect.view)
                seat.events.append(BlockProposed(effect.height, effect.view, header, None, b""))
            case Decide():
                seat.decided = effect.block_hash
            case _:
                pass

    def _vote_too(self, voters: Iterable[int], vote: Vote) -> None:
        for voter in voters:
            self._spread(voter, Ballot(self.council.sign(voter, vote)))

    def _spread(self, sender: int, message: VotingMessage) -> None:
        answer = authenticate(message, GENESIS, self.council.validators, self.council.ring.verify)
        if isinstance(answer, Rule):
            raise SafetyViolation(f"a message that is in order was refused by {answer}")
        arrivals = [
            (self.heap.now_us + LATENCY_US + self.chance.randrange(JITTER_US), seat.number)
            for seat in self.seats
            if seat.number != sender
        ]
        self.heap.spread(arrivals, MessageReceived(answer, None), self._arrive)

    def _arrive(self, number: int, event: MessageReceived) -> None:
        self.scale.delivered += 1
        self._feed(self.seats[number], event)


def growth(first: tuple[float, float], last: tuple[float, float]) -> float:
    """The exponent e of y ~ x^e between two points (x, y)."""
    return math.log(max(last[1], 1e-9) / max(first[1], 1e-9)) / math.log(last[0] / first[0])
