"""GET_PEERS and PEERS: signed address records, the nearest to a key, from one peer to another.

    GET_PEERS   key[32] ‖ count u8 ‖ lp(the asker's own signed record, or empty)
    PEERS       count u8 ‖ lp(signed record) each: the server's own first, then the nearest to the key

The asker tells its own record along, so that both sides know each other after one question. A record travels as the
bytes its peer signed; whoever reads it judges it (`RecordJudge`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from p2p.discovery.records import Contact, RecordJudge, RecordRefusal
from p2p.discovery.table import Key, Table
from p2p.limits import TokenBuckets
from p2p.requests import RequestError, RequestFault
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.records import MAX_ADDRESS_RECORD_BYTES
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

MAX_RECORDS: Final = 16
"""Of one answer, whatever was asked: each costs its reader a signature check."""
MAX_SIGNED_BYTES: Final = MAX_ADDRESS_RECORD_BYTES + (8 << 10)
MAX_GET_PEERS_BYTES: Final = 32 + 1 + 4 + MAX_SIGNED_BYTES
MAX_PEERS_BYTES: Final = 256 << 10
"""16 records of the usual 5.4 KB take a third of it. An answer of more is never read."""
DEADLINE_S: Final = 5

QUESTIONS: Final = 32
"""Of one peer in a burst: an answer of 90 KB for a question of 40 bytes."""
QUESTIONS_PER_S: Final = 4
TRACKED_ASKERS: Final = 1_024

OFFENCE: Final = 100
"""Thousandths for a record or an answer that no honest peer would send."""
PESTER: Final = 20
"""For asking faster than is answered."""


@dataclass(frozen=True, slots=True)
class GetPeers:
    key: Key
    count: int
    record: bytes
    """The asker's own, empty if it does not want to be found."""

    def encode(self) -> bytes:
        return Writer().fixed(self.key.to_bytes(32, "big"), 32).u8(self.count).lp(self.record).done()


def decode_get_peers(data: bytes) -> GetPeers:
    def read(reader: Reader) -> GetPeers:
        key, count = Key(int.from_bytes(reader.fixed(32, "key"), "big")), reader.u8("count")
        return GetPeers(key, count, reader.lp("record", MAX_SIGNED_BYTES))

    return decode_whole(data, "peers request", MAX_GET_PEERS_BYTES, read)


def encode_peers(records: list[bytes]) -> bytes:
    writer = Writer().u8(len(records))
    for record in records:
        writer.lp(record)
    return writer.done()


def decode_peers(data: bytes) -> list[bytes]:
    def read(reader: Reader) -> list[bytes]:
        number = reader.u8("number of records")
        if number > MAX_RECORDS:
            raise DecodeError(Malformed.TOO_MANY, f"{number} records, the most is {MAX_RECORDS}")
        return [reader.lp("record", MAX_SIGNED_BYTES) for _ in range(number)]

    return decode_whole(data, "peers", MAX_PEERS_BYTES, read)


class Asking(Protocol):
    """As much of `p2p.requests.Requests` as this needs: simulated networks put another in its place."""

    async def ask(
        self, peer: PeerId, message_id: MessageId, payload: bytes, *, deadline_s: float, max_bytes: int
    ) -> list[Frame]: ...


_HONEST: Final = frozenset(
    {
        RequestFault.NOT_CONNECTED,
        RequestFault.NOT_TAKEN,
        RequestFault.CUT,
        RequestFault.DEADLINE,
        RequestFault.STALLED,
        RequestFault.NOT_SERVED,
        RequestFault.BUSY,
        RequestFault.REFUSED,
        RequestFault.FAILED,
    }
)
"""Faults that an honest but slow, busy or vanished peer has too."""


class Exchange:
    """Both sides of the two messages over one table."""

    def __init__(
        self,
        table: Table,
        judge: RecordJudge,
        *,
        asking: Asking,
        own: Callable[[], Contact | None],
        heard: Callable[[PeerId, Contact], None],
        offended: Callable[[PeerId, str, int], Awaitable[None]],
        now_ms: Callable[[], int],
    ) -> None:
        """`heard(teller, contact)` gets every record that counts; `offended(peer, reason, amount)` whoever lied."""
        self._table = table
        self._judge = judge
        self._asking = asking
        self._own = own
        self._heard = heard
        self._offended = offended
        self._now_ms = now_ms
        self._askers = TokenBuckets(QUESTIONS, QUESTIONS_PER_S, TRACKED_ASKERS)

    async def serve(self, peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        """The handler of GET_PEERS."""
        if not self._askers.take(peer.hex(), self._now_ms()):
            await self._offended(peer, "peers_pestered", PESTER)
            yield MessageId.PEERS, encode_peers([])
            return
        asked = decode_get_peers(payload)
        if asked.record:
            await self._meet(peer, asked.record)
        own = self._own()
        told = [] if own is None else [own.signed]
        size = 1 + sum(4 + len(each) for each in told)
        wanted = min(asked.count, MAX_RECORDS - len(told))
        for contact in self._table.nearest(asked.key, wanted + 1):
            size += 4 + len(contact.signed)
            if contact.peer == peer:
                continue
            if len(told) >= wanted + (own is not None) or size > MAX_PEERS_BYTES:
                break
            told.append(contact.signed)
        yield MessageId.PEERS, encode_peers(told)

    async def _meet(self, peer: PeerId, record: bytes) -> None:
        verdict = self._judge.judge(record)
        if isinstance(verdict, RecordRefusal):
            if verdict.is_an_offence:
                await self._offended(peer, str(verdict), OFFENCE)
        elif verdict.peer != peer:
            await self._offended(peer, "record_of_another", OFFENCE)
        else:
            self._table.offer(verdict)
            self._heard(peer, verdict)

    async def ask(self, peer: PeerId, key: Key, count: int) -> list[Contact] | None:
        """What the peer tells of peers near `key`, judged, itself included; None if it gave no answer or junk.

        The peer itself enters the table: it is there and answers. Of whom it tells enter it when they are asked.
        """
        own = self._own()
        request = GetPeers(key, count, b"" if own is None else own.signed).encode()
        try:
            frames = await self._asking.ask(
                peer, MessageId.GET_PEERS, request, deadline_s=DEADLINE_S, max_bytes=MAX_PEERS_BYTES
            )
        except RequestError as fault:
            if fault.reason not in _HONEST:
                await self._offended(peer, str(fault.reason), OFFENCE)
            self._table.failed(peer)
            return None
        contacts = await self._judged(peer, frames)
        if contacts is None:
            await self._offended(peer, "peers_malformed", OFFENCE)
            self._table.failed(peer)
            return None
        self._table.answered(peer)
        for contact in contacts:
            if contact.peer == peer:
                self._table.offer(contact)
            self._heard(peer, contact)
        return contacts

    async def _judged(self, peer: PeerId, frames: list[Frame]) -> list[Contact] | None:
        if len(frames) != 1:
            return None
        try:
            records = decode_peers(frames[0].payload)
        except DecodeError:
            return None
        contacts: dict[PeerId, Contact] = {}
        offences = 0
        for record in records:
            verdict = self._judge.judge(record)
            if isinstance(verdict, RecordRefusal):
                offences += verdict.is_an_offence
            elif verdict.peer not in contacts or contacts[verdict.peer].sequence < verdict.sequence:
                contacts[verdict.peer] = verdict
        if offences:
            await self._offended(peer, str(RecordRefusal.BAD_SIGNATURE), OFFENCE)
        own = self._own()
        if own is not None:
            contacts.pop(own.peer, None)
        return list(contacts.values())
