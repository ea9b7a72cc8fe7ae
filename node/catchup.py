"""Catching up from peers, headers first: certificates are verified before a body is asked for.

Validators that fell behind and nodes that only follow use the same machine. Peers are opaque: whom to believe is
settled by certificates alone. Who lies is blamed and left, who is silent is left for a while, and a second certified
history stops the node with both certificates in hand.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from node.bodies import ProofResults
from node.desk import Desk
from node.headers import Certified, Top, certified_run, certifies, decode_run, signatures_of
from node.sources import LIE_STRIKES, Source, Sources
from node.trust import Sampling
from node.verdicts import Verdicts
from node.windows import Windows
from node.work import Blame, FetchHeaders, Offence, Stop
from state.ledger import Ledger
from state.validator_sets import set_at
from trellis.block import Block
from trellis.certificate import Certificate, decode_certificate
from trellis.encoding import DecodeError
from trellis.header import HEADER_BYTES, Header, decode_header
from trellis.types import Hash, Height, PeerId
from trellis.validators import ValidatorSet

ENOUGH_AHEAD: Final = 256
"""Certified headers above the tip; with that many no more are asked for. About 10 kB each with four validators."""
MAX_ANSWER_HEADERS: Final = 256
LOCATOR_STEPS: Final = 24
"""Back-off of the locator: 2^24 blocks."""
MAX_FAILURES: Final = 3
"""Answers in a row that brought nothing; then the core is told, and asks again when it hears more."""
VOTER_LAG: Final = 8
"""Blocks. A validator is told of new blocks by consensus, and asks others only when that has clearly failed."""
BEHIND: Final = 4
"""Blocks that a node may be behind and still count as synced: it hears of a block a moment after others have it."""

Stored = Callable[[Height], tuple[bytes, bytes] | None]


class CatchUp:
    def __init__(
        self,
        desk: Desk,
        ledger: Ledger,
        verdicts: Verdicts,
        proofs: ProofResults,
        stored: Stored,
        commit: Callable[[Block, Certificate], None],
        done: Callable[[bool], None],
        follows: Callable[[], bool],
        sampling: Sampling | None = None,
    ) -> None:
        """`done` is called with whether the chain grew. `follows`: this node has no vote, so peers are all it has."""
        self._desk = desk
        self._ledger = ledger
        self._stored = stored
        self._done = done
        self._follows = follows
        self._job = 0
        self._asked: tuple[Source, bool] | None = None
        """Who is asked for headers, and whether with the whole locator."""
        self._judging = False
        self._retry_waits = False
        self._grown = False
        self._wanted = Height(0)
        """The core asked for as much."""
        self.sources = Sources()
        self.windows = Windows(desk, ledger, verdicts, proofs, self.sources, commit, self._pump, sampling)
        self._commit = commit
        self.active = False

    @property
    def target(self) -> Height:
        """The greatest height that is known to be final elsewhere."""
        entries = self.windows.entries
        return max(self._wanted, entries[-1].height if entries else Height(0))

    @property
    def behind(self) -> bool:
        tip = self._ledger.tip.height
        if not self.active:
            return False
        return max(self.target, self.sources.highest()) > tip + (BEHIND if self._follows() else 0)

    # What happens.

    def begin(self, target: Height) -> None:
        """The core knows that this height was decided elsewhere; it is answered by `done`, whatever comes of it."""
        self._wanted = max(self._wanted, target)
        self.sources.assume(target)
        if not self.active:
            self._start()
        else:
            self._pump()

    def stands(self, peer: PeerId, height: Height, oldest: Height) -> None:
        self.sources.stands(peer, height, oldest)
        self._consider()

    def left(self, peer: PeerId) -> None:
        self.sources.left(peer)

    def _consider(self) -> None:
        if self.active:
            self._pump()
        elif self.sources.for_headers(Height(self._ledger.tip.height + self._patience()), self._desk.now_ms):
            self._start()

    def _patience(self) -> int:
        return 0 if self._follows() else VOTER_LAG

    def _start(self) -> None:
        self.active, self._grown = True, False
        self.windows.failures = 0
        self._pump()

    def _finish(self) -> None:
        self.active = False
        self.windows.clear()
        self._done(self._grown)
        self._retry_later()

    def _retry_later(self) -> None:
        """Somebody says to have more, and rests after a failure: it is asked again by and by."""
        above = Height(self._ledger.tip.height + self._patience())
        ends_ms = self.sources.next_rest_ends_ms(above, self._desk.now_ms)
        if ends_ms is None or self._retry_waits:
            return
        self._retry_waits = True

        def again() -> None:
            self._retry_waits = False
            self._consider()

        self._desk.wait(ends_ms - self._desk.now_ms, again)

    def _pump(self) -> None:
        """Whatever can be done now. Called after everything that may have changed something."""
        if not self.active:
            return
        windows = self.windows
        if windows.entries and not self._on_our_chain():
            return
        before = self._ledger.tip.height
        windows.trim()
        if windows.failures < MAX_FAILURES + len(self.sources):
            self._ask_headers()
            windows.ask()
        windows.check()
        windows.execute()
        self._grown = self._grown or self._ledger.tip.height > before
        if self._asked is None and not self._judging and not windows.jobs and not windows.busy:
            self._finish()

    def _on_our_chain(self) -> bool:
        """Consensus may have decided what was fetched here; if it decided something else, there are two histories."""
        tip = self._ledger.tip
        entry = next((each for each in self.windows.entries if each.height == tip.height), None)
        if entry is None or entry.certified.header.hash == tip.block_hash:
            return True
        self._conflict(tip.height, entry.certified.certificate)
        return False

    # Headers.

    def _top(self) -> Top:
        entries = self.windows.entries
        tip = self._ledger.tip
        if entries and entries[-1].height > tip.height:
            last = entries[-1].certified
            same = last.header.next_validators_hash == last.validators.hash
            return Top(last.header.height, last.header.hash, last.validators if same else None)
        facts = self._ledger.facts_after(tip.block_hash)
        if facts is None:
            raise RuntimeError("broken invariant: the head has no state")
        return Top(tip.height, tip.block_hash, facts.validators)

    def _ask_headers(self, *, deep: Source | None = None) -> None:
        if self._asked is not None or self._judging or len(self.windows.entries) >= ENOUGH_AHEAD:
            return
        top = self._top()
        if top.validators is None:
            return
        source = deep or self.sources.for_headers(top.height, self._desk.now_ms)
        if source is None:
            return
        self._job += 1
        self._asked = (source, deep is not None)
        source.jobs += 1
        locator = (top.block_hash,) if deep is None else self._locator(top)
        self._desk.out.append(FetchHeaders(self._job, source.peer, locator))

    def _locator(self, top: Top) -> tuple[Hash, ...]:
        """The newest block and exponentially older ones, down to genesis: where a peer's history left ours."""
        found = [top.block_hash]
        tip = self._ledger.tip
        if tip.block_hash != top.block_hash:
            found.append(tip.block_hash)
        for step in range(LOCATOR_STEPS):
            height = Height(tip.height - (1 << step))
            own = self._own_hash(height) if height > 0 else None
            if own is None:
                break
            found.append(own)
        return (*found, self._ledger.genesis.hash)

    def _own_hash(self, height: Height) -> Hash | None:
        for entry in self.windows.entries:
            if entry.height == height:
                return entry.certified.header.hash
        kept = self._stored(height)
        return None if kept is None else decode_header(kept[0][:HEADER_BYTES]).hash

    def headers_fetched(self, job: int, raw: Sequence[tuple[bytes, bytes]] | None) -> None:
        if self._asked is None or job != self._job:
            return
        (source, deep), self._asked = self._asked, None
        source.jobs -= 1
        if raw is None:
            self._failed(source)
        else:
            run = decode_run(raw[:MAX_ANSWER_HEADERS])
            if run is None:
                self._lied(source, Offence.MALFORMED)
            else:
                self._judge(source, run, deep)
        self._pump()

    def _judge(self, source: Source, run: list[tuple[Header, Certificate]], deep: bool) -> None:
        top = self._top()
        while run and run[0][0].height <= top.height:
            header, certificate = run[0]
            own = self._own_hash(header.height) if header.height > 0 else None
            if own is not None and own != header.hash:
                self._dispute(source, header, certificate)
                return
            run.pop(0)
        if not run or run[0][0].parent_hash != top.block_hash:
            if deep and run:
                self._lied(source, Offence.BROKEN_CHAIN)
            elif deep:
                self._has_no_more(source, top)
            else:
                self._ask_headers(deep=source)
            return
        if top.validators is None or run[0][0].height != top.height + 1:
            self._lied(source, Offence.BROKEN_CHAIN)
            return
        certified = certified_run(run, top.validators)
        if certified is None:
            self._lied(source, Offence.BAD_CERTIFICATE)
            return
        self._verify(source, top, certified)

    def _verify(self, source: Source, top: Top, certified: tuple[Certified, ...]) -> None:
        self._judging = True

        def verified(verdicts: Sequence[bool]) -> None:
            self._judging = False
            if not all(verdicts):
                self._lied(source, Offence.BAD_CERTIFICATE)
            elif self.active:
                source.strikes = 0
                now = self._top()
                # Consensus may have moved the tip meanwhile: what it decided is left out.
                rest = [each for each in certified if each.header.height > now.height]
                if rest and rest[0].header.parent_hash == now.block_hash:
                    self.windows.extend(rest)
            self._pump()

        self._desk.verify(signatures_of(certified, self._ledger.genesis.hash), verified, urgent=True)

    def _has_no_more(self, source: Source, top: Top) -> None:
        """It said more than it gives, or the core did for it: no offence, but no source either."""
        source.height = min(source.height, top.height)
        self._failed(source)

    def _failed(self, source: Source) -> None:
        self.windows.failures += 1
        self.sources.failed(source, self._desk.now_ms)

    def _lied(self, source: Source, offence: Offence) -> None:
        self.windows.failures += 1
        self.sources.failed(source, self._desk.now_ms, LIE_STRIKES)
        self._desk.out.append(Blame(source.peer, offence))

    # Two histories.

    def _dispute(self, source: Source, header: Header, certificate: Certificate) -> None:
        """Another block than ours at one height: a lie, unless quorum power certified both."""
        validators = self._set_of(header.height)
        if validators is None:
            # Older than the sets that the state remembers: nothing can be proven, and nothing is learnt from this peer.
            self._failed(source)
            return
        if not certifies(certificate, header, validators):
            self._lied(source, Offence.BAD_CERTIFICATE)
            return
        self._judging = True

        def verified(verdicts: Sequence[bool]) -> None:
            self._judging = False
            if all(verdicts):
                self._conflict(header.height, certificate)
                return
            self._lied(source, Offence.BAD_CERTIFICATE)
            self._pump()

        self._desk.verify(certificate.checks(self._ledger.genesis.hash, validators), verified, urgent=True)

    def _set_of(self, height: Height) -> ValidatorSet | None:
        for entry in self.windows.entries:
            if entry.height == height:
                return entry.certified.validators
        return set_at(self._ledger.state, height)

    def _own_certificate(self, height: Height) -> Certificate | None:
        for entry in self.windows.entries:
            if entry.height == height and height > self._ledger.tip.height:
                return entry.certified.certificate
        kept = self._stored(height)
        try:
            return None if kept is None else decode_certificate(kept[1])
        except DecodeError:
            return None

    def _conflict(self, height: Height, other: Certificate) -> None:
        own = self._own_certificate(height)
        both = (other,) if own is None else (own, other)
        told = f"broken invariant: two different blocks of height {height} are certified"
        self._desk.out.append(Stop(told, both))
