"""What reads return: frozen values, parsed strictly from a node's answer.

Nothing here is proven unless its field or type says so: a node's word is a node's word.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from trellis.address import format_address, parse_address
from trellis.client.errors import BadAnswer
from trellis.encoding import DecodeError
from trellis.header import Header
from trellis.outcome import Outcome
from trellis.receipt import Finality, FinalityReceipt
from trellis.transaction import Transaction, txid_of
from trellis.types import HASH_BYTES, U64_MAX, Address, Hash, Height
from trellis.v1 import chain_pb2, common_pb2, ledger_service_pb2, transaction_pb2, transaction_service_pb2


class Status(StrEnum):
    """How far a transaction has come, in a node's words."""

    PENDING = "pending"
    INCLUDED = "included"
    FINAL = "final"
    EXPIRED = "expired"
    REPLACED = "replaced"
    DROPPED = "dropped"
    REJECTED = "rejected"


ENDED: Final = (Status.FINAL, Status.EXPIRED, Status.REPLACED, Status.DROPPED)
"""What `wait` waits for."""

_STATUS: Final[Mapping[int, Status]] = {
    chain_pb2.TRANSACTION_STATUS_PENDING: Status.PENDING,
    chain_pb2.TRANSACTION_STATUS_INCLUDED: Status.INCLUDED,
    chain_pb2.TRANSACTION_STATUS_FINAL: Status.FINAL,
    chain_pb2.TRANSACTION_STATUS_EXPIRED: Status.EXPIRED,
    chain_pb2.TRANSACTION_STATUS_REPLACED: Status.REPLACED,
    chain_pb2.TRANSACTION_STATUS_DROPPED: Status.DROPPED,
    chain_pb2.TRANSACTION_STATUS_REJECTED: Status.REJECTED,
}


@dataclass(frozen=True, slots=True)
class BlockAt:
    """Which block an answer is about."""

    height: Height
    hash: Hash
    final: bool

    def __str__(self) -> str:
        return f"{self.height}:{self.hash.hex()}{'' if self.final else ' (not final)'}"


@dataclass(frozen=True, slots=True)
class Submitted:
    """A transaction that a node took. `txid` was computed here, never taken from the node."""

    txid: Hash
    status: Status
    duplicate: bool
    """The node knew it before: a repetition, which does no harm."""
    endpoint: str
    transaction: Transaction

    def __str__(self) -> str:
        return self.txid.hex()


@dataclass(frozen=True, slots=True)
class TransactionInfo:
    """What a node says about a transaction. `Client.wait` and `Client.receipt` prove it."""

    txid: Hash
    status: Status
    block: BlockAt | None
    outcome: Outcome | None
    sender: Address
    nonce: int
    fee: int
    valid_until_height: Height
    transaction: Transaction | None
    """There if asked for, and then its body hashes to `txid`."""


@dataclass(frozen=True, slots=True)
class Unbonding:
    amount: int
    release_height: Height


@dataclass(frozen=True, slots=True)
class Account:
    """An account. With `proven_by`, all but the pending nonce is proven under that certified header's state root;
    without, and the pending nonce always, it is the node's word."""

    address: Address
    balance: int
    nonce: int
    alg_id: int
    """0 while the chain knows no key for it."""
    public_key: bytes
    pending_nonce: int
    bonded: int
    unbondings: tuple[Unbonding, ...]
    at: BlockAt
    proven_by: Header | None = None

    @property
    def proven(self) -> bool:
        return self.proven_by is not None


@dataclass(frozen=True, slots=True)
class FeeEstimate:
    """`minimum` is computed here from genesis where the client trusts one; `suggested` never leaves `limit`."""

    minimum: int
    suggested: int


@dataclass(frozen=True, slots=True)
class ServiceInfo:
    """Which chain a node serves, in its own words."""

    chain_name: str
    genesis_hash: Hash
    unit_exponent: int
    lowest_height: Height
    software_version: str
    at: BlockAt


@dataclass(frozen=True, slots=True)
class ChainBlock:
    """A block that followed its parent. Its header hashes to `hash`, and its transactions, outcomes and fees lead to
    the header's tx_root. `proven`: a quorum certified it, checked here."""

    header: Header
    transactions: tuple[TransactionInfo, ...]
    proven: bool
    endpoint: str

    @property
    def height(self) -> Height:
        return self.header.height

    @property
    def hash(self) -> Hash:
        return self.header.hash


@dataclass(frozen=True, slots=True)
class ProvenReceipt:
    """A receipt that was verified here, and what it proves."""

    receipt: FinalityReceipt
    finality: Finality

    def encode(self) -> bytes:
        return self.receipt.encode()

    def save(self, path: str | Path) -> Path:
        """Writes the file that `python -m trellis verify` checks, whole or not at all."""
        target = Path(path)
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(self.encode())
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(target)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise
        return target


TxidLike = Hash | bytes | str | Submitted


def txid_from(given: TxidLike) -> Hash:
    """A txid as bytes, as hex, or as what `send` returned."""
    if isinstance(given, Submitted):
        return given.txid
    try:
        raw = bytes.fromhex(given) if isinstance(given, str) else bytes(given)
    except ValueError as fault:
        raise ValueError(f"{given!r} is no transaction id: it is 64 hex digits") from fault
    if len(raw) != HASH_BYTES:
        raise ValueError(f"a transaction id has {HASH_BYTES} bytes, not {len(raw)}")
    return Hash(raw)


