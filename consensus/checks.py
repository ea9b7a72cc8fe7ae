"""Exactly what a host verifies before it feeds `MessageReceived`: pure functions that list it.

Everything about a message that needs no cryptography the core checks itself. Of a `Proposal` the parent certificate is
not listed: it belongs to the block, and is verified (against the set of its own height) before `BlockChecked`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import assert_never

from consensus.rules import Rule
from trellis.certificate import Certificate
from trellis.crypto.algorithms import SignatureCheck, VerifyMany
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, Proposal, ViewChange
from trellis.types import Hash
from trellis.validators import ValidatorSet
from trellis.votes import SignedVote, VoteKind


def message_fault(message: Message, validators: ValidatorSet) -> Rule | None:
    """Why a message is refused before any signature is looked at; `validators` is the set of its height."""
    match message:
        case Ballot():
            return _signers_fault((message.signed,), validators)
        case ViewChange():
            return _signers_fault((message.signed,), validators)
        case Proposal():
            fault = _signers_fault((message.signed, *message.justification), validators)
            if fault is None and message.prepared is not None:
                fault = _certificate_fault(message.prepared, VoteKind.PREPARE, validators)
            return fault
        case DecidedNotice():
            return _certificate_fault(message.certificate, VoteKind.COMMIT, validators)
        case HeightNotice():
            return None
        case _:
            assert_never(message)


def signature_checks(message: Message, genesis_hash: Hash, validators: ValidatorSet) -> tuple[SignatureCheck, ...]:
    """All signatures that must verify. Only for messages without a `message_fault`.

    Without the prepared certificate of a VIEW-CHANGE: `certificate_checks` lists those, because if they fail the vote
    still counts for moving up (one invalid certificate must not mask a vote, nor a later valid certificate).
    """
    match message:
        case Ballot() | ViewChange():
            return (_vote_check(message.signed, genesis_hash, validators),)
        case Proposal():
            votes = (message.signed, *message.justification)
            listed = tuple(_vote_check(signed, genesis_hash, validators) for signed in votes)
            prepared = message.prepared
            return listed if prepared is None else listed + prepared.checks(genesis_hash, validators)
        case DecidedNotice():
            return message.certificate.checks(genesis_hash, validators)
        case HeightNotice():
            return ()
        case _:
            assert_never(message)


def certificate_checks(
    message: ViewChange, genesis_hash: Hash, validators: ValidatorSet
) -> tuple[SignatureCheck, ...] | None:
    """The signatures of a VIEW-CHANGE's prepared certificate; None if it has none that could verify."""
    certificate = message.prepared
    if certificate is None or _certificate_fault(certificate, VoteKind.PREPARE, validators) is not None:
        return None
    return certificate.checks(genesis_hash, validators)


def authenticate(message: Message, genesis_hash: Hash, validators: ValidatorSet, verify: VerifyMany) -> Message | Rule:
    """The message to feed, or the rule that refuses it. A VIEW-CHANGE may come back without its certificate."""
    fault = message_fault(message, validators)
    if fault is not None:
        return fault
    if not all(verify(signature_checks(message, genesis_hash, validators))):
        return Rule.BAD_SIGNATURE
    if isinstance(message, ViewChange) and message.prepared is not None:
        checks = certificate_checks(message, genesis_hash, validators)
        if checks is None or not all(verify(checks)):
            return replace(message, prepared=None)
    return message


def _vote_check(signed: SignedVote, genesis_hash: Hash, validators: ValidatorSet) -> SignatureCheck:
    signer = validators.get(signed.signer)
    if signer is None:
        raise ValueError("this message has a fault that message_fault tells: a signer outside the set")
    return signed.check(genesis_hash, signer)


def _signers_fault(votes: tuple[SignedVote, ...], validators: ValidatorSet) -> Rule | None:
    if len(votes) > len(validators) + 1:
        return Rule.REPEATED_SIGNER
    return None if all(signed.signer in validators for signed in votes) else Rule.NOT_A_MEMBER


def _certificate_fault(certificate: Certificate, kind: VoteKind, validators: ValidatorSet) -> Rule | None:
    if certificate.kind is not kind or certificate.shape_fault(validators) is not None:
        return Rule.BAD_CERTIFICATE
    return None
