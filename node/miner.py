"""Searches nonces in a process of its own: `python -m node.miner`, one search a line on standard input.

A line is the search's number, the header's work preimage in hex, the target and the first nonce; the answer is the
number and the nonce that meets the target. A new line replaces the search in progress. The parent ends it by closing
its standard input.
"""

from __future__ import annotations

import os
from hashlib import sha3_256
from select import select
from typing import Final

from trellis.hashing import Tag

SLICE: Final = 20_000
"""Hashes between two looks at standard input: some 20 ms."""


def search(preimage: bytes, target: int, first: int, number: int) -> int | None:
    """The first of `number` nonces from `first` on that meets the target."""
    head = sha3_256(Tag.WORK.value + preimage + target.to_bytes(32, "big"))
    for nonce in range(first, first + number):
        digest = head.copy()
        digest.update(nonce.to_bytes(8, "big"))
        if int.from_bytes(digest.digest(), "big") <= target:
            return nonce
    return None


def main() -> None:
    held = b""
    while True:
        data = os.read(0, 1 << 16)
        if not data:
            return
        held += data
        *lines, held = held.split(b"\n")
        # Only the newest search counts: what came before it is of no use to anybody.
        words = lines[-1].split() if lines else []
        if len(words) == 4:
            job, preimage, target, first = int(words[0]), bytes.fromhex(words[1].decode()), int(words[2]), int(words[3])
            _search_until_told(job, preimage, target, first)


def _search_until_told(job: int, preimage: bytes, target: int, nonce: int) -> None:
    while not select([0], [], [], 0)[0]:
        found = search(preimage, target, nonce, SLICE)
        if found is not None:
            os.write(1, b"%d %d\n" % (job, found))
            return
        nonce += SLICE


if __name__ == "__main__":
    main()
