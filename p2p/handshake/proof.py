"""Proving an identity and checking a proof: the same for both sides but for keys, context and order."""

from __future__ import annotations

from dataclasses import dataclass

from p2p.handshake.messages import IdentityProof, decode_identity
from p2p.handshake.outcome import RemotePeer
from p2p.handshake.reject import RefusedError, Reject
from p2p.handshake.schedule import equal, finished, identity_hash
from p2p.handshake.setup import LocalIdentity, Setup
from trellis.constants import Context
from trellis.crypto.aead import Aead, AuthenticationError, Suite
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.crypto.schemes import scheme
from trellis.encoding import DecodeError
from trellis.peerid import peer_id
from trellis.types import Hash, PeerId


def hash_of(local: LocalIdentity) -> Hash:
    """One's own id_X."""
    return identity_hash(local.signer.alg_id, local.signer.public_key, local.certificate, b"")


def hash_of_proof(proof: IdentityProof) -> Hash:
    return identity_hash(proof.alg, proof.public_key, proof.certificate, proof.extensions)


def prove(local: LocalIdentity, fk: bytes, transcript: Hash, signed: bytes, context: Context) -> bytes:
    """The plaintext of an identity: signature over `signed`, MAC over transcript, identity and signature."""
    own = hash_of(local)
    signature = local.signer.sign(signed, context.value)
    return IdentityProof(
        alg=local.signer.alg_id,
        public_key=local.signer.public_key,
        certificate=local.certificate,
        extensions=b"",
        signature=signature,
        mac=finished(fk, transcript, own, signature),
    ).encoded()


def open_sealed(suite: Suite, key: bytes, sealed: bytes, transcript: Hash, what: str) -> bytes:
    try:
        return Aead(suite, key).open(0, sealed, transcript)
    except AuthenticationError:
        raise RefusedError(Reject.BAD_SEAL, f"{what} does not open") from None


def read_identity(plaintext: bytes) -> IdentityProof:
    try:
        return decode_identity(plaintext)
    except DecodeError as fault:
        raise RefusedError(Reject.MALFORMED_IDENTITY, str(fault)) from None


@dataclass(frozen=True, slots=True)
class Check:
    """Everything that a proof is checked against, but for itself."""

    fk: bytes
    transcript: Hash
    signed: bytes
    context: Context


def check_proof(setup: Setup, proof: IdentityProof, check: Check, dialled: PeerId | None) -> RemotePeer:
    """Who that is, or `RefusedError`. Cheap checks first: a stranger must not buy a signature check with garbage."""
    if proof.extensions:
        raise RefusedError(Reject.UNKNOWN_EXTENSION, "version 1 has no extensions")
    if proof.alg not in setup.network.algorithms:
        raise RefusedError(Reject.ALGORITHM_NOT_ALLOWED, f"algorithm {proof.alg} may not identify a peer here")
    alg = AlgId(proof.alg)
    sizes = SIZES[alg]
    if len(proof.public_key) != sizes.public_key_bytes or len(proof.signature) != sizes.signature_bytes:
        raise RefusedError(Reject.MALFORMED_IDENTITY, f"key or signature has not the size of {alg.name}")
    if dialled is not None and not proof.certificate and peer_id(alg, proof.public_key) != dialled:
        raise RefusedError(Reject.WRONG_PEER, "the listener has another key than the peer that was dialled")
    expected_mac = finished(check.fk, check.transcript, hash_of_proof(proof), proof.signature)
    if not equal(expected_mac, proof.mac):
        raise RefusedError(Reject.BAD_MAC, "the identity's MAC is wrong")
    if not scheme(alg).verify(proof.public_key, check.signed, proof.signature, check.context.value):
        raise RefusedError(Reject.BAD_SIGNATURE, "the transcript's signature is wrong")
    if proof.certificate:
        peer = setup.certificates.judge(proof.certificate, alg, proof.public_key, setup.clock.wall_s())
    else:
        peer = peer_id(alg, proof.public_key)
    if dialled is not None and peer != dialled:
        raise RefusedError(Reject.WRONG_PEER, "the certificate names another cold key than the peer that was dialled")
    return RemotePeer(peer, alg, proof.public_key, proof.certificate)
