"""A peer that attacks a running host over a real socket: it is refused with its reason, and an honest one is served."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, replace

import pytest
import trio
from libp2p.pubsub.gossipsub import GossipSub
from libp2p.pubsub.pubsub import Pubsub
from libp2p.stream_muxer.yamux import yamux
from libp2p.tools.anyio_service import background_trio_service

from p2p.handshake import LocalIdentity, Network, Reject, Rejected
from p2p.handshake.messages import M1_TYPE, frame
from p2p.host import DialError, Host, HostConfig
from p2p.limits import Limits
from p2p.muxguard import DATA, FIN, PING, RST, SYN, WINDOW_UPDATE
from tests.p2p.kit import POLICY, MovedClock, Tamper, key, seed
from tests.p2p.net import ECHO, LOOPBACK, QUICK, STUCK, WEBSOCKET, RawPeer, config, hosts, port_of, run, served, until
from tests.p2p.test_handshake import Impostor, flip
from trellis.types import Hash

IDENTIFY = "/ipfs/id/1.0.0"
PUSH = "/ipfs/id/push/1.0.0"
PING_PROTOCOL = "/ipfs/ping/1.0.0"
MESHSUB = "/meshsub/1.1.0"


@dataclass(frozen=True)
class Attack:
    """`mount` attacks; the host then counts `reason`, and hangs up if `ends`."""

    name: str
    mount: Callable[[Host], Awaitable[RawPeer]]
    reason: str
    ends: bool = True


def before_security(data: bytes) -> Callable[[Host], Awaitable[RawPeer]]:
    async def mount(host: Host) -> RawPeer:
        peer = await RawPeer.connect(host)
        await peer.stream.send_all(data)
        return peer

    return mount


def handshake(
    tamper: Tamper, name: str = "attacker", net: Network | None = None
) -> Callable[[Host], Awaitable[RawPeer]]:
    async def mount(host: Host) -> RawPeer:
        peer = await RawPeer.connect(host, name, net)
        await peer.agree("/trellis/pq/1")
        await peer.shake(tamper)
        return peer

    return mount


def message(number: int, change: Callable[[bytes], bytes]) -> Tamper:
    return lambda at, data: change(data) if at == number else data


def inside(act: Callable[[RawPeer], Awaitable[None]]) -> Callable[[Host], Awaitable[RawPeer]]:
    """By a member that was let in."""

    async def mount(host: Host) -> RawPeer:
        peer = await RawPeer.connect(host)
        await peer.enter()
        with suppress(trio.BrokenResourceError):  # hung up on in the middle, as it should be
            await act(peer)
        return peer

    return mount


async def impostor(host: Host) -> RawPeer:
    peer = await RawPeer.connect(host)
    victim = key("victim")
    peer.setup = replace(
        peer.setup, local=LocalIdentity.of(Impostor(victim.alg_id, victim.public_key, key("attacker").sign))
    )
    await peer.agree("/trellis/pq/1")
    await peer.shake()
    return peer


async def twin(host: Host) -> RawPeer:
    """Dials with the host's own key."""
    peer = await RawPeer.connect(host)
    peer.setup = replace(peer.setup, local=LocalIdentity(key("host"), key_peer("somebody")))
    await peer.agree("/trellis/pq/1")
    await peer.shake()
    return peer


def key_peer(name: str) -> bytes:
    return LocalIdentity.of(key(name)).peer


async def replay(host: Host) -> RawPeer:
    """Says again, on a second connection, what it said on the first."""
    recorded: list[bytes] = []

    def keep(_number: int, data: bytes) -> bytes:
        recorded.append(data)
        return data

    first = await RawPeer.connect(host)
    await first.agree("/trellis/pq/1")
    await first.shake(keep)
    again = await RawPeer.connect(host)
    await again.agree("/trellis/pq/1")
    await again.stream.send_all(recorded[0])
    await again.raw(int.from_bytes((await again.raw(4))[1:], "big"))
    await again.stream.send_all(recorded[1])
    return again


async def hang_up(host: Host) -> RawPeer:
    peer = await RawPeer.connect(host)
    await peer.agree("/trellis/pq/1")
    await peer.stream.send_all(frame(M1_TYPE, bytes(1_279))[:700])
    await peer.stream.send_eof()
    return peer


