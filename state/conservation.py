"""Conservation of value: balances + bonded + unbonding + escrow = genesis supply + emitted − burned, after every block.

There are no other pools: fees are burned or paid out within their block. The sum is made in two ways that must agree:
over every row of a state (slow, for snapshots and audits), and over the rows that one block changed (each block).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final

from state.accounts import ACCOUNT_PREFIX
from state.chain import TOTALS_KEY, Totals, read_totals
from state.errors import StateCorrupt
from state.stake import STAKE_PREFIX, UNBONDING_PREFIX, bonded_in, unbonding_in
from state.statements import RECORD_PREFIX, escrow_in
from state.view import Changes, StateView

_ACCOUNT: Final = ACCOUNT_PREFIX[0]
_STAKE: Final = STAKE_PREFIX[0]
_UNBONDING: Final = UNBONDING_PREFIX[0]
_STATEMENT: Final = RECORD_PREFIX[0]


@dataclass(slots=True)
class Held:
    """Value by where it is; as a difference, any of them may be negative."""

    balances: int = 0
    bonded: int = 0
    unbonding: int = 0
    escrow: int = 0

    @property
    def total(self) -> int:
        return self.balances + self.bonded + self.unbonding + self.escrow

    def add(self, key: bytes, row: bytes, sign: int) -> None:
        match key[0]:
            case kind if kind == _ACCOUNT:
                self.balances += sign * int.from_bytes(row[:8], "big")
            case kind if kind == _STAKE:
                self.bonded += sign * bonded_in(row)
            case kind if kind == _UNBONDING:
                self.unbonding += sign * unbonding_in(row)
            case kind if kind == _STATEMENT:
                self.escrow += sign * escrow_in(row)
            case _:
                pass


def moved(view: StateView, changes: Changes) -> Held:
    """What changed rows hold more (or less) than before. `view` is the state before."""
    held = Held()
    for key, row in changes.items():
        kind = key[0]
        if kind == _ACCOUNT:
            # The one kind that comes by the thousand: no call, no match.
            old = view.get(key)
            if row is not None:
                held.balances += int.from_bytes(row[:8], "big")
            if old is not None:
                held.balances -= int.from_bytes(old[:8], "big")
        elif kind in (_STAKE, _UNBONDING, _STATEMENT):
            old = view.get(key)
            if row is not None:
                held.add(key, row, 1)
            if old is not None:
                held.add(key, old, -1)
    return held


def following_totals(before: Totals, held: Held, emitted: int, burned: int) -> Totals:
    """Emission and burning are counted where they happen, holdings where they lie: two independent accounts."""
    return Totals(
        before.genesis_supply,
        before.emitted + emitted,
        before.burned + burned,
        before.balances + held.balances,
        before.bonded + held.bonded,
        before.unbonding + held.unbonding,
        before.escrow + held.escrow,
    )


class ConservationValidator:
    """Checks a state's value, whole or step by step.

    Whole: `ConservationValidator(rows)` walks every row. Incremental: `apply(changes, view)` follows one block after
    the other; after each of them both ways give the same total.
    """

    __slots__ = ("_held", "_totals")

    def __init__(self, rows: Iterable[tuple[bytes, bytes]]) -> None:
        self._held = Held()
        totals: bytes | None = None
        for key, row in rows:
            if key == TOTALS_KEY:
                totals = row
            self._held.add(key, row, 1)
        if totals is None:
            raise StateCorrupt("the state has no totals")
        self._totals = read_totals({TOTALS_KEY: totals})

    def apply(self, changes: Changes, before: StateView) -> None:
        held = moved(before, changes)
        self._held = Held(
            self._held.balances + held.balances,
            self._held.bonded + held.bonded,
            self._held.unbonding + held.unbonding,
            self._held.escrow + held.escrow,
        )
        row = changes.get(TOTALS_KEY)
        if row is not None:
            self._totals = read_totals({TOTALS_KEY: row})

    def calculate_total_value(self) -> int:
        """Units that rows hold."""
        return self._held.total

    def validate(self) -> bool:
        """Value is conserved, and the recorded totals say where it is."""
        held, totals = self._held, self._totals
        recorded = replace(
            totals, balances=held.balances, bonded=held.bonded, unbonding=held.unbonding, escrow=held.escrow
        )
        return held.total == totals.owed and recorded == totals
