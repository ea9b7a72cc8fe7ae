"""How gossip holds up among four real processes on this machine: `python -m tests.bench.bench_gossip`.

First announcements alone: 200 a second in all, 256 ids each. Then transactions of about 4 KB, announced by every
process as clients would bring them, pulled by the three others and announced again by them: how much CPU that costs for
each transaction, all four processes together, with what every node pays for hashing and decoding it. Signatures are not
verified. Clocks are the machine's monotonic one, the same for all processes.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import trio

from p2p.gossip import Gossip, GossipLimits, Topic, TransactionRelay, TransactionVerdict, Verdict
from p2p.gossip.announcement import Announcement, decode_announcement, encode_announcement
from p2p.gossip.gossip import Token
from p2p.handshake import LocalIdentity
from p2p.host import Host, HostConfig
from p2p.requests import Requests
from tests.p2p.kit import GENESIS, key, network
from trellis.encoding import DecodeError
from trellis.parameters import Parameters
from trellis.peerid import parse_peer_id, peer_id_text
from trellis.transaction import Transaction, decode_transaction
from trellis.types import PeerId

PROCESSES: Final = 4
SIGNATURE_BYTES: Final = 3_309
BODY_BYTES: Final = 650
IDS: Final = 256
STEP_S: Final = 0.005
SETTLE_S: Final = 3


def identify(raw: bytes) -> bytes | None:
    try:
        return decode_transaction(raw).witness_id(GENESIS)
    except DecodeError:
        return None


def transactions(name: str, number: int) -> list[tuple[bytes, bytes]]:
    """(id, bytes): the size and the envelope of an ML-DSA-65-signed transaction; nobody here opens its body."""
    random = Random(name)
    made: list[tuple[bytes, bytes]] = []
    for _ in range(number):
        transaction = Transaction(random.randbytes(BODY_BYTES), 1, b"", random.randbytes(SIGNATURE_BYTES))
        made.append((transaction.witness_id(GENESIS), transaction.encode()))
    return made


class Pool:
    """Takes every transaction without looking into it."""

    def __init__(self) -> None:
        self.held: dict[bytes, bytes] = {}
        self.came: dict[bytes, float] = {}
        self.relay: TransactionRelay | None = None

    def have(self, item: bytes) -> bool:
        return item in self.held

    def get(self, item: bytes) -> bytes | None:
        return self.held.get(item)

    def received(self, peer: PeerId, transactions: Sequence[tuple[bytes, bytes]]) -> None:
        now = time.monotonic()
        for item, raw in transactions:
            self.held[item] = raw
            self.came[item] = now
            if self.relay is not None:
                self.relay.verdict(item, TransactionVerdict.GOOD)


def say(**document: object) -> None:
    print(json.dumps(document), flush=True)


async def told() -> dict[str, Any]:
    line = await trio.to_thread.run_sync(sys.stdin.readline)
    found: dict[str, Any] = json.loads(line or '{"do": "end"}')
    return found


class Worker:
    def __init__(self, number: int, riding_bytes: int, *, forward: bool) -> None:
        self.number = number
        self.name = f"gossip-bench-{number}"
        self.host = Host(HostConfig(LocalIdentity.of(key(self.name)), network(), ("/ip4/127.0.0.1/tcp/0",)))
        self.gossip = Gossip(self.host, GENESIS, GossipLimits.of(Parameters()))
        self.pool = Pool()
        self.relay = TransactionRelay(
            self.gossip, Requests(self.host, GENESIS), self.pool, identify, riding_bytes=riding_bytes
        )
        self.pool.relay = self.relay
        self.forward = forward
        self.came: list[tuple[int, int, float]] = []

    async def main(self) -> None:
        async with self.host.run(), trio.open_nursery() as nursery:
            await nursery.start(self.gossip.run)
            await nursery.start(self.relay.run)
            say(peer=peer_id_text(self.host.peer), address=self.host.addresses[0])
            for each in (await told())["dial"]:
                await self.host.connect(parse_peer_id(each["peer"]), each["address"])
            with trio.fail_after(20):
                while any(len(self.gossip.mesh(topic)) < PROCESSES - 1 for topic in Topic):
                    await trio.sleep(0.01)
            say(meshed=True)
            while True:
                order = await told()
                match order["do"]:
                    case "announcements":
                        await self.announcements(order["per_s"], order["seconds"])
                    case "transactions":
                        await self.transactions(order["per_s"], order["seconds"])
                    case _:
                        break
            nursery.cancel_scope.cancel()

    def heard(self, _peer: PeerId, data: bytes, _token: Token) -> Verdict:
        stamp = decode_announcement(data).ids[0]
        sent = int.from_bytes(stamp[6:14], "big") / 1e9
        self.came.append((stamp[0], int.from_bytes(stamp[2:6], "big"), time.monotonic() - sent))
        return Verdict.ACCEPT if self.forward else Verdict.IGNORE

    async def announcements(self, per_s: float, seconds: float) -> None:
        """Ids that exist nowhere, so nothing is pulled: the callback is the bench's own for this part."""
        relays = self.gossip._callbacks[Topic.TXS]
        self.gossip.on_message(Topic.TXS, self.heard)
        self.came.clear()
        number = int(per_s * seconds)
        filler = [os.urandom(32) for _ in range(IDS - 1)]
        say(ready=True)
        await told()
        started, cpu = time.monotonic(), time.process_time()
        for sequence in range(number):
            await trio.sleep(max(started + sequence / per_s - time.monotonic(), 0))
            stamp = bytes([self.number, 0]) + sequence.to_bytes(4, "big")
            stamp += int(time.monotonic() * 1e9).to_bytes(8, "big") + os.urandom(18)
            self.gossip.publish(Topic.TXS, encode_announcement(Announcement((stamp, *filler))))
        await trio.sleep(SETTLE_S)
        self.gossip.on_message(Topic.TXS, relays)
        latencies = sorted(latency for _, _, latency in self.came)
        say(
            sent=number,
            came=len({(who, sequence) for who, sequence, _ in self.came}),
            latencies=latencies,
            cpu=time.process_time() - cpu,
            rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            rejects=dict(self.host.counters.rejects),
        )

    async def transactions(self, per_s: float, seconds: float) -> None:
        number = int(per_s * seconds)
        made = transactions(self.name, number)
        say(ready=True)
        await told()
        started, cpu = time.monotonic(), time.process_time()
        announced: dict[str, float] = {}
        before = self.gossip.counters.published[Topic.TXS]
        at = 0
        while at < number:
            due = min(int((time.monotonic() - started) * per_s), number)
            if due > at:
                now = time.monotonic()
                for item, raw in made[at:due]:
                    self.pool.held[item] = raw
                    announced[item.hex()[:16]] = now
                self.relay.announce([item for item, _ in made[at:due]])
                at = due
            await trio.sleep(STEP_S)
        busy_s = time.monotonic() - started
        with trio.move_on_after(SETTLE_S * 5):
            while len(self.pool.came) < number * (PROCESSES - 1):
                await trio.sleep(0.01)
        say(
            sent=number,
            announced=announced,
            came={item.hex()[:16]: at for item, at in self.pool.came.items()},
            cpu=time.process_time() - cpu,
            busy_s=busy_s,
            rss=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            pulled=self.relay.pulled,
            rode=self.relay.rode,
            published=self.gossip.counters.published[Topic.TXS] - before,
            rejects=dict(self.host.counters.rejects),
        )


