"""The pool of waiting transactions, and the queue of waiting proofs. Start reading at `pool`."""

from state.mempool.admission import Answer, Reason, Refusal
from state.mempool.entry import Entry
from state.mempool.pool import Mempool, PoolLimits, decode_pool

__all__ = ["Answer", "Entry", "Mempool", "PoolLimits", "Reason", "Refusal", "decode_pool"]
