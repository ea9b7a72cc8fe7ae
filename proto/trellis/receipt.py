"""Finality receipts: one small file that proves, offline and against a quantum computer, that a transaction is final.

A receipt holds the transaction's body, its outcome and fee, the path to the block's tx_root, the header, a certificate
of the header, and every change of the validator set from the trusted start to that height. The trusted start is the
genesis, or a checkpoint: a block that the verifier trusts by other means.

Checked from genesis, a receipt assumes that no past validator set was more than a third compromised, even after its
members left. Against stolen old keys use a checkpoint younger than the unbonding delay. `verify` says which was used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from trellis.block import transaction_leaf
from trellis.certificate import MAX_CERTIFICATE_BYTES, Certificate, CertificateFault, decode_certificate
from trellis.constants import MAX_TX_BODY_BYTES
from trellis.crypto.algorithms import VerifyMany
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.genesis import Genesis
from trellis.header import HEADER_BYTES, Header, decode_header
from trellis.merkle import InclusionProof, read_inclusion_proof
from trellis.outcome import Outcome
from trellis.transaction import TransactionBody, decode_body, txid_of
from trellis.types import U64_MAX, Hash, Height
from trellis.validators import MAX_SET_BYTES, ValidatorSet, decode_validator_set
from trellis.votes import VoteKind

RECEIPT_MAGIC: Final = b"trellis-receipt\x00"
RECEIPT_VERSION: Final = 1
MAX_TRANSITIONS: Final = 65_536
MAX_RECEIPT_BYTES: Final = 256 << 20
"""Hundreds of changed sets at n = 100 (0.42 MB each) fit; anything larger wants a checkpoint."""
_MAX_PATH_BYTES: Final = 4_096


class ReceiptFault(StrEnum):
    """Why a receipt proves nothing."""

    MALFORMED = "malformed"
    WRONG_CHAIN = "wrong_chain"
    BEFORE_TRUST = "before_trust"
    TRANSITION_ORDER = "transition_order"
    TRANSITION_SET = "transition_set"
    TRANSITION_CERTIFICATE = "transition_certificate"
    TRANSITION_NEXT_SET = "transition_next_set"
    UNKNOWN_SET = "unknown_set"
    CERTIFICATE = "certificate"
    NOT_IN_BLOCK = "not_in_block"


class ReceiptInvalid(Exception):
    """The receipt does not prove what it says."""

    def __init__(self, fault: ReceiptFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Transition:
    """The last block under one validator set, certified by it, and the set that its header hands over to."""

    header: Header
    certificate: Certificate
    following: ValidatorSet


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A block that the verifier trusts by other means, and the validators of the height after it."""

    genesis_hash: Hash
    height: Height
    block_hash: Hash
    validators: ValidatorSet

    def to_json(self) -> dict[str, object]:
        return {
            "genesis_hash": self.genesis_hash.hex(),
            "height": self.height,
            "block_hash": self.block_hash.hex(),
            "validators": self.validators.encode().hex(),
        }


def checkpoint_from_json(document: Mapping[str, object]) -> Checkpoint:
    """Raises `ValueError` with the field that is wrong."""
    wanted = {"genesis_hash", "height", "block_hash", "validators"}
    if set(document) != wanted:
        raise ValueError(f"a checkpoint has exactly the fields {', '.join(sorted(wanted))}")
    height = document["height"]
    if type(height) is not int or not 0 <= height <= U64_MAX:
        raise ValueError("a checkpoint's height is an integer of 64 bits, zero or more")
    raw: dict[str, bytes] = {}
    for name in ("genesis_hash", "block_hash", "validators"):
        text = document[name]
        if not isinstance(text, str):
            raise ValueError(f"a checkpoint's {name} is a hex string")
        try:
            raw[name] = bytes.fromhex(text)
        except ValueError as fault:
            raise ValueError(f"a checkpoint's {name} is not hex") from fault
        if name != "validators" and len(raw[name]) != 32:
            raise ValueError(f"a checkpoint's {name} has 32 bytes, not {len(raw[name])}")
    try:
        validators = decode_validator_set(raw["validators"])
    except DecodeError as fault:
        raise ValueError(f"a checkpoint's validators are not a validator set: {fault}") from fault
    return Checkpoint(Hash(raw["genesis_hash"]), Height(height), Hash(raw["block_hash"]), validators)


