"""The block header: a fixed binary layout that a light client in another language reads in an afternoon."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final

from trellis.constants import HEADER_VERSION, PROOF_COMMITMENT_BYTES
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged, hash_tagged_384
from trellis.types import ZERO_HASH, Address, Hash, Height, View

HEADER_BYTES: Final = 2 + 32 + 8 + 8 + 8 + 6 * 32 + PROOF_COMMITMENT_BYTES + 5 * 32

NOTE_ROOT_EMPTY: Final = hash_tagged(Tag.NOTE_EMPTY)
"""note_root until notes exist: a constant with its own tag, so that nobody can pretend otherwise."""

PROOF_COMMITMENT_EMPTY: Final = hash_tagged_384(Tag.PROOF_EMPTY)
SEAL_NONE: Final = ZERO_HASH
"""engine_seal_hash under PBFT."""


@dataclass(frozen=True)
class Header:
    """What a certificate certifies. A block re-proposed in a later view is byte-identical: view and proposer stay."""

    genesis_hash: Hash
    height: Height
    view: View
    """The view in which this block was created."""
    timestamp_ms: int
    parent_hash: Hash
    parent_certificate_hash: Hash
    tx_root: Hash
    witness_root: Hash
    state_root: Hash
    """After this block."""
    note_root: Hash
    proof_commitment: bytes
    validators_hash: Hash
    next_validators_hash: Hash
    params_hash: Hash
    engine_seal_hash: Hash
    proposer: Address

    def encode(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        writer = Writer().u16(HEADER_VERSION).hash(self.genesis_hash)
        writer.u64(self.height).u64(self.view).u64(self.timestamp_ms)
        writer.hash(self.parent_hash).hash(self.parent_certificate_hash)
        writer.hash(self.tx_root).hash(self.witness_root).hash(self.state_root).hash(self.note_root)
        writer.fixed(self.proof_commitment, PROOF_COMMITMENT_BYTES)
        writer.hash(self.validators_hash).hash(self.next_validators_hash).hash(self.params_hash)
        return writer.hash(self.engine_seal_hash).hash(self.proposer).done()

    @cached_property
    def hash(self) -> Hash:
        """block_hash."""
        return hash_tagged(Tag.HEADER, self._encoded)

    def work_preimage(self) -> bytes:
        """What proof of work is done over: the header with engine_seal_hash zero."""
        return replace(self, engine_seal_hash=SEAL_NONE).encode()


def decode_header(data: bytes) -> Header:
    return decode_whole(data, "header", HEADER_BYTES, read_header)


def read_header(reader: Reader) -> Header:
    version = reader.u16("header version")
    if version != HEADER_VERSION:
        raise DecodeError(Malformed.UNKNOWN_VERSION, f"header version {version}, this software knows {HEADER_VERSION}")
    return Header(
        genesis_hash=reader.hash("genesis hash"),
        height=Height(reader.u64("height")),
        view=View(reader.u64("view")),
        timestamp_ms=reader.u64("timestamp"),
        parent_hash=reader.hash("parent hash"),
        parent_certificate_hash=reader.hash("parent certificate hash"),
        tx_root=reader.hash("transaction root"),
        witness_root=reader.hash("witness root"),
        state_root=reader.hash("state root"),
        note_root=reader.hash("note root"),
        proof_commitment=reader.fixed(PROOF_COMMITMENT_BYTES, "proof commitment"),
        validators_hash=reader.hash("validators hash"),
        next_validators_hash=reader.hash("next validators hash"),
        params_hash=reader.hash("parameters hash"),
        engine_seal_hash=reader.hash("engine seal hash"),
        proposer=Address(reader.hash("proposer")),
    )


@dataclass(frozen=True, slots=True)
class Seal:
    """Proof of work carried beside the header: its hash is the header's engine_seal_hash."""

    target: int
    """256 bits: the header's work hash, as a big-endian integer, is at most this."""
    nonce: int

    def encode(self) -> bytes:
        return Writer().fixed(self.target.to_bytes(32, "big"), 32).u64(self.nonce).done()

    @property
    def hash(self) -> Hash:
        return hash_tagged(Tag.SEAL, self.encode())


SEAL_BYTES: Final = 40


def decode_seal(data: bytes) -> Seal:
    return decode_whole(
        data, "seal", SEAL_BYTES, lambda r: Seal(int.from_bytes(r.fixed(32, "target"), "big"), r.u64("nonce"))
    )
