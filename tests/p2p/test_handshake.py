"""The handshake between honest machines, and every attack of the threat table that a peer can mount on one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from p2p.handshake import Dialer, Listener, LocalIdentity, Network, Reject
from p2p.handshake import dialer as dialer_module
from p2p.handshake.messages import (
    M1_TYPE,
    M3_TYPE,
    M4_TYPE,
    MAX_BODY_BYTES,
    IdentityProof,
    decode_identity,
    decode_m1,
    frame,
)
from p2p.handshake.reject import FIRST_TOLD
from p2p.handshake.schedule import mac1, mac1_key
from p2p.handshake.setup import HANDSHAKE_TIMEOUT_MS, Setup
from tests.p2p.kit import (
    GENESIS,
    POLICY,
    MovedClock,
    Transcript,
    converse,
    key,
    meet,
    network,
    reason,
    seed,
    session,
    setup,
)
from trellis.crypto.aead import Suite
from trellis.crypto.algorithms import AlgId
from trellis.crypto.kem import Encapsulation, HybridKem
from trellis.types import Hash, PeerId

ALGS = (AlgId.ML_DSA_65, AlgId.ML_DSA_87)


@pytest.mark.parametrize("dialer_alg", ALGS)
@pytest.mark.parametrize("listener_alg", ALGS)
@pytest.mark.parametrize("psk", [None, seed("psk")])
def test_two_members_share_keys_and_know_each_other(dialer_alg: AlgId, listener_alg: AlgId, psk: bytes | None) -> None:
    net = network(psk)
    dialer, listener = setup("dialer", alg=dialer_alg, net=net), setup("listener", alg=listener_alg, net=net)
    said = meet(dialer, listener)
    one, other = session(said.dialer), session(said.listener)
    assert (one.send_key, one.receive_key) == (other.receive_key, other.send_key)
    assert one.exporter == other.exporter
    assert len({one.send_key, one.receive_key, one.exporter}) == 3
    assert one.remote.peer == listener.local.peer
    assert other.remote.peer == dialer.local.peer
    assert (one.send_counter, one.receive_counter) == (other.receive_counter, other.send_counter) == (0, 1)
    assert one.limits == listener.limits


@pytest.mark.parametrize(
    ("offered", "spoken", "taken"),
    [
        ((Suite.CHACHA20_POLY1305, Suite.AES_256_GCM), tuple(Suite), Suite.CHACHA20_POLY1305),
        ((Suite.AES_256_GCM, Suite.CHACHA20_POLY1305), tuple(Suite), Suite.AES_256_GCM),
        ((Suite.CHACHA20_POLY1305, Suite.AES_256_GCM), (Suite.AES_256_GCM,), Suite.AES_256_GCM),
    ],
)
def test_the_listener_takes_the_first_offered_suite_that_it_speaks(
    offered: tuple[Suite, ...], spoken: tuple[Suite, ...], taken: Suite
) -> None:
    said = meet(setup("dialer", net=network(suites=offered)), setup("listener", net=network(suites=spoken)))
    assert session(said.dialer).suite is session(said.listener).suite is taken


def test_no_two_handshakes_share_a_key_even_between_the_same_peers() -> None:
    one, other = (meet(setup("dialer"), setup("listener")) for _ in range(2))
    assert session(one.dialer).send_key != session(other.dialer).send_key
    assert one.frames[0] != other.frames[0]


def test_bytes_may_arrive_one_by_one() -> None:
    dialer_setup, listener_setup = setup("dialer"), setup("listener")
    dialer, listener = Dialer(dialer_setup, listener_setup.local.peer), Listener(listener_setup)
    frame_bytes, outcome = dialer.start(), None
    for receiver in (listener, dialer, listener, dialer):
        answer = b""
        for at in range(len(frame_bytes)):
            step = receiver.receive(frame_bytes[at : at + 1])
            answer += step.send
            outcome = step.outcome
        frame_bytes = answer
    session(outcome)


def test_records_that_follow_m4_at_once_are_kept_for_the_record_layer() -> None:
    said = meet(setup("dialer"), setup("listener"), lambda number, data: data + b"records" if number == 4 else data)
    assert session(said.dialer).leftover == b"records"


def test_secrets_do_not_show() -> None:
    psk = seed("psk")
    said = meet(setup("dialer", net=network(psk)), setup("listener", net=network(psk)))
    done = session(said.dialer)
    shown = repr(done) + repr(network(psk))
    for secret in (done.send_key, done.receive_key, done.exporter, psk):
        assert repr(secret) not in shown
        assert secret.hex() not in shown


# The threat table. Each attack is a function that returns how the attacked side ended.


@dataclass(frozen=True)
class Attack:
    threat: str
    run: Callable[[], Reject]
    refused_with: Reject


def flip(data: bytes, at: int) -> bytes:
    at %= len(data)
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


def listener_sees(tampered: int, change: Callable[[bytes], bytes]) -> Reject:
    said = meet(setup("dialer"), setup("listener"), lambda number, data: change(data) if number == tampered else data)
    return reason(said.listener)


def dialer_sees(tampered: int, change: Callable[[bytes], bytes]) -> Reject:
    said = meet(setup("dialer"), setup("listener"), lambda number, data: change(data) if number == tampered else data)
    return reason(said.dialer)


@dataclass
class Impostor:
    """Shows somebody's public key and answers with whatever it can make or steal."""

    alg_id: AlgId
    public_key: bytes
    answer: Callable[[bytes, bytes], bytes]

    def sign(self, message: bytes, context: bytes) -> bytes:
        return self.answer(message, context)


