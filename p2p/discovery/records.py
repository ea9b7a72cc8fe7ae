"""Signed address records: this node's own, and whether another's counts."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha3_256
from typing import Final

from p2p.discovery.addresses import Reach, is_routable, parse_endpoint
from p2p.handshake import LocalIdentity
from p2p.handshake.certificates import CertificateBook
from p2p.handshake.reject import RefusedError
from trellis.constants import MAX_ADDRESSES_PER_RECORD, Context
from trellis.crypto.algorithms import AlgId
from trellis.crypto.schemes import verify_one
from trellis.encoding import DecodeError
from trellis.records import AddressRecord, SignedAddressRecord, decode_signed_address_record
from trellis.types import Hash, PeerId

MAX_JUDGED: Final = 4_096
"""Records that were found good, by hash: the same record comes from many peers, and a signature costs 0.2 ms."""


class RecordRefusal(StrEnum):
    """Why a record does not count. A closed set: it labels counters."""

    MALFORMED = "record_malformed"
    OTHER_NETWORK = "record_other_network"
    ALGORITHM = "record_algorithm"
    BAD_CERTIFICATE = "record_bad_certificate"
    BAD_SIGNATURE = "record_bad_signature"
    UNROUTABLE = "record_unroutable"
    """No address in it that this node may dial. The peer who told it need not have known."""

    @property
    def is_an_offence(self) -> bool:
        """Whoever tells it must have seen that it is wrong: telling it costs reputation. A certificate may have expired
        on its way, and what is routable depends on who asks."""
        return self not in {RecordRefusal.BAD_CERTIFICATE, RecordRefusal.UNROUTABLE}


@dataclass(frozen=True, slots=True)
class Contact:
    """A record that counts: signed by the key that names the peer."""

    peer: PeerId
    addresses: tuple[str, ...]
    """Those of the record that this node may dial."""
    sequence: int
    signed: bytes
    """The whole record, as it is passed on."""


def sign_record(identity: LocalIdentity, genesis_hash: Hash, addresses: Sequence[str], sequence: int) -> Contact:
    """This node's own record. `sequence` grows with each: the time in milliseconds does."""
    if not 0 < len(set(addresses)) <= MAX_ADDRESSES_PER_RECORD:
        raise ValueError(f"a record has 1 to {MAX_ADDRESSES_PER_RECORD} addresses")
    for address in addresses:
        parse_endpoint(address)
    signer = identity.signer
    ordered = tuple(sorted(set(addresses), key=str.encode))
    record = AddressRecord(
        genesis_hash, signer.alg_id, signer.public_key, identity.certificate, sequence, ordered
    ).encode()
    signed = SignedAddressRecord(record, signer.sign(record, Context.ADDRESS_RECORD.value))
    return Contact(identity.peer, ordered, sequence, signed.encode())


class RecordJudge:
    """Says of a stranger's bytes whose record they are, or why they are none."""

    def __init__(
        self,
        genesis_hash: Hash,
        reach: Reach,
        wall_s: Callable[[], int],
        certificates: CertificateBook | None = None,
        algorithms: frozenset[AlgId] = frozenset({AlgId.ML_DSA_65, AlgId.ML_DSA_87}),
    ) -> None:
        self._genesis_hash = genesis_hash
        self._reach = reach
        self._wall_s = wall_s
        # The host's own book: a certificate that a handshake replaced does not count here either.
        self._certificates = certificates or CertificateBook(genesis_hash)
        self._algorithms = algorithms
        self._judged: OrderedDict[bytes, Contact] = OrderedDict()
        self.refused: Counter[RecordRefusal] = Counter()

    def judge(self, data: bytes) -> Contact | RecordRefusal:
        verdict = self._judged.get(sha3_256(data).digest()) or self._judge(data)
        if isinstance(verdict, RecordRefusal):
            self.refused[verdict] += 1
        return verdict

    def _judge(self, data: bytes) -> Contact | RecordRefusal:
        try:
            signed = decode_signed_address_record(data)
            record = signed.record()
        except DecodeError:
            return RecordRefusal.MALFORMED
        if record.genesis_hash != self._genesis_hash:
            return RecordRefusal.OTHER_NETWORK
        if record.alg_id not in self._algorithms:
            return RecordRefusal.ALGORITHM
        addresses = tuple(each for each in record.addresses if is_routable(each, self._reach))
        if not addresses:
            return RecordRefusal.UNROUTABLE
        peer = record.hot_peer_id
        if record.cold_certificate:
            try:
                alg = AlgId(record.alg_id)
                peer = self._certificates.judge(record.cold_certificate, alg, record.public_key, self._wall_s())
            except RefusedError:
                return RecordRefusal.BAD_CERTIFICATE
        if not verify_one(signed.check()):
            return RecordRefusal.BAD_SIGNATURE
        contact = Contact(peer, addresses, record.sequence, data)
        # Certificates expire and are replaced: those are looked at each time.
        if not record.cold_certificate:
            self._judged[sha3_256(data).digest()] = contact
            if len(self._judged) > MAX_JUDGED:
                self._judged.popitem(last=False)
        return contact
