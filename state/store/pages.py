"""The head of an LMDB 0.9 file, read without the engine.

The engine trusts its file: one that is shorter than it says ends the process at the first touch of a missing page, and
a damaged meta page makes it fall back to the commit before, which would lose an acknowledged one without a word.
"""

from __future__ import annotations

from pathlib import Path
from struct import Struct
from typing import Final

_MAGIC: Final = 0xBEEFC0DE
_VERSION: Final = 1
_META_FLAG: Final = 0x08
_NO_PAGE: Final = (1 << 64) - 1
_FIRST_DATA_PAGE: Final = 2

_META_PAGE: Final = Struct("=Q H H I I I Q Q I H H 4Q Q I H H 4Q Q Q Q")
"""Page number, pad, flags, bounds; magic, version, address, map size; free tree; main tree; last page; commit."""


class _Meta:
    """One of the two meta pages."""

    def __init__(self, data: bytes, offset: int) -> None:
        fields = _META_PAGE.unpack_from(data, offset)
        self.page, self.flags = fields[0], fields[2]
        self.magic, self.version = fields[4], fields[5]
        self.page_bytes = fields[8]
        self.roots = (fields[15], fields[23])
        self.last_page, self.commit = fields[24], fields[25]


def header_fault(path: Path) -> str | None:
    """What is wrong with the head of the file, or with its length; None where it may be handed to the engine."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(_META_PAGE.size)
        if len(head) < _META_PAGE.size:
            return f"{size} bytes are no store: the file was cut short"
        page_bytes = _Meta(head, 0).page_bytes
        if not 512 <= page_bytes <= 1 << 15 or page_bytes & (page_bytes - 1):
            return f"the first page claims pages of {page_bytes} bytes"
        file.seek(page_bytes)
        second = file.read(_META_PAGE.size)
    if len(second) < _META_PAGE.size:
        return "the file ends within its second page"
    return _metas_fault(_Meta(head, 0), _Meta(second, 0), size)


def _metas_fault(even: _Meta, odd: _Meta, size: int) -> str | None:
    for number, meta in enumerate((even, odd)):
        if (meta.magic, meta.version, meta.page) != (_MAGIC, _VERSION, number) or not meta.flags & _META_FLAG:
            return f"page {number} is no meta page"
        if meta.page_bytes != even.page_bytes:
            return "the meta pages disagree about the size of pages"
        if meta.commit and meta.commit % 2 != number:
            return f"meta page {number} holds commit {meta.commit}, which belongs into the other"
    # Commit n writes page n mod 2, so the two are neighbours; anything else is a lost or damaged commit.
    if (even.commit or odd.commit) and abs(even.commit - odd.commit) != 1:
        return f"the meta pages hold commits {even.commit} and {odd.commit}, which are not neighbours"
    latest = even if even.commit > odd.commit else odd
    if any(root != _NO_PAGE and not _FIRST_DATA_PAGE <= root <= latest.last_page for root in latest.roots):
        return "a tree's root lies outside the file"
    if (latest.last_page + 1) * even.page_bytes > size:
        return f"{size} bytes where {(latest.last_page + 1) * even.page_bytes} are in use: the file was cut short"
    return None