def impostor(name: str, shown: str, answer: Callable[[bytes, bytes], bytes]) -> Setup:
    victim = key(shown)
    fake = LocalIdentity.of(Impostor(victim.alg_id, victim.public_key, answer))
    return setup(name, local=fake)


def misbinding() -> Reject:
    """The attacker claims a member's key, signing with its own."""
    return reason(meet(impostor("dialer", "victim", key("attacker").sign), setup("listener")).listener)


def misbinding_by_the_listener() -> Reject:
    return reason(meet(setup("dialer"), impostor("listener", "victim", key("attacker").sign)).dialer)


def reflected_identity() -> Reject:
    """The dialer hands the listener's own proof back as if it were its own."""
    stolen: list[bytes] = []
    own = key("listener")

    def sign(message: bytes, context: bytes) -> bytes:
        stolen.append(own.sign(message, context))
        return stolen[-1]

    listener = setup("listener", local=LocalIdentity.of(Impostor(own.alg_id, own.public_key, sign)))
    dialer = impostor("dialer", "other-member", lambda _message, _context: stolen[-1])
    return reason(meet(dialer, listener).listener)


def own_identity_dials() -> Reject:
    """Both ends hold the same key, and the dialer dials under another name: it must know whose mac1 to make."""
    listener = setup("twin")
    return reason(meet(replace(setup("dialer"), local=_alias(listener)), listener).listener)


def _alias(of: Setup) -> LocalIdentity:
    return LocalIdentity(of.local.signer, PeerId(b"somebody else"))


def altered_proof(change: Callable[[IdentityProof], IdentityProof]) -> Reject:
    """The dialer seals an identity that it altered after proving it."""
    honest = dialer_module.prove
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialer_module, "prove", lambda *args: change(decode_identity(honest(*args))).encoded())
        return reason(meet(setup("dialer"), setup("listener")).listener)


def sealed_garbage(plaintext: bytes) -> Reject:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dialer_module, "prove", lambda *_args: plaintext)
        return reason(meet(setup("dialer"), setup("listener")).listener)


def replayed_m1_and_m3() -> Reject:
    """A recorded dialer, played back to the same listener."""
    listener = setup("listener")
    recorded = meet(setup("dialer"), listener)
    again = Listener(listener)
    again.receive(recorded.frames[0])
    return reason(again.receive(recorded.frames[2]).outcome)


def offer(change: Callable[[bytes], bytes], *, keep_mac: bool = True) -> Reject:
    """An M1 whose body was changed before its mac1 was made: by a dialer that knows the listener."""
    dialer, listener = setup("dialer"), setup("listener")
    body = change(Dialer(dialer, listener.local.peer).start()[4:-16])
    unmacked = bytes([M1_TYPE]) + body
    mac = mac1(mac1_key(None, listener.local.peer), unmacked)
    made = body + (mac if keep_mac else flip(mac, 0))
    return reason(Listener(listener).receive(frame(M1_TYPE, made)).outcome)


