"""The quick reader of payments against the general one: they agree on every body, whole or damaged."""

from __future__ import annotations

from hypothesis import example, given, settings
from hypothesis import strategies as st

from trellis.encoding import DecodeError
from trellis.transaction import Output, TransactionBody, Transfer, _decode_body, _payment, decode_body
from trellis.types import U64_MAX, Address, Hash, Height

# Around every size that a varint can have.
integers = st.one_of(
    st.integers(0, U64_MAX), st.sampled_from([(1 << bits) + off for bits in range(7, 64, 7) for off in (-1, 0)])
)
positive = integers.filter(bool)
hashes = st.binary(min_size=32, max_size=32).map(Hash).map(Address)
payments = st.builds(
    lambda sender, nonce, until, fee, to, amount: TransactionBody(
        sender, nonce, Height(until), fee, Transfer((Output(to, amount),))
    ),
    hashes, integers, positive, integers, hashes, positive,
)  # fmt: skip


def general(data: bytes) -> TransactionBody | None:
    try:
        return _decode_body(data)
    except DecodeError:
        return None


@given(payments)
@settings(max_examples=300)
def test_every_payment_is_read_in_one_pass_and_as_the_general_reader_reads_it(body: TransactionBody) -> None:
    data = body.encode()
    assert _payment(data) == _decode_body(data) == decode_body(data) == body


@given(payments, st.integers(0, 120), st.integers(0, 255), st.sampled_from(["replace", "insert", "delete", "cut"]))
@settings(max_examples=2_000)
@example(
    TransactionBody(Address(Hash(bytes(32))), 0, Height(1), 0, Transfer((Output(Address(Hash(bytes(32))), 1),))),
    0,
    0,
    "cut",
)
def test_a_damaged_payment_is_never_read_as_anything_that_the_general_reader_does_not_read(
    body: TransactionBody, place: int, byte: int, how: str
) -> None:
    data = body.encode()
    place %= len(data)
    match how:
        case "replace":
            data = data[:place] + bytes([byte]) + data[place + 1 :]
        case "insert":
            data = data[:place] + bytes([byte]) + data[place:]
        case "delete":
            data = data[:place] + data[place + 1 :]
        case _:
            data = data[:place]
    quick = _payment(data)
    assert quick is None or quick == general(data)


def test_integers_beyond_64_bits_and_wide_zeros_are_left_to_the_general_reader() -> None:
    body = TransactionBody(
        Address(Hash(bytes(32))), 0, Height(1), U64_MAX, Transfer((Output(Address(Hash(bytes(32))), 1),))
    )
    data = body.encode()
    largest = b"\x20" + b"\xff" * 9 + b"\x01"
    assert largest in data
    for other in (b"\xff" * 9 + b"\x02", b"\xff" * 9 + b"\x7f", b"\x80\x00", b"\x00", b"\xff" * 10 + b"\x01"):
        changed = data.replace(largest, b"\x20" + other)
        assert _payment(changed) is None
        assert general(changed) is None
