"""Lanes over real sockets: order, classes, full queues, cuts and returns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from p2p.dialing import PeerAddress
from p2p.handshake import LocalIdentity
from p2p.host import Host
from p2p.lane_queue import LaneLimits
from p2p.lanes import Lanes
from tests.p2p.kit import GENESIS, key
from tests.p2p.net import by_order, config, hosts, port_of, run, until
from tests.p2p.proxy import Proxy, proxied
from trellis.types import PeerId
from trellis.wire import Frame, MessageId

VOTE = MessageId.CONSENSUS
BODY = MessageId.BODY_RESPONSE


class Member:
    """A validator's lanes, and what it heard."""

    def __init__(self, host: Host, limits: LaneLimits | None = None, *, gated: bool = False) -> None:
        self.host = host
        self.heard: list[Frame] = []
        self.changes: list[bool] = []
        self.on_open: list[bytes] = []
        """Posted to a peer from inside `on_change`, as consensus does."""
        self.gate = trio.Event()
        self.lanes = Lanes(host, GENESIS, self._frame, self._change, limits, self._wait if gated else None)

    async def _wait(self, _peer: PeerId) -> None:
        await self.gate.wait()

    def _frame(self, _peer: PeerId, frame: Frame) -> None:
        self.heard.append(frame)

    def _change(self, peer: PeerId, is_open: bool) -> None:
        self.changes.append(is_open)
        for payload in self.on_open if is_open else ():
            assert self.lanes.post(peer, VOTE, payload, priority=True)

    def open_to(self, other: Member) -> bool:
        depth = self.lanes.depths().get(other.host.peer)
        return depth is not None and depth.open

    def payloads(self, kind: MessageId) -> list[bytes]:
        return [frame.payload for frame in self.heard if frame.message_id == kind]


@asynccontextmanager
async def running(*members: Member) -> AsyncIterator[None]:
    peers = frozenset(each.host.peer for each in members)
    async with trio.open_nursery() as nursery:
        for each in members:
            each.lanes.set_peers(peers)
            nursery.start_soon(each.lanes.run)
        yield
        nursery.cancel_scope.cancel()


async def all_open(*members: Member) -> None:
    await until(
        lambda: all(one.open_to(other) for one in members for other in members if one is not other), "lanes are open"
    )


@asynccontextmanager
async def pair(limits: LaneLimits | None = None, *, gated: bool = False) -> AsyncIterator[tuple[Member, Member]]:
    """Two validators with open lanes; with `gated` the second one reads nothing before its gate opens."""
    async with hosts(config("a"), config("b")) as (a, b):
        one, other = Member(a, limits), Member(b, gated=gated)
        async with running(one, other):
            await a.connect(b.peer, b.addresses[0])
            await all_open(one, other)
            yield one, other


@asynccontextmanager
async def proxied_pair() -> AsyncIterator[tuple[Member, Member, Proxy]]:
    """Two validators; the first keeps its connection through a proxy."""
    first, second = by_order("a", "b")
    async with hosts(config(second)) as (listener,), proxied(port_of(listener.addresses[0])) as proxy:
        peers = (PeerAddress(listener.peer, (proxy.address,)),)
        async with hosts(config(first, listen=(), peers=peers)) as (dialer,):
            one, other = Member(dialer), Member(listener)
            async with running(one, other):
                await all_open(one, other)
                yield one, other, proxy


def numbered(number: int, size: int) -> bytes:
    return number.to_bytes(4, "big") + bytes(size)


def test_messages_of_every_size_arrive_whole_and_in_the_order_of_posting() -> None:
    async def main() -> None:
        async with pair() as (one, other):
            sent = [numbered(at, size) for at, size in enumerate([0, 3_400, 1, 70_000, 65_509, 65_524, 300_000] * 20)]
            for payload in sent:
                assert one.lanes.post(other.host.peer, BODY, payload)
                while one.lanes.depths()[other.host.peer].queued_bytes > 4 << 20:
                    await trio.sleep(0)
            await until(lambda: len(other.heard) == len(sent), "everything arrived")
            assert other.payloads(BODY) == sent
            assert [frame.sequence for frame in other.heard] == list(range(len(sent)))
            assert not one.lanes.counters.drops
            assert other.lanes.counters.gaps == 0

    run(main)


def test_a_vote_overtakes_bodies_that_were_posted_before_it() -> None:
    async def main() -> None:
        async with pair() as (one, other):
            for number in range(7):
                assert one.lanes.post(other.host.peer, BODY, numbered(number, 1 << 20))
            assert one.lanes.post(other.host.peer, VOTE, b"vote", priority=True)
            await until(lambda: len(other.heard) == 8, "everything arrived")
            kinds = [frame.message_id for frame in other.heard]
            assert kinds.index(VOTE) < 4
            assert [int.from_bytes(each[:4], "big") for each in other.payloads(BODY)] == list(range(7))

    run(main)


