"""Data records, sans-IO: what follows the handshake on the wire.

A record is u24 length ‖ AEAD(key, counter, aad = the length bytes, type u8 ‖ data). Each direction has its own key and
counter, carried on from the handshake. A sealer updates its key before 2^20 records, 1 GiB or an hour have passed; an
opener insists on the first two, so that a peer's fault cannot wear a key out. A stream that ends without a close record
was cut by somebody.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Final

from trellis.crypto.aead import TAG_BYTES, Aead, AuthenticationError, Suite
from trellis.crypto.kdf import expand
from trellis.types import U64_MAX

LENGTH_BYTES: Final = 3
MAX_PLAINTEXT_BYTES: Final = 65_537
"""Type and data: one yamux frame of at most 65,536 bytes with its header is one record."""
MAX_DATA_BYTES: Final = MAX_PLAINTEXT_BYTES - 1
MAX_CIPHERTEXT_BYTES: Final = MAX_PLAINTEXT_BYTES + TAG_BYTES
"""Checked on the length, before anything of the record is kept: what a peer can make us hold."""

UPDATE_RECORDS: Final = 1 << 20
UPDATE_BYTES: Final = 1 << 30
UPDATE_MS: Final = 3_600_000


class RecordType(IntEnum):
    DATA = 0
    KEY_UPDATE = 1
    CLOSE = 2


class RecordFault(StrEnum):
    """Why a connection ends that was established. A closed set: it labels counters."""

    TOO_LARGE = "record_too_large"
    TOO_SMALL = "record_too_small"
    BAD_SEAL = "record_bad_seal"
    UNKNOWN_TYPE = "record_unknown_type"
    EMPTY_DATA = "record_empty_data"
    NOT_EMPTY = "record_not_empty"
    """A key update or a close that carries data."""
    IDLE_KEY_UPDATE = "record_idle_key_update"
    """Two updates with no data between them: honest sealers update only when they have something to send."""
    KEY_WORN = "record_key_worn"
    """The peer used one key for longer than it may."""
    AFTER_CLOSE = "record_after_close"
    TRUNCATED = "record_truncated"
    """The stream ended without a close record."""


class RecordError(Exception):
    """The peer broke the record layer. The connection must end; nothing more of it may be used."""

    def __init__(self, fault: RecordFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault


class CounterWrappedError(Exception):
    """A broken invariant: a counter would repeat a nonce. No peer can cause it, as keys are updated long before."""


class _Direction:
    """One key, its counter, and what it has been used for."""

    __slots__ = ("_aead", "_key", "bytes_used", "counter", "records_used", "suite")

    def __init__(self, suite: Suite, key: bytes, counter: int) -> None:
        self.suite = suite
        self._key = key
        self._aead = Aead(suite, key)
        self.counter = counter
        self.records_used = 0
        self.bytes_used = 0

    def _advance(self, plaintext_bytes: int) -> int:
        counter = self.counter
        if counter >= U64_MAX:
            raise CounterWrappedError("a record counter is about to wrap")
        self.counter = counter + 1
        self.records_used += 1
        self.bytes_used += plaintext_bytes
        return counter

    def _update(self) -> None:
        self._key = expand(self._key, b"update")
        self._aead = Aead(self.suite, self._key)
        self.counter = 0
        self.records_used = 0
        self.bytes_used = 0


class RecordSealer(_Direction):
    """The sending direction."""

    __slots__ = ("_closed", "_key_since_ms")

    def __init__(self, suite: Suite, key: bytes, counter: int, now_ms: int) -> None:
        super().__init__(suite, key, counter)
        self._key_since_ms = now_ms
        self._closed = False

    def seal(self, data: bytes, now_ms: int) -> bytes:
        """The records that carry `data`, with a key update before them where one is due. No data, no record."""
        if self._closed:
            raise ValueError("the direction is closed")
        size = len(data)
        if 0 < size <= MAX_DATA_BYTES:
            return self._updated_if_due(size, now_ms) + self._record(RecordType.DATA, data)
        parts: list[bytes] = []
        for start in range(0, size, MAX_DATA_BYTES):
            chunk = data[start : start + MAX_DATA_BYTES]
            parts.append(self._updated_if_due(len(chunk), now_ms))
            parts.append(self._record(RecordType.DATA, chunk))
        return b"".join(parts)

    def close(self) -> bytes:
        """The last record: after it the stream may end."""
        if self._closed:
            raise ValueError("the direction is closed")
        self._closed = True
        return self._record(RecordType.CLOSE, b"")

    def _updated_if_due(self, next_bytes: int, now_ms: int) -> bytes:
        # One record is left for the update itself and one for a close.
        worn = self.records_used >= UPDATE_RECORDS - 2 or self.bytes_used + next_bytes + 3 > UPDATE_BYTES
        if not worn and now_ms - self._key_since_ms < UPDATE_MS:
            return b""
        if not self.records_used:
            # An idle hour wore nothing out; an update without data before it would be refused.
            self._key_since_ms = now_ms
            return b""
        record = self._record(RecordType.KEY_UPDATE, b"")
        self._update()
        self._key_since_ms = now_ms
        return record

    def _record(self, kind: RecordType, data: bytes) -> bytes:
        plaintext = _TYPE_BYTES[kind] + data
        length = (len(plaintext) + TAG_BYTES).to_bytes(LENGTH_BYTES, "big")
        return length + self._aead.seal(self._advance(len(plaintext)), plaintext, length)


_TYPE_BYTES: Final = {kind: bytes([kind]) for kind in RecordType}


class RecordOpener(_Direction):
    """The receiving direction: feed what arrives, get the data of every record that is complete."""

    __slots__ = ("_pending", "closed")

    def __init__(self, suite: Suite, key: bytes, counter: int) -> None:
        super().__init__(suite, key, counter)
        self._pending = b""
        self.closed = False
        """The peer's close record came: the stream may end now."""

    @property
    def held_bytes(self) -> int:
        """An incomplete record: at most `MAX_CIPHERTEXT_BYTES` and its length."""
        return len(self._pending)

    def feed(self, data: bytes) -> list[bytes]:
        """The data of the complete records, in order. `RecordError`: drop the connection and what `feed` had for it."""
        if self.closed and data:
            raise RecordError(RecordFault.AFTER_CLOSE, f"{len(data)} bytes after the close record")
        wire = self._pending + data if self._pending else data
        opened: list[bytes] = []
        at = 0
        while len(wire) - at >= LENGTH_BYTES:
            length_bytes = wire[at : at + LENGTH_BYTES]
            end = at + LENGTH_BYTES + _checked_length(length_bytes)
            if len(wire) < end:
                break
            chunk = self._open(wire[at + LENGTH_BYTES : end], length_bytes)
            at = end
            if chunk:
                opened.append(chunk)
            if self.closed and len(wire) > at:
                raise RecordError(RecordFault.AFTER_CLOSE, f"{len(wire) - at} bytes after the close record")
        self._pending = wire[at:]
        return opened

    def end_of_stream(self) -> None:
        """The transport ended. `RecordError` if the peer had not said so itself."""
        if not self.closed:
            raise RecordError(RecordFault.TRUNCATED, f"no close record, {len(self._pending)} bytes of one pending")

    def _open(self, ciphertext: bytes, length_bytes: bytes) -> bytes:
        size = len(ciphertext) - TAG_BYTES
        if self.records_used >= UPDATE_RECORDS or self.bytes_used + size > UPDATE_BYTES:
            raise RecordError(RecordFault.KEY_WORN, "the peer did not update its key in time")
        counter = self._advance(size)
        try:
            plaintext = self._aead.open(counter, ciphertext, length_bytes)
        except AuthenticationError:
            raise RecordError(RecordFault.BAD_SEAL, f"record {counter} does not open") from None
        kind = plaintext[0]
        if kind == RecordType.DATA:
            if size == 1:
                raise RecordError(RecordFault.EMPTY_DATA, "a data record without data")
            return plaintext[1:]
        if size != 1:
            raise RecordError(RecordFault.NOT_EMPTY, f"a record of type {kind} with {size - 1} bytes of data")
        if kind == RecordType.KEY_UPDATE:
            if self.records_used == 1:
                raise RecordError(RecordFault.IDLE_KEY_UPDATE, "two key updates in a row")
            self._update()
        elif kind == RecordType.CLOSE:
            self.closed = True
        else:
            raise RecordError(RecordFault.UNKNOWN_TYPE, f"record type {kind}")
        return b""


def _checked_length(length_bytes: bytes) -> int:
    length = int.from_bytes(length_bytes, "big")
    if length > MAX_CIPHERTEXT_BYTES:
        raise RecordError(RecordFault.TOO_LARGE, f"a record of {length} bytes, the most is {MAX_CIPHERTEXT_BYTES}")
    if length <= TAG_BYTES:
        raise RecordError(RecordFault.TOO_SMALL, f"a record of {length} bytes has no room for a type")
    return length
