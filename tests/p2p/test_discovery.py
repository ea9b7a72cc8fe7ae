"""Discovery without sockets: addresses, records, the table, the lookup among liars, and the exchange of records."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from p2p.discovery.addresses import (
    Reach,
    is_routable,
    network_of,
    network_of_endpoint,
    parse_endpoint,
    parse_peer_address,
    peer_address_text,
)
from p2p.discovery.exchange import (
    MAX_RECORDS,
    QUESTIONS,
    Exchange,
    GetPeers,
    decode_get_peers,
    decode_peers,
    encode_peers,
)
from p2p.discovery.lookup import MAX_QUESTIONS, PATHS, WIDTH, Lookup
from p2p.discovery.records import Contact, RecordJudge, RecordRefusal, sign_record
from p2p.discovery.table import BUCKET, FAILURES, PER_NETWORK, Key, Table, distance, key_of
from p2p.handshake import LocalIdentity
from p2p.requests import RequestError, RequestFault
from tests.p2p.discovery_net import Liar, SimulatedNetwork, contact_of
from tests.p2p.golden import cold_certificate, local_identity
from tests.p2p.kit import GENESIS, POLICY, WALL_S, key
from trellis.constants import Context
from trellis.crypto.cold import MAX_LIFETIME_S, decode_cold_certificate
from trellis.encoding import DecodeError
from trellis.records import AddressRecord, SignedAddressRecord
from trellis.types import PeerId
from trellis.wire import Flags, Frame, MessageId

ADDRESS = "/ip4/45.1.2.3/tcp/4001"


def judge(reach: Reach = Reach.GLOBAL) -> RecordJudge:
    return RecordJudge(GENESIS, reach, lambda: WALL_S)


def identity(name: str) -> LocalIdentity:
    return LocalIdentity.of(key(name))


# Addresses.


@pytest.mark.parametrize(
    "text",
    [
        "/ip4/192.0.2.1/tcp/4001",
        "/ip6/2001:db8::1/tcp/65535",
        "/dns4/node.example/tcp/4002/ws",
        "/dns/a-b.example/tcp/1",
    ],
)
def test_the_usual_multiaddresses_are_read(text: str) -> None:
    endpoint = parse_endpoint(text)
    assert endpoint.host in text
    assert endpoint.websocket is text.endswith("/ws")
    assert endpoint.named is text.startswith("/dns")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "192.0.2.1:4001",
        "/ip4/192.0.2.1/udp/4001",
        "/ip4/192.0.2.1/tcp/0",
        "/ip4/192.0.2.1/tcp/65536",
        "/ip4/192.0.2.1/tcp/04001",
        "/ip4/192.0.2.1/tcp/٤",
        "/ip4/192.0.2.1/tcp/4001/tls",
        "/ip4/192.0.2.1/tcp/4001/ws/",
        "/ip4/192.0.2.01/tcp/4001",
        "/ip4/::1/tcp/4001",
        "/ip6/2001:DB8::1/tcp/4001",
        "/dns4//tcp/4001",
        "/dns4/a..b/tcp/4001",
        "/dns4/evil\n.example/tcp/4001",
        "/unix/tmp/tcp/4001",
        "x/ip4/192.0.2.1/tcp/4001",
        "/ip4/192.0.2.1/tcp/" + "1" * 300,
    ],
)
def test_anything_else_is_no_address(text: str) -> None:
    with pytest.raises(DecodeError):
        parse_endpoint(text)


@pytest.mark.parametrize(
    ("host", "least"),
    [
        ("ip4/45.1.2.3", Reach.GLOBAL),
        ("ip6/2600::1", Reach.GLOBAL),
        ("ip4/10.0.0.1", Reach.PRIVATE),
        ("ip4/192.168.1.1", Reach.PRIVATE),
        ("ip6/fd00::1", Reach.PRIVATE),
        ("ip6/::ffff:a00:1", Reach.PRIVATE),
        ("ip4/127.0.0.1", Reach.LOOPBACK),
        ("ip6/::1", Reach.LOOPBACK),
        ("ip4/0.0.0.0", None),
        ("ip4/224.0.0.251", None),
        ("ip4/169.254.169.254", None),
        ("ip4/255.255.255.255", None),
        ("ip6/fe80::1", None),
        ("ip6/ff02::fb", None),
        ("ip6/2002:a00:1::1", None),
        ("ip6/64:ff9b::a00:1", None),
        ("dns4/internal.example", None),
    ],
)
def test_a_stranger_sends_us_no_further_than_the_reach_allows(host: str, least: Reach | None) -> None:
    for reach in Reach:
        assert is_routable(f"/{host}/tcp/4001", reach) is (least is not None and reach >= least)


def test_an_address_with_its_peer_id_is_read_as_it_is_shown() -> None:
    peer = identity("a").peer
    text = peer_address_text(peer, ADDRESS)
    assert parse_peer_address(text).peer == peer
    assert parse_peer_address(text).addresses == (ADDRESS,)
    for wrong in (ADDRESS, ADDRESS + "/p2p/", ADDRESS + "/p2p/0OIl", "/p2p/" + text, "x" * 1_000):
        with pytest.raises(DecodeError):
            parse_peer_address(wrong)


def test_a_network_is_what_one_operator_commonly_has() -> None:
    assert network_of("/ip4/45.1.2.3/tcp/1") == network_of_endpoint("45.1.2.200:9") == "45.1.2.0/24"
    assert network_of("/ip6/2001:db8:1:2::3/tcp/1") == network_of_endpoint("[2001:db8:1:ffff::]:9")
    assert network_of("/dns4/node.example/tcp/1") == "node.example"
    assert network_of_endpoint("unknown:0") == "unknown"


# Records.


def test_an_own_record_is_judged_good_by_others() -> None:
    contact = sign_record(identity("a"), GENESIS, [ADDRESS, "/ip4/127.0.0.1/tcp/1"], 7)
    judged = judge().judge(contact.signed)
    assert judged == replace(contact, addresses=(ADDRESS,)), "what may not be dialled is left out"


def _record(**changes: object) -> bytes:
    """Signed by whoever `key("a")` is, whatever it says."""
    signer = key("a")
    record = AddressRecord(GENESIS, signer.alg_id, signer.public_key, b"", 1, (ADDRESS,))
    body = replace(record, **changes).encode()  # type: ignore[arg-type] # a test names a field and its value
    return SignedAddressRecord(body, signer.sign(body, Context.ADDRESS_RECORD.value)).encode()


def test_records_that_do_not_count_are_told_apart() -> None:
    good = _record()
    other_key = key("b").public_key
    wrong_context = SignedAddressRecord(
        (body := good[4 : 4 + int.from_bytes(good[:4], "big")]), key("a").sign(body, Context.VOTE.value)
    ).encode()
    for data, expected in (
        (b"", RecordRefusal.MALFORMED),
        (good + b"x", RecordRefusal.MALFORMED),
        (good[:-1], RecordRefusal.MALFORMED),
        (_record(genesis_hash=POLICY), RecordRefusal.OTHER_NETWORK),
        (_record(addresses=("/ip4/10.0.0.1/tcp/1", "/dns4/x.example/tcp/1")[::-1]), RecordRefusal.UNROUTABLE),
        (_record(addresses=()), RecordRefusal.UNROUTABLE),
        (_record(cold_certificate=b"x"), RecordRefusal.BAD_CERTIFICATE),
        (good[:-1] + bytes([good[-1] ^ 1]), RecordRefusal.BAD_SIGNATURE),
        (_record(public_key=other_key), RecordRefusal.BAD_SIGNATURE),
        (wrong_context, RecordRefusal.BAD_SIGNATURE),
    ):
        asked = judge()
        assert asked.judge(data) is expected
        assert asked.refused[expected] == 1


def test_the_same_record_is_verified_once(monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[object] = []

    def counted(check: object) -> bool:
        checked.append(check)
        return True

    contact = sign_record(identity("a"), GENESIS, [ADDRESS], 7)
    asked = judge()
    monkeypatch.setattr("p2p.discovery.records.verify_one", counted)
    assert [asked.judge(contact.signed) == contact for _ in range(3)] == [True] * 3
    assert len(checked) == 1


def test_a_certified_hot_keys_record_is_the_cold_keys_and_ends_with_the_certificate() -> None:
    local = local_identity(key("hot"), cold_certificate("hot"))
    contact = sign_record(local, GENESIS, [ADDRESS], 1)
    now_s = [WALL_S]
    asked = RecordJudge(GENESIS, Reach.GLOBAL, lambda: now_s[0])
    assert asked.judge(contact.signed) == contact
    assert contact.peer == decode_cold_certificate(local.certificate).cold_peer_id != identity("hot").peer
    now_s[0] += 2 * MAX_LIFETIME_S
    assert asked.judge(contact.signed) is RecordRefusal.BAD_CERTIFICATE


@pytest.mark.parametrize("addresses", [[], [f"/ip4/45.0.0.{n}/tcp/1" for n in range(17)]])
def test_a_record_of_ones_own_has_some_addresses_and_not_many(addresses: list[str]) -> None:
    with pytest.raises(ValueError, match="addresses"):
        sign_record(identity("a"), GENESIS, addresses, 1)


# The table.


def unsigned(number: int, network: int | None = None, sequence: int = 1) -> Contact:
    peer = PeerId(b"\x12\x20" + number.to_bytes(32, "big"))
    net = number if network is None else network
    return Contact(peer, (f"/ip4/45.{net >> 8 & 255}.{net & 255}.1/tcp/1",), sequence, b"")


OWN = unsigned(0).peer


def far(count: int, **changes: int) -> list[Contact]:
    """Contacts of the bucket that half of all peers fall into."""
    half = [unsigned(n, **changes) for n in range(1, 8 * count)]
    return [each for each in half if distance(key_of(each.peer), key_of(OWN)).bit_length() == 256][:count]


def test_a_full_bucket_keeps_who_is_there_and_a_spare_one_takes_the_place_of_who_fails() -> None:
    table = Table(OWN)
    contacts = far(BUCKET + 2)
    assert [table.offer(each) for each in contacts] == [True] * BUCKET + [False] * 2
    victim = contacts[0].peer
    for _ in range(FAILURES - 1):
        table.failed(victim)
    assert victim in table
    table.failed(victim)
    assert victim not in table
    assert contacts[-1].peer in table, "the freshest spare one came in"
    assert len(table) == BUCKET


def test_an_answer_forgives_earlier_failures() -> None:
    table = Table(OWN)
    (contact,) = far(1)
    table.offer(contact)
    for _ in range(5):
        table.failed(contact.peer)
        table.answered(contact.peer)
    assert contact.peer in table


def test_few_contacts_of_one_network_enter_a_bucket() -> None:
    table = Table(OWN)
    for contact in far(BUCKET, network=7):
        table.offer(contact)
    assert len(table) == PER_NETWORK


def test_a_newer_record_replaces_an_older_one_and_never_the_other_way() -> None:
    table = Table(OWN)
    older, newer = unsigned(5, sequence=1), unsigned(5, network=9, sequence=2)
    for contact in (older, newer, older):
        table.offer(contact)
    assert table.get(older.peer) == newer


def test_spare_contacts_are_bounded_and_the_own_peer_is_never_one() -> None:
    table = Table(OWN)
    assert not table.offer(unsigned(0))
    for number in range(1, 2_000):
        table.offer(unsigned(number))
    assert all(len(each) <= BUCKET for each in table._spare)
    assert OWN not in table
    assert len(table) < 200


@settings(max_examples=100)
@given(st.sets(st.integers(1, 500), max_size=80), st.integers(0, 2**256 - 1))
def test_the_nearest_are_the_nearest(numbers: set[int], key_number: int) -> None:
    table, target = Table(OWN), Key(key_number)
    for number in sorted(numbers):
        table.offer(unsigned(number))
    inside = [unsigned(number) for number in numbers if unsigned(number).peer in table]
    expected = sorted(inside, key=lambda each: distance(key_of(each.peer), target))
    assert table.nearest(target, 10) == expected[:10]


# The lookup.


def test_paths_share_no_peer() -> None:
    starts = [unsigned(number) for number in range(1, 10)]
    lookup = Lookup(key_of(unsigned(999).peer), starts)
    asked: list[PeerId] = []
    everyone = [unsigned(number) for number in range(1, 60)]
    while not lookup.done:
        for question in lookup.questions():
            asked.append(question.contact.peer)
            lookup.answered(question, everyone)
    assert len(asked) == len(set(asked))
    # A path gives up when the nearest `WIDTH` that it knows were asked by somebody.
    assert set(asked) >= {each.peer for each in sorted(everyone, key=lookup._distance)[:WIDTH]}


def test_at_most_one_question_a_path_is_on_its_way() -> None:
    lookup = Lookup(key_of(unsigned(999).peer), [unsigned(number) for number in range(1, 10)])
    assert len(lookup.questions()) == PATHS
    assert lookup.questions() == []
    assert not lookup.done


def test_a_lookup_that_is_fed_ever_nearer_inventions_ends() -> None:
    target = key_of(unsigned(0).peer)
    inventions = iter(sorted((unsigned(n) for n in range(1, 5_000)), key=lambda e: -distance(key_of(e.peer), target)))
    lookup = Lookup(target, [next(inventions) for _ in range(9)])
    while not lookup.done:
        for question in lookup.questions():
            lookup.answered(question, [next(inventions) for _ in range(8)])
    assert lookup.asked <= MAX_QUESTIONS


def test_a_target_that_the_table_has_costs_no_question() -> None:
    lookup = Lookup(key_of(unsigned(3).peer), [unsigned(n) for n in range(1, 9)], wanted=unsigned(3).peer)
    assert lookup.done
    assert lookup.found == unsigned(3)
    assert (lookup.hops, lookup.asked) == (0, 0)


def test_a_lookup_from_an_empty_table_ends_at_once() -> None:
    lookup = Lookup(key_of(unsigned(3).peer), [], wanted=unsigned(3).peer)
    assert lookup.questions() == []
    assert lookup.done


@pytest.mark.parametrize("kind", [None, *Liar])
def test_among_50_nodes_and_20_percent_liars_nearly_all_targets_are_found_in_few_hops(kind: Liar | None) -> None:
    async def main() -> None:
        nodes, liars = 50, 10
        kinds = list(Liar)
        net = SimulatedNetwork(nodes, [kind or kinds[place % len(kinds)] for place in range(liars)])
        await net.grow()
        tried = found = 0
        for asker in net.honest:
            for target in net.chance.sample(net.honest, 8):
                if target is asker or target.peer in asker.table:
                    continue
                tried += 1
                lookup = await asker.look_up(key_of(target.peer), wanted=target.peer)
                if lookup.found is not None and lookup.hops <= 2 * math.log2(nodes):
                    assert lookup.found == target.contact
                    found += 1
        assert tried > 50
        assert found >= 0.95 * tried

    trio.run(main)


# The exchange.


class Wire:
    """Answers as it is told."""

    def __init__(self, answer: list[Frame] | RequestFault) -> None:
        self.answer = answer

    async def ask(
        self, peer: PeerId, message_id: MessageId, payload: bytes, *, deadline_s: float, max_bytes: int
    ) -> list[Frame]:
        if isinstance(self.answer, RequestFault):
            raise RequestError(self.answer, "told so")
        return self.answer


class Desk:
    """One node's exchange, and what it reported."""

    def __init__(self, answer: list[Frame] | RequestFault | None = None) -> None:
        self.own = sign_record(identity("own"), GENESIS, [ADDRESS], 1)
        self.table = Table(self.own.peer)
        self.heard: list[tuple[PeerId, Contact]] = []
        self.offences: list[tuple[PeerId, str]] = []
        self.now_ms = 0
        self.exchange = Exchange(
            self.table,
            judge(),
            asking=Wire([] if answer is None else answer),
            own=lambda: self.own,
            heard=lambda teller, contact: self.heard.append((teller, contact)),
            offended=self._offended,
            now_ms=lambda: self.now_ms,
        )

    async def _offended(self, peer: PeerId, reason: str, _amount: int) -> None:
        self.offences.append((peer, reason))

    def ask(self, contact: Contact) -> list[Contact] | None:
        async def main() -> list[Contact] | None:
            return await self.exchange.ask(contact.peer, key_of(contact.peer), 8)

        return trio.run(main)

    def serve(self, peer: PeerId, request: GetPeers) -> list[bytes]:
        async def main() -> list[bytes]:
            answer: AsyncIterator[tuple[MessageId, bytes]] = self.exchange.serve(peer, request.encode())
            ((kind, body),) = [each async for each in answer]
            assert kind is MessageId.PEERS
            return decode_peers(body)

        return trio.run(main)