@dataclass(frozen=True)
class FinalityReceipt:
    body: bytes
    """The transaction's exact body. The witness is not here: the quorum that certified the block checked it."""
    outcome: Outcome
    fee: int
    path: InclusionProof
    header: Header
    certificate: Certificate
    transitions: tuple[Transition, ...]
    """Ascending by height, all below the header's."""

    def encode(self) -> bytes:
        path = Writer()
        self.path.write(path)
        writer = Writer().raw(RECEIPT_MAGIC).u16(RECEIPT_VERSION)
        writer.lp(self.body).u16(self.outcome).u64(self.fee).lp(path.done())
        writer.raw(self.header.encode()).lp(self.certificate.encode()).u32(len(self.transitions))
        for transition in self.transitions:
            writer.raw(transition.header.encode()).lp(transition.certificate.encode())
            writer.lp(transition.following.encode())
        return writer.done()

    @property
    def txid(self) -> Hash:
        return txid_of(self.header.genesis_hash, self.body)


def decode_receipt(data: bytes) -> FinalityReceipt:
    return decode_whole(data, "receipt", MAX_RECEIPT_BYTES, _read_receipt)


def _read_receipt(reader: Reader) -> FinalityReceipt:
    magic = reader.fixed(len(RECEIPT_MAGIC), "magic")
    if magic != RECEIPT_MAGIC:
        raise DecodeError(Malformed.UNKNOWN_KIND, "this file is not a Trellis receipt")
    version = reader.u16("receipt version")
    if version != RECEIPT_VERSION:
        raise DecodeError(
            Malformed.UNKNOWN_VERSION, f"receipt version {version}, this software knows {RECEIPT_VERSION}"
        )
    body = reader.lp("body", MAX_TX_BODY_BYTES)
    outcome = reader.u16("outcome")
    if outcome not in Outcome.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"outcome {outcome}")
    fee = reader.u64("fee")
    path = decode_whole(reader.lp("path", _MAX_PATH_BYTES), "path", _MAX_PATH_BYTES, read_inclusion_proof)
    header, certificate = _read_certified(reader)
    number = reader.count("transitions", MAX_TRANSITIONS, HEADER_BYTES)
    transitions: list[Transition] = []
    for _ in range(number):
        of_header, of_certificate = _read_certified(reader)
        following = decode_validator_set(reader.lp("following set", MAX_SET_BYTES))
        transitions.append(Transition(of_header, of_certificate, following))
    return FinalityReceipt(body, Outcome(outcome), fee, path, header, certificate, tuple(transitions))


def _read_certified(reader: Reader) -> tuple[Header, Certificate]:
    header = decode_header(reader.fixed(HEADER_BYTES, "header"))
    return header, decode_certificate(reader.lp("certificate", MAX_CERTIFICATE_BYTES))


@dataclass(frozen=True, slots=True)
class Finality:
    """What a valid receipt proves."""

    txid: Hash
    body: TransactionBody
    outcome: Outcome
    fee: int
    height: Height
    block_hash: Hash
    timestamp_ms: int
    signed_power: int
    total_power: int
    trusted: str
    """"genesis", or the checkpoint's height."""


def certified_fault(
    header: Header, certificate: Certificate, validators: ValidatorSet, verify: VerifyMany
) -> CertificateFault | None:
    """None if `validators`, who must be V(header.height), made this header final with this certificate."""
    if certificate.kind is not VoteKind.COMMIT:
        return CertificateFault.WRONG_KIND
    if certificate.height != header.height:
        return CertificateFault.WRONG_HEIGHT
    if certificate.view < header.view:
        return CertificateFault.WRONG_VIEW
    if certificate.block_hash != header.hash:
        return CertificateFault.WRONG_HASH
    return certificate.fault(header.genesis_hash, validators, verify)


