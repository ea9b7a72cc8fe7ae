"""A simulated disk: what was appended, what was made durable, and what a crash leaves of it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from consensus.guard import SignGuard
from consensus.records import HeightBegun, Record, decode_record, encode_record
from node.journal import BODY_MARK
from trellis.block import Block, decode_block


@dataclass(slots=True)
class Disk:
    """One host's write-ahead log and sign guard. Records are kept as bytes: a restart decodes what it finds."""

    guard: SignGuard
    log: list[bytes] = field(default_factory=list)
    durable: int = 0
    """How many records of the log a crash cannot take."""

    _begun: int = 0
    """Where the newest height begins in the log."""

    def append_body(self, block: bytes) -> None:
        """In the same file as the records: what a crash takes is a suffix of both."""
        self.log.append(bytes((BODY_MARK,)) + block)

    def append(self, record: Record) -> None:
        if isinstance(record, HeightBegun):
            self._begun = len(self.log)
        self.log.append(encode_record(record))

    def sync(self) -> None:
        """A durable new height makes the records before it superfluous. (Nobody here reads the archive of duty 9.)"""
        if self.durable == len(self.log):
            return
        if self._begun:
            del self.log[: self._begun]
            self._begun = 0
        self.durable = len(self.log)

    def crash(self, chance: random.Random) -> None:
        """Of what was not durable, a prefix may have reached the disk; a torn record behind it is found and dropped."""
        kept = chance.randint(self.durable, len(self.log))
        del self.log[kept:]
        self.durable = kept
        self._begun = self._begun if self._begun < kept else 0

    def records(self) -> list[Record]:
        return [decode_record(data) for data in self.log if data[0] != BODY_MARK]

    def bodies(self) -> list[Block]:
        return [decode_block(data[1:]) for data in self.log if data[0] == BODY_MARK]
