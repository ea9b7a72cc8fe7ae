"""Snapshots for peers: the list, and any piece of one by its certified root."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import trio

from node.anchors import ANCHOR_PIECE, anchor_of
from node.chain_service import Read
from node.rpc.errors import Refused
from p2p.messages import decode_get_chunk, encode_snapshots
from p2p.requests import Requests
from state.store.shelf import SnapshotShelf
from trellis.types import Hash, PeerId
from trellis.validators import ValidatorSet
from trellis.wire import MessageId


class SnapshotService:
    def __init__(self, shelf: SnapshotShelf, read: Read, sets: Callable[[Hash], ValidatorSet | None]) -> None:
        """`sets`: every validator set that was ever in force, by its hash."""
        self._shelf = shelf
        self._read = read
        self._sets = sets

    def serve(self, requests: Requests) -> None:
        requests.serve(MessageId.GET_SNAPSHOTS, self._list)
        requests.serve(MessageId.GET_CHUNK, self._piece)

    async def _list(self, _peer: PeerId, _payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        listed = await trio.to_thread.run_sync(self._shelf.manifests)
        yield MessageId.SNAPSHOTS, encode_snapshots(tuple(signed.encode() for signed in listed))

    async def _piece(self, _peer: PeerId, payload: bytes) -> AsyncIterator[tuple[MessageId, bytes]]:
        asked = decode_get_chunk(payload)
        if asked.index == ANCHOR_PIECE:
            found = await trio.to_thread.run_sync(self._anchor, asked.state_root)
        else:
            found = await trio.to_thread.run_sync(self._shelf.piece, asked.state_root, asked.index)
        yield (MessageId.NOT_FOUND, b"") if found is None else (MessageId.CHUNK, found)

    def _anchor(self, state_root: Hash) -> bytes | None:
        listed = self._shelf.manifests()
        manifest = next((each.manifest for each in listed if each.manifest.state_root == state_root), None)
        if manifest is None:
            return None
        try:
            with self._read() as reader:
                return anchor_of(reader, manifest.height, self._sets).encode()
        except Refused:
            return None
