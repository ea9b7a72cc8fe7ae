"""Rows of the state that a wallet reads out of proofs: an account's four, and the parameters behind params_hash.

Which keys an account has is known here, so a node cannot hide a row by leaving it out; absence is proven like presence.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from struct import Struct
from typing import Final

from trellis.client.sealed import Unproven
from trellis.client.values import Unbonding
from trellis.encoding import DecodeError
from trellis.header import Header
from trellis.parameters import Parameters, parameters_from_json
from trellis.statetree import decode_state_proof
from trellis.types import HASH_BYTES, Address, Hash, Height
from trellis.v1 import chain_pb2, ledger_service_pb2

ACCOUNT_PREFIX: Final = b"a"
KEY_PREFIX: Final = b"k"
STAKE_PREFIX: Final = b"v"
UNBONDING_PREFIX: Final = b"u"

_BALANCE_AND_NONCE: Final = Struct(">QQ")
_STAKE_HEAD: Final = Struct(">QQBH")
_UNBONDING: Final = Struct(">QQ")
"""Release height, amount."""


@dataclass(frozen=True, slots=True)
class AccountRows:
    """All that the state holds for an account."""

    balance: int
    nonce: int
    alg_id: int
    public_key: bytes
    bonded: int
    unbondings: tuple[Unbonding, ...]


def account_keys(address: Address) -> tuple[bytes, ...]:
    """Balance and nonce, the key in force, stake, stake on its way out."""
    return tuple(prefix + address for prefix in (ACCOUNT_PREFIX, KEY_PREFIX, STAKE_PREFIX, UNBONDING_PREFIX))


def prove_account(proof: chain_pb2.StateProof, header: Header, address: Address, buckets_log2: int) -> AccountRows:
    """Reads the account out of proofs under `header.state_root`; raises `Unproven`.

    The tree's depth must be known: with a free choice of it, entries of neighbouring buckets would pass for neighbours
    within one, and any row could be "proven" absent.
    """
    rows: dict[bytes, bytes | None] = {}
    wanted = account_keys(address)
    for entry in proof.entries:
        if entry.key in wanted:
            rows[entry.key] = _proven_value(entry, header.state_root, buckets_log2)
    if set(rows) != set(wanted):
        raise Unproven("it leaves out rows of the account")
    return _read_rows(*(rows[key] for key in wanted))


def _proven_value(entry: chain_pb2.StateEntry, state_root: Hash, buckets_log2: int) -> bytes | None:
    try:
        proof = decode_state_proof(entry.proof)
    except DecodeError as fault:
        raise Unproven(str(fault)) from fault
    proven, value = proof.lookup(entry.key, state_root, buckets_log2)
    if not proven:
        raise Unproven("the path does not lead to the header's state root")
    if entry.present != (value is not None) or (value or b"") != entry.value:
        raise Unproven("the entry is not what its path proves")
    return value


def _read_rows(account: bytes | None, key: bytes | None, stake: bytes | None, leaving: bytes | None) -> AccountRows:
    """The rows are under a certified root, so a shape unknown here means newer software, not a lie."""
    if (
        (account is not None and len(account) != _BALANCE_AND_NONCE.size)
        or (key is not None and len(key) <= 1 + HASH_BYTES)
        or (stake is not None and len(stake) < _STAKE_HEAD.size)
        or (leaving is not None and len(leaving) % _UNBONDING.size)
    ):
        raise Unproven("the rows of the account are laid out by newer software: upgrade this client")
    balance, nonce = (0, 0) if account is None else _BALANCE_AND_NONCE.unpack(account)
    entries = () if leaving is None else tuple(_UNBONDING.iter_unpack(leaving))
    return AccountRows(
        balance=balance,
        nonce=nonce,
        alg_id=0 if key is None else key[0],
        public_key=b"" if key is None else key[1 + HASH_BYTES :],
        bonded=0 if stake is None else _STAKE_HEAD.unpack_from(stake)[0],
        unbondings=tuple(Unbonding(amount, Height(release)) for release, amount in entries),
    )


def prove_parameters(message: ledger_service_pb2.GetParametersResponse, params_hash: Hash) -> Parameters:
    """The parameters that hash to a certified header's params_hash; raises `Unproven`."""
    try:
        values: dict[str, object] = {item.name: item.value for item in message.parameters}
        verifiers = {item.name: bytes.fromhex(item.build_hash) for item in message.verifiers}
        parameters = parameters_from_json(values)
        found = parameters.hash_with(verifiers)
    except ValueError as fault:
        raise Unproven(str(fault)) from fault
    if len(values) != len(fields(Parameters)) or found != params_hash:
        raise Unproven("they do not hash to the header's params_hash")
    return parameters