def frames(*bodies: bytes) -> list[Frame]:
    return [Frame(MessageId.PEERS, 0, Flags.NONE, body) for body in bodies]


def test_messages_are_read_as_they_were_written_and_capped() -> None:
    request = GetPeers(Key(5), 8, b"record")
    assert decode_get_peers(request.encode()) == request
    assert decode_peers(encode_peers([b"a", b"bc"])) == [b"a", b"bc"]
    for data in (b"", request.encode() + b"x", request.encode()[:-1]):
        with pytest.raises(DecodeError):
            decode_get_peers(data)
    for data in (b"", b"\x01", encode_peers([b"x"] * (MAX_RECORDS + 1)), encode_peers([b"x"]) + b"y"):
        with pytest.raises(DecodeError):
            decode_peers(data)


@settings(max_examples=200)
@given(st.binary(max_size=300))
def test_no_bytes_of_a_stranger_do_more_than_fail_to_decode(data: bytes) -> None:
    for decode in (decode_get_peers, decode_peers):
        try:
            decode(data)
        except DecodeError:
            continue


def test_a_node_tells_its_own_record_and_the_nearest_but_not_the_askers() -> None:
    desk = Desk()
    asker, *others = [contact_of(f"node{n}") for n in range(20)]
    for contact in (asker, *others):
        desk.table.offer(contact)
    told = desk.serve(asker.peer, GetPeers(key_of(asker.peer), 5, b""))
    nearest = sorted(others, key=lambda each: distance(key_of(each.peer), key_of(asker.peer)))
    inside = [each.signed for each in nearest if each.peer in desk.table]
    assert told == [desk.own.signed, *inside[:5]]