async def overrun(peer: RawPeer) -> None:
    await peer.open(1, STUCK)
    body = bytes(60_000)
    for _ in range(2 * yamux.MAX_WINDOW_SIZE // len(body)):
        with suppress(trio.BrokenResourceError):
            await peer.say(1, body)


async def too_many_streams(peer: RawPeer) -> None:
    for number in range(QUICK.streams_per_connection + 1):
        await peer.frame(WINDOW_UPDATE, SYN, 2 * number + 1, 0)


async def control_flood(peer: RawPeer) -> None:
    for _ in range(5_000):
        await peer.frame(WINDOW_UPDATE, 0, 1, 0)


async def changed_record(peer: RawPeer) -> None:
    if peer._sealer is None:
        raise ValueError("not inside")
    await peer.stream.send_all(flip(peer._sealer.seal(b"x" * 100, 0), 50))


async def cut(peer: RawPeer) -> None:
    await peer.stream.send_eof()


def frames(*which: tuple[int, int, int, int]) -> Callable[[RawPeer], Awaitable[None]]:
    async def act(peer: RawPeer) -> None:
        for kind, flags, stream_id, length in which:
            await peer.frame(kind, flags, stream_id, length)

    return act


def raw_wire(data: bytes) -> Callable[[RawPeer], Awaitable[None]]:
    async def act(peer: RawPeer) -> None:
        await peer.stream.send_all(data)

    return act


def stream_says(protocol: str, data: bytes, flags: int = 0) -> Callable[[RawPeer], Awaitable[None]]:
    """A stream of `protocol` that carries `data`; with FIN or RST it ends after it."""

    async def act(peer: RawPeer) -> None:
        await peer.open(1, protocol)
        await peer.say(1, data)
        if flags:
            await peer.frame(WINDOW_UPDATE, flags, 1, 0)

    return act


def unnegotiated(data: bytes) -> Callable[[RawPeer], Awaitable[None]]:
    async def act(peer: RawPeer) -> None:
        await peer.frame(WINDOW_UPDATE, SYN, 1, 0)
        await peer.say(1, data)

    return act


async def same_protocol_too_often(peer: RawPeer) -> None:
    for number in range(QUICK.streams_per_protocol + 1):
        await peer.open(2 * number + 1, ECHO)


GREETING = b"\x13/multistream/1.0.0\n"
FOREIGN = Network(Hash(seed("elsewhere")), POLICY)
NONSENSE = seed("nonsense") * 8

ATTACKS = (
    # Before anything is secured.
    Attack("no multistream", before_security(b"\x05abcd\n"), "not_negotiated"),
    Attack("a length of 2^63", before_security(b"\xff\xff\xff\xff\xff\xff\xff\xff\x7f"), "not_negotiated"),
    Attack("bytes that are no UTF-8", before_security(b"\x05\xff\xfe\xfd\xfc\n"), "not_negotiated"),
    Attack("no newline", before_security(b"\x05abcde"), "not_negotiated"),
    Attack("an empty message", before_security(b"\0"), "not_negotiated"),
    Attack("HTTP", before_security(b"GET / HTTP/1.1\r\n" * 5), "not_negotiated"),
    Attack("classical security only", before_security(GREETING + b"\x07/noise\n" * 20), "not_negotiated"),
    Attack("plaintext", before_security(GREETING + b"\x11/plaintext/2.0.0\n" * 20), "not_negotiated"),
    # In the handshake.
    Attack("another network's node", handshake(message(0, bytes), net=FOREIGN), "other_network"),
    Attack("a scanner", handshake(message(1, lambda data: flip(data, -1))), "bad_mac1"),
    Attack("a changed M1", handshake(message(1, lambda data: flip(data, 60))), "bad_mac1"),
    Attack(
        "an M1 from the future", handshake(message(1, lambda data: data[:5] + b"\x09" + data[6:])), "unknown_version"
    ),
    Attack("an M1 over the cap", handshake(message(1, lambda _data: b"\x01\xff\xff\xff")), "frame_too_large"),
    Attack("an M1 of nothing", handshake(message(1, lambda _data: b"\x01\0\0\0")), "malformed"),
    Attack("M3 first", handshake(message(1, lambda data: b"\x03" + data[1:])), "unexpected_frame"),
    Attack("a changed M3", handshake(message(3, lambda data: flip(data, 99))), "bad_seal"),
    Attack("an M3 over the cap", handshake(message(3, lambda _data: b"\x03\x00\x80\x01")), "frame_too_large"),
    Attack("M1 again instead of M3", handshake(message(3, lambda data: b"\x01" + data[1:])), "unexpected_frame"),
    Attack("a replayed handshake", replay, "bad_seal"),
    Attack("another's key", impostor, "bad_signature"),
    Attack("the host's own key", twin, "self"),
    Attack("not a member", handshake(message(0, bytes), name="outsider"), "not_a_member"),
    Attack("hanging up in M1", hang_up, "closed"),
    # A member that breaks the records or yamux.
    Attack("a changed record", inside(changed_record), "record_bad_seal"),
    Attack("a record of 16 MiB", inside(raw_wire(b"\xff\xff\xff")), "record_too_large"),
    Attack("a record of nothing", inside(raw_wire(bytes(3))), "record_too_small"),
    Attack("cut without a close", inside(cut), "record_truncated"),
    Attack("more than the window", inside(overrun), "mux_window_overrun"),
    Attack("too many streams", inside(too_many_streams), "mux_too_many_streams"),
    Attack("a flood of empty frames", inside(control_flood), "mux_control_flood"),
    Attack("a frame of 4 GiB", inside(frames((DATA, SYN, 1, 0xFFFFFFFF))), "mux_frame_too_large"),
    Attack("a frame type that does not exist", inside(frames((9, 0, 1, 0))), "mux_bad_frame"),
    Attack("a stream in our own numbers", inside(frames((WINDOW_UPDATE, SYN, 2, 0))), "mux_bad_stream_id"),
    Attack(
        "one stream twice", inside(frames((WINDOW_UPDATE, SYN, 1, 0), (WINDOW_UPDATE, SYN, 1, 0))), "mux_bad_stream_id"
    ),
    # A member that breaks a stream: the connection lives on.
    Attack(
        "no protocol on a stream", inside(unnegotiated(b"\x05\xff\xff\xff\xff\n")), "stream_no_protocol", ends=False
    ),
    Attack("an endless protocol name", inside(unnegotiated(b"\xff" * 500)), "stream_no_protocol", ends=False),
    Attack("a stream that says nothing", inside(unnegotiated(b"")), "stream_negotiation_timeout", ends=False),
    Attack("too many streams of one protocol", inside(same_protocol_too_often), "stream_too_many", ends=False),
    Attack(
        "a push of nonsense", inside(stream_says(PUSH, b"\x40" + NONSENSE[:64])), "stream_handler_failed", ends=False
    ),
    Attack(
        "a push of a gigabyte", inside(stream_says(PUSH, b"\xff\xff\xff\xff\x7f")), "stream_handler_failed", ends=False
    ),
    Attack(
        "a protobuf that is none",
        inside(stream_says(PUSH, b"\x05\xff\xff\xff\xff\xff")),
        "stream_handler_failed",
        ends=False,
    ),
)


def member_only(peer: bytes) -> Reject | None:
    return Reject.NOT_A_MEMBER if peer == key_peer("outsider") else None


def victim_host(**changes: object) -> HostConfig:
    return config("host", admit=member_only, **changes)


@pytest.mark.parametrize(
    ("attack", "listen"),
    [pytest.param(each, LOOPBACK, id=each.name) for each in ATTACKS]
    # What happens inside yamux passes no other code over WebSocket.
    + [
        pytest.param(each, WEBSOCKET, id=f"{each.name}, over WebSocket")
        for each in ATTACKS
        if not each.reason.startswith(("mux_", "stream_"))
    ],
)
def test_an_attack_is_refused_with_its_reason_and_an_honest_peer_is_served(
    attack: Attack, listen: tuple[str, ...]
) -> None:
    async def main() -> None:
        async with hosts(victim_host(listen=listen)) as (host,):
            peer = await attack.mount(host)
            async with trio.open_nursery() as nursery:
                # Whoever stays connected must pass for alive, however long the host takes for its verdict.
                nursery.start_soon(peer.drained if attack.ends else peer.answer_pings)
                await until(lambda: host.counters.rejects[attack.reason] >= 1, f"{attack.reason} is counted")
                if not attack.ends:
                    assert host.connected(peer.setup.local.peer)
                    nursery.cancel_scope.cancel()
            if attack.ends:
                await until(lambda: not host.connected(peer.setup.local.peer), "the attacker is out")
            await served(host)
            await peer.stream.aclose()
            assert set(host.counters.rejects) <= {attack.reason, "record_truncated", "silent"}

    run(main)


QUIET = (
    ("identify is asked and nobody listens", stream_says(IDENTIFY, b"", RST)),
    ("a stream is reset at once", frames((WINDOW_UPDATE, SYN | RST, 1, 0))),
    ("a stream is ended at once", frames((WINDOW_UPDATE, SYN | FIN, 1, 0))),
    ("data for a stream that is not there", frames((DATA, 0, 77, 0))),
    ("a window update for a stream that is not there", frames((WINDOW_UPDATE, 0, 77, 0xFFFFFFFF))),
    ("half a ping", stream_says(PING_PROTOCOL, b"half", FIN)),
    ("an echo is cut half-way", stream_says(ECHO, b"half of", RST)),
    ("pings in great number", frames(*[(PING, SYN, 0, number) for number in range(500)])),
)


@pytest.mark.parametrize(("name", "act"), QUIET, ids=[name for name, _ in QUIET])
def test_what_is_odd_but_allowed_disturbs_nobody(name: str, act: Callable[[RawPeer], Awaitable[None]]) -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            peer = await inside(act)(host)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.drained)
                await served(host)
                nursery.cancel_scope.cancel()
            await peer.stream.aclose()

    run(main)


