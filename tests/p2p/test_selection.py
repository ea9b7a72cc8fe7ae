"""multistream-select with bounds, against itself and against nonsense."""

from __future__ import annotations

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from libp2p.protocol_muxer.multiselect import Multiselect
from libp2p.protocol_muxer.multiselect_client import MultiselectClient
from libp2p.protocol_muxer.multiselect_communicator import MultiselectCommunicator

from p2p.selection import MAX_MESSAGE_BYTES, SelectionError, answer, message, propose, read_message
from tests.p2p.net import run


class Pipe:
    """One end of a wire in memory."""

    def __init__(self, send: trio.MemorySendChannel[bytes], receive: trio.MemoryReceiveChannel[bytes]) -> None:
        self._send = send
        self._receive = receive
        self._buffer = b""
        self.written = b""

    async def write(self, data: bytes) -> None:
        self.written += data
        await self._send.send(data)

    async def read(self, n: int | None = None) -> bytes:
        if not self._buffer:
            self._buffer = await self._receive.receive()
        size = len(self._buffer) if n is None else n
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    async def exactly(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            got += await self.read(size - len(got))
        return got


def wire() -> tuple[Pipe, Pipe]:
    one_send, one_receive = trio.open_memory_channel[bytes](100)
    other_send, other_receive = trio.open_memory_channel[bytes](100)
    return Pipe(one_send, other_receive), Pipe(other_send, one_receive)


@pytest.mark.parametrize(("wanted", "agreed"), [(["/a"], "/a"), (["/x", "/b"], "/b")])
def test_both_sides_agree_on_the_first_common_protocol(wanted: list[str], agreed: str) -> None:
    async def main() -> None:
        dialer, listener = wire()
        results: list[str] = []

        async def listen() -> None:
            results.append(await answer(listener, listener.exactly, ("/a", "/b")))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen)
            results.append(await propose(dialer, dialer.exactly, wanted))
        assert results == [agreed, agreed]

    run(main)


def test_a_listener_understands_libp2ps_own_dialer_and_the_other_way_round() -> None:
    async def main() -> None:
        dialer, listener = wire()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answer, listener, listener.exactly, ("/a",))
            stock = MultiselectClient()
            assert await stock.select_one_of(["/x", "/a"], MultiselectCommunicator(dialer), 5) == "/a"
        dialer, listener = wire()
        async with trio.open_nursery() as nursery:
            muxer = Multiselect({"/a": None})
            nursery.start_soon(muxer.negotiate, MultiselectCommunicator(listener), 5)
            assert await propose(dialer, dialer.exactly, ("/a",)) == "/a"

    run(main)


def test_a_peer_that_speaks_nothing_of_ours_is_given_up() -> None:
    async def main() -> None:
        dialer, listener = wire()
        async with trio.open_nursery() as nursery:
            for _ in range(1):
                nursery.start_soon(expect_refusal, listener)
            with pytest.raises(SelectionError):
                await propose(dialer, dialer.exactly, [f"/{number}" for number in range(16)])

    async def expect_refusal(listener: Pipe) -> None:
        with pytest.raises(SelectionError):
            await answer(listener, listener.exactly, ("/a",))

    run(main)


@given(st.text(max_size=300))
def test_a_message_is_read_as_it_was_written(text: str) -> None:
    async def main() -> None:
        one, other = wire()
        await one.write(message(text))
        assert await read_message(other.exactly) == text

    run(main)


@given(st.binary(min_size=1, max_size=MAX_MESSAGE_BYTES + 200))
def test_whatever_arrives_is_a_message_or_refused(data: bytes) -> None:
    async def main() -> None:
        one, other = wire()
        await one.write(data + bytes(2 * MAX_MESSAGE_BYTES))
        try:
            await read_message(other.exactly)
        except SelectionError:
            return

    run(main)


def test_a_protocol_id_that_is_too_long_is_host_misuse() -> None:
    with pytest.raises(ValueError, match="most"):
        message("x" * MAX_MESSAGE_BYTES)
