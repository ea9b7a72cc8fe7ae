"""One production replica as a state machine whose states can be told apart: what the searches walk over.

A search visits the same replica in the same state a thousand times, in a thousand different networks. So each distinct
state is kept once, with the replica in it, and what a message does to it is computed once.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Any, Final

from consensus import Replica, Rule, authenticate
from consensus.effects import (
    Accuse,
    ArmTimer,
    Broadcast,
    CheckBlock,
    Decide,
    DisarmTimer,
    Effect,
    Halt,
    Persist,
    RequestBlock,
    RequestCatchUp,
    TimerId,
    TimerKind,
    VotingMessage,
    signed_by,
)
from consensus.events import (
    BlockChecked,
    BlockProposed,
    Event,
    HeightStarted,
    MessageReceived,
    TimerFired,
    WorkPending,
)
from consensus.records import Accepted, Locked, Record
from node.simulator.keys import KeyRing
from trellis.certificate import Certificate
from trellis.constants import Context
from trellis.header import NOTE_ROOT_EMPTY, PROOF_COMMITMENT_EMPTY, SEAL_NONE, Header
from trellis.messages import Message
from trellis.parameters import DEFAULTS
from trellis.schedule import first_schedule
from trellis.types import ZERO_HASH, Hash, Height, View
from trellis.validators import make_validator_set
from trellis.votes import SignedVote, Vote

HEIGHT: Final = Height(1)
GENESIS: Final = Hash(b"searched".ljust(32, b"\0"))
_IRRELEVANT: Final = frozenset({"out", "_out", "_serial", "reputation", "pacemaker", "_answers", "detector", "own"})
"""Nothing in them decides what is signed: the tray of effects, serials and lengths of timers, scores, the votes that
evidence is looked for in, and what would be sent again."""

_NAMES_ONLY: Final = frozenset({"_armed", "blocks"})
"""What stands under a name there follows from the name."""


class Council:
    """Validators of equal power at height 1, numbered by the views that they lead, and the blocks they may propose."""

    def __init__(self, members: int = 4) -> None:
        self.ring = KeyRing(members)
        self.validators = make_validator_set(key.validator(1) for key in self.ring.keys)
        schedule = first_schedule(self.validators)
        by_address = {key.address: key for key in self.ring.keys}
        self.keys = tuple(by_address[address] for address in schedule.order(self.validators))
        self.number = {key.address: number for number, key in enumerate(self.keys)}
        self.started = HeightStarted(HEIGHT, self.validators, schedule, DEFAULTS, None)
        self.blocks: dict[Hash, Header] = {}
        self._made: dict[tuple[int, int, int], Header] = {}
        self._signed: dict[tuple[int, Vote], SignedVote] = {}
        self._known: dict[VotingMessage, VotingMessage] = {}
        self._deliveries: dict[tuple[int, ...], Delivery] = {}

    def is_quorum(self, number: int) -> bool:
        """Counted here, not by the core: a search that shared a mistake with it would not see it."""
        return 3 * number > 2 * len(self.keys)

    def block(self, proposer: int, view: int, variant: int = 0) -> Header:
        place = (proposer, view, variant)
        if place not in self._made:
            header = Header(
                genesis_hash=GENESIS,
                height=HEIGHT,
                view=View(view),
                timestamp_ms=variant + 1,
                parent_hash=GENESIS,
                parent_certificate_hash=ZERO_HASH,
                tx_root=ZERO_HASH,
                witness_root=ZERO_HASH,
                state_root=ZERO_HASH,
                note_root=NOTE_ROOT_EMPTY,
                proof_commitment=PROOF_COMMITMENT_EMPTY,
                validators_hash=self.validators.hash,
                next_validators_hash=self.validators.hash,
                params_hash=ZERO_HASH,
                engine_seal_hash=SEAL_NONE,
                proposer=self.keys[proposer].address,
            )
            self._made[place] = self.blocks[header.hash] = header
        return self._made[place]

    def name(self, block_hash: Hash) -> str:
        """For people: who made it, in which view, which of its blocks."""
        header = self.blocks[block_hash]
        return f"{'XYZ'[header.timestamp_ms - 1]}{header.view}"

    def sign(self, who: int, vote: Vote) -> SignedVote:
        known = self._signed.get((who, vote))
        if known is None:
            key = self.keys[who]
            signature = key.sign(vote.signing_bytes(GENESIS), Context.VOTE.value)
            known = self._signed[who, vote] = SignedVote(vote, key.address, signature)
        return known

    def one(self, message: VotingMessage) -> VotingMessage:
        """The same object for the same message, so that messages can be told apart by identity."""
        return self._known.setdefault(message, message)

    def delivery(self, messages: tuple[Message, ...], told: str) -> Delivery:
        """Messages are told apart by identity: those of votes come from `one`."""
        place = tuple(map(id, messages))
        known = self._deliveries.get(place)
        if known is None:
            # It keeps the messages, so no other object ever takes their identity.
            known = self._deliveries[place] = Delivery(len(self._deliveries), messages, told)
        return known

    def authenticated(self, message: VotingMessage) -> VotingMessage | None:
        """What a host would feed, None if it would refuse it."""
        answer = authenticate(message, GENESIS, self.validators, self.ring.verify)
        return None if isinstance(answer, Rule) or not isinstance(answer, VotingMessage) else self.one(answer)


@dataclass(frozen=True, slots=True, eq=False)
class Delivery:
    """Messages that reach one validator together."""

    number: int
    messages: tuple[Message, ...]
    told: str


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Where one validator is. `replica` is never stepped: only copies of it are."""

    number: int
    said: int
    """The number of `sent` among all that this validator was ever seen to have signed."""
    replica: Replica
    view: View
    sent: tuple[VotingMessage, ...]
    """Everything it ever signed at this height, in order."""
    records: tuple[Record, ...]
    timer: TimerId | None
    """The armed timer of its view."""
    decided: Certificate | None
    halted: bool
    accused: tuple[int, ...]
    """Whom the step that led here first accused."""


