"""A slice of the fuzzing campaign: every method, a fixed seed, a bounded number of requests."""

from __future__ import annotations

import pytest

from tests.node.rpc.calls import METHODS
from tests.node.rpc.fuzz import STEPS, Finding, Fuzzer
from tests.node.rpc.rig import Rig

ROUNDS = 12


def test_every_method_answers_hostile_requests_with_documented_codes_alone(rig: Rig) -> None:
    fuzzer = Fuzzer(rig, seed=1)
    for name in [*(name for name in METHODS if name not in STEPS), *STEPS]:
        for _ in range(ROUNDS):
            fuzzer.once(name, fuzzer.request(name))
    assert fuzzer.codes["OK"] > 50
    assert fuzzer.codes["INVALID_ARGUMENT"] > 100
    assert not {"INTERNAL", "UNKNOWN"} & set(fuzzer.codes)
    assert fuzzer.caller.ask("NodeService/GetStatus").draining


def test_the_fuzzer_reports_a_fault_of_the_node(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    fuzzer = Fuzzer(rig, seed=1)

    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(rig.port, "peers", broken)
    with pytest.raises(Finding, match="NodeService/ListPeers answered INTERNAL"):
        fuzzer.once("NodeService/ListPeers", b"")
