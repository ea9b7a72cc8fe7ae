"""Which addresses a transaction concerns: what the history index of an address lists."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from trellis.encoding import DecodeError
from trellis.evidence import decode_evidence
from trellis.transaction import SubmitEvidence, Transaction, Transfer
from trellis.types import Address


def concerned(transaction: Transaction) -> tuple[Address, ...]:
    """The sender, who is paid, who is accused; each once, whether or not the transaction succeeded."""
    body = transaction.parsed
    found = {body.sender: None}
    match body.kind:
        case Transfer():
            found.update((output.recipient, None) for output in body.kind.outputs)
        case SubmitEvidence():
            with suppress(DecodeError):
                found[decode_evidence(body.kind.evidence).offender] = None
        case _:
            pass
    return tuple(found)


def touched(transactions: Sequence[Transaction]) -> tuple[tuple[Address, int], ...]:
    """(address, index in the block), each pair once."""
    return tuple((address, place) for place, each in enumerate(transactions) for address in concerned(each))
