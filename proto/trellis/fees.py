"""The least fee of a transaction: body bytes, one signature check, a registered key, the cost limit of a proof.

Never received bytes: another variant of the same transaction costs the same.
"""

from __future__ import annotations

from trellis.address import decode_policy
from trellis.crypto.algorithms import AlgId
from trellis.parameters import Parameters
from trellis.transaction import RevealProof, Transaction


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


def minimum_fee(parameters: Parameters, transaction: Transaction, public_key: bytes) -> int:
    """`public_key` is the key in force: the one carried, or the one the chain knows."""
    fee = parameters.fee_per_body_byte * len(transaction.body)
    fee += signature_fee(parameters, transaction.alg_id, public_key)
    if transaction.public_key:
        fee += parameters.fee_key_registration
    kind = transaction.parsed.kind
    if isinstance(kind, RevealProof):
        fee += parameters.fee_per_kilo_cost * ((kind.cost_limit + 999) // 1_000)
    return fee