EK_AT = 2 + 8 + 1 + 2 * 2 + 32
X_AT = EK_AT + 1184


def weak_share_from_the_listener() -> Reject:
    class SmallOrder(HybridKem):
        def encapsulate(self, ek: bytes, x_peer: bytes) -> Encapsulation:
            honest = super().encapsulate(ek, x_peer)
            return Encapsulation(honest.ciphertext, bytes(32), honest.shared)

    return reason(meet(setup("dialer"), replace(setup("listener"), kem=SmallOrder())).dialer)


def suite_that_was_not_offered() -> Reject:
    dialer = setup("dialer", net=network(suites=(Suite.CHACHA20_POLY1305,)))
    return reason(
        meet(dialer, setup("listener"), lambda n, data: data[:4] + b"\x00\x02" + data[6:] if n == 2 else data).dialer
    )


def strip_the_better_suite() -> Reject:
    """A middleman removes the preferred suite from the offer."""

    def strip(data: bytes) -> bytes:
        body = data[4:-16]
        stripped = body[:10] + b"\x01" + body[13:]
        made = stripped + mac1(mac1_key(None, setup("listener").local.peer), bytes([M1_TYPE]) + stripped)
        return frame(M1_TYPE, made)

    return dialer_sees(1, strip)


def other_network(**changes: object) -> Reject:
    base = {"genesis_hash": GENESIS, "policy_root": POLICY} | changes
    return reason(meet(setup("dialer", net=Network(**base)), setup("listener")).listener)  # type: ignore[arg-type] # a test names fields


def slow_dialer() -> Reject:
    time = MovedClock()
    listener = Listener(setup("listener", time=time))
    listener.receive(b"\x01")
    time.steady_ms += HANDSHAKE_TIMEOUT_MS + 1
    return reason(listener.receive(b"\x00").outcome)


def dialled_somebody_else() -> Reject:
    """The address leads to another member than the one that was dialled; it even knows whose mac1 was made."""
    real, other = setup("real"), setup("other")
    pretending = replace(other, local=LocalIdentity(other.local.signer, real.local.peer))
    return reason(meet(setup("dialer"), pretending, dialled=real.local.peer).dialer)


def refused(by: Reject) -> Transcript:
    return meet(setup("dialer"), setup("listener", admit=lambda _peer: by))


