"""The pure part of the sign guard: what a validator must never sign, whatever its log says, and its state as bytes.

The guard's file lies apart from the log, and is durable before each signature. It protects against a lost or older log.
No file can detect that it was itself restored together with everything else: for that there is `Quarantine`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from consensus.rules import Rule
from trellis.encoding import DecodeError, Malformed, Reader, Writer, decode_whole
from trellis.types import ZERO_HASH, Address, Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import Prepared, Vote, VoteKind

GUARD_VERSION: Final = 1
GUARD_BYTES: Final = 1 + 32 + 8 + 8 + 1 + (1 + 32) + 1 + (1 + 8 + 32) + (1 + 8 + 32)
OBSERVED_HEIGHTS: Final = 3
"""Own votes reach at most one height beyond the chain, and what others know of it lags one: three has one to spare."""


@dataclass(frozen=True, slots=True)
class SignGuard:
    """The highest signed (height, view), its votes, and the last COMMIT of that height. Constant size.

    Votes of lower views need not be kept: nothing below the highest view is ever signed again.
    """

    genesis_hash: Hash
    height: Height = Height(0)
    view: View = View(0)
    step: int = 0
    """The highest kind signed at (height, view): 0 none, 1 VIEW-CHANGE, then the ballots in their order."""
    block_hash: Hash | None = None
    """The one hash of PRE-PREPARE, PREPARE and COMMIT at (height, view)."""
    changed_view: bool = False
    """A VIEW-CHANGE to (height, view) was signed, naming `prepared`."""
    prepared: Prepared | None = None
    commit: Prepared | None = None
    """View and hash of the last COMMIT of `height`: the lock that no VIEW-CHANGE may deny."""

    def check(self, vote: Vote) -> Rule | None:
        """None if this vote may be signed, otherwise the rule that forbids it. The same content is always allowed."""
        if (vote.height, vote.view) < (self.height, self.view):
            return Rule.GUARD_LOWER
        same_view = (vote.height, vote.view) == (self.height, self.view)
        if vote.kind is not VoteKind.VIEW_CHANGE:
            other = same_view and self.block_hash not in (None, vote.block_hash)
            return Rule.GUARD_OTHER_HASH if other else None
        if same_view and self.changed_view:
            return None if vote.prepared == self.prepared else Rule.GUARD_OTHER_VIEW_CHANGE
        if same_view and self.step > 1:
            return Rule.GUARD_STEP
        if vote.height == self.height and self.commit is not None and _denies(vote.prepared, self.commit):
            return Rule.GUARD_LOCK
        return None

    def after(self, vote: Vote) -> SignGuard:
        """The state to make durable before `vote` is signed. Signing what `check` refuses is host misuse."""
        if self.check(vote) is not None:
            raise ValueError(f"the sign guard forbids this {vote.kind.name}")
        now = self
        if vote.height > now.height:
            now = SignGuard(self.genesis_hash, vote.height, vote.view)
        elif vote.view > now.view:
            now = SignGuard(self.genesis_hash, vote.height, vote.view, commit=self.commit)
        if vote.block_hash is None:
            return replace(now, step=max(now.step, 1), changed_view=True, prepared=vote.prepared)
        now = replace(now, step=max(now.step, 1 + vote.kind), block_hash=vote.block_hash)
        return replace(now, commit=Prepared(vote.view, vote.block_hash)) if vote.kind is VoteKind.COMMIT else now

    def encode(self) -> bytes:
        writer = Writer().u8(GUARD_VERSION).hash(self.genesis_hash).u64(self.height).u64(self.view).u8(self.step)
        writer.u8(self.block_hash is not None).hash(self.block_hash or ZERO_HASH).u8(self.changed_view)
        _write_prepared(writer, self.prepared)
        _write_prepared(writer, self.commit)
        return writer.done()


def decode_sign_guard(data: bytes) -> SignGuard:
    return decode_whole(data, "sign guard", GUARD_BYTES, _read_guard)


def _denies(named: Prepared | None, commit: Prepared) -> bool:
    """Below the last COMMIT's view; or at it, but another block."""
    return named is None or named.view < commit.view or (named.view == commit.view and named.hash != commit.hash)


def _write_prepared(writer: Writer, prepared: Prepared | None) -> None:
    absent = Prepared(View(0), ZERO_HASH)
    shown = absent if prepared is None else prepared
    writer.u8(prepared is not None).u64(shown.view).hash(shown.hash)


def _read_prepared(reader: Reader, what: str) -> Prepared | None:
    present = reader.flag(what)
    prepared = Prepared(View(reader.u64(what)), reader.hash(what))
    if not present and prepared != Prepared(View(0), ZERO_HASH):
        raise DecodeError(Malformed.NOT_CANONICAL, f"an absent {what} is zeros")
    return prepared if present else None


def _read_guard(reader: Reader) -> SignGuard:
    version = reader.u8("guard version")
    if version != GUARD_VERSION:
        raise DecodeError(Malformed.UNKNOWN_VERSION, f"sign guard version {version}")
    genesis_hash = reader.hash("genesis hash")
    height, view, step = Height(reader.u64("height")), View(reader.u64("view")), reader.u8("step")
    if step > 1 + VoteKind.COMMIT:
        raise DecodeError(Malformed.OUT_OF_RANGE, f"sign guard step {step}")
    has_hash, block_hash = reader.flag("hash flag"), reader.hash("hash")
    if not has_hash and block_hash != ZERO_HASH:
        raise DecodeError(Malformed.NOT_CANONICAL, "an absent hash is zeros")
    changed_view = reader.flag("view change flag")
    prepared, commit = _read_prepared(reader, "prepared"), _read_prepared(reader, "commit")
    return SignGuard(genesis_hash, height, view, step, block_hash if has_hash else None, changed_view, prepared, commit)


class Quarantine:
    """When a validator without its log or guard may vote again: it observes until its old votes cannot matter.

    It waits for certificates three heights beyond the highest certified height that quorum power reported. Reports
    count only with a certificate that verified, so nobody can inflate them; the node's own knowledge is not a report.
    If the network cannot go on without this validator, only the operator's override ends it.
    """

    __slots__ = ("_me", "_reports", "_target", "_validators")

    def __init__(self, me: Address, validators: ValidatorSet) -> None:
        self._me = me
        self._validators = validators
        self._reports: dict[Address, Height] = {}
        self._target: Height | None = None

    @property
    def target(self) -> Height | None:
        """Voting may start once this height is certified; None until quorum power has reported."""
        return self._target

    def report(self, validator: Address, certified: Height) -> None:
        """`validator` showed a verified certificate of this height as its highest."""
        if self._target is not None or validator == self._me or validator not in self._validators:
            return
        self._reports[validator] = max(certified, self._reports.get(validator, Height(0)))
        if self._validators.is_quorum(self._validators.power_of_all(sorted(self._reports))):
            self._target = Height(max(self._reports.values()) + OBSERVED_HEIGHTS)

    def is_over(self, certified: Height) -> bool:
        """`certified`: the highest height that this node has committed."""
        return self._target is not None and certified >= self._target
