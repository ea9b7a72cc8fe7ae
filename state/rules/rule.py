"""What a transaction kind brings: how it executes, which further signatures it needs, what it lets the block check."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, NamedTuple, TypeVar

from state.scope import Call, SignatureClaim
from state.view import StateView
from trellis.outcome import Outcome
from trellis.types import Address, Hash, Height

K = TypeVar("K")


class Source(NamedTuple):
    """Where a claim comes from: one transaction in the block of one height."""

    genesis_hash: Hash
    height: Height
    txid: Hash
    sender: Address
    nonce: int


def no_claims(parent: StateView, source: Source, kind: object) -> tuple[SignatureClaim, ...]:
    return ()


def _no_cost(kind: object) -> int:
    return 0


@dataclass(frozen=True, slots=True)
class Rule(Generic[K]):
    """`execute` may write to the call's state before it fails: a call without OK leaves nothing behind.

    `claims` names signatures inside the body. It reads the state *before the block* alone, so that all of a block's
    signatures are known before any transaction executes. A false one is an execution failure that pays its fee; the
    transaction's own signature is not among them.
    `proof_cost` counts, before any work is done, what the block's cost cap must have room for.
    """

    kind: type[K]
    execute: Callable[[Call, K], Outcome]
    claims: Callable[[StateView, Source, K], tuple[SignatureClaim, ...]] = no_claims
    proof_cost: Callable[[K], int] = _no_cost