ATTACKS = (
    Attack("identity misbinding: a dialer shows another's key", misbinding, Reject.BAD_SIGNATURE),
    Attack("identity misbinding: a listener shows another's key", misbinding_by_the_listener, Reject.BAD_SIGNATURE),
    Attack("identity misbinding: the listener is another member", dialled_somebody_else, Reject.WRONG_PEER),
    Attack(
        "unknown key share: a proof under another key",
        lambda: altered_proof(lambda proof: replace(proof, public_key=key("attacker").public_key)),
        Reject.BAD_MAC,
    ),
    Attack(
        "unknown key share: a signature without its MAC",
        lambda: altered_proof(lambda proof: replace(proof, mac=bytes(32))),
        Reject.BAD_MAC,
    ),
    Attack(
        "an algorithm that the policy does not allow",
        lambda: altered_proof(lambda proof: replace(proof, alg=AlgId.SLH_DSA_SHAKE_128S)),
        Reject.ALGORITHM_NOT_ALLOWED,
    ),
    Attack(
        "an algorithm that does not exist",
        lambda: altered_proof(lambda proof: replace(proof, alg=200)),
        Reject.ALGORITHM_NOT_ALLOWED,
    ),
    Attack(
        "an extension in a version that has none",
        lambda: altered_proof(lambda proof: replace(proof, extensions=b"x")),
        Reject.UNKNOWN_EXTENSION,
    ),
    Attack(
        "encoding confusion: a key of another size",
        lambda: altered_proof(lambda proof: replace(proof, public_key=proof.public_key + b"\0")),
        Reject.MALFORMED_IDENTITY,
    ),
    Attack(
        "encoding confusion: an identity that is no identity", lambda: sealed_garbage(b"x"), Reject.MALFORMED_IDENTITY
    ),
    Attack("encoding confusion: no identity at all", lambda: sealed_garbage(b""), Reject.MALFORMED_IDENTITY),
    Attack("encoding confusion: M1 too short", lambda: offer(lambda body: body[:-1]), Reject.MALFORMED),
    Attack("encoding confusion: M1 with trailing bytes", lambda: offer(lambda body: body + b"\0"), Reject.MALFORMED),
    Attack(
        "encoding confusion: M1 offers no suite",
        lambda: offer(lambda body: body[:10] + b"\0" + body[15:]),
        Reject.MALFORMED,
    ),
    Attack("a version from the future", lambda: offer(lambda body: b"\x00\x02" + body[2:]), Reject.UNKNOWN_VERSION),
    Attack(
        "KEM binding: an encapsulation key that FIPS 203 forbids",
        lambda: offer(lambda body: body[:EK_AT] + b"\xff" * 1184 + body[X_AT:]),
        Reject.BAD_KEM_SHARE,
    ),
    Attack(
        "one party choosing the key: an X25519 share of zero",
        lambda: offer(lambda body: body[:X_AT] + bytes(32)),
        Reject.BAD_KEM_SHARE,
    ),
    Attack(
        "one party choosing the key: the listener's share of zero", weak_share_from_the_listener, Reject.BAD_KEM_SHARE
    ),
    Attack("KEM binding: a changed ciphertext", lambda: dialer_sees(2, lambda data: flip(data, 100)), Reject.BAD_SEAL),
    Attack("a changed nonce", lambda: dialer_sees(2, lambda data: flip(data, 10)), Reject.BAD_SEAL),
    Attack("a changed seal of the listener", lambda: dialer_sees(2, lambda data: flip(data, -1)), Reject.BAD_SEAL),
    Attack("a changed seal of the dialer", lambda: listener_sees(3, lambda data: flip(data, -1)), Reject.BAD_SEAL),
    Attack("a changed verdict", lambda: dialer_sees(4, lambda data: flip(data, -1)), Reject.BAD_SEAL),
    Attack("downgrade: a suite that was not offered", suite_that_was_not_offered, Reject.NO_COMMON_SUITE),
    Attack("downgrade: the better suite stripped on the way", strip_the_better_suite, Reject.BAD_SEAL),
    Attack(
        "downgrade: only suites from elsewhere",
        lambda: offer(lambda body: body[:11] + b"\x12\x34\x56\x78" + body[15:]),
        Reject.NO_COMMON_SUITE,
    ),
    Attack("another network's node", lambda: other_network(genesis_hash=Hash(seed("elsewhere"))), Reject.OTHER_NETWORK),
    Attack("policy stripping", lambda: other_network(policy_root=Hash(seed("weaker"))), Reject.OTHER_NETWORK),
    Attack(
        "no pre-shared key where none is known", lambda: other_network(psk=seed("k"), psk_id=b"k"), Reject.OTHER_NETWORK
    ),
    Attack("a replayed M1 and M3", replayed_m1_and_m3, Reject.BAD_SEAL),
    Attack("a scanner that does not know whom it dials", lambda: offer(bytes, keep_mac=False), Reject.BAD_MAC1),
    Attack("reflection: the listener's proof as the dialer's", reflected_identity, Reject.BAD_SIGNATURE),
    Attack("reflection: own peer id", own_identity_dials, Reject.SELF),
    Attack("reflection: M1 sent back", lambda: dialer_sees(2, lambda _data: frame(M1_TYPE, b"")), Reject.REFLECTED),
    Attack("a message out of turn", lambda: dialer_sees(2, lambda data: b"\x04" + data[1:]), Reject.UNEXPECTED_FRAME),
    Attack("M3 before M1", lambda: listener_sees(1, lambda _data: frame(M3_TYPE, bytes(64))), Reject.UNEXPECTED_FRAME),
    Attack("an unknown message", lambda: listener_sees(1, lambda data: b"\xff" + data[1:]), Reject.UNEXPECTED_FRAME),
    Attack("bytes behind M1", lambda: listener_sees(1, lambda data: data + b"\0"), Reject.EXTRA_BYTES),
    Attack("bytes behind M2", lambda: dialer_sees(2, lambda data: data + b"\0"), Reject.EXTRA_BYTES),
    Attack("bytes behind M3", lambda: listener_sees(3, lambda data: data + b"\0"), Reject.EXTRA_BYTES),
    Attack("not a member", lambda: reason(refused(Reject.NOT_A_MEMBER).listener), Reject.NOT_A_MEMBER),
    Attack("a banned member", lambda: reason(refused(Reject.BANNED).listener), Reject.BANNED),
    Attack("a slow peer", slow_dialer, Reject.TIMEOUT),
)


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.threat)
def test_an_attacker_is_refused(attack: Attack) -> None:
    assert attack.run() is attack.refused_with


