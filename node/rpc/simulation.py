"""What a transaction would do, tried against a snapshot of the store, away from the node's own thread.

Signature and key may be left out: then stand-ins of the right size take their place, so that fees and effects come out
as they will. What the transaction itself carries to be verified (evidence, attestations, possession of a key) is.
"""

from __future__ import annotations

from dataclasses import dataclass

from node.rpc.errors import Reason, Refused, invalid
from node.rpc.fields import address_text
from state.accounts import ACCOUNT_PREFIX, read_account, read_key
from state.chain import read_head, read_network, read_schedule
from state.claims import known_verdicts, verify_claims
from state.errors import Refused as BlockRefused
from state.execution import BlockContext, Execution
from state.rules import RULES, Source
from state.scope import check_proof
from state.store.reader import ChainReader
from state.store.rows import Tip
from state.transactions import Candidate, terms_of
from state.view import Changes
from trellis.constants import MAX_PUBLIC_KEY_BYTES, MAX_SIGNATURE_BYTES, MAX_TX_BODY_BYTES
from trellis.crypto.algorithms import SIZES, AlgId
from trellis.crypto.schemes import verify_all
from trellis.encoding import DecodeError
from trellis.outcome import Outcome
from trellis.transaction import Transaction
from trellis.types import Address, Hash, Height, View
from trellis.v1 import transaction_pb2


@dataclass(frozen=True, slots=True)
class Simulated:
    tip: Tip
    txid: Hash
    outcome: Outcome | None
    """None where no block could have held it."""
    minimum_fee: int
    changes: tuple[tuple[str, int, int], ...]
    """(address, balance before, balance after), the sender first."""
    completed: Transaction
    """With stand-ins for what was left out."""


def unsigned_parts(message: transaction_pb2.Transaction) -> Transaction:
    """A transaction whose key and signature may be missing."""
    if not 0 < len(message.body) <= MAX_TX_BODY_BYTES:
        raise Refused(Reason.MALFORMED_TX, f"a body has 1 to {MAX_TX_BODY_BYTES} bytes, not {len(message.body)}")
    if message.alg_id not in AlgId.__members__.values():
        raise invalid("alg_id", f"there is no algorithm {message.alg_id}")
    if len(message.public_key) > MAX_PUBLIC_KEY_BYTES or len(message.signature) > MAX_SIGNATURE_BYTES:
        raise invalid("public_key", "key or signature is larger than any algorithm's")
    transaction = Transaction(message.body, message.alg_id, message.public_key, message.signature)
    parse(transaction)
    return transaction


def parse(transaction: Transaction) -> None:
    try:
        _ = transaction.parsed
    except DecodeError as fault:
        raise Refused(Reason.MALFORMED_TX, f"{fault.detail}: build bodies with trellis.transaction") from fault


def simulate(reader: ChainReader, genesis_hash: Hash, transaction: Transaction) -> Simulated:
    tip = reader.tip
    network = read_network(reader)
    completed = completed_with_stand_ins(transaction, reader)
    candidate = Candidate(completed, reader, terms_of(network, genesis_hash, Height(tip.height + 1)))
    try:
        minimum_fee = candidate.minimum_fee
    except DecodeError as fault:
        raise invalid("public_key", fault.detail) from fault
    told = Simulated(tip, candidate.txid, None, minimum_fee, (), completed)
    if candidate.proof_cost > network.parameters.max_block_proof_cost:
        return told
    execution = _execution(reader, genesis_hash, tip, candidate)
    try:
        outcome = execution.run(candidate)
    except BlockRefused:
        return told
    changes = _balance_changes(reader, execution.block.state.changes(), candidate.body.sender)
    return Simulated(tip, candidate.txid, outcome, minimum_fee, changes, completed)


def _execution(view: ChainReader, genesis_hash: Hash, tip: Tip, candidate: Candidate) -> Execution:
    """Of the next block, by its leader, before anything else is in it."""
    body = candidate.body
    source = Source(genesis_hash, Height(tip.height + 1), candidate.txid, body.sender, body.nonce)
    inner = RULES[type(body.kind)].claims(view, source, body.kind)
    verdicts = known_verdicts(verify_claims(tuple(inner), verify_all))
    context = BlockContext(genesis_hash, tip.block_hash, verdicts, _no_root, check_proof)
    leader, after = read_schedule(view).leader, read_head(view).timestamp_ms + 1
    return Execution(view, context, leader, View(0), after, None)


def _no_root(changes: Changes) -> Hash:
    raise ValueError("a simulation ends before its block does")


def completed_with_stand_ins(transaction: Transaction, view: ChainReader) -> Transaction:
    known = read_key(view, transaction.parsed.sender)
    public_key, signature = transaction.public_key, transaction.signature
    if known is not None:
        public_key = b""
    elif not public_key:
        public_key = bytes(SIZES[_single(transaction)].public_key_bytes)
    if not signature and transaction.alg_id != AlgId.MULTISIG:
        signature = bytes(SIZES[_single(transaction)].signature_bytes)
    return Transaction(transaction.body, transaction.alg_id, public_key, signature)


def _single(transaction: Transaction) -> AlgId:
    if transaction.alg_id not in SIZES:
        if transaction.alg_id == AlgId.MULTISIG:
            raise invalid("public_key", "the chain does not know this account's policy yet: send it along")
        raise invalid("alg_id", f"there is no algorithm {transaction.alg_id}")
    return AlgId(transaction.alg_id)


def _balance_changes(view: ChainReader, changes: Changes, sender: Address) -> tuple[tuple[str, int, int], ...]:
    touched = sorted(Address(key[1:]) for key in changes if key[:1] == ACCOUNT_PREFIX and len(key) == 33)
    touched.sort(key=lambda address: address != sender)
    found: list[tuple[str, int, int]] = []
    for address in touched:
        row = changes[ACCOUNT_PREFIX + address]
        after = 0 if row is None else int.from_bytes(row[:8], "big")
        found.append((address_text(address), read_account(view, address).balance, after))
    return tuple(found)
