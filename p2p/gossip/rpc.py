"""A gossipsub RPC as it comes from a stranger: measured before it is decoded, and read strictly.

One RPC of a few hundred kilobytes can name hundreds of thousands of empty messages, each an object of its own once
protobuf has decoded it. The outermost level is therefore walked first: it has few fields, or the RPC is refused.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from google.protobuf.message import DecodeError as ProtobufError
from libp2p.pubsub.pb import rpc_pb2

from p2p.gossip.scoring import GossipFault

MAX_MESSAGES: Final = 64
"""Of one RPC. Ours have one; what answers an IWANT has several."""
MAX_SUBSCRIPTIONS: Final = 16
"""Of one RPC: there are five topics."""
MAX_CONTROL_BYTES: Final = 64 << 10
"""Of one RPC: 2,000 ids of 32 bytes. Bounds what decoding it can allocate."""
MAX_TOP_FIELDS: Final = MAX_MESSAGES + MAX_SUBSCRIPTIONS + 8
_SUBSCRIPTION, _PUBLISH, _CONTROL = 1, 2, 3


class RpcError(Exception):
    """The peer sent something that is no RPC, or one that it may not send."""

    def __init__(self, fault: GossipFault, detail: str) -> None:
        super().__init__(f"{fault}: {detail}")
        self.fault = fault


@dataclass(slots=True)
class _Shape:
    messages: int = 0
    subscriptions: int = 0
    control_bytes: int = 0


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while shift < 35:
        if at >= len(data):
            raise RpcError(GossipFault.MALFORMED_RPC, "truncated")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
    raise RpcError(GossipFault.MALFORMED_RPC, "an overlong number")


def _measure(data: bytes) -> _Shape:
    shape = _Shape()
    at = fields = 0
    while at < len(data):
        fields += 1
        if fields > MAX_TOP_FIELDS:
            raise RpcError(GossipFault.RPC_TOO_LARGE, f"more than {MAX_TOP_FIELDS} fields")
        key, at = _varint(data, at)
        if key & 7 != 2:
            raise RpcError(GossipFault.MALFORMED_RPC, "a field that no RPC has")
        size, at = _varint(data, at)
        at += size
        if at > len(data):
            raise RpcError(GossipFault.MALFORMED_RPC, "truncated")
        number = key >> 3
        if number == _PUBLISH:
            shape.messages += 1
        elif number == _SUBSCRIPTION:
            shape.subscriptions += 1
        elif number == _CONTROL:
            shape.control_bytes += size
    return shape


def decode_rpc(data: bytes) -> rpc_pb2.RPC:
    """`RpcError` and nothing else for bytes that are no RPC."""
    shape = _measure(data)
    if shape.messages > MAX_MESSAGES or shape.subscriptions > MAX_SUBSCRIPTIONS:
        raise RpcError(GossipFault.RPC_TOO_LARGE, f"{shape.messages} messages, {shape.subscriptions} subscriptions")
    if shape.control_bytes > MAX_CONTROL_BYTES:
        raise RpcError(GossipFault.CONTROL_FLOOD, f"{shape.control_bytes} bytes of control")
    try:
        return rpc_pb2.RPC.FromString(data)
    except ProtobufError as fault:
        raise RpcError(GossipFault.MALFORMED_RPC, type(fault).__name__) from None


def is_anonymous(message: rpc_pb2.Message) -> bool:
    """StrictNoSign: none of the fields that only a signature could vouch for."""
    return not (
        message.HasField("from_id")
        or message.HasField("seqno")
        or message.HasField("signature")
        or message.HasField("key")
    )