def verify_receipt(receipt: FinalityReceipt, trust: Genesis | Checkpoint, verify: VerifyMany) -> Finality:
    """Raises `ReceiptInvalid` unless every link holds from `trust` to the transaction's outcome."""
    match trust:
        case Genesis():
            genesis_hash, height, validators, trusted = trust.hash, Height(0), trust.validators, "genesis"
        case Checkpoint():
            genesis_hash, height = trust.genesis_hash, trust.height
            validators, trusted = trust.validators, f"checkpoint at height {trust.height}"
        case _:
            assert_never(trust)
    if receipt.header.genesis_hash != genesis_hash:
        raise ReceiptInvalid(ReceiptFault.WRONG_CHAIN, f"the receipt is of chain {receipt.header.genesis_hash.hex()}")
    if receipt.header.height <= height:
        raise ReceiptInvalid(
            ReceiptFault.BEFORE_TRUST, f"height {receipt.header.height} is not after the {trusted}: use an older start"
        )
    validators = _follow(receipt, height, validators, verify)
    header = receipt.header
    if header.validators_hash != validators.hash:
        raise ReceiptInvalid(ReceiptFault.UNKNOWN_SET, "the transitions do not lead to the set that the header names")
    fault = certified_fault(header, receipt.certificate, validators, verify)
    if fault is not None:
        raise ReceiptInvalid(ReceiptFault.CERTIFICATE, f"the certificate of height {header.height}: {fault}")
    return _conclude(receipt, validators, trusted)


def _follow(receipt: FinalityReceipt, height: Height, validators: ValidatorSet, verify: VerifyMany) -> ValidatorSet:
    """Walks the transitions from the trusted set; each is certified by the set that it ends."""
    for transition in receipt.transitions:
        header = transition.header
        if not height < header.height < receipt.header.height:
            raise ReceiptInvalid(ReceiptFault.TRANSITION_ORDER, f"height {header.height} out of order")
        if header.genesis_hash != receipt.header.genesis_hash:
            raise ReceiptInvalid(ReceiptFault.WRONG_CHAIN, f"the transition at height {header.height}")
        if header.validators_hash != validators.hash:
            raise ReceiptInvalid(ReceiptFault.TRANSITION_SET, f"height {header.height} was under another set")
        fault = certified_fault(header, transition.certificate, validators, verify)
        if fault is not None:
            raise ReceiptInvalid(ReceiptFault.TRANSITION_CERTIFICATE, f"height {header.height}: {fault}")
        if header.next_validators_hash != transition.following.hash or transition.following.hash == validators.hash:
            raise ReceiptInvalid(ReceiptFault.TRANSITION_NEXT_SET, f"height {header.height} hands over to another set")
        height, validators = header.height, transition.following
    return validators


def _conclude(receipt: FinalityReceipt, validators: ValidatorSet, trusted: str) -> Finality:
    header = receipt.header
    leaf = transaction_leaf(receipt.txid, receipt.outcome, receipt.fee)
    if receipt.path.root([leaf]) != header.tx_root:
        raise ReceiptInvalid(
            ReceiptFault.NOT_IN_BLOCK, "the transaction with this outcome and fee is not under the block's root"
        )
    try:
        body = decode_body(receipt.body)
    except DecodeError as fault:
        raise ReceiptInvalid(ReceiptFault.MALFORMED, f"the transaction's body: {fault}") from fault
    signed = sum(validators.members[index].power for index in receipt.certificate.signer_indices())
    return Finality(
        txid=receipt.txid,
        body=body,
        outcome=receipt.outcome,
        fee=receipt.fee,
        height=header.height,
        block_hash=header.hash,
        timestamp_ms=header.timestamp_ms,
        signed_power=signed,
        total_power=validators.total_power,
        trusted=trusted,
    )
