"""Whole histories that someone offers: refused without certificates, off the checkpoint, or from stolen old keys."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from state.checkpoints import Checkpoint, HistoryFault, HistoryRefusal, check_history, checkpoint_of
from tests.chains import Member, commit, fake_members, header_of, set_of, small_genesis
from tests.signing import fake_verify_all
from trellis.certificate import Certificate
from trellis.header import Header
from trellis.types import Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind

OLD = fake_members([10, 10, 10, 10])
NEW = fake_members([10, 10, 10, 10, 10], first_seed=0)
"""One joins: a quarter of power."""
GENESIS = small_genesis(OLD)
ROOTS = (Hash(bytes(31) + b"\1"), Hash(bytes(31) + b"\2"))


def history(length: int, salt: int = 0, after: Header | None = None, members: Sequence[Member] = OLD) -> list[Header]:
    headers: list[Header] = []
    for _ in range(length):
        before = headers[-1] if headers else after
        height = 1 if before is None else before.height + 1
        headers.append(
            replace(
                header_of(GENESIS, height, set_of(members).addresses[0]),
                parent_hash=GENESIS.hash if before is None else before.hash,
                timestamp_ms=1_000 * height + GENESIS.time_ms,
                state_root=ROOTS[salt],
                validators_hash=set_of(members).hash,
                next_validators_hash=set_of(members).hash,
            )
        )
    return headers


def certified(headers: Sequence[Header], members: Sequence[Member] = OLD) -> list[Certificate | None]:
    return [commit(header, members) for header in headers]


ORIGIN = Checkpoint(GENESIS.hash, Height(0), GENESIS.hash, set_of(OLD).hash, GENESIS.time_ms)
OURS = history(8)


def old_set(height: Height) -> ValidatorSet | None:
    del height
    return set_of(OLD)


def refusal(
    headers: Sequence[Header], certificates: Sequence[Certificate | None], checkpoint: Checkpoint = ORIGIN
) -> HistoryRefusal | None:
    return check_history(headers, certificates, old_set, checkpoint, fake_verify_all)


def fault(found: HistoryRefusal | None) -> tuple[int, HistoryFault] | None:
    return None if found is None else (found.height, found.fault)


def test_a_certified_history_from_genesis_is_taken() -> None:
    assert refusal(OURS, certified(OURS)) is None


def test_a_history_may_pass_through_the_checkpoint_or_begin_above_it() -> None:
    checkpoint = checkpoint_of(OURS[4])
    assert refusal(OURS, certified(OURS), checkpoint) is None
    assert refusal(OURS[5:], certified(OURS[5:]), checkpoint) is None


def test_certificates_below_the_checkpoint_are_not_needed() -> None:
    certificates = certified(OURS)
    certificates[:5] = [None] * 5
    assert refusal(OURS, certificates, checkpoint_of(OURS[4])) is None
    assert fault(refusal(OURS, certificates)) == (1, HistoryFault.NO_CERTIFICATE)


def test_a_history_without_certificates_is_refused() -> None:
    assert fault(refusal(OURS, [None] * 8)) == (1, HistoryFault.NO_CERTIFICATE)
    certificates = certified(OURS)
    certificates[6] = None
    assert fault(refusal(OURS, certificates)) == (7, HistoryFault.NO_CERTIFICATE)


@pytest.mark.parametrize("fork_at", range(1, 6))
def test_a_long_range_fork_with_stolen_old_keys_is_refused_beyond_the_checkpoint(fork_at: int) -> None:
    # All old validators sign: as certificates go, the fork is perfect.
    common = OURS[: fork_at - 1]
    fork = [*common, *history(12 - len(common), salt=1, after=common[-1] if common else None)]
    assert refusal(fork, certified(fork)) is None
    assert fault(refusal(fork, certified(fork), checkpoint_of(OURS[4]))) == (5, HistoryFault.BELOW_CHECKPOINT)
    beyond = fork[5:]
    assert fault(refusal(beyond, certified(beyond), checkpoint_of(OURS[4]))) == (6, HistoryFault.BELOW_CHECKPOINT)


def test_a_history_that_does_not_reach_the_checkpoint_is_unanchored() -> None:
    checkpoint = checkpoint_of(OURS[4])
    assert fault(refusal(OURS[:3], certified(OURS[:3]), checkpoint)) == (3, HistoryFault.UNANCHORED)
    assert fault(refusal(OURS[6:], certified(OURS[6:]), checkpoint)) == (7, HistoryFault.UNANCHORED)


def test_an_empty_history_is_nothing() -> None:
    assert fault(refusal([], [])) == (0, HistoryFault.EMPTY)
    with pytest.raises(ValueError, match="certificates"):
        refusal(OURS, [])


def test_broken_links_foreign_blocks_and_backward_time_are_named() -> None:
    gap = [*OURS[:3], *OURS[4:]]
    assert fault(refusal(gap, certified(gap))) == (5, HistoryFault.BROKEN_LINK)
    foreign = [*OURS[:2], replace(OURS[2], genesis_hash=Hash(bytes(32)))]
    assert fault(refusal(foreign, certified(foreign))) == (3, HistoryFault.FOREIGN_CHAIN)
    backwards = [*OURS[:2], replace(OURS[2], timestamp_ms=OURS[1].timestamp_ms)]
    assert fault(refusal(backwards, certified(backwards))) == (3, HistoryFault.TIME_RUNS_BACKWARDS)
    first = [replace(OURS[0], timestamp_ms=GENESIS.time_ms)]
    assert fault(refusal(first, certified(first))) == (1, HistoryFault.TIME_RUNS_BACKWARDS)


def test_certificates_of_anything_else_do_not_count() -> None:
    good = commit(OURS[3], OLD)
    later = replace(OURS[3], view=View(2))
    for wrong, header in (
        (replace(good, kind=VoteKind.PREPARE), OURS[3]),
        (replace(good, height=Height(5)), OURS[3]),
        (replace(good, block_hash=Hash(bytes(32))), OURS[3]),
        (replace(good, signatures=(bytes(3_309), *good.signatures[1:])), OURS[3]),
        (commit(OURS[3], OLD[:2]), OURS[3]),
        (commit(later, OLD, view=1), later),
    ):
        headers = [*OURS[:3], header]
        certificates = [*certified(OURS[:3]), wrong]
        assert fault(refusal(headers, certificates)) == (4, HistoryFault.BAD_CERTIFICATE)


def changing(new: Sequence[Member]) -> tuple[list[Header], list[Certificate | None], dict[Height, ValidatorSet]]:
    """From height 4 on another set votes, announced by block 3."""
    before = history(3)
    before[2] = replace(before[2], next_validators_hash=set_of(new).hash)
    after = history(2, after=before[2], members=new)
    sets = {Height(height): set_of(OLD if height < 4 else new) for height in range(1, 6)}
    return [*before, *after], [*certified(before), *certified(after, new)], sets


def test_an_announced_change_of_validators_is_followed() -> None:
    headers, certificates, sets = changing(NEW)
    assert check_history(headers, certificates, sets.get, ORIGIN, fake_verify_all) is None


def test_a_set_that_nobody_announced_is_refused() -> None:
    headers, certificates, sets = changing(NEW)
    headers[2] = history(3)[2]
    headers[3] = replace(headers[3], parent_hash=headers[2].hash)
    certificates[2] = commit(headers[2], OLD)
    found = check_history(headers[:4], certificates[:4], sets.get, ORIGIN, fake_verify_all)
    assert fault(found) == (4, HistoryFault.WRONG_VALIDATORS)


def test_a_set_that_was_not_given_or_is_another_is_refused() -> None:
    headers, certificates, sets = changing(NEW)
    for missing in (None, set_of(OLD)):
        found = check_history(
            headers,
            certificates,
            lambda height, at_4=missing: at_4 if height == 4 else sets.get(height),  # type: ignore[misc]  # a default
            ORIGIN,
            fake_verify_all,
        )
        assert fault(found) == (4, HistoryFault.WRONG_VALIDATORS)


def test_more_than_a_third_of_power_cannot_change_at_once() -> None:
    headers, certificates, sets = changing(fake_members([10, 10, 10, 10], first_seed=50))
    found = check_history(headers, certificates, sets.get, ORIGIN, fake_verify_all)
    assert fault(found) == (4, HistoryFault.WRONG_VALIDATORS)
