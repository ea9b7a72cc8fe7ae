"""Certified headers from peers: which of them follow what is known, and which signatures vouch for them.

Nothing here is believed before its certificate is verified, and nothing is asked for on the word of a header that is
not. A header names the set of validators that certifies its successor; a set that changed is known only when the block
that changed it was executed, so a run of headers ends there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from trellis.certificate import Certificate, decode_certificate
from trellis.crypto.algorithms import SignatureCheck
from trellis.encoding import DecodeError
from trellis.header import Header, decode_header
from trellis.types import Hash, Height
from trellis.validators import ValidatorSet
from trellis.votes import VoteKind


@dataclass(frozen=True, slots=True)
class Certified:
    """A header, its certificate, and the set that the certificate is checked against."""

    header: Header
    certificate: Certificate
    validators: ValidatorSet


@dataclass(frozen=True, slots=True)
class Top:
    """The last block that is known to be certified: what new headers must follow."""

    height: Height
    block_hash: Hash
    validators: ValidatorSet | None
    """Of the height after it; None where only executing will tell."""


def decode_run(raw: Sequence[tuple[bytes, bytes]]) -> list[tuple[Header, Certificate]] | None:
    """None if these are no headers with certificates, each the next one's parent."""
    try:
        found = [(decode_header(header), decode_certificate(certificate)) for header, certificate in raw]
    except DecodeError:
        return None
    for (parent, _), (child, _) in pairwise(found):
        if child.height != parent.height + 1 or child.parent_hash != parent.hash:
            return None
    return found


def certifies(certificate: Certificate, header: Header, validators: ValidatorSet) -> bool:
    """Everything but the signatures."""
    about = (certificate.kind, certificate.height, certificate.block_hash)
    if about != (VoteKind.COMMIT, header.height, header.hash) or certificate.view < header.view:
        return False
    return certificate.shape_fault(validators) is None


def certified_run(run: Sequence[tuple[Header, Certificate]], validators: ValidatorSet) -> tuple[Certified, ...] | None:
    """As many from the first on as `validators` certifies; None if one of them cannot be certified by them."""
    found: list[Certified] = []
    for header, certificate in run:
        if header.validators_hash != validators.hash or not certifies(certificate, header, validators):
            return None
        found.append(Certified(header, certificate, validators))
        if header.next_validators_hash != validators.hash:
            break
    return tuple(found)


def signatures_of(run: Sequence[Certified], genesis_hash: Hash) -> list[SignatureCheck]:
    return [check for each in run for check in each.certificate.checks(genesis_hash, each.validators)]
