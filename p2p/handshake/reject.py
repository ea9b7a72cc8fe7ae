"""Why a handshake ends without a session. A closed set: it labels counters, and part of it travels in M4."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class Reject(IntEnum):
    """The numbers are the wire codes of M4. Those below 64 are never sent: the peer deserves no answer."""

    # Before the peer has proved anything: the connection is closed without a word.
    TIMEOUT = 1
    """The whole handshake took longer than it may."""
    CLOSED = 2
    """The peer hung up in the middle."""
    FRAME_TOO_LARGE = 3
    UNEXPECTED_FRAME = 4
    """Another message than the one that is due."""
    REFLECTED = 5
    """The dialer got an M1: its own bytes came back, or both sides dialled through one socket."""
    MALFORMED = 6
    UNKNOWN_VERSION = 7
    OTHER_NETWORK = 8
    """Another genesis, algorithm policy or pre-shared key id."""
    BAD_MAC1 = 9
    """The dialer does not know whom it dials, or not the pre-shared key."""
    NO_COMMON_SUITE = 10
    BAD_KEM_SHARE = 11
    BAD_SEAL = 12
    """An AEAD did not open."""
    WRONG_PEER = 13
    """The listener is somebody else than the peer that was dialled."""
    EXTRA_BYTES = 14
    """Bytes followed a message where the protocol has the other side speak next."""
    RATE_LIMITED = 15
    """Too many attempts from this address or its network."""
    HALF_OPEN_FULL = 16
    """Every handshake slot that this address may use is taken."""
    NOT_NEGOTIATED = 17
    """The peer did not agree on the security protocol at all."""

    # After M3 was opened: told to the dialer in M4, under encryption.
    BAD_SIGNATURE = 64
    BAD_MAC = 65
    ALGORITHM_NOT_ALLOWED = 66
    BAD_CERTIFICATE = 67
    CERTIFICATE_EXPIRED = 68
    CERTIFICATE_NOT_YET_VALID = 69
    CERTIFICATE_REPLACED = 70
    """A newer serial of this cold key has been seen."""
    SELF = 71
    NOT_A_MEMBER = 72
    BANNED = 73
    TOO_MANY_CONNECTIONS = 74
    MALFORMED_IDENTITY = 75
    UNKNOWN_EXTENSION = 76
    REFUSED = 77
    """The listener refused for a reason that this version does not know."""

    @property
    def told(self) -> bool:
        """Whether M4 may carry it."""
        return self >= FIRST_TOLD

    @classmethod
    def from_wire(cls, code: int) -> Reject:
        """What M4's code means here: a newer listener may have reasons that this version does not know."""
        found = _BY_CODE.get(code)
        return found if found is not None and found.told else cls.REFUSED


FIRST_TOLD: Final = 64
ACCEPTED_CODE: Final = 0
_BY_CODE: Final[dict[int, Reject]] = {int(reason): reason for reason in Reject}


class RefusedError(Exception):
    """Carries a reason out of the depths of the state machines, which turn it into an outcome: it never leaves them."""

    def __init__(self, reason: Reject, detail: str) -> None:
        super().__init__(f"{reason.name}: {detail}")
        self.reason = reason
        self.detail = detail