class Process:
    def __init__(self, number: int, arguments: Sequence[str]) -> None:
        command = [sys.executable, "-m", "tests.bench.bench_gossip", "--worker", str(number), *arguments]
        root = Path(__file__).parents[2]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root)

    def tell(self, **document: object) -> None:
        if self.process.stdin is not None:
            self.process.stdin.write(json.dumps(document) + "\n")
            self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        line = self.process.stdout.readline() if self.process.stdout is not None else ""
        if not line:
            raise RuntimeError("a process of the benchmark ended: its error is above")
        found: dict[str, Any] = json.loads(line)
        return found

    def end(self) -> None:
        if self.process.stdin is not None:
            self.process.stdin.close()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()


def ordered(processes: Sequence[Process], **order: object) -> list[dict[str, Any]]:
    """All of them begin together, and report."""
    for each in processes:
        each.tell(**order)
    for each in processes:
        each.hear()
    for each in processes:
        each.tell(go=True)
    return [each.hear() for each in processes]


def percentile(values: Sequence[float], share: float) -> float:
    return values[min(int(len(values) * share), len(values) - 1)] if values else float("nan")


def spread(latencies: Sequence[float]) -> str:
    p50, p99 = percentile(latencies, 0.5) * 1e3, percentile(latencies, 0.99) * 1e3
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {latencies[-1] * 1e3:.0f} ms"


