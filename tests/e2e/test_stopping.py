"""Nodes that are killed, told to stop, or break inside, while wallets keep paying: what was final stays final."""

from __future__ import annotations

import random
import resource
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

import grpc
import psutil
import pytest

from tests.e2e.nets import Net, running
from tests.e2e.network import wait_for
from trellis.address import address_of
from trellis.client.methods import GET_HEADER, GET_TRANSACTION, SUBMIT_MANY, unary
from trellis.client.values import transaction_message
from trellis.constants import Context
from trellis.crypto.schemes import SigningKey
from trellis.fees import minimum_fee
from trellis.genesis import Genesis
from trellis.parameters import Parameters
from trellis.transaction import Output, Transaction, TransactionBody, Transfer, signing_bytes
from trellis.types import Height
from trellis.v1 import (
    consensus_service_pb2,
    ledger_service_pb2,
    subscription_service_pb2,
    transaction_service_pb2,
)

pytestmark = pytest.mark.e2e

SENDERS: Final = 60
BATCH: Final = 4
UNDER_WAY: Final = 100
"""Transactions that are final."""
HEAL_S: Final = 90
JOIN_S: Final = 30
PARAMETERS: Final = Parameters(heartbeat_ms=500)
_L, _T, _S, _C = ledger_service_pb2, transaction_service_pb2, subscription_service_pb2, consensus_service_pb2
CONSENSUS_STATE: Final = unary(
    "ConsensusService", "GetConsensusState", _C.GetConsensusStateRequest, _C.GetConsensusStateResponse
)


def payment(genesis: Genesis, key: SigningKey, nonce: int, carries_key: bool) -> Transaction:
    sender = address_of(key.alg_id, key.public_key)
    carried = key.public_key if carries_key else b""

    def body(fee: int) -> bytes:
        return TransactionBody(sender, nonce, Height(50_000), fee, Transfer((Output(sender, 1),))).encode()

    draft = Transaction(body(1 << 20), key.alg_id, carried, b"\0")
    raw = body(minimum_fee(genesis.parameters, draft, key.public_key))
    return Transaction(raw, key.alg_id, carried, key.sign(signing_bytes(genesis.hash, raw), Context.TX.value))


class Load:
    """Wallets that keep paying through whichever node answers, and a listener at each node that notes what that node
    said is final."""

    def __init__(self, net: Net) -> None:
        self._net = net
        self._over = threading.Event()
        self.final: dict[str, str] = {}
        """Transactions that some node told to be final, and the block it named."""
        self.conflicts: list[str] = []
        self.fault: BaseException | None = None
        self._sender = threading.Thread(target=self._run, name="load", daemon=True)
        self._listeners: list[threading.Thread] = []
        self._calls: list[grpc.Call] = []
        self._channels: list[grpc.Channel] = []

    def __enter__(self) -> Load:
        for name in self._net.names:
            self.listen(name)
        self._sender.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for call in self._calls:
            call.cancel()
        for thread in (self._sender, *self._listeners):
            thread.join(JOIN_S)
        for channel in self._channels:
            channel.close()

    def listen(self, name: str) -> None:
        """Once for each life of a node."""
        channel = grpc.insecure_channel(self._net.endpoint(name))
        self._channels.append(channel)
        subscribe = channel.unary_stream(
            "/trellis.v1.SubscriptionService/SubscribeTransactions",
            _S.SubscribeTransactionsRequest.SerializeToString,
            _S.SubscribeTransactionsResponse.FromString,
        )
        stream = subscribe(_S.SubscribeTransactionsRequest(start_height=1))
        self._calls.append(stream)

        def note() -> None:
            with suppress(grpc.RpcError):  # its node has ended, or the test
                for message in stream:
                    for each in message.transactions:
                        told = self.final.setdefault(each.txid, message.block.block_hash)
                        if told != message.block.block_hash:
                            self.conflicts.append(each.txid)

        thread = threading.Thread(target=note, name=f"listen {name}", daemon=True)
        self._listeners.append(thread)
        thread.start()

    def _run(self) -> None:
        try:
            self._send()
        except BaseException as fault:  # told by `loaded`: nobody waits for this thread
            self.fault = fault

    def _send(self) -> None:
        chance = random.Random(3)
        with self._net.client() as client:
            wallets = [
                (key, client.account(address_of(key.alg_id, key.public_key))) for key in self._net.accounts(SENDERS)
            ]
        nonces = [account.pending_nonce for _, account in wallets]
        while True:
            for place, (key, account) in enumerate(wallets):
                carried = not account.public_key and nonces[place] < BATCH
                batch = [payment(self._net.genesis, key, nonces[place] + step, carried) for step in range(BATCH)]
                request = _T.SubmitTransactionsRequest(transactions=[transaction_message(each) for each in batch])
                while not self._over.is_set():
                    try:
                        self._net.call(chance.choice(self._net.names), SUBMIT_MANY, request)
                    except grpc.RpcError:
                        self._over.wait(0.05)  # that node is down, or behind: another one
                        continue
                    break
                if self._over.is_set():
                    return
                nonces[place] += BATCH


