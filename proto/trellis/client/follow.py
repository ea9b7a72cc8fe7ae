"""Following blocks: every height once, in order, whatever happens to connections and nodes.

A follower holds the next height that it wants. When a stream breaks, falls silent, reports a gap, or comes from a node
that says something impossible, the next stream, from another endpoint where there is one, starts exactly there. A
height that no endpoint has any more is an error, never a hole.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import Message
from grpc import StatusCode

from trellis.block import transaction_leaf
from trellis.client.calls import Caller
from trellis.client.chain import ChainReader
from trellis.client.effects import Flow, Quiet, Stream, close_stream, open_stream, receive
from trellis.client.endpoints import Seat
from trellis.client.errors import (
    BadAnswer,
    ClientError,
    Course,
    DishonestAnswer,
    EndpointsDisagree,
    Failure,
    ProofInvalid,
    Reason,
    ServiceError,
    course_after,
    service_error,
)
from trellis.client.methods import SUBSCRIBE_BLOCKS
from trellis.client.values import AnswerReader, BlockAt, ChainBlock, Status, TransactionInfo
from trellis.encoding import DecodeError
from trellis.header import Header, decode_header
from trellis.merkle import merkle_root
from trellis.types import Hash
from trellis.v1 import chain_pb2, subscription_service_pb2

SILENCE_FACTOR: Final = 2
"""A stream that missed two heartbeats is dead."""

MAX_STEADY_HEARTBEATS: Final = 1 << 20
"""Not a limit on silence in the chain: only stops a node's flood of heartbeats from holding one call for ever."""


@dataclass(frozen=True, slots=True)
class FollowSettings:
    start_height: int = 0
    """0: the next block that becomes final."""
    verify: bool = False
    """Fetch and check a certificate for every block."""
    include_transactions: bool = False
    heartbeat_ms: int = 15_000
    silence_s: float | None = None
    """How long a silent stream is believed to be alive; else two heartbeats and a second."""

    @property
    def patience_s(self) -> float:
        return SILENCE_FACTOR * self.heartbeat_ms / 1_000 + 1.0 if self.silence_s is None else self.silence_s


