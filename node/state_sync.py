"""Starting from a snapshot that peers serve: believed because its root is certified, fetched from several at once.

    height = await state_sync(home, book)        # before the node opens its store; None: there is nothing to start from

Count and sizes of chunks follow from the certified root before anything is accepted, and each chunk proves itself, so a
peer can waste one answer and is then banned. An import that was cut off goes on where it was. Blocks above the snapshot
come the usual way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import structlog
import trio

from node.anchors import ANCHOR_PIECE, Anchor, anchor_fault, decode_anchor
from node.home import Home, HomeFault
from node.network import PENALTIES, admitter, static_peers
from node.runtime import BOOK_FILE, now_ms
from node.work import Offence
from p2p.book import PeerBook
from p2p.handshake import LocalIdentity, Network
from p2p.host import Host, HostConfig
from p2p.messages import GetChunk, decode_snapshots
from p2p.requests import RequestError, Requests
from state.chain import MMR_KEY
from state.snapshot import ChunkRefusal
from state.store.errors import ForeignChainError
from state.store.lmdb_store import LmdbStore
from state.store.rows import FORMAT_KEY
from state.store.shelf import INDEX_PIECE
from state.store.snapshots import IMPORT_KEY, SnapshotAnchor, SnapshotImport, begin_import
from state.store.store import Table
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.mmr import decode_mmr
from trellis.records import SnapshotManifest, decode_signed_manifest
from trellis.types import Hash, PeerId
from trellis.wire import MAX_FRAME_PAYLOAD_BYTES, MessageId

CONNECT_S: Final = 10
LIST_S: Final = 5
PIECE_S: Final = 30
LIST_BYTES: Final = 1 << 20
WORKERS_A_SOURCE: Final = 2
REST_S: Final = 1
MAX_SILENCES: Final = 3
"""Answers in a row that a source owes; then it is left."""


@dataclass(slots=True, eq=False)
class _Offer:
    manifest: SnapshotManifest
    sources: list[PeerId]


class StateSync:
    """One attempt. `host` runs and knows whom to dial."""

    def __init__(self, home: Home, host: Host, requests: Requests, book: PeerBook) -> None:
        self._home = home
        self._host = host
        self._requests = requests
        self._book = book
        self.log = structlog.get_logger().bind(node=home.config.node.moniker or "node")
        self.refused: list[tuple[PeerId, str]] = []
        """Who sent what no honest peer sends."""

    async def offers(self) -> list[_Offer]:
        """Newest first, each with all who have it."""
        found: dict[Hash, _Offer] = {}

        async def ask(peer: PeerId) -> None:
            for manifest in await self._listed(peer):
                if manifest.genesis_hash == self._home.genesis.hash:
                    found.setdefault(manifest.state_root, _Offer(manifest, [])).sources.append(peer)

        async with trio.open_nursery() as nursery:
            for peer in sorted({each.peer for each in self._host.peers()}):
                nursery.start_soon(ask, peer)
        for offer in found.values():
            offer.sources.sort()
        return sorted(found.values(), key=lambda offer: (offer.manifest.height, len(offer.sources)), reverse=True)

    async def _listed(self, peer: PeerId) -> list[SnapshotManifest]:
        try:
            frames = await self._requests.ask(
                peer, MessageId.GET_SNAPSHOTS, b"", deadline_s=LIST_S, max_bytes=LIST_BYTES
            )
            raw = [one for frame in frames for one in decode_snapshots(frame.payload)]
            return [decode_signed_manifest(one).manifest for one in raw]
        except RequestError:
            return []
        except DecodeError as fault:
            self._blame(peer, Offence.MALFORMED, str(fault))
            return []

    async def run(self, offer: _Offer, store: LmdbStore) -> bool:
        """True once the store holds the snapshot's state, as a chain."""
        anchor = await self._anchor(offer)
        importing = None if anchor is None else await self._begin(offer, store)
        if anchor is None or importing is None or not await self._fetch_chunks(offer, importing):
            return False
        mountains = importing.value(MMR_KEY)
        if mountains is None:
            return False
        certified = SnapshotAnchor(anchor.header, anchor.certificate.encode(), decode_mmr(mountains))
        await trio.to_thread.run_sync(lambda: importing.finish(certified))
        return True

    async def _anchor(self, offer: _Offer) -> Anchor | None:
        for peer in list(offer.sources):
            data = await self._piece(peer, offer.manifest, ANCHOR_PIECE, MAX_FRAME_PAYLOAD_BYTES)
            if data is None:
                continue
            try:
                anchor = decode_anchor(data)
            except DecodeError as fault:
                self._drop(offer, peer, str(fault))
                continue
            fault_found = await trio.to_thread.run_sync(anchor_fault, anchor, self._home.genesis, verify_all)
            manifest, header = offer.manifest, anchor.header
            named = (manifest.height, manifest.block_hash, manifest.state_root)
            if fault_found is None and named == (header.height, header.hash, header.state_root):
                return anchor
            self._drop(offer, peer, fault_found or "the manifest is not of the certified block")
        return None

    async def _begin(self, offer: _Offer, store: LmdbStore) -> SnapshotImport | None:
        for peer in list(offer.sources):
            data = await self._piece(peer, offer.manifest, INDEX_PIECE, MAX_FRAME_PAYLOAD_BYTES)
            if data is None:
                continue
            begun = begin_import(store, offer.manifest, data)
            if isinstance(begun, SnapshotImport):
                return begun
            self._drop(offer, peer, f"{begun.fault}: {begun.detail}")
        return None

    async def _fetch_chunks(self, offer: _Offer, importing: SnapshotImport) -> bool:
        waiting = list(importing.missing())
        writing = trio.Lock()

        async def work(peer: PeerId) -> None:
            silences = 0
            while waiting and peer in offer.sources and silences < MAX_SILENCES:
                index = waiting.pop(0)
                refusal: ChunkRefusal | None = None
                data = await self._piece(peer, offer.manifest, index, importing.expected_bytes(index))
                if data is not None:
                    async with writing:
                        refusal = await trio.to_thread.run_sync(importing.accept, index, data)
                if data is None or refusal is not None:
                    waiting.insert(0, index)
                if refusal is not None:
                    self._drop(offer, peer, f"chunk {index}: {refusal.detail}")
                elif data is None:
                    silences += 1
                    await trio.sleep(REST_S)

        while waiting and offer.sources:
            before = len(waiting), len(offer.sources)
            async with trio.open_nursery() as nursery:
                for peer in offer.sources * WORKERS_A_SOURCE:
                    nursery.start_soon(work, peer)
            if (len(waiting), len(offer.sources)) == before:
                return False  # all of them are silent
        return next(importing.missing(), None) is None

    async def _piece(self, peer: PeerId, manifest: SnapshotManifest, index: int, max_bytes: int) -> bytes | None:
        request = GetChunk(manifest.state_root, index).encode()
        try:
            frames = await self._requests.ask(
                peer, MessageId.GET_CHUNK, request, deadline_s=PIECE_S, max_bytes=max_bytes, max_frames=1
            )
        except RequestError:
            return None
        return next((frame.payload for frame in frames if frame.message_id == MessageId.CHUNK), None)

    def _drop(self, offer: _Offer, peer: PeerId, why: str) -> None:
        if peer in offer.sources:
            offer.sources.remove(peer)
            self._blame(peer, Offence.WRONG_CHUNK, why)

    def _blame(self, peer: PeerId, offence: Offence, why: str) -> None:
        self.refused.append((peer, why))
        self.log.warning("a snapshot's source lied", peer=peer.hex()[:16], offence=str(offence), why=why)
        # Nothing that an honest peer could send by mistake: banned at once.
        self._book.penalise(peer, str(offence), 2 * PENALTIES[offence])


