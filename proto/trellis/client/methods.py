"""The calls of the schema as values, and which of them may be repeated.

>>> from trellis.client.methods import GET_RECEIPT, unary
>>> GET_RECEIPT.path, GET_RECEIPT.idempotent
('/trellis.v1.TransactionService/GetReceipt', True)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message

from trellis.v1 import (
    finality_service_pb2,
    ledger_service_pb2,
    subscription_service_pb2,
    transaction_service_pb2,
)

Req = TypeVar("Req", bound=Message)
Res = TypeVar("Res", bound=Message)

PACKAGE: Final = "trellis.v1"

READING_SERVICES: Final = frozenset(
    {"LedgerService", "FinalityService", "ConsensusService", "SubscriptionService", "NodeService"}
)
"""Services that change nothing."""

REPEATABLE: Final = frozenset(
    {
        *(
            f"TransactionService/{name}"
            for name in (
                "SubmitTransaction",  # known again by its txid
                "SubmitTransactions",
                "SimulateTransaction",
                "EstimateFee",
                "GetTransaction",
                "WaitForFinality",
                "GetReceipt",
            )
        ),
        "AdminService/ListBans",
    }
)
"""What may be repeated beside the reading services. Everything else is called once: unknown methods too."""


@dataclass(frozen=True, slots=True)
class Method(Generic[Req, Res]):
    """One rpc of the schema."""

    service: str
    name: str
    request: type[Req]
    response: type[Res]

    @property
    def path(self) -> str:
        return f"/{PACKAGE}.{self.service}/{self.name}"

    @property
    def idempotent(self) -> bool:
        return self.service in READING_SERVICES or f"{self.service}/{self.name}" in REPEATABLE


def unary(service: str, name: str, request: type[Req], response: type[Res]) -> Method[Req, Res]:
    """Names any other unary rpc for `Client.call`, for example of NodeService or AdminService."""
    return Method(service, name, request, response)


_T, _L, _F, _S = transaction_service_pb2, ledger_service_pb2, finality_service_pb2, subscription_service_pb2

SUBMIT: Final = unary(
    "TransactionService", "SubmitTransaction", _T.SubmitTransactionRequest, _T.SubmitTransactionResponse
)
SUBMIT_MANY: Final = unary(
    "TransactionService", "SubmitTransactions", _T.SubmitTransactionsRequest, _T.SubmitTransactionsResponse
)
ESTIMATE_FEE: Final = unary("TransactionService", "EstimateFee", _T.EstimateFeeRequest, _T.EstimateFeeResponse)
GET_TRANSACTION: Final = unary(
    "TransactionService", "GetTransaction", _T.GetTransactionRequest, _T.GetTransactionResponse
)
WAIT_FOR_FINALITY: Final = unary(
    "TransactionService", "WaitForFinality", _T.WaitForFinalityRequest, _T.WaitForFinalityResponse
)
GET_RECEIPT: Final = unary("TransactionService", "GetReceipt", _T.GetReceiptRequest, _T.GetReceiptResponse)
GET_SERVICE_INFO: Final = unary("LedgerService", "GetServiceInfo", _L.GetServiceInfoRequest, _L.GetServiceInfoResponse)
GET_HEADER: Final = unary("LedgerService", "GetHeader", _L.GetHeaderRequest, _L.GetHeaderResponse)
GET_ACCOUNT: Final = unary("LedgerService", "GetAccount", _L.GetAccountRequest, _L.GetAccountResponse)
GET_PARAMETERS: Final = unary("LedgerService", "GetParameters", _L.GetParametersRequest, _L.GetParametersResponse)
GET_CERTIFICATE: Final = unary("FinalityService", "GetCertificate", _F.GetCertificateRequest, _F.GetCertificateResponse)
GET_TRANSITIONS: Final = unary(
    "FinalityService",
    "GetValidatorTransitions",
    _F.GetValidatorTransitionsRequest,
    _F.GetValidatorTransitionsResponse,
)
SUBSCRIBE_BLOCKS: Final = Method(
    "SubscriptionService", "SubscribeBlocks", _S.SubscribeBlocksRequest, _S.SubscribeBlocksResponse
)
