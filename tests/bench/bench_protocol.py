"""Decoding and receipt verification, each beside the raw primitive that bounds it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from tests.chains import Member, header_of, payment, receipt_story, signed_transaction, small_genesis
from tests.signing import real_signer
from trellis.crypto.schemes import verify_all, verify_one
from trellis.header import decode_header
from trellis.receipt import FinalityReceipt, decode_receipt, verify_receipt
from trellis.transaction import Output, TransactionBody, Transfer, decode_body, decode_transaction
from trellis.types import Address, Height
from trellis.v1 import transaction_pb2

SETS = (4, 10, 100)


@dataclass(frozen=True)
class Row:
    what: str
    each_us: float
    beside: str
    ratio: float


def best_us(work: Callable[[], object], seconds: float = 0.4) -> float:
    """The best mean of five runs: what the work costs when the machine is not busy with something else."""
    work()
    started, rounds = time.perf_counter(), 0
    while time.perf_counter() - started < seconds / 6:
        work()
        rounds += 1
    best = float("inf")
    for _ in range(5):
        started = time.perf_counter()
        for _ in range(rounds):
            work()
        best = min(best, (time.perf_counter() - started) / rounds)
    return best * 1e6


def main() -> None:
    genesis = small_genesis([Member(real_signer(0), 1)])
    account = real_signer(50)
    transaction = signed_transaction(payment(account), account, genesis.hash)
    check = transaction.checks(genesis.hash, transaction.public_key)[0]
    primitive = best_us(lambda: verify_one(check))
    rows = [Row("ML-DSA-65 verify (the primitive)", primitive, "itself", 1.0)]
    rows += _decoding(genesis.validators.addresses[0], transaction.encode())
    for size in SETS:
        members = [Member(real_signer(place), 10) for place in range(size)]
        story = receipt_story([members])
        rows += _receipt(story.receipt, story.genesis, size, primitive)
    width = max(len(row.what) for row in rows)
    print(f"{'protocol layer':<{width}}  {'µs each':>10}  ratio")
    for row in rows:
        print(f"{row.what:<{width}}  {row.each_us:>10,.1f}  {row.ratio:.2f} × {row.beside}")


def _decoding(proposer: Address, encoded: bytes) -> list[Row]:
    genesis = small_genesis([Member(real_signer(0), 1)])
    header = header_of(genesis, 7, proposer).encode()
    decode = best_us(lambda: decode_header(header))
    hashed = best_us(lambda: decode_header(header).hash)
    envelope = best_us(lambda: decode_transaction(encoded))
    body = decode_transaction(encoded).body
    strict = best_us(lambda: decode_body(body))
    runtime = best_us(lambda: transaction_pb2.TransactionBody.FromString(body))
    outputs = tuple(Output(Address(bytes([n]) * 32), n + 1) for n in range(100))
    large = TransactionBody(proposer, 1, Height(100), 3_000, Transfer(outputs)).encode()
    strict_large = best_us(lambda: decode_body(large))
    runtime_large = best_us(lambda: transaction_pb2.TransactionBody.FromString(large))
    beside = "protobuf runtime, which accepts more"
    return [
        Row("header decode", decode, "header decode", 1.0),
        Row("header decode and hash", hashed, "header decode", hashed / decode),
        Row("transaction envelope decode", envelope, "header decode", envelope / decode),
        Row("body decode, 1 output", strict, beside, strict / runtime),
        Row(
            "body decode, 100 outputs",
            strict_large,
            beside,
            strict_large / runtime_large,
        ),
    ]


def _receipt(receipt: FinalityReceipt, trust: object, size: int, primitive: float) -> list[Row]:
    from trellis.genesis import Genesis

    if not isinstance(trust, Genesis):
        raise TypeError("a receipt is checked from genesis here")
    data, seconds = receipt.encode(), 0.4 if size < 100 else 1.0
    whole = best_us(lambda: verify_receipt(decode_receipt(data), trust, verify_all), seconds)
    checks = receipt.certificate.checks(receipt.header.genesis_hash, trust.validators)
    raw = best_us(lambda: verify_all(checks), seconds)
    name = f"receipt, n = {size}, {len(data) / 1_000:,.0f} KB"
    return [
        Row(name, whole, f"verify × {len(checks)} signatures", whole / (primitive * len(checks))),
        Row("  the rest of it", max(0.0, whole - raw), "one verify", max(0.0, whole - raw) / primitive),
    ]


if __name__ == "__main__":
    main()
