"""Independent checkers: what must hold whatever the faults. They share no code with the core's decisions.

Each looks only at what left a host: signatures it released, blocks it committed, evidence it raised.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from trellis.certificate import Certificate
from trellis.messages import Proposal
from trellis.receipt import certified_fault
from trellis.types import Address, Hash, Height, View
from trellis.votes import Vote, VoteKind

if TYPE_CHECKING:
    from consensus import Rule
    from consensus.effects import Halt, VotingMessage
    from node.simulator.host import Host
    from node.simulator.ledger import ChainBlock
    from node.simulator.world import World
    from trellis.evidence import Evidence


class SafetyViolation(Exception):
    """A property that must hold under any faults does not."""


@dataclass(slots=True)
class Checkers:
    """Raises `SafetyViolation` at the moment something goes wrong, so that the trace ends there."""

    world: World
    committed_hash: dict[Height, Hash] = field(default_factory=dict)
    roots: dict[Height, Hash] = field(default_factory=dict)
    votes: dict[tuple[int, Height, View, VoteKind], Vote] = field(default_factory=dict)
    """Every vote that an honest host ever released, across its restarts."""
    highest_change: dict[tuple[int, Height], View] = field(default_factory=dict)
    proposed: set[tuple[Address, Height, View, Hash]] = field(default_factory=set)
    """Every PRE-PREPARE whose signature holds: signer, height, view, block."""
    evidence_seen: int = 0
    accused_hosts: dict[int, Evidence] = field(default_factory=dict)
    """The first evidence against each host."""
    guard_refusals: int = 0
    rejections: dict[str, int] = field(default_factory=dict)

    def committed(self, host: Host, block: ChainBlock, certificate: Certificate) -> None:
        """Agreement, validity, identical roots, and a certificate that holds from scratch."""
        if not host.honest:
            return
        height = block.header.height
        known = self.committed_hash.setdefault(height, block.hash)
        if known != block.hash:
            raise SafetyViolation(f"agreement: node {host.index} decided another block at height {height}")
        root = self.roots.setdefault(height, host.state.root)
        if root != host.state.root:
            raise SafetyViolation(f"state: node {host.index} has another root after height {height}")
        refused = self.world.refusal(host.durable.states[height - 1], block)
        if refused is not None:
            raise SafetyViolation(
                f"validity: node {host.index} decided at height {height} what the ledger refuses: {refused}"
            )
        validators = host.durable.states[height - 1].validators
        fault = certified_fault(block.header, certificate, validators, self.world.ring.verify)
        if fault is not None:
            raise SafetyViolation(f"certificate: node {host.index} decided height {height} on {fault}")
        parent = block.parent_certificate
        if height > 1:
            if parent is None:
                raise SafetyViolation(f"certificate: block {height} carries none of its parent")
            before, _ = host.durable.chain[height - 2]
            fault = certified_fault(
                before.header, parent, host.durable.states[height - 2].validators, self.world.ring.verify
            )
            if fault is not None:
                raise SafetyViolation(f"certificate: block {height} carries one of its parent with {fault}")

    def sent(self, proposal: Proposal) -> None:
        """By anybody, to anybody."""
        signed = proposal.signed
        vote = signed.vote
        if vote.block_hash is None:
            return
        key = (signed.signer, vote.height, vote.view, vote.block_hash)
        if key in self.proposed:
            return
        signer = self.world.ring.keys[self.world.index_of(signed.signer)].validator(1)
        if all(self.world.ring.verify([signed.check(self.world.genesis.genesis_hash, signer)])):
            self.proposed.add(key)

    def released(self, host: Host, message: VotingMessage) -> None:
        """No honest double vote, whatever crashed in between; nothing below an own VIEW-CHANGE."""
        if not host.honest:
            return
        vote = message.signed.vote
        key = (host.index, vote.height, vote.view, vote.kind)
        known = self.votes.setdefault(key, vote)
        if known != vote:
            raise SafetyViolation(f"double vote: node {host.index} signed {_told(known)} and {_told(vote)}")
        change = self.highest_change.get((host.index, vote.height), View(0))
        if vote.view < change:
            raise SafetyViolation(f"C9: node {host.index} signed {_told(vote)} after its VIEW-CHANGE to view {change}")
        if vote.kind is VoteKind.VIEW_CHANGE:
            self.highest_change[host.index, vote.height] = vote.view
        elif vote.kind is VoteKind.PREPARE and vote.block_hash is not None and vote.height == host.height + 1:
            order = host.state.schedule.order(host.state.validators)
            leader = order[vote.view % len(order)]
            if (leader, vote.height, vote.view, vote.block_hash) not in self.proposed:
                # Who PREPAREs what the leader did not sign hides an equivocating leader from evidence.
                raise SafetyViolation(
                    f"PREPARE: node {host.index} signed {_told(vote)}, which the leader never proposed"
                )

    def accused(self, host: Host, evidence: Evidence) -> None:
        self.evidence_seen += 1
        offender = self.world.hosts[self.world.index_of(evidence.offender)]
        self.accused_hosts.setdefault(offender.index, evidence)
        if offender.honest:
            raise SafetyViolation(f"evidence: node {host.index} accuses the honest node {offender.index}")

    def halted(self, host: Host, halt: Halt) -> None:
        self.stopped(host, halt.reason)

    def stopped(self, host: Host, reason: str) -> None:
        if host.honest:
            raise SafetyViolation(f"halt: node {host.index} stopped with {reason}")

    def guard_refused(self, host: Host, vote: Vote, rule: Rule) -> None:
        """The guard protects against a lost log. With the log intact it never has to say no."""
        self.guard_refusals += 1
        if host.honest and not host.lost_log:
            raise SafetyViolation(f"guard: node {host.index} with its log intact was refused {_told(vote)} by {rule}")

    def rejected(self, reason: str) -> None:
        self.rejections[reason] = self.rejections.get(reason, 0) + 1


def _told(vote: Vote) -> str:
    named = vote.block_hash if vote.prepared is None else vote.prepared.hash
    content = "" if named is None else f" {named.hex()[:12]}"
    return f"{vote.kind.name} h{vote.height} v{vote.view}{content}"
