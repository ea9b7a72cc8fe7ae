"""The door: buckets, slots, and who calls whom when."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2p.dialing import FIRST_WAIT_MS, LONGEST_WAIT_MS, dials_first, wait_ms
from p2p.handshake import Reject
from p2p.limits import UNKNOWN_ADDRESS, Doorkeeper, Limits, TokenBucket, TokenBuckets, neighbourhood, plain_address
from trellis.types import PeerId


def test_a_bucket_gives_its_burst_and_then_its_rate() -> None:
    bucket = TokenBucket(burst=3, per_s=2, now_ms=0)
    assert [bucket.take(0) for _ in range(4)] == [True, True, True, False]
    assert not bucket.take(499)
    assert bucket.take(500)
    assert not bucket.take(500)


@given(st.lists(st.integers(min_value=0, max_value=400), max_size=200))
def test_a_bucket_never_gives_more_than_burst_and_rate(steps: list[int]) -> None:
    bucket, now_ms, given_out = TokenBucket(burst=5, per_s=3, now_ms=0), 0, 0
    for step in steps:
        now_ms += step
        given_out += bucket.take(now_ms)
    assert given_out <= 5 + now_ms * 3 // 1_000


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket(burst=1, per_s=1, now_ms=10_000)
    assert bucket.take(10_000)
    assert not bucket.take(0)
    assert not bucket.take(10_500)


def test_the_number_of_buckets_is_bounded() -> None:
    buckets = TokenBuckets(burst=1, per_s=0, most=10)
    for number in range(1_000):
        assert buckets.take(str(number), 0)
    assert len(buckets) == 10


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("192.0.2.77", "192.0.2.0/24"),
        ("2001:db8:1:2::3", "2001:db8:1::/48"),
        ("::ffff:192.0.2.77", "192.0.2.0/24"),
        ("fe80::1%eth0", "fe80::/48"),
        ("nonsense", UNKNOWN_ADDRESS),
    ],
)
def test_neighbours_share_a_network(address: str, network: str) -> None:
    assert neighbourhood(plain_address(address)) == network


LIMITS = Limits(
    knocks_per_address=3,
    knocks_per_address_per_s=1,
    knocks_per_network=5,
    knocks_per_network_per_s=1,
    half_open=6,
    half_open_reserved=2,
)


def test_one_address_may_knock_so_often() -> None:
    door = Doorkeeper(LIMITS)
    answers = [door.knock("192.0.2.1", 0) for _ in range(4)]
    assert answers[3] is Reject.RATE_LIMITED
    assert Reject.RATE_LIMITED not in answers[:3]


def test_a_network_may_knock_so_often_whatever_its_addresses() -> None:
    door = Doorkeeper(LIMITS)
    for number in range(5):
        answer = door.knock(f"192.0.2.{number}", 0)
        if not isinstance(answer, Reject):
            door.leave(answer)
    assert door.knock("192.0.2.99", 0) is Reject.RATE_LIMITED
    assert door.knock("198.51.100.1", 0) is not Reject.RATE_LIMITED


def test_reserved_slots_are_for_validators_only() -> None:
    door = Doorkeeper(LIMITS)
    door.reserve_for(frozenset({"203.0.113.1"}))
    for number in range(4):
        assert not isinstance(door.knock(f"198.51.{number}.1", 0), Reject)
    assert door.knock("198.51.9.1", 0) is Reject.HALF_OPEN_FULL
    reserved = [door.knock("203.0.113.1", 0) for _ in range(3)]
    assert [isinstance(each, Reject) for each in reserved] == [False, False, True]
    assert door.half_open == 6


def test_a_flood_from_a_validators_network_does_not_use_up_the_validators_bucket() -> None:
    door = Doorkeeper(LIMITS)
    door.reserve_for(frozenset({"203.0.113.1"}))
    for number in range(2, 12):
        door.knock(f"203.0.113.{number}", 0)
    assert door.knock("203.0.113.2", 0) is Reject.RATE_LIMITED
    assert not isinstance(door.knock("203.0.113.1", 0), Reject)


def test_a_slot_that_is_given_back_can_be_taken_again() -> None:
    door = Doorkeeper(Limits(half_open=1, half_open_reserved=0))
    for _ in range(5):
        knock = door.knock("192.0.2.1", 0)
        assert not isinstance(knock, Reject)
        assert door.knock("192.0.2.2", 0) is Reject.HALF_OPEN_FULL
        door.leave(knock)
    assert door.half_open == 0


@pytest.mark.parametrize("broken", [{"half_open_reserved": 64}, {"connections_reserved": 192}, {"silence_ms": 100}])
def test_limits_that_shut_everybody_out_are_refused(broken: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="must"):
        Limits(**broken)


@given(st.integers(min_value=0, max_value=100), st.floats(min_value=0, max_value=1))
def test_waits_grow_up_to_a_bound(failures: int, jitter: float) -> None:
    wait = wait_ms(failures, lambda: jitter)
    assert FIRST_WAIT_MS // 2 <= wait <= LONGEST_WAIT_MS
    assert wait_ms(failures + 1, lambda: 0.0) >= wait_ms(failures, lambda: 0.0)


@given(st.binary(min_size=34, max_size=34), st.binary(min_size=34, max_size=34))
def test_of_a_pair_exactly_one_dials_first(one: bytes, other: bytes) -> None:
    if one != other:
        assert dials_first(PeerId(one), PeerId(other)) is not dials_first(PeerId(other), PeerId(one))
