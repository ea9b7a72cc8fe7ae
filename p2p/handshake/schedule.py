"""The key schedule: transcript hashes and the secrets bound to them. Labels are the ASCII names of the variables."""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha3_256
from hmac import compare_digest
from typing import Final

from p2p.handshake.messages import MAC1_BYTES, NET_TAG_BYTES
from trellis.constants import MAX_PEER_ID_BYTES
from trellis.crypto.kdf import KEY_BYTES, expand, extract, hmac_sha3_256
from trellis.encoding import lp
from trellis.types import Hash, PeerId

PROTOCOL: Final = "/trellis/pq/1"
ZERO_KEY: Final = bytes(KEY_BYTES)
MIN_PSK_BYTES: Final = 32
MAX_PSK_ID_BYTES: Final = 64


def digest(*parts: bytes) -> Hash:
    """H of the handshake: plain SHA3-256 without a domain tag, over parts of fixed size or behind their length."""
    return Hash(sha3_256(b"".join(parts)).digest())


def first_transcript(genesis_hash: bytes, policy_root: bytes, psk_id: bytes) -> Hash:
    """TH0: what both sides must agree on before a word is said."""
    return digest(lp(PROTOCOL.encode()), lp(genesis_hash), lp(policy_root), lp(psk_id))


def net_tag(th0: Hash) -> bytes:
    return th0[:NET_TAG_BYTES]


def identity_hash(alg: int, public_key: bytes, certificate: bytes, extensions: bytes) -> Hash:
    """id_X: everything a side says about who it is."""
    return digest(lp(bytes([alg])), lp(public_key), lp(certificate), lp(extensions))


def mac1_key(psk: bytes | None, listener: PeerId) -> bytes:
    """Known to whoever knows whom they dial (and the pre-shared key, where there is one)."""
    if not 0 < len(listener) <= MAX_PEER_ID_BYTES:
        raise ValueError(f"a peer id has 1 to {MAX_PEER_ID_BYTES} bytes, not {len(listener)}")
    return hmac_sha3_256(psk or ZERO_KEY, b"mac1" + listener)


def mac1(key: bytes, unmacked: bytes) -> bytes:
    return hmac_sha3_256(key, unmacked)[:MAC1_BYTES]


def equal(one: bytes, other: bytes) -> bool:
    """In constant time."""
    return compare_digest(one, other)


@dataclass(frozen=True, slots=True)
class HandshakeSecrets:
    """After TH2: what seals and proves the identities."""

    hk_i: bytes = field(repr=False)
    hk_r: bytes = field(repr=False)
    fk_i: bytes = field(repr=False)
    fk_r: bytes = field(repr=False)
    derived: bytes = field(repr=False)
    """Expand(hs, "derived"): the salt of the next stage, so that hs itself need not be kept."""


def handshake_secrets(psk: bytes | None, shared: bytes, th2: Hash) -> HandshakeSecrets:
    es = extract(ZERO_KEY, psk or ZERO_KEY)
    hs = extract(expand(es, b"derived"), shared)
    return HandshakeSecrets(
        hk_i=expand(hs, b"hk_I" + th2),
        hk_r=expand(hs, b"hk_R" + th2),
        fk_i=expand(hs, b"fk_I" + th2),
        fk_r=expand(hs, b"fk_R" + th2),
        derived=expand(hs, b"derived"),
    )


@dataclass(frozen=True, slots=True)
class SessionSecrets:
    """After TH4: the data keys, and what others may derive keys from that belong to this session alone."""

    ak_i: bytes = field(repr=False)
    ak_r: bytes = field(repr=False)
    exporter: bytes = field(repr=False)


def session_secrets(derived: bytes, th4: Hash) -> SessionSecrets:
    ms = extract(derived, ZERO_KEY)
    return SessionSecrets(
        ak_i=expand(ms, b"ak_I" + th4),
        ak_r=expand(ms, b"ak_R" + th4),
        exporter=expand(ms, b"exporter" + th4),
    )


def finished(key: bytes, transcript: Hash, identity: Hash, signature: bytes) -> bytes:
    """mac_X: the identity MACed under a key that only the two ends of this session have."""
    return hmac_sha3_256(key, digest(transcript, identity, signature))
