"""Signed records that are not votes: where a peer can be reached, what a snapshot holds, what an attestor found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from itertools import pairwise
from typing import Final

from trellis.constants import MAX_ADDRESSES_PER_RECORD, MAX_MULTIADDR_BYTES, Context
from trellis.crypto.algorithms import SIZES, SignatureCheck, check_key_size, single_alg
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.peerid import peer_id
from trellis.types import Hash, Height, PeerId

_LARGEST_KEY: Final = max(sizes.public_key_bytes for sizes in SIZES.values())
_LARGEST_SIGNATURE: Final = max(sizes.signature_bytes for sizes in SIZES.values())
MAX_CERT_BYTES: Final = 16 << 10
MAX_ADDRESS_RECORD_BYTES: Final = 32 << 10


@dataclass(frozen=True, slots=True)
class AddressRecord:
    """Where a peer listens, signed by its network key. Of two records of a peer the higher sequence counts."""

    genesis_hash: Hash
    alg_id: int
    public_key: bytes
    cold_certificate: bytes
    """Empty, or the certificate by which a cold key names this peer (`trellis.crypto.cold`)."""
    sequence: int
    addresses: tuple[str, ...]
    """Multiaddrs, ascending, each once."""

    @property
    def hot_peer_id(self) -> PeerId:
        """The peer id of the signing key; with a cold certificate the cold key's id names the peer."""
        return peer_id(single_alg(self.alg_id, "network key"), self.public_key)

    def encode(self) -> bytes:
        writer = Writer().hash(self.genesis_hash).u8(self.alg_id).lp(self.public_key).lp(self.cold_certificate)
        writer.u64(self.sequence).u16(len(self.addresses))
        for address in self.addresses:
            writer.text(address)
        return writer.done()


@dataclass(frozen=True, slots=True)
class SignedAddressRecord:
    """The record as the exact bytes that were signed."""

    body: bytes
    signature: bytes

    def encode(self) -> bytes:
        return Writer().lp(self.body).lp(self.signature).done()

    def record(self) -> AddressRecord:
        return decode_whole(self.body, "address record", MAX_ADDRESS_RECORD_BYTES, _read_address_record)

    def check(self) -> SignatureCheck:
        record = self.record()
        context = Context.ADDRESS_RECORD.value
        return SignatureCheck(record.alg_id, record.public_key, self.body, self.signature, context)


def _read_address_record(reader: Reader) -> AddressRecord:
    genesis_hash = reader.hash("genesis hash")
    alg = single_alg(reader.u8("algorithm"), "network key")
    public_key = reader.lp("network key", _LARGEST_KEY)
    check_key_size(alg, public_key, "network key")
    certificate = reader.lp("cold certificate", MAX_CERT_BYTES)
    sequence, number = reader.u64("sequence"), reader.u16("number of addresses")
    if number > MAX_ADDRESSES_PER_RECORD:
        raise DecodeError(Malformed.TOO_MANY, f"{number} addresses, the most is {MAX_ADDRESSES_PER_RECORD}")
    addresses = tuple(reader.text("address", MAX_MULTIADDR_BYTES) for _ in range(number))
    if any(low >= high for low, high in pairwise(addresses)):
        raise DecodeError(Malformed.NOT_CANONICAL, "addresses ascend, each once")
    return AddressRecord(genesis_hash, alg, public_key, certificate, sequence, addresses)


def decode_signed_address_record(data: bytes) -> SignedAddressRecord:
    """Refuses a record whose body does not parse; the signature is the caller's to check."""

    def read(reader: Reader) -> SignedAddressRecord:
        body = reader.lp("body", MAX_ADDRESS_RECORD_BYTES)
        return SignedAddressRecord(body, reader.lp("signature", _LARGEST_SIGNATURE))

    signed = decode_whole(data, "signed address record", MAX_ADDRESS_RECORD_BYTES + _LARGEST_SIGNATURE, read)
    signed.record()
    return signed


@dataclass(frozen=True, slots=True)
class SnapshotManifest:
    """What a snapshot of the state after `height` holds. All but `chunk_bytes` follows from the state root."""

    genesis_hash: Hash
    height: Height
    block_hash: Hash
    state_root: Hash
    leaves: int
    size_bytes: int
    buckets_log2: int
    chunk_bytes: int
    """The size that chunks aim at."""
    chunk_count: int

    def encode(self) -> bytes:
        writer = Writer().hash(self.genesis_hash).u64(self.height).hash(self.block_hash).hash(self.state_root)
        writer.u64(self.leaves).u64(self.size_bytes).u8(self.buckets_log2)
        return writer.u32(self.chunk_bytes).u32(self.chunk_count).done()


