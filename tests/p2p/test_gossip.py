"""Gossip among honest hosts over real sockets."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio

from p2p.gossip import Topic, Verdict
from p2p.gossip.gossip import Token
from p2p.streams import reset_quietly
from tests.p2p.gossiping import NAMES, Ledger, Node, all_pairs, meet, node, running
from tests.p2p.net import run, until
from trellis.types import PeerId


def test_a_burst_of_messages_reaches_every_host_once() -> None:
    """The burst of which libp2p as it comes delivered 48 of 540."""

    async def main() -> None:
        nodes = [node(name) for name in NAMES]
        async with running(*nodes):
            await meet(*all_pairs(nodes))
            for number in range(30):
                for each in nodes:
                    each.gossip.publish(Topic.BLOCKS, b"%d of " % number + each.peer + bytes(4_000))
            await until(lambda: all(len(each.heard) >= 90 for each in nodes), "everything arrived everywhere")
            for each in nodes:
                assert len({data for _, data in each.heard}) == len(each.heard) == 90
                assert not each.host.counters.rejects
                assert each.gossip.counters.messages[Topic.BLOCKS] == 90
                assert each.gossip.counters.fanout > 0

    run(main)


def test_transactions_are_pulled_in_batches_by_everybody() -> None:
    async def main() -> None:
        nodes = [node(name) for name in NAMES]
        async with running(*nodes):
            await meet(*all_pairs(nodes))
            ids = nodes[0].ledger.put(*(b"tx %d" % number + bytes(4_000) for number in range(600)))
            nodes[0].relay.announce(ids)
            await until(lambda: all(len(each.ledger.transactions) == 600 for each in nodes), "everybody has all")
            assert not any(sum(each.host.counters.rejects.values()) for each in nodes)
            assert all(each.relay.pulled == 600 for each in nodes[1:])
            assert sum(each.requests.asked for each in nodes) < 60
            assert all(each.relay.snapshot().wanted == 0 for each in nodes)

    run(main)


def test_transactions_travel_over_hosts_that_are_not_connected_to_their_origin() -> None:
    async def main() -> None:
        nodes = [node(name) for name in NAMES]
        async with running(*nodes):
            await meet(*pairwise(nodes))
            ids = nodes[0].ledger.put(b"one", b"two")
            nodes[0].relay.announce(ids)
            await until(lambda: all(len(each.ledger.transactions) == 2 for each in nodes), "hop by hop")
            assert {peer for peer, _ in nodes[3].ledger.came} == {nodes[2].peer}

    run(main)


def test_a_small_transaction_after_idle_rides_along_and_is_not_pulled() -> None:
    async def main() -> None:
        origin, other = node("a", riding_bytes=16 << 10), node("b")
        async with running(origin, other):
            await meet((origin, other))
            ids = origin.ledger.put(bytes(4_000), b"large" + bytes(20_000))
            origin.relay.announce(ids)
            await until(lambda: len(other.ledger.transactions) == 2, "both are there")
            assert (other.relay.rode, other.relay.pulled) == (1, 1)

    run(main)


def test_transactions_with_proofs_go_over_their_own_topic() -> None:
    async def main() -> None:
        origin, other = node("a", riding_bytes=16 << 10), node("b")
        async with running(origin, other):
            await meet((origin, other))
            origin.relay.announce(origin.ledger.put(b"a proof"), Topic.PROOFS)
            await until(lambda: len(other.ledger.transactions) == 1, "it came")
            assert other.gossip.counters.messages == {Topic.PROOFS: 1}
            assert other.relay.pulled == 1

    run(main)


@pytest.mark.parametrize(
    ("verdict", "heard_beyond"), [(Verdict.ACCEPT, True), (Verdict.IGNORE, False), (Verdict.REJECT, False)]
)
@pytest.mark.parametrize("late", [False, True])
def test_a_message_goes_on_only_when_it_is_accepted(verdict: Verdict, heard_beyond: bool, late: bool) -> None:
    async def main() -> None:
        one, middle, beyond = node("a"), node("b"), node("c")
        tokens: list[Token] = []

        def judge(_peer: PeerId, data: bytes, token: Token) -> Verdict | None:
            if data == b"after it":
                return Verdict.ACCEPT
            tokens.append(token)
            return None if late else verdict

        middle.gossip.on_message(Topic.BLOCKS, judge)
        async with running(one, middle, beyond):
            await meet((one, middle), (middle, beyond))
            one.gossip.publish(Topic.BLOCKS, b"this")
            await until(lambda: len(tokens) == 1, "the middle one heard it")
            if late:
                assert middle.gossip.snapshot().held == 1
                middle.gossip.verdict(tokens[0], verdict)
            one.gossip.publish(Topic.BLOCKS, b"after it")
            await until(lambda: (middle.peer, b"after it") in beyond.heard, "what came after it was sent on")
            assert ((middle.peer, b"this") in beyond.heard) is heard_beyond
            assert middle.gossip.snapshot().held == 0
            assert middle.rejects("gossip_rejected") == (verdict is Verdict.REJECT)

    run(main)


def test_a_message_is_not_sent_back_to_those_who_sent_it_while_it_waited() -> None:
    async def main() -> None:
        one, other, middle = node("a"), node("b"), node("c")
        tokens: list[Token] = []
        middle.gossip.on_message(Topic.BLOCKS, lambda _peer, _data, token: tokens.append(token))
        async with running(one, other, middle):
            await meet((one, middle), (other, middle))
            one.gossip.publish(Topic.BLOCKS, b"known to both")
            other.gossip.publish(Topic.BLOCKS, b"known to both")
            await until(lambda: middle.gossip.counters.duplicates == 1, "it came twice")
            middle.gossip.verdict(tokens[0], Verdict.ACCEPT)
            assert middle.gossip.counters.forwarded == 0

    run(main)


def test_a_peer_that_comes_late_is_told_what_was_announced_lately() -> None:
    async def main() -> None:
        origin, late = node("a"), node("b")
        async with running(origin, late):
            origin.relay.announce(origin.ledger.put(b"before", b"it came"))
            await until(lambda: origin.relay.snapshot().to_announce == 0, "announced to nobody")
            await meet((origin, late))
            await until(lambda: len(late.ledger.transactions) == 2, "it caught up")

    run(main)


async def gossips(one: Node, other: Node, words: bytes) -> None:
    one.gossip.publish(Topic.BLOCKS, words)
    await until(lambda: (one.peer, words) in other.heard, f"heard: {words!r}")


def test_gossip_goes_on_after_a_connection_or_a_stream_was_lost() -> None:
    async def main() -> None:
        one, other = node("a"), node("b")
        async with running(one, other):
            await meet((one, other))
            await gossips(one, other, b"at first")
            (before,) = one.gossip._pubsub.peers.values()
            await reset_quietly(other.gossip._pubsub._inbound[one.peer].stream)
            await until(
                lambda: before not in one.gossip._pubsub.peers.values() and bool(one.gossip._pubsub.peers),
                "the loss is noticed, and made good, before a message is lost",
            )
            await meet((one, other))
            await gossips(one, other, b"after a lost stream")
            await gossips(other, one, b"in the other direction")
            await one.host.disconnect(other.peer)
            await until(lambda: not other.host.connected(one.peer), "gone")
            assert one.gossip.snapshot().peers == 0
            await meet((one, other))
            await gossips(one, other, b"after a lost connection")
            await gossips(other, one, b"and back")

    run(main)


def test_a_callback_that_raises_ends_the_node_and_not_the_stream() -> None:
    async def main() -> None:
        one, other = node("a"), node("b")

        def broken(_peer: PeerId, _data: bytes, _token: Token) -> Verdict:
            raise LookupError("an invariant of ours")

        other.gossip.on_message(Topic.BLOCKS, broken)
        with pytest.RaisesGroup(LookupError, flatten_subgroups=True, allow_unwrapped=True):
            async with running(one, other):
                await meet((one, other))
                one.gossip.publish(Topic.BLOCKS, b"anything")
                await trio.sleep_forever()

    run(main)


def test_a_port_that_raises_ends_the_node() -> None:
    class Broken(Ledger):
        def received(self, *_: object) -> None:
            raise LookupError("an invariant of ours")

    async def main() -> None:
        one, other = node("a"), node("b")
        other.relay._port = Broken()
        with pytest.RaisesGroup(LookupError, flatten_subgroups=True, allow_unwrapped=True):
            async with running(one, other):
                await meet((one, other))
                one.relay.announce(one.ledger.put(b"anything"))
                await trio.sleep_forever()

    run(main)


def test_what_peers_would_refuse_is_not_published() -> None:
    async def main() -> None:
        one = node("a")
        async with running(one):
            with pytest.raises(ValueError, match="peers take"):
                one.gossip.publish(Topic.BLOBS, bytes(1 << 20))

    run(main)
