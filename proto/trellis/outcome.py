"""What became of a transaction that a block includes: a closed set of codes, committed under tx_root."""

from __future__ import annotations

from enum import IntEnum


class Outcome(IntEnum):
    """OK, or why execution failed. A failed transaction still pays its fee and uses its nonce.

    2, 7 and 28 mean nothing: a balance cannot overflow (genesis bounds supply and emission together), who is jailed may
    do all that others may but vote, and a proof beyond its declared cost refuses the block instead.
    """

    OK = 0
    INSUFFICIENT_FUNDS = 1
    NOT_A_VALIDATOR = 3
    BELOW_MINIMUM_STAKE = 4
    INSUFFICIENT_STAKE = 5
    KEY_IN_USE = 6
    """Another validator votes with this consensus key or network id."""
    NOT_JAILED = 8
    STILL_JAILED = 9
    EVIDENCE_MALFORMED = 10
    EVIDENCE_INVALID = 11
    EVIDENCE_TOO_OLD = 12
    ALREADY_PUNISHED = 13
    UNKNOWN_VERIFIER = 14
    STATEMENT_MALFORMED = 15
    STATEMENT_EXISTS = 16
    STATEMENT_UNKNOWN = 17
    STATEMENT_CLOSED = 18
    """Already proven, or past its expiry."""
    EXPIRY_OUT_OF_RANGE = 19
    COMMITMENT_EXISTS = 20
    COMMITMENT_UNKNOWN = 21
    COMMITMENT_TOO_YOUNG = 22
    PROOF_INVALID = 23
    ATTESTATION_MALFORMED = 24
    ATTESTATION_INVALID = 25
    POSSESSION_INVALID = 26
    ALGORITHM_NOT_ALLOWED = 27
    ROSTER_FULL = 29
    """There are as many candidates for the validator set as the ledger keeps."""
    TOO_MANY_UNBONDINGS = 30
    """The sender has as many pending withdrawals as the ledger keeps for one validator."""
