"""Every metric of a node, by the names that dashboards and alerts rely on. Label values come from closed sets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

FINALITY_BUCKETS_MS: Final = (10, 50, 100, 200, 300, 400, 500, 750, 1_000, 2_000, 5_000)
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """One node's metrics in a registry of its own, so that several nodes in one process do not mix theirs.

    A vertex is a block, a sequence a height, a topic its short name. A peer id is never a label: a stranger could make
    as many as they like.
    """

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.samplers: list[Callable[[], None]] = []
        """Called before each exposition: they set the gauges of what is cheaper to read than to follow."""
        self._consensus()
        self._ledger()
        self._network()
        self._control()

    def exposition(self) -> bytes:
        """Everything, as of this moment, in the text format that Prometheus scrapes."""
        for sample in self.samplers:
            sample()
        return generate_latest(self.registry)

    def _counter(self, name: str, text: str, labels: Sequence[str] = ()) -> Counter:
        # prometheus_client adds "_total" by itself, and the names in the documents have it.
        return Counter(name.removesuffix("_total"), text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, labels: Sequence[str] = ()) -> Gauge:
        return Gauge(name, text, labels, registry=self.registry)

    def _histogram(
        self, name: str, text: str, labels: Sequence[str] = (), buckets: Sequence[float] = _SECONDS
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self.registry)

    def _consensus(self) -> None:
        self.proposals_sent = self._counter("consensus_proposals_sent_total", "Proposals sent by this validator.")
        self.finalized = self._counter("consensus_vertices_finalized_total", "Blocks that this node saw become final.")
        self.prepares_sent = self._counter("consensus_prepares_sent_total", "PREPARE votes sent.")
        self.commits_sent = self._counter("consensus_commits_sent_total", "COMMIT votes sent.")
        self.finality_ms = self._histogram(
            "consensus_finality_time_ms",
            "Milliseconds from accepting a proposal to its decision.",
            buckets=FINALITY_BUCKETS_MS,
        )
        self.violations = self._counter(
            "consensus_byzantine_violations_total", "Violations by validators, by kind.", ["kind"]
        )
        self.banned = self._gauge("consensus_banned_nodes", "Validators whose local reputation is below the ban line.")
        self.view_changes = self._counter("consensus_view_changes_total", "View changes this node took part in.")
        self.view = self._gauge("consensus_current_view", "The view this node is in.")
        self.sequence = self._gauge("consensus_current_sequence", "The height this node works on.")
        self.round_seconds = self._histogram("consensus_round_duration_seconds", "Seconds from one block to the next.")
        self.round_participants = self._gauge(
            "consensus_round_participants", "Validators in the certificate of the last block."
        )
        self.round_proofs = self._gauge("consensus_round_proofs", "Proofs in the last block.")
        self.accuracy = self._gauge(
            "consensus_verification_accuracy",
            "Share of right PREPAREs over the last proof-bearing blocks, by place in the active set.",
            ["validator"],
        )

    def _ledger(self) -> None:
        self.rewards = self._counter(
            "ledger_rewards_total", "Base units rewarded, by place in the active set.", ["validator"]
        )
        self.mempool_transactions = self._gauge("mempool_transactions", "Transactions waiting for a block.")
        self.mempool_bytes = self._gauge("mempool_bytes", "Bytes of transactions waiting for a block.")
        self.mempool_proofs = self._gauge("mempool_proofs", "Proofs waiting for a block.")
        self.proofs_processed = self._counter("mempool_proofs_processed_total", "Proofs that a block took.")
        self.height = self._gauge("ledger_height", "Height of the last committed block.")
        self.transactions = self._counter(
            "ledger_transactions_total", "Committed transactions, by kind and outcome.", ["kind", "outcome"]
        )
        self.commit_seconds = self._histogram("ledger_commit_seconds", "Seconds to make a block durable.")
        self.supply = self._gauge("ledger_supply_units", "Base units in existence.")

    def _network(self) -> None:
        self.peers = self._gauge("p2p_peers", "Peers, by state.", ["state"])
        self.bytes = self._counter("p2p_bytes_total", "Bytes over all connections, by direction.", ["dir"])
        self.messages = self._counter("p2p_msgs_total", "Gossip messages, by topic.", ["topic"])
        self.fanout = self._gauge("p2p_gossip_fanout", "Peers that the last announcement was sent to.")
        self.rtt_seconds = self._histogram("p2p_rtt_seconds", "Round-trip times of health pings.")
        self.rejects = self._counter("p2p_rejects_total", "Messages and connections refused, by reason.", ["reason"])
        self.handshake_seconds = self._histogram("p2p_handshake_seconds", "Seconds a handshake took.")
        self.handshake_failures = self._counter(
            "p2p_handshake_failures_total", "Handshakes that failed, by reason.", ["reason"]
        )

    def _control(self) -> None:
        self.grpc_requests = self._counter("grpc_requests_total", "Calls, by method and code.", ["method", "code"])
        self.grpc_seconds = self._histogram("grpc_request_seconds", "Seconds a call took, by method.", ["method"])
        self.signature_checks = self._counter(
            "node_signature_checks_total", "Signatures given to the verifier, by what was signed.", ["purpose"]
        )
