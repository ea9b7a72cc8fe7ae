"""The fee of a transaction that is not signed yet: what the chain asks, and what the pool's load suggests."""

from __future__ import annotations

from typing import Final

from node.rpc.backend import Backend
from node.rpc.errors import Reason, Refused, invalid
from node.rpc.simulation import parse
from state.chain import read_network
from state.mempool.entry import DENSITY_SHIFT
from trellis.constants import MAX_TX_BODY_BYTES
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.encoding import DecodeError
from trellis.fees import minimum_fee, signature_fee
from trellis.parameters import Parameters
from trellis.transaction import Transaction
from trellis.v1 import transaction_service_pb2

FEE_FIELD_BYTES: Final = 8
"""Reckoned for a fee that the body does not name yet."""


async def estimate(
    backend: Backend, request: transaction_service_pb2.EstimateFeeRequest
) -> transaction_service_pb2.EstimateFeeResponse:
    if not 0 < len(request.body) <= MAX_TX_BODY_BYTES:
        raise Refused(Reason.MALFORMED_TX, f"a body has 1 to {MAX_TX_BODY_BYTES} bytes, not {len(request.body)}")
    draft = Transaction(request.body, AlgId.ML_DSA_65, b"", b"")
    parse(draft)
    terms = await backend.bridge.call(backend.port.fee_terms, draft.parsed.sender)
    alg_id = request.alg_id or (AlgId.ML_DSA_65 if terms.known_key is None else terms.known_key[0])
    if alg_id not in AlgId.__members__.values():
        raise invalid("alg_id", f"there is no algorithm {alg_id}")
    if alg_id not in terms.allowed:
        metadata = {"alg_id": str(alg_id), "role": "account"}
        raise Refused(
            Reason.ALGORITHM_NOT_ALLOWED, "the chain does not allow this algorithm for accounts now", metadata
        )
    parameters = backend.reading.now(lambda reader: read_network(reader).parameters)
    key = _key(alg_id, terms.known_key)
    carried = b"" if terms.known_key is not None else key
    priced = Transaction(request.body, alg_id, carried, b"")
    return _answer(backend, parameters, priced, key, terms.floor_density, backend.tip_ref(terms.tip))


def _key(alg_id: int, known: tuple[int, bytes] | None) -> bytes:
    """The key in force, or a stand-in of its size. A multi-signature's fee depends on its policy."""
    if alg_id == AlgId.MULTISIG:
        if known is None or known[0] != alg_id:
            raise invalid("alg_id", "the chain does not know this account's policy, on which the fee depends")
        return known[1]
    return bytes(SIZES[AlgId(alg_id)].public_key_bytes)


def _answer(
    backend: Backend, parameters: Parameters, priced: Transaction, key: bytes, floor_density: int, at: object
) -> transaction_service_pb2.EstimateFeeResponse:
    try:
        least = minimum_fee(parameters, priced, key)
        algorithm = signature_fee(parameters, priced.alg_id, key)
    except DecodeError as fault:
        raise Refused(Reason.MALFORMED_TX, fault.detail) from fault
    registration = parameters.fee_key_registration if priced.public_key else 0
    size = len(priced.body)
    proof = least - parameters.fee_per_body_byte * size - algorithm - registration
    if priced.parsed.fee == 0:
        size += FEE_FIELD_BYTES
        least += parameters.fee_per_body_byte * FEE_FIELD_BYTES
    weight = size + len(priced.public_key) + _signature_bytes(priced.alg_id, key)
    suggested = max(least, -(-floor_density * weight >> DENSITY_SHIFT))
    return transaction_service_pb2.EstimateFeeResponse(
        at=at,  # type: ignore[arg-type]  # a BlockRef
        minimum_fee=str(least),
        suggested_fee=str(suggested),
        body_fee=str(parameters.fee_per_body_byte * size),
        algorithm_fee=str(algorithm),
        key_registration_fee=str(registration),
        proof_fee=str(proof),
        public_key_required=bool(priced.public_key),
    )


def _signature_bytes(alg_id: int, key: bytes) -> int:
    """For the density: a multi-signature has about as many bytes as its policy."""
    return SIZES[AlgId(alg_id)].signature_bytes if alg_id in SIZES else len(key)
