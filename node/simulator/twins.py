"""Twins: two copies of one identity, honest both, under every two-way partition in each of four views.

Two honest copies with one key do most of what a Byzantine validator can: they equivocate in every step, deny each
other's locks, lead two views at once. Which view the twins lead first is tried for all four; the other validators are
interchangeable, for every partition of them is tried. So all leader schedules that rule C2 can give are covered.

In each view a partition stands: what is said reaches all of the sender's side, and is lost to the other. Then timers
fire, where they run, and the sides change. Own current messages are sent again at the start of a view (rule C10). After
the last view all are together, and every honest validator must decide.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from node.simulator.exhaustive import conduct_fault
from node.simulator.machine import Council, Machine, State
from trellis.certificate import Certificate
from trellis.messages import DecidedNotice, Message

VIEWS: Final = 4
MEMBERS: Final = 4
HEALED_VIEWS: Final = 2 * MEMBERS
"""Everybody leads twice once all are together; nobody needs that long."""

Situation = tuple[int, ...]
"""The number of each process's state: the validators in the order of the views they lead, then the second twin."""

Partition = frozenset[int]
"""One side, by processes; the first process is always on the other."""


@dataclass(slots=True)
class TwinsFound:
    """What all partitions came to, for twins that lead one view first."""

    twins_lead: int
    scenarios: int = 0
    situations: int = 0
    """Distinct ones after the last view."""
    forked_proposals: int = 0
    """Scenarios in which both twins' signatures contradict each other: the adversary is not idle."""
    decided: int = 0
    """Scenarios in which somebody decided before all came together."""
    violation: str = ""
    partitions: list[list[int]] = field(default_factory=list)
    """Those that lead to the violation."""


class Twins:
    def __init__(self, twins_lead: int, views: int = VIEWS) -> None:
        self.council = Council(MEMBERS)
        self.twins_lead = twins_lead
        self.views = views
        self.honest = [process for process in range(MEMBERS) if process != twins_lead]
        last_view = views + HEALED_VIEWS
        self.machines = [Machine(self.council, number, last_view, keep_all=True) for number in range(MEMBERS)]
        self.machines.append(Machine(self.council, twins_lead, last_view, variant=1, keep_all=True))
        self.found = TwinsFound(twins_lead)
        self._from: list[dict[Situation, tuple[Situation, Partition]]] = []
        self._notices: dict[Certificate, DecidedNotice] = {}

    def run(self) -> TwinsFound:
        """The same situation reached by several partitions is followed once, and counted as often."""
        found = self.found
        level: Counter[Situation] = Counter({tuple(machine.first.number for machine in self.machines): 1})
        for view in range(self.views):
            following: Counter[Situation] = Counter()
            self._from.append({})
            for situation, times in level.items():
                for side in partitions():
                    after = self._pass_view(situation, side, last=view + 1 == self.views)
                    following[after] += times
                    self._from[-1].setdefault(after, (situation, side))
                    if self._failed(after, self._fault(self._states(after))):
                        return found
            level = following
        found.scenarios = sum(level.values())
        found.situations = len(level)
        for situation, times in level.items():
            states = self._states(situation)
            first, second = states[self.twins_lead], states[-1]
            found.forked_proposals += times * (_contents(first) != _contents(second))
            found.decided += times * any(states[process].decided is not None for process in self.honest)
            if self._failed(situation, self._fault_together(states)):
                return found
        return found

    def _states(self, situation: Situation) -> list[State]:
        return [machine.by_number[number] for machine, number in zip(self.machines, situation, strict=True)]

    def _pass_view(self, situation: Situation, side: Partition, *, last: bool) -> Situation:
        states = self._states(situation)
        everybody = frozenset(range(len(states)))
        for group in (side, everybody - side):
            self._talk(states, sorted(group))
        return self._numbers(states if last else self._time_out(states))

    def _numbers(self, states: list[State]) -> Situation:
        return tuple(state.number for state in states)

    def _time_out(self, states: list[State]) -> list[State]:
        return [
            machine.times_out(state) if state.timer is not None and state.decided is None else state
            for machine, state in zip(self.machines, states, strict=True)
        ]

    def _talk(self, states: list[State], group: list[int]) -> None:
        """Everybody hears everybody of the group until nobody has anything new to say."""
        heard: dict[int, set[int]] = {process: set() for process in group}
        said: dict[int, list[Message]] = {process: self._current(states[process]) for process in group}
        news = True
        while news:
            news = False
            for process in group:
                inbox = [
                    message
                    for other in group
                    if other != process
                    for message in said[other]
                    if id(message) not in heard[process]
                ]
                if not inbox:
                    continue
                heard[process].update(map(id, inbox))
                before = states[process]
                after = self.machines[process].hears(before, self.council.delivery(tuple(inbox), ""))
                states[process] = after
                said[process] += after.sent[len(before.sent) :]
                if after.decided is not None and before.decided is None:
                    said[process].append(self._notice(after))
                news = True

    def _current(self, state: State) -> list[Message]:
        """What a host sends again at the start of a view: own messages of the view, or the certificate."""
        if state.decided is not None:
            return [self._notice(state)]
        return [message for message in state.sent if message.signed.vote.view == state.view]

    def _notice(self, state: State) -> DecidedNotice:
        if state.decided is None:
            raise ValueError("nothing is decided in this state")
        # One object for one certificate, however many states hold it: messages are told apart by identity.
        return self._notices.setdefault(state.decided, DecidedNotice(state.decided))

    def _failed(self, situation: Situation, fault: str) -> bool:
        if fault:
            self.found.violation = fault
            self.found.partitions = self._path(situation)
        return bool(fault)

    def _fault(self, states: list[State]) -> str:
        honest = [states[process] for process in self.honest]
        if len({state.decided.block_hash for state in honest if state.decided is not None}) > 1:
            return "agreement: two honest validators decided different blocks"
        for process, state in zip(self.honest, honest, strict=True):
            fault = conduct_fault(process, state.sent)
            if fault or state.halted:
                return fault or f"halt: {process} stopped"
            if any(number != self.twins_lead for number in state.accused):
                return f"evidence: {process} accuses an honest validator"
        return ""

    def _path(self, situation: Situation) -> list[list[int]]:
        sides: list[list[int]] = []
        for level in reversed(self._from):
            situation, side = level[situation]
            sides.append(sorted(side))
        return sides[::-1]

    def _fault_together(self, states: list[State]) -> str:
        """Nothing is cut any more: everybody decides."""
        for _ in range(HEALED_VIEWS):
            self._talk(states, list(range(len(states))))
            if all(states[process].decided is not None for process in self.honest):
                return self._fault(states)
            states = self._time_out(states)
        return f"no progress: together for {HEALED_VIEWS} views, somebody has not decided"


def partitions() -> Iterator[Partition]:
    """All ways to split the five processes in two, one side empty included."""
    for bits in range(1 << MEMBERS):
        yield frozenset(process for process in range(1, MEMBERS + 1) if bits >> (process - 1) & 1)


def _contents(state: State) -> set[object]:
    return {message.signed.vote for message in state.sent}
