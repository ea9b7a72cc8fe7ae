"""What operators see: what happened, counted under labels from closed sets, and how a connection is."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from p2p.handshake.reject import Reject
from p2p.muxguard import MuxFault
from p2p.records import RecordFault
from trellis.peerid import peer_id_text
from trellis.types import PeerId

MAX_DURATIONS: Final = 4_096
"""A node that nobody asks for its metrics keeps no more."""


class StreamFault(StrEnum):
    """Why a stream that a peer opened was reset."""

    NO_PROTOCOL = "stream_no_protocol"
    NEGOTIATION_TIMEOUT = "stream_negotiation_timeout"
    TOO_MANY = "stream_too_many"
    HANDLER_FAILED = "stream_handler_failed"
    """The handler of the protocol raised: malformed messages in the stock protocols end so."""
    NEVER_CLOSED = "stream_never_closed"
    """The peer kept its end open after ours was closed."""


class ConnectionEnd(StrEnum):
    """Why an established connection ended, where it was not a record or mux fault."""

    SILENT = "silent"
    """Nothing arrived, not even the answer to a ping."""
    DUPLICATE = "duplicate"
    BROKEN = "broken"
    """libp2p or this package failed unexpectedly: the connection ended instead of the host. Look into the debug log."""
    EXPIRED = "expired"
    """Its lifetime was over: a new one has fresh KEM shares."""


Fault = Reject | RecordFault | MuxFault | StreamFault | ConnectionEnd


def label(fault: Fault) -> str:
    return fault.name.lower() if isinstance(fault, Reject) else str(fault)


@dataclass(slots=True)
class Counters:
    """Read by the health snapshot and by metrics."""

    rejects: Counter[str] = field(default_factory=Counter)
    """Connections and streams that were refused or ended, by reason; this side's verdicts."""
    told: Counter[str] = field(default_factory=Counter)
    """What peers told us in M4 when they refused us."""
    handshakes: int = 0
    handshake_us: int = 0
    """Wall time of those, summed: divide for the mean."""
    handshake_durations_us: deque[int] = field(default_factory=lambda: deque(maxlen=MAX_DURATIONS))
    """Of the newest, for a histogram: whoever keeps one takes them out."""
    dials: int = 0
    failed_dials: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    def handshake(self, duration_us: int) -> None:
        self.handshakes += 1
        self.handshake_us += duration_us
        self.handshake_durations_us.append(duration_us)

    def reject(self, fault: Fault) -> None:
        self.rejects[label(fault)] += 1


@dataclass(frozen=True, slots=True)
class ConnectionHealth:
    """One connection, as operators see it."""

    peer: PeerId
    address: str
    dialled: bool
    """By this side."""
    age_s: int
    rtt_us: int
    """0 until the first ping was answered."""
    silent_ms: int
    bytes_in: int
    bytes_out: int
    streams: int
    validator: bool
    agent: str

    def __str__(self) -> str:
        return f"{peer_id_text(self.peer)} at {self.address}"