class Machine:
    """All states in which one validator was seen."""

    def __init__(
        self,
        council: Council,
        me: int,
        last_view: int,
        *,
        variant: int = 0,
        keep_proofs: bool = False,
        keep_all: bool = False,
    ) -> None:
        """`variant`: which of its blocks it proposes.

        `keep_proofs`: tell states apart by the very signatures in their logs, which is what blame is found in.
        `keep_all`: also states that differ only in messages that moved nothing yet.
        """
        self.council = council
        self.me = me
        self.last_view = last_view
        self.variant = variant
        self._keep_proofs = keep_proofs
        self._keep_all = keep_all
        self._states: dict[Any, State] = {}
        self._known: dict[tuple[int, int], State] = {}
        self._said: dict[tuple[int, ...], int] = {}
        self._restarted: dict[int, State] = {}
        self.by_number: list[State] = []
        address = council.keys[me].address
        fresh = _Step(self, Replica(address, GENESIS), (), (), None)
        self.first = self._settled(fresh, (council.started, WorkPending(overdue=True)))

    def __len__(self) -> int:
        return len(self.by_number)

    def hears(self, state: State, delivery: Delivery) -> State:
        """The state after these messages; the same one if they make it neither sign, nor log, nor arm its timer.

        What moves nothing is as good as not yet delivered: it may come again with what completes it.
        """
        place = (state.number, delivery.number)
        known = self._known.get(place)
        if known is None:
            events = tuple(MessageReceived(message, None) for message in delivery.messages)
            known = self._known[place] = self._after(state, events)
        return known

    def times_out(self, state: State) -> State:
        place = (state.number, -1)
        known = self._known.get(place)
        if known is None:
            if state.timer is None:
                raise ValueError("no timer is armed in this state")
            known = self._known[place] = self._after(state, (TimerFired(state.timer),))
        return known

    def restarts(self, state: State) -> State:
        """Everything but the log is lost."""
        known = self._restarted.get(state.number)
        if known is None:
            address = self.council.keys[self.me].address
            replica = Replica.restore(address, GENESIS, state.records)
            step = _Step(self, replica, state.sent, state.records, None)
            known = self._settled(step, (self.council.started, WorkPending(overdue=True)))
            self._restarted[state.number] = known
        return known

    def _after(self, state: State, events: tuple[Event, ...]) -> State:
        step = _Step(self, _copy(state.replica, {}), state.sent, state.records, state.timer, state.decided)
        step.run(events)
        return self._intern(step) if step.moved or self._keep_all else state

    def _settled(self, step: _Step, events: tuple[Event, ...]) -> State:
        step.run(events)
        return self._intern(step)

    def _intern(self, step: _Step) -> State:
        log: Any = step.records if self._keep_proofs else tuple(map(_told, step.records))
        said = self._said.setdefault(tuple(map(id, step.sent)), len(self._said))
        fingerprint = (_frozen(step.replica, {}), said, log, _frozen(step.decided, {}), step.accused)
        known = self._states.get(fingerprint)
        if known is None:
            known = State(
                len(self.by_number),
                said,
                step.replica,
                step.replica.view,
                step.sent,
                step.records,
                step.timer,
                step.decided,
                step.halted,
                step.accused,
            )
            self._states[fingerprint] = known
            self.by_number.append(known)
        return known


