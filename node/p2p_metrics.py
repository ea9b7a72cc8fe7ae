"""Moves what p2p counts into the node's metrics. Call `collect` every second or so; it costs microseconds.

Counters of p2p are plain numbers that only grow, so what is moved is how much they grew since the last time. The time
that each handshake took is taken out of p2p's bounded queue. Label values come from closed sets: enumerations of p2p,
and topic names.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from node.metrics import Metrics
from p2p.handshake import Reject
from p2p.health import Health
from trellis.types import PeerId

_HANDSHAKE_REASONS: Final = frozenset(reason.name.lower() for reason in Reject)


class GossipFigures(Protocol):
    """What gossip counts (`p2p.gossip.gossip.GossipCounters`), as far as metrics show it."""

    @property
    def messages(self) -> Mapping[str, int]:
        """Heard, by a topic's short name."""
        ...

    @property
    def fanout(self) -> int:
        """Peers that the last message was sent to."""
        ...


@dataclass(slots=True)
class _Moved:
    """How much of each counter was moved already."""

    rejects: Counter[str] = field(default_factory=Counter)
    told: Counter[str] = field(default_factory=Counter)
    messages: Counter[str] = field(default_factory=Counter)
    bytes_in: int = 0
    bytes_out: int = 0
    rtt_us: dict[PeerId, int] = field(default_factory=dict)


class P2pMetrics:
    """One for a node: it remembers what it has moved."""

    def __init__(self, metrics: Metrics, health: Health, gossip: GossipFigures | None = None) -> None:
        self._metrics = metrics
        self._health = health
        self._gossip = gossip
        self._moved = _Moved()

    def collect(self) -> None:
        metrics, moved, counters = self._metrics, self._moved, self._health.counters
        snapshot = self._health.snapshot()
        for state, number in snapshot.states.items():
            metrics.peers.labels(str(state)).set(number)
        metrics.bytes.labels("in").inc(counters.bytes_in - moved.bytes_in)
        metrics.bytes.labels("out").inc(counters.bytes_out - moved.bytes_out)
        moved.bytes_in, moved.bytes_out = counters.bytes_in, counters.bytes_out

        for reason, more in _grown(counters.rejects, moved.rejects):
            metrics.rejects.labels(reason).inc(more)
            if reason in _HANDSHAKE_REASONS:
                metrics.handshake_failures.labels(reason).inc(more)
        for reason, more in _grown(counters.told, moved.told):
            metrics.handshake_failures.labels(reason).inc(more)
        self._handshakes()

        rtts = {each.peer: each.rtt_us for each in snapshot.connections if each.rtt_us}
        for peer, rtt_us in rtts.items():
            if moved.rtt_us.get(peer) != rtt_us:
                metrics.rtt_seconds.observe(rtt_us / 1_000_000)
        moved.rtt_us = rtts

        if self._gossip is not None:
            for topic, more in _grown(self._gossip.messages, moved.messages):
                metrics.messages.labels(topic).inc(more)
            metrics.fanout.set(self._gossip.fanout)

    def _handshakes(self) -> None:
        durations_us = self._health.counters.handshake_durations_us
        while durations_us:
            self._metrics.handshake_seconds.observe(durations_us.popleft() / 1_000_000)


def _grown(counts: Mapping[str, int], moved: Counter[str]) -> list[tuple[str, int]]:
    """What came since the last time, which is noted."""
    grown = [(name, count - moved[name]) for name, count in sorted(counts.items()) if count > moved[name]]
    moved.update(dict(grown))
    return grown
