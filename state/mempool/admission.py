"""Why the pool takes a transaction or not, in the words that wallets and peers are answered with."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from state.errors import InvalidReason


class Answer(StrEnum):
    """What gossip does with it: pass on, drop silently, or hold it against whoever sent it."""

    ACCEPT = "accept"
    IGNORE = "ignore"
    REJECT = "reject"


class Reason(StrEnum):
    """A closed set. Names match the reasons that the API shows where it has one."""

    MALFORMED_TX = "MALFORMED_TX"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    INVALID_FIELD = "INVALID_FIELD"
    """Too large or too costly for any block."""
    ALGORITHM_NOT_ALLOWED = "ALGORITHM_NOT_ALLOWED"
    KEY_MISMATCH = "KEY_MISMATCH"
    KEY_NOT_EXPECTED = "KEY_NOT_EXPECTED"
    """The chain knows the sender's key: send the transaction without it."""
    KEY_MISSING = "KEY_MISSING"
    """The chain does not know the sender's key (yet)."""
    TX_EXPIRED = "TX_EXPIRED"
    NONCE_TOO_LOW = "NONCE_TOO_LOW"
    NONCE_GAP = "NONCE_GAP"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    FEE_TOO_LOW = "FEE_TOO_LOW"
    REPLACEMENT_UNDERPRICED = "REPLACEMENT_UNDERPRICED"
    MEMPOOL_FULL = "MEMPOOL_FULL"
    DUPLICATE = "DUPLICATE"
    KNOWN_BAD = "KNOWN_BAD"
    """This very variant was refused before, or shown to be unproposable."""


@dataclass(frozen=True, slots=True)
class Refusal:
    reason: Reason
    answer: Answer


_REJECTED: Final = frozenset({Reason.MALFORMED_TX, Reason.BAD_SIGNATURE, Reason.INVALID_FIELD, Reason.KEY_MISMATCH})
"""Wrong by themselves, whatever the chain's state: an honest peer never sends them. All else may be a matter of timing,
and a missing key certainly is."""


def refuse(reason: Reason) -> Refusal:
    return Refusal(reason, Answer.REJECT if reason in _REJECTED else Answer.IGNORE)


POOL_REASONS: Final = {
    InvalidReason.MALFORMED_TX: Reason.MALFORMED_TX,
    InvalidReason.KEY_MISMATCH: Reason.KEY_MISMATCH,
    InvalidReason.SIGNATURE_FORM: Reason.BAD_SIGNATURE,
    InvalidReason.TX_EXPIRED: Reason.TX_EXPIRED,
    InvalidReason.ALGORITHM_NOT_ALLOWED: Reason.ALGORITHM_NOT_ALLOWED,
    InvalidReason.FEE_TOO_LOW: Reason.FEE_TOO_LOW,
    InvalidReason.NONCE_TOO_LOW: Reason.NONCE_TOO_LOW,
    InvalidReason.UNPAYABLE_FEE: Reason.INSUFFICIENT_FUNDS,
}
"""How a block's checks are called where a wallet asks."""
