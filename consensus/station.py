"""What outlives a height: identity, timers, pacemaker, reputation, lanes, and the tray of effects."""

from __future__ import annotations

from typing import Final

from consensus.effects import ArmTimer, DisarmTimer, Effect, Halt, HaltReason, TimerId, TimerKind
from consensus.pacemaker import Pacemaker
from consensus.reputation import Reputation
from trellis.certificate import Certificate
from trellis.parameters import Parameters
from trellis.types import Address, Hash

ANSWERS_A_PERIOD: Final = 4
"""Certificates sent to one peer in one period: at n = 100 one weighs 220 KB, and asking costs a peer 40 bytes."""
ANSWER_PERIOD_MS: Final = 1_000


class Timers:
    """The armed timer of each kind."""

    __slots__ = ("_armed", "_out", "_serial")

    def __init__(self, out: list[Effect]) -> None:
        self._out = out
        self._armed: dict[TimerKind, int] = {}
        self._serial = 0

    def arm(self, kind: TimerKind, delay_ms: int) -> None:
        self._serial += 1
        self._armed[kind] = self._serial
        self._out.append(ArmTimer(TimerId(kind, self._serial), delay_ms))

    def disarm(self, kind: TimerKind) -> None:
        if self._armed.pop(kind, None) is not None:
            self._out.append(DisarmTimer(kind))

    def is_armed(self, kind: TimerKind) -> bool:
        return kind in self._armed

    def fired(self, timer: TimerId) -> bool:
        """Whether this is the armed timer, which then is armed no more."""
        if self._armed.get(timer.kind) != timer.serial:
            return False
        del self._armed[timer.kind]
        return True


class Station:
    """One replica's place: everything that is not about one height."""

    __slots__ = (
        "_answers",
        "_halted",
        "closed_lanes",
        "genesis_hash",
        "me",
        "out",
        "pacemaker",
        "reputation",
        "timers",
    )

    def __init__(self, me: Address, genesis_hash: Hash, parameters: Parameters) -> None:
        self.me = me
        self.genesis_hash = genesis_hash
        self.out: list[Effect] = []
        self.timers = Timers(self.out)
        self.pacemaker = Pacemaker(parameters)
        self.reputation = Reputation()
        self.closed_lanes: dict[Address, None] = {}
        self._answers: dict[Address, int] = {}
        self._halted = False

    def has_halted(self) -> bool:
        return self._halted

    def halt(self, reason: HaltReason, certificates: tuple[Certificate, ...]) -> None:
        """A broken invariant: the last effect of the last step."""
        self._halted = True
        self.out.append(Halt(reason, certificates))

    def may_answer(self, peer: Address) -> bool:
        """Takes one of the peer's answers of this period, if any is left. The caller asks only for validators."""
        given = self._answers.get(peer, 0)
        if given >= ANSWERS_A_PERIOD:
            return False
        self._answers[peer] = given + 1
        if not self.timers.is_armed(TimerKind.ANSWERS):
            self.timers.arm(TimerKind.ANSWERS, ANSWER_PERIOD_MS)
        return True

    def answer_period_over(self) -> None:
        self._answers.clear()
