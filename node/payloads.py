"""How payloads between validators travel: a message id of the frame, and bytes. Caps stand before every decode."""

from __future__ import annotations

from typing import Final, assert_never

from node.work import (
    BodyAnswer,
    BodyParts,
    BodyRequest,
    ChainAnswer,
    ChainRequest,
    ConsensusPayload,
    Payload,
    TransactionsPayload,
    VerdictPayload,
)
from trellis.certificate import MAX_CERTIFICATE_BYTES
from trellis.constants import MAX_BLOCK_TRANSACTIONS
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.transaction import MAX_TX_BYTES
from trellis.types import HASH_BYTES, Height
from trellis.votes import MAX_VOTE_SIGNATURE_BYTES
from trellis.wire import MAX_FRAME_PAYLOAD_BYTES, MessageId

MAX_PUSHED: Final = 4_096
"""Transactions in one push; a sender has more of its own pushes for more."""
MAX_CHAIN_BLOCKS: Final = 256
MAX_VERDICT_BATCH_BYTES: Final = 256
"""Validators hand each other one verdict at a time."""
_WHOLE: Final = 0
_PARTS: Final = 1
"""The first byte of a BODY_RESPONSE."""


def message_id(payload: Payload) -> MessageId:
    match payload:
        case ConsensusPayload():
            return MessageId.CONSENSUS
        case TransactionsPayload():
            return MessageId.TRANSACTIONS
        case VerdictPayload():
            return MessageId.VERDICT
        case BodyRequest():
            return MessageId.BODY_REQUEST
        case BodyAnswer() | BodyParts():
            return MessageId.BODY_RESPONSE
        case ChainRequest():
            return MessageId.GET_BLOCKS
        case ChainAnswer():
            return MessageId.BLOCKS
        case _:
            assert_never(payload)


def encode_payload(payload: Payload) -> bytes:
    match payload:
        case ConsensusPayload():
            return payload.data
        case TransactionsPayload():
            writer = Writer().u32(len(payload.transactions))
            for transaction in payload.transactions:
                writer.lp(transaction)
            return writer.done()
        case VerdictPayload():
            return Writer().lp(payload.batch).lp(payload.signature).done()
        case BodyRequest():
            writer = Writer().hash(payload.block_hash).u32(len(payload.places))
            for place in payload.places:
                writer.u32(place)
            return writer.done()
        case BodyAnswer():
            return bytes((_WHOLE,)) + payload.block
        case BodyParts():
            writer = Writer().u8(_PARTS).hash(payload.block_hash).u32(len(payload.parts))
            for place, transaction in payload.parts:
                writer.u32(place).lp(transaction)
            return writer.done()
        case ChainRequest():
            return Writer().u64(payload.above).done()
        case ChainAnswer():
            writer = Writer().u32(len(payload.blocks))
            for block, certificate in payload.blocks:
                writer.lp(block).lp(certificate)
            return writer.done()
        case _:
            assert_never(payload)


def decode_payload(kind: int, data: bytes) -> Payload:
    """`DecodeError` for what no payload looks like. Blocks, certificates and transactions inside stay bytes."""
    match kind:
        case MessageId.CONSENSUS:
            return ConsensusPayload(data)
        case MessageId.TRANSACTIONS:
            return decode_whole(data, "transactions", MAX_FRAME_PAYLOAD_BYTES, _transactions)
        case MessageId.VERDICT:
            return decode_whole(data, "verdicts", 8 + MAX_VERDICT_BATCH_BYTES + MAX_VOTE_SIGNATURE_BYTES, _verdicts)
        case MessageId.BODY_REQUEST:
            return decode_whole(data, "body request", HASH_BYTES + 4 + 4 * MAX_BLOCK_TRANSACTIONS, _request)
        case MessageId.BODY_RESPONSE:
            if data[:1] == bytes((_WHOLE,)):
                return BodyAnswer(data[1:])
            return decode_whole(data, "body", MAX_FRAME_PAYLOAD_BYTES, _parts)
        case MessageId.GET_BLOCKS:
            return decode_whole(data, "chain request", 8, lambda reader: ChainRequest(Height(reader.u64("above"))))
        case MessageId.BLOCKS:
            return decode_whole(data, "chain", MAX_FRAME_PAYLOAD_BYTES, _chain)
        case _:
            raise DecodeError(Malformed.UNKNOWN_KIND, f"message {kind} has no place on a lane")


def _transactions(reader: Reader) -> TransactionsPayload:
    number = reader.count("transactions", MAX_PUSHED, 4)
    return TransactionsPayload(tuple(reader.lp("transaction", MAX_TX_BYTES) for _ in range(number)))


def _verdicts(reader: Reader) -> VerdictPayload:
    return VerdictPayload(reader.lp("batch", MAX_VERDICT_BATCH_BYTES), reader.lp("signature", MAX_VOTE_SIGNATURE_BYTES))


def _request(reader: Reader) -> BodyRequest:
    block_hash = reader.hash("block hash")
    number = reader.count("places", MAX_BLOCK_TRANSACTIONS, 4)
    return BodyRequest(block_hash, tuple(reader.u32("place") for _ in range(number)))


def _parts(reader: Reader) -> BodyParts:
    if reader.u8("form") != _PARTS:
        raise DecodeError(Malformed.UNKNOWN_KIND, "a body comes whole or in parts")
    block_hash = reader.hash("block hash")
    number = reader.count("parts", MAX_BLOCK_TRANSACTIONS, 8)
    return BodyParts(
        block_hash, tuple((reader.u32("place"), reader.lp("transaction", MAX_TX_BYTES)) for _ in range(number))
    )


def _chain(reader: Reader) -> ChainAnswer:
    number = reader.count("blocks", MAX_CHAIN_BLOCKS, 8)
    most = MAX_FRAME_PAYLOAD_BYTES
    return ChainAnswer(
        tuple((reader.lp("block", most), reader.lp("certificate", MAX_CERTIFICATE_BYTES)) for _ in range(number))
    )
