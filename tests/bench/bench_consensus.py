"""Events a second of the consensus core alone, on one core: no network, disk, signature or block is in the figure.

A network in memory is run once and every event that one replica saw is kept; then a fresh replica gets the same events.
"""

from __future__ import annotations

import gc
import time

from consensus import Event, MessageReceived, Replica
from tests.consensus.network import Network
from trellis.messages import decode_message, encode_message

TARGET_EVENTS_A_SECOND = 20_000


def recorded(validators: int, heights: int) -> tuple[Network, list[Event]]:
    """What node 1 (not the leader) saw while the network decided that many heights."""
    network = Network([1] * validators, verify=False)
    host = network.hosts[1]
    events: list[Event] = []
    feed = host.feed

    def keep(event: Event) -> None:
        events.append(event)
        feed(event)

    host.feed = keep  # type: ignore[method-assign]  # the recorder stands between the host and its own queue
    network.start()
    network.work(True)
    network.stabilise(until=heights)
    return network, events


def afresh(event: Event) -> Event:
    """Messages as they come off the wire: hashes of headers and certificates have yet to be computed."""
    if isinstance(event, MessageReceived):
        return MessageReceived(decode_message(encode_message(event.message)), event.sender)
    return event


def replayed(network: Network, events: list[Event]) -> float:
    """Seconds that a fresh replica takes for these events."""
    replica = Replica(network.address(1), network.genesis_hash)
    events = [afresh(event) for event in events]
    step = replica.step
    gc.collect()
    started = time.perf_counter()
    for event in events:
        step(event)
    return time.perf_counter() - started


def main() -> None:
    print("consensus core, one replica's events replayed (best of 3)")
    print(f"{'validators':>10} {'heights':>8} {'events':>8} {'events/s':>10} {'us/event':>9} {'heights/s':>10}")
    for validators, heights in ((4, 400), (10, 100), (100, 3)):
        network, events = recorded(validators, heights)
        seconds = min(replayed(network, events) for _ in range(3))
        rate = len(events) / seconds
        verdict = "" if rate >= TARGET_EVENTS_A_SECOND else f"  below the target of {TARGET_EVENTS_A_SECOND}"
        each = 1e6 * seconds / len(events)
        decided = len(network.hosts[1].disk.chain)
        figures = f"{len(events):>8} {rate:>10.0f} {each:>9.1f} {decided / seconds:>10.0f}"
        print(f"{validators:>10} {decided:>8} {figures}{verdict}")


if __name__ == "__main__":
    main()
