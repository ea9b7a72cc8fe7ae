"""What tests of commands share: the program run as a script runs it, and a node that serves a small real chain."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator
from concurrent import futures
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import grpc

from node.cli import main
from tests.proto.client.fake_chain import FakeChain, make_key
from tests.proto.client.fake_server import FakeNode
from trellis.address import address_of, format_address
from trellis.client.errors import Reason
from trellis.crypto.keystore import ScryptCost, lock, write_keystore
from trellis.crypto.policy import Role
from trellis.crypto.schemes import SigningKey
from trellis.peerid import peer_id, peer_id_text
from trellis.transaction import PostStatement
from trellis.types import Hash
from trellis.v1 import (
    admin_service_pb2,
    admin_service_pb2_grpc,
    chain_pb2,
    consensus_service_pb2,
    consensus_service_pb2_grpc,
    finality_service_pb2_grpc,
    ledger_service_pb2,
    ledger_service_pb2_grpc,
    node_service_pb2,
    node_service_pb2_grpc,
    subscription_service_pb2_grpc,
    transaction_service_pb2_grpc,
)

PASSWORD = "swordfish"
PEER = peer_id_text(peer_id(make_key("peer").alg_id, make_key("peer").public_key))


@dataclass(frozen=True)
class Answer:
    """How a run of the program ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code in {0, 1}, self.err
        return json.loads(self.out)


