"""What a host tells the core. A closed set: `Event`.

An event is a fact that the host has already made true; every docstring says which.
"""

from __future__ import annotations

from dataclasses import dataclass

from consensus.effects import TimerId
from trellis.certificate import Certificate
from trellis.header import Header
from trellis.messages import Message
from trellis.parameters import Parameters
from trellis.schedule import Schedule
from trellis.types import Address, Hash, Height, View
from trellis.validators import ValidatorSet


@dataclass(frozen=True, slots=True)
class HeightStarted:
    """Height − 1 is committed and executed (rule C1); all that follows was read from the state after it.

    The first event of a replica, then one after every `Decide` and after every catch-up that passed the own height.
    """

    height: Height
    validators: ValidatorSet
    """V(height)."""
    schedule: Schedule
    parameters: Parameters
    parent_certificate: Certificate | None
    """The best certificate of height − 1 that the host holds; None at height 1."""


@dataclass(frozen=True, slots=True)
class MessageReceived:
    """A message that passed `consensus.checks.authenticate`: every signature and certificate in it was verified.

    Not the parent certificate of a `Proposal`: that belongs to the block, and is verified before `BlockChecked`.
    """

    message: Message
    sender: Address | None
    """The validator whose lane brought it; None if it came another way (gossip). Votes count by signer, not by this."""


@dataclass(frozen=True, slots=True)
class BlockProposed:
    """The answer to `RequestBlock`: a fresh block this host made, or the requested block of that hash, byte-identical.

    The body is durable and can be served. A block that comes too late for its view is ignored.
    """

    height: Height
    view: View
    """Of the request."""
    header: Header
    parent_certificate: Certificate | None
    body: bytes
    """The compact body."""


@dataclass(frozen=True, slots=True)
class BlockChecked:
    """The answer to `CheckBlock`. With valid=True the body is durable; for a fresh block the clock rule held too."""

    height: Height
    view: View
    """Of the request."""
    block_hash: Hash
    valid: bool


@dataclass(frozen=True, slots=True)
class WorkPending:
    """There is something to put in a block. Told anew at every height, as long as it is so."""

    overdue: bool
    """Older than the block interval *and* already forwarded to all validators: arms view 0 (rule C11)."""


@dataclass(frozen=True, slots=True)
class LaneChanged:
    """The direct lane to a validator opened (also after a reconnect) or closed."""

    validator: Address
    is_open: bool


@dataclass(frozen=True, slots=True)
class QuorumRtt:
    """The smallest round-trip time within which quorum power, this node included, answered lately."""

    rtt_ms: int


@dataclass(frozen=True, slots=True)
class TimerFired:
    """The delay of an `ArmTimer` passed."""

    timer: TimerId


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """The answer to `RequestCatchUp`, successful or not. If the chain grew, `HeightStarted` follows at once."""

    height: Height
    """The chain is committed and executed up to here."""


@dataclass(frozen=True, slots=True)
class VotingAllowed:
    """Ends observing: the quarantine of the sign guard is over, or the operator overrode it (risk: slashing)."""


Event = (
    HeightStarted
    | MessageReceived
    | BlockProposed
    | BlockChecked
    | WorkPending
    | LaneChanged
    | QuorumRtt
    | TimerFired
    | CaughtUp
    | VotingAllowed
)
