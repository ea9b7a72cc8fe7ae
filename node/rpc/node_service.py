"""NodeService: who this node is, and whether it is well. It answers at all times."""

from __future__ import annotations

from node.rpc.backend import Backend
from node.rpc.dispatch import Call
from node.rpc.fields import address_text
from node.rpc.pages import cut
from node.rpc.port import PeerView, SyncStage
from trellis.constants import HEADER_VERSION
from trellis.peerid import peer_id_text
from trellis.v1 import node_service_pb2

_N = node_service_pb2


class NodeService:
    """Each method as its comment in the schema says."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend

    async def get_status(self, request: _N.GetStatusRequest, call: Call) -> _N.GetStatusResponse:
        backend, port = self._backend, self._backend.port
        facts, standing = port.facts, port.standing
        peers, pool, state = await backend.bridge.call(lambda: (port.peers(), port.pool_size(), port.consensus()))
        connected = [peer for peer in peers if peer.connected]
        problems = list(standing.problems)
        if state.halt_reason:
            problems.append(f"consensus stopped for good: {state.halt_reason}")
        return _N.GetStatusResponse(
            at=backend.latest(),
            chain_name=backend.genesis.chain_name,
            genesis_hash=backend.genesis.hash.hex(),
            moniker=facts.moniker,
            peer_id="" if facts.peer_id is None else peer_id_text(facts.peer_id),
            fingerprint="" if facts.fingerprint is None else facts.fingerprint.hex(),
            listen_addresses=facts.listen_addresses,
            role=_N.NodeRole.ValueType(facts.role),
            validator="" if facts.validator is None else address_text(facts.validator),
            serving=standing.serving,
            problems=problems,
            sync_stage=_stage(standing.stage),
            peer_count=len(connected),
            connected_validators=sum(1 for peer in connected if peer.validator is not None),
            mempool_transactions=pool,
            started_at_ms=facts.started_at_ms,
            last_commit_ms=port.last_commit_ms,
            draining=standing.draining,
            software_version=facts.software_version,
        )

    async def list_peers(self, request: _N.ListPeersRequest, call: Call) -> _N.ListPeersResponse:
        backend = self._backend
        size, after = backend.pager.size(request.page), backend.pager.position(request)
        peers = await backend.bridge.call(backend.port.peers)
        shown = [peer for peer in peers if peer.connected or request.include_disconnected]
        page = cut(sorted(shown, key=lambda peer: peer.peer_id), size, lambda peer: peer.peer_id, after)
        return _N.ListPeersResponse(
            at=backend.latest(),
            peers=[_peer(peer) for peer in page.items],
            page=backend.pager.response(request, page.position),
        )

    async def get_sync_status(self, request: _N.GetSyncStatusRequest, call: Call) -> _N.GetSyncStatusResponse:
        backend, port = self._backend, self._backend.port
        standing = port.standing
        sync = await backend.bridge.call(port.sync)
        at, lowest = backend.reading.now(lambda reader: (backend.at(reader), reader.bounds.first_body))
        return _N.GetSyncStatusResponse(
            at=at,
            stage=_stage(standing.stage),
            header_height=max(sync.header_height, at.height),
            target_height=standing.target_height,
            source_count=sync.source_count,
            snapshot_chunks_done=sync.snapshot_chunks_done,
            snapshot_chunks_total=sync.snapshot_chunks_total,
            snapshot_height=sync.snapshot_height,
            recent_blocks=sync.recent_blocks,
            certificate_trust=port.facts.certificate_trust,
            lowest_height=lowest,
        )

    async def get_version(self, request: _N.GetVersionRequest, call: Call) -> _N.GetVersionResponse:
        facts = self._backend.port.facts
        return _N.GetVersionResponse(
            at=self._backend.latest(),
            software_version=facts.software_version,
            commit=facts.commit,
            protocol_versions=facts.protocol_versions,
            header_version=HEADER_VERSION,
            store_version=facts.store_version,
            components=[_N.ComponentVersion(name=name, version=version) for name, version in sorted(facts.components)],
        )


def _stage(stage: SyncStage) -> _N.SyncStage.ValueType:
    return _N.SyncStage.ValueType(stage)


def _peer(peer: PeerView) -> _N.Peer:
    direction = _N.CONNECTION_DIRECTION_OUTBOUND if peer.outbound else _N.CONNECTION_DIRECTION_INBOUND
    return _N.Peer(
        peer_id=peer_id_text(peer.peer_id),
        fingerprint="" if peer.fingerprint is None else peer.fingerprint.hex(),
        connected=peer.connected,
        direction=direction if peer.connected else _N.CONNECTION_DIRECTION_UNSPECIFIED,
        address=peer.address,
        transport=peer.transport,
        security=peer.security,
        validator="" if peer.validator is None else address_text(peer.validator),
        agent=peer.agent,
        height=peer.height,
        rtt_us=peer.rtt_us,
        connected_at_ms=peer.connected_at_ms,
        score_permille=peer.score_permille,
        received_bytes=peer.received_bytes,
        sent_bytes=peer.sent_bytes,
        persistent=peer.persistent,
    )
