"""What the pool answers, in the words of the API: reason, metadata and what to do next."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, assert_never

from node.rpc.errors import Reason
from node.rpc.port import Rejection
from state.mempool import PoolLimits
from state.mempool import Reason as PoolReason
from state.mempool.entry import outlay
from state.transactions import Candidate

RETRY_FULL_MS: Final = 1_000
"""A full pool gives room with the next blocks."""


@dataclass(frozen=True, slots=True)
class Context:
    """What the state and the pool say about the sender."""

    balance: int = 0
    pending_nonce: int = 0
    waiting_outlay: int = 0
    """Of the sender's waiting transactions before this one."""
    rival_fee: int = 0
    """Of the transaction that waits with the same nonce."""


NO_CONTEXT: Final = Context()


def rejection_of(reason: PoolReason, candidate: Candidate, context: Context, limits: PoolLimits) -> Rejection:
    if candidate.malformed:
        return Rejection(Reason.MALFORMED_TX, f"{candidate.malformed}: build bodies with trellis.transaction")
    body, latest = candidate.body, candidate.terms.height - 1
    match reason:
        case PoolReason.MALFORMED_TX:
            return Rejection(Reason.MALFORMED_TX, "the body is not in the canonical form")
        case PoolReason.BAD_SIGNATURE:
            return Rejection(
                Reason.BAD_SIGNATURE,
                "the signature does not verify under the sender's key on this chain: "
                "check the key in force (GetAccount) and the genesis hash that was signed",
            )
        case PoolReason.INVALID_FIELD:
            return _field("body", "larger, or dearer to check, than any block may hold")
        case PoolReason.KEY_MISMATCH:
            return _field("public_key", "the key or its algorithm is not the sender's: look at GetAccount")
        case PoolReason.KEY_NOT_EXPECTED:
            return _field(
                "public_key", "the chain knows another key for the sender: leave the key out, sign with that one"
            )
        case PoolReason.KEY_MISSING:
            return _field("public_key", "the chain does not know the sender's key yet: send it along")
        case PoolReason.KNOWN_BAD:
            return Rejection(
                Reason.BAD_SIGNATURE,
                "this very transaction was refused before: its signature is bad, or no block could hold it",
            )
        case PoolReason.ALGORITHM_NOT_ALLOWED:
            metadata = {"alg_id": str(candidate.transaction.alg_id), "role": "account"}
            return Rejection(Reason.ALGORITHM_NOT_ALLOWED, "the chain does not allow this algorithm now", metadata)
        case PoolReason.TX_EXPIRED:
            metadata = {"valid_until_height": str(body.valid_until_height), "latest_height": str(latest)}
            return Rejection(Reason.TX_EXPIRED, "its last height has passed: build and sign it again", metadata)
        case PoolReason.NONCE_TOO_LOW:
            metadata = {"expected_nonce": str(context.pending_nonce)}
            return Rejection(Reason.NONCE_TOO_LOW, "another transaction used this nonce", metadata)
        case PoolReason.NONCE_GAP:
            metadata = {"expected_nonce": str(context.pending_nonce)}
            told = f"send those before it first: at most {limits.max_per_sender} of one sender are held"
            return Rejection(Reason.NONCE_GAP, told, metadata)
        case PoolReason.INSUFFICIENT_FUNDS:
            metadata = {"balance": str(context.balance), "needed": str(outlay(body) + context.waiting_outlay)}
            return Rejection(Reason.INSUFFICIENT_FUNDS, "more than the balance, with what waits before it", metadata)
        case PoolReason.FEE_TOO_LOW:
            metadata = {"minimum_fee": str(candidate.minimum_fee)}
            return Rejection(Reason.FEE_TOO_LOW, "below the chain's minimum for this transaction", metadata)
        case PoolReason.REPLACEMENT_UNDERPRICED:
            bump = context.rival_fee * (1_000 + limits.bump_permille)
            metadata = {"minimum_fee": str(max(candidate.minimum_fee, -(-bump // 1_000)))}
            return Rejection(Reason.FEE_TOO_LOW, "too low to replace the pending transaction of this nonce", metadata)
        case PoolReason.MEMPOOL_FULL:
            return Rejection(Reason.MEMPOOL_FULL, "full of better-paying transactions", retry_after_ms=RETRY_FULL_MS)
        case PoolReason.DUPLICATE:
            raise ValueError("a duplicate is answered with what it is now, never refused")
        case _:
            assert_never(reason)


def _field(field: str, message: str) -> Rejection:
    return Rejection(Reason.INVALID_FIELD, f"{field}: {message}", {"field": field})
