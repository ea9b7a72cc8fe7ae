"""Gossip: announcements to everybody over gossipsub, and the pull path behind them.

Start reading at `gossip.py` (topics and verdicts) and `relay.py` (transactions). Pure, without libp2p, sockets or
clock: `topics`, `announcement`, `seen`, `buckets`, `scoring`, `pull`, `batches`. The edge to libp2p, where every
override says why it is there: `pubsub`, `router`, `cache`, `outbox`, `rpc`.
"""

from p2p.gossip.gossip import Gossip, GossipCounters, GossipHealth, GossipLimits, Token, Verdict, message_id
from p2p.gossip.relay import RelayHealth, TransactionPort, TransactionRelay, TransactionVerdict
from p2p.gossip.scoring import BookPort, GossipFault
from p2p.gossip.topics import Topic, TopicLimits, topic_limits, topic_name

__all__ = [
    "BookPort",
    "Gossip",
    "GossipCounters",
    "GossipFault",
    "GossipHealth",
    "GossipLimits",
    "RelayHealth",
    "Token",
    "Topic",
    "TopicLimits",
    "TransactionPort",
    "TransactionRelay",
    "TransactionVerdict",
    "Verdict",
    "message_id",
    "topic_limits",
    "topic_name",
]
