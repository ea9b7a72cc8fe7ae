"""Hostile requests for every method: random messages, messages with known values in them, mutated bytes.

    python -m tests.node.rpc.fuzz --seconds 60 [--seed 7] [--service LedgerService]

Only codes that the schema documents may come back; the node must live, and its memory must not grow. A finding prints
the method and the request as hex, which `--replay METHOD HEX` sends again.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import grpc
import psutil
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from node.rpc.encode import transaction_message
from tests.node.rpc.calls import METHODS, Caller, failure
from tests.node.rpc.rig import ALICE, BOB, MEMBERS, Rig, address, pay
from trellis.address import format_address
from trellis.client.errors import REASON_ERRORS
from trellis.peerid import peer_id_text
from trellis.transaction import Transaction

CALL_S = 2.0
WITHOUT_REASON = {
    grpc.StatusCode.CANCELLED,
    grpc.StatusCode.DEADLINE_EXCEEDED,  # our own deadline, on streams
    grpc.StatusCode.RESOURCE_EXHAUSTED,  # a request above the size limit
}
STEPS = ("AdminService/Drain",)
"""What ends the fuzzing of everything else: it is fuzzed last."""


class Finding(AssertionError):
    """An answer that no caller should ever get."""


class Fuzzer:
    def __init__(self, rig: Rig, seed: int) -> None:
        self.rig = rig
        self.random = random.Random(seed)
        self.codes: Counter[str] = Counter()
        self.caller = Caller(rig.channel(1))
        transaction = rig.tx(ALICE, pay(BOB, 5))
        rig.commit(transaction)
        rig.commit_to(12)
        with rig.chain.read() as reader:
            block_hash = reader.block_hash(rig.ledger.tip.height)
        self.transaction = transaction
        self.texts = [
            "",
            "x" * 300,
            "é\u0000\u202e",
            format_address(address(ALICE)),
            format_address(MEMBERS[0].address),
            transaction.txid(rig.genesis.hash).hex(),
            block_hash.hex(),
            "00" * 32,
            "lrat.v1",
            "p2p",
            peer_id_text(MEMBERS[1].validator.network_id),
            f"/ip4/192.0.2.7/tcp/7000/p2p/{peer_id_text(MEMBERS[1].validator.network_id)}",
        ]
        page = self.caller.ask("LedgerService/ListBlocks", page={"pageSize": 2}).page.next_page_token
        self.texts.append(page)

    def number(self, bits: int) -> int:
        high = (1 << bits) - 1
        return self.random.choice(
            [0, 1, 2, 5, 11, 12, 13, 30, 100, 999, 1_000, 1_001, high, self.random.randrange(high)]
        )

    def octets(self) -> bytes:
        choices = (
            b"",
            self.transaction.body,
            self.transaction.signature,
            self.transaction.public_key,
            b"mhead",
            self.random.randbytes(self.random.randrange(200)),
            self.mutated(self.transaction.body),
        )
        return self.random.choice(choices)

    def mutated(self, data: bytes) -> bytes:
        found = bytearray(data)
        for _ in range(self.random.randint(1, 4)):
            place = self.random.randrange(len(found) + 1)
            match self.random.randrange(3):
                case 0:
                    found[place:place] = self.random.randbytes(self.random.randint(1, 4))
                case 1:
                    del found[place : place + self.random.randint(1, 8)]
                case _ if place < len(found):
                    found[place] ^= 1 << self.random.randrange(8)
                case _:
                    pass
        return bytes(found)

    def value(self, field: FieldDescriptor, depth: int) -> Any:
        match field.cpp_type:
            case FieldDescriptor.CPPTYPE_MESSAGE:
                return self.message(field.message_type, depth + 1)
            case FieldDescriptor.CPPTYPE_STRING:
                return self.octets() if field.type == FieldDescriptor.TYPE_BYTES else self.random.choice(self.texts)
            case FieldDescriptor.CPPTYPE_BOOL:
                return self.random.random() < 0.5
            case FieldDescriptor.CPPTYPE_ENUM:
                return self.random.choice([0, 1, 2, 9, 10, 77, -1])
            case FieldDescriptor.CPPTYPE_UINT32:
                return self.number(32)
            case _:
                return self.number(64)

    def message(self, descriptor: Any, depth: int = 0) -> Any:
        message = GetMessageClass(descriptor)()
        if descriptor.full_name == "trellis.v1.Transaction" and self.random.random() < 0.7:
            return transaction_message(self.some_transaction())
        for field in descriptor.fields:
            if depth > 3 or self.random.random() < 0.35:
                continue
            if field.is_repeated:
                for _ in range(self.random.choice([0, 1, 2, 3, 101])):
                    item = self.value(field, depth)
                    if field.message_type:
                        getattr(message, field.name).add().CopyFrom(item)
                    else:
                        getattr(message, field.name).append(item)
            elif field.message_type:
                getattr(message, field.name).CopyFrom(self.value(field, depth))
            else:
                setattr(message, field.name, self.value(field, depth))
        return message

    def some_transaction(self) -> Transaction:
        good = self.rig.tx(BOB, nonce=self.random.randrange(3), fee=self.random.choice([7, 50_000]))
        match self.random.randrange(4):
            case 0:
                return good
            case 1:
                return Transaction(self.mutated(good.body), good.alg_id, good.public_key, good.signature)
            case 2:
                return Transaction(good.body, good.alg_id, good.public_key, self.mutated(good.signature))
            case _:
                return Transaction(good.body, self.random.choice([1, 2, 3, 16]), self.octets(), self.octets())

    def request(self, name: str) -> bytes:
        raw: bytes = self.message(METHODS[name].input_type).SerializeToString()
        return self.mutated(raw) if raw and self.random.random() < 0.3 else raw

    def once(self, name: str, raw: bytes) -> None:
        """Sends one request; raises `Finding` if the answer is not documented."""
        method = METHODS[name]
        call = self.caller.raw(name)
        try:
            if method.client_streaming:
                call(iter([raw] * self.random.randint(0, 3)), timeout=CALL_S)
            elif method.server_streaming:
                stream = call(raw, timeout=0.05)
                for _, _item in zip(range(20), stream, strict=False):
                    pass
                stream.cancel()
            else:
                call(raw, timeout=0.2 if name.endswith("WaitForFinality") else CALL_S)
            self.codes["OK"] += 1
        except grpc.RpcError as error:
            self._judge(name, raw, error)

    def _judge(self, name: str, raw: bytes, error: grpc.RpcError) -> None:
        found = failure(error, name).failure
        self.codes[found.code.name] += 1
        documented = found.reason is not None and REASON_ERRORS[found.reason][0] is found.code
        if not documented and found.code not in WITHOUT_REASON:
            raise Finding(f"{name} answered {found.code.name} {found.reason} {found.details}: {name} {raw.hex()}")

    def run(self, seconds: float, names: list[str]) -> int:
        began, sent = time.monotonic(), 0
        while time.monotonic() - began < seconds:
            name = names[sent % len(names)]
            self.once(name, self.request(name))
            sent += 1
            if sent % 500 == 0:
                self.rig.commit()
        return sent


def main() -> int:
    parser = argparse.ArgumentParser(description="Hostile requests for the node's services")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--service", default="", help="only the methods of this service")
    parser.add_argument("--replay", nargs=2, metavar=("METHOD", "HEX"))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, Rig(Path(directory)) as rig:
        fuzzer = Fuzzer(rig, options.seed)
        if options.replay:
            fuzzer.once(options.replay[0], bytes.fromhex(options.replay[1]))
            return 0
        names = [name for name in METHODS if name.startswith(options.service) and name not in STEPS]
        process = psutil.Process()
        tenth = options.seconds / 10
        sent = fuzzer.run(tenth, names)
        before = process.memory_full_info().uss
        sent += fuzzer.run(options.seconds - tenth, names)
        grown = process.memory_full_info().uss / before - 1
        fuzzer.run(1, [name for name in STEPS if name.startswith(options.service)] or names)
        told = ", ".join(f"{code} {count}" for code, count in sorted(fuzzer.codes.items()))
        print(f"seed {options.seed}: {sent} requests, memory {grown:+.1%} after the first tenth; {told}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
