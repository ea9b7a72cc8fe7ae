"""Blocks: header, the parent's certificate, transactions; their roots, and the compact form that proposals carry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from trellis.certificate import MAX_CERTIFICATE_BYTES, Certificate, decode_certificate
from trellis.constants import MAX_BLOCK_BYTES, MAX_BLOCK_TRANSACTIONS
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.header import HEADER_BYTES, SEAL_BYTES, Header, Seal, decode_header, decode_seal
from trellis.merkle import merkle_root
from trellis.transaction import MAX_TX_BYTES, Transaction, decode_transaction
from trellis.types import ZERO_HASH, Hash

_MIN_TX_BYTES: Final = 64
_FRAMING_BYTES: Final = 24
"""Around one transaction, and not counted by `max_block_bytes`: its length, its envelope's tags and lengths."""
MAX_ENCODED_BLOCK_BYTES: Final = (
    HEADER_BYTES + MAX_CERTIFICATE_BYTES + MAX_BLOCK_BYTES + MAX_BLOCK_TRANSACTIONS * _FRAMING_BYTES + 64
)
WITNESS_HASH_PREFIX_BYTES: Final = 8


@dataclass(frozen=True)
class Block:
    """A whole block. `seal` is there under proof of work alone."""

    header: Header
    parent_certificate: Certificate | None
    transactions: tuple[Transaction, ...]
    seal: Seal | None = None

    def encode(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        """header ‖ lp(parent certificate or empty) ‖ lp(seal or empty) ‖ number u32 ‖ lp(transaction) each."""
        writer = Writer().raw(self.header.encode())
        writer.lp(b"" if self.parent_certificate is None else self.parent_certificate.encode())
        writer.lp(b"" if self.seal is None else self.seal.encode())
        writer.u32(len(self.transactions))
        for transaction in self.transactions:
            writer.lp(transaction.encode())
        return writer.done()

    @property
    def hash(self) -> Hash:
        return self.header.hash


def decode_block(data: bytes) -> Block:
    """Reads the frame; transactions' bodies are parsed at first use, and the roots are whoever applies it to check."""
    block = decode_whole(data, "block", MAX_ENCODED_BLOCK_BYTES, _read_block)
    # Every block has one encoding, so this is it: four megabytes are not put together again to be stored.
    vars(block)["_encoded"] = data
    return block


def _read_block(reader: Reader) -> Block:
    header = decode_header(reader.fixed(HEADER_BYTES, "header"))
    certificate = reader.lp("parent certificate", MAX_CERTIFICATE_BYTES)
    seal = reader.lp("seal", SEAL_BYTES)
    number = reader.count("transactions", MAX_BLOCK_TRANSACTIONS, _MIN_TX_BYTES)
    transactions = tuple(decode_transaction(reader.lp("transaction", MAX_TX_BYTES)) for _ in range(number))
    return Block(
        header,
        decode_certificate(certificate) if certificate else None,
        transactions,
        decode_seal(seal) if seal else None,
    )


def certificate_hash(certificate: Certificate | None) -> Hash:
    """parent_certificate_hash: zero at height 1."""
    return ZERO_HASH if certificate is None else certificate.hash


def transaction_leaf(txid: Hash, outcome: int, fee: int) -> Hash:
    """A receipt shows the outcome, not only the inclusion: outcome code u16, fee u64."""
    return hash_tagged(Tag.TX_LEAF, txid, outcome.to_bytes(2, "big"), fee.to_bytes(8, "big"))


def witness_root(transactions: Sequence[Transaction]) -> Hash:
    """A body that fails this root is a bad peer, not a bad block."""
    return merkle_root([transaction.witness_leaf for transaction in transactions])


@dataclass(frozen=True, slots=True)
class CompactEntry:
    """How a proposal names a transaction: enough to find the right variant in a pool, or to ask for it."""

    txid: Hash
    witness_prefix: bytes
    size_bytes: int


def compact_body(transactions: Sequence[Transaction], genesis_hash: Hash) -> bytes:
    """number u32 ‖ (txid ‖ 8 bytes of witness hash ‖ size u32) each."""
    writer = Writer().u32(len(transactions))
    for transaction in transactions:
        writer.hash(transaction.txid(genesis_hash))
        writer.fixed(transaction.witness_leaf[:WITNESS_HASH_PREFIX_BYTES], WITNESS_HASH_PREFIX_BYTES)
        writer.u32(len(transaction.encode()))
    return writer.done()


def decode_compact_body(data: bytes, max_total_bytes: int) -> tuple[CompactEntry, ...]:
    """The total of the sizes is capped here, before anything is fetched."""
    entry_bytes = 32 + WITNESS_HASH_PREFIX_BYTES + 4

    def read(reader: Reader) -> tuple[CompactEntry, ...]:
        number = reader.count("entries", MAX_BLOCK_TRANSACTIONS, entry_bytes)
        return tuple(
            CompactEntry(reader.hash("txid"), reader.fixed(WITNESS_HASH_PREFIX_BYTES, "witness"), reader.u32("size"))
            for _ in range(number)
        )

    entries = decode_whole(data, "compact body", 4 + MAX_BLOCK_TRANSACTIONS * entry_bytes, read)
    total = sum(entry.size_bytes for entry in entries)
    if total > max_total_bytes:
        raise DecodeError(Malformed.TOO_LARGE, f"the proposal lists {total} bytes, the most is {max_total_bytes}")
    if len({entry.txid for entry in entries}) != len(entries):
        raise DecodeError(Malformed.NOT_CANONICAL, "the proposal lists a transaction twice")
    return entries
