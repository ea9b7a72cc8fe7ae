"""What the control plane costs: submissions in batches, unary reads, and a thousand followers beside the node's loop.

    python -m tests.node.rpc.bench

Clients run in a process of their own. Submission is measured with a port that takes everything at once, so that the
figure is parsing, bridge and answer alone; signatures and pool are the node's own work and measured elsewhere.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import grpc
import psutil
import trio

from node.rpc.encode import transaction_message
from node.rpc.port import SubmitOutcome, TxStatus
from tests.node.rpc.calls import Caller
from tests.node.rpc.rig import ALICE, BOB, Rig, address, pay
from trellis.address import format_address
from trellis.transaction import Data, Transaction
from trellis.v1 import subscription_service_pb2, transaction_service_pb2

BATCH = 64
IN_FLIGHT = 8
SECONDS = 5.0
FOLLOWERS = 1_000


def client_submit(address: str, path: str) -> None:
    """Sends the stored batch over and over; prints how many transactions were answered in how many seconds."""
    caller = Caller(grpc.insecure_channel(address))
    request = transaction_service_pb2.SubmitTransactionsRequest.FromString(Path(path).read_bytes())
    call = caller.raw("TransactionService/SubmitTransactions")
    raw = request.SerializeToString()
    done = 0
    began = time.monotonic()
    pending = [call.future(raw) for _ in range(IN_FLIGHT)]
    while time.monotonic() - began < SECONDS:
        done += len(pending.pop(0).result().results)
        pending.append(call.future(raw))
    print(done, time.monotonic() - began)


def client_read(address: str, path: str) -> None:
    caller = Caller(grpc.insecure_channel(address))
    call = caller.raw("LedgerService/GetAccount")
    raw = Path(path).read_bytes()
    done = 0
    began = time.monotonic()
    pending = [call.future(raw) for _ in range(64)]
    while time.monotonic() - began < SECONDS:
        pending.pop(0).result()
        done += 1
        pending.append(call.future(raw))
    print(done, time.monotonic() - began)


def client_follow(address: str, path: str) -> None:
    """Reads a thousand streams until the parent closes stdin."""
    options = [("grpc.use_local_subchannel_pool", 1)]
    callers = [Caller(grpc.insecure_channel(address, options)) for _ in range(5)]
    request = subscription_service_pb2.SubscribeBlocksRequest()
    calls = [callers[n % 5].raw("SubscriptionService/SubscribeBlocks")(request) for n in range(FOLLOWERS)]
    count = [0]

    def read(part: Sequence[object]) -> None:
        try:
            while True:
                for call in part:
                    next(call)  # type: ignore[call-overload]  # a stream
                    count[0] += 1
        except grpc.RpcError:
            return

    for start in range(8):
        threading.Thread(target=read, args=(calls[start::8],), daemon=True).start()
    print("ready", flush=True)
    sys.stdin.read()
    print(count[0])


def cpu_of(names: Sequence[str]) -> dict[str, float]:
    """Seconds of CPU by our threads' names."""
    by_id = {thread.native_id: thread.name for thread in threading.enumerate()}
    found = dict.fromkeys(names, 0.0)
    for thread in psutil.Process().threads():
        name = by_id.get(thread.id, "")
        if name in found:
            found[name] += thread.user_time + thread.system_time
    return found


def run_client(rig: Rig, kind: str, content: bytes) -> tuple[float, float]:
    path = rig.directory / kind
    path.write_bytes(content)
    command = [sys.executable, "-m", "tests.node.rpc.bench", kind, rig.address, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    count, seconds = done.stdout.split()
    return float(count), float(seconds)


def measure(rig: Rig, kind: str, content: bytes) -> None:
    before = cpu_of(("grpc", "rig"))
    count, seconds = run_client(rig, kind, content)
    after = cpu_of(("grpc", "rig"))
    cost = {name: 1e6 * (after[name] - before[name]) / count for name in before}
    print(
        f"{kind}: {count / seconds:,.0f}/s; CPU {cost['grpc']:.0f} µs each in the grpc thread, "
        f"{cost['rig']:.0f} µs in the node's"
    )


def bench_submit(rig: Rig) -> None:
    async def take(transactions: Sequence[Transaction]) -> list[SubmitOutcome]:
        return [SubmitOutcome(each.txid(rig.genesis.hash), TxStatus.PENDING) for each in transactions]

    real, rig.port.submit = rig.port.submit, take  # type: ignore[method-assign]  # the pool is not measured here
    batch = [rig.tx(ALICE, Data(b"x" * 480), nonce=nonce) for nonce in range(BATCH)]
    request = transaction_service_pb2.SubmitTransactionsRequest(transactions=[transaction_message(t) for t in batch])
    measure(rig, "submit", request.SerializeToString())
    rig.port.submit = real  # type: ignore[method-assign]  # as it was


def lag_ms(rig: Rig, seconds: float, blocks_a_second: int) -> tuple[float, float]:
    """How late the node's loop wakes from sleeps of 5 ms, median and 99th percentile, while blocks are committed."""
    late: list[float] = []

    async def watch() -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            wanted = time.monotonic() + 0.005
            await trio.sleep_until(trio.current_time() + 0.005)
            late.append(1_000 * (time.monotonic() - wanted))

    watcher = threading.Thread(target=lambda: trio.from_thread.run(watch, trio_token=rig._token))
    watcher.start()
    nonce = rig.ledger.tip.height
    while watcher.is_alive():
        rig.commit(rig.tx(BOB, pay(ALICE, 1), nonce=nonce, carry_key=nonce == 0, valid_until=1 << 40))
        nonce += 1
        watcher.join(1 / blocks_a_second)
    late.sort()
    return late[len(late) // 2], late[len(late) * 99 // 100]


def bench_followers(rig: Rig) -> None:
    alone = lag_ms(rig, SECONDS, 5)
    command = [sys.executable, "-m", "tests.node.rpc.bench", "follow", rig.address, "-"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as client:
        assert client.stdout is not None
        client.stdout.readline()
        while len(rig.plane._feed._streams) < FOLLOWERS:
            time.sleep(0.05)
        before, height = cpu_of(("grpc",)), rig.ledger.tip.height
        followed = lag_ms(rig, SECONDS, 5)
        used, blocks = cpu_of(("grpc",))["grpc"] - before["grpc"], rig.ledger.tip.height - height
        told, _ = client.communicate()
    print(
        f"{FOLLOWERS} followers, {blocks} blocks: {told.strip()} messages, "
        f"{1e6 * used / (blocks * FOLLOWERS):.0f} µs of the grpc thread each; the node's loop wakes late by "
        f"{followed[0]:.1f} ms (median), {followed[1]:.1f} ms (99 %), without them {alone[0]:.1f} and {alone[1]:.1f}"
    )


def main() -> None:
    if len(sys.argv) > 1:
        kinds = {"submit": client_submit, "account": client_read, "follow": client_follow}
        kinds[sys.argv[1]](*sys.argv[2:])
        return
    with tempfile.TemporaryDirectory() as directory, Rig(Path(directory)) as rig:
        bench_submit(rig)
        with Caller(rig.channel()) as caller:
            request = caller.request("LedgerService/GetAccount", address=format_address(address(ALICE)))
        measure(rig, "account", request.SerializeToString())
        bench_followers(rig)


if __name__ == "__main__":
    main()
