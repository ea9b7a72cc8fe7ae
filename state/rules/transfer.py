"""Transfer: units from the sender to one or many, all or nothing."""

from __future__ import annotations

from typing import Final

from state.accounts import credit, debit
from state.rules.rule import Rule
from state.scope import Call
from trellis.outcome import Outcome
from trellis.transaction import Transfer


def _execute(call: Call, kind: Transfer) -> Outcome:
    outputs = kind.outputs
    total = outputs[0].amount if len(outputs) == 1 else sum(output.amount for output in outputs)
    if not debit(call.state, call.sender, total):
        return Outcome.INSUFFICIENT_FUNDS
    for output in outputs:
        credit(call.state, output.recipient, output.amount)
    return Outcome.OK


TRANSFER: Final = Rule(Transfer, _execute)