def run(*arguments: str, stdin: bytes = b"") -> Answer:
    """The program without a terminal, in this process: its exit code, its output, what it complains about."""
    out, err = io.StringIO(), io.StringIO()
    standard_input = io.TextIOWrapper(io.BytesIO(stdin))
    with (
        patch.object(sys, "argv", ["trellis", *arguments]),
        patch.object(sys, "stdin", standard_input),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0
        else:
            code = 0
    return Answer(int(code), out.getvalue(), err.getvalue())


def write_key(directory: Path, name: str, key: SigningKey, role: Role = Role.ACCOUNT) -> Path:
    path = directory / f"{name}.key.json"
    directory.mkdir(parents=True, exist_ok=True)
    write_keystore(path, lock(key, PASSWORD, role=role, label="", cost=ScryptCost(14)))
    return path


def address_text(name: str) -> str:
    key = make_key(name)
    return format_address(address_of(key.alg_id, key.public_key))


class OperatedNode(
    FakeNode,
    node_service_pb2_grpc.NodeServiceServicer,
    consensus_service_pb2_grpc.ConsensusServiceServicer,
    admin_service_pb2_grpc.AdminServiceServicer,
):
    """`FakeNode`, and the services that operators use. It commits what it takes, unless `commits` is off."""

    def __init__(self, chain: FakeChain, credentials: Any = None) -> None:
        super().__init__(chain, credentials)
        self.commits = True
        self.serving = True
        self.problems: list[str] = []
        self.evidence: list[Any] = []
        self.statements: dict[Hash, Any] = {}
        self.bans: dict[str, Any] = {}
        self.added: list[str] = []

    def start(self) -> OperatedNode:
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        transaction_service_pb2_grpc.add_TransactionServiceServicer_to_server(self, self._server)
        ledger_service_pb2_grpc.add_LedgerServiceServicer_to_server(self, self._server)
        finality_service_pb2_grpc.add_FinalityServiceServicer_to_server(self, self._server)
        subscription_service_pb2_grpc.add_SubscriptionServiceServicer_to_server(self, self._server)
        node_service_pb2_grpc.add_NodeServiceServicer_to_server(self, self._server)
        consensus_service_pb2_grpc.add_ConsensusServiceServicer_to_server(self, self._server)
        admin_service_pb2_grpc.add_AdminServiceServicer_to_server(self, self._server)
        address = f"127.0.0.1:{self.port}"
        if self._credentials is None:
            self.port = self._server.add_insecure_port(address)
        else:
            self.port = self._server.add_secure_port(address, self._credentials)
        self._server.start()
        return self

    def SubmitTransaction(self, request: Any, context: Any) -> Any:
        answer = super().SubmitTransaction(request, context)
        if self.commits and self.chain.pending:
            self.chain.commit_pending()
        return answer

    def GetBlock(self, request: Any, context: Any) -> Any:
        self._enter("GetBlock", request, context)
        height = request.height if request.HasField("height") else self.height
        if request.HasField("block_hash"):
            found = [b.header.height for b in self.chain.blocks if b.header.hash.hex() == request.block_hash]
            if not found:
                return self._abort(context, Reason.NOT_FOUND)
            height = found[0]
        if height > self.height:
            return self._abort(context, Reason.HEIGHT_FUTURE, latest_height=str(self.height))
        block = self.chain.blocks[height - 1]
        message = chain_pb2.Block(
            header=self.header(block),
            final=True,
            transactions=[self.info(item.txid) for item in block.included],
            size_bytes=sum(len(item.transaction.encode()) for item in block.included),
        )
        message.header.timestamp_ms = block.header.timestamp_ms
        message.header.proposer = format_address(block.header.proposer)
        return self._answer("GetBlock", ledger_service_pb2.GetBlockResponse(at=self.at(), block=message))

    def ListAccountTransactions(self, request: Any, context: Any) -> Any:
        self._enter("ListAccountTransactions", request, context)
        every = [self.info(i.txid) for block in reversed(self.chain.blocks) for i in block.included]
        mine = [info for info in every if info.sender == request.address]
        return ledger_service_pb2.ListAccountTransactionsResponse(
            at=self.at(), transactions=mine[: request.page.page_size], lowest_height=1
        )

    def post(self, statement: PostStatement) -> Hash:
        self.statements[statement.statement_id] = ledger_service_pb2.Statement(
            statement_id=statement.statement_id.hex(),
            verifier=statement.verifier,
            status=ledger_service_pb2.STATEMENT_STATUS_OPEN,
            poster=address_text("alice"),
            bounty=str(statement.bounty),
            expiry_height=statement.expiry_height,
            size_bytes=len(statement.statement),
            statement=statement.statement,
        )
        return statement.statement_id

    def GetStatement(self, request: Any, context: Any) -> Any:
        self._enter("GetStatement", request, context)
        found = self.statements.get(Hash(bytes.fromhex(request.statement_id)))
        if found is None:
            return self._abort(context, Reason.NOT_FOUND)
        return ledger_service_pb2.GetStatementResponse(at=self.at(), statement=found)

    def ListStatements(self, request: Any, context: Any) -> Any:
        self._enter("ListStatements", request, context)
        found = [s for s in self.statements.values() if request.status in (0, s.status)]
        return ledger_service_pb2.ListStatementsResponse(at=self.at(), statements=found)

    def GetStatus(self, request: Any, context: Any) -> Any:
        self._enter("GetStatus", request, context)
        return node_service_pb2.GetStatusResponse(
            at=self.at(),
            chain_name=self.chain.genesis.chain_name,
            genesis_hash=self.chain.genesis.hash.hex(),
            moniker="ann\x1b[31m",
            peer_id=PEER,
            role=node_service_pb2.NODE_ROLE_VALIDATOR,
            serving=self.serving,
            problems=self.problems,
            sync_stage=node_service_pb2.SYNC_STAGE_SYNCED,
            peer_count=3,
            started_at_ms=1_700_000_000_000,
        )

    def ListPeers(self, request: Any, context: Any) -> Any:
        self._enter("ListPeers", request, context)
        peer = node_service_pb2.Peer(
            peer_id=PEER,
            connected=True,
            direction=node_service_pb2.CONNECTION_DIRECTION_OUTBOUND,
            address="/ip4/192.0.2.7/tcp/1",
            score_permille=987,
            rtt_us=1_500,
        )
        return node_service_pb2.ListPeersResponse(at=self.at(), peers=[peer])

    def ListValidators(self, request: Any, context: Any) -> Any:
        """Two a page, so that whoever reads must turn pages."""
        self._enter("ListValidators", request, context)
        first = int(request.page.page_token or "0")
        members = self.chain.validators.members
        rows = [
            consensus_service_pb2.Validator(
                address=format_address(member.address),
                active=True,
                power=str(member.power),
                bonded=str(member.power),
                index=place,
                jailed=place == 3,
                jailed_until_height=70 if place == 3 else 0,
            )
            for place, member in enumerate(members)
        ]
        answer = consensus_service_pb2.ListValidatorsResponse(
            at=self.at(), validators=rows[first : first + 2], total_power=str(self.chain.validators.total_power)
        )
        if first + 2 < len(rows):
            answer.page.next_page_token = str(first + 2)
        return answer

    def ListEvidence(self, request: Any, context: Any) -> Any:
        self._enter("ListEvidence", request, context)
        return consensus_service_pb2.ListEvidenceResponse(at=self.at(), evidence=self.evidence)

    def AddPeer(self, request: Any, context: Any) -> Any:
        self._enter("AddPeer", request, context)
        self.added.append(request.address)
        return admin_service_pb2.AddPeerResponse(peer_id=request.address.rpartition("/")[2])

    def BanPeer(self, request: Any, context: Any) -> Any:
        self._enter("BanPeer", request, context)
        expires = 1_700_000_000_000 + request.duration_ms if request.duration_ms else 0
        ban = admin_service_pb2.Ban(peer_id=request.peer_id, reason=request.reason, expires_at_ms=expires)
        self.bans[request.peer_id] = ban
        return admin_service_pb2.BanPeerResponse(ban=ban)

    def UnbanPeer(self, request: Any, context: Any) -> Any:
        self._enter("UnbanPeer", request, context)
        if request.peer_id not in self.bans:
            return self._abort(context, Reason.NOT_FOUND)
        return admin_service_pb2.UnbanPeerResponse(ban=self.bans.pop(request.peer_id))

    def ListBans(self, request: Any, context: Any) -> Any:
        self._enter("ListBans", request, context)
        return admin_service_pb2.ListBansResponse(bans=self.bans.values())

    def CreateSnapshot(self, request: Any, context: Any) -> Any:
        self._enter("CreateSnapshot", request, context)
        return admin_service_pb2.CreateSnapshotResponse(
            block=self.at(), path="/srv/snapshots/1", state_root="ab" * 32, chunk_count=1, size_bytes=512
        )


@contextlib.contextmanager
def serving(chain: FakeChain, credentials: Any = None) -> Iterator[OperatedNode]:
    node = OperatedNode(chain, credentials).start()
    try:
        yield node
    finally:
        node.stop()
