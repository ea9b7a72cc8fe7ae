"""Calling nodes: which one, how often, and whether they agree.

`call` asks one endpoint after another until one answers. `agreed` asks several and compares. `proven` asks until an
answer proves itself. Every answer names the block it was read from, and no two endpoints may ever name different final
blocks of one height: that is checked on the way, whatever is read.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from google.protobuf.message import Message
from grpc import StatusCode

from trellis.client.effects import Call, Flow, ask, ask_all, pause
from trellis.client.endpoints import Endpoint, RetryPolicy, Roster, Seat
from trellis.client.errors import (
    BadAnswer,
    ClientError,
    Course,
    EndpointsDisagree,
    Failure,
    NotEnoughAnswers,
    ProofInvalid,
    ServiceError,
    WrongChain,
    course_after,
    service_error,
)
from trellis.client.methods import GET_SERVICE_INFO, Method, Req, Res
from trellis.client.values import AnswerReader, BlockAt
from trellis.types import Hash, Height
from trellis.v1 import common_pb2, ledger_service_pb2

T = TypeVar("T")

MAX_REMEMBERED_BLOCKS: Final = 1_024
"""Stops nodes from filling memory with made-up heights; contradictions about older blocks show by proofs."""

MAX_HEIGHT_LEAD: Final = 1 << 62
"""Above this no chain gets; a node that says so is not honest."""


@dataclass(frozen=True, slots=True)
class Answered(Generic[Res]):
    """A response and who gave it."""

    seat: Seat
    message: Res

    @property
    def endpoint(self) -> str:
        return self.seat.name

    @property
    def reader(self) -> AnswerReader:
        return AnswerReader(self.seat.name)


@dataclass(frozen=True, slots=True)
class Fact:
    """What an answer says, for comparison: answers about one height must say the same."""

    height: int
    says: str


FactOf = Callable[[Answered[Res]], Fact]


class Caller:
    """Endpoints with what is known about them. One for each client; its flows share it."""

    def __init__(
        self,
        endpoints: tuple[Endpoint, ...],
        policy: RetryPolicy,
        agree: int,
        genesis_hash: Hash | None,
        clock: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        if not 1 <= agree <= len(endpoints):
            raise ValueError(f"agree={agree} does not fit {len(endpoints)} endpoints")
        self.policy = policy
        self.agree = agree
        self.roster = Roster(endpoints, policy)
        self._genesis_hash = genesis_hash
        self._clock = clock
        self._chance = chance
        self._seen: dict[Height, tuple[Hash, str]] = {}

    def now_s(self) -> float:
        return self._clock()

    def call(
        self,
        method: Method[Req, Res],
        request: Req,
        *,
        exclude: Collection[str] = (),
        budget_s: float | None = None,
        attempt_s: float | None = None,
    ) -> Flow[Answered[Res]]:
        """One answer from any endpoint. Repeats and goes elsewhere only if the method may be called twice."""
        until_s = self._clock() + (self.policy.budget_s if budget_s is None else budget_s)
        spent, errors = set(exclude), list[ServiceError]()
        for _ in range(max(self.policy.attempts, len(self.roster.seats))):
            chosen = self.roster.choose(self._clock(), spent)
            if not chosen or not (yield from self._await_rest(chosen, until_s, errors)):
                break
            seat = chosen[0]
            left_s = max(0.001, until_s - self._clock())
            answer = yield from self._attempt(seat, method, request, min(left_s, attempt_s or self.policy.attempt_s))
            if not isinstance(answer, Failure):
                return self._accept(seat, answer)
            errors.append(service_error(answer))
            if self._learn(seat, answer, method, spent) is Course.FAIL:
                break
        raise _together(errors, method)

    def _await_rest(self, seats: Iterable[Seat], until_s: float, errors: list[ServiceError]) -> Flow[bool]:
        """Pauses until the seats have rested; False where that would take longer than there is time."""
        rest_s = max(seat.rests_until_s for seat in seats) - self._clock()
        if rest_s <= 0:
            return True
        if self._clock() + rest_s >= until_s:
            errors += [service_error(seat.last_failure) for seat in seats if not errors and seat.last_failure]
            return False
        yield from pause(rest_s)
        return True

    def _attempt(self, seat: Seat, method: Method[Req, Res], request: Req, timeout_s: float) -> Flow[Res | Failure]:
        # Asking which chain it serves is the introduction itself: `_accept` checks that answer.
        if method.path != GET_SERVICE_INFO.path:
            refused = yield from self._introduce((seat,))
            if refused[0] is not None:
                return refused[0]
        return (yield from ask(Call(seat.endpoint, method, request, timeout_s)))

    def _introduce(self, seats: tuple[Seat, ...]) -> Flow[list[Failure | None]]:
        """Before an endpoint is first relied on, and after it was lost, it must say that it serves this chain."""
        strangers = [seat for seat in seats if not seat.introduced and self._genesis_hash is not None]
        failures: dict[str, Failure] = {}
        if strangers:
            request = ledger_service_pb2.GetServiceInfoRequest()
            calls = tuple(Call(seat.endpoint, GET_SERVICE_INFO, request, self.policy.attempt_s) for seat in strangers)
            for seat, answer in zip(strangers, (yield from ask_all(calls)), strict=True):
                if isinstance(answer, Failure):
                    # An admin listener serves no ledger: there is nothing to compare.
                    if answer.code is not StatusCode.UNIMPLEMENTED:
                        failures[seat.name] = answer
                        continue
                else:
                    self._check_chain(seat, answer)
                seat.introduced = True
        return [failures.get(seat.name) for seat in seats]

    def _check_chain(self, seat: Seat, answer: ledger_service_pb2.GetServiceInfoResponse) -> None:
        if self._genesis_hash is not None and answer.genesis_hash != self._genesis_hash.hex():
            raise WrongChain(seat.name, answer.genesis_hash, self._genesis_hash.hex())

    def _learn(self, seat: Seat, failure: Failure, method: Method[Req, Res], spent: set[str]) -> Course:
        # What failed may have been the introduction: then the call itself never left.
        idempotent = method.idempotent or failure.method == GET_SERVICE_INFO.name
        course = course_after(failure, idempotent=idempotent)
        if course is Course.AGAIN:
            self.roster.failed(seat, failure, self._clock(), self._chance())
        else:
            spent.add(seat.name)
        return course

    def lost(self, seat: Seat, failure: Failure) -> None:
        """A stream broke: the endpoint rests."""
        self.roster.failed(seat, failure, self._clock(), self._chance())

    def rest(self, seat: Seat, failure: Failure) -> None:
        """It is well, but has nothing more to say for a moment."""
        self.roster.rest(seat, failure, self._clock(), self._chance())

    def rested(self, spent: Collection[str]) -> Flow[Seat]:
        """The next endpoint for a stream, once it has rested and said that it serves the trusted chain."""
        chosen = self.roster.choose(self._clock(), spent)
        if not chosen:
            raise ClientError("no endpoint is left to follow")
        yield from self._await_rest(chosen, float("inf"), [])
        refused = (yield from self._introduce((chosen[0],)))[0]
        if refused is not None:
            raise service_error(refused)
        return chosen[0]

    def _accept(self, seat: Seat, message: Res) -> Answered[Res]:
        self.roster.answered(seat)
        if isinstance(message, ledger_service_pb2.GetServiceInfoResponse):
            self._check_chain(seat, message)
            seat.introduced = True
        self.note(seat.name, message)
        return Answered(seat, message)

    def note(self, endpoint: str, message: Message) -> None:
        """Holds the block that an answer was read from against what was seen before."""
        at = getattr(message, "at", None)
        if isinstance(at, common_pb2.BlockRef) and message.HasField("at"):
            self.note_block(endpoint, AnswerReader(endpoint).block(at))

    def note_block(self, endpoint: str, at: BlockAt) -> None:
        if at.height > MAX_HEIGHT_LEAD:
            raise BadAnswer(endpoint, f"a height of {at.height}")
        if at.height == 0:
            if self._genesis_hash is not None and at.hash != self._genesis_hash:
                raise WrongChain(endpoint, at.hash.hex(), self._genesis_hash.hex())
            return
        if not at.final:
            return
        known, told_by = self._seen.setdefault(at.height, (at.hash, endpoint))
        if known != at.hash:
            answers = {told_by: known.hex(), endpoint: at.hash.hex()}
            if told_by == endpoint:
                raise BadAnswer(endpoint, f"two final blocks of height {at.height}: {known.hex()} and {at.hash.hex()}")
            raise EndpointsDisagree(f"the block at height {at.height}", answers)
        if len(self._seen) > MAX_REMEMBERED_BLOCKS:
            del self._seen[next(iter(self._seen))]

    def agreed(self, method: Method[Req, Res], request: Req, fact_of: FactOf[Res], what: str) -> Flow[Answered[Res]]:
        """An answer that `agree` endpoints give alike."""
        if self.agree == 1:
            answered = yield from self.call(method, request)
            fact_of(answered)
            return answered
        until_s = self._clock() + self.policy.budget_s
        spent, failures = set[str](), dict[str, ServiceError]()
        voices: dict[str, tuple[Fact, Answered[Res]]] = {}
        for _ in range(max(self.policy.attempts, len(self.roster.seats))):
            wanted = self.roster.choose(self._clock(), {*spent, *voices}, self.agree - len(voices))
            if len(voices) + len(wanted) < self.agree:
                break
            if not (yield from self._await_rest(wanted, until_s, [])):
                break
            for seat, answer in (yield from self._attempt_all(tuple(wanted), method, request)):
                if isinstance(answer, Failure):
                    failures[seat.name] = service_error(answer)
                    self._learn(seat, answer, method, spent)
                    continue
                answered = self._accept(seat, answer)
                voices[seat.name] = (fact_of(answered), answered)
            _refuse_contradiction(what, voices)
            # Honest nodes may be a block apart: whoever spoke of an older one is asked again, a moment later.
            newest = max((fact.height for fact, _ in voices.values()), default=0)
            for name in [name for name, (fact, _) in voices.items() if fact.height < newest]:
                failures[name] = self._behind(voices.pop(name)[1].seat, method)
            if len(voices) >= self.agree:
                return next(iter(voices.values()))[1]
        if not voices and failures:
            raise _together(list(failures.values()), method)
        told = {name: str(error) for name, error in failures.items() if name not in voices}
        raise NotEnoughAnswers(what, self.agree, len(voices), told)

    def _behind(self, seat: Seat, method: Method[Req, Res]) -> ServiceError:
        failure = Failure(seat.name, method.name, StatusCode.UNAVAILABLE, "the node does not know of it yet")
        self.roster.rest(seat, failure, self._clock(), self._chance())
        return service_error(failure)

    def _attempt_all(
        self, seats: tuple[Seat, ...], method: Method[Req, Res], request: Req
    ) -> Flow[list[tuple[Seat, Res | Failure]]]:
        refused = yield from self._introduce(seats)
        ready = [seat for seat, failure in zip(seats, refused, strict=True) if failure is None]
        calls = tuple(Call(seat.endpoint, method, request, self.policy.attempt_s) for seat in ready)
        answers: list[tuple[Seat, Res | Failure]] = [
            (seat, failure) for seat, failure in zip(seats, refused, strict=True) if failure is not None
        ]
        answers += zip(ready, (yield from ask_all(calls)), strict=True)
        return answers

    def proven(self, method: Method[Req, Res], request: Req, check: Callable[[Answered[Res]], Flow[T]]) -> Flow[T]:
        """The first answer that `check` accepts. One lying node does not stop a wallet that knows an honest one; if all
        lie, the first lie is what is raised."""
        liars, first = set[str](), None
        while True:
            try:
                answered = yield from self.call(method, request, exclude=liars)
            except ServiceError as unanswered:
                if first is not None:
                    raise first from unanswered
                raise
            try:
                return (yield from check(answered))
            except (BadAnswer, ProofInvalid) as lie:
                self.roster.distrust(lie.endpoint, self._clock())
                liars.add(answered.endpoint)
                first = first or lie
                if len(liars) == len(self.roster.seats):
                    raise first from None


def _refuse_contradiction(what: str, voices: dict[str, tuple[Fact, Answered[Res]]]) -> None:
    by_height: dict[int, dict[str, str]] = {}
    for name, (fact, _) in voices.items():
        by_height.setdefault(fact.height, {})[name] = fact.says
    for answers in by_height.values():
        if len(set(answers.values())) > 1:
            raise EndpointsDisagree(what, answers)


def _together(errors: list[ServiceError], method: Method[Req, Res]) -> ClientError:
    """The last failure, with the others as notes."""
    if not errors:
        return ClientError(f"{method.name}: no endpoint is left to ask")
    last = errors[-1]
    for earlier in errors[:-1]:
        last.add_note(f"before that: {earlier}")
    return last