@pytest.mark.parametrize("kind", sorted(MAX_BODY_BYTES))
def test_a_message_over_its_cap_is_refused_on_its_header(kind: int) -> None:
    dialer_setup, listener_setup = setup("dialer"), setup("listener")
    dialer, listener = Dialer(dialer_setup, listener_setup.local.peer), Listener(listener_setup)
    receiver: Dialer | Listener = listener
    step = None
    frame_bytes = dialer.start()
    for number in range(1, kind):
        receiver = listener if number % 2 else dialer
        frame_bytes = receiver.receive(frame_bytes).send
    receiver = listener if kind % 2 else dialer
    step = receiver.receive(bytes([kind]) + (MAX_BODY_BYTES[kind] + 1).to_bytes(3, "big"))
    assert reason(step.outcome) is Reject.FRAME_TOO_LARGE
    assert receiver.held_bytes == 0


@pytest.mark.parametrize("told", [one for one in Reject if one >= FIRST_TOLD and one is not Reject.REFUSED])
def test_a_refused_dialer_is_told_why(told: Reject) -> None:
    said = refused(told)
    assert reason(said.listener) is told
    assert reason(said.dialer) is told
    assert said.frames[3][0] == M4_TYPE


def test_a_reason_that_must_not_travel_is_told_as_refused() -> None:
    said = refused(Reject.RATE_LIMITED)
    assert reason(said.listener) is Reject.RATE_LIMITED
    assert reason(said.dialer) is Reject.REFUSED


def test_a_stranger_is_answered_with_silence() -> None:
    listener = Listener(setup("listener"))
    assert listener.receive(frame(M1_TYPE, bytes(1279))).send == b""


def test_a_dialer_may_refuse_the_peer_it_reached() -> None:
    said = meet(setup("dialer", admit=lambda _peer: Reject.BANNED), setup("listener"))
    assert reason(said.dialer) is Reject.BANNED
    assert len(said.frames) == 2


def test_an_attacked_listener_serves_an_honest_dialer_afterwards() -> None:
    listener = setup("listener")
    for number in (1, 3):
        meet(setup("dialer"), listener, lambda n, data, at=number: flip(data, 40) if n == at else data)
    session(meet(setup("dialer"), listener).listener)


def test_a_finished_handshake_takes_no_more_bytes() -> None:
    listener_setup = setup("listener")
    dialer, listener = Dialer(setup("dialer"), listener_setup.local.peer), Listener(listener_setup)
    converse(dialer, listener)
    with pytest.raises(ValueError, match="over"):
        listener.receive(b"x")


def test_a_node_does_not_dial_itself() -> None:
    own = setup("dialer")
    with pytest.raises(ValueError, match="itself"):
        Dialer(own, own.local.peer)


def test_a_peer_that_hangs_up_is_counted_as_closed() -> None:
    listener = Listener(setup("listener"))
    assert reason(listener.end_of_stream().outcome) is Reject.CLOSED


def test_m1_fits_in_one_segment_of_ethernet_and_says_nothing_about_the_dialer() -> None:
    dialer, listener = setup("dialer"), setup("listener")
    said = Dialer(dialer, listener.local.peer).start()
    assert len(said) <= 1_448
    made = decode_m1(said[4:])
    assert made.suites == (1, 2)
    for part in (dialer.local.peer, dialer.local.signer.public_key[:32]):
        assert part not in said
