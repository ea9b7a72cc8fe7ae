"""Lanes between real processes: one is killed and started again, or stands still."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from p2p.lanes import Lanes
from tests.p2p.kit import GENESIS
from tests.p2p.lane_process import member, peer_of, started
from tests.p2p.net import by_order, run, until
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

pytestmark = pytest.mark.e2e

NOTICED_S = 3
BACK_S = 3


def free_address() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return f"/ip4/127.0.0.1/tcp/{one.getsockname()[1]}"


class Near:
    """The validator in the test's own process."""

    def __init__(self, name: str, other: str, addresses: tuple[str, str]) -> None:
        self.other = peer_of(other)
        self.host = member(name, addresses[0], other, addresses[1])
        self.answers: list[int] = []
        self.open = False
        self.lanes = Lanes(self.host, GENESIS, self._frame, self._change)
        self.lanes.set_peers(frozenset({self.other}))

    def _frame(self, _peer: PeerId, frame: Frame) -> None:
        self.answers.append(int.from_bytes(frame.payload[:8], "big"))

    def _change(self, _peer: PeerId, is_open: bool) -> None:
        self.open = is_open

    async def opens(self) -> float:
        """Seconds until a message has gone there and back."""
        started_s = trio.current_time()
        answered = len(self.answers)
        while len(self.answers) == answered:
            await until(lambda: self.open, "the lane is open")
            self.lanes.post(self.other, MessageId.PING, b"", priority=True)
            with trio.move_on_after(0.2):
                while len(self.answers) == answered:
                    await trio.sleep(0.005)
        return trio.current_time() - started_s

    async def closes(self) -> float:
        started_s = trio.current_time()
        await until(lambda: not self.open, "it was noticed")
        return trio.current_time() - started_s


@asynccontextmanager
async def running(near: Near) -> AsyncIterator[None]:
    async with near.host.run(), trio.open_nursery() as nursery:
        nursery.start_soon(near.lanes.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("near_dials", [True, False])
def test_a_killed_and_restarted_validator_is_back_within_three_seconds(near_dials: bool) -> None:
    async def main() -> None:
        first, second = by_order("near", "far")
        near_name, far_name = (first, second) if near_dials else (second, first)
        addresses = free_address(), free_address()
        near = Near(near_name, far_name, addresses)
        far = (far_name, addresses[1], near_name, addresses[0])
        async with running(near):
            for _ in range(3):
                async with started(*far) as process:
                    back_s = await near.opens()
                    assert back_s < BACK_S
                    process.send_signal(signal.SIGKILL)
                    noticed_s = await near.closes()
                    assert noticed_s < NOTICED_S
                    print(f"killed: noticed after {noticed_s:.2f} s, back {back_s:.2f} s after it listens")

    run(main)


def test_a_validator_that_stands_still_is_noticed_within_three_seconds_and_comes_back() -> None:
    async def main() -> None:
        addresses = free_address(), free_address()
        near = Near("near", "far", addresses)
        async with running(near), started("far", addresses[1], "near", addresses[0]) as process:
            await near.opens()
            for _ in range(2):
                process.send_signal(signal.SIGSTOP)
                noticed_s = await near.closes()
                assert noticed_s < NOTICED_S
                process.send_signal(signal.SIGCONT)
                back_s = await near.opens()
                assert back_s < BACK_S
                print(f"stopped: noticed after {noticed_s:.2f} s, back {back_s:.2f} s after it goes on")

    run(main)
