"""Cold certificates: a key that stays offline vouches for a short-lived one that signs every day.

The cold key (SLH-DSA: seconds a signature, security from hashing alone) signs a `HotKey` statement; peers then know the
holder of the hot key by the *cold* key's peer id. A stolen hot key is worthless within days, and at once after the next
certificate: a serial below the highest seen is refused.

Pure: `check` says what signature somebody must verify, `refusal` judges everything else at a time that is passed in.

    statement   "trellis/cert/1" ‖ genesis hash[32] ‖ role u8 ‖ hot alg u8 ‖ lp(hot public key)
                ‖ not_before_s u64 ‖ not_after_s u64 ‖ serial u64
    certificate lp(statement) ‖ cold alg u8 ‖ lp(cold public key) ‖ lp(signature over the statement)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from trellis.constants import Context
from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck, check_key_size, single_alg
from trellis.crypto.policy import Role
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.peerid import peer_id
from trellis.types import Hash, PeerId

MAX_LIFETIME_S: Final = 7 * 24 * 3_600
"""Bounds what a stolen hot key can do where no newer serial has been seen."""

SKEW_S: Final = 15 * 60
"""How far the clocks of issuer and judge may differ."""

_TAG: Final = Context.CERT.value
_LARGEST_KEY_BYTES: Final = max(sizes.public_key_bytes for sizes in SIZES.values())
_LARGEST_SIGNATURE_BYTES: Final = max(sizes.signature_bytes for sizes in SIZES.values())
_MAX_STATEMENT_BYTES: Final = len(_TAG) + 32 + 1 + 1 + 4 + _LARGEST_KEY_BYTES + 24
MAX_CERTIFICATE_BYTES: Final = 4 + _MAX_STATEMENT_BYTES + 1 + 4 + _LARGEST_KEY_BYTES + 4 + _LARGEST_SIGNATURE_BYTES
"""A longer claim is refused before anything of it is read."""


class CertificateRefusal(StrEnum):
    """Why a well-formed certificate does not count."""

    WRONG_NETWORK = "wrong_network"
    WRONG_ROLE = "wrong_role"
    WRONG_HOT_KEY = "wrong_hot_key"
    """It certifies another key than the one that signs here."""
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"
    """The policy does not let the cold key's algorithm certify."""
    EMPTY_LIFETIME = "empty_lifetime"
    LIFETIME_TOO_LONG = "lifetime_too_long"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    SERIAL_TOO_LOW = "serial_too_low"
    """A newer certificate of this cold key has been seen."""


@dataclass(frozen=True, slots=True)
class HotKey:
    """What a cold key vouches for: this key, in this role, on this network, from when to when."""

    genesis_hash: Hash
    role: Role
    alg_id: AlgId
    public_key: bytes
    not_before_s: int
    """Seconds since 1970, as `not_after_s`, from which on the certificate is void."""
    not_after_s: int
    serial: int
    """Grows with every certificate of a cold key: issuing one revokes all smaller ones."""

    def encode(self) -> bytes:
        """The exact bytes that the cold key signs."""
        writer = Writer().raw(_TAG).hash(self.genesis_hash).u8(self.role).u8(self.alg_id).lp(self.public_key)
        return writer.u64(self.not_before_s).u64(self.not_after_s).u64(self.serial).done()


