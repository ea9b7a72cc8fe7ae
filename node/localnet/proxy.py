"""Stands between the nodes of a local network, so that links can be cut and slowed without the kernel's help.

`python -m node.localnet.proxy FOLDER` listens at one port for each ordered pair of nodes and hands bytes on. A cut link
swallows nothing: bytes wait, as they do in the senders' kernels when packets are lost, and neither side learns that the
other is gone. A slow link holds each piece back for its delay.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Final

import trio

from node.localnet.layout import HOST, Folder, LinkEntry
from node.localnet.rules import LinkRules, read_rules

POLL_S: Final = 0.05
PIECE_BYTES: Final = 64 << 10
PIECES: Final = 256
"""Held back on one slow link, 16 MiB at most: then the sender waits, as it would for a full pipe."""


class Links:
    """The rules in force, and a way to wait for better ones."""

    def __init__(self) -> None:
        self.rules = LinkRules()
        self._changed = trio.Event()

    def change(self, rules: LinkRules) -> None:
        self.rules = rules
        self._changed.set()
        self._changed = trio.Event()

    async def passable(self, link: LinkEntry) -> None:
        while self.rules.is_cut(link.here, link.there):
            await self._changed.wait()


async def forward(
    links: Links, link: LinkEntry, source: trio.abc.ReceiveStream, target: trio.abc.HalfCloseableStream
) -> None:
    """One direction of one connection, until its end."""
    send, receive = trio.open_memory_channel[tuple[float, bytes]](PIECES)

    async def read() -> None:
        async with send:
            while True:
                await links.passable(link)
                piece = bytes(await source.receive_some(PIECE_BYTES))
                if not piece:
                    return
                delay_ms = links.rules.delay_ms(link.here, link.there)
                await send.send((trio.current_time() + delay_ms / 1_000, piece))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        async for due, piece in receive:
            await trio.sleep_until(due)
            await links.passable(link)
            await target.send_all(piece)
        await target.send_eof()


async def serve_connection(links: Links, link: LinkEntry, port: int, near: trio.SocketStream) -> None:
    """`port` is where the node that is dialled listens."""
    async with near:
        await links.passable(link)
        try:
            async with await trio.open_tcp_stream(HOST, port) as far, trio.open_nursery() as nursery:
                nursery.start_soon(forward, links, link, near, far)
                nursery.start_soon(forward, links, link, far, near)
        except* OSError:
            pass  # nobody listens there at present: the near side sees its connection close
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # one side broke the connection, so both ends of it go


async def obey(links: Links, folder: Folder) -> None:
    """Follows the rules' file, and tells which rules are in force."""
    seen: tuple[int, int] | None = None
    while True:
        try:
            status = folder.rules_path.stat()
            stamp: tuple[int, int] | None = (status.st_mtime_ns, status.st_ino)
        except FileNotFoundError:
            stamp = None
        if stamp != seen:
            seen = stamp
            links.change(read_rules(folder.rules_path))
            folder.applied_path.write_text(f"{links.rules.generation}\n")
        await trio.sleep(POLL_S)


@asynccontextmanager
async def proxying(folder: Folder) -> AsyncIterator[Links]:
    manifest = folder.manifest()
    links = Links()
    async with trio.open_nursery() as nursery:
        for link in manifest.links:
            handler = partial(serve_connection, links, link, manifest.node(link.there).p2p)
            await nursery.start(partial(trio.serve_tcp, handler, link.port, host=HOST))
        nursery.start_soon(obey, links, folder)
        yield links
        nursery.cancel_scope.cancel()


async def run(folder: Folder) -> None:
    async with proxying(folder):
        await trio.sleep_forever()


if __name__ == "__main__":
    trio.run(run, Folder(Path(sys.argv[1])))