_MANIFEST_BYTES: Final = 32 + 8 + 32 + 32 + 8 + 8 + 1 + 4 + 4


def read_snapshot_manifest(reader: Reader) -> SnapshotManifest:
    return SnapshotManifest(
        genesis_hash=reader.hash("genesis hash"),
        height=Height(reader.u64("height")),
        block_hash=reader.hash("block hash"),
        state_root=reader.hash("state root"),
        leaves=reader.u64("leaves"),
        size_bytes=reader.u64("size"),
        buckets_log2=reader.u8("buckets"),
        chunk_bytes=reader.u32("chunk size"),
        chunk_count=reader.u32("chunks"),
    )


@dataclass(frozen=True, slots=True)
class SignedManifest:
    """A manifest and who made the snapshot. The chunks prove themselves; the signature says whom to blame."""

    manifest: SnapshotManifest
    alg_id: int
    public_key: bytes
    signature: bytes

    def encode(self) -> bytes:
        return Writer().raw(self.manifest.encode()).u8(self.alg_id).lp(self.public_key).lp(self.signature).done()

    def check(self) -> SignatureCheck:
        context = Context.SNAPSHOT.value
        return SignatureCheck(self.alg_id, self.public_key, self.manifest.encode(), self.signature, context)


def decode_signed_manifest(data: bytes) -> SignedManifest:
    def read(reader: Reader) -> SignedManifest:
        manifest = read_snapshot_manifest(reader)
        alg = single_alg(reader.u8("algorithm"), "snapshot key")
        public_key = reader.lp("snapshot key", _LARGEST_KEY)
        check_key_size(alg, public_key, "snapshot key")
        return SignedManifest(manifest, alg, public_key, reader.lp("signature", _LARGEST_SIGNATURE))

    return decode_whole(data, "snapshot manifest", _MANIFEST_BYTES + 9 + _LARGEST_KEY + _LARGEST_SIGNATURE, read)


class AttestedVerdict(IntEnum):
    """What an attested checker found. Who found nothing (unknown, out of memory, killed) abstains and signs nothing."""

    PROVEN = 1
    REFUTED = 2


MAX_BATCH_ENTRIES: Final = 1_024


@dataclass(frozen=True, slots=True)
class VerdictBatch:
    """Verdicts on attested statements, signed by validators of V(height) in the context of attestations."""

    genesis_hash: Hash
    height: Height
    entries: tuple[tuple[Hash, AttestedVerdict], ...]
    """(statement id, verdict), ascending by statement."""

    def encode(self) -> bytes:
        writer = Writer().raw(Tag.VERDICTS.value).hash(self.genesis_hash).u64(self.height).u32(len(self.entries))
        for statement_id, verdict in self.entries:
            writer.hash(statement_id).u8(verdict)
        return writer.done()

    @property
    def id(self) -> Hash:
        return hash_tagged(Tag.VERDICTS, self.encode())


def decode_verdict_batch(data: bytes) -> VerdictBatch:
    return decode_whole(data, "verdict batch", 128 + 33 * MAX_BATCH_ENTRIES, _read_verdict_batch)


def _read_verdict_batch(reader: Reader) -> VerdictBatch:
    tag = Tag.VERDICTS.value
    if reader.fixed(len(tag), "tag") != tag:
        raise DecodeError(Malformed.UNKNOWN_KIND, "not a verdict batch")
    genesis_hash, height = reader.hash("genesis hash"), Height(reader.u64("height"))
    number = reader.count("verdicts", MAX_BATCH_ENTRIES, 33)
    entries: list[tuple[Hash, AttestedVerdict]] = []
    for _ in range(number):
        statement_id, verdict = reader.hash("statement"), reader.u8("verdict")
        if verdict not in AttestedVerdict.__members__.values():
            raise DecodeError(Malformed.UNKNOWN_KIND, f"verdict {verdict}")
        entries.append((statement_id, AttestedVerdict(verdict)))
    if not entries or any(low[0] >= high[0] for low, high in pairwise(entries)):
        raise DecodeError(Malformed.NOT_CANONICAL, "a batch has at least one statement, ascending, each once")
    return VerdictBatch(genesis_hash, height, tuple(entries))
