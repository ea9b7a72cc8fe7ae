"""What both drivers share of gRPC: channel options, credentials, and reading its errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import grpc
from google.protobuf.message import DecodeError as ProtobufDecodeError
from google.rpc import (  # type: ignore[import-untyped]  # the package ships stubs without py.typed
    error_details_pb2,
    status_pb2,
)

from trellis import __version__
from trellis.client.effects import Call
from trellis.client.endpoints import Endpoint, Tls
from trellis.client.errors import Failure, Reason
from trellis.client.methods import Req, Res

MAX_MESSAGE_BYTES: Final = 64 << 20
"""Stops a node from filling a wallet's memory with one answer: a whole block or a receipt over many sets fits."""

MAX_RETRY_MS: Final = 24 * 3_600 * 1_000
ERROR_DOMAIN: Final = "trellis"
_STATUS_KEY: Final = "grpc-status-details-bin"


def channel_options(tls: Tls | None) -> list[tuple[str, str | int]]:
    options: list[tuple[str, str | int]] = [
        ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
        ("grpc.primary_user_agent", f"trellis-client/{__version__}"),
        # Our own retries know what may be repeated, and can go to another endpoint.
        ("grpc.enable_retries", 0),
        # A half-open connection under a subscription is found by pings, not by the kernel after hours.
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        # A node that restarted is found within a second: our own pauses decide how often it is tried.
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1_000),
        # Two clients of one process must not share a connection: each closes its own.
        ("grpc.use_local_subchannel_pool", 1),
    ]
    if tls is not None and tls.server_name is not None:
        options.append(("grpc.ssl_target_name_override", tls.server_name))
    return options


def channel_credentials(tls: Tls) -> grpc.ChannelCredentials:
    return grpc.ssl_channel_credentials(tls.root_certificates, tls.private_key, tls.certificate)


def call_metadata(endpoint: Endpoint) -> tuple[tuple[str, str], ...]:
    return () if endpoint.token is None else (("authorization", f"Bearer {endpoint.token}"),)


def failure_of(
    endpoint: Endpoint, method: str, code: grpc.StatusCode, details: str, trailing: Iterable[tuple[str, str | bytes]]
) -> Failure:
    """Never raises: what a stranger wrote into trailing metadata may be anything."""
    reason, metadata, retry_after_ms = _details(trailing)
    return Failure(endpoint.name, method, code, details, reason, metadata, retry_after_ms)


def _details(trailing: Iterable[tuple[str, str | bytes]]) -> tuple[Reason | None, dict[str, str], int | None]:
    reason: Reason | None = None
    metadata: dict[str, str] = {}
    retry_after_ms: int | None = None
    raw = next((value for key, value in trailing if key == _STATUS_KEY), b"")
    try:
        status = status_pb2.Status.FromString(raw if isinstance(raw, bytes) else raw.encode())
        for detail in status.details:
            info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
            if detail.Unpack(info) and info.domain == ERROR_DOMAIN:
                reason = Reason(info.reason) if info.reason in Reason.__members__ else None
                metadata = dict(info.metadata)
            elif detail.Unpack(retry):
                delay_ms = retry.retry_delay.seconds * 1_000 + retry.retry_delay.nanos // 1_000_000
                retry_after_ms = min(max(delay_ms, 0), MAX_RETRY_MS)
    except ProtobufDecodeError:
        return None, {}, None
    return reason, metadata, retry_after_ms


def failure_of_call(call: Call[Req, Res], error: grpc.RpcError) -> Failure:
    return failure_of_error(call.endpoint, call.method.name, error)


def failure_of_error(endpoint: Endpoint, method: str, error: grpc.RpcError) -> Failure:
    """gRPC's exceptions are calls as well: they carry code, details and trailing metadata."""
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        return failure_of(endpoint, method, grpc.StatusCode.UNKNOWN, str(error), ())
    trailing = error.trailing_metadata()
    pairs = [] if trailing is None else [(str(key), value) for key, value in trailing]
    return failure_of(endpoint, method, error.code(), error.details() or "", pairs)
