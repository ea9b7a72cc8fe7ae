"""What the tests of the transport share: setups with injected time and randomness, and a wire between two machines."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from hashlib import sha3_256

from p2p.handshake import (
    Clock,
    Dialer,
    Established,
    Listener,
    LocalIdentity,
    Network,
    PeerLimits,
    Reject,
    Rejected,
    Setup,
)
from p2p.handshake.certificates import CertificateBook
from trellis.crypto.aead import Suite
from trellis.crypto.algorithms import AlgId
from trellis.crypto.kem import HybridKem
from trellis.crypto.schemes import SigningKey, scheme
from trellis.types import Hash, PeerId

GENESIS = Hash(sha3_256(b"a test's genesis").digest())
POLICY = Hash(sha3_256(b"a test's algorithm policy").digest())
LIMITS = PeerLimits(max_streams=128, session_lifetime_s=86_400, retry_after_ms=0)
WALL_S = 1_800_000_000


def seed(name: str) -> bytes:
    """32 bytes that depend on the name alone."""
    return sha3_256(name.encode()).digest()


@cache
def key(name: str, alg: AlgId = AlgId.ML_DSA_65) -> SigningKey:
    """A signing key that is the same in every run."""
    return scheme(alg).from_secret(seed(name))


class Counting:
    """Bytes that are the same in every run, and different in every call."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._drawn = 0

    def __call__(self, size: int) -> bytes:
        self._drawn += 1
        return seed(f"{self._name}/{self._drawn}")[:size]


@dataclass
class MovedClock:
    """Time that stands still until a test moves it."""

    steady_ms: int = 1_000
    wall_s: int = WALL_S

    def clock(self) -> Clock:
        return Clock(steady_ms=lambda: self.steady_ms, wall_s=lambda: self.wall_s)


def everyone(_peer: PeerId) -> Reject | None:
    return None


def network(psk: bytes | None = None, suites: tuple[Suite, ...] = tuple(Suite)) -> Network:
    return Network(GENESIS, POLICY, psk, b"" if psk is None else b"test-psk", suites)


def setup(
    name: str,
    *,
    alg: AlgId = AlgId.ML_DSA_65,
    net: Network | None = None,
    admit: Callable[[PeerId], Reject | None] = everyone,
    time: MovedClock | None = None,
    local: LocalIdentity | None = None,
) -> Setup:
    chosen = net or network()
    return Setup(
        network=chosen,
        local=local or LocalIdentity.of(key(name, alg)),
        clock=(time or MovedClock()).clock(),
        random=Counting(name),
        kem=HybridKem(),
        certificates=CertificateBook(chosen.genesis_hash),
        admit=admit,
        limits=LIMITS,
    )


@dataclass
class Transcript:
    """The four frames as they crossed the wire, and how each side ended."""

    frames: list[bytes]
    dialer: Established | Rejected | None
    listener: Established | Rejected | None


Tamper = Callable[[int, bytes], bytes]
"""(message number, frame) -> what arrives instead."""


def untouched(_number: int, frame: bytes) -> bytes:
    return frame


def converse(dialer: Dialer, listener: Listener, tamper: Tamper = untouched) -> Transcript:
    """Carries frames between the two until one side ends or has nothing more to say."""
    said = Transcript([], None, None)
    frame = dialer.start()
    for number in range(1, 5):
        said.frames.append(frame)
        to_listener = number % 2 == 1
        step = (listener if to_listener else dialer).receive(tamper(number, frame))
        if to_listener:
            said.listener = step.outcome
        else:
            said.dialer = step.outcome
        frame = step.send
        if not frame:
            break
    return said


def meet(dialer: Setup, listener: Setup, tamper: Tamper = untouched, dialled: PeerId | None = None) -> Transcript:
    return converse(Dialer(dialer, dialled or listener.local.peer), Listener(listener), tamper)


def session(outcome: Established | Rejected | None) -> Established:
    if not isinstance(outcome, Established):
        raise AssertionError(f"no session: {outcome}")
    return outcome


def reason(outcome: Established | Rejected | None) -> Reject:
    if not isinstance(outcome, Rejected):
        raise AssertionError(f"no refusal: {outcome}")
    return outcome.reason


def with_network(of: Setup, **changes: object) -> Setup:
    return replace(of, network=replace(of.network, **changes))  # type: ignore[arg-type] # a test names a field and its value
