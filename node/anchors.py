"""What makes a snapshot trustworthy: its block's header and certificate, and the way there from genesis.

    anchor: header ‖ lp(certificate) ‖ u32 number ‖ number × (header ‖ lp(certificate) ‖ lp(following set))

Each transition is the last block under one validator set, certified by it, and the set that its header hands over to.
So a new node believes a state root for the same reason as a light client, and needs no other word than its genesis.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from node.rpc.receipts import Receipts, certified
from state.store.reader import ChainReader
from trellis.certificate import MAX_CERTIFICATE_BYTES, Certificate, decode_certificate
from trellis.crypto.algorithms import VerifyMany
from trellis.encoding import Reader, Writer, decode_whole
from trellis.genesis import Genesis
from trellis.header import HEADER_BYTES, Header, decode_header
from trellis.receipt import Transition, certified_fault
from trellis.types import U32_MAX, Hash, Height
from trellis.validators import MAX_SET_BYTES, ValidatorSet, decode_validator_set
from trellis.wire import MAX_FRAME_PAYLOAD_BYTES

ANCHOR_PIECE: Final = U32_MAX - 1
"""The number by which a snapshot's anchor is asked for; no snapshot has so many chunks."""
MAX_TRANSITIONS: Final = 4_096
"""Sets that changed since genesis: each costs a reader a quorum of signature checks."""


@dataclass(frozen=True, slots=True)
class Anchor:
    header: Header
    certificate: Certificate
    transitions: tuple[Transition, ...]

    def encode(self) -> bytes:
        writer = Writer().raw(self.header.encode()).lp(self.certificate.encode()).u32(len(self.transitions))
        for each in self.transitions:
            writer.raw(each.header.encode()).lp(each.certificate.encode()).lp(each.following.encode())
        return writer.done()


def decode_anchor(data: bytes) -> Anchor:
    def certified_header(reader: Reader) -> tuple[Header, Certificate]:
        header = decode_header(reader.fixed(HEADER_BYTES, "header"))
        return header, decode_certificate(reader.lp("certificate", MAX_CERTIFICATE_BYTES))

    def read(reader: Reader) -> Anchor:
        header, certificate = certified_header(reader)
        found: list[Transition] = []
        for _ in range(reader.count("transitions", MAX_TRANSITIONS, HEADER_BYTES + 8)):
            last, proof = certified_header(reader)
            found.append(Transition(last, proof, decode_validator_set(reader.lp("set", MAX_SET_BYTES))))
        return Anchor(header, certificate, tuple(found))

    return decode_whole(data, "anchor", MAX_FRAME_PAYLOAD_BYTES, read)


def anchor_of(reader: ChainReader, height: Height, sets: Callable[[Hash], ValidatorSet | None]) -> Anchor:
    """`node.rpc.errors.Refused` where this node does not reach back to genesis itself."""
    receipts = Receipts(sets)
    header, certificate = certified(reader, height)
    changes = receipts.transitions.heights(reader, 0, height - 1)
    return Anchor(header, certificate, tuple(receipts.transition(reader, change) for change in changes))


def anchor_fault(anchor: Anchor, genesis: Genesis, verify: VerifyMany) -> str | None:
    """Why the header does not follow from genesis; None if it does."""
    height, validators = Height(0), genesis.validators
    steps: list[tuple[Header, Certificate, ValidatorSet | None]] = [
        (each.header, each.certificate, each.following) for each in anchor.transitions
    ]
    for header, certificate, following in [*steps, (anchor.header, anchor.certificate, None)]:
        if header.genesis_hash != genesis.hash or header.height <= height:
            return f"height {header.height} is of another chain, or out of order"
        if header.validators_hash != validators.hash:
            return f"height {header.height} was under another set"
        fault = certified_fault(header, certificate, validators, verify)
        if fault is not None:
            return f"the certificate of height {header.height}: {fault}"
        if following is not None:
            if header.next_validators_hash != following.hash:
                return f"height {header.height} hands over to another set"
            height, validators = header.height, following
    return None
