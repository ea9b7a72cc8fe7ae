"""Rule C12: what came early waits, bounded: one message a validator and kind, the one with the highest view.

Slots belong to signers, and a signature was verified before a message gets here: a flooder can overwrite nothing but
its own slots.
"""

from __future__ import annotations

from typing import Final

from trellis.messages import Ballot, Proposal, ViewChange
from trellis.types import Address, View
from trellis.votes import VoteKind

MAX_BUFFERED_PROPOSAL_BYTES: Final = 1 << 20
"""A proposal of the next height waits only if it is at most this large: otherwise a third of the validators could each
park a message of the maximal size (16 MiB) here. A refused one is sent again within a third of the view timer."""

_JUSTIFICATION_ENTRY_BYTES: Final = 5_000
"""Above the size of any signed vote, certificate entries included."""

Waiting = Proposal | Ballot | ViewChange


def _weight_bytes(proposal: Proposal) -> int:
    entries = len(proposal.justification)
    for certificate in (proposal.prepared, proposal.parent_certificate):
        entries += 0 if certificate is None else len(certificate.signatures)
    return len(proposal.body) + entries * _JUSTIFICATION_ENTRY_BYTES


class Buffer:
    """Messages of one future height, or votes of future views of this height."""

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[tuple[Address, VoteKind], Waiting] = {}

    def __len__(self) -> int:
        return len(self._slots)

    def put(self, message: Waiting) -> bool:
        """Whether it is kept. The signer is a member.

        Of two messages of one view the first stays, but a missing certificate is made up.
        """
        if isinstance(message, Proposal) and _weight_bytes(message) > MAX_BUFFERED_PROPOSAL_BYTES:
            return False
        signed = message.signed
        slot = (signed.signer, signed.vote.kind)
        known = self._slots.get(slot)
        if known is not None and not _is_better(message, known):
            return False
        self._slots[slot] = message
        return True

    def holds(self, message: Waiting) -> bool:
        """Whether putting this message would change nothing."""
        known = self._slots.get((message.signed.signer, message.signed.vote.kind))
        return known is not None and not _is_better(message, known)

    def take_up_to(self, view: View) -> list[Waiting]:
        """Removes and returns what is of this view or below, in a fixed order."""
        ready = sorted(slot for slot, message in self._slots.items() if message.signed.vote.view <= view)
        return [self._slots.pop(slot) for slot in ready]

    def take_all(self) -> list[Waiting]:
        """By kind (proposals before votes), then by signer."""
        slots = sorted(self._slots, key=lambda slot: (slot[1], slot[0]))
        return [self._slots.pop(slot) for slot in slots]


def _is_better(message: Waiting, known: Waiting) -> bool:
    if message.signed.vote.view != known.signed.vote.view:
        return message.signed.vote.view > known.signed.vote.view
    return (
        isinstance(message, ViewChange)
        and isinstance(known, ViewChange)
        and message.signed.vote == known.signed.vote
        and known.prepared is None
        and message.prepared is not None
    )
