"""Data: an opaque payload, notarised by being in a block. The chain keeps it in the block, not in the state."""

from __future__ import annotations

from typing import Final

from state.rules.rule import Rule
from state.scope import Call
from trellis.outcome import Outcome
from trellis.transaction import Data


def _execute(call: Call, kind: Data) -> Outcome:
    return Outcome.OK


DATA: Final = Rule(Data, _execute)
