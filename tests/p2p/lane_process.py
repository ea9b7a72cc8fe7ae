"""A validator's lanes in a process of their own, for tests that kill or freeze one: `python -m tests.p2p.lane_process`.

It keeps a connection to one peer and answers on the lane: a `PING` comes back as a `PONG` with the number of frames
heard before it and the memory that the process uses.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import trio

from p2p.dialing import PeerAddress
from p2p.handshake import LocalIdentity
from p2p.host import Host, HostConfig
from p2p.lanes import Lanes
from tests.p2p.kit import GENESIS, key, network
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

ROOT = Path(__file__).parents[2]


def peer_of(name: str) -> PeerId:
    return LocalIdentity.of(key(name)).peer


def member(name: str, listen: str, other: str, other_address: str) -> Host:
    return Host(
        HostConfig(LocalIdentity.of(key(name)), network(), (listen,), (PeerAddress(peer_of(other), (other_address,)),))
    )


async def serve(name: str, listen: str, other: str, other_address: str) -> None:
    host = member(name, listen, other, other_address)
    process = psutil.Process()
    heard = 0

    def on_frame(peer: PeerId, frame: Frame) -> None:
        nonlocal heard
        if frame.message_id == MessageId.PING:
            answer = heard.to_bytes(8, "big") + process.memory_info().rss.to_bytes(8, "big")
            lanes.post(peer, MessageId.PONG, answer, priority=True)
        heard += 1

    lanes = Lanes(host, GENESIS, on_frame, lambda _peer, _open: None)
    lanes.set_peers(frozenset({peer_of(other)}))
    async with host.run():
        print("listening", flush=True)
        await lanes.run()


@asynccontextmanager
async def started(name: str, listen: str, other: str, other_address: str) -> AsyncIterator[subprocess.Popen[str]]:
    """A running process that listens; it is killed at the end."""
    command = [sys.executable, "-m", "tests.p2p.lane_process", name, listen, other, other_address]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            if process.stdout is None or await trio.to_thread.run_sync(process.stdout.readline) != "listening\n":
                raise RuntimeError("the lane's process did not start")
            yield process
        finally:
            process.kill()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for argument in ("name", "listen", "other", "other_address"):
        parser.add_argument(argument)
    chosen = parser.parse_args()
    trio.run(serve, chosen.name, chosen.listen, chosen.other, chosen.other_address)
