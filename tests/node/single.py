"""One real node in this process: a network of one validator, on a trio loop in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trio

from node.bench.signing import Order, Recipe, recipe_for, sign
from node.home import open_home
from node.http import serve_http
from node.localnet.layout import Folder
from node.localnet.making import make
from node.localnet.samples import Scrape, fetch
from node.metrics import Metrics
from node.observer import Observer
from node.runtime import Runtime, open_node
from node.work import Admission
from trellis.parameters import Parameters
from trellis.transaction import Transaction, decode_transaction
from trellis.v1 import transaction_service_pb2

WAIT_S = 30.0


@dataclass
class SingleNode:
    """What it knows is read on its own loop; its metrics over HTTP, as Prometheus does."""

    runtime: Runtime
    metrics_address: str
    recipe: Recipe
    token: trio.lowlevel.TrioToken

    def scrape(self) -> Scrape:
        return fetch(self.metrics_address)

    def transaction(self, index: int, nonce: int, *, first: bool) -> Transaction:
        signed = sign(self.recipe, Order(index, nonce, carries_key=first))
        (message,) = transaction_service_pb2.SubmitTransactionsRequest.FromString(signed.framed).transactions
        return decode_transaction(message.SerializeToString())

    def submit(self, *transactions: Transaction) -> tuple[Admission, ...]:
        return trio.from_thread.run(self.runtime.submit, transactions, trio_token=self.token)

    def wait_until_empty(self) -> None:
        """Until the pool is empty and the last block is behind the node."""

        async def empty() -> None:
            with trio.fail_after(WAIT_S):
                while len(self.runtime.pool):
                    await trio.sleep(0.002)

        trio.from_thread.run(empty, trio_token=self.token)


@contextmanager
def single_node(directory: Path, accounts: int) -> Iterator[SingleNode]:
    folder = Folder(directory / "net")
    # No heartbeat while anybody looks: every block is one that a test asked for.
    parameters = Parameters(heartbeat_ms=86_400_000, state_buckets_log2=4)
    manifest = make(folder, nodes=1, accounts=accounts, parameters=parameters)
    home = open_home(folder.home("node0"), {})
    made: list[SingleNode] = []
    faults: list[BaseException] = []
    ready, stop = threading.Event(), trio.Event()

    async def run() -> None:
        metrics = Metrics()
        runtime = Runtime(home, open_node(home), metrics)
        observer = Observer(runtime)
        try:
            async with trio.open_nursery() as nursery:
                await nursery.start(serve_http, home.config.metrics.listen, metrics, observer.health)
                await nursery.start(runtime.run)
                observer.started(runtime.host)
                seed = bytes.fromhex(folder.seed_path.read_text())
                recipe = recipe_for(home.genesis, seed, 256)
                token = trio.lowlevel.current_trio_token()
                made.append(SingleNode(runtime, manifest.nodes[0].metrics_address, recipe, token))
                ready.set()
                await stop.wait()
                nursery.cancel_scope.cancel()
        finally:
            runtime.close()

    def whole() -> None:
        try:
            trio.run(run)
        except BaseException as fault:  # handed to the test that waits
            faults.append(fault)
        ready.set()

    thread = threading.Thread(target=whole)
    thread.start()
    try:
        assert ready.wait(WAIT_S)
        if not made:
            raise faults[0]
        yield made[0]
    finally:
        if made:
            made[0].token.run_sync_soon(stop.set)
        thread.join(WAIT_S)
    if faults:
        raise faults[0]
