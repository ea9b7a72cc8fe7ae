"""The seam between a node and whatever decides its blocks.

Proof by votes (`consensus.replica.Replica`) and proof of work (`consensus.pow.PowEngine`) share this shape and the
block validation behind it; a genesis chooses one. An engine is a pure state machine: it never waits, logs, reads a
clock, draws randomness, signs or verifies. Each engine has its own closed unions of events and effects.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Protocol, TypeVar

from trellis.genesis import EngineKind
from trellis.types import Height

__all__ = ["ConsensusEngine", "EngineKind", "Halted", "Worth"]

Event_contra = TypeVar("Event_contra", contravariant=True)
Effect_co = TypeVar("Effect_co", covariant=True)


class Worth(StrEnum):
    """What verifying a message would be worth, told before its signatures are looked at."""

    NOTHING = "nothing"
    """It would be ignored: drop it unverified."""
    LITTLE = "little"
    """It decides nothing any more, but may earn its signer a reward or convict it: verify when idle."""
    MUCH = "much"


class Halted(RuntimeError):
    """The engine met a broken invariant and asked its host to stop; the host came back."""


class ConsensusEngine(Protocol[Event_contra, Effect_co]):
    """What the node and the simulator drive."""

    @property
    def height(self) -> Height:
        """Votes: the height in progress, 0 before the first event. Work: the height of the tip."""

    def step(self, event: Event_contra) -> tuple[Effect_co, ...]:
        """One event in, effects out, in the order in which the host carries them out."""
