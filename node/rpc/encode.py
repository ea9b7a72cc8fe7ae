"""From the node's objects to the schema's messages."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from node.rpc.errors import code_of
from node.rpc.fields import address_text
from node.rpc.port import AccountView, ProvenRow, Rejection, TxStatus, TxSummary
from state.transactions import transaction_bytes
from trellis.block import Block
from trellis.header import Header
from trellis.outcome import Outcome
from trellis.transaction import Transaction
from trellis.types import Hash
from trellis.v1 import chain_pb2, common_pb2, ledger_service_pb2, transaction_pb2, transaction_service_pb2

KIND_NUMBERS: Final = {
    name.removeprefix("TRANSACTION_KIND_").lower(): number for name, number in chain_pb2.TransactionKind.items()
}
STATUS: Final = {status: chain_pb2.TransactionStatus.Value(f"TRANSACTION_STATUS_{status.name}") for status in TxStatus}


def block_ref(height: int, block_hash: Hash, *, final: bool) -> common_pb2.BlockRef:
    return common_pb2.BlockRef(height=height, block_hash=block_hash.hex(), final=final)


def header_message(header: Header, block: Block | None = None) -> chain_pb2.Header:
    return chain_pb2.Header(
        block_hash=header.hash.hex(),
        version=int.from_bytes(header.encode()[:2], "big"),
        genesis_hash=header.genesis_hash.hex(),
        height=header.height,
        view=header.view,
        timestamp_ms=header.timestamp_ms,
        parent_hash=header.parent_hash.hex(),
        parent_certificate_hash=header.parent_certificate_hash.hex(),
        tx_root=header.tx_root.hex(),
        witness_root=header.witness_root.hex(),
        state_root=header.state_root.hex(),
        note_root=header.note_root.hex(),
        proof_commitment=header.proof_commitment.hex(),
        validators_hash=header.validators_hash.hex(),
        next_validators_hash=header.next_validators_hash.hex(),
        params_hash=header.params_hash.hex(),
        engine_seal_hash=header.engine_seal_hash.hex(),
        proposer=address_text(header.proposer),
        raw=header.encode(),
        seal=b"" if block is None or block.seal is None else block.seal.encode(),
    )


def transaction_message(transaction: Transaction) -> transaction_pb2.Transaction:
    return transaction_pb2.Transaction(
        body=transaction.body,
        alg_id=transaction.alg_id,
        public_key=transaction.public_key,
        signature=transaction.signature,
    )


def outcome_message(code: int) -> chain_pb2.Outcome:
    return chain_pb2.Outcome(code=code, name=Outcome(code).name)


def included_info(
    txid: Hash,
    transaction: Transaction,
    index: int,
    outcome: int,
    fee: int,
    block: common_pb2.BlockRef,
    *,
    include: bool,
) -> chain_pb2.TransactionInfo:
    """Of a transaction in a block."""
    body = transaction.parsed
    return chain_pb2.TransactionInfo(
        txid=txid.hex(),
        status=chain_pb2.TRANSACTION_STATUS_FINAL if block.final else chain_pb2.TRANSACTION_STATUS_INCLUDED,
        block=block,
        index=index,
        outcome=outcome_message(outcome),
        sender=address_text(body.sender),
        nonce=body.nonce,
        kind=kind_number(body.kind_name),
        fee=str(fee),
        valid_until_height=body.valid_until_height,
        size_bytes=transaction_bytes(transaction),
        transaction=transaction_message(transaction) if include else None,
    )


def waiting_info(summary: TxSummary, status: TxStatus, transaction: Transaction | None) -> chain_pb2.TransactionInfo:
    """Of a transaction in no block; `transaction` is sent along where it is given."""
    return chain_pb2.TransactionInfo(
        txid=summary.txid.hex(),
        status=STATUS[status],
        sender=address_text(summary.sender),
        nonce=summary.nonce,
        kind=kind_number(summary.kind),
        fee=str(summary.fee),
        valid_until_height=summary.valid_until,
        size_bytes=summary.size_bytes,
        transaction=None if transaction is None else transaction_message(transaction),
    )


def kind_number(name: str) -> chain_pb2.TransactionKind.ValueType:
    return KIND_NUMBERS[name]


def submission_error(rejection: Rejection) -> transaction_service_pb2.SubmissionError:
    return transaction_service_pb2.SubmissionError(
        code=code_of(rejection.reason).value[0],
        reason=rejection.reason,
        message=rejection.message,
        metadata=rejection.metadata,
        retry_after_ms=rejection.retry_after_ms,
    )


def account_message(account: AccountView) -> ledger_service_pb2.Account:
    return ledger_service_pb2.Account(
        address=address_text(account.address),
        balance=str(account.balance),
        bonded=str(account.bonded),
        unbondings=[
            ledger_service_pb2.Unbonding(amount=str(amount), release_height=release)
            for release, amount in account.unbondings
        ],
        nonce=account.nonce,
        pending_nonce=account.pending_nonce,
        alg_id=account.alg_id,
        public_key=account.public_key,
    )


def state_proof(state_root: Hash, rows: Iterable[ProvenRow], header: bytes, certificate: bytes) -> chain_pb2.StateProof:
    return chain_pb2.StateProof(
        state_root=state_root.hex(),
        entries=[
            chain_pb2.StateEntry(key=row.key, value=row.value or b"", present=row.value is not None, proof=row.proof)
            for row in rows
        ],
        header=header,
        certificate=certificate,
    )
