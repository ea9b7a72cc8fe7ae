"""The least fee of a transaction: body bytes, its signature, a registered key, and whatever else nodes check for it.

Never received bytes: another variant of the same transaction costs the same.
"""

from __future__ import annotations

from typing import Final

from trellis.address import decode_policy
from trellis.crypto.algorithms import AlgId
from trellis.encoding import DecodeError
from trellis.evidence import InvalidProofPrepare, decode_evidence
from trellis.parameters import Parameters
from trellis.transaction import Attest, Kind, PostStatement, RevealProof, RotateKey, SubmitEvidence, Transaction


def signature_fee(parameters: Parameters, alg_id: int, public_key: bytes) -> int:
    """A multi-signature pays for each of its `threshold` checks, as dear as its dearest key."""
    match alg_id:
        case AlgId.ML_DSA_65:
            return parameters.fee_ml_dsa_65
        case AlgId.ML_DSA_87:
            return parameters.fee_ml_dsa_87
        case AlgId.SLH_DSA_SHAKE_128S:
            return parameters.fee_slh_dsa
        case AlgId.MULTISIG:
            policy = decode_policy(public_key)
            return policy.threshold * max(signature_fee(parameters, alg, key) for alg, key in policy.keys)
        case _:
            raise ValueError(f"no fee is set for algorithm {alg_id}")


_CHECKED: Final = frozenset({RevealProof, PostStatement, Attest, RotateKey, SubmitEvidence})
"""Kinds of which nodes check more than the signature; asked for every transaction, so asked first."""


def minimum_fee(parameters: Parameters, transaction: Transaction, public_key: bytes) -> int:
    """`public_key` is the key in force: the one carried, or the one the chain knows."""
    fee = parameters.fee_per_body_byte * len(transaction.body)
    fee += signature_fee(parameters, transaction.alg_id, public_key)
    if transaction.public_key:
        fee += parameters.fee_key_registration
    kind = transaction.parsed.kind
    return fee + _checking_fee(parameters, kind) if type(kind) in _CHECKED else fee


def _proof_fee(parameters: Parameters, cost: int) -> int:
    return parameters.fee_per_kilo_cost * ((cost + 999) // 1_000)


def _checking_fee(parameters: Parameters, kind: Kind) -> int:
    """What nodes check beyond the transaction's own signature: false evidence must have paid for its checking."""
    vote = max(parameters.fee_ml_dsa_65, parameters.fee_ml_dsa_87)
    match kind:
        case RevealProof():
            return _proof_fee(parameters, kind.cost_limit)
        case PostStatement():
            return _proof_fee(parameters, len(kind.statement))
        case Attest():
            return vote * len(kind.signatures)
        case RotateKey():
            return signature_fee(parameters, kind.new_alg_id, kind.new_public_key)
        case SubmitEvidence():
            return _evidence_fee(parameters, kind.evidence, vote)
        case _:
            return 0


def _evidence_fee(parameters: Parameters, data: bytes, vote: int) -> int:
    try:
        evidence = decode_evidence(data)
        fee = vote * len(evidence.signed_votes())
        if isinstance(evidence, InvalidProofPrepare):
            reveal = evidence.transaction.parsed.kind
            fee += _proof_fee(parameters, reveal.cost_limit) if isinstance(reveal, RevealProof) else 0
    except DecodeError:
        return 0
    return fee