def announcements(processes: Sequence[Process], per_s: int, seconds: int) -> None:
    reports = ordered(processes, do="announcements", per_s=per_s / PROCESSES, seconds=seconds)
    sent = sum(each["sent"] for each in reports)
    came = sum(each["came"] for each in reports)
    latencies = sorted(one for each in reports for one in each["latencies"])
    cpu = sum(each["cpu"] for each in reports)
    share = 100 * came / (sent * (PROCESSES - 1))
    print(f"announcements, {per_s}/s of {IDS} ids for {seconds} s: {share:.3f} % delivered (goal 100)")
    print(
        f"  {spread(latencies)} (goal p99 < 100); CPU {cpu / sent * 1e6:.0f} us each, {cpu / seconds:.2f} cores in all"
    )
    print(f"  {max(each['rss'] for each in reports) >> 20} MiB resident at most")
    print(f"  refused: {[each['rejects'] for each in reports]}")


def relayed(processes: Sequence[Process], per_s: int, seconds: int) -> None:
    reports = ordered(processes, do="transactions", per_s=per_s / PROCESSES, seconds=seconds)
    announced = {item: at for each in reports for item, at in each["announced"].items()}
    latencies = sorted(at - announced[item] for each in reports for item, at in each["came"].items())
    sent = len(announced)
    cpu = sum(each["cpu"] for each in reports)
    rate = sent / max(each["busy_s"] for each in reports)
    share = 100 * len(latencies) / (sent * (PROCESSES - 1))
    published = sum(each["published"] for each in reports)
    rode, pulled = sum(each["rode"] for each in reports), sum(each["pulled"] for each in reports)
    print(f"transactions of ~4 KB, {rate:.0f}/s from {PROCESSES} nodes for {seconds} s: {share:.3f} % delivered")
    print(f"  {spread(latencies)}; {published} announcements, {pulled} pulled, {rode} rode along")
    print(f"  CPU of all {PROCESSES} processes {cpu / sent * 1e6:.0f} us a transaction,", end=" ")
    print(f"{cpu / sent / (PROCESSES - 1) * 1e6:.0f} us a delivery, {cpu / seconds:.2f} cores")
    print(f"  {max(each['rss'] for each in reports) >> 20} MiB resident at most")
    print(f"  refused: {[each['rejects'] for each in reports]}")


def measure(chosen: argparse.Namespace) -> None:
    extra = ["--riding", str(chosen.riding)] + (["--forward"] if chosen.forward else [])
    processes = [Process(number, extra) for number in range(PROCESSES)]
    try:
        known = [each.hear() for each in processes]
        for at, each in enumerate(processes):
            each.tell(dial=known[at + 1 :])
        for each in processes:
            each.hear()
        if chosen.announcements:
            announcements(processes, chosen.announcements, chosen.seconds)
        if chosen.transactions:
            relayed(processes, chosen.transactions, chosen.tx_seconds)
    finally:
        for each in processes:
            each.end()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--worker", type=int)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--tx-seconds", type=int, default=20)
    parser.add_argument("--announcements", type=int, default=200)
    parser.add_argument("--transactions", type=int, default=800)
    parser.add_argument("--riding", type=int, default=0, help="bytes of payloads that ride along with an announcement")
    parser.add_argument("--forward", action="store_true", help="announcements are sent on by everybody who hears them")
    chosen = parser.parse_args(arguments or [])
    if chosen.worker is not None:
        trio.run(Worker(chosen.worker, chosen.riding, forward=chosen.forward).main)
    else:
        measure(chosen)


if __name__ == "__main__":
    main(sys.argv[1:])
