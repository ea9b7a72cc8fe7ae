"""Peers as operators see and change them: who is connected, who is kept, who is banned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from node.rpc.errors import Reason, Refused
from node.rpc.port import BanView, PeerView
from p2p.book import PeerBook, Source, SourceKind
from p2p.dialing import PeerAddress
from p2p.host import DialError, Host
from trellis.encoding import DecodeError
from trellis.peerid import parse_peer_id
from trellis.types import Address, PeerId

FOR_EVER_MS: Final = 1 << 62


class Peering:
    def __init__(
        self,
        host: Host,
        book: PeerBook,
        validators: Callable[[], Mapping[PeerId, Address]],
        height_of: Callable[[PeerId], int],
        now_ms: Callable[[], int],
    ) -> None:
        self._host = host
        self._book = book
        self._validators = validators
        self._height_of = height_of
        self._now_ms = now_ms

    def views(self) -> tuple[PeerView, ...]:
        """Connected peers, and validators that are not, by peer id."""
        validators, now_ms = self._validators(), self._now_ms()
        found = {
            health.peer: PeerView(
                peer_id=health.peer,
                connected=True,
                outbound=health.dialled,
                address=health.address,
                transport="websocket" if "/ws" in health.address else "tcp",
                security="trellis",
                validator=validators.get(health.peer),
                agent=health.agent,
                height=self._height_of(health.peer),
                rtt_us=health.rtt_us,
                connected_at_ms=now_ms - 1_000 * health.age_s,
                score_permille=self._book.score(health.peer),
                received_bytes=health.bytes_in,
                sent_bytes=health.bytes_out,
                persistent=self._host.keeps(health.peer),
            )
            for health in self._host.peers()
        }
        for peer, validator in validators.items():
            if peer not in found and peer != self._host.peer:
                score, kept = self._book.score(peer), self._host.keeps(peer)
                found[peer] = PeerView(peer_id=peer, validator=validator, score_permille=score, persistent=kept)
        return tuple(found[peer] for peer in sorted(found))

    async def add(self, address: str) -> PeerId:
        """Connects, and keeps the peer connected from now on."""
        where, _, name = address.rpartition("/p2p/")
        try:
            peer = parse_peer_id(name)
        except DecodeError as fault:
            told = f"address: it must end in /p2p/ and a peer id: {fault.detail}"
            raise Refused(Reason.INVALID_FIELD, told, {"field": "address"}) from fault
        if peer == self._host.peer:
            raise Refused(Reason.INVALID_FIELD, "address: this is the node itself", {"field": "address"})
        if self._book.is_banned(peer):
            raise Refused(Reason.INVALID_FIELD, "address: the peer is banned; lift the ban first", {"field": "address"})
        try:
            await self._host.connect(peer, where)
        except DialError as fault:
            raise Refused(Reason.NOT_FOUND, f"{fault}: check the address and whether the peer listens") from fault
        except ValueError as fault:
            raise Refused(Reason.INVALID_FIELD, f"address: {fault}", {"field": "address"}) from fault
        self._book.note(peer, [where], Source(SourceKind.STATIC))
        self._host.keep(PeerAddress(peer, (where,)))
        return peer

    async def remove(self, peer: PeerId) -> bool | None:
        was_kept, was_connected = self._host.forget(peer), self._host.connected(peer)
        if not was_kept and not was_connected:
            return None
        await self._host.disconnect(peer)
        return was_connected

    async def ban(self, peer: PeerId, reason: str, duration_ms: int) -> BanView:
        until_ms = self._now_ms() + duration_ms if duration_ms else FOR_EVER_MS
        try:
            self._book.ban(peer, reason, until_ms)
        except ValueError as fault:
            raise Refused(Reason.INVALID_FIELD, f"reason: {fault}", {"field": "reason"}) from fault
        # A validator keeps its consensus lane: a ban throttles gossip and sync only.
        if peer not in self._validators():
            await self._host.ban(peer)
        return BanView(peer, reason, self._now_ms(), until_ms if duration_ms else 0, automatic=False)

    async def unban(self, peer: PeerId) -> BanView | None:
        view = next((each for each in self.bans() if each.peer_id == peer), None)
        if view is not None:
            self._book.unban(peer)
            self._host.unban(peer)
        return view

    def bans(self) -> tuple[BanView, ...]:
        return tuple(
            BanView(ban.peer, ban.reason, 0, 0 if ban.until_ms >= FOR_EVER_MS else ban.until_ms, automatic=False)
            for ban in self._book.bans()
        )
