"""The post-quantum handshake `/trellis/pq/1` as a sans-IO state machine: bytes in, bytes out.

Two machines, `Dialer` and `Listener`, each made for one connection from a `Setup` that all of them share:

    dialer = Dialer(setup, peer_id_of_the_listener)
    send(dialer.start())
    while True:
        step = dialer.receive(read())          # any bytes, in any pieces
        send(step.send)
        match step.outcome:
            case Established(): ...            # the keys: hand them to p2p.records
            case Rejected(): ...               # close; the reason is from a closed set
            case None: continue

A listener is driven the same way without `start()`. The host's duties: stop reading after `HANDSHAKE_TIMEOUT_MS` and
call `expire()`; call `end_of_stream()` when the peer hangs up; send `step.send` even when the outcome is a refusal, as
it may be an M4 that says why. Where to start reading: `messages` (bytes), `schedule` (keys), `proof` (identities), then
`dialer` and `listener`. Nothing here knows sockets, trio or libp2p; time, randomness, KEM and signatures come from the
`Setup`.
"""

from __future__ import annotations

from p2p.handshake.dialer import Dialer
from p2p.handshake.listener import Listener
from p2p.handshake.messages import PeerLimits
from p2p.handshake.outcome import Established, Rejected, RemotePeer, Step
from p2p.handshake.reject import Reject
from p2p.handshake.schedule import PROTOCOL
from p2p.handshake.setup import HANDSHAKE_TIMEOUT_MS, SESSION_LIFETIME_S, Clock, LocalIdentity, Network, Setup

__all__ = [
    "HANDSHAKE_TIMEOUT_MS",
    "PROTOCOL",
    "SESSION_LIFETIME_S",
    "Clock",
    "Dialer",
    "Established",
    "Listener",
    "LocalIdentity",
    "Network",
    "PeerLimits",
    "Reject",
    "Rejected",
    "RemotePeer",
    "Setup",
    "Step",
]
