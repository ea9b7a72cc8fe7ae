"""Bodies of blocks whose headers are certified: fetched in windows from peers, verified ahead, executed in order.

The signatures of several blocks are with the verifier while the one before them executes, so that both have work. They
are named by the state at the tip, which is nearly always right for the blocks after it; where it is not (a key that was
registered or changed in between), the block is asked about again when its turn comes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from node.bodies import ProofResults
from node.desk import Desk
from node.headers import Certified
from node.sources import LIE_STRIKES, Source, Sources
from node.trust import Sampling
from node.verdicts import Verdicts
from node.work import Blame, FetchBlocks, Offence, Stop
from state.claims import VerdictMissing, certificate_claims, required_claims
from state.errors import InvalidBlock
from state.ledger import Ledger, ParentUnknown
from state.proofs import VerificationResult
from state.scope import SignatureClaim
from state.transition import Applied
from trellis.block import Block, certificate_hash, decode_block
from trellis.certificate import Certificate
from trellis.encoding import DecodeError
from trellis.header import Header
from trellis.types import Height, PeerId

MAX_OPEN_WINDOWS: Final = 4
WINDOW_BYTES: Final = 8 << 20
"""Granted to one answer: two of the largest blocks."""
WINDOW_BLOCKS: Final = 64
MAX_HELD_BYTES: Final = 48 << 20
"""Bodies that are here and not executed yet, and those on their way: a fast source must not fill memory."""
MAX_CHECKS_AHEAD: Final = 4_096
"""Signatures with the verifier: several blocks of them, and still few enough to wait for."""


class Stage(Enum):
    WANTED = "wanted"
    ASKED = "asked"
    HERE = "here"
    CHECKING = "checking"
    READY = "ready"


@dataclass(slots=True, eq=False)
class Entry:
    """One block above the tip."""

    certified: Certified
    stage: Stage = Stage.WANTED
    job: int = 0
    block: Block | None = None
    size_bytes: int = 0
    sender: PeerId | None = None
    known: list[tuple[tuple[SignatureClaim, ...], Sequence[bool]]] = field(default_factory=list)
    """What was verified for it, a verdict for each check: told to the ledger when its turn comes."""
    in_full: bool = False
    """A sample did not do: every signature of it is verified."""

    @property
    def height(self) -> Height:
        return self.certified.header.height


class Windows:
    def __init__(
        self,
        desk: Desk,
        ledger: Ledger,
        verdicts: Verdicts,
        proofs: ProofResults,
        sources: Sources,
        commit: Callable[[Block, Certificate], None],
        again: Callable[[], None],
        sampling: Sampling | None,
    ) -> None:
        """`again`: something changed, look what there is to do now."""
        self._desk = desk
        self._ledger = ledger
        self._verdicts = verdicts
        self._proofs = proofs
        self._sources = sources
        self._commit = commit
        self._again = again
        self._sampling = sampling
        self.entries: deque[Entry] = deque()
        self._jobs: dict[int, tuple[Source, Height, int]] = {}
        self._job = 0
        self._mean_bytes = WINDOW_BYTES // 8
        self._checks_ahead = 0
        self._busy = False
        """The first entry's execution waits for an answer, or for its turn."""
        self.failures = 0
        """Since the last block that was committed."""

    @property
    def jobs(self) -> int:
        return len(self._jobs)

    @property
    def busy(self) -> bool:
        """Something is being verified or executed, so there is more to come without anybody being asked."""
        return self._busy or any(each.stage in (Stage.CHECKING, Stage.READY) for each in self.entries)

    def extend(self, run: Iterable[Certified]) -> None:
        self.entries.extend(map(Entry, run))

    def clear(self) -> None:
        self.entries.clear()

    def trim(self) -> None:
        """What consensus decided meanwhile need not be fetched."""
        tip = self._ledger.tip.height
        while self.entries and self.entries[0].height <= tip:
            self.entries.popleft()

    # Fetching.

    def ask(self) -> None:
        while len(self._jobs) < MAX_OPEN_WINDOWS and self._held_bytes() + WINDOW_BYTES <= MAX_HELD_BYTES:
            wanted = next((each for each in self.entries if each.stage is Stage.WANTED), None)
            if wanted is None:
                return
            source = self._sources.for_blocks(wanted.height, self._desk.now_ms)
            if source is None:
                return
            self._ask(wanted.height, source)

    def _held_bytes(self) -> int:
        return sum(each.size_bytes for each in self.entries) + WINDOW_BYTES * len(self._jobs)

    def _ask(self, first: Height, source: Source) -> None:
        most = max(1, min(WINDOW_BLOCKS, WINDOW_BYTES // self._mean_bytes, source.height - first + 1))
        self._job += 1
        count = 0
        for entry in self._from(first):
            if entry.stage is not Stage.WANTED or count == most:
                break
            entry.stage, entry.job = Stage.ASKED, self._job
            count += 1
        source.jobs += 1
        self._jobs[self._job] = (source, first, count)
        self._desk.out.append(FetchBlocks(self._job, source.peer, first, count))

    def _from(self, first: Height) -> Iterable[Entry]:
        return (each for each in self.entries if each.height >= first)

    def fetched(self, job: int, blocks: Sequence[bytes] | None, *, pruned: bool) -> None:
        found = self._jobs.pop(job, None)
        if found is None:
            return
        source, first, count = found
        source.jobs -= 1
        here = self._take(job, source, (blocks or ())[:count])
        for entry in self.entries:
            if entry.job == job and entry.stage is Stage.ASKED:
                entry.stage = Stage.WANTED
        if here is None:
            self._lied(source.peer, Offence.WRONG_BODY)
        elif here:
            self._sources.served(source)
        else:
            self.failures += 1
            if pruned:
                source.oldest = Height(max(source.oldest, first + 1))
            self._sources.failed(source, self._desk.now_ms)
        self._again()

    def _take(self, job: int, source: Source, blocks: Sequence[bytes]) -> int | None:
        """How many came that were still wanted; None if one is not what its certified header says."""
        waiting = {each.height: each for each in self.entries if each.job == job and each.stage is Stage.ASKED}
        taken = 0
        for data in blocks:
            try:
                block = decode_block(data)
            except DecodeError:
                return None
            entry = waiting.get(block.header.height)
            if entry is None:
                taken += block.header.height <= self._ledger.tip.height
                continue
            if not _is_body_of(block, entry.certified.header):
                return None
            entry.stage, entry.block, entry.sender, entry.size_bytes = Stage.HERE, block, source.peer, len(data)
            self._mean_bytes = max(1, (3 * self._mean_bytes + len(data)) // 4)
            taken += 1
        return taken

    def _lied(self, peer: PeerId | None, offence: Offence) -> None:
        """Whatever else it sent is fetched again, elsewhere."""
        if peer is None:
            return
        self.failures += 1
        self._desk.out.append(Blame(peer, offence))
        source = self._sources.get(peer)
        if source is not None:
            self._sources.failed(source, self._desk.now_ms, LIE_STRIKES)
        for entry in self.entries:
            if entry.sender == peer:
                _forget_body(entry)

    # Verifying ahead.

    def check(self) -> None:
        for entry in self.entries:
            if entry.stage is Stage.HERE and self._checks_ahead < MAX_CHECKS_AHEAD:
                self._check(entry)

    def _check(self, entry: Entry) -> None:
        block = entry.block
        if block is None:
            raise RuntimeError("broken invariant: a body that is here has bytes")
        entry.stage = Stage.CHECKING
        state, genesis_hash = self._ledger.state, self._ledger.genesis.hash
        claims = required_claims(state, genesis_hash, block, self._verdicts.vouched)
        parent = block.parent_certificate
        if parent is not None:
            before = self._before(entry)
            if before is not None and parent.height == before.header.height:
                same = certificate_claims(parent, genesis_hash, before.validators)
                if parent == before.certificate:
                    self._note(entry, same, [True] * sum(len(claim.checks) for claim in same))
                else:
                    claims = (*same, *claims)
        self._verify(entry, self._sampled(entry, self._verdicts.unknown(claims)))

    def _before(self, entry: Entry) -> Certified | None:
        previous: Entry | None = None
        for each in self.entries:
            if each is entry:
                return None if previous is None else previous.certified
            previous = each
        return None

    def _sampled(self, entry: Entry, claims: tuple[SignatureClaim, ...]) -> tuple[SignatureClaim, ...]:
        """In certificate-trust mode most claims count at once."""
        sampling, block = self._sampling, entry.block
        if sampling is None or entry.in_full or block is None:
            return claims
        carried = None if block.parent_certificate is None else block.parent_certificate.hash
        checked = tuple(claim for claim in claims if claim.key.subject == carried or sampling.wants(claim))
        chosen = {claim.key for claim in checked}
        trusted = tuple(claim for claim in claims if claim.key not in chosen)
        self._note(entry, trusted, [True] * sum(len(claim.checks) for claim in trusted))
        return checked

    @staticmethod
    def _note(entry: Entry, claims: tuple[SignatureClaim, ...], verdicts: Sequence[bool]) -> None:
        if claims:
            entry.known.append((claims, verdicts))

    def _verify(self, entry: Entry, claims: tuple[SignatureClaim, ...]) -> None:
        checks = [check for claim in claims for check in claim.checks]
        self._checks_ahead += len(checks)

        def done(verdicts: Sequence[bool]) -> None:
            self._checks_ahead -= len(checks)
            if entry.stage is Stage.CHECKING:
                self._note(entry, claims, verdicts)
                entry.stage = Stage.READY
                if checks:
                    self._again()

        self._desk.verify(checks, done, urgent=False)

    # Executing.

    def execute(self) -> None:
        """The next block, if it is ready: one in a turn, so that the node's other work goes on in between."""
        if self._busy or not self.entries or self.entries[0].stage is not Stage.READY:
            return
        entry = self.entries[0]
        block = entry.block
        if block is None or entry.height != self._ledger.tip.height + 1:
            raise RuntimeError("broken invariant: the next block to execute follows the tip")
        for claims, verdicts in entry.known:
            self._verdicts.learn(claims, verdicts)
        works = self._proofs.unknown(self._ledger.proofs(block))
        if works and sum(work.limits.cost for work in works) <= self._ledger.genesis.parameters.max_block_proof_cost:
            self._busy = True

            def checked(results: Sequence[VerificationResult]) -> None:
                self._proofs.learn(works, results)
                self._next()

            self._desk.check_proofs(works, checked)
            return
        try:
            result = self._ledger.execute(block, self._verdicts)
        except VerdictMissing:
            entry.stage = Stage.CHECKING
            missing = self._verdicts.unknown(self._ledger.claims(block, self._verdicts.vouched))
            self._verify(entry, self._sampled(entry, missing))
            if entry.stage is Stage.READY:
                self._busy = True
                self._desk.wait(0, self._next)
            return
        if isinstance(result, Applied):
            self._adopt(entry, block)
        else:
            self._refused(entry, result)

    def _next(self) -> None:
        self._busy = False
        self._again()

    def _adopt(self, entry: Entry, block: Block) -> None:
        self.entries.popleft()
        self.failures = 0
        self._busy = True
        self._commit(block, entry.certified.certificate)
        self._desk.wait(0, self._next)

    def _refused(self, entry: Entry, result: InvalidBlock | ParentUnknown) -> None:
        """Quorum power certified this header: either the body is not the one it was made for, or all is lost."""
        if isinstance(result, InvalidBlock) and not result.reason.condemns_block:
            self._lied(entry.sender, Offence.WRONG_BODY)
        elif self._sampling is not None and not entry.in_full:
            # Other bodies under the same witnesses pass a sample: verify every signature before anybody is believed.
            entry.in_full, entry.stage = True, Stage.HERE
            entry.known.clear()
            self._verdicts.height_over()
        else:
            told = f"broken invariant: certified block {entry.height} does not execute: {result}"
            self._desk.out.append(Stop(told, (entry.certified.certificate,)))
            return
        self._again()


def _is_body_of(block: Block, header: Header) -> bool:
    """As far as is seen at once; whether the witnesses are the header's, executing tells."""
    if block.header != header or block.seal is not None:
        return False
    return certificate_hash(block.parent_certificate) == header.parent_certificate_hash


def _forget_body(entry: Entry) -> None:
    entry.stage, entry.block, entry.sender, entry.size_bytes = Stage.WANTED, None, None, 0
    entry.known.clear()