def _is_empty(store: LmdbStore) -> bool:
    with store.snapshot() as snapshot:
        return snapshot.get(Table.META, FORMAT_KEY) is None


def _is_begun(store: LmdbStore) -> bool:
    with store.snapshot() as snapshot:
        return snapshot.get(Table.META, IMPORT_KEY) is not None


async def start_from_snapshot(home: Home) -> None:
    """What the configuration asks for, before the node opens its store. The bans it leads to last."""
    book = PeerBook(home.data_directory / BOOK_FILE, home.genesis.hash, now_ms)
    try:
        await state_sync(home, book)
    finally:
        book.close()


async def state_sync(home: Home, book: PeerBook, *, connect_s: float = CONNECT_S) -> int | None:
    """Into an empty store, from the peers that the configuration names; its height, or None if there was nothing."""
    store = LmdbStore(home.store_directory)
    try:
        if not _is_empty(store):
            return None
        members = frozenset(each.network_id for each in home.genesis.validators.members)
        host = Host(
            HostConfig(
                identity=LocalIdentity.of(home.network_key),
                network=Network(home.genesis.hash, home.genesis.policy.root()),
                peers=tuple(each for each in static_peers(home) if not book.is_banned(each.peer)),
                validators=members,
                admit=admitter(home, lambda: members),
            )
        )
        requests = Requests(host, home.genesis.hash)
        sync = StateSync(home, host, requests, book)
        async with host.run():
            await _connected(host, len(host.config.peers), connect_s)
            height = await _first_that_works(sync, await sync.offers(), store)
        if height is None and _is_begun(store):
            raise HomeFault(
                f"the import of a snapshot into {home.store_directory} was begun, and no peer serves it now: "
                "start again when one does, or remove that folder and begin anew"
            )
        return height
    finally:
        store.close()


async def _connected(host: Host, wanted: int, within_s: float) -> None:
    """All that are configured, or whoever is there when time is up."""
    with trio.move_on_after(within_s):
        while len({each.peer for each in host.peers()}) < wanted:
            await trio.sleep(0.05)


async def _first_that_works(sync: StateSync, offers: Sequence[_Offer], store: LmdbStore) -> int | None:
    for offer in offers:
        manifest = offer.manifest
        sync.log.info("snapshot", height=manifest.height, chunks=manifest.chunk_count, sources=len(offer.sources))
        try:
            if await sync.run(offer, store):
                sync.log.info("snapshot imported", height=manifest.height)
                return manifest.height
        except ForeignChainError:
            # The import of another snapshot was begun here: that one is offered too, or the operator empties the store.
            continue
    return None
