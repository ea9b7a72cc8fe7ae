"""Rotate key: another key takes over an account; the address stays.

The new key is in force from the next block on. Within a block the key of the state before it counts everywhere, so all
of a block's signatures can be verified at once, before anything executes.
"""

from __future__ import annotations

from typing import Final

from state.accounts import make_account_key, write_key
from state.rules.rule import Rule, Source
from state.scope import Call, ClaimKey, SignatureClaim
from state.view import StateView
from trellis.address import address_of, decode_policy
from trellis.crypto.algorithms import AlgId
from trellis.crypto.policy import AlgorithmPolicy, Role
from trellis.encoding import DecodeError
from trellis.hashing import Tag, hash_tagged
from trellis.outcome import Outcome
from trellis.transaction import RotateKey
from trellis.types import Hash


def key_allowed(policy: AlgorithmPolicy, alg_id: int, public_key: bytes, height: int) -> bool:
    """For a multi-signature its members count too: a policy of one broken key is a broken key."""
    if not policy.allows(Role.ACCOUNT, alg_id, height):
        return False
    if alg_id != AlgId.MULTISIG:
        return True
    return all(policy.allows(Role.ACCOUNT, member, height) for member, _ in decode_policy(public_key).keys)


def _claim_key(txid: Hash, kind: RotateKey) -> ClaimKey:
    # The id covers the new key and its signature; the tag keeps this claim apart from that of the transaction itself.
    key_hash = Hash(address_of(kind.new_alg_id, kind.new_public_key))
    return ClaimKey(txid, kind.new_alg_id, key_hash, hash_tagged(Tag.KEY_POSSESSION, txid))


def _claims(parent: StateView, source: Source, kind: RotateKey) -> tuple[SignatureClaim, ...]:
    try:
        checks = kind.checks(source.genesis_hash, source.sender, source.nonce)
    except DecodeError:
        return ()
    return (SignatureClaim(_claim_key(source.txid, kind), checks),)


def _execute(call: Call, kind: RotateKey) -> Outcome:
    block = call.block
    if not key_allowed(block.network.policy, kind.new_alg_id, kind.new_public_key, block.height):
        return Outcome.ALGORITHM_NOT_ALLOWED
    source = Source(block.genesis_hash, block.height, call.txid, call.sender, call.nonce)
    claims = _claims(block.parent, source, kind)
    if not claims or not all(block.verdicts(claim.key) for claim in claims):
        return Outcome.POSSESSION_INVALID
    write_key(call.state, call.sender, make_account_key(kind.new_alg_id, kind.new_public_key))
    return Outcome.OK


ROTATE_KEY: Final = Rule(RotateKey, _execute, _claims)
