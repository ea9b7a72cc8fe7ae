"""Times and durations as people read and write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Any, Final

import click

_SECONDS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_WRITTEN: Final = re.compile(r"([1-9][0-9]{0,8})([smhd])", re.ASCII)


def moment(timestamp_ms: int) -> str:
    """Milliseconds since 1970; whatever else a node may say is shown as the number it is."""
    if timestamp_ms == 0:
        return "-"
    try:
        return datetime.fromtimestamp(timestamp_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    except (OverflowError, ValueError, OSError):
        return f"{timestamp_ms} ms since 1970"


class Duration(click.ParamType[int]):
    """90s, 15m, 12h, 30d: as milliseconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        if isinstance(value, int):
            return value
        matched = _WRITTEN.fullmatch(str(value))
        if matched is None:
            self.fail(f"{value!r} is no duration: write it like 90s, 15m, 12h or 30d", param, ctx)
        return int(matched[1]) * _SECONDS[matched[2]] * 1_000
