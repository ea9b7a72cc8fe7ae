"""Why a block is refused: a closed set of reasons, and whom each of them blames."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class InvalidReason(StrEnum):
    """One member for each validity check of `apply_block`, and those of the ledger around it."""

    WRONG_CHAIN = "wrong_chain"
    WRONG_HEIGHT = "wrong_height"
    WRONG_PARENT = "wrong_parent"
    TIME_NOT_AFTER_PARENT = "time_not_after_parent"
    ENGINE_SEAL = "engine_seal"
    WRONG_PROPOSER = "wrong_proposer"
    VALIDATORS_HASH = "validators_hash"
    PARAMS_HASH = "params_hash"
    NOTE_ROOT = "note_root"
    CERTIFICATE_PRESENCE = "certificate_presence"
    CERTIFICATE_HASH = "certificate_hash"
    CERTIFICATE_SUBJECT = "certificate_subject"
    CERTIFICATE_VIEW = "certificate_view"
    CERTIFICATE_SHAPE = "certificate_shape"
    CERTIFICATE_SIGNATURES = "certificate_signatures"

    WITNESS_ROOT = "witness_root"
    MALFORMED_TX = "malformed_tx"
    KEY_PRESENCE = "key_presence"
    KEY_MISMATCH = "key_mismatch"
    SIGNATURE_FORM = "signature_form"
    BAD_SIGNATURE = "bad_signature"

    TOO_MANY_TRANSACTIONS = "too_many_transactions"
    TOO_MANY_BYTES = "too_many_bytes"
    PROOF_COST = "proof_cost"
    TX_EXPIRED = "tx_expired"
    ALGORITHM_NOT_ALLOWED = "algorithm_not_allowed"
    FEE_TOO_LOW = "fee_too_low"
    NONCE_TOO_LOW = "nonce_too_low"
    NONCE_GAP = "nonce_gap"
    UNPAYABLE_FEE = "unpayable_fee"
    PROOF_LIMIT = "proof_limit"

    CONSERVATION = "conservation"
    TX_ROOT = "tx_root"
    PROOF_COMMITMENT = "proof_commitment"
    NEXT_VALIDATORS_HASH = "next_validators_hash"
    STATE_ROOT = "state_root"

    BELOW_FINAL = "below_final"
    """The ledger has committed another block at this height: history does not change."""
    CHECKPOINT = "checkpoint"
    """The host trusts another block at this height."""

    @property
    def condemns_block(self) -> bool:
        """False where the body may not be the one that the header was made for.

        The header binds a body by its witnesses, and by transaction ids only together with outcomes. Until every
        signature has verified, a peer may have put other bodies under an honest header: that peer is bad, the block
        hash is not, and remembering the hash as invalid would let anyone veto an honest block.
        """
        return self not in _BODY_REASONS


_BODY_REASONS = frozenset(
    {
        InvalidReason.WITNESS_ROOT,
        InvalidReason.MALFORMED_TX,
        InvalidReason.KEY_PRESENCE,
        InvalidReason.KEY_MISMATCH,
        InvalidReason.SIGNATURE_FORM,
        InvalidReason.BAD_SIGNATURE,
    }
)


@dataclass(frozen=True, slots=True)
class InvalidBlock:
    """A block that changes nothing. `place` is the transaction at fault, where one is."""

    reason: InvalidReason
    detail: str = ""
    place: int | None = None


class Refused(Exception):
    """Ends the application of a block from within; never leaves `state.transition`."""

    def __init__(self, reason: InvalidReason, detail: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.detail = detail


class StateCorrupt(RuntimeError):
    """A row that rules wrote themselves does not read back: a broken invariant, the node must stop."""