class _Step:
    """Carries out the effects of a replica: every block is valid and at hand, every append durable at once."""

    def __init__(
        self,
        machine: Machine,
        replica: Replica,
        sent: tuple[VotingMessage, ...],
        records: tuple[Record, ...],
        timer: TimerId | None,
        decided: Certificate | None = None,
    ) -> None:
        self.machine, self.council, self.me = machine, machine.council, machine.me
        self.replica, self.sent, self.records, self.timer = replica, sent, records, timer
        self.decided = decided
        self.halted = False
        self.moved = False
        self.accused: tuple[int, ...] = ()
        self._events: deque[Event] = deque()

    def run(self, events: tuple[Event, ...]) -> None:
        """Each event with all that follows from it at once: own votes come back, blocks are made and checked."""
        for event in events:
            self._events.append(event)
            while self._events and not self.halted:
                for effect in self.replica.step(self._events.popleft()):
                    self._do(effect)

    def _do(self, effect: Effect) -> None:
        match effect:
            case Persist():
                self.records += (effect.record,)
            case Broadcast():
                self._sign(effect.message)
            case CheckBlock():
                self._events.append(BlockChecked(effect.height, effect.view, effect.block_hash, True))
            case RequestBlock():
                header = self.council.block(self.me, effect.view, self.machine.variant)
                if effect.block_hash is not None:
                    header = self.council.blocks[effect.block_hash]
                self._events.append(BlockProposed(effect.height, effect.view, header, None, b""))
            case ArmTimer() if effect.timer.kind is TimerKind.VIEW:
                self.timer = effect.timer
                if self.replica.view >= self.machine.last_view:
                    return
            case DisarmTimer() if effect.kind is TimerKind.VIEW:
                self.timer = None
            case Decide():
                self.decided = effect.certificate
            case RequestCatchUp() if effect.certificate is not None:
                # Its host fetches the block, and applies it under this certificate.
                self.decided = effect.certificate
            case Halt():
                self.halted = True
            case Accuse():
                self.accused += (self.council.number[effect.evidence.offender],)
                return
            case _:
                return
        self.moved = True

    def _sign(self, message: VotingMessage) -> None:
        signed = self.council.sign(self.me, message.signed.vote)
        complete = self.council.one(signed_by(message, signed.signature))
        if complete not in self.sent:
            self.sent += (complete,)
        self._events.append(MessageReceived(complete, signed.signer))


@cache
def _slots(kind: Any) -> tuple[str, ...] | None:
    """Of an object of the core, which may change; None for what is shared with the protocol layer, or frozen."""
    frozen = getattr(getattr(kind, "__dataclass_params__", None), "frozen", False)
    if frozen or issubclass(kind, Enum) or not kind.__module__.startswith("consensus."):
        return None
    return tuple(name for base in kind.__mro__ for name in getattr(base, "__slots__", ()))


def _copy(value: Any, seen: dict[int, Any]) -> Any:
    """Deep where something may change; `copy.deepcopy` would copy every signature too, at twenty times the cost."""
    kind: Any = type(value)
    if kind is dict:
        return {key: _copy(item, seen) for key, item in value.items()}
    if kind is list:
        if id(value) not in seen:
            seen[id(value)] = [_copy(item, seen) for item in value]
        return seen[id(value)]
    slots = _slots(kind)
    if slots is None:
        return value
    if id(value) not in seen:
        twin = seen[id(value)] = kind.__new__(kind)
        for name in slots or vars(value):
            setattr(twin, name, _copy(getattr(value, name), seen))
    return seen[id(value)]


def _told(record: Record) -> Any:
    """What a log record says, whoever signed the proof."""
    match record:
        case Accepted(proposal):
            return (proposal.signed.vote, proposal.justification == ())
        case Locked(certificate):
            return certificate.vote
        case _:
            return record


def _frozen(value: Any, seen: dict[int, int]) -> Any:
    """A hashable value, equal for replicas that will act alike. One certificate of a vote is as good as another."""
    kind: Any = type(value)
    if kind is Certificate:
        return value.vote
    if kind is dict:
        return frozenset((key, _frozen(item, seen)) for key, item in value.items())
    if kind is list:
        return tuple(_frozen(item, seen) for item in value)
    slots = _slots(kind)
    if slots is None:
        return value
    if id(value) in seen:
        return seen[id(value)]
    seen[id(value)] = len(seen)
    return tuple(
        frozenset(getattr(value, name)) if name in _NAMES_ONLY else _frozen(getattr(value, name), seen)
        for name in slots or vars(value)
        if name not in _IRRELEVANT
    )
