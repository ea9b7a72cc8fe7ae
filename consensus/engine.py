"""The seam between a node and whatever decides its blocks.

Proof by votes (`consensus.replica.Replica`) and proof of work share events, effects and block validation; a genesis
chooses one. An engine is a pure state machine: it never waits, logs, reads a clock, draws randomness, signs or
verifies. What only one engine needs is a member of the unions `Event` and `Effect` that the other never sees.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol

from consensus.effects import Effect
from consensus.events import Event
from trellis.messages import Message
from trellis.types import Height


class EngineKind(StrEnum):
    """As genesis names them."""

    PBFT = "pbft"
    POW = "pow"


class Worth(StrEnum):
    """What verifying a message would be worth, told before its signatures are looked at."""

    NOTHING = "nothing"
    """It would be ignored: drop it unverified."""
    LITTLE = "little"
    """It decides nothing any more, but may earn its signer a reward or convict it: verify when idle."""
    MUCH = "much"


class Halted(RuntimeError):
    """The engine met a broken invariant and asked its host to stop; the host came back."""


class ConsensusEngine(Protocol):
    """What the node and the simulator drive."""

    @property
    def height(self) -> Height:
        """The height in progress; 0 before the first `HeightStarted`."""

    def step(self, event: Event) -> tuple[Effect, ...]:
        """One event in, effects out, in the order in which the host carries them out."""

    def worth(self, message: Message) -> Worth:
        """Asked before verification, so that a flood costs its sender more than this node. Changes nothing."""
