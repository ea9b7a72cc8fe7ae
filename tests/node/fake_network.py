"""A network for tests of the load bench: real gRPC endpoints over one chain that commits what was submitted."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from node.bench.target import TargetPlan
from node.localnet.layout import account_address, account_key
from tests.proto.client.fake_chain import FakeChain
from tests.proto.client.fake_server import FakeNode
from trellis.client.endpoints import Endpoint
from trellis.transaction import Transaction
from trellis.types import Hash
from trellis.v1 import ledger_service_pb2

SEED = bytes(range(32))
BLOCK_S = 0.02
Commit = Callable[[FakeChain, list[Transaction]], None]


class BenchNode(FakeNode):
    def BatchGetAccounts(self, request: Any, context: Any) -> Any:
        accounts = [
            self.GetAccount(ledger_service_pb2.GetAccountRequest(address=address), context).account
            for address in request.addresses
        ]
        return ledger_service_pb2.BatchGetAccountsResponse(at=self.at(), accounts=accounts)


def commit_all(chain: FakeChain, pending: list[Transaction]) -> None:
    chain.commit(*pending)


@contextmanager
def fake_network(senders: int, commit: Commit = commit_all) -> Iterator[tuple[TargetPlan, FakeChain, list[BenchNode]]]:
    """Two endpoints; blocks are made by a thread as long as there is something to commit."""
    funded = {account_address(account_key(SEED, index)): 10**9 for index in range(senders)}
    chain = FakeChain("bench", funded, validators=1)
    nodes = [BenchNode(chain) for _ in range(2)]
    for node in nodes:
        node.start()
    stopping = threading.Event()

    def make_blocks() -> None:
        while not stopping.wait(BLOCK_S):
            pending = sorted(chain.pending.values(), key=lambda each: each.parsed.nonce)
            if pending:
                commit(chain, pending)

    maker = threading.Thread(target=make_blocks)
    maker.start()
    try:
        endpoints = tuple(Endpoint.parse(node.address) for node in nodes)
        yield TargetPlan(chain.genesis, endpoints, SEED), chain, nodes
    finally:
        stopping.set()
        maker.join()
        for node in nodes:
            node.stop()


def txids(chain: FakeChain, transactions: list[Transaction]) -> list[Hash]:
    return [each.txid(chain.genesis.hash) for each in transactions]
