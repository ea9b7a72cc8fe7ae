"""A world: hosts on one heap, one generator of chance, one network. What is pure is computed once for all hosts."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha3_256
from typing import Final, TypeVar

from consensus import Rule, authenticate
from consensus.effects import Observe
from node.simulator import ledger
from node.simulator.checkers import Checkers, SafetyViolation
from node.simulator.heap import Heap
from node.simulator.host import Host, Packet
from node.simulator.keys import KeyRing
from node.simulator.ledger import ChainBlock, LedgerState, Operation, OperationKind, Refused
from node.simulator.network import US_PER_MS, Network
from trellis.evidence import Evidence, encode_evidence
from trellis.messages import Message, Proposal
from trellis.parameters import Parameters
from trellis.types import Address, Hash, Height
from trellis.validators import ValidatorSet

LANE_NOTICE_US: Final = 200 * US_PER_MS
"""A host notices within this that a lane closed or opened."""

RESTART_US: Final = 300 * US_PER_MS
_EVIDENCE_SERIALS: Final = 1 << 62
_MEMO: Final = 4_096


@dataclass(frozen=True, slots=True)
class Scene:
    """What a world starts with."""

    nodes: int
    seed: int
    stakes: tuple[int, ...]
    """One for each node; 0 for a node that may bond later."""
    parameters: Parameters
    byzantine: frozenset[int] = frozenset()


Role = TypeVar("Role", bound=Host)
MakeHost = Callable[["World", int], Host]


@dataclass(slots=True)
class Memory:
    """Answers of pure functions, shared by all hosts of a world; forgotten in whole when it grows."""

    authenticated: dict[tuple[int, Hash], tuple[Message, Message | Rule]] = field(default_factory=dict)
    applied: dict[tuple[Hash, Hash], LedgerState] = field(default_factory=dict)
    refusals: dict[tuple[Hash, Hash, bytes], Refused | None] = field(default_factory=dict)


class World:
    def __init__(self, scene: Scene, make_host: MakeHost = Host) -> None:
        self.scene = scene
        self.chance = random.Random(scene.seed)  # noqa: S311 - a simulation is to be repeatable, not secret
        self.heap = Heap()
        self.network = Network(self.chance)
        self.ring = self.make_ring()
        self.genesis = self.first_state()
        self._index = {key.address: index for index, key in enumerate(self.ring.keys)}
        self.checkers = Checkers(self)
        self.lines: list[str] | None = None
        """The trace, when somebody wants to read it."""
        self.most_events: int | None = None
        """More than so many events are a failure: whatever multiplies, or never waits, would run without end."""
        self.rules: dict[Rule, int] = {}
        self._memory = Memory()
        self._work: dict[int, Operation] = {}
        self._next_serial = 1
        self.hosts: list[Host] = []
        for index in range(scene.nodes):
            self.hosts.append(make_host(self, index))

    def make_ring(self) -> KeyRing:
        """Keys of all who sign anything; the first of them are the hosts'."""
        return KeyRing(self.scene.nodes)

    def first_state(self) -> LedgerState:
        scene = self.scene
        genesis_hash = Hash(sha3_256(b"simulated genesis %d" % scene.seed).digest())
        members = [key.validator(1) for key in self.ring.keys]
        stakes = [(key.address, stake) for key, stake in zip(self.ring.keys, scene.stakes, strict=True)]
        return ledger.genesis_state(genesis_hash, scene.parameters, members, stakes)

    def cast(self, role: type[Role], index: int) -> Role:
        """A host that plays this role here."""
        return role(self, index)

    def start(self) -> None:
        for host in self.hosts:
            host.start()

    # Who is who.

    def index_of(self, address: Address) -> int:
        return self._index[address]

    def others(self, index: int) -> list[int]:
        return [other for other in range(len(self.hosts)) if other != index]

    def lanes_of(self, index: int) -> list[int]:
        """Running hosts that this one reaches, and that reach it."""
        return [
            other
            for other in self.others(index)
            if self.hosts[other].running and self.network.reaches(index, other) and self.network.reaches(other, index)
        ]

    def honest(self) -> list[Host]:
        return [host for host in self.hosts if host.honest]

    # What is sent.

    def send(self, sender: int, receivers: Iterable[int], packet: Packet) -> None:
        if isinstance(packet, Proposal):
            self.checkers.sent(packet)
        network, now_us = self.network, self.heap.now_us
        arrivals: list[tuple[int, int]] = []
        for receiver in receivers:
            if receiver != sender and network.reaches(sender, receiver):
                arrivals += [(now_us + network.delay_us(sender, receiver), receiver) for _ in range(network.copies())]
        self.heap.spread(arrivals, (sender, packet), self._arrive)

    def _arrive(self, receiver: int, content: tuple[int, Packet]) -> None:
        sender, packet = content
        # A cut also loses what is on its way.
        if self.network.reaches(sender, receiver):
            self.hosts[receiver].receive(sender, packet)

    def quorum_rtt_ms(self, index: int) -> int | None:
        """The smallest round trip within which quorum power, the host included, answers now; None if it cannot."""
        host = self.hosts[index]
        validators = host.state.validators
        power = validators.power_of(host.me)
        latency_ms = self.network.weather.latency_ms
        times = sorted(
            (2 * latency_ms + self.network.slow.get(index, 0) + self.network.slow.get(other, 0), other)
            for other in self.lanes_of(index)
        )
        if validators.is_quorum(power):
            return 1
        for rtt_ms, other in times:
            power += validators.power_of(self.hosts[other].me)
            if validators.is_quorum(power):
                return rtt_ms
        return None

    # Pure functions, computed once for all hosts.

    def authenticated(self, message: Message, validators: ValidatorSet) -> Message | Rule:
        key = (id(message), validators.hash)
        known = self._memory.authenticated.get(key)
        if known is not None and known[0] is message:
            return known[1]
        answer = authenticate(message, self.genesis.genesis_hash, validators, self.ring.verify)
        if len(self._memory.authenticated) >= _MEMO:
            self._memory.authenticated.clear()
        self._memory.authenticated[key] = (message, answer)
        return answer

    def refusal(self, state: LedgerState, block: ChainBlock) -> Refused | None:
        key = (state.root, block.hash, block.body)
        if key not in self._memory.refusals:
            if len(self._memory.refusals) >= _MEMO:
                self._memory.refusals.clear()
            self._memory.refusals[key] = ledger.refusal(state, block)
        return self._memory.refusals[key]

    def applied(self, state: LedgerState, block: ChainBlock) -> LedgerState:
        key = (state.root, block.hash)
        known = self._memory.applied.get(key)
        if known is None:
            if len(self._memory.applied) >= _MEMO:
                self._memory.applied.clear()
            known = self._memory.applied[key] = ledger.apply(state, block)
        return known

    # Work.

    def new_work(self, kind: OperationKind, subject: Address, amount: int) -> Operation:
        """Appears at one running host, which forwards it to all."""
        operation = Operation(self._next_serial, kind, subject, amount)
        self._next_serial += 1
        self._work[operation.serial] = operation
        running = [host for host in self.hosts if host.running and host.honest]
        if running:
            self.chance.choice(running).take_work(operation, forward=True)
        return operation

    def pending_work(self) -> list[Operation]:
        done = max((host.state for host in self.honest()), key=lambda state: state.height).done
        return [operation for serial, operation in sorted(self._work.items()) if serial not in done]

    def evidence_serial(self, evidence: Evidence) -> int:
        digest = sha3_256(encode_evidence(evidence)[:1] + evidence.offender + evidence.height.to_bytes(8, "big"))
        return _EVIDENCE_SERIALS | int.from_bytes(digest.digest()[:7], "big")

    # Faults.

    def recover_later(self, host: Host) -> None:
        self.heap.after(RESTART_US, lambda: self.restart(host))
        self.lanes_changed()

    def restart(self, host: Host, *, suspicious: bool = False) -> None:
        if not host.running and host.halted is None:
            host.start(suspicious=suspicious)
            self.trace(host.index, "started")
            self.lanes_changed()

    def replace(self, host: Host) -> None:
        """Another program takes over where this one stopped, with its key, chain and log."""
        old = self.hosts[host.index]
        old.stop(clean=True)
        host.durable = old.durable
        self.hosts[host.index] = host
        self.restart(host)

    def lanes_changed(self) -> None:
        """Everybody notices a little later which lanes are open."""
        self.heap.after(LANE_NOTICE_US, self._notice_lanes)

    def _notice_lanes(self) -> None:
        for host in self.hosts:
            if host.running:
                host.notice_lanes(self.lanes_of(host.index))

    # Running.

    def run_until(self, condition: Callable[[], bool], limit_us: int) -> bool:
        """False if virtual time passed the limit, or nothing is left to happen."""
        heap, most = self.heap, self.most_events
        while not condition():
            if heap.now_us > limit_us or not heap.run_next():
                return condition()
            if most is not None and heap.handled > most:
                raise SafetyViolation(f"runaway: {most} events were not enough, {heap.now_us // US_PER_MS} ms in")
        return True

    def lowest_honest(self) -> Height:
        return min(host.height for host in self.honest())

    def highest_honest(self) -> Height:
        return max(host.height for host in self.honest())

    # Watching.

    def observed(self, host: Host, effect: Observe) -> None:
        self.rules[effect.rule] = self.rules.get(effect.rule, 0) + 1
        if self.lines is not None:
            about = "" if effect.about is None else f" about {self.index_of(effect.about)}"
            self.trace(host.index, f"h{effect.height} v{effect.view} {effect.rule}{about}")

    def trace(self, index: int, text: str) -> None:
        if self.lines is not None:
            self.lines.append(f"{self.heap.now_us / 1_000:12.3f} ms  node {index}  {text}")


def even_stakes(nodes: int, power: int = 10) -> tuple[int, ...]:
    return tuple([power] * nodes)
