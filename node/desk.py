"""What the parts of the engine share: the clock of this call, the work given out, and questions that are still open."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence

from consensus.events import Event
from node.work import Arm, CheckProofs, Refusal, Seen, Verify, WaitId, Work
from state.proofs import VerificationResult
from state.rules.reveal_proof import ProofWork
from trellis.crypto.algorithms import SignatureCheck
from trellis.types import Address

Then = Callable[[Sequence[bool]], None]


class Desk:
    """Answers come back by number; an answer nobody waits for any more is dropped by whoever asked."""

    __slots__ = ("_checks", "_proofs", "_serial", "_waits", "events", "now_ms", "out")

    def __init__(self) -> None:
        self.now_ms = 0
        self.out: list[Work] = []
        self.events: deque[Event] = deque()
        """For the core: fed after the effects in progress, never from inside them."""
        self._serial = 0
        self._checks: dict[int, Then] = {}
        self._proofs: dict[int, Callable[[Sequence[VerificationResult]], None]] = {}
        self._waits: dict[int, Callable[[], None]] = {}

    def _next(self) -> int:
        self._serial += 1
        return self._serial

    def refuse(self, peer: Address, reason: str) -> None:
        """Something a validator sent is wrong; `reason` is from a closed set of words."""
        self.out.append(Seen(Refusal(peer, reason)))

    def verify(self, checks: Iterable[SignatureCheck], then: Then, *, urgent: bool) -> None:
        """`then` is called with one verdict a check; at once if there is nothing to check."""
        asked = tuple(checks)
        if not asked:
            then(())
            return
        job = self._next()
        self._checks[job] = then
        self.out.append(Verify(job, asked, urgent))

    def verified(self, job: int, verdicts: Sequence[bool]) -> None:
        then = self._checks.pop(job, None)
        if then is not None:
            then(verdicts)

    def check_proofs(self, proofs: tuple[ProofWork, ...], then: Callable[[Sequence[VerificationResult]], None]) -> None:
        job = self._next()
        self._proofs[job] = then
        self.out.append(CheckProofs(job, proofs))

    def proofs_checked(self, job: int, results: Sequence[VerificationResult]) -> None:
        then = self._proofs.pop(job, None)
        if then is not None:
            then(results)

    def wait(self, delay_ms: int, then: Callable[[], None]) -> None:
        serial = self._next()
        self._waits[serial] = then
        self.out.append(Arm(WaitId(serial), max(delay_ms, 0)))

    def waited(self, wait: WaitId) -> None:
        then = self._waits.pop(wait.serial, None)
        if then is not None:
            then()
