"""Every validity check refuses the block that breaks it, and no check can be dropped unnoticed."""

from __future__ import annotations

import struct
from contextlib import suppress

import pytest

from state.errors import InvalidBlock, InvalidReason
from state.transition import Applied
from tests.state.transition.scenarios import SCENARIOS, all_checks, chain_of_two, drop_check, honest

NEVER_BUILT = frozenset({InvalidReason.MALFORMED_TX, InvalidReason.UNPAYABLE_FEE})
"""Blocks that break these cannot be executed once the check is gone: a body without meaning, whose sender then has no
key, and a row below zero."""


def test_every_check_of_every_table_has_a_scenario_and_no_scenario_is_left_over() -> None:
    assert sorted(SCENARIOS) == sorted(all_checks())
    assert len(all_checks()) == len(set(all_checks()))


@pytest.mark.parametrize("reason", all_checks())
def test_a_block_that_breaks_one_check_is_refused_with_its_reason(
    reason: InvalidReason, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = SCENARIOS[reason](monkeypatch).apply()
    assert isinstance(result, InvalidBlock)
    assert result.reason is reason


@pytest.mark.parametrize("reason", all_checks())
def test_dropping_one_check_lets_its_block_through(reason: InvalidReason, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mutation: the test above fails for this reason, so no check is there for show or covered by another."""
    case = SCENARIOS[reason](monkeypatch)
    drop_check(monkeypatch, reason)
    if reason in NEVER_BUILT:
        with suppress(struct.error):
            result = case.apply()
            assert isinstance(result, InvalidBlock)
            assert result.reason is not reason
        return
    assert isinstance(case.apply(), Applied)


def test_the_honest_block_that_scenarios_start_from_is_valid() -> None:
    chain = chain_of_two()
    assert isinstance(chain.apply(honest(chain)), Applied)


def test_reasons_found_before_signatures_verified_do_not_condemn_the_block_hash() -> None:
    witness = [reason for reason in InvalidReason if not reason.condemns_block]
    assert witness == [
        InvalidReason.WITNESS_ROOT,
        InvalidReason.MALFORMED_TX,
        InvalidReason.KEY_PRESENCE,
        InvalidReason.KEY_MISMATCH,
        InvalidReason.SIGNATURE_FORM,
        InvalidReason.BAD_SIGNATURE,
    ]
