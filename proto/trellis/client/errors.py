"""What can go wrong for a wallet, each with a type of its own and a message that says what to do next.

Three families, told apart by whose fault it is: `ServiceError`, a node refused or could not answer (with the closed set
of reasons of the schema); `DishonestAnswer`, an answer that no honest node gives; and the rest, which only the caller
can mend.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum
from typing import ClassVar, Final

from grpc import StatusCode

MAX_DETAIL_CHARACTERS: Final = 300
"""Stops a node from filling a terminal or a log with its error message."""


class Reason(StrEnum):
    """The closed set of google.rpc.ErrorInfo reasons, as `trellis.v1.Reason` has them without their prefix."""

    MALFORMED_TX = "MALFORMED_TX"
    BAD_SIGNATURE = "BAD_SIGNATURE"
    WRONG_CHAIN = "WRONG_CHAIN"
    INVALID_FIELD = "INVALID_FIELD"
    TX_EXPIRED = "TX_EXPIRED"
    NONCE_TOO_LOW = "NONCE_TOO_LOW"
    NONCE_GAP = "NONCE_GAP"
    INSUFFICIENT_FUNDS = "INSUFFICIENT_FUNDS"
    ALGORITHM_NOT_ALLOWED = "ALGORITHM_NOT_ALLOWED"
    FEE_TOO_LOW = "FEE_TOO_LOW"
    NOT_FINAL = "NOT_FINAL"
    MEMPOOL_FULL = "MEMPOOL_FULL"
    RATE_LIMITED = "RATE_LIMITED"
    HEIGHT_PRUNED = "HEIGHT_PRUNED"
    HEIGHT_FUTURE = "HEIGHT_FUTURE"
    SYNCING = "SYNCING"
    NO_QUORUM = "NO_QUORUM"
    DRAINING = "DRAINING"
    WAIT_TIMEOUT = "WAIT_TIMEOUT"
    SUBSCRIPTION_GAP = "SUBSCRIPTION_GAP"
    TX_UNKNOWN = "TX_UNKNOWN"
    NOT_FOUND = "NOT_FOUND"
    ROLE_REQUIRED = "ROLE_REQUIRED"


@dataclass(frozen=True, slots=True)
class Failure:
    """A failed call as gRPC reported it: what drivers hand to the core."""

    endpoint: str
    method: str
    code: StatusCode
    details: str = ""
    reason: Reason | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    retry_after_ms: int | None = None


class ClientError(Exception):
    """Everything that this package raises on purpose, but for misuse (`ValueError`, `TypeError`)."""


class ServiceError(ClientError):
    """A node refused the call, or could not be reached. `reason` is None where it gave none."""

    hint: ClassVar[str] = "See the code and details."

    def __init__(self, failure: Failure) -> None:
        told = printable(failure.details)
        facts = ", ".join(f"{printable(k)}={printable(v)}" for k, v in sorted(failure.metadata.items()))
        what = failure.reason or failure.code.name
        parts = [f"{failure.endpoint}: {failure.method}: {what}", told, facts and f"({facts})", self.hint]
        super().__init__(" ".join(part if part.endswith((".", ")", ":")) else f"{part}." for part in parts if part))
        self.failure = failure
        self.endpoint = failure.endpoint
        self.method = failure.method
        self.code = failure.code
        self.reason = failure.reason
        self.metadata = dict(failure.metadata)
        self.retry_after_ms = failure.retry_after_ms

    def number(self, name: str) -> int | None:
        """A metadata entry as an integer, or None: the node may have left it out."""
        text = self.metadata.get(name, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


def printable(text: str) -> str:
    """A node's text without control characters: escape sequences must not reach a terminal."""
    shown = "".join(character if character.isprintable() else " " for character in text[:MAX_DETAIL_CHARACTERS])
    return shown.strip()


class MalformedTx(ServiceError):
    hint = "Build the body with trellis.transaction; it must be in the canonical form."


class BadSignature(ServiceError):
    hint = "Sign with the key in force for the sender: has the account's key been rotated?"


class WrongChainRefused(ServiceError):
    hint = "The transaction is signed for another genesis: check the genesis file and the endpoint."


class InvalidField(ServiceError):
    hint = "Mend the field that the metadata names."


class TxExpired(ServiceError):
    hint = "Build and sign it again with a later valid_until_height."


class NonceTooLow(ServiceError):
    hint = (
        "Another transaction used this nonce: it may be this very payment. Look at account(address, verify=True) and "
        "your receipts before you build it again; nothing is re-signed for you."
    )


class NonceGap(ServiceError):
    hint = (
        "Send the transactions with the missing nonces first, or build again: the next build asks for the nonce anew."
    )


class InsufficientFunds(ServiceError):
    hint = "Fund the account, or send less: balance and need are in the metadata."


class AlgorithmNotAllowed(ServiceError):
    hint = "Use a key of an algorithm that the chain's policy allows for accounts at this height."


class FeeTooLow(ServiceError):
    hint = "Pay at least the minimum_fee in the metadata."


class NotFinal(ServiceError):
    hint = "wait() for finality first."


