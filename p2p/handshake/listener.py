"""The listener's side: M1 in, M2 out, M3 in, M4 out. `net_tag` and mac1 are checked before any KEM work starts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Final

from p2p.handshake.machine import Handshake
from p2p.handshake.messages import (
    M1,
    M1_TYPE,
    M2_TYPE,
    M3_TYPE,
    M4_TYPE,
    NONCE_BYTES,
    M2Head,
    Verdict,
    decode_m1,
    frame,
)
from p2p.handshake.outcome import Established, Rejected, RemotePeer, Step
from p2p.handshake.proof import Check, check_proof, hash_of, hash_of_proof, open_sealed, prove, read_identity
from p2p.handshake.reject import ACCEPTED_CODE, RefusedError, Reject
from p2p.handshake.schedule import (
    HandshakeSecrets,
    SessionSecrets,
    digest,
    equal,
    handshake_secrets,
    mac1,
    mac1_key,
    net_tag,
    session_secrets,
)
from p2p.handshake.setup import Setup
from trellis.constants import Context
from trellis.crypto.aead import Aead, Suite
from trellis.crypto.kem import KemError
from trellis.encoding import lp
from trellis.types import Hash

RETRY_AFTER_MS: Final = 5_000
"""Told to a peer that is refused: how long to stay away."""


@dataclass(frozen=True, slots=True)
class _Answered:
    """Between M2 and M3."""

    suite: Suite
    keys: HandshakeSecrets = field(repr=False)
    th3: Hash


class Listener(Handshake):
    """One incoming handshake."""

    __slots__ = ("_answered",)

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, M1_TYPE)
        self._answered: _Answered | None = None

    def _on_message(self, body: bytes) -> Step:
        self._nothing_may_follow()
        return self._on_m1(body) if self._due == M1_TYPE else self._on_m3(body)

    def _on_m1(self, body: bytes) -> Step:
        setup = self._setup
        offer = decode_m1(body)
        self._check_cheaply(offer)
        suite = next((own for own in map(_SUITES.get, offer.suites) if own in setup.network.suites), None)
        if suite is None:
            raise RefusedError(Reject.NO_COMMON_SUITE, f"none of the suites {offer.suites} is spoken here")
        try:
            share = setup.kem.encapsulate(offer.ek, offer.x_public)
        except KemError as fault:
            raise RefusedError(Reject.BAD_KEM_SHARE, str(fault)) from None
        head = M2Head(suite, setup.random(NONCE_BYTES), share.ciphertext, share.x_public).encoded()
        th2 = digest(lp(setup.network.th0), lp(bytes([M1_TYPE]) + body), lp(bytes([M2_TYPE]) + head))
        keys = handshake_secrets(setup.network.psk, share.shared, th2)
        del share
        plaintext = prove(setup.local, keys.fk_r, th2, th2 + hash_of(setup.local), Context.HANDSHAKE_LISTENER)
        self._answered = _Answered(suite, keys, digest(lp(th2), lp(plaintext)))
        self._due = M3_TYPE
        return Step(frame(M2_TYPE, head + Aead(suite, keys.hk_r).seal(0, plaintext, th2)))

    def _check_cheaply(self, offer: M1) -> None:
        """Microseconds, so that strangers and scanners never reach the milliseconds."""
        network = self._setup.network
        if not equal(offer.net_tag, net_tag(network.th0)):
            raise RefusedError(Reject.OTHER_NETWORK, "another genesis, algorithm policy or pre-shared key")
        wanted = mac1(mac1_key(network.psk, self._setup.local.peer), offer.unmacked())
        if not equal(offer.mac1, wanted):
            raise RefusedError(Reject.BAD_MAC1, "the dialer does not know whom it dials")

    def _on_m3(self, body: bytes) -> Step:
        setup, answered = self._setup, self._answered
        if answered is None:
            raise ValueError("M3 is due, yet M1 was never handled")
        th3, keys, suite = answered.th3, answered.keys, answered.suite
        plaintext = open_sealed(suite, keys.hk_i, body, th3, "M3")
        th4 = digest(lp(th3), lp(plaintext))
        secrets = session_secrets(keys.derived, th4)
        try:
            remote = self._who(plaintext, answered)
        except RefusedError as fault:
            return self._refuse(fault, suite, secrets, th4)
        if remote.certificate:
            setup.certificates.admitted(remote.certificate)
        limits = replace(setup.limits, retry_after_ms=0)
        sealed = Aead(suite, secrets.ak_r).seal(0, Verdict(ACCEPTED_CODE, limits).encoded(), th4)
        self._finish()
        session = Established(
            remote=remote,
            suite=suite,
            send_key=secrets.ak_r,
            receive_key=secrets.ak_i,
            exporter=secrets.exporter,
            send_counter=1,
            receive_counter=0,
            limits=limits,
        )
        return Step(frame(M4_TYPE, sealed), session)

    def _who(self, plaintext: bytes, answered: _Answered) -> RemotePeer:
        setup, th3 = self._setup, answered.th3
        proof = read_identity(plaintext)
        signed = th3 + hash_of_proof(proof) + hash_of(setup.local)
        remote = check_proof(setup, proof, Check(answered.keys.fk_i, th3, signed, Context.HANDSHAKE_DIALER), None)
        if remote.peer == setup.local.peer:
            raise RefusedError(Reject.SELF, "the dialer has this node's own key")
        refusal = setup.admit(remote.peer)
        if refusal is not None:
            raise RefusedError(refusal, "not admitted")
        return remote

    def _refuse(self, fault: RefusedError, suite: Suite, secrets: SessionSecrets, th4: Hash) -> Step:
        limits = replace(self._setup.limits, retry_after_ms=RETRY_AFTER_MS)
        code = fault.reason if fault.reason.told else Reject.REFUSED
        sealed = Aead(suite, secrets.ak_r).seal(0, Verdict(code, limits).encoded(), th4)
        return self._over(Rejected(fault.reason, fault.detail), frame(M4_TYPE, sealed))

    def _finish(self) -> None:
        Handshake._finish(self)
        self._answered = None


_SUITES: Final = {int(suite): suite for suite in Suite}
