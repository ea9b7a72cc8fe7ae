"""The file of the peer book: an append-only log of JSON lines, each with a checksum, rewritten when it has grown.

    crc32 of the rest in hexadecimal ‖ space ‖ JSON ‖ newline

The first line names the format and the network. Every append begins with a newline of its own, so that a line torn by
a crash or a full disk never swallows the next one. A line whose checksum is off is skipped and reported: what the book
knows is learned again. A file that is none of ours at all is set aside under another name, never deleted.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final
from zlib import crc32

from trellis.crypto.keystore import write_private_file
from trellis.types import Hash

logger = logging.getLogger(__name__)

FORMAT: Final = "trellis-peer-book"
VERSION: Final = 1
MAX_LOG_BYTES: Final = 256 << 20
"""A file that cannot be ours is not read into memory."""
OUTDATED_LINES: Final = 4_096
"""The log is rewritten when it has so many lines more than four times what it must hold."""


class PeerBookFault(Exception):
    """The book cannot be used; the message names the file and says what to do."""


class BookLog:
    """Lines in, lines out. A disk that does not take them costs the book its memory of them, not the node its life."""

    def __init__(self, path: Path, genesis_hash: Hash) -> None:
        self.path = path
        self.trouble = ""
        self._head = {"format": FORMAT, "version": VERSION, "network": genesis_hash.hex()}
        self._lines = 0
        self._descriptor = -1
        self._unsynced = False

    def read(self, now_ms: int) -> Iterator[dict[str, Any]]:
        """The documents of all whole lines, oldest first; then the log is open for more."""
        documents: list[dict[str, Any]] = []
        if self.path.exists():
            documents = self._documents(self._content(), now_ms)
        if not self.path.exists():
            write_private_file(self.path, _line(self._head))
        self._open()
        self._lines = len(documents) + 1
        yield from documents

    def _content(self) -> bytes:
        try:
            with self.path.open("rb") as file:
                return file.read(MAX_LOG_BYTES + 1)
        except OSError as fault:
            raise PeerBookFault(f"cannot read the peer book {self.path}: {fault.strerror}") from fault

    def _documents(self, content: bytes, now_ms: int) -> list[dict[str, Any]]:
        lines = [each for each in content.split(b"\n") if each]
        documents = [each for each in map(_document, lines) if each is not None]
        if not documents or documents[0].get("format") != FORMAT or len(content) > MAX_LOG_BYTES:
            aside = self.path.with_name(f"{self.path.name}.damaged-{now_ms}")
            self.path.replace(aside)
            logger.warning("the peer book %s is none, or damaged from its start: set aside as %s", self.path, aside)
            return []
        head, *rest = documents
        if head.get("version") != VERSION:
            raise PeerBookFault(f"{self.path} has version {head.get('version')!r}, this software knows {VERSION}")
        if head != self._head:
            raise PeerBookFault(f"{self.path} belongs to another network: give this node a folder of its own")
        damaged = len(lines) - len(documents)
        if damaged:
            logger.warning("the peer book %s has %d damaged lines: what they said is learned anew", self.path, damaged)
        return rest

    def _open(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)

    def append(self, documents: Sequence[dict[str, Any]]) -> bool:
        """In the hands of the operating system when this returns True: a killed process loses none of it."""
        if not documents:
            return True
        data = b"\n" + b"".join(map(_line, documents))
        try:
            while data:
                data = data[os.write(self._descriptor, data) :]
        except OSError as fault:
            self._report(fault)
            return False
        self._lines += len(documents)
        self._unsynced = True
        return True

    def sync(self) -> None:
        """Everything appended is on the disk when this returns."""
        if not self._unsynced:
            return
        self._unsynced = False
        try:
            os.fdatasync(self._descriptor)
            self.trouble = ""
        except OSError as fault:
            self._report(fault)

    def is_mostly_outdated(self, needed_lines: int) -> bool:
        return self._lines > 4 * needed_lines + OUTDATED_LINES

    def rewrite(self, documents: Sequence[dict[str, Any]]) -> None:
        """The log says this and nothing else; a crash leaves the old file or the new one, whole."""
        try:
            write_private_file(self.path, b"".join(map(_line, [self._head, *documents])), replace=True)
            self._open()
        except OSError as fault:
            self._report(fault)
            return
        self._lines = len(documents) + 1

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _report(self, fault: OSError) -> None:
        if not self.trouble:
            logger.warning("cannot write the peer book %s: %s; it goes on from memory", self.path, fault.strerror)
        self.trouble = fault.strerror or "write failed"


def _line(document: dict[str, Any]) -> bytes:
    body = json.dumps(document, separators=(",", ":")).encode()
    return b"%08x %s\n" % (crc32(body), body)


def _document(line: bytes) -> dict[str, Any] | None:
    """None for a line that was torn or damaged."""
    check, _, body = line.partition(b" ")
    if check != b"%08x" % crc32(body):
        return None
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