def test_who_asks_is_known_from_then_on() -> None:
    desk, asker = Desk(), contact_of("node1")
    desk.serve(asker.peer, GetPeers(Key(0), 5, asker.signed))
    assert asker.peer in desk.table
    assert desk.heard == [(asker.peer, asker)]


def test_who_shows_somebody_elses_record_as_its_own_offends() -> None:
    desk, asker, other = Desk(), contact_of("node1"), contact_of("node2")
    desk.serve(asker.peer, GetPeers(Key(0), 5, other.signed))
    assert desk.offences == [(asker.peer, "record_of_another")]
    assert len(desk.table) == 0


def test_who_asks_too_often_is_told_nothing_and_offends() -> None:
    desk, asker = Desk(), contact_of("node1")
    request = GetPeers(Key(0), 5, b"")
    assert all(desk.serve(asker.peer, request) for _ in range(QUESTIONS))
    assert desk.serve(asker.peer, request) == []
    assert desk.offences == [(asker.peer, "peers_pestered")]
    desk.now_ms += 1_000
    assert desk.serve(asker.peer, request)


def test_an_answer_is_judged_and_only_who_answered_enters_the_table() -> None:
    peer, other = contact_of("node1"), contact_of("node2")
    desk = Desk(frames(encode_peers([peer.signed, other.signed])))
    assert desk.ask(peer) == [peer, other]
    assert peer.peer in desk.table
    assert other.peer not in desk.table
    assert desk.offences == []


