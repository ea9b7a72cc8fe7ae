"""Whether a whole history that someone offers can be this chain's: by its links, its certificates and a checkpoint.

Stolen keys of past validators can certify another past at leisure. What they cannot do is agree with a block that this
node already holds final, or that its operator vouches for: the checkpoint. A history must pass through it, or begin
above it. Conservation of value is not judged here: `apply_block` refuses a block that makes or loses value.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from trellis.certificate import Certificate, CertificateFault
from trellis.crypto.algorithms import VerifyMany
from trellis.header import Header
from trellis.types import Hash, Height
from trellis.validators import ValidatorSet, is_allowed_transition
from trellis.votes import VoteKind


class HistoryFault(StrEnum):
    """Why a history is refused."""

    EMPTY = "empty"
    FOREIGN_CHAIN = "foreign_chain"
    BROKEN_LINK = "broken_link"
    """Heights or parent hashes do not follow each other."""
    TIME_RUNS_BACKWARDS = "time_runs_backwards"
    UNANCHORED = "unanchored"
    """It does not begin where the checkpoint, or the genesis, lets it."""
    BELOW_CHECKPOINT = "below_checkpoint"
    """It forks off before the checkpoint: another past, however well certified."""
    WRONG_VALIDATORS = "wrong_validators"
    """The sets are not those that the headers name."""
    NO_CERTIFICATE = "no_certificate"
    BAD_CERTIFICATE = "bad_certificate"


@dataclass(frozen=True, slots=True)
class HistoryRefusal:
    """Which height was refused, and why."""

    height: Height
    fault: HistoryFault
    detail: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A block that is final here whatever anyone says later; at height 0 the genesis."""

    genesis_hash: Hash
    height: Height
    block_hash: Hash
    validators_hash: Hash
    """Of V(height + 1): the header's next_validators_hash, or the genesis set's."""
    timestamp_ms: int


def checkpoint_of(header: Header) -> Checkpoint:
    """Of a block that this node committed."""
    return Checkpoint(header.genesis_hash, header.height, header.hash, header.next_validators_hash, header.timestamp_ms)


def check_history(
    headers: Sequence[Header],
    certificates: Sequence[Certificate | None],
    set_of: Callable[[Height], ValidatorSet | None],
    checkpoint: Checkpoint,
    verify: VerifyMany,
) -> HistoryRefusal | None:
    """None for a history that goes on from the checkpoint, or passes through it, and is final at every height.

    `set_of` answers V(height) as far as the offering peer sent sets; each is held against the hash that the header
    before it commits to. `certificates[i]` is of `headers[i]`. Heights up to the checkpoint must be its own past: they
    count only if the history reaches the checkpoint's block, whose hash vouches for them without certificates.
    """
    if not headers:
        return HistoryRefusal(Height(0), HistoryFault.EMPTY, "no headers")
    if len(certificates) != len(headers):
        raise ValueError(f"{len(certificates)} certificates for {len(headers)} headers")
    linked = _links(headers, checkpoint)
    if linked is not None:
        return linked
    validators_hash = checkpoint.validators_hash
    before: ValidatorSet | None = None
    for header, certificate in zip(headers, certificates, strict=True):
        if header.height <= checkpoint.height:
            continue
        if header.validators_hash != validators_hash:
            return HistoryRefusal(
                header.height, HistoryFault.WRONG_VALIDATORS, "another set than the block before announced"
            )
        validators = set_of(header.height)
        refusal = _certified(header, certificate, validators, verify)
        if refusal is not None:
            return refusal
        if before is not None and validators is not None and not is_allowed_transition(before, validators):
            return HistoryRefusal(
                header.height, HistoryFault.WRONG_VALIDATORS, "more than a third of power changed at once"
            )
        before = validators
        validators_hash = header.next_validators_hash
    return None


def _links(headers: Sequence[Header], checkpoint: Checkpoint) -> HistoryRefusal | None:
    """Chain, order, time, and that it meets the checkpoint."""
    first = headers[0]
    if first.height > checkpoint.height + 1 or first.height < 1:
        return HistoryRefusal(
            first.height, HistoryFault.UNANCHORED, f"it begins at {first.height}, the checkpoint is {checkpoint.height}"
        )
    if first.height == checkpoint.height + 1 and first.parent_hash != checkpoint.block_hash:
        return HistoryRefusal(
            first.height, HistoryFault.BELOW_CHECKPOINT, f"it does not build on the checkpoint {checkpoint.height}"
        )
    before: Header | None = None
    for header in headers:
        if header.genesis_hash != checkpoint.genesis_hash:
            return HistoryRefusal(header.height, HistoryFault.FOREIGN_CHAIN, "a block of another chain")
        if before is not None and (header.height, header.parent_hash) != (before.height + 1, before.hash):
            return HistoryRefusal(header.height, HistoryFault.BROKEN_LINK, f"it does not follow block {before.height}")
        earlier = before.timestamp_ms if before is not None else None
        if earlier is None and header.height == checkpoint.height + 1:
            earlier = checkpoint.timestamp_ms
        if earlier is not None and header.timestamp_ms <= earlier:
            return HistoryRefusal(header.height, HistoryFault.TIME_RUNS_BACKWARDS, "not later than its parent")
        if header.height == checkpoint.height and header.hash != checkpoint.block_hash:
            return HistoryRefusal(
                header.height, HistoryFault.BELOW_CHECKPOINT, "another block stands at the checkpoint's height"
            )
        before = header
    if before is not None and before.height < checkpoint.height:
        return HistoryRefusal(
            before.height, HistoryFault.UNANCHORED, f"it ends before the checkpoint {checkpoint.height}"
        )
    return None


def _certified(
    header: Header, certificate: Certificate | None, validators: ValidatorSet | None, verify: VerifyMany
) -> HistoryRefusal | None:
    if validators is None or validators.hash != header.validators_hash:
        return HistoryRefusal(
            header.height, HistoryFault.WRONG_VALIDATORS, "the set that the header names was not given"
        )
    if certificate is None:
        return HistoryRefusal(header.height, HistoryFault.NO_CERTIFICATE, "a block without a certificate is not final")
    fault = _vote_fault(header, certificate) or certificate.fault(header.genesis_hash, validators, verify)
    if fault is not None:
        return HistoryRefusal(header.height, HistoryFault.BAD_CERTIFICATE, fault)
    return None


def _vote_fault(header: Header, certificate: Certificate) -> CertificateFault | None:
    if certificate.kind is not VoteKind.COMMIT:
        return CertificateFault.WRONG_KIND
    if certificate.height != header.height:
        return CertificateFault.WRONG_HEIGHT
    if certificate.view < header.view:
        return CertificateFault.WRONG_VIEW
    if certificate.block_hash != header.hash:
        return CertificateFault.WRONG_HASH
    return None
