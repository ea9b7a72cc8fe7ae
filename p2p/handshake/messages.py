"""The four messages, byte for byte: frames, fixed layouts, caps. Decoders raise `DecodeError` and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from trellis.constants import MAX_PEER_ID_BYTES
from trellis.crypto.algorithms import SIZES
from trellis.crypto.cold import MAX_CERTIFICATE_BYTES
from trellis.crypto.kem import CIPHERTEXT_BYTES, EK_BYTES, X25519_BYTES
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole

VERSION: Final = 1
FRAME_HEADER_BYTES: Final = 4
NET_TAG_BYTES: Final = 8
NONCE_BYTES: Final = 32
MAC1_BYTES: Final = 16
MAC_BYTES: Final = 32

M1_TYPE: Final = 1
M2_TYPE: Final = 2
M3_TYPE: Final = 3
M4_TYPE: Final = 4

MAX_BODY_BYTES: Final = {M1_TYPE: 4 << 10, M2_TYPE: 32 << 10, M3_TYPE: 32 << 10, M4_TYPE: 1 << 10}
"""Checked on the four bytes of the frame's header: an unauthenticated peer cannot make us hold more than this."""

MAX_SUITES: Final = 16
"""A longer offer is a probe, not a peer."""

_BIGGEST_KEY: Final = max(sizes.public_key_bytes for sizes in SIZES.values())
_BIGGEST_SIGNATURE: Final = max(sizes.signature_bytes for sizes in SIZES.values())
MAX_EXTENSION_BYTES: Final = 1 << 10
MAX_LIMITS_BYTES: Final = 256

M2_HEAD_BYTES: Final = 2 + NONCE_BYTES + CIPHERTEXT_BYTES + X25519_BYTES
"""Everything of M2's body before its AEAD."""


def frame(kind: int, body: bytes) -> bytes:
    """type u8 ‖ length u24 ‖ body."""
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


@dataclass(frozen=True, slots=True)
class M1:
    """The dialer's offer."""

    version: int
    net_tag: bytes
    suites: tuple[int, ...]
    nonce: bytes
    ek: bytes
    x_public: bytes
    mac1: bytes

    def unmacked(self) -> bytes:
        """type ‖ body up to mac1: what mac1 covers."""
        writer = Writer().u8(M1_TYPE).u16(self.version).fixed(self.net_tag, NET_TAG_BYTES).u8(len(self.suites))
        for suite in self.suites:
            writer.u16(suite)
        return writer.fixed(self.nonce, NONCE_BYTES).fixed(self.ek, EK_BYTES).fixed(self.x_public, X25519_BYTES).done()


def decode_m1(body: bytes) -> M1:
    def read(reader: Reader) -> M1:
        version = reader.u16("version")
        if version != VERSION:
            # Only the version's place is common to all versions: nothing after it may be read.
            raise DecodeError(Malformed.UNKNOWN_VERSION, f"handshake version {version}")
        net_tag = reader.fixed(NET_TAG_BYTES, "net_tag")
        number = reader.u8("n_suites")
        if not 0 < number <= MAX_SUITES:
            raise DecodeError(Malformed.TOO_MANY, f"{number} suites, 1 to {MAX_SUITES} may be offered")
        suites = tuple(reader.u16("suite") for _ in range(number))
        return M1(
            version=version,
            net_tag=net_tag,
            suites=suites,
            nonce=reader.fixed(NONCE_BYTES, "nonce_I"),
            ek=reader.fixed(EK_BYTES, "ek"),
            x_public=reader.fixed(X25519_BYTES, "x_I"),
            mac1=reader.fixed(MAC1_BYTES, "mac1"),
        )

    return decode_whole(body, "M1", MAX_BODY_BYTES[M1_TYPE], read)


@dataclass(frozen=True, slots=True)
class M2Head:
    """The listener's answer up to its AEAD."""

    suite: int
    nonce: bytes
    ciphertext: bytes
    x_public: bytes

    def encoded(self) -> bytes:
        return (
            Writer()
            .u16(self.suite)
            .fixed(self.nonce, NONCE_BYTES)
            .fixed(self.ciphertext, CIPHERTEXT_BYTES)
            .fixed(self.x_public, X25519_BYTES)
            .done()
        )


def decode_m2(body: bytes) -> tuple[M2Head, bytes]:
    """The head, and the sealed identity that follows it."""
    reader = Reader(body)
    head = M2Head(
        suite=reader.u16("suite"),
        nonce=reader.fixed(NONCE_BYTES, "nonce_R"),
        ciphertext=reader.fixed(CIPHERTEXT_BYTES, "ct"),
        x_public=reader.fixed(X25519_BYTES, "x_R"),
    )
    return head, reader.fixed(reader.remaining_bytes, "sealed identity")


