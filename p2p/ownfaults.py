"""Our own unexpected exceptions, told of where an operator sees them: one peer's stream may end with one, never more.

The name of the exception and the line that raised it are logged, its text is not: it may hold what a peer sent.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

import trio

logger = logging.getLogger(__name__)

AGAIN_AFTER_S: Final = 600
"""A fault that a peer can bring about at will must not fill the log."""


class OwnFaults:
    """One line for each kind of fault, and another one after ten minutes if it still happens."""

    def __init__(self, now_s: Callable[[], float] = trio.current_time) -> None:
        self.seen: Counter[str] = Counter()
        """By kind: what was at work, the exception, and where it was raised, so as many as there are lines of code."""
        self._now_s = now_s
        self._logged_s: dict[str, float] = {}

    def note(self, what: str, fault: BaseException) -> None:
        kind = f"{what}: {type(fault).__name__} at {_place(fault)}"
        self.seen[kind] += 1
        now_s, before_s = self._now_s(), self._logged_s.get(kind)
        if before_s is None or now_s - before_s >= AGAIN_AFTER_S:
            self._logged_s[kind] = now_s
            logger.warning("a fault of this program, not of a peer, ended %s (%d so far)", kind, self.seen[kind])


def _place(fault: BaseException) -> str:
    step = fault.__traceback__
    if step is None:
        return "an unknown place"
    while step.tb_next is not None:
        step = step.tb_next
    return f"{Path(step.tb_frame.f_code.co_filename).name}:{step.tb_lineno}"
