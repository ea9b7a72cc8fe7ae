"""Cold certificates in the handshake: which hot key speaks for a cold one now, and which serial is the newest seen."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from hashlib import sha3_256
from typing import Final, assert_never

from p2p.handshake.reject import RefusedError, Reject
from trellis.crypto.algorithms import AlgId
from trellis.crypto.cold import (
    CertificateRefusal,
    ColdCertificate,
    Expected,
    decode_cold_certificate,
    refusal,
)
from trellis.crypto.policy import Role
from trellis.crypto.schemes import verify_one
from trellis.encoding import DecodeError
from trellis.types import Hash, PeerId

MAX_REMEMBERED: Final = 1_024
"""Verified certificates kept: checking one again costs 1 to 2 ms. The oldest goes first."""

MAX_SERIALS: Final = 16_384
"""Cold keys whose newest serial is kept. Only admitted peers count, so a stranger cannot push a member's out."""


class CertificateBook:
    """One for all handshakes of a host. `serials` survives restarts if its owner stores it."""

    def __init__(
        self,
        genesis_hash: Hash,
        cold_algorithms: Sequence[AlgId] = (AlgId.SLH_DSA_SHAKE_128S,),
        serials: Mapping[PeerId, int] | None = None,
    ) -> None:
        self._genesis_hash = genesis_hash
        self._cold_algorithms = tuple(cold_algorithms)
        self._serials: OrderedDict[PeerId, int] = OrderedDict(serials or {})
        self._verified: OrderedDict[bytes, ColdCertificate] = OrderedDict()
        self.signatures_checked = 0

    @property
    def serials(self) -> dict[PeerId, int]:
        """The newest serial of each cold key that was admitted: to be stored, and given back at the next start."""
        return dict(self._serials)

    def judge(self, certificate: bytes, alg: AlgId, public_key: bytes, now_s: int) -> PeerId:
        """The cold key's peer id, or `RefusedError`."""
        known = self._verified.get(_name(certificate))
        try:
            decoded = known or decode_cold_certificate(certificate)
        except DecodeError as fault:
            raise RefusedError(Reject.BAD_CERTIFICATE, str(fault)) from None
        peer = decoded.cold_peer_id
        expected = Expected(self._genesis_hash, Role.NETWORK_IDENTITY, alg, public_key, self._cold_algorithms)
        why = refusal(decoded, expected, now_s, self._serials.get(peer, 0))
        if why is not None:
            raise RefusedError(_reject(why), f"the cold certificate does not count: {why}")
        if known is None:
            self.signatures_checked += 1
            if not verify_one(decoded.check()):
                raise RefusedError(Reject.BAD_CERTIFICATE, "the cold key's signature is wrong")
            self._verified[_name(certificate)] = decoded
            if len(self._verified) > MAX_REMEMBERED:
                self._verified.popitem(last=False)
        return peer

    def admitted(self, certificate: bytes) -> None:
        """The holder was let in: smaller serials of the same cold key are refused from now on."""
        decoded = self._verified.get(_name(certificate)) or decode_cold_certificate(certificate)
        peer = decoded.cold_peer_id
        self._serials[peer] = max(self._serials.get(peer, 0), decoded.hot.serial)
        self._serials.move_to_end(peer)
        if len(self._serials) > MAX_SERIALS:
            self._serials.popitem(last=False)


def _name(certificate: bytes) -> bytes:
    return sha3_256(certificate).digest()


def _reject(why: CertificateRefusal) -> Reject:
    match why:
        case CertificateRefusal.EXPIRED:
            return Reject.CERTIFICATE_EXPIRED
        case CertificateRefusal.NOT_YET_VALID:
            return Reject.CERTIFICATE_NOT_YET_VALID
        case CertificateRefusal.SERIAL_TOO_LOW:
            return Reject.CERTIFICATE_REPLACED
        case CertificateRefusal.ALGORITHM_NOT_ALLOWED:
            return Reject.ALGORITHM_NOT_ALLOWED
        case (
            CertificateRefusal.WRONG_NETWORK
            | CertificateRefusal.WRONG_ROLE
            | CertificateRefusal.WRONG_HOT_KEY
            | CertificateRefusal.EMPTY_LIFETIME
            | CertificateRefusal.LIFETIME_TOO_LONG
        ):
            return Reject.BAD_CERTIFICATE
        case _:
            assert_never(why)