class MempoolFull(ServiceError):
    hint = "Wait, or offer a higher fee."


class RateLimited(ServiceError):
    hint = "Slow down, or use more endpoints."


class HeightPruned(ServiceError):
    hint = "Ask a node that keeps older blocks: add it to the endpoints."


class HeightFuture(ServiceError):
    hint = "The node has not reached this height: wait, or ask another."


class Syncing(ServiceError):
    hint = "The node is catching up: wait, or add another endpoint."


class NoQuorum(ServiceError):
    hint = "The node has no contact with a quorum of validators: wait, or add another endpoint."


class Draining(ServiceError):
    hint = "Its operator is taking the node out of service: add another endpoint."


class WaitTimeout(ServiceError):
    hint = "It may still become final: call wait() again; the last known status is in the metadata."


class SubscriptionGap(ServiceError):
    hint = "Read faster, or subscribe again from resume_height."


class TxUnknown(ServiceError):
    hint = "Submit it again (that is safe: its id stays the same), or ask a node that keeps older blocks."


class NotFound(ServiceError):
    hint = "Check the height, hash or id."


class RoleRequired(ServiceError):
    hint = "Connect with a certificate or token that carries the role."


class Unreachable(ServiceError):
    """UNAVAILABLE without a reason: nobody answered at that address."""

    hint = "Check the address, the network and TLS settings (is this a TLS port?), or add another endpoint."


class TimedOut(ServiceError):
    """DEADLINE_EXCEEDED without a reason."""

    hint = "Raise the timeout, or add another endpoint. What was submitted may still be included."


class Unexpected(ServiceError):
    """A code without a reason: a proxy between, other software, or a message above a size limit."""

    hint = "Is this the gRPC port of a Trellis node of this version?"


REASON_ERRORS: Final[Mapping[Reason, tuple[StatusCode, type[ServiceError]]]] = {
    Reason.MALFORMED_TX: (StatusCode.INVALID_ARGUMENT, MalformedTx),
    Reason.BAD_SIGNATURE: (StatusCode.INVALID_ARGUMENT, BadSignature),
    Reason.WRONG_CHAIN: (StatusCode.INVALID_ARGUMENT, WrongChainRefused),
    Reason.INVALID_FIELD: (StatusCode.INVALID_ARGUMENT, InvalidField),
    Reason.TX_EXPIRED: (StatusCode.FAILED_PRECONDITION, TxExpired),
    Reason.NONCE_TOO_LOW: (StatusCode.FAILED_PRECONDITION, NonceTooLow),
    Reason.NONCE_GAP: (StatusCode.FAILED_PRECONDITION, NonceGap),
    Reason.INSUFFICIENT_FUNDS: (StatusCode.FAILED_PRECONDITION, InsufficientFunds),
    Reason.ALGORITHM_NOT_ALLOWED: (StatusCode.FAILED_PRECONDITION, AlgorithmNotAllowed),
    Reason.FEE_TOO_LOW: (StatusCode.FAILED_PRECONDITION, FeeTooLow),
    Reason.NOT_FINAL: (StatusCode.FAILED_PRECONDITION, NotFinal),
    Reason.MEMPOOL_FULL: (StatusCode.RESOURCE_EXHAUSTED, MempoolFull),
    Reason.RATE_LIMITED: (StatusCode.RESOURCE_EXHAUSTED, RateLimited),
    Reason.HEIGHT_PRUNED: (StatusCode.OUT_OF_RANGE, HeightPruned),
    Reason.HEIGHT_FUTURE: (StatusCode.OUT_OF_RANGE, HeightFuture),
    Reason.SYNCING: (StatusCode.UNAVAILABLE, Syncing),
    Reason.NO_QUORUM: (StatusCode.UNAVAILABLE, NoQuorum),
    Reason.DRAINING: (StatusCode.UNAVAILABLE, Draining),
    Reason.WAIT_TIMEOUT: (StatusCode.DEADLINE_EXCEEDED, WaitTimeout),
    Reason.SUBSCRIPTION_GAP: (StatusCode.DATA_LOSS, SubscriptionGap),
    Reason.TX_UNKNOWN: (StatusCode.NOT_FOUND, TxUnknown),
    Reason.NOT_FOUND: (StatusCode.NOT_FOUND, NotFound),
    Reason.ROLE_REQUIRED: (StatusCode.PERMISSION_DENIED, RoleRequired),
}
"""Each reason with its canonical code and its exception."""


def service_error(failure: Failure) -> ServiceError:
    """A reason counts only together with its own code: a node that mixes them up gave no reason."""
    if failure.reason is not None:
        code, error = REASON_ERRORS[failure.reason]
        if code is failure.code:
            return error(failure)
    match failure.code:
        case StatusCode.UNAVAILABLE:
            return Unreachable(failure)
        case StatusCode.DEADLINE_EXCEEDED:
            return TimedOut(failure)
        case _:
            return Unexpected(failure)


