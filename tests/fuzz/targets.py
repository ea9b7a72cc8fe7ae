"""Every decoder of the protocol layer that sees a stranger's bytes, as one fuzz target each.

A target takes any bytes and raises `Found` if the decoder breaks its promise: it refuses with its own error and nothing
else, and what it accepts encodes to the same bytes again and can be asked every question without surprise. The suite
runs the targets on mutated golden vectors; `tests/fuzz/campaign.py` runs them under a coverage-guided fuzzer.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

from google.protobuf.message import DecodeError as RuntimeRefusal

from tests.signing import fake_verify_all, real_signer
from trellis.address import (
    decode_member_signatures,
    decode_policy,
    encode_member_signatures,
    format_address,
    parse_address,
)
from trellis.block import decode_block, decode_compact_body
from trellis.certificate import Certificate, decode_certificate
from trellis.crypto.cold import decode_cold_certificate
from trellis.crypto.keystore import MIN_SCRYPT_LOG2, CorruptKeystore, ScryptCost, decode_keystore, lock
from trellis.crypto.policy import Role, decode_policy_document
from trellis.encoding import DecodeError, Writer, decode_whole
from trellis.evidence import Evidence, decode_evidence, encode_evidence, evidence_checks, evidence_fault
from trellis.genesis import GenesisInvalid, genesis_from_json
from trellis.header import decode_header, decode_seal
from trellis.merkle import InclusionProof, read_inclusion_proof
from trellis.messages import Proposal, ViewChange, decode_message, encode_message, message_height
from trellis.mmr import decode_mmr, decode_mmr_proof
from trellis.peerid import parse_peer_id, peer_id_text
from trellis.receipt import (
    Checkpoint,
    FinalityReceipt,
    ReceiptInvalid,
    checkpoint_from_json,
    decode_receipt,
    verify_receipt,
)
from trellis.records import decode_signed_address_record, decode_signed_manifest, decode_verdict_batch
from trellis.schedule import decode_schedule
from trellis.statetree import StateProof, decode_state_proof
from trellis.transaction import RotateKey, Transaction, decode_body, decode_transaction
from trellis.types import ZERO_HASH, Address, Hash, Height
from trellis.v1 import transaction_pb2
from trellis.validators import ValidatorSet, decode_validator_set
from trellis.votes import decode_signed_vote
from trellis.wire import FrameDecoder, encode_frame

VECTORS: Final = Path(__file__).resolve().parents[1] / "vectors"


class Found(Exception):
    """A decoder broke its promise."""


@dataclass(frozen=True)
class Target:
    """A decoder under test."""

    name: str
    run: Callable[[bytes], bool]
    """True if the bytes were accepted; raises `Found`, or whatever escaped, if the decoder broke its promise."""
    seeds: Callable[[], list[bytes]]
    decode: Callable[[bytes], object]
    """The decoder alone, for measuring what it allocates; raises what it raises."""


def _load(name: str) -> Any:
    return json.loads((VECTORS / name).read_text())


def _encoded(name: str, *path: str) -> Callable[[], list[bytes]]:
    """All values of the field `encoded` below a place in a vector file."""

    def walk(value: Any) -> Iterator[bytes]:
        if isinstance(value, dict):
            if "encoded" in value:
                yield bytes.fromhex(value["encoded"])
            else:
                for item in value.values():
                    yield from walk(item)
        elif isinstance(value, list):
            for item in value:
                yield from walk(item)

    def seeds() -> list[bytes]:
        found = _load(name)
        for step in path:
            found = found[step]
        return list(walk(found))

    return seeds


def exact(
    name: str,
    decode: Callable[[bytes], Any],
    encode: Callable[[Any], bytes],
    seeds: Callable[[], list[bytes]],
    use: Callable[[Any], None] = lambda value: None,
) -> Target:
    """Accepted bytes are the only encoding of what they mean."""

    def run(data: bytes) -> bool:
        try:
            value = decode(data)
        except DecodeError:
            return False
        if encode(value) != data:
            raise Found(f"{name}: accepted bytes encode differently")
        if decode(encode(value)) != value:
            raise Found(f"{name}: what was read reads differently")
        use(value)
        return True

    return Target(name, run, seeds, decode)


def _self_encoding(value: Any) -> bytes:
    encoded: bytes = value.encode()
    return encoded


def _written(value: InclusionProof) -> bytes:
    writer = Writer()
    value.write(writer)
    return writer.done()


@cache
def _validators() -> ValidatorSet:
    return decode_validator_set(bytes.fromhex(_load("certificates.json")["validator_set"]["encoded"]))


def _use_certificate(certificate: Certificate) -> None:
    certificate.fault(ZERO_HASH, _validators(), fake_verify_all)


def _use_evidence(item: Evidence) -> None:
    evidence_fault(item, ZERO_HASH, _validators(), fake_verify_all)
    evidence_checks(item, ZERO_HASH, _validators().members[0])


def _use_message(message: Any) -> None:
    message_height(message)
    if isinstance(message, Proposal | ViewChange) and message.prepared is not None:
        _use_certificate(message.prepared)


def _use_inclusion(proof: InclusionProof) -> None:
    proof.root([ZERO_HASH] * len(proof.indices))


def _use_state_proof(proof: StateProof) -> None:
    for entry in (proof.left, proof.right):
        proof.lookup(b"key" if entry is None else entry.key, ZERO_HASH, len(proof.buckets))
        proof.lookup(b"key", ZERO_HASH, len(proof.buckets))


def _use_transaction(transaction: Transaction) -> None:
    transaction.witness_id(ZERO_HASH)
    try:
        body = transaction.parsed
        transaction.checks(ZERO_HASH, transaction.public_key)
        if isinstance(body.kind, RotateKey):
            body.kind.checks(ZERO_HASH, body.sender, body.nonce)
    except DecodeError:
        return


def _use_block(block: Any) -> None:
    for transaction in block.transactions:
        _use_transaction(transaction)


@cache
def _trust() -> Checkpoint:
    case = _load("receipts.json")[0]
    chain = Hash(bytes.fromhex(case["genesis_hash"]))
    return Checkpoint(chain, Height(0), chain, decode_validator_set(bytes.fromhex(case["genesis_validators"])))


def _use_receipt(receipt: FinalityReceipt) -> None:
    try:
        verify_receipt(receipt, _trust(), fake_verify_all)
    except ReceiptInvalid:
        return


def _like_the_runtime(message: Any, decode: Callable[[bytes], Any]) -> Callable[[bytes], bool]:
    """What the strict decoder accepts, the protobuf runtime reads and writes back to the same bytes."""

    def run(data: bytes) -> bool:
        try:
            decode(data)
        except DecodeError:
            return False
        parsed = message()
        try:
            parsed.ParseFromString(data)
        except RuntimeRefusal as fault:
            raise Found("the runtime refuses what the strict decoder accepts") from fault
        if parsed.SerializeToString(deterministic=True) != data:
            raise Found("the runtime writes accepted bytes differently")
        return True

    return run


def _both(first: Callable[[bytes], bool], second: Callable[[bytes], bool]) -> Callable[[bytes], bool]:
    def run(data: bytes) -> bool:
        accepted = first(data)
        if second(data) != accepted:
            raise Found("two readings of the same bytes disagree")
        return accepted

    return run


def _frames(data: bytes) -> bool:
    """The stream is cut into three, whole, and byte by byte, always with the same frames."""
    answers = []
    for pieces in (
        [data],
        [data[: len(data) // 2], data[len(data) // 2 :]],
        [data[at : at + 1] for at in range(len(data))],
    ):
        decoder = FrameDecoder(max_payload_bytes=4_096)
        frames, refused = [], None
        try:
            for piece in pieces:
                for frame in decoder.feed(piece):
                    frames.append(frame)
                if decoder.buffered_bytes > 4_096 + 11:
                    raise Found("the decoder holds more than one frame")
        except DecodeError as fault:
            refused = fault.reason
        answers.append((tuple(frames), refused))
        if not data.startswith(b"".join(encode_frame(frame) for frame in frames)):
            raise Found("frames that were not sent")
    if any(answer != answers[0] for answer in answers):
        raise Found("the cuts of the stream change its frames")
    return answers[0][1] is None and bool(answers[0][0])


def _text(parse: Callable[[str], Any], show: Callable[[Any], str], lower: bool) -> Callable[[bytes], bool]:
    def run(data: bytes) -> bool:
        try:
            text = data.decode()
            value = parse(text)
        except (UnicodeDecodeError, DecodeError):
            return False
        if show(value) != (text.lower() if lower else text):
            raise Found(f"{text!r} is a second form of {show(value)!r}")
        return True

    return run


def _genesis(data: bytes) -> bool:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    try:
        genesis = genesis_from_json(document)
    except GenesisInvalid:
        return False
    again = genesis_from_json(genesis.to_json())
    if again.hash != genesis.hash:
        raise Found("a genesis document that means something else when written again")
    return True


def _checkpoint(data: bytes) -> bool:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(document, dict):
        return False
    try:
        checkpoint = checkpoint_from_json(document)
    except ValueError:
        return False
    if checkpoint_from_json(checkpoint.to_json()) != checkpoint:
        raise Found("a checkpoint that reads differently when written again")
    return True


def _keystore(data: bytes) -> bool:
    try:
        store = decode_keystore(data)
    except CorruptKeystore:
        return False
    if store.encode() != data.replace(b"\r\n", b"\n"):
        raise Found("a keystore that is written differently")
    return True


@cache
def _policy() -> Any:
    return decode_policy(bytes.fromhex(_load("addresses.json")["multi-signature"]["encoded"]))


def _policy_seeds() -> list[bytes]:
    return [bytes.fromhex(_load("addresses.json")["multi-signature"]["encoded"])]


def _proof_seeds() -> list[bytes]:
    return [bytes.fromhex(case["encoded"]) for case in _load("merkle.json")["proofs"]]


def _state_proof_seeds() -> list[bytes]:
    trees = _load("state-tree.json")["trees"]
    return [bytes.fromhex(proof["encoded"]) for tree in trees for proof in tree["proofs"]][:12]


def _record_seeds() -> list[bytes]:
    case = _load("records.json")["address_record"]
    parts = (bytes.fromhex(case[name]) for name in ("signed_bytes", "signature"))
    return [b"".join(len(part).to_bytes(4, "big") + part for part in parts)]


def _json_seed(document: Any) -> list[bytes]:
    return [json.dumps(document).encode()]


def _vector_texts(name: str, *path: str) -> list[bytes]:
    found = _load(name)
    for step in path[:-1]:
        found = found[step]
    return [item[path[-1]].encode() for item in found]


def _cold_seeds() -> list[bytes]:
    key, hot = bytes(32), bytes(1_952)
    statement = b"trellis/cert/1" + bytes(32) + b"\x01\x01" + len(hot).to_bytes(4, "big") + hot
    statement += (10).to_bytes(8, "big") + (20).to_bytes(8, "big") + (1).to_bytes(8, "big")
    parts = len(statement).to_bytes(4, "big") + statement + b"\x03" + len(key).to_bytes(4, "big") + key
    return [parts + (7_856).to_bytes(4, "big") + bytes(7_856)]


def _keystore_seeds() -> list[bytes]:
    cheap = ScryptCost(n_log2=MIN_SCRYPT_LOG2, r=1, p=1)
    return [lock(real_signer(0), "password", role=Role.ACCOUNT, label="a key", cost=cheap).encode()]


def _sets() -> list[bytes]:
    return [_validators().encode()]


_BODIES: Final = _encoded("transactions.json", "bodies")
_TRANSACTIONS: Final = _encoded("transactions.json", "transactions")

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (
        exact("header", decode_header, _self_encoding, _encoded("headers.json", "headers")),
        exact("seal", decode_seal, _self_encoding, _encoded("headers.json", "seal")),
        exact("vote", decode_signed_vote, _self_encoding, _encoded("votes.json")),
        exact(
            "certificate",
            decode_certificate,
            _self_encoding,
            _encoded("certificates.json", "certificates"),
            _use_certificate,
        ),
        exact("message", decode_message, encode_message, _encoded("messages.json"), _use_message),
        exact("evidence", decode_evidence, encode_evidence, _encoded("evidence.json"), _use_evidence),
        exact("validator_set", decode_validator_set, _self_encoding, _sets),
        Target(
            "body",
            _both(
                exact("body", decode_body, _self_encoding, _BODIES).run,
                _like_the_runtime(transaction_pb2.TransactionBody, decode_body),
            ),
            _BODIES,
            decode_body,
        ),
        Target(
            "transaction",
            _both(
                exact("transaction", decode_transaction, _self_encoding, _TRANSACTIONS, _use_transaction).run,
                _like_the_runtime(transaction_pb2.Transaction, decode_transaction),
            ),
            _TRANSACTIONS,
            decode_transaction,
        ),
        exact("multisig_policy", decode_policy, _self_encoding, _policy_seeds),
        exact(
            "member_signatures",
            lambda data: decode_member_signatures(data, _policy()),
            encode_member_signatures,
            lambda: [bytes.fromhex(_load("addresses.json")["multi-signature"]["encoded_signatures"])],
        ),
        exact(
            "inclusion_proof",
            lambda data: decode_whole(data, "path", 1 << 20, read_inclusion_proof),
            _written,
            _proof_seeds,
            _use_inclusion,
        ),
        exact("state_proof", decode_state_proof, _self_encoding, _state_proof_seeds, _use_state_proof),
        exact("mmr", decode_mmr, _self_encoding, _encoded("mmr.json", "roots"), lambda mmr: mmr.append(ZERO_HASH)),
        exact(
            "mmr_proof",
            decode_mmr_proof,
            _self_encoding,
            _encoded("mmr.json", "proofs"),
            lambda proof: proof.verifies(ZERO_HASH, ZERO_HASH),
        ),
        exact(
            "address_record", decode_signed_address_record, _self_encoding, _record_seeds, lambda signed: signed.check()
        ),
        exact("manifest", decode_signed_manifest, _self_encoding, _encoded("records.json", "snapshot_manifest")),
        exact("verdict_batch", decode_verdict_batch, _self_encoding, _encoded("records.json", "verdict_batch")),
        exact(
            "schedule",
            decode_schedule,
            _self_encoding,
            lambda: [bytes.fromhex(case["last_encoded"]) for case in _load("schedule.json")],
        ),
        exact(
            "algorithm_policy",
            decode_policy_document,
            _self_encoding,
            lambda: [genesis_from_json(_load("genesis.json")[0]["document"]).policy.encode()],
        ),
        exact("block", decode_block, lambda block: _self_encoding(replace(block)), _encoded("block.json"), _use_block),
        exact(
            "compact_body",
            lambda data: decode_compact_body(data, 1 << 22),
            lambda entries: (
                len(entries).to_bytes(4, "big")
                + b"".join(e.txid + e.witness_prefix + e.size_bytes.to_bytes(4, "big") for e in entries)
            ),
            lambda: [bytes.fromhex(_load("block.json")["compact_body"])],
        ),
        exact("receipt", decode_receipt, _self_encoding, _encoded("receipts.json"), _use_receipt),
        exact("cold_certificate", decode_cold_certificate, _self_encoding, _cold_seeds, lambda item: item.check()),
        Target("frames", _frames, _encoded("frames.json"), lambda data: list(FrameDecoder(4_096).feed(data))),
        Target(
            "address",
            _text(parse_address, lambda value: format_address(Address(value)), lower=True),
            lambda: (
                _vector_texts("addresses.json", "valid", "text") + _vector_texts("addresses.json", "invalid", "text")
            ),
            lambda data: parse_address(data.decode()),
        ),
        Target(
            "peer_id",
            _text(parse_peer_id, peer_id_text, lower=False),
            lambda: _vector_texts("addresses.json", "of keys", "peer_id"),
            lambda data: parse_peer_id(data.decode()),
        ),
        Target("genesis", _genesis, lambda: _json_seed(_load("genesis.json")[0]["document"]), _genesis),
        Target("checkpoint", _checkpoint, lambda: _json_seed(_trust().to_json()), _checkpoint),
        Target("keystore", _keystore, _keystore_seeds, _keystore),
    )
}
"""The handshake's own campaign is `tests/p2p/fuzz_handshake.py`."""
