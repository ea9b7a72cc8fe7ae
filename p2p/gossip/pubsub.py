"""libp2p's pubsub with streams, subscriptions and delivery of our own: it hands every message to one callback.

libp2p validates, delivers and forwards in one go, in a task for each message; a validator that raises ends the node or
loses the message, and a subscriber is a channel of 32 places that drops. Here a message is given to `deliver` and
forwarded when, and if, somebody calls the router's `forward`. Each override names what made it necessary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

import trio
from libp2p.abc import IHost, INetStream
from libp2p.host.exceptions import StreamFailure
from libp2p.network.exceptions import SwarmException
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.pubsub_notifee import PubsubNotifee

from p2p.gossip.outbox import Outbox, framed
from p2p.gossip.router import GuardedRouter
from p2p.gossip.rpc import RpcError, decode_rpc
from p2p.gossip.scoring import GossipFault
from p2p.streams import LOST, ReadAhead, reset_quietly
from trellis.types import PeerId

logger = logging.getLogger(__name__)

MAX_LENGTH_BYTES: Final = 4
"""Of the number before an RPC."""

Hear = Callable[[PeerId, rpc_pb2.RPC], None]
"""What is done with the messages of an RPC. Must not raise for anything that a peer sent."""
Pace = Callable[[PeerId, int], float]
"""(peer, bytes) -> seconds to wait before the next RPC of that peer is read."""


class GuardedPubsub(Pubsub):
    def __init__(self, host: IHost, router: GuardedRouter, topics: frozenset[str], max_rpc_bytes: int) -> None:
        super().__init__(host, router, strict_signing=False, msg_id_constructor=_no_id)
        # It sweeps in a thread of its own, has no bound but time, and would be asked under a lock.
        self.seen_messages.stop()
        # It registers itself for connections through a channel that blocks the swarm until pubsub runs; ours come from
        # the host, which tells of peers rather than of connections.
        swarm: Any = host.get_network()
        swarm.notifees = [each for each in swarm.notifees if not isinstance(each, PubsubNotifee)]
        self.guarded = router
        self.topics = topics
        self._max_rpc_bytes = max_rpc_bytes
        self._inbound: dict[PeerId, ReadAhead] = {}
        self._nursery: trio.Nursery | None = None

    def wire(self, hear: Hear, pace: Pace, trusted: Callable[[PeerId], bool], report: Callable[..., None]) -> None:
        self._hear = hear
        self._pace = pace
        self._trusted = trusted
        self._report = report

    async def start(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        for topic in sorted(self.topics):
            await self.subscribe(topic)

    def stop(self) -> None:
        """No task is started any more; streams that arrive are refused."""
        self._nursery = None

    # Peers.

    def connected(self, peer: PeerId) -> None:
        self._schedule_peer_stream_retry(ID(peer))

    def disconnected(self, peer: PeerId) -> None:
        self._handle_dead_peer(ID(peer))

    def _schedule_peer_stream_retry(self, peer_id: ID) -> None:
        if self._nursery is None or peer_id in self._peer_stream_retries_pending:
            return
        self._peer_stream_retries_pending.add(peer_id)
        self._nursery.start_soon(self._contained, self._peer_stream_retry_task, peer_id)

    async def _contained(self, work: Callable[..., Any], *arguments: object) -> None:
        """libp2p's services end, and the node with them, when one of their tasks raises."""
        try:
            await work(*arguments)
        except LOST as lost:
            logger.debug("gossip stream ended: %s", type(lost).__name__)
        except Exception as fault:  # see above
            logger.debug("gossip task failed: %s", fault)
            self._report(None, GossipFault.BROKEN)

    async def _handle_new_peer(self, peer_id: ID) -> None:
        """libp2p's gives up for ever when our host has no stream yet, has a queue of 32, and sends its record."""
        if peer_id in self.peers or self._nursery is None:
            return
        try:
            stream = await self.host.new_stream(peer_id, self.protocols)
            await stream.write(framed(self.get_hello_packet().SerializeToString()))
        except (StreamFailure, *LOST) as lost:
            raise SwarmException(f"no gossip stream: {type(lost).__name__}") from None
        if peer_id in self.peers or self._nursery is None:
            await reset_quietly(stream)
            return
        self.peers[peer_id] = stream
        self.guarded.add_peer(peer_id, stream.get_protocol())
        outbox = Outbox()
        self.peer_queues[peer_id] = outbox
        self._nursery.start_soon(self._contained, self._write_all, peer_id, stream, outbox)
        self._nursery.start_soon(self._contained, self._watch, peer_id, stream)
        for topic in sorted(topic for topic, peers in self.peer_topics.items() if peer_id in peers):
            await self.guarded.on_peer_subscribed(peer_id, topic)

    def _handle_dead_peer(self, peer_id: ID) -> None:
        """libp2p's forgets the peer's subscriptions with our own stream to it; the peer, whose stream to us is well,
        never says them again, and hears nothing any more."""
        stream = self.peers.pop(peer_id, None)
        outbox = self.peer_queues.pop(peer_id, None)
        if outbox is not None:
            outbox.close()
        self.guarded.remove_peer(peer_id)
        if stream is not None and self._nursery is not None:
            self._nursery.start_soon(reset_quietly, stream)
        if self._peer_is_connected(peer_id):
            self._schedule_peer_stream_retry(peer_id)
        else:
            self._forget_all_subscriptions(peer_id)

    async def _write_all(self, peer_id: ID, stream: INetStream, outbox: Outbox) -> None:
        try:
            while piece := await outbox.take():
                await stream.write(piece)
        finally:
            if self.peer_queues.get(peer_id) is outbox:
                self._handle_dead_peer(peer_id)

    async def _watch(self, peer_id: ID, stream: INetStream) -> None:
        """Nothing ever comes on this stream but its end, which libp2p notices only with the next message it loses."""
        try:
            await stream.read(1)
        finally:
            if self.peers.get(peer_id) is stream:
                self._handle_dead_peer(peer_id)

    # What peers say.

    async def stream_handler(self, stream: INetStream) -> None:
        """libp2p's dies of malformed protobuf, and takes the host with it. One stream a peer: the newest."""
        ahead: Any = stream
        peer = PeerId(stream.muxed_conn.peer_id.to_bytes())
        if self._nursery is None:
            await reset_quietly(stream)
            return
        before, self._inbound[peer] = self._inbound.get(peer), ahead
        if before is not None:
            await reset_quietly(before.stream)
        try:
            while await self._read_one(peer, ahead):
                pass
        except RpcError as refused:
            self._report(ID(peer), refused.fault)
            await reset_quietly(stream)
        finally:
            if self._inbound.get(peer) is ahead:
                del self._inbound[peer]
                self._forget_all_subscriptions(ID(peer))

    async def _read_one(self, peer: PeerId, ahead: ReadAhead) -> bool:
        """False at the end of the stream."""
        size = shift = 0
        for place in range(MAX_LENGTH_BYTES):
            byte = await ahead.read_exactly(1) if place else await _first(ahead)
            if not byte:
                return False
            size |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
        else:
            raise RpcError(GossipFault.RPC_TOO_LARGE, "a length of too many bytes")
        if size > self._max_rpc_bytes:
            raise RpcError(GossipFault.RPC_TOO_LARGE, f"{size} bytes")
        rpc = decode_rpc(await ahead.read_exactly(size))
        for each in rpc.subscriptions:
            await self._heed(ID(peer), each)
        if rpc.publish:
            self._hear(peer, rpc)
        if rpc.HasField("control"):
            await self.guarded.hear(rpc.control, ID(peer), trusted=self._trusted(peer))
        # A flood waits in the sender's own window. Every peer's turn ends here, whatever it sent.
        await trio.sleep(self._pace(peer, size))
        return True

    async def _heed(self, peer_id: ID, said: rpc_pb2.RPC.SubOpts) -> None:
        """libp2p's starts three tasks for each, and sends everything of the last seconds, each time a peer leaves a
        topic and comes back."""
        if said.topicid not in self.topics:
            self._report(peer_id, GossipFault.UNKNOWN_TOPIC)
        elif said.subscribe:
            self.peer_topics.setdefault(said.topicid, set()).add(peer_id)
            if peer_id in self.peers:
                await self.guarded.on_peer_subscribed(peer_id, said.topicid)
        else:
            self._forget_subscription(peer_id, said.topicid)
            self.guarded.mesh[said.topicid].discard(peer_id)

    def get_hello_packet(self) -> rpc_pb2.RPC:
        """Without libp2p's signed record, which cannot be parsed for our keys."""
        return rpc_pb2.RPC(
            subscriptions=[rpc_pb2.RPC.SubOpts(subscribe=True, topicid=topic) for topic in sorted(self.topics)]
        )

    def _build_announce_rpc(self, topic_id: str, subscribe: bool) -> tuple[rpc_pb2.RPC, rpc_pb2.RPC.SubOpts]:
        said = rpc_pb2.RPC.SubOpts(subscribe=subscribe, topicid=topic_id)
        return rpc_pb2.RPC(subscriptions=[said]), said


async def _first(ahead: ReadAhead) -> bytes:
    """The first byte of an RPC; nothing where the stream ends in between."""
    try:
        return await ahead.read(1)
    except StreamEOF:
        return b""


def _no_id(_message: rpc_pb2.Message) -> bytes:
    raise RuntimeError("messages are identified by this package alone")
