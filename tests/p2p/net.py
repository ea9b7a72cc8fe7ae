"""Hosts on loopback, and a peer that does what it wants: for the tests that need sockets."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import trio
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, Request

from p2p import selection
from p2p.handshake import Dialer, Established, LocalIdentity, Network, Rejected, Setup
from p2p.host import Host, HostConfig
from p2p.limits import Limits
from p2p.muxguard import ACK, DATA, HEADER_BYTES, PING, SYN, WINDOW_UPDATE
from p2p.records import RecordOpener, RecordSealer
from p2p.streams import Stream
from p2p.wiring import YAMUX
from tests.p2p.kit import Tamper, key, network, setup, untouched
from trellis.types import PeerId

ECHO = "/trellis/test-echo/1"
STUCK = "/trellis/test-stuck/1"
"""Its handler never reads."""
LOOPBACK = ("/ip4/127.0.0.1/tcp/0",)
WEBSOCKET = ("/ip4/127.0.0.1/tcp/0/ws",)
DEADLINE_S = 20
QUICK = Limits(close_timeout_s=1, stream_linger_s=1, negotiation_timeout_s=2, write_timeout_s=2)
"""The same caps with shorter waits."""


_opened: list[trio.abc.AsyncResource] = []


def run(main: Callable[[], Awaitable[None]], deadline_s: float = 60) -> None:
    """A test's body in trio, never longer than its deadline."""

    async def bounded() -> None:
        try:
            with trio.fail_after(deadline_s):
                await main()
        finally:
            while _opened:
                await trio.aclose_forcefully(_opened.pop())

    trio.run(bounded)


async def until(condition: Callable[[], bool], what: str, deadline_s: float = DEADLINE_S) -> None:
    with trio.move_on_after(deadline_s):
        while not condition():
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not in {deadline_s} s: {what}")


async def echo(stream: Stream) -> None:
    while data := await stream.read():
        await stream.write(data)


async def stuck(_stream: Stream) -> None:
    await trio.sleep_forever()


def config(name: str, **changes: object) -> HostConfig:
    base = HostConfig(
        LocalIdentity.of(key(name)), network(), LOOPBACK, limits=QUICK, agent=f"test/{name}", jitter=lambda: 0.5
    )
    return replace(base, **changes)  # type: ignore[arg-type] # a test names a field and its value


@asynccontextmanager
async def hosts(*configs: HostConfig) -> AsyncIterator[list[Host]]:
    """Running hosts that serve an echo."""
    made = [Host(each) for each in configs]
    async with AsyncExitStack() as stack:
        for host in made:
            host.serve(ECHO, echo)
            host.serve(STUCK, stuck)
            await stack.enter_async_context(host.run())
        yield made


def by_order(*names: str) -> list[str]:
    """Names in the order of their peer ids: the first one is the dialer of every pair."""
    return sorted(names, key=lambda name: LocalIdentity.of(key(name)).peer)


async def served(host: Host, name: str = "honest") -> None:
    """An honest peer gets through to `host` and is answered: it lives."""
    async with hosts(config(name, listen=())) as (peer,):
        await peer.connect(host.peer, host.addresses[0])
        await ask(peer, host.peer)


async def ask(host: Host, peer: PeerId, message: bytes = b"are you there?") -> None:
    with trio.fail_after(DEADLINE_S):
        async with await host.open_stream(peer, ECHO) as stream:
            await stream.write(message)
            assert await stream.read_exactly(len(message)) == message


def port_of(address: str) -> int:
    return int(address.split("/")[4])


class RawWebsocket:
    """The bytes of a peer as WebSocket messages, one for each `send_all`; whatever else it says is up to the test."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._accepted = False
        self._data = b""

    async def upgrade(self) -> None:
        await self._stream.send_all(self._protocol.send(Request(host="127.0.0.1", target="/")))
        while not self._accepted:
            await self._more()

    async def _more(self) -> bool:
        wire = await self._stream.receive_some(65_536)
        self._protocol.receive_data(wire or None)
        for event in self._protocol.events():
            if isinstance(event, AcceptConnection):
                self._accepted = True
            elif isinstance(event, BytesMessage):
                self._data += bytes(event.data)
        return bool(wire)

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(self._protocol.send(BytesMessage(data=data)))

    async def receive_some(self, max_bytes: int) -> bytes:
        while not self._data:
            if not await self._more():
                return b""
        taken, self._data = self._data[:max_bytes], self._data[max_bytes:]
        return taken

    async def send_eof(self) -> None:
        """The socket ends, without WebSocket's farewell."""
        await self._stream.send_eof()

    async def aclose(self) -> None:
        await self._stream.aclose()


