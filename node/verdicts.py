"""What is known of signatures: every variant of a transaction is verified once, at admission.

The pool vouches for what it admitted. Everything else that was verified for the height in progress is kept here until
that height is committed. A verdict counts for one transaction, one key in force and one signature, never for another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from state.claims import VerdictMissing
from state.mempool import Mempool
from state.scope import ClaimKey, SignatureClaim

MAX_KNOWN: Final = 65_536
"""The oldest is forgotten first, and verified again if a block needs it: stops a flood of bad signatures, verified and
refused while the chain is idle, from filling memory."""


class Verdicts:
    """Serves the ledger. Asking for a verdict that was never given is this node's own mistake, and raises."""

    __slots__ = ("_known", "_pool")

    def __init__(self, pool: Mempool) -> None:
        self._pool = pool
        self._known: dict[ClaimKey, bool] = {}

    def __call__(self, key: ClaimKey) -> bool:
        if self._pool.vouches(key):
            return True
        found = self._known.get(key)
        if found is None:
            raise VerdictMissing(f"no verdict for transaction or certificate {key.subject.hex()}")
        return found

    def get(self, key: ClaimKey) -> bool | None:
        return True if self._pool.vouches(key) else self._known.get(key)

    def vouched(self, key: ClaimKey) -> bool:
        return self._pool.vouches(key)

    def unknown(self, claims: Iterable[SignatureClaim]) -> tuple[SignatureClaim, ...]:
        return tuple(claim for claim in claims if self.get(claim.key) is None)

    def learn(self, claims: Iterable[SignatureClaim], verdicts: Sequence[bool]) -> None:
        """`verdicts`: one for each check of the claims, in order."""
        at = 0
        for claim in claims:
            self._known[claim.key] = all(verdicts[at : at + len(claim.checks)])
            at += len(claim.checks)
        while len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

    def trust(self, claims: Iterable[SignatureClaim]) -> None:
        """What the core was given was verified before it got there."""
        for claim in claims:
            self._known[claim.key] = True

    def height_over(self) -> None:
        self._known.clear()
