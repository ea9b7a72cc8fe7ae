"""Buckets as byte strings: layout, search, and what a damaged one is told by."""

from __future__ import annotations

import pytest

from state.commitment.bucket import (
    EMPTY_BUCKET,
    MalformedBucketError,
    bucket_keys,
    bucket_root,
    build_bucket,
    check_bucket,
    find,
    leaf_hash,
    leaf_hashes,
    neighbours,
    rewrite,
)
from tests.state.commitment.reference import left_full
from trellis.statetree import leaf_node


def entries(count: int) -> list[tuple[bytes, bytes]]:
    return [(b"key-%04d" % number, b"value" * (number % 3)) for number in range(count)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 7, 8, 9, 31, 33, 64, 65])
def test_a_bucket_has_the_root_of_the_left_full_tree_over_its_leaves(count: int) -> None:
    digest, totals = bucket_root(build_bucket(entries(count)))
    expected = left_full([leaf_node(key, value) for key, value in entries(count)])
    assert (digest, totals >> 64, totals & (1 << 64) - 1) == expected


@pytest.mark.parametrize("count", [1, 2, 3, 6, 17, 40])
def test_changing_a_value_in_place_gives_the_same_bytes_as_building_anew(count: int) -> None:
    before = entries(count)
    for place in range(count):
        after = [(key, b"longer than it was" if at == place else value) for at, (key, value) in enumerate(before)]
        assert rewrite(build_bucket(before), [after[place]]) == build_bucket(after)


def test_changes_that_change_nothing_return_the_same_object() -> None:
    bucket = build_bucket(entries(5))
    assert rewrite(bucket, [(b"absent", None)]) is bucket
    assert rewrite(EMPTY_BUCKET, [(b"absent", None)]) is EMPTY_BUCKET


def test_removing_the_last_key_gives_the_empty_bucket() -> None:
    assert rewrite(build_bucket([(b"k", b"v")]), [(b"k", None)]) == EMPTY_BUCKET


def test_a_key_is_not_found_where_its_bytes_span_two_keys() -> None:
    bucket = build_bucket([(b"ab", b"1"), (b"ca", b"2"), (b"cabc", b"3")])
    assert find(bucket, b"bc") is None
    assert find(bucket, b"a") is None
    assert find(bucket, b"ca") == 1
    assert find(bucket, b"cabc") == 2


def test_a_key_is_found_where_its_bytes_occur_earlier_across_two_keys() -> None:
    bucket = build_bucket([(b"ab", b"1"), (b"ba", b"2"), (b"bb", b"3")])
    assert find(bucket, b"bb") == 2


def test_neighbours_stand_on_both_sides_or_at_the_ends() -> None:
    bucket = build_bucket([(b"b", b""), (b"d", b"")])
    assert neighbours(bucket, b"a") == (None, 0)
    assert neighbours(bucket, b"c") == (0, 1)
    assert neighbours(bucket, b"e") == (1, None)
    assert neighbours(EMPTY_BUCKET, b"e") == (None, None)


def test_keys_and_leaves_come_back_in_order() -> None:
    bucket = build_bucket(entries(9))
    assert bucket_keys(bucket) == [key for key, _ in entries(9)]
    assert leaf_hashes(bucket) == [leaf_hash(key, value) for key, value in entries(9)]
    assert leaf_hash(b"k", b"v") == leaf_node(b"k", b"v").hash


@pytest.mark.parametrize("count", [1, 2, 5, 16])
def test_a_bucket_cut_anywhere_is_malformed(count: int) -> None:
    bucket = build_bucket(entries(count))
    check_bucket(bucket)
    for size in range(1, len(bucket)):
        with pytest.raises(MalformedBucketError):
            check_bucket(bucket[:size])
    with pytest.raises(MalformedBucketError):
        check_bucket(bucket + b"\0")


def test_a_bucket_that_claims_more_keys_than_it_has_room_for_is_malformed() -> None:
    with pytest.raises(MalformedBucketError):
        check_bucket(b"\xff\xff\xff\xff" + bytes(100))
    with pytest.raises(MalformedBucketError):
        check_bucket(bytes(100))


def test_keys_out_of_order_are_malformed() -> None:
    bucket = build_bucket([(b"aa", b""), (b"bb", b"")])
    with pytest.raises(MalformedBucketError):
        check_bucket(bucket[:-4] + b"bbaa")
