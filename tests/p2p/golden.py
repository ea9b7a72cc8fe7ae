"""Records golden handshakes once, and replays them for ever: signing is hedged and encapsulation takes no seed, so both
are injected. The format is described in tests/vectors/handshake/README.md.

    python -m tests.p2p.golden          writes the vectors anew; look at the difference before you keep it
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from hashlib import sha3_256
from pathlib import Path

from p2p.handshake import Clock, Dialer, Established, Listener, LocalIdentity, Network, Reject, Setup
from p2p.handshake.certificates import CertificateBook
from p2p.handshake.setup import Signer
from tests.p2p.kit import GENESIS, LIMITS, WALL_S, Transcript, converse, key, network, seed
from trellis.crypto.aead import Suite
from trellis.crypto.algorithms import AlgId
from trellis.crypto.cold import HotKey, certify, decode_cold_certificate
from trellis.crypto.kem import Encapsulation, KemKey
from trellis.crypto.kem import encapsulate as fresh_encapsulation
from trellis.crypto.policy import Role
from trellis.crypto.schemes import scheme

FOLDER = Path(__file__).resolve().parents[1] / "vectors" / "handshake"


@dataclass
class ReplayedKem:
    """The dialer's keys from their seeds, the listener's answer as it was recorded; a missing answer is drawn once."""

    mlkem_seed: bytes
    x25519_secret: bytes
    answer: Encapsulation | None = None

    def generate(self) -> KemKey:
        return KemKey.from_seed(self.mlkem_seed, self.x25519_secret)

    def encapsulate(self, ek: bytes, x_peer: bytes) -> Encapsulation:
        if self.answer is None:
            self.answer = fresh_encapsulation(ek, x_peer)
        return self.answer


@dataclass
class ReplayedSigner:
    """Answers with the recorded signature of the recorded message, and knows no other."""

    alg_id: AlgId
    secret: bytes
    known: dict[bytes, bytes]
    recording: bool = False

    @property
    def public_key(self) -> bytes:
        return scheme(self.alg_id).from_secret(self.secret).public_key

    def sign(self, message: bytes, context: bytes) -> bytes:
        asked = sha3_256(context + b"|" + message).digest()
        if self.recording and asked not in self.known:
            self.known[asked] = scheme(self.alg_id).from_secret(self.secret).sign(message, context)
        return self.known[asked]


@dataclass
class Side:
    setup: Setup
    kem: ReplayedKem
    signer: ReplayedSigner


def side(
    name: str,
    net: Network,
    alg: AlgId,
    *,
    refuse: Reject | None = None,
    known: dict[bytes, bytes] | None = None,
    answer: Encapsulation | None = None,
    certificate: bytes = b"",
) -> Side:
    """One end whose every random choice is fixed by its name, but for what is recorded."""
    signer = ReplayedSigner(alg, seed(f"golden/{name}"), {} if known is None else known, recording=known is None)
    kem = ReplayedKem(seed(f"{name}/d") + seed(f"{name}/z"), seed(f"{name}/x"), answer)
    made = Setup(
        network=net,
        local=local_identity(signer, certificate),
        clock=Clock(lambda: 0, lambda: WALL_S),
        random=lambda size: seed(f"{name}/nonce")[:size],
        kem=kem,
        certificates=CertificateBook(net.genesis_hash),
        admit=lambda _peer: refuse,
        limits=LIMITS,
    )
    return Side(made, kem, signer)


@dataclass(frozen=True)
class Case:
    name: str
    alg_dialer: AlgId
    alg_listener: AlgId
    suites_dialer: tuple[Suite, ...]
    suites_listener: tuple[Suite, ...]
    psk: bytes | None = None
    refuse: Reject | None = None
    certified: bool = False
    """The listener's key is certified by a cold one."""


CHACHA, AES = Suite.CHACHA20_POLY1305, Suite.AES_256_GCM
CASES = (
    Case("ml-dsa-65-chacha20", AlgId.ML_DSA_65, AlgId.ML_DSA_65, (CHACHA, AES), (CHACHA, AES)),
    Case("ml-dsa-87-aes-256", AlgId.ML_DSA_87, AlgId.ML_DSA_87, (CHACHA, AES), (AES,)),
    Case("mixed-psk", AlgId.ML_DSA_65, AlgId.ML_DSA_87, (AES, CHACHA), (CHACHA, AES), psk=seed("golden/psk")),
    Case("cold-certified", AlgId.ML_DSA_65, AlgId.ML_DSA_65, (CHACHA,), (CHACHA,), certified=True),
    Case("not-a-member", AlgId.ML_DSA_65, AlgId.ML_DSA_65, (CHACHA,), (CHACHA,), refuse=Reject.NOT_A_MEMBER),
)


def ends(case: Case, vector: dict[str, object] | None = None) -> tuple[Side, Side]:
    """Both sides of a case: recording without a vector, replaying with one."""
    known = answer = None
    if vector is not None:
        signatures = vector["signatures"]
        kem = vector["encapsulation"]
        if not isinstance(signatures, dict) or not isinstance(kem, dict):
            raise TypeError("the vector is not in its format")
        known = {bytes.fromhex(asked): bytes.fromhex(given) for asked, given in signatures.items()}
        answer = Encapsulation(*(bytes.fromhex(kem[part]) for part in ("ciphertext", "x_public", "shared")))
    nets = [network(case.psk, suites) for suites in (case.suites_dialer, case.suites_listener)]
    dialer = side("dialer", nets[0], case.alg_dialer, known=known)
    certificate = cold_certificate() if case.certified else b""
    listener = side(
        "listener", nets[1], case.alg_listener, refuse=case.refuse, known=known, answer=answer, certificate=certificate
    )
    return dialer, listener