def test_a_broadcast_reaches_every_validator_and_one_copy_of_it_is_queued() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b"), config("c")) as (a, b, c):
            members = [Member(each) for each in (a, b, c)]
            async with running(*members):
                for dialer, listener in ((a, b), (a, c), (b, c)):
                    await dialer.connect(listener.peer, listener.addresses[0])
                await all_open(*members)
                body = numbered(1, 1 << 20)
                assert members[0].lanes.post_all(BODY, body) == 2
                queued = [lane.queues.values() for lane in members[0].lanes._lanes.values()]
                payloads = [entry[2] for queues in queued for queue in queues for entry in queue._waiting]
                assert len(payloads) == 2
                assert all(payload is body for payload in payloads)
                await until(lambda: all(each.payloads(BODY) == [body] for each in members[1:]), "both heard it")

    run(main)


def test_a_full_queue_drops_the_newest_and_both_ends_count_it() -> None:
    async def main() -> None:
        async with pair(LaneLimits(bulk_bytes=1 << 20), gated=True) as (one, other):
            to = other.host.peer
            taken = []
            for number in range(200):
                payload = numbered(number, 20_000)
                if one.lanes.post(to, BODY, payload):
                    taken.append(payload)
                await trio.sleep(0)
            dropped = 200 - len(taken)
            assert dropped > 50
            assert one.lanes.counters.drops == {"lane_drop_full": dropped}
            assert one.lanes.depths()[to].queued_bytes <= 1 << 20
            assert one.lanes.post(to, VOTE, b"votes have a queue of their own", priority=True)
            other.gate.set()
            await until(lambda: len(other.payloads(BODY)) == len(taken), "what was taken arrived")
            assert other.payloads(BODY) == taken
            # The last ones that were dropped are seen with the next message.
            assert one.lanes.post(to, BODY, b"next")
            await until(lambda: other.payloads(BODY)[-1] == b"next", "the next one arrived")
            assert other.lanes.counters.gaps == dropped

    run(main)


def test_one_frame_larger_than_the_queue_is_taken_when_nothing_waits() -> None:
    async def main() -> None:
        async with pair(LaneLimits(bulk_bytes=1_000)) as (one, other):
            body = numbered(0, 2 << 20)
            assert one.lanes.post(other.host.peer, BODY, body)
            assert not one.lanes.post(other.host.peer, BODY, body)
            await until(lambda: other.payloads(BODY) == [body], "it arrived")

    run(main)


def test_what_is_posted_when_a_lane_opens_again_is_not_lost() -> None:
    async def main() -> None:
        async with proxied_pair() as (one, other, proxy):
            one.on_open = [numbered(number, 3_400) for number in range(100)]
            for round_number in range(1, 4):
                other.heard.clear()
                proxy.cut()
                await until(lambda: one.changes.count(False) >= round_number, "the cut was noticed")  # noqa: B023
                await all_open(one, other)
                await until(lambda: len(other.payloads(VOTE)) >= 100, "all arrived")
                assert other.payloads(VOTE) == one.on_open

    run(main)


def test_a_lane_cut_in_the_middle_of_a_frame_delivers_whole_frames_only_and_counts_the_rest() -> None:
    async def main() -> None:
        async with proxied_pair() as (one, other, proxy):
            bodies = [numbered(number, 200_000) for number in range(20)]
            changes = len(one.changes)
            proxy.cut_after(direction=next(iter(proxy.forwarded)), more_bytes=1_500_000)
            for body in bodies:
                assert one.lanes.post(other.host.peer, BODY, body)
            await until(lambda: one.changes[changes:][:1] == [False], "the cut was noticed")
            got = other.payloads(BODY)
            assert len(got) < 20
            assert got == bodies[: len(got)]
            # Some were on their way: sent as far as this side knows, and never heard.
            assert 0 < one.lanes.counters.drops["lane_drop_cut"] <= 20 - len(got)
            await all_open(one, other)
            assert one.lanes.post(other.host.peer, BODY, b"after")
            await until(lambda: other.payloads(BODY)[-1] == b"after", "the lane works again")

    run(main)


def test_posts_to_a_closed_lane_are_dropped_and_counted() -> None:
    async def main() -> None:
        async with proxied_pair() as (one, other, proxy):
            proxy.cut(refuse=True)
            await until(lambda: not one.open_to(other), "the cut was noticed")
            before = one.lanes.counters.drops["lane_drop_closed"]
            assert not one.lanes.post(other.host.peer, VOTE, b"lost", priority=True)
            assert one.lanes.post_all(VOTE, b"lost", priority=True) == 0
            assert one.lanes.counters.drops["lane_drop_closed"] == before + 2
            assert one.lanes.depths()[other.host.peer].queued_frames == 0
            proxy.heal()
            await all_open(one, other)
            assert one.lanes.post(other.host.peer, VOTE, b"kept", priority=True)
            await until(lambda: other.payloads(VOTE) == [b"kept"], "and nothing old arrives")

    run(main)