@pytest.mark.parametrize("listen", [LOOPBACK, WEBSOCKET], ids=["tcp", "ws"])
def test_a_slow_handshake_is_ended(monkeypatch: pytest.MonkeyPatch, listen: tuple[str, ...]) -> None:
    async def main() -> None:
        async with hosts(victim_host(listen=listen)) as (host,):
            with monkeypatch.context() as impatient:
                impatient.setattr("p2p.transport.HANDSHAKE_TIMEOUT_MS", 300)
                peer = await RawPeer.connect(host)
                await peer.agree("/trellis/pq/1")
                await peer.stream.send_all(b"\x01\x00")
                assert await peer.gone()
            assert host.counters.rejects["timeout"] == 1
            await served(host)

    run(main)


def test_a_silent_stranger_is_ended() -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            peer = await RawPeer.connect(host)
            assert await peer.gone()
            assert host.counters.rejects["timeout"] == 1
            await served(host)

    run(main)


def test_a_flood_of_silent_strangers_leaves_the_reserved_slots_to_validators() -> None:
    limits = Limits(half_open=6, half_open_reserved=2, negotiation_timeout_s=5, stream_linger_s=1)

    async def main() -> None:
        async with hosts(victim_host(limits=limits)) as (host,):
            strangers = [await RawPeer.connect(host) for _ in range(8)]
            await until(lambda: host.counters.rejects["half_open_full"] == 4, "the last four found no slot")
            host._swarm.doorkeeper.reserve_for(frozenset({"127.0.0.1"}))
            await served(host)
            for stranger in strangers:
                await stranger.stream.aclose()
            await until(lambda: host._swarm.doorkeeper.half_open == 0, "every slot is given back")

    run(main)