def address_from(given: Address | bytes | str) -> Address:
    """An address as `trl1…` or as bytes."""
    if isinstance(given, str):
        return parse_address(given)
    if len(given) != HASH_BYTES:
        raise ValueError(f"an address has {HASH_BYTES} bytes, not {len(given)}")
    return Address(bytes(given))


class AnswerReader:
    """Reads fields of one endpoint's answer; what does not fit its comment in the schema is a `BadAnswer`."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint

    def bad(self, what: str) -> BadAnswer:
        return BadAnswer(self._endpoint, what)

    def hash(self, text: str, what: str) -> Hash:
        if len(text) != 2 * HASH_BYTES or text != text.lower():
            raise self.bad(f"{what} is not 64 lower-case hex digits")
        try:
            return Hash(bytes.fromhex(text))
        except ValueError as fault:
            raise self.bad(f"{what} is not hex") from fault

    def units(self, text: str, what: str) -> int:
        if not 0 < len(text) <= 20 or not (text.isascii() and text.isdigit()) or int(text) > U64_MAX:
            raise self.bad(f"{what} is not an amount of base units")
        return int(text)

    def address(self, text: str, what: str) -> Address:
        try:
            return parse_address(text)
        except DecodeError as fault:
            raise self.bad(f"{what} is not an address") from fault

    def block(self, message: common_pb2.BlockRef) -> BlockAt:
        return BlockAt(Height(message.height), self.hash(message.block_hash, "a block hash"), message.final)

    def status(self, number: int) -> Status:
        status = _STATUS.get(number)
        if status is None:
            raise self.bad(f"transaction status {number} is unknown")
        return status

    def outcome(self, message: chain_pb2.Outcome) -> Outcome:
        if message.code not in Outcome.__members__.values():
            raise self.bad(f"outcome {message.code} is unknown")
        return Outcome(message.code)

    def transaction_info(
        self, message: chain_pb2.TransactionInfo, genesis_hash: Hash | None, expected: Hash | None = None
    ) -> TransactionInfo:
        """`genesis_hash` lets a body, where one came along, be held against its id."""
        txid = self.hash(message.txid, "a transaction id")
        if expected is not None and txid != expected:
            raise self.bad(f"asked about transaction {expected.hex()}, it speaks of {txid.hex()}")
        transaction = None
        if message.HasField("transaction"):
            transaction = transaction_from(message.transaction)
            if genesis_hash is not None and txid_of(genesis_hash, transaction.body) != txid:
                raise self.bad(f"the body sent as transaction {txid.hex()} hashes to another id")
        return TransactionInfo(
            txid=txid,
            status=self.status(message.status),
            block=self.block(message.block) if message.HasField("block") else None,
            outcome=self.outcome(message.outcome) if message.HasField("outcome") else None,
            sender=self.address(message.sender, "a sender"),
            nonce=message.nonce,
            fee=self.units(message.fee, "a fee"),
            valid_until_height=Height(message.valid_until_height),
            transaction=transaction,
        )

    def account(self, message: ledger_service_pb2.GetAccountResponse, address: Address) -> Account:
        account = message.account
        if self.address(account.address, "an account") != address:
            raise self.bad(f"asked about {format_address(address)}, it speaks of another account")
        if account.pending_nonce < account.nonce:
            raise self.bad("a pending nonce below the nonce")
        return Account(
            address=address,
            balance=self.units(account.balance, "a balance"),
            nonce=account.nonce,
            alg_id=account.alg_id,
            public_key=account.public_key,
            pending_nonce=account.pending_nonce,
            bonded=self.units(account.bonded, "a bond"),
            unbondings=tuple(
                Unbonding(self.units(item.amount, "an unbonding"), Height(item.release_height))
                for item in account.unbondings
            ),
            at=self.block(message.at),
        )

    def service_info(self, message: ledger_service_pb2.GetServiceInfoResponse) -> ServiceInfo:
        return ServiceInfo(
            chain_name=message.chain_name,
            genesis_hash=self.hash(message.genesis_hash, "the genesis hash"),
            unit_exponent=message.unit_exponent,
            lowest_height=Height(message.lowest_height),
            software_version=message.software_version,
            at=self.block(message.at),
        )

    def submitted(
        self, result: transaction_service_pb2.SubmissionResult, transaction: Transaction, txid: Hash
    ) -> Submitted:
        if self.hash(result.txid, "a transaction id") != txid:
            raise self.bad(f"submitted transaction {txid.hex()}, it took {result.txid}")
        return Submitted(txid, self.status(result.status), result.duplicate, self._endpoint, transaction)


def transaction_from(message: transaction_pb2.Transaction) -> Transaction:
    return Transaction(message.body, message.alg_id, message.public_key, message.signature)


def transaction_message(transaction: Transaction) -> transaction_pb2.Transaction:
    return transaction_pb2.Transaction(
        body=transaction.body,
        alg_id=transaction.alg_id,
        public_key=transaction.public_key,
        signature=transaction.signature,
    )
