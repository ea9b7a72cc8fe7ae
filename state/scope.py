"""What the rules see of the block that is being executed, and of the transaction that they execute."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, NamedTuple

from state.chain import Network
from state.overlay import Overlay
from state.proofs import VERIFIERS, Limits, VerificationResult
from state.view import StateView
from trellis.crypto.algorithms import SignatureCheck
from trellis.types import Address, Hash, Height, View
from trellis.validators import ValidatorSet


class ClaimKey(NamedTuple):
    """Names one claim "these signatures are valid". A verdict never passes to another key, signature or transaction.

    `signature_hash` is the witness leaf: a hash over algorithm, carried key and signature.
    """

    subject: Hash
    alg_id: int
    key_hash: Hash
    signature_hash: Hash


@dataclass(frozen=True, slots=True)
class SignatureClaim:
    """The claim holds if and only if all of its checks do; there is at least one."""

    key: ClaimKey
    checks: tuple[SignatureCheck, ...]

    def __post_init__(self) -> None:
        if not self.checks:
            raise ValueError("a claim without a check would always hold")


Verdicts = Callable[[ClaimKey], bool]
"""Answers for every claim that `required_claims` named. The engine serves it from its cache."""

ProofCheck = Callable[[str, bytes, bytes, Limits], VerificationResult]
"""(verifier, statement, proof, limits): pure, so that workers may have computed the answer before it is asked."""


def check_proof(verifier: str, statement: bytes, proof: bytes, limits: Limits) -> VerificationResult:
    """`ProofCheck`, here and now."""
    return VERIFIERS[verifier].verify(statement, proof, limits)


class Due(IntEnum):
    """What falls due at the end of some later block. A state view has no range reads, so due lists are rows."""

    UNBONDING = 1
    STATEMENT = 2
    COMMITMENT = 3
    PUNISHMENT = 4
    STATEMENT_BYTES = 5


ITEM_BYTES: Final = {
    Due.UNBONDING: 32,
    Due.STATEMENT: 32,
    Due.COMMITMENT: 64,
    Due.PUNISHMENT: 40,
    Due.STATEMENT_BYTES: 32,
}


def due_key(what: Due, height: int) -> bytes:
    return b"d" + bytes((what,)) + height.to_bytes(8, "big")


def read_due(view: StateView, what: Due, height: int) -> list[bytes]:
    row = view.get(due_key(what, height))
    if row is None:
        return []
    size = ITEM_BYTES[what]
    return [row[at : at + size] for at in range(0, len(row), size)]


class RewardKind(IntEnum):
    COMMIT = 1
    PROPOSER = 2
    MINED = 3


class Reward(NamedTuple):
    address: Address
    units: int
    kind: RewardKind


class Slash(NamedTuple):
    """What one piece of evidence cost."""

    address: Address
    offence_height: Height
    evidence_kind: int
    permille: int
    units: int


class StatementPaid(NamedTuple):
    statement_id: Hash
    address: Address
    units: int


class StatementExpired(NamedTuple):
    statement_id: Hash
    poster: Address
    units: int


class SetChanged(NamedTuple):
    first: Height
    set_hash: Hash


Event = Reward | Slash | StatementPaid | StatementExpired | SetChanged


@dataclass(slots=True)
class BlockScope:
    """One block in execution."""

    parent: StateView
    """The state before the block: keys in force, sets and votes are read here, whatever the block itself changes."""
    state: Overlay
    genesis_hash: Hash
    network: Network
    height: Height
    timestamp_ms: int
    proposer: Address
    view: View
    validators: ValidatorSet
    """V(height)."""
    verdicts: Verdicts
    check_proof: ProofCheck
    emitted: int = 0
    burned: int = 0
    tips: int = 0
    proof_entries: list[bytes] = field(default_factory=list)
    accepted_cost: int = 0
    accepted_bytes: int = 0
    """Of the proofs that were found valid: what the difficulty is made of."""
    due: dict[tuple[Due, int], list[bytes]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def due_count(self, what: Due, height: int) -> int:
        row = self.state.get(due_key(what, height))
        waiting = len(self.due.get((what, height), ()))
        return waiting + (len(row) // ITEM_BYTES[what] if row else 0)

    def write_due(self) -> None:
        """Once a block: appending to a row for each transaction would copy it as often."""
        for (what, height), items in sorted(self.due.items()):
            key = due_key(what, height)
            self.state.put(key, (self.state.get(key) or b"") + b"".join(items))
        self.due.clear()


@dataclass(slots=True)
class Call:
    """One transaction in execution. Whatever it leaves here or in `state` counts only if its outcome is OK."""

    block: BlockScope
    state: Overlay
    sender: Address
    nonce: int
    txid: Hash
    minimum_fee: int
    burned: int = 0
    due: list[tuple[Due, int, bytes]] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)

    def later(self, what: Due, height: int, item: bytes) -> None:
        self.due.append((what, height, item))

    def keep(self) -> None:
        self.state.merge()
        block = self.block
        block.burned += self.burned
        for what, height, item in self.due:
            block.due.setdefault((what, height), []).append(item)
        block.events += self.events
