"""Transactions by gossip: what the pool has is announced and served, what peers have is offered to the pool.

Validators hand whole transactions to each other over lanes. So a validator whose peers are all validators announces
nothing; with others about, it announces ids alone, and only a node that has no lanes lets payloads ride along.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from node.work import Admission
from p2p.gossip import Gossip, TransactionRelay, TransactionVerdict
from p2p.gossip.relay import RIDING_BYTES, Asking
from p2p.gossip.seen import SeenSet
from state.mempool import Answer, Mempool
from state.mempool.admission import refuse
from trellis.encoding import DecodeError
from trellis.transaction import Transaction, decode_transaction
from trellis.types import Hash, PeerId

REMEMBERED: Final = 65_536
"""Ids of transactions in late blocks: announcements of them come for a while, and are not asked for again."""

Offer = Callable[[tuple[Transaction, ...], Callable[[tuple[Admission, ...]], None]], None]


class PoolRelay:
    """`p2p.gossip.TransactionPort` over the pool."""

    def __init__(
        self, gossip: Gossip, requests: Asking, genesis_hash: Hash, pool: Mempool, offer: Offer, *, has_lanes: bool
    ) -> None:
        self._genesis_hash = genesis_hash
        self._pool = pool
        self._offer = offer
        self._final = SeenSet(REMEMBERED)
        self._theirs = SeenSet(REMEMBERED)
        """Ids that peers brought: the relay itself announces those on."""
        riding = 0 if has_lanes else RIDING_BYTES
        self.relay = TransactionRelay(gossip, requests, self, self._identify, riding_bytes=riding)

    def _identify(self, raw: bytes) -> bytes | None:
        try:
            return decode_transaction(raw).witness_id(self._genesis_hash)
        except DecodeError:
            return None

    def have(self, item: bytes) -> bool:
        return item in self._final or self._pool.variant(Hash(item)) is not None

    def get(self, item: bytes) -> bytes | None:
        found = self._pool.variant(Hash(item))
        return None if found is None else found.encode()

    def received(self, peer: PeerId, transactions: Sequence[tuple[bytes, bytes]]) -> None:
        ids = [item for item, _ in transactions]
        for item in ids:
            self._theirs.add(item)

        def told(admissions: tuple[Admission, ...]) -> None:
            for item, admission in zip(ids, admissions, strict=True):
                self.relay.verdict(item, _verdict(admission))

        self._offer(tuple(decode_transaction(raw) for _, raw in transactions), told)

    def announce(self, ids: Sequence[Hash], *, anybody: bool) -> None:
        """What the pool took. `anybody`: there is a peer that does not hear of it by lanes."""
        if anybody:
            self.relay.announce(item for item in ids if item not in self._theirs)

    def committed(self, transactions: Sequence[Transaction]) -> None:
        for transaction in transactions:
            self._final.add(transaction.witness_id(self._genesis_hash))


def _verdict(admission: Admission) -> TransactionVerdict:
    if admission.reason is None:
        return TransactionVerdict.GOOD
    refused = refuse(admission.reason).answer is Answer.REJECT
    return TransactionVerdict.BAD_SIGNATURE if refused else TransactionVerdict.IGNORE
