"""Proof of work under forks and partitions: all miners end on the branch with most work."""

from __future__ import annotations

import pytest

from node.simulator.mining import MiningWorld
from trellis.parameters import Parameters

PARAMETERS = Parameters(
    block_interval_ms=1_000, pow_initial_target_log2=250, pow_retarget_blocks=16, pow_confirmations=6
)
"""A block takes 64 hashes at first; four miners of 16 hashes a second make one a second."""


def world_of(seed: int, *powers: int) -> MiningWorld:
    world = MiningWorld(seed, powers or (16, 16, 16, 16), PARAMETERS)
    world.network.weather.latency_ms = 200
    world.start()
    return world


@pytest.mark.parametrize("seed", range(6))
def test_miners_that_hear_each_other_share_one_chain_and_forks_heal(seed: int) -> None:
    world = world_of(seed)
    world.run_ms(120_000)
    for miner in world.miners:
        miner.hashes_per_s = 0
    world.run_ms(5_000)
    tips = {miner.engine.tip for miner in world.miners}
    longest = max(len(miner.chain) for miner in world.miners)
    shared = min(len(miner.chain) for miner in world.miners)
    prefix = {tuple(block.block.hash for block in miner.chain[: shared - 1]) for miner in world.miners}
    assert longest >= 30
    assert len(prefix) == 1
    assert len(tips) <= 2, "at most a tie at the tip is open"
    assert world.deepest_conflict == 0


@pytest.mark.parametrize("seed", range(4))
def test_a_partition_shorter_than_the_confirmations_ends_in_a_rollback_and_one_chain(seed: int) -> None:
    world = world_of(seed, 48, 16, 16, 16)
    world.run_ms(60_000)
    world.network.partition([0, 1], [2, 3])
    world.run_ms(2_500)
    world.network.heal()
    world.run_ms(60_000)
    shared = min(len(miner.chain) for miner in world.miners) - 2
    assert len({miner.chain[shared].block.hash for miner in world.miners}) == 1
    assert len({miner.states[shared].root for miner in world.miners}) == 1


def test_reorganisations_roll_state_back_and_reach_the_state_of_the_other_branch() -> None:
    rolled_back = 0
    for seed in range(8):
        world = world_of(seed)
        world.network.partition([0, 1], [2, 3])
        world.run_ms(4_000)
        world.network.heal()
        world.run_ms(30_000)
        rolled_back += sum(miner.reorganised for miner in world.miners)
    assert rolled_back > 0


def test_difficulty_follows_hash_power() -> None:
    world = world_of(3, 64, 64, 64, 64)
    world.run_ms(600_000)
    chain = world.miners[0].chain
    last = chain[-100:]
    interval_ms = (last[-1].block.header.timestamp_ms - last[0].block.header.timestamp_ms) / (len(last) - 1)
    assert 600 <= interval_ms <= 1_600, f"a block every {interval_ms:.0f} ms"
    assert chain[-1].seal.target < chain[0].seal.target, "more power than genesis assumed: harder"


def test_the_same_seed_mines_the_same_chain() -> None:
    chains = []
    for _ in range(2):
        world = world_of(11)
        world.run_ms(30_000)
        chains.append([block.block.hash for block in world.miners[0].chain])
    assert chains[0] == chains[1]