def test_of_two_records_of_a_peer_the_newer_counts_and_our_own_is_no_news() -> None:
    peer = contact_of("node1")
    newer = sign_record(identity("node2"), GENESIS, [ADDRESS], 9)
    desk = Desk(frames(encode_peers([newer.signed, contact_of("node2").signed, Desk().own.signed])))
    assert desk.ask(peer) == [newer]


@pytest.mark.parametrize(
    "answer",
    [frames(), frames(b"junk"), frames(encode_peers([]), encode_peers([])), RequestFault.BAD_FRAME],
    ids=["nothing", "junk", "two", "broken"],
)
def test_an_answer_that_is_none_offends(answer: list[Frame] | RequestFault) -> None:
    desk, peer = Desk(answer), contact_of("node1")
    assert desk.ask(peer) is None
    assert [each[0] for each in desk.offences] == [peer.peer]


def test_a_forged_record_offends_and_the_true_ones_beside_it_count() -> None:
    peer, other = contact_of("node1"), contact_of("node2")
    forged = other.signed[:-1] + bytes([other.signed[-1] ^ 1])
    desk = Desk(frames(encode_peers([forged, peer.signed])))
    assert desk.ask(peer) == [peer]
    assert desk.offences == [(peer.peer, "record_bad_signature")]


@pytest.mark.parametrize("fault", [RequestFault.DEADLINE, RequestFault.BUSY, RequestFault.NOT_CONNECTED])
def test_a_slow_busy_or_vanished_peer_offends_nobody(fault: RequestFault) -> None:
    desk, peer = Desk(fault), contact_of("node1")
    desk.table.offer(peer)
    for _ in range(FAILURES):
        assert desk.ask(peer) is None
    assert desk.offences == []
    assert peer.peer not in desk.table
