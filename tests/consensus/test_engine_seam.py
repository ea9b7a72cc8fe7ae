"""Both engines have the one shape that a host drives."""

from __future__ import annotations

from consensus import Effect, Event, Replica
from consensus.engine import ConsensusEngine, EngineKind
from consensus.pow import PowEffect, PowEngine, PowEvent
from trellis import genesis
from trellis.types import Address, Hash


def test_votes_and_work_are_engines_of_one_shape() -> None:
    by_votes: ConsensusEngine[Event, Effect] = Replica(Address(bytes(32)), Hash(bytes(32)))
    by_work: ConsensusEngine[PowEvent, PowEffect] = PowEngine(Hash(bytes(32)))
    for engine in (by_votes, by_work):
        assert callable(engine.step)
        assert isinstance(type(engine).height, property)


def test_genesis_names_the_engines_that_there_are() -> None:
    assert EngineKind is genesis.EngineKind
    assert {kind.value for kind in EngineKind} == {"pbft", "pow"}
