"""SubscriptionService: what becomes final, as streams that resume where they were cut off."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from node.rpc.backend import Backend
from node.rpc.blocks import LoadedBlock
from node.rpc.dispatch import Call
from node.rpc.encode import KIND_NUMBERS
from node.rpc.errors import invalid
from node.rpc.evidence import accepted_at, accepted_record
from node.rpc.feed import Feed
from node.rpc.fields import address_field, bounded, hash_field
from trellis.v1 import chain_pb2, subscription_service_pb2

_S = subscription_service_pb2

DEFAULT_HEARTBEAT_MS: Final = 15_000
MIN_HEARTBEAT_MS: Final = 1_000
MAX_HEARTBEAT_MS: Final = 300_000
MAX_ADDRESSES: Final = 100
MAX_KINDS: Final = 16
MAX_TXIDS: Final = 1_000


class SubscriptionService:
    """Each method as its comment in the schema says. Messages are put together from serialised fields: protobuf reads a
    message's fields in any order, so `at`, which changes, is joined to the block, which does not."""

    def __init__(self, backend: Backend, feed: Feed) -> None:
        self._backend = backend
        self._feed = feed

    async def subscribe_blocks(self, request: _S.SubscribeBlocksRequest, call: Call) -> None:
        include = request.include_transactions

        async def message_of(loaded: LoadedBlock) -> bytes:
            if loaded.is_streamed(include=include):
                return loaded.streamed(include=include)
            return await self._backend.reading.compute(lambda: loaded.streamed(include=include))

        await self._follow(call, request.start_height, request.heartbeat_interval_ms, message_of)

    async def subscribe_transactions(self, request: _S.SubscribeTransactionsRequest, call: Call) -> None:
        bounded(len(request.addresses), 0, MAX_ADDRESSES, "addresses")
        bounded(len(request.kinds), 0, MAX_KINDS, "kinds")
        bounded(len(request.txids), 0, MAX_TXIDS, "txids")
        addresses = [address_field(text, f"addresses[{place}]") for place, text in enumerate(request.addresses)]
        kinds = [_kind(number, place) for place, number in enumerate(request.kinds)]
        txids = [hash_field(text, f"txids[{place}]") for place, text in enumerate(request.txids)]

        async def message_of(loaded: LoadedBlock) -> bytes | None:
            places = loaded.places(addresses, kinds, txids)
            if not places:
                return None
            include = request.include_transactions
            return _S.SubscribeTransactionsResponse(
                block=loaded.ref(final=True),
                transactions=[loaded.info(place, final=True, include=include) for place in places],
                resume_height=loaded.header.height + 1,
            ).SerializeToString()

        await self._follow(call, request.start_height, request.heartbeat_interval_ms, message_of)

    async def subscribe_evidence(self, request: _S.SubscribeEvidenceRequest, call: Call) -> None:
        bounded(len(request.accused), 0, MAX_ADDRESSES, "accused")
        accused = {address_field(text, f"accused[{place}]") for place, text in enumerate(request.accused)}
        backend = self._backend

        async def message_of(loaded: LoadedBlock) -> bytes | None:
            height, ref = loaded.header.height, loaded.ref(final=True)
            found = backend.reading.now(lambda reader: accepted_at(reader, height))
            wanted = (item for item in found if not accused or item.accused in accused)
            records = [accepted_record(item, ref, backend.genesis.hash) for item in wanted]
            if not records:
                return None
            return _S.SubscribeEvidenceResponse(
                block=ref, evidence=records, resume_height=height + 1
            ).SerializeToString()

        await self._follow(call, request.start_height, request.heartbeat_interval_ms, message_of)

    async def _follow(
        self,
        call: Call,
        start: int,
        heartbeat_ms: int,
        message_of: Callable[[LoadedBlock], Awaitable[bytes | None]],
    ) -> None:
        if heartbeat_ms:
            bounded(heartbeat_ms, MIN_HEARTBEAT_MS, MAX_HEARTBEAT_MS, "heartbeat_interval_ms")
        seconds = (heartbeat_ms or DEFAULT_HEARTBEAT_MS) / 1_000
        await self._feed.follow(call, start, seconds, message_of, _HEARTBEATS[call.method])


def _kind(number: chain_pb2.TransactionKind.ValueType, place: int) -> str:
    if number not in _KIND_NAMES:
        raise invalid(f"kinds[{place}]", f"there is no kind {number}")
    return _KIND_NAMES[number]


_KIND_NAMES: Final = {number: name for name, number in KIND_NUMBERS.items() if number}
_HEARTBEATS: Final[dict[str, Callable[[int], bytes]]] = {
    "SubscriptionService/SubscribeBlocks": lambda resume: _S.SubscribeBlocksResponse(
        resume_height=resume
    ).SerializeToString(),
    "SubscriptionService/SubscribeTransactions": lambda resume: _S.SubscribeTransactionsResponse(
        resume_height=resume
    ).SerializeToString(),
    "SubscriptionService/SubscribeEvidence": lambda resume: _S.SubscribeEvidenceResponse(
        resume_height=resume
    ).SerializeToString(),
}
