"""What indexes are made of: which addresses a transaction concerns, and which accusations a block accepted."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from state.scope import Slash
from state.store.rows import AcceptedEvidence
from state.transition import Applied
from trellis.encoding import DecodeError
from trellis.evidence import decode_evidence
from trellis.outcome import Outcome
from trellis.transaction import SubmitEvidence, Transaction, Transfer
from trellis.types import Address


def concerned(transaction: Transaction) -> tuple[Address, ...]:
    """The sender, who is paid, who is accused; each once, whether or not the transaction succeeded."""
    body = transaction.parsed
    kind = body.kind
    if isinstance(kind, Transfer) and len(kind.outputs) == 1:
        recipient = kind.outputs[0].recipient
        return (body.sender,) if recipient == body.sender else (body.sender, recipient)
    found = {body.sender: None}
    match kind:
        case Transfer():
            found.update((output.recipient, None) for output in kind.outputs)
        case SubmitEvidence():
            with suppress(DecodeError):
                found[decode_evidence(kind.evidence).offender] = None
        case _:
            pass
    return tuple(found)


def touched(transactions: Sequence[Transaction]) -> tuple[tuple[Address, int], ...]:
    """(address, index in the block), each pair once."""
    return tuple((address, place) for place, each in enumerate(transactions) for address in concerned(each))


def accepted_evidence(applied: Applied) -> tuple[AcceptedEvidence, ...]:
    """In block order. Each accusation that was accepted slashed once, so both lists go together."""
    slashes = [event for event in applied.executed.events if isinstance(event, Slash)]
    if not slashes:
        return ()
    found: list[AcceptedEvidence] = []
    outcomes = zip(applied.block.transactions, applied.executed.receipts, strict=True)
    for index, (transaction, receipt) in enumerate(outcomes):
        body = transaction.parsed
        if isinstance(body.kind, SubmitEvidence) and receipt.outcome is Outcome.OK:
            cost = slashes[len(found)]
            accusation = (cost.evidence_kind, cost.address, cost.offence_height, cost.units)
            found.append(AcceptedEvidence(index, *accusation, body.sender, receipt.txid, body.kind.evidence))
    return tuple(found)
