"""Why a call is refused: one exception, one table, one place where it becomes a gRPC status.

The reasons are the closed set of the schema (`trellis.v1.Reason`); their codes are the client's own table, so that the
two ends cannot disagree. Whoever implements the port raises `Refused` too; all else that leaves a method is our fault.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import grpc
from google.protobuf.any_pb2 import Any
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import (  # type: ignore[import-untyped]  # stubs without py.typed
    ErrorInfo,
    RetryInfo,
)
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]  # the same

from trellis.client.errors import REASON_ERRORS, Reason

DOMAIN: Final = "trellis"
STATUS_KEY: Final = "grpc-status-details-bin"

__all__ = ["DOMAIN", "Reason", "Refused", "code_of", "details_of", "invalid"]


class Refused(Exception):
    """A call that fails on purpose. `metadata` is what the schema documents for the reason."""

    def __init__(
        self, reason: Reason, message: str, metadata: Mapping[str, str] | None = None, retry_after_ms: int = 0
    ) -> None:
        super().__init__(message)
        self.reason = reason
        self.message = message
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after_ms = retry_after_ms
        """0: no RetryInfo."""


def invalid(field: str, message: str) -> Refused:
    """A request field that is missing, out of range or not in its form."""
    return Refused(Reason.INVALID_FIELD, f"{field}: {message}", {"field": field})


def code_of(reason: Reason) -> grpc.StatusCode:
    return REASON_ERRORS[reason][0]


def details_of(refused: Refused) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata: a google.rpc.Status with ErrorInfo and, where there is a delay, RetryInfo."""
    info = Any()
    info.Pack(ErrorInfo(reason=refused.reason, domain=DOMAIN, metadata=refused.metadata))
    details = [info]
    if refused.retry_after_ms:
        delay = Duration()
        delay.FromMilliseconds(refused.retry_after_ms)
        retry = Any()
        retry.Pack(RetryInfo(retry_delay=delay))
        details.append(retry)
    code, _ = code_of(refused.reason).value
    status = Status(code=code, message=refused.message, details=details)
    return ((STATUS_KEY, status.SerializeToString()),)
