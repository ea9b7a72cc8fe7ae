"""Golden handshakes replay byte for byte."""

from __future__ import annotations

import pytest

from tests.p2p.golden import CASES, Case, ends, outcome, run, vector_of


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_recorded_handshake_replays_byte_for_byte(case: Case) -> None:
    vector = vector_of(case)
    dialer, listener = ends(case, vector)
    said = run(dialer, listener)
    assert [frame.hex() for frame in said.frames] == vector["frames"]
    assert outcome(said) == vector["outcome"]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_vectors_describe_the_setups_they_were_recorded_with(case: Case) -> None:
    vector = vector_of(case)
    dialer, listener = ends(case, vector)
    for name, end in (("dialer", dialer), ("listener", listener)):
        described = vector[name]
        assert isinstance(described, dict)
        assert described["peer_id"] == end.setup.local.peer.hex()
        assert described["seed"] == end.signer.secret.hex()
    described = vector["network"]
    assert isinstance(described, dict)
    assert described["th0"] == dialer.setup.network.th0.hex()
