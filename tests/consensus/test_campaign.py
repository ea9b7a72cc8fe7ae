"""Random schedules over the production core: crashes, partitions, loss, missing bodies, then peace and progress.

The simulator does this at length; here a slice keeps the core honest by itself.
"""

from __future__ import annotations

from random import Random

import pytest

from consensus import LaneChanged
from tests.consensus.timed import TimedNetwork

LIVENESS_MS = 60_000


def disturb(network: TimedNetwork, random: Random) -> None:
    """One fault, or the end of one."""
    nodes = range(len(network.hosts))
    match random.randrange(8):
        case 0:
            random.choice([*network.up()] or network.hosts).crash()
        case 1 | 2:
            down = [host for host in network.hosts if not host.is_up]
            if down:
                random.choice(down).start()
        case 3:
            side = [node for node in nodes if random.random() < 0.5]
            network.partition(side, [node for node in nodes if node not in side])
        case 4:
            network.heal()
        case 5:
            for host in network.hosts:
                host.crash()
            for host in network.hosts:
                host.start()
        case 6:
            for host in network.hosts:
                host.unavailable = random.random() < 0.3
        case _:
            network.work(random.random() < 0.8)


def make_peace(network: TimedNetwork, random: Random) -> None:
    """Faults stop for a quorum: up to f nodes stay down."""
    nodes = len(network.hosts)
    network.heal()
    network.latency = lambda _sender, _to: 10
    down = random.sample(range(nodes), random.randrange((nodes - 1) // 3 + 1))
    for host in network.hosts:
        host.unavailable = False
        if host.index in down:
            host.crash()
        elif not host.is_up:
            host.start()
        else:
            host.make_blocks()
            host.check_blocks()
    for host in network.up():
        for other in network.hosts:
            if other is not host:
                host.feed(LaneChanged(other.member.address, other.is_up))
    network.work(True)


@pytest.mark.parametrize("nodes", [4, 7])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_happened_chains_agree_and_progress_resumes(nodes: int, seed: int) -> None:
    network = TimedNetwork([1] * nodes, seed=seed, verify=False)
    random = network.random
    loss, slowest_ms = random.choice([0, 5, 20, 40]), random.choice([50, 200, 1_500])
    network.latency = lambda _sender, _to: None if random.randrange(100) < loss else random.randrange(1, slowest_ms)
    network.start()
    for _ in range(random.randrange(5, 20)):
        network.run(random.randrange(1, 1_500))
        disturb(network, random)
    make_peace(network, random)
    goal = max(network.heights()) + 3
    network.run(LIVENESS_MS, network.all_at(goal))
    network.check_agreement()
    assert all(host.halted is None and not host.guard_refusals for host in network.hosts)
    assert all(len(host.disk.chain) >= goal for host in network.up())
