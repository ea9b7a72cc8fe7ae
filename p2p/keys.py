"""Node identities as libp2p keys, so that libp2p names a peer as we do."""

from __future__ import annotations

from libp2p.crypto import serialization
from libp2p.crypto.keys import KeyPair, KeyType, PrivateKey, PublicKey

from trellis.crypto.algorithms import AlgId, check_key_size, single_alg
from trellis.crypto.cold import decode_cold_certificate
from trellis.peerid import KEY_TYPE

KEY: KeyType = KeyType(KEY_TYPE)


class NodePublicKey(PublicKey):
    """alg_id ‖ public key, under libp2p's KeyType 4."""

    def __init__(self, alg: AlgId, public_key: bytes) -> None:
        self._data = bytes([alg]) + public_key

    @classmethod
    def from_bytes(cls, data: bytes) -> NodePublicKey:
        """Of a stranger's bytes: `DecodeError` (a ValueError) if they are no key."""
        alg = single_alg(data[0] if data else 0, "identity key")
        check_key_size(alg, data[1:], "identity key")
        return cls(alg, data[1:])

    def to_bytes(self) -> bytes:
        return self._data

    def get_type(self) -> KeyType:
        return KEY

    def verify(self, data: bytes, signature: bytes) -> bool:
        """Identity keys sign handshakes and nothing of libp2p's: no signature that it hands us counts."""
        return False

    def __hash__(self) -> int:
        return hash(self._data)


class NodePrivateKey(PrivateKey):
    """What libp2p insists on holding. The secret is not in it: the handshake signs, libp2p must not."""

    def __init__(self, public: NodePublicKey) -> None:
        self._public = public

    def to_bytes(self) -> bytes:
        raise TypeError("libp2p does not get a node's secret key")

    def get_type(self) -> KeyType:
        return KEY

    def sign(self, data: bytes) -> bytes:
        """libp2p signs its address records with this. Ours are signed elsewhere, under their own context."""
        return b""

    def get_public_key(self) -> PublicKey:
        return self._public


def naming_key(alg: AlgId, public_key: bytes, certificate: bytes) -> NodePublicKey:
    """The key that names the peer: the cold one where a certificate, judged before, put the other in its place."""
    if not certificate:
        return NodePublicKey(alg, public_key)
    cold = decode_cold_certificate(certificate)
    return NodePublicKey(cold.cold_alg_id, cold.cold_public_key)


def key_pair(public: NodePublicKey) -> KeyPair:
    return KeyPair(NodePrivateKey(public), public)


def register() -> None:
    """Tells libp2p how to read such a key: one that it cannot read would end the host."""
    serialization.key_type_to_public_key_deserializer[KEY.value] = NodePublicKey.from_bytes
