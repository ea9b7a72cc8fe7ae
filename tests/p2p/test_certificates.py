"""Cold certificates in handshakes: who is named, until when, and what a newer serial does to older ones."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from p2p.handshake import LocalIdentity, Reject, Setup
from p2p.handshake.certificates import MAX_REMEMBERED, CertificateBook
from p2p.handshake.reject import RefusedError
from p2p.host import DialError
from tests.p2p.golden import cold_certificate, local_identity
from tests.p2p.kit import GENESIS, WALL_S, MovedClock, Transcript, key, meet, reason, seed, session, setup
from tests.p2p.net import ask, config, hosts, run, served, until
from tests.p2p.test_handshake import flip
from trellis.crypto.algorithms import AlgId
from trellis.crypto.cold import SKEW_S, decode_cold_certificate
from trellis.peerid import peer_id
from trellis.types import Hash

DAY_S = 86_400


def certified(name: str = "hot", serial: int = 7, certificate: bytes | None = None) -> LocalIdentity:
    return local_identity(key(name), cold_certificate(name, serial) if certificate is None else certificate)


def test_the_holder_of_a_certificate_is_known_by_the_cold_key() -> None:
    dialer = setup("dialer", local=certified())
    said = meet(dialer, setup("listener"))
    remote = session(said.listener).remote
    decoded = decode_cold_certificate(cold_certificate("hot"))
    assert remote.peer == peer_id(decoded.cold_alg_id, decoded.cold_public_key) == dialer.local.peer
    assert remote.public_key == key("hot").public_key


def test_a_certified_listener_is_dialled_by_its_cold_peer_id() -> None:
    listener = setup("listener", local=certified())
    said = meet(setup("dialer"), listener)
    assert session(said.dialer).remote.peer == listener.local.peer


def altered(certificate: bytes) -> LocalIdentity:
    return LocalIdentity(key("hot"), certified().peer, certificate)


@dataclass(frozen=True)
class Refusal:
    name: str
    local: Callable[[], LocalIdentity]
    now_s: int
    reason: Reject


REFUSALS = (
    Refusal("expired", certified, WALL_S - 3_600 + 6 * DAY_S + SKEW_S, Reject.CERTIFICATE_EXPIRED),
    Refusal("not yet valid", certified, WALL_S - 3_600 - SKEW_S - 1, Reject.CERTIFICATE_NOT_YET_VALID),
    Refusal("for another key", lambda: altered(cold_certificate("next-hot", 8)), WALL_S, Reject.BAD_CERTIFICATE),
    Refusal("a changed signature", lambda: altered(flip(cold_certificate("hot"), -1)), WALL_S, Reject.BAD_CERTIFICATE),
    Refusal("a changed serial", lambda: altered(flip(cold_certificate("hot"), 2_031)), WALL_S, Reject.BAD_CERTIFICATE),
    Refusal("cut short", lambda: altered(cold_certificate("hot")[:-1]), WALL_S, Reject.BAD_CERTIFICATE),
    Refusal("nonsense", lambda: altered(b"nonsense"), WALL_S, Reject.BAD_CERTIFICATE),
)


@pytest.mark.parametrize("case", REFUSALS, ids=lambda case: case.name)
def test_a_certificate_that_does_not_count_is_refused_with_its_reason(case: Refusal) -> None:
    listener = setup("listener", time=MovedClock(wall_s=case.now_s))
    said = meet(setup("dialer", local=case.local()), listener)
    assert reason(said.listener) is case.reason
    assert reason(said.dialer) is case.reason


@pytest.mark.parametrize("now_s", [WALL_S - 3_600 - SKEW_S, WALL_S - 3_600 + 6 * DAY_S + SKEW_S - 1])
def test_a_certificate_counts_up_to_the_last_second_of_the_skew(now_s: int) -> None:
    listener = setup("listener", time=MovedClock(wall_s=now_s))
    session(meet(setup("dialer", local=certified()), listener).listener)


def test_a_certificate_of_another_network_is_refused() -> None:
    book = CertificateBook(Hash(seed("elsewhere")))
    said = meet(setup("dialer", local=certified()), replace(setup("listener"), certificates=book))
    assert reason(said.listener) is Reject.BAD_CERTIFICATE


def test_the_dialer_judges_the_listeners_certificate_too() -> None:
    dialer = setup("dialer", time=MovedClock(wall_s=WALL_S + 30 * DAY_S))
    assert reason(meet(dialer, setup("listener", local=certified())).dialer) is Reject.CERTIFICATE_EXPIRED


def test_a_certified_listener_that_was_not_dialled_is_refused() -> None:
    dialled = setup("somebody").local.peer
    listener = setup("listener", local=replace(certified(), peer=dialled))
    assert reason(meet(setup("dialer"), listener, dialled=dialled).dialer) is Reject.WRONG_PEER


def visit(listener: Setup, name: str, serial: int) -> Transcript:
    return meet(setup("dialer", local=certified(name, serial)), listener)


def test_a_newer_serial_ends_the_older_ones() -> None:
    listener = setup("listener")
    session(visit(listener, "hot", 7).listener)
    session(visit(listener, "next-hot", 8).listener)
    assert reason(visit(listener, "hot", 7).listener) is Reject.CERTIFICATE_REPLACED
    session(visit(listener, "next-hot", 8).listener)


def test_serials_survive_a_restart() -> None:
    book = CertificateBook(GENESIS)
    session(visit(replace(setup("listener"), certificates=book), "next-hot", 8).listener)
    restarted = replace(setup("listener"), certificates=CertificateBook(GENESIS, serials=book.serials))
    assert reason(visit(restarted, "hot", 7).listener) is Reject.CERTIFICATE_REPLACED


def test_a_refused_holder_does_not_replace_anybodys_certificate() -> None:
    book = CertificateBook(GENESIS)
    closed = replace(setup("listener", admit=lambda _peer: Reject.NOT_A_MEMBER), certificates=book)
    assert reason(visit(closed, "next-hot", 8).listener) is Reject.NOT_A_MEMBER
    assert book.serials == {}
    session(visit(replace(setup("listener"), certificates=book), "hot", 7).listener)


def test_a_certificate_that_held_is_not_verified_again() -> None:
    book = CertificateBook(GENESIS)
    for _ in range(3):
        session(visit(replace(setup("listener"), certificates=book), "hot", 7).listener)
    assert book.signatures_checked == 1


def test_a_certificate_that_did_not_hold_is_not_remembered() -> None:
    book = CertificateBook(GENESIS)
    for _ in range(2):
        with pytest.raises(RefusedError):
            book.judge(flip(cold_certificate("hot"), -1), AlgId.ML_DSA_65, key("hot").public_key, WALL_S)
    assert book.signatures_checked == 2
    assert len(book._verified) == 0 < MAX_REMEMBERED


def test_over_a_socket_an_expired_certificate_is_refused_and_a_valid_one_serves() -> None:
    async def main() -> None:
        late = MovedClock(wall_s=WALL_S + 30 * DAY_S).clock()
        timely = MovedClock().clock()
        async with hosts(
            config("dialer", identity=certified(), clock=timely),
            config("host", clock=late),
            config("other", clock=timely),
        ) as (holder, strict, host):
            with pytest.raises(DialError) as refused:
                await holder.connect(strict.peer, strict.addresses[0])
            assert refused.value.reason is Reject.CERTIFICATE_EXPIRED
            assert strict.counters.rejects["certificate_expired"] == 1
            await served(strict)
            await holder.connect(host.peer, host.addresses[0])
            await ask(holder, host.peer)
            await until(lambda: host.connected(holder.peer), "known by its cold peer id")
            await ask(host, holder.peer)

    run(main)
