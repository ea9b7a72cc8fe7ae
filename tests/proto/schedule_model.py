"""Rule C2 a second time, from the text of the rule and from history, to hold `trellis.schedule` against.

Where the product keeps a running state, this model keeps every decided block and looks back.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Made:
    """A decided block: the view and proposer in its header, and the view of the parent's certificate it carries."""

    view: int
    proposer: bytes
    carried_view: int | None


@dataclass
class Demoted:
    address: bytes
    height: int
    view: int
    last_height: int


@dataclass
class ScheduleModel:
    powers: dict[bytes, int]
    """V(h) of the height that is next."""
    rotation_blocks: int
    demotion_heights: int
    height: int = 1
    priority: dict[bytes, int] = field(default_factory=dict)
    strikes: dict[bytes, int] = field(default_factory=dict)
    demoted: list[Demoted] = field(default_factory=list)
    made: dict[int, Made] = field(default_factory=dict)
    rotated_at: int = 0
    leader: bytes = b""

    def __post_init__(self) -> None:
        self.priority = dict.fromkeys(self.powers, 0)
        self.strikes = dict.fromkeys(self.powers, 0)
        self._rotate()

    def _names(self) -> set[bytes]:
        return {entry.address for entry in self.demoted}

    def _rotate(self) -> None:
        eligible = {a: power for a, power in self.powers.items() if a not in self._names()}
        for address, power in eligible.items():
            self.priority[address] += power
        best = max(self.priority[address] for address in eligible)
        self.leader = min(address for address in eligible if self.priority[address] == best)
        self.priority[self.leader] -= sum(eligible.values())
        self.rotated_at = self.height

    def order(self) -> list[bytes]:
        ascending = sorted(self.powers)
        start = ascending.index(self.leader)
        after = ascending[start + 1 :] + ascending[:start]
        names = self._names()
        return [self.leader, *(a for a in after if a not in names), *(a for a in after if a in names)]

    @property
    def led(self) -> int:
        """Blocks that the leader has made in a row since the last rotation."""
        count, height = 0, self.height - 1
        while height >= self.rotated_at and height in self.made and self.made[height].proposer == self.leader:
            count, height = count + 1, height - 1
        return count

    def decide(self, view: int, carried_view: int | None, following: dict[bytes, int] | None = None) -> None:
        """The block of this height is made in `view`, and the next height begins."""
        order, now, total = self.order(), self.height, sum(self.powers.values())
        proposer = order[view % len(order)]
        self.made[now] = Made(view, proposer, carried_view)
        self.demoted = [entry for entry in self.demoted if entry.address != proposer]
        for failed_view in range(min(view, len(order))):
            failed = order[failed_view]
            if failed == proposer or 3 * self.powers[failed] >= total:
                continue
            self.demoted = [entry for entry in self.demoted if entry.address != failed]
            lasts = self.demotion_heights * 2 ** min(self.strikes[failed], 4)
            self.demoted.append(Demoted(failed, now, failed_view, now + lasts))
            self.strikes[failed] += 1
        self.strikes[proposer] = 0
        if following is not None:
            self.powers = dict(following)
        self.priority = {a: self.priority.get(a, 0) for a in self.powers}
        self.strikes = {a: self.strikes.get(a, 0) for a in self.powers}
        self.height = now + 1
        self._release()
        self._choose(proposer)

    def _release(self) -> None:
        kept = [e for e in self.demoted if e.address in self.powers and self.height <= e.last_height]
        kept.sort(key=lambda entry: (entry.height, entry.view))
        while kept and 3 * sum(self.powers[e.address] for e in kept) >= sum(self.powers.values()):
            kept.pop(0)
        self.demoted = kept

    def _choose(self, proposer: bytes) -> None:
        self.leader = proposer
        stays = proposer in self.powers and proposer not in self._names() and self.led < self.rotation_blocks
        if not stays or self._went_quiet():
            self._rotate()

    def _went_quiet(self) -> bool:
        last, before = self.made[self.height - 1], self.made.get(self.height - 2)
        if before is None or last.carried_view is None or before.proposer != last.proposer:
            return False
        return last.carried_view > before.view
