"""What a node's metrics say, and what two readings of them say about the time between."""

from __future__ import annotations

import http.client
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

from prometheus_client.parser import text_string_to_metric_families

FETCH_S: Final = 2.0
WINDOW_S: Final = 30.0
MAX_METRICS_BYTES: Final = 4 << 20
"""Stops whatever answers at the port from filling our memory."""

Scrape = dict[str, list[tuple[dict[str, str], float]]]
"""Samples by their full name: labels and value."""


class ScrapeFault(Exception):
    """The address did not answer with metrics."""


def fetch(address: str, timeout_s: float = FETCH_S) -> Scrape:
    status, body = _get(address, "/metrics", timeout_s)
    if status != http.HTTPStatus.OK:
        raise ScrapeFault(f"{address} answered {status} to /metrics")
    return parse(body.decode(errors="replace"))


def is_ready(address: str, timeout_s: float = FETCH_S) -> bool:
    """Whether the node is synced and in contact with a quorum, by its own word. False if it does not answer."""
    try:
        return _get(address, "/ready", timeout_s)[0] == http.HTTPStatus.OK
    except ScrapeFault:
        return False


def _get(address: str, target: str, timeout_s: float) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(address, timeout=timeout_s)
    try:
        connection.request("GET", target)
        answer = connection.getresponse()
        return answer.status, answer.read(MAX_METRICS_BYTES)
    except (OSError, http.client.HTTPException) as fault:
        raise ScrapeFault(f"{address} does not answer: {fault}") from fault
    finally:
        connection.close()


def parse(text: str) -> Scrape:
    found: Scrape = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found.setdefault(sample.name, []).append((sample.labels, sample.value))
    except ValueError as fault:
        raise ScrapeFault(f"what was answered is not in the format of metrics: {fault}") from fault
    return found


def total(scrape: Scrape, name: str, **labels: str) -> float:
    """The sum over all label values but those given; 0 for a metric that nothing moved."""
    return sum(value for found, value in scrape.get(name, ()) if labels.items() <= found.items())


@dataclass(frozen=True, slots=True)
class Sample:
    at_s: float
    height: int
    view: int
    peers: int
    mempool: int
    transactions: float
    finality: tuple[tuple[float, float], ...]
    """Upper bound in milliseconds, and how many blocks took no longer; ascending, the last bound infinite."""


def read_sample(scrape: Scrape, at_s: float) -> Sample:
    buckets = ((float(labels["le"]), value) for labels, value in scrape.get("consensus_finality_time_ms_bucket", ()))
    return Sample(
        at_s=at_s,
        height=int(total(scrape, "ledger_height")),
        view=int(total(scrape, "consensus_current_view")),
        peers=int(total(scrape, "p2p_peers", state="connected")),
        mempool=int(total(scrape, "mempool_transactions")),
        transactions=total(scrape, "ledger_transactions_total"),
        finality=tuple(sorted(buckets)),
    )


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """As Prometheus' histogram_quantile: linear inside a bucket, and no more than the highest finite bound."""
    count = buckets[-1][1] if buckets else 0
    if count <= 0:
        return None
    rank = share * count
    low_bound = low_count = 0.0
    for bound, below in buckets:
        if below >= rank:
            if bound == float("inf"):
                return low_bound
            return low_bound + (bound - low_bound) * (rank - low_count) / max(below - low_count, 1e-9)
        low_bound, low_count = bound, below
    return low_bound


class Window:
    """The last half minute of one node."""

    def __init__(self) -> None:
        self._samples: deque[Sample] = deque()

    def add(self, sample: Sample) -> None:
        if self._samples and sample.transactions < self._samples[-1].transactions:
            self._samples.clear()  # the node restarted, and counts from zero
        self._samples.append(sample)
        while sample.at_s - self._samples[0].at_s > WINDOW_S:
            self._samples.popleft()

    def forget(self) -> None:
        self._samples.clear()

    @property
    def last(self) -> Sample | None:
        return self._samples[-1] if self._samples else None

    @property
    def tps(self) -> float | None:
        """Committed transactions a second."""
        if len(self._samples) < 2:
            return None
        first, last = self._samples[0], self._samples[-1]
        return (last.transactions - first.transactions) / (last.at_s - first.at_s)

    def finality_ms(self, share: float) -> float | None:
        """Over the window; over the node's life while the window holds one reading."""
        if not self._samples:
            return None
        last = self._samples[-1].finality
        earlier = dict(self._samples[0].finality) if len(self._samples) > 1 else {}
        return quantile([(bound, count - earlier.get(bound, 0.0)) for bound, count in last], share)


class Watch:
    """Reads all nodes at once: a frozen one costs its own time limit, not everybody's."""

    def __init__(self, addresses: dict[str, str]) -> None:
        self._addresses = addresses
        self.windows = {name: Window() for name in addresses}
        self._pool = ThreadPoolExecutor(max_workers=min(32, max(1, len(addresses))), thread_name_prefix="scrape")

    def poll(self) -> None:
        """Afterwards a node that did not answer has an empty window."""
        asked = {name: self._pool.submit(fetch, address) for name, address in self._addresses.items()}
        for name, answer in asked.items():
            try:
                self.windows[name].add(read_sample(answer.result(), time.monotonic()))
            except ScrapeFault:
                self.windows[name].forget()

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
