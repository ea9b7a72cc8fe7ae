"""Four real processes: they commit blocks, survive a kill, and stop when told."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from tests.e2e.network import network, wait_for
from trellis.parameters import Parameters

pytestmark = pytest.mark.e2e

START_S = 90
"""Four interpreters that import libp2p on two busy cores."""


def test_four_processes_commit_the_same_blocks_and_one_that_was_killed_comes_back(tmp_path: Path) -> None:
    with network(tmp_path, 4, Parameters(heartbeat_ms=300)) as nodes:
        wait_for(lambda: min(node.height for node in nodes) >= 5, START_S, "five blocks on all nodes")

        victim = nodes[1]
        victim.kill()
        reached = nodes[0].height
        wait_for(lambda: nodes[0].height >= reached + 3, 30, "three more blocks without one validator")
        victim.start()
        target = nodes[0].height + 3
        wait_for(lambda: victim.height >= target, START_S, "the killed node at the others' height")

        chains = [node.finals() for node in nodes]
        common = set.intersection(*(set(chain) for chain in chains))
        assert len(common) >= 5
        for height in common:
            assert len({chain[height] for chain in chains}) == 1, f"two blocks at height {height}"

        for node in nodes:
            assert node.process is not None
            started = time.monotonic()
            node.send(signal.SIGTERM)
            assert node.process.wait(10) == 0
            assert time.monotonic() - started < 5
        assert not any(node.events("the sign guard refuses a vote") for node in nodes)
