"""Amounts of value: base units, and how people write them.

>>> price = Amount.parse("1.25", exponent=6)
>>> price.units, str(price)
(1250000, '1.25')
>>> price + Amount.parse("0.75", exponent=6)
Amount(units=2000000, exponent=6)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from trellis.types import U64_MAX

MAX_EXPONENT: Final = 18
_WRITTEN: Final = re.compile(r"(0|[1-9][0-9]*)(?:\.([0-9]+))?", re.ASCII)
_MAX_WRITTEN: Final = 64
"""Stops Python from parsing an endless number."""


@dataclass(frozen=True, slots=True)
class Amount:
    """Base units, and the exponent of the unit that people use. Never a float: 0.1 has no exact one.

    >>> Amount(1)
    Amount(units=1, exponent=0)
    >>> Amount.parse("0.0000001", exponent=6)
    Traceback (most recent call last):
    ...
    ValueError: '0.0000001' has more decimals than the chain's unit: at most 6
    """

    units: int
    exponent: int = 0

    def __post_init__(self) -> None:
        if type(self.units) is not int or not 0 <= self.units <= U64_MAX:
            raise ValueError(f"an amount is an integer of base units from 0 to 2^64 − 1, not {self.units!r}")
        if type(self.exponent) is not int or not 0 <= self.exponent <= MAX_EXPONENT:
            raise ValueError(f"a unit's exponent is from 0 to {MAX_EXPONENT}, not {self.exponent!r}")

    @classmethod
    def parse(cls, text: str, exponent: int) -> Amount:
        """Reads "12", "12.5" or "0.000001"; no sign, no grouping, no more decimals than the unit has."""
        matched = _WRITTEN.fullmatch(text) if len(text) <= _MAX_WRITTEN else None
        if matched is None:
            raise ValueError(f"{text[:_MAX_WRITTEN]!r} is not an amount: write digits, and decimals after a point")
        whole, decimals = matched[1], (matched[2] or "").rstrip("0")
        if len(decimals) > exponent:
            raise ValueError(f"{text!r} has more decimals than the chain's unit: at most {exponent}")
        units = int(whole + decimals.ljust(exponent, "0"))
        if units > U64_MAX:
            raise ValueError(f"{text!r} is more than there can be: at most 2^64 − 1 base units")
        return cls(units, exponent)

    def __str__(self) -> str:
        digits = str(self.units).rjust(self.exponent + 1, "0")
        whole, decimals = digits[: len(digits) - self.exponent], digits[len(digits) - self.exponent :].rstrip("0")
        return f"{whole}.{decimals}" if decimals else whole

    def __add__(self, other: Amount) -> Amount:
        return Amount(self.units + self._alike(other), self.exponent)

    def __sub__(self, other: Amount) -> Amount:
        return Amount(self.units - self._alike(other), self.exponent)

    def _alike(self, other: Amount) -> int:
        if self.exponent != other.exponent:
            raise ValueError(f"amounts of units with exponents {self.exponent} and {other.exponent} do not add up")
        return other.units


def base_units(amount: int | Amount) -> int:
    """What a transaction carries. Text is refused here: "1.5" means nothing without the chain's exponent."""
    units = amount.units if isinstance(amount, Amount) else amount
    if type(units) is not int:
        raise TypeError(f"an amount is an int of base units or an Amount, not {amount!r}: see Amount.parse")
    if not 0 < units <= U64_MAX:
        raise ValueError(f"an amount is from 1 to 2^64 − 1 base units, not {units}")
    return units
