"""One waiting transaction, and the queue of one sender."""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass
from typing import Final

from state.proofs import difficulty_milli
from state.transactions import Candidate, transaction_bytes
from trellis.transaction import Bond, PostStatement, RevealProof, Transaction, TransactionBody, Transfer
from trellis.types import U64_MAX, Address, Hash

DENSITY_SHIFT: Final = 20
"""Fee a byte in units of 2^-20, so that small fees on large transactions still differ."""

ENTRY_OVERHEAD_BYTES: Final = 512
"""What an entry takes beside its bytes: a flood of the smallest transactions must not pass the bound."""


def outlay(body: TransactionBody) -> int:
    """What the sender needs for this to do more than fail: fee, and what the kind moves."""
    match body.kind:
        case Transfer():
            return body.fee + sum(output.amount for output in body.kind.outputs)
        case Bond():
            return body.fee + body.kind.amount
        case PostStatement():
            return body.fee + body.kind.bounty
        case _:
            return body.fee


@dataclass(slots=True, eq=False)
class Entry:
    """Changed only in one way: once the chain knows the sender's key, the transaction is carried without it."""

    transaction: Transaction
    txid: Hash
    witness_id: Hash
    key_hash: Hash
    sender: Address
    nonce: int
    fee: int
    outlay: int
    size_bytes: int
    density: int
    valid_until: int
    proof_cost: int
    difficulty_milli: int
    """Above zero for revealed proofs alone."""
    misses: int = 0
    """How often a proposal had no room for it."""

    @property
    def is_proof(self) -> bool:
        return self.difficulty_milli > 0


def make_entry(candidate: Candidate) -> Entry:
    """Of a candidate whose form was found in order."""
    transaction, body = candidate.transaction, candidate.body
    size = transaction_bytes(transaction)
    kind = body.kind
    return Entry(
        transaction=transaction,
        txid=candidate.txid,
        witness_id=transaction.witness_id(candidate.terms.genesis_hash),
        key_hash=candidate.claim_key().key_hash,
        sender=body.sender,
        nonce=body.nonce,
        fee=body.fee,
        outlay=outlay(body),
        size_bytes=size,
        density=(body.fee << DENSITY_SHIFT) // size,
        valid_until=body.valid_until_height,
        proof_cost=candidate.proof_cost,
        # The declared cost: what the sender pays for, known before anybody checks.
        difficulty_milli=difficulty_milli(kind.cost_limit, len(kind.proof)) if isinstance(kind, RevealProof) else 0,
    )


class SenderQueue:
    """A sender's entries by nonce. Those from the account's nonce on, without a gap, are ready."""

    __slots__ = ("base", "entries", "head_row", "nonces", "sender", "tail_row")

    def __init__(self, sender: Address, base: int) -> None:
        self.sender = sender
        self.base = base
        """The account's nonce at the head of the chain."""
        self.entries: dict[int, Entry] = {}
        self.nonces: list[int] = []
        """Ascending."""
        self.head_row: tuple[int, bytes, Address] | None = None
        self.tail_row: tuple[int, bytes, Address] | None = None
        """The rows by which the pool's orders know this queue."""

    def __len__(self) -> int:
        return len(self.nonces)

    def put(self, entry: Entry) -> None:
        if entry.nonce not in self.entries:
            insort(self.nonces, entry.nonce)
        self.entries[entry.nonce] = entry

    def take(self, nonce: int) -> Entry:
        self.nonces.remove(nonce)
        return self.entries.pop(nonce)

    @property
    def head(self) -> Entry | None:
        """The next one that a block can have."""
        return self.entries.get(self.base)

    @property
    def tail(self) -> Entry:
        return self.entries[self.nonces[-1]]

    @property
    def ready(self) -> int:
        """How many follow the account's nonce without a gap."""
        expected = self.base
        for nonce in self.nonces:
            if nonce != expected:
                break
            expected += 1
        return expected - self.base

    def worth(self) -> int:
        """What the tail is worth to a proposer: no more than the least of all that must come before it, and nothing
        beyond a gap, where high fees are promised that nobody can collect."""
        if self.ready < len(self.nonces):
            return 0
        return self.worth_before(self.nonces[-1] + 1)

    def worth_before(self, nonce: int) -> int:
        """The least density below a nonce; no bound where there is nothing."""
        found = [entry.density for entry in self.entries.values() if entry.nonce < nonce]
        return min(found) if found else U64_MAX << DENSITY_SHIFT

    def outlay_before(self, nonce: int) -> int:
        return sum(self.entries[each].outlay for each in self.nonces if each < nonce)