class RawPeer:
    """A peer made of bytes. It speaks the protocol as far as a test wants, and breaks it where the test wants."""

    def __init__(self, stream: trio.SocketStream | RawWebsocket, peer_setup: Setup, dialled: PeerId) -> None:
        self.stream = stream
        self.setup = peer_setup
        self.dialled = dialled
        self.outcome: Established | Rejected | None = None
        self._sending = trio.Lock()
        self._sealer: RecordSealer | None = None
        self._opener: RecordOpener | None = None
        self._plain = b""

    @classmethod
    async def connect(cls, to: Host, name: str = "attacker", net: Network | None = None) -> RawPeer:
        tcp = await trio.open_tcp_stream("127.0.0.1", port_of(to.addresses[0]))
        _opened.append(tcp)
        if not to.addresses[0].endswith("/ws"):
            return cls(tcp, setup(name, net=net), to.peer)
        websocket = RawWebsocket(tcp)
        await websocket.upgrade()
        return cls(websocket, setup(name, net=net), to.peer)

    async def raw(self, size: int) -> bytes:
        got = b""
        while len(got) < size:
            part = await self.stream.receive_some(size - len(got))
            if not part:
                raise EOFError
            got += part
        return got

    async def agree(self, protocol: str) -> None:
        await selection.propose(_Writer(self.stream.send_all), self.raw, (protocol,))

    async def shake(self, tamper: Tamper = untouched) -> Established | Rejected | None:
        """The dialer's side; each of its messages passes `tamper` on its way out."""
        machine = Dialer(self.setup, self.dialled)
        await self.stream.send_all(tamper(1, machine.start()))
        sent = 1
        try:
            while self.outcome is None:
                step = machine.receive(await self.raw(machine.wants_bytes))
                if step.send:
                    sent += 2
                    await self.stream.send_all(tamper(sent, step.send))
                self.outcome = step.outcome
        except (EOFError, trio.BrokenResourceError):
            self.outcome = machine.end_of_stream().outcome
        if isinstance(self.outcome, Established):
            done = self.outcome
            self._sealer = RecordSealer(done.suite, done.send_key, done.send_counter, 0)
            self._opener = RecordOpener(done.suite, done.receive_key, done.receive_counter)
        return self.outcome

    async def enter(self) -> None:
        """A whole connection: security, handshake, muxer."""
        await self.agree("/trellis/pq/1")
        outcome = await self.shake()
        if not isinstance(outcome, Established):
            raise AssertionError(f"not let in: {outcome}")
        await selection.propose(_Writer(self.send), self.receive, (YAMUX,))

    async def send(self, plain: bytes) -> None:
        if self._sealer is None:
            raise ValueError("no session")
        # A test that answers pings beside its attack writes from two tasks; records are numbered as they leave.
        async with self._sending:
            await self.stream.send_all(self._sealer.seal(plain, 0))

    async def close_record(self) -> None:
        if self._sealer is None:
            raise ValueError("no session")
        await self.stream.send_all(self._sealer.close())

    async def receive(self, size: int) -> bytes:
        if self._opener is None:
            raise ValueError("no session")
        while len(self._plain) < size:
            data = await self.stream.receive_some(65_536)
            if not data:
                raise EOFError
            self._plain += b"".join(self._opener.feed(data))
        taken, self._plain = self._plain[:size], self._plain[size:]
        return taken

    async def frame(self, kind: int, flags: int, stream_id: int, length: int, body: bytes = b"") -> None:
        """One yamux frame, right or wrong."""
        head = bytes([0, kind]) + flags.to_bytes(2, "big") + stream_id.to_bytes(4, "big") + length.to_bytes(4, "big")
        await self.send(head + body)

    async def open(self, stream_id: int, protocol: str) -> None:
        """A stream on which `protocol` was asked for. The answer is left unread."""
        await self.frame(WINDOW_UPDATE, SYN, stream_id, 0)
        await self.say(stream_id, selection.message(selection.MULTISTREAM) + selection.message(protocol))

    async def say(self, stream_id: int, body: bytes) -> None:
        await self.frame(DATA, 0, stream_id, len(body), body)

    async def gone(self) -> bool:
        """Whether the host hangs up; what it still says is read and thrown away."""
        with trio.move_on_after(DEADLINE_S):
            try:
                while await self.stream.receive_some(65_536):
                    pass
            except trio.BrokenResourceError:
                pass
            return True
        return False

    async def answer_pings(self) -> None:
        """Just enough of yamux to pass for alive."""
        try:
            while True:
                head = await self.receive(HEADER_BYTES)
                kind, flags, length = head[1], int.from_bytes(head[2:4], "big"), int.from_bytes(head[8:12], "big")
                if kind == DATA:
                    await self.receive(length)
                if kind == PING and flags & SYN:
                    await self.frame(PING, ACK, 0, length)
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async def drained(self) -> None:
        """Reads until the host hangs up, in the background of a flood."""
        try:
            while await self.stream.receive_some(1 << 20):
                pass
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return


class _Writer:
    def __init__(self, write: Callable[[bytes], Awaitable[None]]) -> None:
        self._write = write

    async def write(self, data: bytes) -> None:
        await self._write(data)


__all__ = [
    "DEADLINE_S",
    "ECHO",
    "HEADER_BYTES",
    "QUICK",
    "WEBSOCKET",
    "RawPeer",
    "ask",
    "by_order",
    "config",
    "hosts",
    "run",
    "served",
    "until",
]
