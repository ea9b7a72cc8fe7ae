"""Addresses: SHA3-256 over algorithm and public key, shown as bech32m `trl1…`; and k-of-n multi-signature policies.

A multi-signature account is an address form: its public key is the policy's bytes, its algorithm id is 16, and its
signature is a list of member signatures.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

from trellis.constants import MAX_MULTISIG_KEYS, MAX_PUBLIC_KEY_BYTES, MAX_SIGNATURE_BYTES
from trellis.crypto.algorithms import SIZES, AlgId, SignatureCheck, check_key_size, single_alg
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.hashing import Tag, hash_tagged
from trellis.types import HASH_BYTES, Address

ADDRESS_PREFIX: Final = "trl"
_CHARSET: Final = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32M: Final = 0x2BC830A3
_GENERATOR: Final = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CHECKSUM_LENGTH: Final = 6
_TEXT_LENGTH: Final = len(ADDRESS_PREFIX) + 1 + 52 + _CHECKSUM_LENGTH


def address_of(alg_id: int, public_key: bytes) -> Address:
    return Address(hash_tagged(Tag.ADDRESS, bytes([alg_id]), public_key))


def _polymod(values: Iterable[int]) -> int:
    state = 1
    for value in values:
        top = state >> 25
        state = (state & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                state ^= generator
    return state


_EXPANDED_PREFIX: Final = [ord(c) >> 5 for c in ADDRESS_PREFIX] + [0] + [ord(c) & 31 for c in ADDRESS_PREFIX]


def format_address(address: Address) -> str:
    """bech32m, as BIP-350 has it, with the prefix `trl`."""
    if len(address) != HASH_BYTES:
        raise ValueError(f"an address has {HASH_BYTES} bytes, not {len(address)}")
    # 256 bits in 52 groups of 5: the last group is padded with four zero bits.
    number = int.from_bytes(address, "big") << 4
    data = [number >> shift & 31 for shift in range(255, -1, -5)]
    check = _polymod([*_EXPANDED_PREFIX, *data, *([0] * _CHECKSUM_LENGTH)]) ^ _BECH32M
    data += [check >> shift & 31 for shift in range(25, -1, -5)]
    return f"{ADDRESS_PREFIX}1" + "".join(_CHARSET[value] for value in data)


def parse_address(text: str) -> Address:
    """The reverse of `format_address`; a typo is a `DecodeError` that says what is wrong."""
    if not text.isascii():
        # "\u212a".lower() is "k": without this, an address would have a second form that no screen tells apart.
        raise DecodeError(Malformed.NOT_CANONICAL, "an address has plain letters and digits alone")
    if text != text.lower() and text != text.upper():
        raise DecodeError(Malformed.NOT_CANONICAL, "an address is all lower case or all upper case, never mixed")
    lowered = text.lower()
    if not lowered.startswith(f"{ADDRESS_PREFIX}1"):
        raise DecodeError(Malformed.WRONG_PREFIX, f"an address starts with {ADDRESS_PREFIX}1")
    if len(lowered) != _TEXT_LENGTH:
        raise DecodeError(Malformed.WRONG_SIZE, f"an address has {_TEXT_LENGTH} characters, not {len(lowered)}")
    data = [_CHARSET.find(character) for character in lowered[len(ADDRESS_PREFIX) + 1 :]]
    if -1 in data:
        at = data.index(-1) + len(ADDRESS_PREFIX) + 1
        raise DecodeError(Malformed.OUT_OF_RANGE, f"character {at + 1} ({lowered[at]!r}) is never used in an address")
    if _polymod([*_EXPANDED_PREFIX, *data]) != _BECH32M:
        raise DecodeError(Malformed.BAD_CHECKSUM, "the checksum does not match: is a character wrong or missing?")
    number = 0
    for value in data[:-_CHECKSUM_LENGTH]:
        number = number << 5 | value
    if number & 0xF:
        raise DecodeError(Malformed.NOT_CANONICAL, "the padding bits of an address are zero")
    return Address((number >> 4).to_bytes(HASH_BYTES, "big"))


@dataclass(frozen=True, slots=True)
class MultisigPolicy:
    """Any `threshold` of `keys` may sign. Keys are (algorithm, public key), strictly ascending."""

    threshold: int
    keys: tuple[tuple[AlgId, bytes], ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.keys) <= MAX_MULTISIG_KEYS:
            raise ValueError(f"a multi-signature policy has 1 to {MAX_MULTISIG_KEYS} keys, not {len(self.keys)}")
        if not 1 <= self.threshold <= len(self.keys):
            raise ValueError(f"a threshold of {self.threshold} does not fit {len(self.keys)} keys")
        if any(left >= right for left, right in pairwise(self.keys)):
            raise ValueError("the keys of a multi-signature policy ascend, each once")

    def encode(self) -> bytes:
        """threshold u8 ‖ number u8 ‖ (algorithm u8 ‖ lp(public key)) each."""
        writer = Writer().u8(self.threshold).u8(len(self.keys))
        for alg, public_key in self.keys:
            writer.u8(alg).lp(public_key)
        return writer.done()

    @property
    def address(self) -> Address:
        return address_of(AlgId.MULTISIG, self.encode())


def make_policy(threshold: int, keys: Iterable[tuple[AlgId, bytes]]) -> MultisigPolicy:
    return MultisigPolicy(threshold, tuple(sorted(keys)))


def decode_policy(data: bytes) -> MultisigPolicy:
    return decode_whole(data, "multi-signature policy", MAX_PUBLIC_KEY_BYTES, _read_policy)


def _read_policy(reader: Reader) -> MultisigPolicy:
    threshold, number = reader.u8("threshold"), reader.u8("number of keys")
    if number > MAX_MULTISIG_KEYS:
        raise DecodeError(Malformed.TOO_MANY, f"{number} keys in a policy, the most is {MAX_MULTISIG_KEYS}")
    keys: list[tuple[AlgId, bytes]] = []
    for _ in range(number):
        alg = single_alg(reader.u8("member algorithm"), "member algorithm")
        public_key = reader.lp("member key", MAX_PUBLIC_KEY_BYTES)
        check_key_size(alg, public_key, "member key")
        keys.append((alg, public_key))
    try:
        return MultisigPolicy(threshold, tuple(keys))
    except ValueError as fault:
        raise DecodeError(Malformed.NOT_CANONICAL, str(fault)) from fault


def encode_member_signatures(signatures: Iterable[tuple[int, bytes]]) -> bytes:
    """number u8 ‖ (key index u8 ‖ lp(signature)) each, ascending by index."""
    ordered = sorted(signatures)
    writer = Writer().u8(len(ordered))
    for index, signature in ordered:
        writer.u8(index).lp(signature)
    return writer.done()


def decode_member_signatures(data: bytes, policy: MultisigPolicy) -> tuple[tuple[int, bytes], ...]:
    """Exactly `threshold` signatures: one more would make a second valid form, and work that nobody needs."""

    def read(reader: Reader) -> tuple[tuple[int, bytes], ...]:
        number = reader.u8("number of signatures")
        if number != policy.threshold:
            raise DecodeError(Malformed.INCONSISTENT, f"{number} signatures for a threshold of {policy.threshold}")
        return tuple((reader.u8("index"), reader.lp("signature", MAX_SIGNATURE_BYTES)) for _ in range(number))

    members = decode_whole(data, "multi-signature", MAX_SIGNATURE_BYTES, read)
    indices = [index for index, _ in members]
    if any(low >= high for low, high in pairwise(indices)) or indices[-1] >= len(policy.keys):
        raise DecodeError(Malformed.NOT_CANONICAL, "member signatures ascend by index and name keys of the policy")
    for index, signature in members:
        wanted = SIZES[policy.keys[index][0]].signature_bytes
        if len(signature) != wanted:
            raise DecodeError(Malformed.WRONG_SIZE, f"signature {index} has {len(signature)} bytes, not {wanted}")
    return members


def account_checks(
    alg_id: int, public_key: bytes, message: bytes, signature: bytes, context: bytes
) -> tuple[SignatureCheck, ...]:
    """The single signatures behind an account's signature: one, or `threshold` of a multi-signature account.

    Raises `DecodeError` where key or signature do not have the form of the algorithm.
    """
    if alg_id == AlgId.MULTISIG:
        policy = decode_policy(public_key)
        return tuple(
            SignatureCheck(*policy.keys[index], message, member, context)
            for index, member in decode_member_signatures(signature, policy)
        )
    alg = single_alg(alg_id, "account algorithm")
    check_key_size(alg, public_key, "account key")
    if len(signature) != SIZES[alg].signature_bytes:
        raise DecodeError(Malformed.WRONG_SIZE, f"a signature of {alg.name} does not have {len(signature)} bytes")
    return (SignatureCheck(alg, public_key, message, signature, context),)
