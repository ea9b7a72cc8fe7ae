"""Recovery phrases: 24 words of BIP-39's English list for each 32 bytes of secret, and back.

The words carry the secret's bytes themselves and a checksum. BIP-39's own step from words to wallet seed (PBKDF2 with
a passphrase) is not used: a phrase here *is* the key.

- ML-DSA keys are grown from a 32-byte seed: one phrase.
- SLH-DSA's key generation takes no seed in the library that provides it. Its 64-byte secret key is backed up whole, as
  two phrases of 24 words, in order: SK.seed ‖ SK.prf, then PK.seed ‖ PK.root. Two standard phrases were chosen over 64
  bytes of hex because people copy words more safely than digits and each half has a checksum, and over one phrase that
  grows into a key because that would mean key-generation code of our own. The second phrase holds nothing secret, the
  public key alone, but the key cannot sign without it. Halves that were swapped, or come from two keys, make a key
  that does not verify its own signature: whoever imports one must ask `trellis.crypto.schemes.proves_itself`.

The encrypted keystore file is the everyday backup of any key; phrases are for paper.
"""

from __future__ import annotations

import unicodedata
from functools import cache
from hashlib import sha256
from typing import Final

from mnemonic import Mnemonic

WORDS: Final = 24
PART_BYTES: Final = 32
_BITS_PER_WORD: Final = 11


class PhraseError(ValueError):
    """The words are no recovery phrase. The message names positions, never words: a typo is close to the secret."""


@cache
def _list() -> tuple[str, ...]:
    return tuple(Mnemonic("english").wordlist)


@cache
def _places() -> dict[str, int]:
    return {word: place for place, word in enumerate(_list())}


def secret_to_phrases(secret: bytes) -> tuple[str, ...]:
    """One phrase for each 32 bytes."""
    if not secret or len(secret) % PART_BYTES:
        raise ValueError(f"a phrase holds {PART_BYTES} bytes; {len(secret)} bytes do not divide into phrases")
    return tuple(_phrase(secret[at : at + PART_BYTES]) for at in range(0, len(secret), PART_BYTES))


def phrases_to_secret(text: str) -> bytes:
    """The bytes behind one or several phrases, written one after the other. Case and white space do not matter."""
    words = unicodedata.normalize("NFKD", text).lower().split()
    if not words or len(words) % WORDS:
        raise PhraseError(f"a phrase has {WORDS} words (an SLH-DSA key has two phrases: 48), not {len(words)}")
    unknown = [str(place) for place, word in enumerate(words, 1) if word not in _places()]
    if unknown:
        raise PhraseError(f"not in the word list: word{'s' if len(unknown) > 1 else ''} {', '.join(unknown)}")
    parts = [words[at : at + WORDS] for at in range(0, len(words), WORDS)]
    return b"".join(_part(part, number, len(parts)) for number, part in enumerate(parts, 1))


def _phrase(part: bytes) -> str:
    bits = int.from_bytes(part + sha256(part).digest()[:1], "big")
    mask = (1 << _BITS_PER_WORD) - 1
    return " ".join(_list()[bits >> _BITS_PER_WORD * place & mask] for place in reversed(range(WORDS)))


def _part(words: list[str], number: int, of: int) -> bytes:
    bits = 0
    for word in words:
        bits = bits << _BITS_PER_WORD | _places()[word]
    whole = bits.to_bytes(PART_BYTES + 1, "big")
    part = whole[:PART_BYTES]
    if whole[PART_BYTES:] != sha256(part).digest()[:1]:
        which = f"phrase {number} of {of}: " if of > 1 else ""
        raise PhraseError(
            f"{which}every word is in the list, but the checksum does not match: a word is another word of the list, "
            "or two words are swapped. Compare each word with your copy"
        )
    return part