def check_final(net: Net, final: dict[str, str]) -> None:
    """Every node tells of each of them what was told before."""
    for name in net.names:
        for txid, block in final.items():
            request = _T.GetTransactionRequest(txid=txid)
            told = net.call(name, GET_TRANSACTION, request, patient=True).transaction
            assert (told.block.block_hash, told.block.final) == (block, True), f"{txid} at {name}"


def same_roots(net: Net, height: int) -> None:
    net.reach(height)
    asked = _L.GetHeaderRequest(height=height)
    roots = {net.call(name, GET_HEADER, asked, patient=True).header.state_root for name in net.names}
    assert len(roots) == 1


@contextmanager
def loaded(net: Net) -> Iterator[Load]:
    load = Load(net)
    with load:
        known = len(load.final)
        wait_for(lambda: load.fault is not None or len(load.final) >= known + UNDER_WAY, HEAL_S, "a load under way")
        yield load
    assert load.fault is None, load.fault
    assert not load.conflicts


def leader_of(net: Net) -> str:
    """The node whose turn it is, as another one sees it."""
    request = _C.GetConsensusStateRequest()
    states = {name: net.call(name, CONSENSUS_STATE, request, patient=True) for name in net.names}
    own = {state.own_validator: name for name, state in states.items()}
    return own[states["node0"].leader]


def test_kills_and_stops_under_load_lose_nothing_that_was_final(tmp_path: Path) -> None:
    chance = random.Random(5)
    with running(tmp_path / "net", parameters=PARAMETERS, accounts=SENDERS) as net:
        with loaded(net) as load:
            # Any node, without warning.
            victim = chance.choice(net.names)
            net.kill(victim)
            others = [name for name in net.names if name != victim]
            reached = max(net.heights())
            wait_for(lambda: max(net.heights()) >= reached + 5, HEAL_S, "blocks without the killed node")
            net.start(victim)
            net.await_ready(victim)
            wait_for(lambda: net.height(victim) >= net.height(others[0]) - 1, HEAL_S, "the killed node at the tip")
            load.listen(victim)

            # The leader.
            leader = leader_of(net)
            watched = next(name for name in net.names if name != leader)
            net.kill(leader)
            killed_at, height = time.monotonic(), net.height(watched)
            wait_for(lambda: net.height(watched) > height + 1, HEAL_S, "the next block after the leader's end")
            print(f"leader killed: two blocks on after {time.monotonic() - killed_at:.2f} s")
            net.start(leader)
            net.await_ready(leader)
            load.listen(leader)

            # All of them at once, told to, in the middle of it.
            already = len(load.final)
            wait_for(lambda: len(load.final) > already, HEAL_S, "more that is final")
            net.send(signal.SIGTERM)
            started = time.monotonic()
            codes = [net.ended(name) for name in net.names]
            print(f"stopped within {time.monotonic() - started:.2f} s, {len(load.final)} final, {already} before")
            assert codes == [0, 0, 0, 0]
        final = dict(load.final)
        assert len(final) > 10 * BATCH
        heights = [max(entry["height"] for entry in net.events(name, "final")) for name in net.names]
        net.start()
        net.await_ready()
        assert min(net.heights()) >= min(heights)
        check_final(net, final)
        same_roots(net, max(heights))
        assert not any(net.events(name, "the sign guard refuses a vote") for name in net.names)
        # And it goes on.
        net.reach(max(heights) + 2)


def test_a_node_that_breaks_inside_says_why_and_ends_and_the_others_go_on(tmp_path: Path) -> None:
    with running(tmp_path / "net", parameters=PARAMETERS, accounts=SENDERS) as net:
        # Processes that a node uses die: it replaces them, or it stops; it never lingers.
        parent = psutil.Process(net.processes["node3"].pid)
        workers = parent.children()
        assert workers, "a node verifies signatures in a process of its own"
        with loaded(net):
            for _ in range(3):
                for worker in parent.children():
                    with suppress(psutil.NoSuchProcess):
                        worker.kill()
                time.sleep(0.5)  # time to notice
            code = net.processes["node3"].poll()
            if code is None:
                net.reach(net.height("node0") + 3, "node3")
            else:
                assert code == 70
                assert "node stopped itself" in net.tail("node3", 2)
        if code is not None:
            net.start("node3")
            net.await_ready("node3")

        # A disk that takes no more: files can grow to their present size only.
        pid = net.processes["node2"].pid
        largest = max(path.stat().st_size for path in net.folder.home("node2").rglob("*") if path.is_file())
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (largest, largest))
        with loaded(net):
            assert net.ended("node2", HEAL_S) in {7, 70}
            said = net.tail("node2", 3)
            print(said)
            assert "error:" in said
            assert "Traceback" not in said
            net.reach(net.height("node0") + 3, "node0")
        net.start("node2")
        net.await_ready("node2")
        same_roots(net, max(net.heights()))