@dataclass(frozen=True, slots=True)
class IdentityProof:
    """What each side seals: who it is, and the signature and MAC that prove it."""

    alg: int
    public_key: bytes
    certificate: bytes
    extensions: bytes
    signature: bytes
    mac: bytes

    def encoded(self) -> bytes:
        return (
            Writer()
            .lp(bytes([self.alg]))
            .lp(self.public_key)
            .lp(self.certificate)
            .lp(self.extensions)
            .lp(self.signature)
            .lp(self.mac)
            .done()
        )


def decode_identity(plaintext: bytes) -> IdentityProof:
    def read(reader: Reader) -> IdentityProof:
        alg = reader.lp("alg", 1)
        if len(alg) != 1:
            raise DecodeError(Malformed.WRONG_SIZE, "alg is one byte")
        public_key = reader.lp("pk", _BIGGEST_KEY)
        certificate = reader.lp("cert", MAX_CERTIFICATE_BYTES)
        extensions = reader.lp("ext", MAX_EXTENSION_BYTES)
        signature = reader.lp("sig", _BIGGEST_SIGNATURE)
        mac = reader.lp("mac", MAC_BYTES)
        if len(mac) != MAC_BYTES:
            raise DecodeError(Malformed.WRONG_SIZE, f"mac has {MAC_BYTES} bytes")
        return IdentityProof(alg[0], public_key, certificate, extensions, signature, mac)

    return decode_whole(plaintext, "identity", MAX_BODY_BYTES[M3_TYPE], read)


@dataclass(frozen=True, slots=True)
class PeerLimits:
    """What the listener tells the dialer in M4, accepted or not."""

    max_streams: int
    """Streams that the dialer may have open towards the listener at once."""
    session_lifetime_s: int
    """After this the dialer opens a new connection, for fresh KEM shares."""
    retry_after_ms: int
    """Of a refusal: how long to stay away. 0 of an acceptance."""

    def encoded(self) -> bytes:
        return Writer().u16(self.max_streams).u32(self.session_lifetime_s).u32(self.retry_after_ms).done()


@dataclass(frozen=True, slots=True)
class Verdict:
    """M4's plaintext."""

    code: int
    limits: PeerLimits

    def encoded(self) -> bytes:
        return Writer().lp(bytes([self.code])).lp(self.limits.encoded()).done()


def decode_verdict(plaintext: bytes) -> Verdict:
    def read(reader: Reader) -> Verdict:
        code = reader.lp("code", 1)
        if len(code) != 1:
            raise DecodeError(Malformed.WRONG_SIZE, "code is one byte")
        return Verdict(code[0], decode_whole(reader.lp("limits", MAX_LIMITS_BYTES), "limits", MAX_LIMITS_BYTES, limits))

    def limits(reader: Reader) -> PeerLimits:
        return PeerLimits(reader.u16("max_streams"), reader.u32("session_lifetime_s"), reader.u32("retry_after_ms"))

    return decode_whole(plaintext, "M4", MAX_BODY_BYTES[M4_TYPE], read)


class FrameBuffer:
    """Collects one message at a time and holds no more than that message may measure, plus what one read brought."""

    __slots__ = ("_data",)

    def __init__(self) -> None:
        self._data = bytearray()

    def feed(self, data: bytes) -> None:
        self._data += data

    @property
    def held_bytes(self) -> int:
        return len(self._data)

    def kind(self) -> int | None:
        """The type byte of the message that is arriving."""
        return self._data[0] if self._data else None

    def body_bytes(self) -> int | None:
        """The length that the message claims, as soon as its header is here."""
        return int.from_bytes(self._data[1:4], "big") if len(self._data) >= FRAME_HEADER_BYTES else None

    def missing_bytes(self) -> int:
        """How many bytes until the message (or its header) is complete."""
        body = self.body_bytes()
        return FRAME_HEADER_BYTES - len(self._data) if body is None else FRAME_HEADER_BYTES + body - len(self._data)

    def take(self) -> bytes:
        """The complete message's body."""
        body = self.body_bytes()
        if body is None or self.missing_bytes() > 0:
            raise ValueError("the message is not complete")
        end = FRAME_HEADER_BYTES + body
        taken = bytes(self._data[FRAME_HEADER_BYTES:end])
        del self._data[:end]
        return taken

    def rest(self) -> bytes:
        """Everything that came after the last message taken."""
        left = bytes(self._data)
        self._data.clear()
        return left


def check_peer_id_size(peer: bytes) -> None:
    if not 0 < len(peer) <= MAX_PEER_ID_BYTES:
        raise ValueError(f"a peer id has 1 to {MAX_PEER_ID_BYTES} bytes, not {len(peer)}")
