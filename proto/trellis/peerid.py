"""Peer ids: libp2p's own, computed without libp2p, and the fingerprint that is shown beside them.

A peer id is the multihash of the protobuf-wrapped public key `{1: KeyType 4, 2: alg_id ‖ public key}`. KeyType 4 is the
one number of libp2p's closed enumeration that no library has given a deserialiser. As libp2p has it, wrapped keys of at
most 42 bytes are inlined (an SLH-DSA key is: its peer id *is* the key), longer ones are hashed with SHA2-256.
"""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from trellis.crypto.algorithms import AlgId
from trellis.encoding import DecodeError, Malformed
from trellis.hashing import Tag, hash_tagged
from trellis.types import Hash, PeerId

KEY_TYPE: Final = 4
MAX_INLINE_KEY_BYTES: Final = 42
"""libp2p's bound: a wrapped key up to this size is its own multihash."""

MAX_PEER_ID_TEXT: Final = 64
"""Base58 decoding is quadratic: longer text is refused unread. The longest peer id is 44 bytes, 61 characters."""

_SHA2_256: Final = b"\x12\x20"
_IDENTITY_CODE: Final = 0
_ALPHABET: Final = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS: Final = {letter: value for value, letter in enumerate(_ALPHABET)}


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def wrapped_key(alg_id: AlgId, public_key: bytes) -> bytes:
    """libp2p's protobuf of the key, as its serialiser writes it."""
    data = bytes([alg_id]) + public_key
    return bytes([0x08, KEY_TYPE, 0x12]) + _varint(len(data)) + data


def peer_id(alg_id: AlgId, public_key: bytes) -> PeerId:
    wrapped = wrapped_key(alg_id, public_key)
    if len(wrapped) <= MAX_INLINE_KEY_BYTES:
        return PeerId(bytes([_IDENTITY_CODE, len(wrapped)]) + wrapped)
    return PeerId(_SHA2_256 + sha256(wrapped).digest())


def fingerprint(alg_id: AlgId, public_key: bytes) -> Hash:
    """What people compare: it does not depend on libp2p's wrapping."""
    return hash_tagged(Tag.FINGERPRINT, bytes([alg_id]), public_key)


def check_peer_id(raw: bytes) -> PeerId:
    """The bytes as a peer id, or a `DecodeError`: the two multihash forms libp2p makes, and no other."""
    hashed = len(raw) == 34 and raw[:2] == _SHA2_256
    inlined = 2 < len(raw) <= 2 + MAX_INLINE_KEY_BYTES and raw[0] == _IDENTITY_CODE and raw[1] == len(raw) - 2
    if not (hashed or inlined):
        raise DecodeError(Malformed.NOT_CANONICAL, f"{len(raw)} bytes that are no peer id")
    return PeerId(raw)


def peer_id_text(peer: PeerId) -> str:
    """Base58 (Bitcoin's alphabet), as libp2p shows it."""
    zeros = len(peer) - len(peer.lstrip(b"\0"))
    number = int.from_bytes(peer, "big")
    letters: list[str] = []
    while number:
        number, digit = divmod(number, 58)
        letters.append(_ALPHABET[digit])
    return "1" * zeros + "".join(reversed(letters))


def parse_peer_id(text: str) -> PeerId:
    """The peer id that `peer_id_text` wrote, or a `DecodeError`."""
    if not 0 < len(text) <= MAX_PEER_ID_TEXT:
        raise DecodeError(Malformed.WRONG_SIZE, f"a peer id has 1 to {MAX_PEER_ID_TEXT} characters, not {len(text)}")
    number = 0
    for letter in text:
        digit = _DIGITS.get(letter)
        if digit is None:
            raise DecodeError(Malformed.NOT_CANONICAL, f"{letter!r} is no base58 digit")
        number = number * 58 + digit
    zeros = len(text) - len(text.lstrip("1"))
    return check_peer_id(bytes(zeros) + number.to_bytes((number.bit_length() + 7) // 8, "big"))
