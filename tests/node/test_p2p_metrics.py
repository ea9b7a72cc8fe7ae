"""Every p2p metric moves, by what really happens: a handshake, a refusal, a ban, a message."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from node.metrics import Metrics
from node.p2p_metrics import P2pMetrics
from p2p.book import PeerBook
from p2p.gossip.gossip import Gossip, GossipLimits, Token, Verdict
from p2p.gossip.topics import Topic
from p2p.handshake import Reject
from p2p.health import Health, PeerState
from p2p.host import DialError, Host
from tests.p2p.kit import GENESIS
from tests.p2p.net import config, run, until
from trellis.parameters import Parameters
from trellis.types import PeerId

NOW_MS = 1_800_000_000_000


class Node:
    def __init__(self, name: str, path: Path, **changes: object) -> None:
        self.host = Host(config(name, **changes))
        self.book = PeerBook(path / f"{name}.log", GENESIS, lambda: NOW_MS)
        self.gossip = Gossip(self.host, GENESIS, GossipLimits.of(Parameters()), self.book)
        self.gossip.on_message(Topic.TXS, self._heard)
        self.health = Health(self.host, self.book)
        self.health.queue("gossip", lambda: self.gossip.snapshot().outbox_messages)
        self.metrics = Metrics()
        self.collector = P2pMetrics(self.metrics, self.health, self.gossip.counters)

    def _heard(self, _peer: PeerId, _data: bytes, _token: Token) -> Verdict:
        return Verdict.ACCEPT

    def value(self, name: str, **labels: str) -> float:
        self.collector.collect()
        return self.metrics.registry.get_sample_value(name, labels) or 0.0


def members(*refused: PeerId) -> object:
    return lambda peer: Reject.NOT_A_MEMBER if peer in refused else None


def test_a_handshake_a_refusal_a_ban_and_a_message_move_every_p2p_metric(tmp_path: Path) -> None:
    async def main() -> None:
        stranger = Node("stranger", tmp_path)
        listener = Node("listener", tmp_path, admit=members(stranger.host.peer))
        dialer = Node("dialer", tmp_path)
        everyone = (listener, dialer, stranger)
        async with listener.host.run(), dialer.host.run(), stranger.host.run(), trio.open_nursery() as nursery:
            for node in everyone:
                await nursery.start(node.gossip.run)
            assert dialer.value("p2p_peers", state="connected") == 0
            await dialer.host.connect(listener.host.peer, listener.host.addresses[0])
            with pytest.raises(DialError):
                await stranger.host.connect(listener.host.peer, listener.host.addresses[0])

            assert dialer.value("p2p_peers", state="connected") == 1
            assert dialer.value("p2p_peers", state="dialled") == 1
            assert dialer.value("p2p_handshake_seconds_count") == 1
            spent_s = dialer.host.counters.handshake_us / 1e6
            assert dialer.value("p2p_handshake_seconds_sum") == pytest.approx(spent_s)
            for way in ("in", "out"):
                assert dialer.value("p2p_bytes_total", dir=way) > 0

            assert stranger.value("p2p_handshake_failures_total", reason="not_a_member") == 1
            assert listener.value("p2p_handshake_failures_total", reason="not_a_member") == 1
            assert listener.value("p2p_rejects_total", reason="not_a_member") == 1
            assert stranger.value("p2p_rejects_total", reason="not_a_member") == 0, "it was told so: not its verdict"

            listener.book.ban(stranger.host.peer, "for the test", NOW_MS + 1)
            assert listener.value("p2p_peers", state="banned") == 1

            await until(lambda: dialer.value("p2p_rtt_seconds_count") > 0, "a health ping came back")
            await until(lambda: bool(dialer.gossip.mesh(Topic.TXS)), "a mesh")
            dialer.gossip.publish(Topic.TXS, b"to all")
            assert dialer.value("p2p_gossip_fanout") == 1
            await until(lambda: listener.value("p2p_msgs_total", topic="txs") == 1, "the message was heard")
            nursery.cancel_scope.cancel()

    run(main)


def test_collecting_twice_counts_nothing_twice(tmp_path: Path) -> None:
    node = Node("a", tmp_path)
    node.host.counters.reject(Reject.SELF)
    node.host.counters.bytes_in = 7
    for _ in range(3):
        assert node.value("p2p_rejects_total", reason="self") == 1
        assert node.value("p2p_bytes_total", dir="in") == 7
    node.host.counters.reject(Reject.SELF)
    assert node.value("p2p_rejects_total", reason="self") == 2


def test_a_snapshot_names_peers_queues_bans_and_trouble(tmp_path: Path) -> None:
    node = Node("a", tmp_path)
    node.book.ban(PeerId(b"\x12\x20" + bytes(32)), "spam", NOW_MS + 1)
    shown = node.health.snapshot()
    assert shown.own == node.host.peer
    assert shown.queues == {"gossip": 0}
    assert shown.states == {state: int(state is PeerState.BANNED) for state in PeerState}
    assert [each.reason for each in shown.bans] == ["spam"]
    assert shown.trouble == ""
    with pytest.raises(ValueError, match="already"):
        node.health.queue("gossip", lambda: 0)