@pytest.mark.parametrize("listen", [LOOPBACK, WEBSOCKET], ids=["tcp", "ws"])
def test_one_address_cannot_knock_without_end(listen: tuple[str, ...]) -> None:
    limits = replace(QUICK, knocks_per_address=5, knocks_per_address_per_s=4)
    time = MovedClock()

    async def main() -> None:
        async with hosts(victim_host(limits=limits, clock=time.clock(), listen=listen)) as (host,):
            for _ in range(9):
                knock = await trio.open_tcp_stream("127.0.0.1", port_of(host.addresses[0]))
                await knock.aclose()
            await until(lambda: host.counters.rejects["rate_limited"] == 4, "the burst is over")
            await until(lambda: host._swarm.doorkeeper.half_open == 0, "quiet")
            with pytest.raises(DialError):
                await served(host)
            time.steady_ms += 250
            await served(host)

    run(main)


def test_a_peer_that_reads_nothing_blocks_its_own_stream_alone() -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            peer = await RawPeer.connect(host)
            await peer.enter()
            await peer.open(1, ECHO)
            for _ in range(4):
                await peer.say(1, bytes(60_000))
            await served(host)
            await peer.stream.aclose()
            await until(lambda: not host.connected(peer.setup.local.peer), "the attacker is out")

    run(main)


def test_a_frozen_peer_is_noticed_by_its_silence() -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            peer = await RawPeer.connect(host)
            await peer.enter()
            await until(lambda: host.connected(peer.setup.local.peer), "it is in")
            await until(lambda: not host.connected(peer.setup.local.peer), "its silence is noticed")
            assert host.counters.rejects["silent"] == 1
            await served(host)
            await peer.stream.aclose()

    run(main)


