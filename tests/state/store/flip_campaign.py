"""Flips bits of a store's file and cuts it short, and looks whether anything wrong is ever served. By hand:

python -m tests.state.store.flip_campaign [flips] [seed]
"""

from __future__ import annotations

import os
import random
import resource
import sys
import tempfile
from collections import Counter
from enum import Enum
from pathlib import Path

from state.store.chain import load_chain
from state.store.errors import StoreError
from state.store.lmdb_store import DATA_NAME, LmdbStore, structural_faults
from state.store.store import Table
from tests.state.store.chain_kit import IDENTITY, everything, grow, new_chain
from trellis.types import Height

MAP_BYTES = 1 << 26
BLOCKS = 12


class Verdict(Enum):
    """What became of a damaged file."""

    HARMLESS = 0
    """All that is served is right: the bit meant nothing."""
    NAMED = 10
    """A `StoreError` that names the directory."""
    WRONG = 11
    """Something else was served."""
    STRAY = 12
    """Another exception."""
    CRASHED = -1
    """The engine ended the process."""


def build(directory: Path) -> dict[tuple[bytes, bytes], bytes]:
    chain = new_chain(LmdbStore(directory, map_bytes=MAP_BYTES))
    grow(chain, BLOCKS, changes={b"k%02d" % number: b"%02d" % number * 30 for number in range(99)})
    rows = everything(chain.store)
    chain.close()
    return rows


def look(directory: Path, expected: dict[tuple[bytes, bytes], bytes]) -> Verdict:
    """Reads everything by every road that a node has."""
    try:
        chain = load_chain(LmdbStore(directory, map_bytes=MAP_BYTES), IDENTITY)
        served = everything(chain.store)
        for (table, key), value in expected.items():
            if table == Table.STATE.value:
                if chain.state.get(key) != value:
                    return Verdict.WRONG
                chain.state.prove(key)
        with chain.read() as reader:
            for height in range(1, BLOCKS + 1):
                reader.block_bytes(Height(height))
                reader.results(Height(height))
        chain.close()
    except StoreError as fault:
        return Verdict.NAMED if str(directory) in str(fault) else Verdict.STRAY
    except Exception:  # whatever else escapes is what this looks for
        return Verdict.STRAY
    return Verdict.HARMLESS if served == expected else Verdict.WRONG


def look_in_a_child(directory: Path, expected: dict[tuple[bytes, bytes], bytes]) -> Verdict:
    """The engine trusts its file, so a damaged one may end the process."""
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os._exit(look(directory, expected).value)
    _, status = os.waitpid(child, 0)
    return Verdict.CRASHED if os.WIFSIGNALED(status) else Verdict(os.WEXITSTATUS(status))


def damage_and_look(root: Path, flips: int, seed: int) -> tuple[Counter[Verdict], list[str]]:
    """Verdicts over so many flipped bits; and what the check without the engine missed of the bad ones."""
    rng = random.Random(seed)
    expected = build(root)
    path = root / DATA_NAME
    good = path.read_bytes()
    verdicts: Counter[Verdict] = Counter()
    unseen: list[str] = []
    for _ in range(flips):
        at, bit = rng.randrange(len(good)), rng.randrange(8)
        if rng.random() < 0.3:
            # The two meta pages and page headers are small and matter most.
            at = rng.randrange(2) * 4096 + rng.randrange(168) if rng.random() < 0.3 else at // 4096 * 4096 + at % 40
        bad = bytearray(good)
        bad[at] ^= 1 << bit
        path.write_bytes(bad)
        (root / "lock.mdb").unlink(missing_ok=True)
        verdict = look_in_a_child(root, expected)
        verdicts[verdict] += 1
        if verdict not in {Verdict.HARMLESS, Verdict.NAMED} and not structural_faults(root):
            unseen.append(f"byte {at} bit {bit}: {verdict.name}")
    path.write_bytes(good)
    return verdicts, unseen


def main() -> None:
    flips = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else 1
    with tempfile.TemporaryDirectory() as directory:
        verdicts, unseen = damage_and_look(Path(directory) / "store", flips, seed)
    print({verdict.name: number for verdict, number in verdicts.items()}, unseen)


if __name__ == "__main__":
    main()
