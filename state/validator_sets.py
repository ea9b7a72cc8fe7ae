"""The validator sets that may still matter: in force, of the block before, and of every height within the window.

A set is written once, when it first serves; an index row tells which set served at a height. So evidence is checked
against the set of the offence's height from the state alone.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final, NamedTuple

from state.chain import require
from state.errors import StateCorrupt
from state.overlay import Overlay
from state.view import StateView
from trellis.encoding import Reader, Writer
from trellis.types import HASH_BYTES, Hash, Height
from trellis.validators import ValidatorSet, decode_validator_set

SET_PREFIX: Final = b"w"
INDEX_KEY: Final = b"msets"
CHUNK_BYTES: Final = 1 << 20
"""A set of 10,000 validators has 20 MB, more than a row may have."""

REMEMBERED_SETS: Final = 32
_ENTRY_BYTES: Final = 8 + HASH_BYTES + 4


class Era(NamedTuple):
    """From `first` on, the set with this hash serves, until the next era."""

    first: Height
    set_hash: Hash
    chunks: int


def read_eras(view: StateView) -> tuple[Era, ...]:
    return _decode_eras(require(view, INDEX_KEY))


@lru_cache(maxsize=REMEMBERED_SETS)
def _decode_eras(row: bytes) -> tuple[Era, ...]:
    reader = Reader(row)
    eras = tuple(
        Era(Height(reader.u64("first height")), reader.hash("set hash"), reader.u32("chunks"))
        for _ in range(len(row) // _ENTRY_BYTES)
    )
    reader.end("set index")
    return eras


def _encode_eras(eras: tuple[Era, ...]) -> bytes:
    writer = Writer()
    for era in eras:
        writer.u64(era.first).hash(era.set_hash).u32(era.chunks)
    return writer.done()


_remembered: dict[Hash, ValidatorSet] = {}
"""By content hash, so no state can be answered with another state's set; decoding 100 members costs a millisecond."""


def _load(view: StateView, era: Era) -> ValidatorSet:
    found = _remembered.get(era.set_hash)
    if found is None:
        data = b"".join(require(view, _chunk_key(era.first, place)) for place in range(era.chunks))
        found = decode_validator_set(data)
        if found.hash != era.set_hash:
            raise StateCorrupt(f"the validator set of height {era.first} does not have its hash")
        remember(found)
    return found


def remember(validators: ValidatorSet) -> None:
    if len(_remembered) >= REMEMBERED_SETS:
        _remembered.pop(next(iter(_remembered)))
    _remembered[validators.hash] = validators


def _chunk_key(first: int, place: int) -> bytes:
    return SET_PREFIX + first.to_bytes(8, "big") + place.to_bytes(2, "big")


def set_at(view: StateView, height: int) -> ValidatorSet | None:
    """V(height), or None where it is not known (any more, or yet)."""
    for era in reversed(read_eras(view)):
        if era.first <= height:
            return _load(view, era)
    return None


def require_set(view: StateView, height: int) -> ValidatorSet:
    found = set_at(view, height)
    if found is None:
        raise StateCorrupt(f"the state does not hold the validator set of height {height}")
    return found


def append_set(state: Overlay, first: Height, validators: ValidatorSet, oldest_needed: int) -> None:
    """The set that serves from `first`; eras that ended before `oldest_needed` are dropped."""
    eras = read_eras(state) if state.get(INDEX_KEY) is not None else ()
    if not eras or eras[-1].set_hash != validators.hash:
        data = validators.encode()
        chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
        for place, chunk in enumerate(chunks):
            state.put(_chunk_key(first, place), chunk)
        eras = (*eras, Era(first, validators.hash, len(chunks)))
        remember(validators)
    while len(eras) > 1 and eras[1].first <= oldest_needed:
        for place in range(eras[0].chunks):
            state.delete(_chunk_key(eras[0].first, place))
        eras = eras[1:]
    row = _encode_eras(eras)
    if state.get(INDEX_KEY) != row:
        state.put(INDEX_KEY, row)