@dataclass(frozen=True, slots=True)
class ColdCertificate:
    """A statement with its cold key and signature. Nothing in it counts before `check` held and `refusal` is None."""

    hot: HotKey
    statement: bytes
    """The bytes that were signed; `hot` is what they say."""
    cold_alg_id: AlgId
    cold_public_key: bytes
    signature: bytes

    @property
    def cold_peer_id(self) -> PeerId:
        """By this the holder of the hot key is known."""
        return peer_id(self.cold_alg_id, self.cold_public_key)

    def encode(self) -> bytes:
        writer = Writer().lp(self.statement).u8(self.cold_alg_id).lp(self.cold_public_key)
        return writer.lp(self.signature).done()

    def check(self) -> SignatureCheck:
        """Takes 1 to 2 ms to verify: remember certificates that held."""
        return SignatureCheck(
            self.cold_alg_id, self.cold_public_key, self.statement, self.signature, Context.CERT.value
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """What the judge knows by itself: the network, and the key that just proved itself in a role."""

    genesis_hash: Hash
    role: Role
    alg_id: AlgId
    public_key: bytes
    cold_algorithms: Sequence[int] = (AlgId.SLH_DSA_SHAKE_128S,)
    """As the algorithm policy has them for cold certification at the current height."""


def refusal(
    certificate: ColdCertificate, expected: Expected, now_s: int, highest_serial: int
) -> CertificateRefusal | None:
    """Everything but the signature, the cheap and telling reasons first. None: it counts, if its signature holds.

    `highest_serial` is the largest that was seen in a certificate of this cold key whose signature held; 0 if none.
    The caller remembers it durably, or a restart lets a stolen hot key back in for the rest of its days.
    """
    hot = certificate.hot
    if hot.genesis_hash != expected.genesis_hash:
        return CertificateRefusal.WRONG_NETWORK
    if hot.role is not expected.role:
        return CertificateRefusal.WRONG_ROLE
    if hot.alg_id is not expected.alg_id or hot.public_key != expected.public_key:
        return CertificateRefusal.WRONG_HOT_KEY
    if certificate.cold_alg_id not in expected.cold_algorithms:
        return CertificateRefusal.ALGORITHM_NOT_ALLOWED
    if hot.not_after_s <= hot.not_before_s:
        return CertificateRefusal.EMPTY_LIFETIME
    if hot.not_after_s - hot.not_before_s > MAX_LIFETIME_S:
        return CertificateRefusal.LIFETIME_TOO_LONG
    if now_s + SKEW_S < hot.not_before_s:
        return CertificateRefusal.NOT_YET_VALID
    if now_s - SKEW_S >= hot.not_after_s:
        return CertificateRefusal.EXPIRED
    if hot.serial < highest_serial:
        return CertificateRefusal.SERIAL_TOO_LOW
    return None


def certify(
    hot: HotKey, cold_alg_id: AlgId, cold_public_key: bytes, sign: Callable[[bytes, bytes], bytes]
) -> ColdCertificate:
    """Has the cold key sign; `sign(message, context)` may live in hardware. ValueError for what no judge accepts."""
    lifetime_s = hot.not_after_s - hot.not_before_s
    if not 0 < lifetime_s <= MAX_LIFETIME_S:
        raise ValueError(f"a certificate lives 1 to {MAX_LIFETIME_S} seconds, not {lifetime_s}")
    statement = hot.encode()
    return ColdCertificate(hot, statement, cold_alg_id, cold_public_key, sign(statement, Context.CERT.value))


def decode_cold_certificate(data: bytes) -> ColdCertificate:
    return decode_whole(data, "cold certificate", MAX_CERTIFICATE_BYTES, _read_certificate)


def _read_certificate(reader: Reader) -> ColdCertificate:
    statement = reader.lp("statement", _MAX_STATEMENT_BYTES)
    hot = decode_whole(statement, "statement", _MAX_STATEMENT_BYTES, _read_hot_key)
    alg = single_alg(reader.u8("cold algorithm"), "cold key")
    public_key = reader.lp("cold key", _LARGEST_KEY_BYTES)
    check_key_size(alg, public_key, "cold key")
    signature = reader.lp("signature", _LARGEST_SIGNATURE_BYTES)
    if len(signature) != SIZES[alg].signature_bytes:
        raise DecodeError(Malformed.WRONG_SIZE, f"a signature of {alg.name} has not {len(signature)} bytes")
    return ColdCertificate(hot, statement, alg, public_key, signature)


def _read_hot_key(reader: Reader) -> HotKey:
    if reader.fixed(len(_TAG), "tag") != _TAG:
        raise DecodeError(Malformed.UNKNOWN_KIND, "not the statement of a cold certificate")
    genesis_hash = reader.hash("genesis hash")
    role = reader.u8("role")
    if role not in Role.__members__.values():
        raise DecodeError(Malformed.UNKNOWN_KIND, f"role {role}")
    alg = single_alg(reader.u8("hot algorithm"), "hot key")
    public_key = reader.lp("hot key", _LARGEST_KEY_BYTES)
    check_key_size(alg, public_key, "hot key")
    not_before_s, not_after_s = reader.u64("not before"), reader.u64("not after")
    return HotKey(genesis_hash, Role(role), alg, public_key, not_before_s, not_after_s, reader.u64("serial"))