def test_a_stream_that_its_peer_never_closes_is_reset() -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            peer = await RawPeer.connect(host)
            await peer.enter()
            await peer.open(1, IDENTIFY)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.answer_pings)
                await until(lambda: host.counters.rejects["stream_never_closed"] == 1, "it was reset")
                assert host.connected(peer.setup.local.peer)
                nursery.cancel_scope.cancel()
            await served(host)
            await peer.stream.aclose()

    run(main)


@pytest.mark.parametrize("nonsense", [NONSENSE, b"\xff\xff\xff\xff\x0f", b"\x02\xff\xff", b"\x05\x0a\xff\xff\xff\x7f"])
def test_malformed_gossip_ends_its_stream_alone(nonsense: bytes) -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            router = GossipSub(protocols=[MESHSUB], degree=4, degree_low=2, degree_high=6)
            pubsub = Pubsub(host.libp2p, router, strict_signing=False)
            async with background_trio_service(router), background_trio_service(pubsub):
                await pubsub.wait_until_ready()
                peer = await RawPeer.connect(host)
                await peer.enter()
                await peer.open(1, MESHSUB)
                await peer.say(1, nonsense)
                await peer.frame(WINDOW_UPDATE, FIN, 1, 0)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(peer.drained)
                    await served(host)
                    nursery.cancel_scope.cancel()
                await peer.stream.aclose()
                await served(host)

    run(main)


async def fill_and_reset(peer: RawPeer, stream_id: int) -> None:
    """All that the window takes, and a reset."""
    await peer.open(stream_id, STUCK)
    for _ in range(4):
        await peer.say(stream_id, bytes(65_000))
    await peer.frame(WINDOW_UPDATE, RST, stream_id, 0)


def test_streams_that_are_filled_and_reset_hold_no_memory() -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            peer = await RawPeer.connect(host)
            await peer.enter()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer.answer_pings)
                await until(lambda: host.connected(peer.setup.local.peer), "it is in")
                muxed = host._connections[peer.setup.local.peer][0].muxed
                for number in range(100):
                    await fill_and_reset(peer, 2 * number + 1)
                # 26 MB were sent. The host asks to be introduced, which nobody answers: that stream is its own.
                await until(lambda: len(muxed.streams) <= 1, "every stream is over")
                assert sum(map(len, muxed.stream_buffers.values())) < 1_000
                assert len(muxed.stream_events) <= 1
                assert host.connected(peer.setup.local.peer)
                nursery.cancel_scope.cancel()
            await peer.stream.aclose()

    run(main)


def test_a_stranger_that_says_no_http_holds_a_place_at_the_door_and_loses_it() -> None:
    limits = replace(QUICK, half_open=6, half_open_reserved=2, negotiation_timeout_s=1)

    async def main() -> None:
        async with hosts(victim_host(listen=WEBSOCKET, limits=limits)) as (host,):
            strangers = [await trio.open_tcp_stream("127.0.0.1", port_of(host.addresses[0])) for _ in range(8)]
            await until(lambda: host.counters.rejects["half_open_full"] == 4, "the last four found no place")
            await until(lambda: host.counters.rejects["not_negotiated"] == 4, "the others waited for nothing")
            assert host._swarm.doorkeeper.half_open == 0
            for stranger in strangers:
                await stranger.aclose()
            await served(host)

    run(main)


def test_a_told_dialer_learns_why() -> None:
    async def main() -> None:
        async with hosts(victim_host()) as (host,):
            peer = await RawPeer.connect(host, "outsider")
            await peer.agree("/trellis/pq/1")
            outcome = await peer.shake()
            assert isinstance(outcome, Rejected)
            assert outcome.by_peer
            assert outcome.reason is Reject.NOT_A_MEMBER
            assert outcome.retry_after_ms > 0

    run(main)


def test_a_flood_of_honest_handshakes_is_served_in_turn() -> None:
    async def main() -> None:
        async with hosts(victim_host(), config("flooder", listen=())) as (host, flooder):
            async with trio.open_nursery() as nursery:
                for number in range(12):
                    other = Host(config(f"flood-{number}", listen=()))
                    nursery.start_soon(one_visit, other, host)
            await flooder.connect(host.peer, host.addresses[0])
            assert host.counters.handshakes == 13

    run(main)


async def one_visit(visitor: Host, host: Host) -> None:
    async with visitor.run():
        await visitor.connect(host.peer, host.addresses[0])
