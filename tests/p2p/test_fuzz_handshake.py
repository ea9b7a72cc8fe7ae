"""A slice of the fuzzing campaign, and proof that the campaign can fail."""

from __future__ import annotations

import pytest

from p2p.handshake import machine
from p2p.handshake.machine import Handshake
from p2p.handshake.outcome import Step
from tests.p2p.fuzz_handshake import FoundError, campaign


def test_mutated_handshakes_are_refused_without_an_exception() -> None:
    tally = campaign(2_000)
    assert tally.cases == 2_000
    assert {"BAD_SEAL", "BAD_MAC1", "OTHER_NETWORK", "FRAME_TOO_LARGE", "waiting"} <= set(tally.reasons)


def test_a_mutated_handshake_allocates_little_whatever_it_claims() -> None:
    assert 0 < campaign(150, first_seed=5_000, trace_memory=True).peak_bytes < 1 << 20


def test_the_campaign_notices_an_exception_that_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    def careless(self: Handshake, data: bytes) -> Step:
        return self._receive(data)

    monkeypatch.setattr(machine.Handshake, "receive", careless)
    with pytest.raises(FoundError, match="seed"):
        campaign(50)


def test_the_campaign_notices_a_cap_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "MAX_BODY_BYTES", dict.fromkeys(range(5), 1 << 24))
    with pytest.raises(FoundError, match="held"):
        campaign(2_000)
