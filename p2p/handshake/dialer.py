"""The dialer's side: M1 out, M2 in, M3 out, M4 in. The dialer always knows whom it dials."""

from __future__ import annotations

from p2p.handshake.machine import Handshake
from p2p.handshake.messages import (
    M1,
    M1_TYPE,
    M2_TYPE,
    M3_TYPE,
    M4_TYPE,
    MAC1_BYTES,
    NONCE_BYTES,
    VERSION,
    decode_m2,
    decode_verdict,
    frame,
)
from p2p.handshake.outcome import Established, Rejected, RemotePeer, Step
from p2p.handshake.proof import Check, check_proof, hash_of, hash_of_proof, open_sealed, prove, read_identity
from p2p.handshake.reject import ACCEPTED_CODE, RefusedError, Reject
from p2p.handshake.schedule import (
    SessionSecrets,
    digest,
    handshake_secrets,
    mac1,
    mac1_key,
    net_tag,
    session_secrets,
)
from p2p.handshake.setup import Setup
from trellis.constants import Context
from trellis.crypto.aead import Aead, Suite
from trellis.crypto.kem import DecapsulationKey, KemError
from trellis.encoding import lp
from trellis.types import Hash, PeerId


class Dialer(Handshake):
    """One outgoing handshake. `start()` once, then `receive()` until there is an outcome."""

    __slots__ = ("_dialled", "_kem", "_m1", "_remote", "_secrets", "_suite", "_th4")

    def __init__(self, setup: Setup, dialled: PeerId) -> None:
        if dialled == setup.local.peer:
            raise ValueError("a node does not dial itself")
        super().__init__(setup, M2_TYPE)
        self._dialled = dialled
        self._kem: DecapsulationKey | None = None
        self._m1 = b""
        self._suite: Suite | None = None
        self._secrets: SessionSecrets | None = None
        self._th4: Hash | None = None
        self._remote: RemotePeer | None = None

    def start(self) -> bytes:
        """M1's frame."""
        if self._kem is not None:
            raise ValueError("the handshake has started already")
        setup = self._setup
        self._kem = setup.kem.generate()
        unmacked = M1(
            version=VERSION,
            net_tag=net_tag(setup.network.th0),
            suites=tuple(setup.network.suites),
            nonce=setup.random(NONCE_BYTES),
            ek=self._kem.ek,
            x_public=self._kem.x_public,
            mac1=bytes(MAC1_BYTES),
        ).unmacked()
        self._m1 = unmacked + mac1(mac1_key(setup.network.psk, self._dialled), unmacked)
        return frame(M1_TYPE, self._m1[1:])

    def _on_message(self, body: bytes) -> Step:
        return self._on_m2(body) if self._due == M2_TYPE else self._on_m4(body)

    def _on_m2(self, body: bytes) -> Step:
        setup, kem = self._setup, self._kem
        if kem is None:
            raise ValueError("receive() before start()")
        self._nothing_may_follow()
        head, sealed = decode_m2(body)
        if head.suite not in setup.network.suites:
            raise RefusedError(Reject.NO_COMMON_SUITE, f"the listener chose suite {head.suite}, which was not offered")
        suite = Suite(head.suite)
        th2 = digest(lp(setup.network.th0), lp(self._m1), lp(bytes([M2_TYPE]) + head.encoded()))
        try:
            shared = kem.decapsulate(head.ciphertext, head.x_public)
        except KemError as fault:
            raise RefusedError(Reject.BAD_KEM_SHARE, str(fault)) from None
        self._kem = None
        keys = handshake_secrets(setup.network.psk, shared, th2)
        del shared
        plaintext = open_sealed(suite, keys.hk_r, sealed, th2, "M2")
        proof = read_identity(plaintext)
        listener_hash = hash_of_proof(proof)
        check = Check(keys.fk_r, th2, th2 + listener_hash, Context.HANDSHAKE_LISTENER)
        self._remote = check_proof(setup, proof, check, self._dialled)
        refusal = setup.admit(self._remote.peer)
        if refusal is not None:
            raise RefusedError(refusal, "the peer may not be connected to")

        th3 = digest(lp(th2), lp(plaintext))
        signed = th3 + hash_of(setup.local) + listener_hash
        answer = prove(setup.local, keys.fk_i, th3, signed, Context.HANDSHAKE_DIALER)
        self._th4 = digest(lp(th3), lp(answer))
        self._secrets = session_secrets(keys.derived, self._th4)
        self._suite = suite
        self._due = M4_TYPE
        return Step(frame(M3_TYPE, Aead(suite, keys.hk_i).seal(0, answer, th3)))

    def _on_m4(self, body: bytes) -> Step:
        secrets, suite, th4, remote = self._secrets, self._suite, self._th4, self._remote
        if secrets is None or suite is None or th4 is None or remote is None:
            raise ValueError("M4 is due, yet M2 was never handled")
        verdict = decode_verdict(open_sealed(suite, secrets.ak_r, body, th4, "M4"))
        if verdict.code != ACCEPTED_CODE:
            reason = Reject.from_wire(verdict.code)
            detail = f"the listener refused with code {verdict.code}"
            return self._over(Rejected(reason, detail, True, verdict.limits.retry_after_ms))
        if remote.certificate:
            self._setup.certificates.admitted(remote.certificate)
        leftover = self._buffer.rest()
        self._finish()
        session = Established(
            remote=remote,
            suite=suite,
            send_key=secrets.ak_i,
            receive_key=secrets.ak_r,
            exporter=secrets.exporter,
            send_counter=0,
            receive_counter=1,
            limits=verdict.limits,
            leftover=leftover,
        )
        return Step(b"", session)

    def _finish(self) -> None:
        Handshake._finish(self)
        self._kem = None
        self._secrets = None
        self._m1 = b""