class Course(Enum):
    """What to do after a failure."""

    FAIL = "fail"
    """Nobody else would answer otherwise, or a repetition might do it twice."""
    ELSEWHERE = "elsewhere"
    """Another node may know more; asking this one again is no use."""
    AGAIN = "again"
    """It may pass: let this node rest and try another, or this one later."""


_ELSEWHERE: Final = (Reason.HEIGHT_PRUNED, Reason.HEIGHT_FUTURE, Reason.TX_UNKNOWN, Reason.NOT_FINAL)
_PASSING: Final = (Reason.MEMPOOL_FULL, Reason.RATE_LIMITED)


def course_after(failure: Failure, *, idempotent: bool) -> Course:
    if not idempotent:
        return Course.FAIL
    if failure.reason in _ELSEWHERE:
        return Course.ELSEWHERE
    match failure.code:
        case StatusCode.UNAVAILABLE:
            return Course.AGAIN
        case StatusCode.DEADLINE_EXCEEDED:
            return Course.FAIL if failure.reason is Reason.WAIT_TIMEOUT else Course.AGAIN
        case StatusCode.RESOURCE_EXHAUSTED:
            # Without a reason or a delay it is gRPC's own complaint about a message above a size limit.
            return Course.AGAIN if failure.reason in _PASSING or failure.retry_after_ms is not None else Course.FAIL
        case _:
            return Course.FAIL


class DishonestAnswer(ClientError):
    """A node said what no honest node of this chain says. Do not use it until you know why."""


class BadAnswer(DishonestAnswer):
    """An answer that contradicts the request, itself, or the protocol."""

    def __init__(self, endpoint: str, what: str) -> None:
        super().__init__(f"{endpoint} gave an answer that no honest node gives: {what}. Do not rely on this endpoint.")
        self.endpoint = endpoint
        self.what = what


class ProofInvalid(DishonestAnswer):
    """A receipt, certificate or state proof that does not prove what it should."""

    def __init__(self, endpoint: str, what: str, fault: str) -> None:
        super().__init__(f"{endpoint} sent a {what} that proves nothing: {fault}. Do not rely on this endpoint.")
        self.endpoint = endpoint
        self.what = what
        self.fault = fault


class WrongChain(DishonestAnswer):
    """The endpoint serves another chain than the genesis or checkpoint that you trust."""

    def __init__(self, endpoint: str, found: str, trusted: str) -> None:
        super().__init__(
            f"{endpoint} serves chain {printable(found)}, you trust chain {trusted}: "
            "check the address, and that the genesis file is the right one."
        )
        self.endpoint = endpoint
        self.found = found
        self.trusted = trusted


class EndpointsDisagree(DishonestAnswer):
    """Two endpoints state different final facts: at least one of them lies, or follows another chain."""

    def __init__(self, what: str, answers: Mapping[str, str]) -> None:
        told = "; ".join(f"{endpoint} says {answer}" for endpoint, answer in answers.items())
        super().__init__(
            f"the endpoints disagree about {what}: {told}. At least one lies or follows another chain: rely on none of "
            "them until you know which. Reads with verify=True need no trust in either."
        )
        self.what = what
        self.answers = dict(answers)


class NotEnoughAnswers(ClientError):
    """Fewer endpoints than `agree` asks for gave comparable answers."""

    def __init__(self, what: str, needed: int, got: int, failures: Mapping[str, str]) -> None:
        told = "; ".join(f"{endpoint}: {failure}" for endpoint, failure in failures.items())
        super().__init__(
            f"{what}: {needed} endpoints must agree, {got} answered alike{f' ({told})' if told else ''}. "
            "Add endpoints, lower agree, or read with verify=True."
        )
        self.needed = needed
        self.got = got
        self.failures = dict(failures)


class NoTrust(ClientError):
    """Something must be signed or proven, and the client was given no genesis or checkpoint."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what} needs a trusted start: pass trust=load_trust('genesis.json') to the client. "
            "A chain's id must never be taken from the node."
        )


class NotProvable(ClientError):
    """What was asked for has no proof on this chain."""


class NotIncluded(ClientError):
    """The transaction ended without being final, as far as all endpoints tell."""

    def __init__(self, txid: str, status: str, told_by: tuple[str, ...]) -> None:
        super().__init__(
            f"transaction {txid} is {status}, say {', '.join(told_by)}. Before you build it again with another nonce, "
            "make sure that it can never be included: account(sender, verify=True) must show its nonce used by another "
            "transaction, or a height above its valid_until_height. Submitting the same one again is always safe."
        )
        self.txid = txid
        self.status = status
        self.told_by = told_by


class SignerFault(ClientError):
    """The signer failed, or its signature does not verify under its own key: nothing was sent."""


class KeyNotInForce(ClientError):
    """The chain knows another key for this account than the signer's."""


class FeeTooHigh(ClientError):
    """The node asks for more than the limit: nothing was signed."""

    def __init__(self, asked: int, limit: int) -> None:
        super().__init__(
            f"a fee of {asked} base units is asked for, the limit is {limit}: pass max_fee= or fee= if you agree to it"
        )
        self.asked = asked
        self.limit = limit


class ClientClosed(ClientError):
    """The client was closed: make a new one."""
