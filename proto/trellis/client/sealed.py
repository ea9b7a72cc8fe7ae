"""What a certificate proves, checked here from genesis or a checkpoint; never a node's word."""

from __future__ import annotations

import json
from bisect import bisect_left
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from trellis.certificate import Certificate, decode_certificate
from trellis.crypto.algorithms import VerifyMany
from trellis.encoding import DecodeError
from trellis.genesis import Genesis, genesis_from_json
from trellis.header import Header, decode_header
from trellis.receipt import Checkpoint, Transition, certified_fault, checkpoint_from_json
from trellis.types import Hash, Height
from trellis.v1 import finality_service_pb2
from trellis.validators import ValidatorSet, decode_validator_set

Trust = Genesis | Checkpoint
"""What the caller knows by other means than a node's word."""

MAX_TRUST_FILE_BYTES: Final = 1 << 30
"""Genesis may list ten million accounts; anything larger is no genesis."""


def load_trust(path: str | Path) -> Trust:
    """Reads genesis.json, or a checkpoint file; raises `ValueError` with the field at fault."""
    file = Path(path)
    if file.stat().st_size > MAX_TRUST_FILE_BYTES:
        raise ValueError(f"{file} is too large to be a genesis or a checkpoint")
    try:
        document = json.loads(file.read_bytes())
    except (json.JSONDecodeError, UnicodeDecodeError) as fault:
        raise ValueError(f"{file} is not JSON: it should be genesis.json or a checkpoint") from fault
    if isinstance(document, dict) and "block_hash" in document:
        return checkpoint_from_json(document)
    return genesis_from_json(document)


def genesis_hash_of(trust: Trust) -> Hash:
    return trust.hash if isinstance(trust, Genesis) else trust.genesis_hash


class Unproven(Exception):
    """Something proves nothing; whoever knows the endpoint turns this into `ProofInvalid`."""


class UnknownSet(Exception):
    """The header names a validator set that no transition known here leads to: fetch transitions and try again."""


@dataclass(frozen=True, slots=True)
class _Era:
    """A validator set, in force at heights above `after` until the next era begins."""

    after: Height
    validators: ValidatorSet


class TrustedSets:
    """The validator sets that follow from the trusted start, and what is certified by them.

    It grows by one set for each change that a quorum of the set before it certified, so no stranger can make it grow.
    """

    def __init__(self, trust: Trust, verify: VerifyMany) -> None:
        start = Height(0) if isinstance(trust, Genesis) else trust.height
        self.genesis_hash = genesis_hash_of(trust)
        self.start: Height = start
        self.highest: Height = start
        """The highest height that was proven."""
        self._eras = [_Era(start, trust.validators)]
        self._verify = verify

    @property
    def newest_change(self) -> Height:
        """Changes after this height are not known yet."""
        return self._eras[-1].after

    def adopt(self, transition: Transition) -> None:
        """Takes the next change in; raises `Unproven`. A change known already is passed over."""
        header, era = transition.header, self._eras[-1]
        if header.height <= era.after:
            return
        if header.validators_hash != era.validators.hash:
            raise Unproven(f"the change at height {header.height} is of another set than the one in force")
        self._check(header, transition.certificate, era.validators)
        if header.next_validators_hash != transition.following.hash:
            raise Unproven(f"the header at height {header.height} hands over to another set")
        if transition.following.hash == era.validators.hash:
            raise Unproven(f"the set does not change at height {header.height}")
        self._eras.append(_Era(header.height, transition.following))

    def certify(self, header: Header, certificate: Certificate) -> None:
        """Raises `Unproven` unless the set of that height made this header final, or `UnknownSet`."""
        if header.height <= self.start:
            raise Unproven(f"height {header.height} is not after the trusted start at {self.start}: use an older start")
        place = bisect_left(self._eras, header.height, key=lambda era: era.after) - 1
        validators = self._eras[place].validators
        if header.validators_hash != validators.hash:
            if place == len(self._eras) - 1:
                raise UnknownSet
            raise Unproven(f"the header at height {header.height} names a set that was not in force there")
        self._check(header, certificate, validators)

    def _check(self, header: Header, certificate: Certificate, validators: ValidatorSet) -> None:
        if header.genesis_hash != self.genesis_hash:
            raise Unproven(f"the header is of chain {header.genesis_hash.hex()}")
        fault = certified_fault(header, certificate, validators, self._verify)
        if fault is not None:
            raise Unproven(f"the certificate of height {header.height}: {fault}")
        self.highest = max(self.highest, header.height)


def read_certified(header: bytes, certificate: bytes) -> tuple[Header, Certificate]:
    try:
        return decode_header(header), decode_certificate(certificate)
    except DecodeError as fault:
        raise Unproven(str(fault)) from fault


def read_transition(message: finality_service_pb2.ValidatorTransition) -> Transition:
    header, certificate = read_certified(message.header, message.certificate)
    try:
        return Transition(header, certificate, decode_validator_set(message.next_validators))
    except DecodeError as fault:
        raise Unproven(str(fault)) from fault