class BlockFollower:
    """`next_block` is a flow that ends with the next block. Run again after an error, it goes on where it was."""

    def __init__(self, caller: Caller, chain: ChainReader, settings: FollowSettings) -> None:
        if settings.start_height < 0 or not 1_000 <= settings.heartbeat_ms <= 300_000:
            raise ValueError("follow from a height of 0 or more, with heartbeats from 1,000 to 300,000 ms")
        self._caller = caller
        self._chain = chain
        self._settings = settings
        self._next = settings.start_height
        self._stream: Stream | None = None
        self._seat: Seat | None = None
        self._previous: tuple[Header, str] | None = None
        if settings.verify:
            chain.require_sets("following with verify=True")

    @property
    def next_height(self) -> int:
        """The height of the next block; 0 while that is the next to become final. Store it to go on after a restart."""
        return self._next

    def next_block(self) -> Flow[ChainBlock]:
        faults: list[ClientError] = []
        spent: set[str] = set()
        patience = max(self._caller.policy.attempts, len(self._caller.roster.seats))
        heartbeats = 0
        while len(faults) < patience and len(spent) < len(self._caller.roster.seats):
            try:
                seat, stream = yield from self._opened(spent)
                item = yield from receive(stream, self._settings.patience_s)
                if not isinstance(item, subscription_service_pb2.SubscribeBlocksResponse):
                    raise service_error(_broken(seat, item, self._settings.patience_s))
                self._caller.note(seat.name, item)
                if item.HasField("block"):
                    block = yield from self._accept(seat, item)
                    self._caller.roster.answered(seat)
                    return block
                heartbeats += 1
                self._heartbeat(seat, item, heartbeats)
            except ServiceError as fault:
                faults.append(fault)
                yield from self.close()
                self._learn(fault.failure, spent)
            except (BadAnswer, ProofInvalid) as fault:
                faults.append(fault)
                yield from self.close()
                self._caller.roster.distrust(fault.endpoint, self._caller.now_s())
                spent.add(fault.endpoint)
        raise _first_lie_or_last(faults)

    def close(self) -> Flow[None]:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            yield from close_stream(stream)

    def _opened(self, spent: set[str]) -> Flow[tuple[Seat, Stream]]:
        if self._stream is None or self._seat is None:
            self._seat = yield from self._caller.rested(spent)
            request = subscription_service_pb2.SubscribeBlocksRequest(
                start_height=self._next,
                include_transactions=self._settings.include_transactions,
                heartbeat_interval_ms=self._settings.heartbeat_ms,
            )
            self._stream = yield from open_stream(self._seat.endpoint, SUBSCRIBE_BLOCKS, request)
        return self._seat, self._stream

    def _learn(self, failure: Failure, spent: set[str]) -> None:
        seat = self._caller.roster.named(failure.endpoint)
        if seat is None:
            return
        if failure.reason is Reason.SUBSCRIPTION_GAP or failure.reason is Reason.HEIGHT_FUTURE:
            # No fault: what was missed is asked for again, from our own next height, never from the node's.
            self._caller.rest(seat, failure)
            return
        match course_after(failure, idempotent=True):
            case Course.AGAIN:
                self._caller.lost(seat, failure)
            case Course.ELSEWHERE:
                spent.add(seat.name)
            case Course.FAIL:
                raise service_error(failure)

    def _heartbeat(self, seat: Seat, message: subscription_service_pb2.SubscribeBlocksResponse, number: int) -> None:
        """Once a height is set, only delivered blocks move it: a heartbeat cannot talk us past one."""
        if number >= MAX_STEADY_HEARTBEATS:
            raise BadAnswer(seat.name, "heartbeats without end")
        if self._next == 0:
            self._next = message.resume_height
        elif message.resume_height != self._next:
            raise BadAnswer(seat.name, f"a heartbeat at height {message.resume_height}, height {self._next} is due")

    def _accept(self, seat: Seat, message: subscription_service_pb2.SubscribeBlocksResponse) -> Flow[ChainBlock]:
        reader = AnswerReader(seat.name)
        header = self._linked(reader, seat, message.block)
        transactions = self._transactions(reader, header, message.block)
        if not message.block.final:
            raise reader.bad(f"a block that is not final, at height {header.height}")
        if self._settings.verify:
            yield from self._chain.certify(header, seat.name)
        self._caller.note_block(seat.name, BlockAt(header.height, header.hash, final=True))
        self._previous = (header, seat.name)
        self._next = header.height + 1
        return ChainBlock(header, transactions, self._settings.verify, seat.name)

    def _linked(self, reader: AnswerReader, seat: Seat, block: chain_pb2.Block) -> Header:
        """The header, if it is the next one and follows the one before."""
        try:
            header = decode_header(block.header.raw)
        except DecodeError as fault:
            raise reader.bad(f"a header that is none: {fault}") from fault
        if header.hash.hex() != block.header.block_hash:
            raise reader.bad(f"a header that does not hash to its block hash, at height {header.height}")
        if self._chain.genesis_hash is not None and header.genesis_hash != self._chain.genesis_hash:
            raise reader.bad(f"a block of chain {header.genesis_hash.hex()}")
        if header.height == 0 or (self._next and header.height != self._next):
            raise reader.bad(f"block {header.height}, block {self._next} is due")
        if self._previous is not None:
            before, told_by = self._previous
            if header.parent_hash != before.hash:
                what = f"the parent of block {header.height}"
                if told_by == seat.name:
                    raise reader.bad(f"{what}, which is not the block that it sent before")
                raise EndpointsDisagree(what, {told_by: before.hash.hex(), seat.name: header.parent_hash.hex()})
        return header

    def _transactions(
        self, reader: AnswerReader, header: Header, block: chain_pb2.Block
    ) -> tuple[TransactionInfo, ...]:
        """What is said about them must be what the header commits to: ids, outcomes and fees, none left out."""
        chain = self._chain.genesis_hash
        transactions = tuple(reader.transaction_info(info, chain) for info in block.transactions)
        leaves: list[Hash] = []
        for info in transactions:
            if info.status is not Status.FINAL or info.outcome is None:
                raise reader.bad(f"a transaction without outcome in final block {header.height}")
            leaves.append(transaction_leaf(info.txid, info.outcome, info.fee))
        if merkle_root(leaves) != header.tx_root:
            raise reader.bad(f"transactions of block {header.height} that its header does not commit to")
        if self._settings.include_transactions and any(info.transaction is None for info in transactions):
            raise reader.bad(f"block {header.height} without its transactions, which were asked for")
        return transactions


def _broken(seat: Seat, item: Message | Failure | Quiet, patience_s: float) -> Failure:
    match item:
        case Failure():
            return item
        case Quiet.SILENCE:
            told = f"nothing for {patience_s:g} s, not even a heartbeat"
        case _:
            told = "the stream ended"
    return Failure(seat.name, SUBSCRIBE_BLOCKS.name, StatusCode.UNAVAILABLE, told)


def _first_lie_or_last(faults: list[ClientError]) -> ClientError:
    lies = [fault for fault in faults if isinstance(fault, DishonestAnswer)]
    chosen = lies[0] if lies else faults[-1]
    for other in faults:
        if other is not chosen:
            chosen.add_note(f"also: {other}")
    return chosen
