"""libp2p's gossipsub router with what a stranger can break replaced. Its mesh is kept: who is in it, grafts, prunes.

Each override names the behaviour of libp2p 0.8.1 that made it necessary; an upgrade of libp2p re-examines them all.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

from libp2p.custom_types import TProtocol
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossip.cache import ContentCache
from p2p.gossip.outbox import Outbox, framed
from p2p.gossip.scoring import GossipFault

MESHSUB: Final = TProtocol("/meshsub/1.1.0")
"""1.2 adds an IDONTWANT for every message to every peer, which here costs more than the small messages it saves."""
DEGREE, DEGREE_LOW, DEGREE_HIGH = 6, 4, 12
HEARTBEAT_S: Final = 1
PRUNE_BACK_OFF_S: Final = 10
MAX_BACK_OFF_S: Final = 600
"""Of what a peer may ask for in a PRUNE: an entry that is kept after the peer has gone."""
MAX_BACK_OFFS: Final = 4_096
"""Entries kept: a flood of PRUNEs under ever new identities."""
MAX_WANTED_IDS: Final = 256
"""Asked for in answer to one IHAVE: a flood of ids that do not exist."""
MAX_IHAVES_PER_HEARTBEAT: Final = 8
MAX_SENT_AGAIN_BYTES: Final = 4 << 20
"""For IWANTs of one peer in one heartbeat: it asks with 34 bytes for messages of any size."""

FaultReport = Callable[[ID, GossipFault], None]


class GuardedRouter(GossipSub):
    def __init__(self, known: Callable[[ID, bytes], bool], topics: frozenset[str], report: FaultReport) -> None:
        """`known`: whether a message of that id needs not be asked for of that peer."""
        # libp2p's limiter lets 10 messages a second of one peer pass, and drops the rest without a word; its heartbeat
        # comes every two minutes; eclipse protection counts the addresses of peers that here share a loopback.
        super().__init__(
            protocols=[MESHSUB],
            degree=DEGREE,
            degree_low=DEGREE_LOW,
            degree_high=DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT_S,
            prune_back_off=PRUNE_BACK_OFF_S,
            unsubscribe_back_off=PRUNE_BACK_OFF_S,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,
            eclipse_protection_enabled=False,
        )
        # Its scores have the opposite sign of everybody else's, and tables that grow with the topics that peers name.
        self.scorer = None
        self.cache = ContentCache()
        self.mcache = self.cache
        self._known = known
        self._topics = topics
        self._report = report
        self._sent_again_bytes: defaultdict[ID, int] = defaultdict(int)
        self._ihaves: defaultdict[ID, int] = defaultdict(int)

    # Sending.

    def outbox(self, peer: ID) -> Outbox | None:
        box = None if self.pubsub is None else self.pubsub.peer_queues.get(peer)
        return box if isinstance(box, Outbox) else None

    def forward(self, topic: str, mid: bytes, data: bytes, without: Collection[ID]) -> int:
        """Sends a message of ours, or one that was accepted, to the mesh; to how many.

        libp2p's `publish` does this inside its validation, refuses a message whose unauthenticated sender and sequence
        number it has met (so that anybody can censor any message), keeps a queue for peers that are not there yet,
        and serialises once for each peer."""
        message = rpc_pb2.Message(data=data, topicIDs=[topic])
        self.cache.keep(mid, message)
        frame = framed(rpc_pb2.RPC(publish=[message]).SerializeToString())
        sent = 0
        for peer in self._audience(topic):
            if peer in without:
                continue
            box = self.outbox(peer)
            if box is None:
                continue
            if box.put(frame):
                sent += 1
            else:
                self._report(peer, GossipFault.OUTBOX_FULL)
        return sent

    def _audience(self, topic: str) -> Collection[ID]:
        """The mesh; while there is none yet, whoever listens to the topic."""
        mesh = self.mesh.get(topic)
        if mesh or self.pubsub is None:
            return mesh or ()
        listening = sorted(self.pubsub.peer_topics.get(topic, ()), key=ID.to_bytes)
        return listening[:DEGREE]

    def send_rpc(self, peer_id: ID, rpc: rpc_pb2.RPC, priority: bool = False) -> None:
        """libp2p's adds a signed peer record of 5 KB that cannot be parsed for our keys, and splits by copying."""
        box = self.outbox(peer_id)
        if box is not None and not box.put(framed(rpc.SerializeToString()), urgent=priority):
            self._report(peer_id, GossipFault.OUTBOX_FULL)

    async def emit_control_message(self, control_msg: rpc_pb2.ControlMessage, to_peer: ID) -> None:
        """libp2p's has that record made and signed for each message."""
        self.send_rpc(to_peer, rpc_pb2.RPC(control=control_msg), priority=True)

    async def _emit_control_msgs(
        self,
        peers_to_graft: dict[ID, list[str]],
        peers_to_prune: dict[ID, list[str]],
        peers_to_gossip: dict[ID, dict[str, list[bytes]]],
    ) -> None:
        """libp2p's list of grafts grows from peer to peer: each one is told of the meshes of those before it."""
        for peer in {**peers_to_graft, **peers_to_prune, **peers_to_gossip}:
            control = rpc_pb2.ControlMessage(
                graft=[rpc_pb2.ControlGraft(topicID=topic) for topic in peers_to_graft.get(peer, ())],
                prune=[
                    rpc_pb2.ControlPrune(topicID=topic, backoff=PRUNE_BACK_OFF_S)
                    for topic in peers_to_prune.get(peer, ())
                ],
                ihave=[
                    rpc_pb2.ControlIHave(topicID=topic, messageIDs=ids[-MAX_WANTED_IDS:])
                    for topic, ids in peers_to_gossip.get(peer, {}).items()
                ],
            )
            await self.emit_control_message(control, peer)

    # Receiving.

    async def hear(self, control: rpc_pb2.ControlMessage, peer: ID, *, trusted: bool) -> None:
        """libp2p's `handle_rpc` keeps tables by whatever topics a peer names, connects to whatever peers a PRUNE
        names, and answers extensions that nobody here speaks. `trusted`: not throttled."""
        for ihave in control.ihave[:MAX_IHAVES_PER_HEARTBEAT]:
            if trusted and self._is_ours(ihave.topicID, peer):
                await self.handle_ihave(ihave, peer)
        for iwant in control.iwant[:MAX_IHAVES_PER_HEARTBEAT]:
            if trusted:
                await self.handle_iwant(iwant, peer)
        for graft in control.graft[: len(self._topics)]:
            if not self._is_ours(graft.topicID, peer):
                continue
            if trusted:
                await self.handle_graft(graft, peer)
            else:
                await self.emit_prune(graft.topicID, peer, False, False)
        for prune in control.prune[: len(self._topics)]:
            if self._is_ours(prune.topicID, peer):
                until_s = min(prune.backoff, MAX_BACK_OFF_S)
                await self.handle_prune(rpc_pb2.ControlPrune(topicID=prune.topicID, backoff=until_s), peer)

    def _is_ours(self, topic: str, peer: ID) -> bool:
        if topic in self._topics:
            return True
        self._report(peer, GossipFault.UNKNOWN_TOPIC)
        return False

    async def handle_ihave(self, ihave_msg: rpc_pb2.ControlIHave, sender_peer_id: ID) -> None:
        """libp2p's asks for any number of ids, and takes binary ids for hexadecimal text where they look like it."""
        self._ihaves[sender_peer_id] += 1
        if self._ihaves[sender_peer_id] > MAX_IHAVES_PER_HEARTBEAT:
            self._report(sender_peer_id, GossipFault.CONTROL_FLOOD)
            return
        wanted = [mid for mid in ihave_msg.messageIDs if len(mid) == 32 and not self._known(sender_peer_id, mid)]
        if wanted:
            await self.emit_iwant(wanted[:MAX_WANTED_IDS], sender_peer_id)

    async def handle_iwant(self, iwant_msg: rpc_pb2.ControlIWant, sender_peer_id: ID) -> None:
        """libp2p's sends the same message as often as it is named."""
        for mid in dict.fromkeys(iwant_msg.messageIDs[:MAX_WANTED_IDS]):
            message = self.cache.get(mid)
            if message is None:
                continue
            self._sent_again_bytes[sender_peer_id] += len(message.data)
            if self._sent_again_bytes[sender_peer_id] > MAX_SENT_AGAIN_BYTES:
                self._report(sender_peer_id, GossipFault.CONTROL_FLOOD)
                return
            self.send_rpc(sender_peer_id, rpc_pb2.RPC(publish=[message]))

    # Keeping house, once in a heartbeat.

    def _periodic_security_cleanup(self) -> None:
        super()._periodic_security_cleanup()
        self._sent_again_bytes.clear()
        self._ihaves.clear()
        now_s = int(time.time())  # the clock that libp2p's back-offs are in
        for topic, until_s in self.back_off.items():
            alive = {peer: each for peer, each in until_s.items() if each > now_s}
            for peer in list(alive)[: max(len(alive) - MAX_BACK_OFFS, 0)]:
                del alive[peer]
            self.back_off[topic] = alive
