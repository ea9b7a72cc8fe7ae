"""Hosts that behave: connections, streams, who dials whom, and an end of everything."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from p2p.counters import MAX_DURATIONS, Counters
from p2p.dialing import PeerAddress
from p2p.handshake import LocalIdentity, Network, Reject
from p2p.host import DialError, Host, HostConfig, NotConnectedError
from p2p.limits import Limits
from p2p.ownfaults import OwnFaults
from p2p.streams import Stream, StreamEnd, StreamError
from tests.p2p.kit import POLICY, key, network, seed
from tests.p2p.net import ECHO, ask, by_order, config, hosts, run, served, until
from trellis.crypto.aead import Suite
from trellis.types import Hash, PeerId


def peer_of(name: str) -> PeerId:
    return LocalIdentity.of(key(name)).peer


@pytest.mark.parametrize("listen", ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/tcp/0/ws", "/ip6/::1/tcp/0"])
@pytest.mark.parametrize("suite", Suite)
def test_two_hosts_connect_and_exchange_bytes(listen: str, suite: Suite) -> None:
    async def main() -> None:
        net = network(suites=(suite,))
        async with hosts(config("a", network=net), config("b", network=net, listen=(listen,))) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            await ask(a, b.peer)
            await until(lambda: b.connected(a.peer), "b knows a")
            await ask(b, a.peer)
            for host in (a, b):
                (health,) = host.peers()
                assert health.streams >= 0
                assert health.address != "unknown:0"
                assert not host.counters.rejects

    run(main)


def test_identify_and_ping_work() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            await until(lambda: a.libp2p.agent_of(b.peer) == "test/b", "a identified b")
            await until(lambda: b.libp2p.agent_of(a.peer) == "test/a", "b identified a")
            introduction = a.libp2p.introduction_of(b.peer)
            assert introduction is not None
            assert {ECHO, "/ipfs/ping/1.0.0"} <= introduction.protocols
            async with await a.open_stream(b.peer, "/ipfs/ping/1.0.0") as ping:
                for number in range(3):
                    await ping.write(bytes([number]) * 32)
                    assert await ping.read_exactly(32) == bytes([number]) * 32
            await until(lambda: a.peers()[0].rtt_us > 0, "the connection's own pings are answered")

    run(main)


def test_a_large_transfer_arrives_whole() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            data = bytes(range(256)) * 20_000
            stream = await a.open_stream(b.peer, ECHO)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.write, data)
                assert await stream.read_exactly(len(data)) == data
            await stream.close()

    run(main)


def test_half_closing_ends_one_direction_only() -> None:
    async def count(stream: Stream) -> None:
        total = 0
        while data := await stream.read():
            total += len(data)
        await stream.write(total.to_bytes(4, "big"))

    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            b.serve("/trellis/test-count/1", count)
            await a.connect(b.peer, b.addresses[0])
            async with await a.open_stream(b.peer, "/trellis/test-count/1") as stream:
                await stream.write(bytes(100_000))
                await stream.close_write()
                assert int.from_bytes(await stream.read_exactly(4), "big") == 100_000
                assert await stream.read() == b""
                with pytest.raises(StreamError):
                    await stream.write(b"more")

    run(main)


def test_writers_of_one_stream_never_interleave() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            stream = await a.open_stream(b.peer, ECHO)
            size, writers = 150_000, 5
            async with trio.open_nursery() as nursery:
                for number in range(writers):
                    nursery.start_soon(stream.write, bytes([number]) * size)
                got = await stream.read_exactly(size * writers)
            assert sorted(got[at * size : (at + 1) * size] for at in range(writers)) == [
                bytes([number]) * size for number in range(writers)
            ]
            await stream.close()

    run(main)


def test_a_protocol_that_is_not_served_is_refused_and_nothing_else_suffers() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            with pytest.raises(StreamError):
                await a.open_stream(b.peer, "/trellis/nothing/1")
            await ask(a, b.peer)

    run(main)


def test_without_a_connection_no_stream_opens() -> None:
    async def main() -> None:
        async with hosts(config("a")) as (a,):
            with pytest.raises(NotConnectedError):
                await a.open_stream(peer_of("b"), ECHO)

    run(main)


def test_a_handler_that_raises_costs_its_stream_and_no_more() -> None:
    async def broken(stream: Stream) -> None:
        raise RuntimeError(await stream.read())

    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            b.serve("/trellis/test-broken/1", broken)
            await a.connect(b.peer, b.addresses[0])
            stream = await a.open_stream(b.peer, "/trellis/test-broken/1")
            await stream.write(b"boom")
            with pytest.raises(StreamError) as lost:
                await stream.read()
            assert lost.value.end is StreamEnd.RESET
            assert b.counters.rejects["stream_handler_failed"] == 1
            await ask(a, b.peer)

    run(main)


def test_a_stream_cut_by_a_lost_connection_does_not_look_complete() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            stream = await a.open_stream(b.peer, ECHO)
            await stream.write(b"x")
            assert await stream.read_exactly(1) == b"x"
            await until(lambda: b.connected(a.peer), "b knows a")
            await b.disconnect(a.peer)
            with pytest.raises(StreamError) as lost:
                await stream.read()
            assert lost.value.end is StreamEnd.RESET
            await until(lambda: not a.connected(b.peer), "a noticed")

    run(main)


# Who is refused, and how both sides count it.


@pytest.mark.parametrize(
    ("dialer", "listener", "told", "reason"),
    [
        ({"network": Network(Hash(seed("elsewhere")), POLICY)}, {}, False, "other_network"),
        ({"network": network(seed("psk"))}, {}, False, "other_network"),
        (
            {"network": network(suites=(Suite.AES_256_GCM,))},
            {"network": network(suites=(Suite.CHACHA20_POLY1305,))},
            False,
            "no_common_suite",
        ),
        ({}, {"admit": lambda _peer: Reject.NOT_A_MEMBER}, True, "not_a_member"),
        ({}, {"admit": lambda _peer: Reject.BANNED}, True, "banned"),
    ],
)
def test_a_peer_that_may_not_enter_is_refused_with_the_reason(
    dialer: dict[str, object], listener: dict[str, object], told: bool, reason: str
) -> None:
    async def main() -> None:
        async with hosts(config("a", **dialer), config("b", **listener)) as (a, b):
            with pytest.raises(DialError) as refused:
                await a.connect(b.peer, b.addresses[0])
            assert refused.value.told is told
            await until(lambda: b.counters.rejects[reason] == 1, "the listener counted it")
            if told:
                assert a.counters.told[reason] == 1
            assert not a.peers()
            assert not b.peers()

    run(main)


def test_a_listener_that_is_somebody_else_is_refused() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            with pytest.raises(DialError):
                await a.connect(peer_of("c"), b.addresses[0])
            assert b.counters.rejects["bad_mac1"] == 1
            await ask_after_connect(a, b)

    run(main)


async def ask_after_connect(a: Host, b: Host) -> None:
    await a.connect(b.peer, b.addresses[0])
    await ask(a, b.peer)


def test_a_failed_dial_does_not_forbid_the_next_one() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            with pytest.raises(DialError):
                await a.connect(b.peer, "/ip4/127.0.0.1/tcp/1")
            await ask_after_connect(a, b)

    run(main)


def test_places_are_kept_for_validators() -> None:
    limits = Limits(connections=2, connections_reserved=1, stream_linger_s=1, negotiation_timeout_s=2)

    async def main() -> None:
        full = config("b", limits=limits, validators=frozenset({peer_of("validator")}))
        async with hosts(full, config("a"), config("c"), config("validator")) as (b, a, c, validator):
            await ask_after_connect(a, b)
            with pytest.raises(DialError) as refused:
                await c.connect(b.peer, b.addresses[0])
            assert refused.value.reason is Reject.TOO_MANY_CONNECTIONS
            await ask_after_connect(validator, b)
            assert {each.validator for each in b.peers()} == {True, False}

    run(main)


def test_a_banned_peer_is_disconnected_and_stays_out_until_unbanned() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await ask_after_connect(a, b)
            await b.ban(a.peer)
            await until(lambda: not a.connected(b.peer), "a was thrown out")
            with pytest.raises(DialError) as refused:
                await a.connect(b.peer, b.addresses[0])
            assert refused.value.reason is Reject.BANNED
            b.unban(a.peer)
            await ask_after_connect(a, b)

    run(main)


# Who dials whom.


def test_of_two_connections_the_one_dialled_by_the_smaller_peer_id_stays() -> None:
    async def main() -> None:
        small, large = by_order("a", "b")
        async with hosts(config(small), config(large)) as (one, other):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(one._dial, other.peer, other.addresses[0])
                nursery.start_soon(other._dial, one.peer, one.addresses[0])
            await until(lambda: len(one.peers()) == len(other.peers()) == 1, "one connection is left")
            assert one.peers()[0].dialled
            assert not other.peers()[0].dialled
            await ask(one, other.peer)
            await ask(other, one.peer)

    run(main)


@pytest.mark.parametrize("knows", ["small", "large", "both"])
def test_configured_peers_connect_whoever_knows_the_address(knows: str) -> None:
    async def main() -> None:
        small, large = by_order("a", "b")
        ports = {small: 40_123, large: 40_124}

        def made(name: str, other: str, informed: bool) -> HostConfig:
            address = PeerAddress(peer_of(other), (f"/ip4/127.0.0.1/tcp/{ports[other]}",))
            return config(name, listen=(f"/ip4/127.0.0.1/tcp/{ports[name]}",), peers=(address,) if informed else ())

        async with hosts(made(small, large, knows != "large"), made(large, small, knows != "small")) as (one, other):
            await until(lambda: one.connected(other.peer) and other.connected(one.peer), "they found each other")
            await ask(one, other.peer)
            assert one.peers()[0].dialled is (knows != "large")

    run(main)


def test_a_configured_peer_that_comes_back_is_connected_again_within_three_seconds() -> None:
    async def main() -> None:
        first, second = by_order("a", "b")
        kept = PeerAddress(peer_of(second), ("/ip4/127.0.0.1/tcp/40125",))
        listening = config(second, listen=("/ip4/127.0.0.1/tcp/40125",))
        async with hosts(config(first, peers=(kept,))) as (host,):
            for _ in range(2):
                async with hosts(listening) as (other,):
                    started = trio.current_time()
                    await until(lambda: host.connected(other.peer), "connected")
                    assert trio.current_time() - started < 3
                    await ask(host, other.peer)
                await until(lambda: not host.connected(other.peer), "disconnected")

    run(main)


def test_an_old_connection_ends_so_that_a_new_one_has_fresh_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("p2p.host.HOUSEKEEPING_S", 0.05)

    async def main() -> None:
        small, large = by_order("a", "b")
        async with hosts(config(large)) as (other,):
            kept = PeerAddress(other.peer, (other.addresses[0],))
            async with hosts(config(small, peers=(kept,), session_lifetime_s=0)) as (host,):
                await until(lambda: host.counters.rejects["expired"] >= 1, "it expired")
                await until(lambda: host.counters.handshakes >= 2, "and was made anew")

    run(main)


# The end.


def test_a_host_that_cannot_listen_says_so() -> None:
    async def main() -> None:
        async with hosts(config("a", listen=("/ip4/127.0.0.1/tcp/40126",))):
            broken = Host(config("b", listen=("/ip4/192.0.2.1/tcp/40126",)))
            with pytest.raises(OSError, match="cannot listen"):
                async with broken.run():
                    raise AssertionError("it must not run")

    run(main)


def test_connections_and_streams_leave_nothing_behind() -> None:
    async def main() -> None:
        async with hosts(config("b")) as (b,):
            await served(b)
            await until(lambda: not b.peers(), "gone")
            tasks = task_count()
            for _ in range(10):
                await served(b)
            await until(lambda: not b.peers(), "gone")
            await until(lambda: task_count() <= tasks, "no task is left")
            assert b._swarm.doorkeeper.half_open == 0

    run(main)


def test_many_short_streams_leave_nothing_behind() -> None:
    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            await ask_after_connect(a, b)
            await until(lambda: a.peers()[0].streams == b.peers()[0].streams == 0, "quiet")
            tasks = task_count()
            for _ in range(300):
                await ask(a, b.peer)
            await until(lambda: a.peers()[0].streams == b.peers()[0].streams == 0, "every stream is forgotten")
            await until(lambda: task_count() <= tasks, "no task is left")

    run(main)


def task_count() -> int:
    return int(trio.lowlevel.current_statistics().tasks_living)


def test_a_host_that_ends_leaves_no_connection_open() -> None:
    async def main() -> None:
        async with hosts(config("a", listen=()), config("b", listen=()), config("c", listen=())) as visitors:
            async with hosts(config("host")) as (host,):
                for visitor in visitors:
                    await visitor.connect(host.peer, host.addresses[0])
                await until(lambda: len(host.peers()) == 3, "all are in")
                sessions = [each.muxed.session for some in host._connections.values() for each in some]
            assert all(session._closed for session in sessions)
            await until(lambda: not any(visitor.peers() for visitor in visitors), "all noticed")
            for visitor in visitors:
                assert not visitor.counters.rejects, "they were told, not cut off"

    run(main)


@pytest.mark.parametrize(
    "broken", [{"listen": ("localhost:4001",)}, {"peers": (PeerAddress(peer_of("b"), ("nonsense",)),)}]
)
def test_an_address_that_is_none_is_refused_at_once(broken: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="multiaddress"):
        Host(config("a", **broken))


def test_a_connection_that_takes_over_is_told_as_an_end_and_a_beginning() -> None:
    async def main() -> None:
        first, second = by_order("a", "b")
        async with hosts(config(first), config(second)) as (a, b):
            told: list[str] = []
            b.on_connect(lambda _peer: told.append("up"))
            b.on_disconnect(lambda _peer: told.append("down"))
            await a.connect(b.peer, b.addresses[0])
            await until(lambda: told == ["up"], "b knows a")
            # The same peer dials again before the first connection's end is known, as one that was started again does.
            await a._dial(b.peer, b.addresses[0])
            await until(lambda: told == ["up", "down", "up"], "the newer connection is in use")
            await ask(b, a.peer)
            await until(lambda: len(b.peers()) == 1, "one is left")
            await a.disconnect(b.peer)
            await until(lambda: told == ["up", "down", "up", "down"], "a is gone")
            assert not b.connected(a.peer)

    run(main)


def test_disconnecting_an_idle_peer_waits_for_no_clock() -> None:
    stands_still = trio.testing.MockClock(rate=0, autojump_threshold=3)

    async def main() -> None:
        async with hosts(config("a", jitter=lambda: 0.0), config("b")) as (a, b):
            await a.connect(b.peer, b.addresses[0])
            before_s = trio.current_time()
            await a.disconnect(b.peer)
            assert trio.current_time() == before_s
            assert not a.connected(b.peer)

    trio.run(main, clock=stands_still)


@pytest.mark.parametrize("kind", ["", "/ws"])
def test_a_port_that_is_taken_is_an_error(kind: str) -> None:
    async def main() -> None:
        async with hosts(config("a", listen=(f"/ip4/127.0.0.1/tcp/0{kind}",))) as (a,):
            port = a.addresses[0].split("/")[4]
            with pytest.raises(OSError, match="cannot listen"):
                async with hosts(config("b", listen=(f"/ip4/127.0.0.1/tcp/{port}{kind}",))):
                    pytest.fail("two hosts share a port")
            await served(a)

    run(main)


@pytest.mark.parametrize("fault", [RuntimeError, KeyError, ValueError])
def test_a_fault_of_our_own_handler_is_logged_once_and_without_its_text(
    fault: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    async def broken(_stream: Stream) -> None:
        raise fault("what the peer sent")

    async def main() -> None:
        async with hosts(config("a"), config("b")) as (a, b):
            b.serve("/trellis/test-broken/1", broken)
            await a.connect(b.peer, b.addresses[0])
            for _ in range(3):
                stream = await a.open_stream(b.peer, "/trellis/test-broken/1")
                with pytest.raises(StreamError):
                    await stream.read()
            assert b.counters.rejects["stream_handler_failed"] == 3
            assert list(b.own_faults.seen.values()) == [3]

    with caplog.at_level("WARNING"):
        run(main)
    lines = [record.getMessage() for record in caplog.records if record.name == "p2p.ownfaults"]
    assert len(lines) == 1
    assert fault.__name__ in lines[0]
    assert "test_host.py" in lines[0]
    assert "what the peer sent" not in lines[0]


def test_a_fault_that_goes_on_is_told_again_after_ten_minutes(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 0.0
    faults = OwnFaults(lambda: now_s)
    for at_s in range(0, 1_200, 10):
        now_s = float(at_s)
        faults.note("/trellis/test/1", KeyError())
    assert len([each for each in caplog.records if each.name == "p2p.ownfaults"]) == 2
    assert "(61 so far)" in caplog.text


def test_the_time_of_each_handshake_is_kept_within_bounds() -> None:
    counters = Counters()
    for number in range(2 * MAX_DURATIONS):
        counters.handshake(number)
    assert counters.handshakes == 2 * MAX_DURATIONS
    assert list(counters.handshake_durations_us) == list(range(MAX_DURATIONS, 2 * MAX_DURATIONS))
