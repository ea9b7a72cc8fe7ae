"""AdminService: operating the node. On the operators' listener alone; every call is logged with who made it."""

from __future__ import annotations

from typing import Final

import structlog

from node.rpc.backend import Backend
from node.rpc.dispatch import Call
from node.rpc.draining import Draining
from node.rpc.encode import block_ref
from node.rpc.errors import Reason, Refused, invalid
from node.rpc.fields import bounded, peer_field
from node.rpc.pages import cut
from node.rpc.port import BanView, LogLevel
from trellis.peerid import peer_id_text
from trellis.types import U64_MAX
from trellis.v1 import admin_service_pb2

_A = admin_service_pb2

MAX_ADDRESS_CHARACTERS: Final = 512
MAX_REASON_CHARACTERS: Final = 256
MAX_COMPONENT_CHARACTERS: Final = 64
MAX_BAN_MS: Final = 31_536_000_000
MAX_DRAIN_MS: Final = 600_000
DEFAULT_DRAIN_MS: Final = 30_000


class AdminService:
    """Each method as its comment in the schema says."""

    def __init__(self, backend: Backend, draining: Draining) -> None:
        self._backend = backend
        self._draining = draining
        self._log = structlog.get_logger("node.rpc.admin")

    def _note(self, call: Call, **facts: object) -> None:
        self._log.warning("operator", method=call.method, caller=call.caller, **facts)

    async def add_peer(self, request: _A.AddPeerRequest, call: Call) -> _A.AddPeerResponse:
        bounded(len(request.address), 1, MAX_ADDRESS_CHARACTERS, "address")
        self._note(call, address=request.address)
        peer = await self._backend.bridge.run(self._backend.port.add_peer, request.address)
        return _A.AddPeerResponse(peer_id=peer_id_text(peer))

    async def remove_peer(self, request: _A.RemovePeerRequest, call: Call) -> _A.RemovePeerResponse:
        peer = peer_field(request.peer_id, "peer_id")
        self._note(call, peer=request.peer_id)
        closed = await self._backend.bridge.run(self._backend.port.remove_peer, peer)
        if closed is None:
            raise Refused(Reason.NOT_FOUND, "no such peer was added or configured")
        return _A.RemovePeerResponse(disconnected=closed)

    async def ban_peer(self, request: _A.BanPeerRequest, call: Call) -> _A.BanPeerResponse:
        peer = peer_field(request.peer_id, "peer_id")
        bounded(len(request.reason), 0, MAX_REASON_CHARACTERS, "reason")
        bounded(request.duration_ms, 0, MAX_BAN_MS, "duration_ms")
        self._note(call, peer=request.peer_id, reason=request.reason, duration_ms=request.duration_ms)
        ban = await self._backend.bridge.run(self._backend.port.ban_peer, peer, request.reason, request.duration_ms)
        return _A.BanPeerResponse(ban=_ban(ban))

    async def unban_peer(self, request: _A.UnbanPeerRequest, call: Call) -> _A.UnbanPeerResponse:
        peer = peer_field(request.peer_id, "peer_id")
        self._note(call, peer=request.peer_id)
        ban = await self._backend.bridge.run(self._backend.port.unban_peer, peer)
        if ban is None:
            raise Refused(Reason.NOT_FOUND, "this peer is not banned")
        return _A.UnbanPeerResponse(ban=_ban(ban))

    async def list_bans(self, request: _A.ListBansRequest, call: Call) -> _A.ListBansResponse:
        backend = self._backend
        size, after = backend.pager.size(request.page), backend.pager.position(request)
        bans = await backend.bridge.call(backend.port.bans)
        page = cut(sorted(bans, key=_newest_first), size, _newest_first, after)
        return _A.ListBansResponse(
            bans=[_ban(ban) for ban in page.items], page=backend.pager.response(request, page.position)
        )

    async def set_log_level(self, request: _A.SetLogLevelRequest, call: Call) -> _A.SetLogLevelResponse:
        if int(request.level) not in {int(level) for level in LogLevel}:
            raise invalid("level", "debug, info, warning or error is wanted")
        bounded(len(request.component), 0, MAX_COMPONENT_CHARACTERS, "component")
        level = LogLevel(request.level)
        self._note(call, level=level.name, component=request.component)
        port = self._backend.port
        before = await self._backend.bridge.call(port.set_log_level, level, request.component)
        return _A.SetLogLevelResponse(previous_level=_A.LogLevel.ValueType(before))

    async def create_snapshot(self, request: _A.CreateSnapshotRequest, call: Call) -> _A.CreateSnapshotResponse:
        self._note(call)
        made = await self._backend.bridge.run(self._backend.port.create_snapshot)
        return _A.CreateSnapshotResponse(
            block=block_ref(made.height, made.block_hash, final=True),
            path=made.path,
            state_root=made.state_root.hex(),
            chunk_count=made.chunk_count,
            size_bytes=made.size_bytes,
        )

    async def prune(self, request: _A.PruneRequest, call: Call) -> _A.PruneResponse:
        window = self._backend.genesis.parameters.evidence_window_blocks
        bounded(request.keep_blocks, window, U64_MAX, "keep_blocks")
        self._note(call, keep_blocks=request.keep_blocks)
        done = await self._backend.bridge.run(self._backend.port.prune, request.keep_blocks)
        return _A.PruneResponse(
            lowest_height=done.lowest_height, removed_blocks=done.removed_blocks, freed_bytes=done.freed_bytes
        )

    async def drain(self, request: _A.DrainRequest, call: Call) -> _A.DrainResponse:
        bounded(request.timeout_ms, 0, MAX_DRAIN_MS, "timeout_ms")
        timeout_ms = request.timeout_ms or DEFAULT_DRAIN_MS
        self._note(call, timeout_ms=timeout_ms)
        return await self._draining.drain(timeout_ms)


def _ban(ban: BanView) -> _A.Ban:
    return _A.Ban(
        peer_id=peer_id_text(ban.peer_id),
        reason=ban.reason,
        created_at_ms=ban.created_at_ms,
        expires_at_ms=ban.expires_at_ms,
        automatic=ban.automatic,
    )


def _newest_first(ban: BanView) -> bytes:
    return (U64_MAX - ban.created_at_ms).to_bytes(8, "big") + ban.peer_id