def test_a_peer_that_stands_still_is_noticed_within_three_seconds() -> None:
    async def main() -> None:
        async with proxied_pair() as (one, other, proxy):
            proxy.freeze()
            started_s = trio.current_time()
            await until(lambda: not one.open_to(other) and not other.open_to(one), "both noticed")
            assert trio.current_time() - started_s < 3
            proxy.heal()
            await all_open(one, other)

    run(main)


def test_a_delayed_lane_keeps_its_order_and_loses_nothing() -> None:
    async def main() -> None:
        async with proxied_pair() as (one, other, proxy):
            for direction in proxy.delay_s:
                proxy.delay_s[direction] = 0.05
            sent = [numbered(number, 3_400) for number in range(500)]
            for payload in sent:
                assert one.lanes.post(other.host.peer, VOTE, payload, priority=True)
            await until(lambda: len(other.payloads(VOTE)) == 500, "everything arrived")
            assert other.payloads(VOTE) == sent

    run(main)


def test_validators_come_and_go() -> None:
    async def main() -> None:
        async with pair() as (one, other):
            one.lanes.set_peers(frozenset())
            await until(lambda: one.changes == [True, False], "one closed its lane")
            assert one.lanes.depths() == {}
            assert not one.lanes.post(other.host.peer, VOTE, b"nobody")
            await until(lambda: not other.open_to(one), "the other cannot speak to it either")
            one.lanes.set_peers(frozenset({other.host.peer}))
            await all_open(one, other)
            assert one.lanes.post(other.host.peer, VOTE, b"again", priority=True)
            await until(lambda: other.payloads(VOTE) == [b"again"], "it was heard")

    run(main)


def test_a_lane_opens_only_when_the_peer_takes_us_for_a_validator() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            one, other = Member(a), Member(b)
            async with running(one, other):
                other.lanes.set_peers(frozenset())
                await a.connect(b.peer, b.addresses[0])
                await until(lambda: b.counters.rejects["lane_stranger"] > 0, "b refused")
                assert one.changes == []
                other.lanes.set_peers(frozenset({a.peer}))
                await all_open(one, other)

    run(main)


def test_what_a_callback_raises_ends_the_lanes() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):

            def broken(_peer: PeerId, _frame: Frame) -> None:
                raise ZeroDivisionError

            one, two = Member(a), Lanes(b, GENESIS, broken, lambda _peer, _open: None)
            with pytest.RaisesGroup(pytest.RaisesGroup(ZeroDivisionError)):
                async with trio.open_nursery() as nursery:
                    one.lanes.set_peers(frozenset({b.peer}))
                    two.set_peers(frozenset({a.peer}))
                    nursery.start_soon(one.lanes.run)
                    nursery.start_soon(two.run)
                    await a.connect(b.peer, b.addresses[0])
                    await until(lambda: one.lanes.post(b.peer, VOTE, b"boom"), "posted")

    run(main)


def test_acknowledgements_tell_how_far_behind_a_reader_is() -> None:
    async def main() -> None:
        async with pair(gated=True) as (one, other):
            to = other.host.peer
            for number in range(600):
                assert one.lanes.post(to, VOTE, numbered(number, 100), priority=True)
            await until(lambda: one.lanes.depths()[to].queued_frames == 0, "all were written")
            assert one.lanes.depths()[to].unconfirmed_frames == 600
            other.gate.set()
            await until(lambda: one.lanes.depths()[to].unconfirmed_frames == 600 - 512, "two were answered")

    run(main)


def test_thousands_of_messages_one_way_do_not_look_like_an_attack() -> None:
    async def main() -> None:
        async with pair() as (one, other):
            to = other.host.peer
            for number in range(4_500):
                assert one.lanes.post(to, VOTE, numbered(number, 200), priority=True)
                wanted = number + 1
                while other.lanes.counters.received_frames < wanted:
                    await trio.sleep(0)
            assert one.changes == [True]
            assert not other.host.counters.rejects

    run(main)


def test_a_host_alone_has_closed_lanes_and_no_faults() -> None:
    async def main() -> None:
        async with hosts(config("a")) as (a,):
            one = Member(a)
            stranger = LocalIdentity.of(key("b")).peer
            async with trio.open_nursery() as nursery:
                one.lanes.set_peers(frozenset({stranger, a.peer}))
                nursery.start_soon(one.lanes.run)
                await trio.testing.wait_all_tasks_blocked()
                assert list(one.lanes.depths()) == [stranger]
                assert one.changes == []
                nursery.cancel_scope.cancel()

    run(main)