def local_identity(signer: Signer, certificate: bytes = b"") -> LocalIdentity:
    """Named by its own key, or by the cold key of its certificate."""
    if not certificate:
        return LocalIdentity.of(signer)
    return LocalIdentity(signer, decode_cold_certificate(certificate).cold_peer_id, certificate)


def hot_key(holder: AlgId, public_key: bytes, serial: int) -> HotKey:
    """What the recorded certificates say: valid from an hour before the tests' time, for six days."""
    start = WALL_S - 3_600
    return HotKey(GENESIS, Role.NETWORK_IDENTITY, holder, public_key, start, start + 6 * 86_400, serial)


def cold_certificate(name: str = "listener", serial: int = 7) -> bytes:
    """A recorded certificate: SLH-DSA takes a second or more to sign. Held by the golden listener's key, or by a
    test's key of that name."""
    recorded = json.loads((FOLDER / "cold-certificates.json").read_text())["certificates"]
    return bytes.fromhex(recorded[f"{name}/{serial}"])


def record_certificates() -> dict[str, object]:
    cold = scheme(AlgId.SLH_DSA_SHAKE_128S).generate()
    holders = {
        "listener": scheme(AlgId.ML_DSA_65).from_secret(seed("golden/listener")).public_key,
        "hot": key("hot").public_key,
        "next-hot": key("next-hot").public_key,
    }
    wanted = (("listener", 7), ("hot", 7), ("next-hot", 8))
    made = {
        f"{name}/{serial}": certify(
            hot_key(AlgId.ML_DSA_65, holders[name], serial), cold.alg_id, cold.public_key, cold.sign
        ).encode()
        for name, serial in wanted
    }
    return {
        "cold_alg": int(cold.alg_id),
        "cold_public_key": cold.public_key.hex(),
        "cold_secret": cold.secret().hex(),
        "certificates": {name: value.hex() for name, value in made.items()},
    }


def run(dialer: Side, listener: Side) -> Transcript:
    return converse(Dialer(dialer.setup, listener.setup.local.peer), Listener(listener.setup))


def record(case: Case) -> dict[str, object]:
    dialer, listener = ends(case)
    said = run(dialer, listener)
    answer = listener.kem.answer
    if answer is None:
        raise ValueError(f"{case.name}: nothing was encapsulated")
    vector: dict[str, object] = {
        "name": case.name,
        "network": {
            "genesis_hash": dialer.setup.network.genesis_hash.hex(),
            "policy_root": dialer.setup.network.policy_root.hex(),
            "psk": (case.psk or b"").hex(),
            "psk_id": dialer.setup.network.psk_id.hex(),
            "th0": dialer.setup.network.th0.hex(),
        },
        "dialer": _describe(dialer),
        "listener": _describe(listener),
        "encapsulation": {
            "ciphertext": answer.ciphertext.hex(),
            "x_public": answer.x_public.hex(),
            "shared": answer.shared.hex(),
        },
        "signatures": {
            asked.hex(): given.hex() for asked, given in sorted((dialer.signer.known | listener.signer.known).items())
        },
        "frames": [frame.hex() for frame in said.frames],
        "outcome": outcome(said),
    }
    return vector


def _describe(end: Side) -> dict[str, object]:
    return {
        "alg": int(end.signer.alg_id),
        "seed": end.signer.secret.hex(),
        "peer_id": end.setup.local.peer.hex(),
        "suites": [int(suite) for suite in end.setup.network.suites],
        "certificate": end.setup.local.certificate.hex(),
        "nonce": end.setup.random(32).hex(),
        "mlkem_seed": end.kem.mlkem_seed.hex(),
        "x25519_secret": end.kem.x25519_secret.hex(),
    }


def outcome(said: Transcript) -> dict[str, object]:
    """How both sides ended, as the vector writes it."""
    dialer, listener = said.dialer, said.listener
    if isinstance(dialer, Established) and isinstance(listener, Established):
        return {
            "suite": int(dialer.suite),
            "ak_I": dialer.send_key.hex(),
            "ak_R": listener.send_key.hex(),
            "exporter": dialer.exporter.hex(),
            "limits": dialer.limits.encoded().hex(),
        }
    return {"dialer": _reason(dialer), "listener": _reason(listener)}


def _reason(end: object) -> str | None:
    found = getattr(end, "reason", None)
    return found.name if isinstance(found, Reject) else None


def vector_of(case: Case) -> dict[str, object]:
    loaded: dict[str, object] = json.loads((FOLDER / f"{case.name}.json").read_text())
    return loaded


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "cold-certificates.json").write_text(json.dumps(record_certificates(), indent=1) + "\n")
    for case in CASES:
        (FOLDER / f"{case.name}.json").write_text(json.dumps(record(case), indent=1) + "\n")


if __name__ == "__main__":
    main()
