"""The calls of the schema that commands make beside those of the client's own flows."""

from __future__ import annotations

from typing import Final

from trellis.client.methods import unary
from trellis.v1 import (
    admin_service_pb2,
    consensus_service_pb2,
    ledger_service_pb2,
    node_service_pb2,
)

_A, _C, _L, _N = admin_service_pb2, consensus_service_pb2, ledger_service_pb2, node_service_pb2

GET_BLOCK: Final = unary("LedgerService", "GetBlock", _L.GetBlockRequest, _L.GetBlockResponse)
GET_STATEMENT: Final = unary("LedgerService", "GetStatement", _L.GetStatementRequest, _L.GetStatementResponse)
LIST_STATEMENTS: Final = unary("LedgerService", "ListStatements", _L.ListStatementsRequest, _L.ListStatementsResponse)
LIST_ACCOUNT_TRANSACTIONS: Final = unary(
    "LedgerService",
    "ListAccountTransactions",
    _L.ListAccountTransactionsRequest,
    _L.ListAccountTransactionsResponse,
)
LIST_VALIDATORS: Final = unary(
    "ConsensusService", "ListValidators", _C.ListValidatorsRequest, _C.ListValidatorsResponse
)
LIST_EVIDENCE: Final = unary("ConsensusService", "ListEvidence", _C.ListEvidenceRequest, _C.ListEvidenceResponse)
GET_STATUS: Final = unary("NodeService", "GetStatus", _N.GetStatusRequest, _N.GetStatusResponse)
LIST_PEERS: Final = unary("NodeService", "ListPeers", _N.ListPeersRequest, _N.ListPeersResponse)
ADD_PEER: Final = unary("AdminService", "AddPeer", _A.AddPeerRequest, _A.AddPeerResponse)
BAN_PEER: Final = unary("AdminService", "BanPeer", _A.BanPeerRequest, _A.BanPeerResponse)
UNBAN_PEER: Final = unary("AdminService", "UnbanPeer", _A.UnbanPeerRequest, _A.UnbanPeerResponse)
LIST_BANS: Final = unary("AdminService", "ListBans", _A.ListBansRequest, _A.ListBansResponse)
CREATE_SNAPSHOT: Final = unary("AdminService", "CreateSnapshot", _A.CreateSnapshotRequest, _A.CreateSnapshotResponse)
