"""The proof-of-work engine, driven by hand: what it follows, what it refuses, when it rolls back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from consensus.pow import (
    Adopt,
    Announce,
    ChainStarted,
    CheckSealed,
    Confirmed,
    Mine,
    MiningWanted,
    PowEffect,
    PowEngine,
    PowObserved,
    PowRule,
    RequestAncestors,
    SealedBlockChecked,
    SealedBlockHeard,
    SealedHeader,
    meets_target,
)
from consensus.pow.engine import MAX_ORPHANS
from trellis.header import NOTE_ROOT_EMPTY, PROOF_COMMITMENT_EMPTY, SEAL_NONE, Header, Seal
from trellis.parameters import Parameters
from trellis.types import ZERO_HASH, Address, Hash, Height, View

GENESIS = Hash(b"g" * 32)
PEER = Address(b"p" * 32)
PARAMETERS = Parameters(pow_initial_target_log2=254, pow_confirmations=3, pow_retarget_blocks=4, block_interval_ms=100)


def sealed(
    parent: Hash, height: int, *, salt: int = 0, target: int = 1 << 254, genesis: Hash = GENESIS, time_ms: int = 0
) -> SealedHeader:
    header = Header(
        genesis_hash=genesis,
        height=Height(height),
        view=View(0),
        timestamp_ms=time_ms or height * 100,
        parent_hash=parent,
        parent_certificate_hash=ZERO_HASH,
        tx_root=Hash(salt.to_bytes(32, "big")),
        witness_root=ZERO_HASH,
        state_root=ZERO_HASH,
        note_root=NOTE_ROOT_EMPTY,
        proof_commitment=PROOF_COMMITMENT_EMPTY,
        validators_hash=ZERO_HASH,
        next_validators_hash=ZERO_HASH,
        params_hash=ZERO_HASH,
        engine_seal_hash=SEAL_NONE,
        proposer=PEER,
    )
    nonce = 0
    while True:
        seal = Seal(target, nonce)
        candidate = replace(header, engine_seal_hash=seal.hash)
        if meets_target(candidate, seal):
            return SealedHeader(candidate, seal)
        nonce += 1


def branch(parent: Hash, height: int, length: int, salt: int = 0) -> list[SealedHeader]:
    blocks: list[SealedHeader] = []
    for place in range(length):
        blocks.append(sealed(blocks[-1].hash if blocks else parent, height + place, salt=salt))
    return blocks


class Driver:
    """Answers every check with valid, and remembers what was asked of the host."""

    def __init__(self, *, invalid: frozenset[Hash] = frozenset()) -> None:
        self.engine = PowEngine(GENESIS)
        self.invalid = invalid
        self.effects: list[PowEffect] = []
        self.engine.step(ChainStarted(GENESIS, Height(0), (), PARAMETERS))

    def hear(self, *blocks: SealedHeader) -> None:
        for block in blocks:
            self._take(self.engine.step(SealedBlockHeard(block, PEER)))

    def _take(self, effects: tuple[PowEffect, ...]) -> None:
        for effect in effects:
            self.effects.append(effect)
            if isinstance(effect, CheckSealed):
                valid = effect.block_hash not in self.invalid
                self._take(self.engine.step(SealedBlockChecked(effect.block_hash, valid)))

    def rules(self) -> list[PowRule]:
        return [effect.rule for effect in self.effects if isinstance(effect, PowObserved)]

    def adopted(self) -> list[Adopt]:
        return [effect for effect in self.effects if isinstance(effect, Adopt)]


def test_a_block_with_work_is_validated_then_adopted_then_announced() -> None:
    driver = Driver()
    (block,) = branch(GENESIS, 1, 1)
    driver.hear(block)
    assert driver.engine.tip == block.hash
    kinds = [type(effect) for effect in driver.effects if not isinstance(effect, PowObserved)]
    assert kinds.index(CheckSealed) < kinds.index(Adopt) < kinds.index(Announce)
    assert driver.adopted() == [Adopt(GENESIS, 0, (block.hash,))]


def test_a_branch_with_more_work_rolls_the_shorter_one_back() -> None:
    driver = Driver()
    short, long = branch(GENESIS, 1, 1, salt=1), branch(GENESIS, 1, 2, salt=2)
    driver.hear(*short, *long)
    assert driver.engine.tip == long[-1].hash
    assert driver.adopted()[-1] == Adopt(GENESIS, 1, tuple(block.hash for block in long))
    assert PowRule.REORGANISED in driver.rules()


def test_of_two_branches_of_equal_work_the_first_seen_stays() -> None:
    driver = Driver()
    one, other = branch(GENESIS, 1, 1, salt=1), branch(GENESIS, 1, 1, salt=2)
    driver.hear(*one, *other)
    assert driver.engine.tip == one[0].hash


def test_an_invalid_block_and_all_on_top_of_it_are_never_followed() -> None:
    good, bad = branch(GENESIS, 1, 1, salt=1), branch(GENESIS, 1, 3, salt=2)
    driver = Driver(invalid=frozenset({bad[0].hash}))
    driver.hear(*good, *bad)
    assert driver.engine.tip == good[0].hash
    assert PowRule.REFUSED in driver.rules()


def test_blocks_that_come_in_the_wrong_order_are_joined_when_the_parent_comes() -> None:
    driver = Driver()
    blocks = branch(GENESIS, 1, 3)
    driver.hear(blocks[2], blocks[1])
    assert [type(effect) for effect in driver.effects].count(RequestAncestors) == 2
    driver.hear(blocks[0])
    assert driver.engine.tip == blocks[2].hash


@pytest.mark.parametrize(
    ("block", "rule"),
    [
        (sealed(GENESIS, 1, genesis=Hash(b"x" * 32)), PowRule.FOREIGN),
        (sealed(GENESIS, 2), PowRule.WRONG_HEIGHT),
        (sealed(GENESIS, 1, target=1 << 255), PowRule.WRONG_TARGET),
        (sealed(GENESIS, 0), PowRule.TOO_OLD),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused_by_its_number(block: SealedHeader, rule: PowRule) -> None:
    driver = Driver()
    driver.hear(block)
    assert rule in driver.rules()
    assert driver.engine.tip == GENESIS


def test_a_seal_without_work_is_refused() -> None:
    driver = Driver()
    block = sealed(GENESIS, 1)
    lazy = Seal(1, block.seal.nonce)
    driver.hear(SealedHeader(replace(block.header, engine_seal_hash=lazy.hash), lazy))
    assert driver.rules() == [PowRule.NO_WORK]


def test_a_seal_that_the_header_does_not_name_is_refused() -> None:
    driver = Driver()
    block = sealed(GENESIS, 1)
    driver.hear(SealedHeader(block.header, Seal(block.seal.target, block.seal.nonce + 1)))
    assert driver.rules() == [PowRule.NO_WORK]


def test_a_block_is_final_at_the_depth_that_genesis_says_and_forks_below_it_are_refused() -> None:
    driver = Driver()
    blocks = branch(GENESIS, 1, 2 + PARAMETERS.pow_confirmations, salt=1)
    driver.hear(*blocks)
    confirmed = [effect for effect in driver.effects if isinstance(effect, Confirmed)]
    assert confirmed == [Confirmed(Height(1), blocks[0].hash), Confirmed(Height(2), blocks[1].hash)]
    assert driver.engine.confirmed == blocks[1].hash
    driver.hear(sealed(GENESIS, 1, salt=9))
    assert driver.rules()[-1] is PowRule.TOO_OLD


def test_orphans_are_bounded() -> None:
    driver = Driver()
    for salt in range(MAX_ORPHANS + 10):
        driver.hear(sealed(Hash(salt.to_bytes(32, "little")), 5, salt=salt))
    assert len(driver.engine._orphans) == MAX_ORPHANS


def test_mining_follows_the_tip_and_stops_when_it_is_not_wanted() -> None:
    driver = Driver()
    (search,) = driver.engine.step(MiningWanted(True))
    assert search == Mine(GENESIS, Height(1), 1 << 254)
    (block,) = branch(GENESIS, 1, 1)
    driver.hear(block)
    searches = [effect for effect in driver.effects if isinstance(effect, Mine)]
    assert searches[-1].parent == block.hash
    (search,) = driver.engine.step(MiningWanted(False))
    assert isinstance(search, Mine)
    assert search.parent is None


def test_every_rule_has_a_number_of_its_own() -> None:
    numbers = [rule.number for rule in PowRule]
    assert len(set(numbers)) == len(numbers)
