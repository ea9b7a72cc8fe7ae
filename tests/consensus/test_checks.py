"""What a host must verify before it feeds a message: exactly these signatures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from consensus.checks import authenticate, certificate_checks, message_fault, signature_checks
from consensus.rules import Rule
from tests.chains import certify, fake_members, header_of, set_of, small_genesis, some_hash
from tests.signing import fake_verify_all
from trellis.certificate import Certificate
from trellis.messages import Ballot, DecidedNotice, HeightNotice, Message, Proposal, ViewChange
from trellis.types import Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind

MEMBERS = tuple(sorted(fake_members([1] * 4), key=lambda member: member.address))
STRANGER = fake_members([1], first_seed=50)[0]
GENESIS = small_genesis(MEMBERS)
G = GENESIS.hash
VALIDATORS = set_of(MEMBERS)
HEADER = header_of(GENESIS, 1, MEMBERS[0].address)
A = HEADER.hash
PREPARE = Vote(VoteKind.PREPARE, Height(1), View(0), A)
COMMIT = Vote(VoteKind.COMMIT, Height(1), View(0), A)
CHANGE = Vote(VoteKind.VIEW_CHANGE, Height(1), View(1), prepared=Prepared(View(0), A))
PREPARED = certify(PREPARE, MEMBERS[:3], G, VALIDATORS)
DECIDED = certify(COMMIT, MEMBERS[:3], G, VALIDATORS)
NEW_VIEW = Proposal(
    MEMBERS[1].sign(Vote(VoteKind.PRE_PREPARE, Height(1), View(1), A), G),
    HEADER,
    None,
    tuple(member.sign(CHANGE, G) for member in MEMBERS[:3]),
    PREPARED,
)
GOOD: list[Message] = [
    Ballot(MEMBERS[0].sign(PREPARE, G)),
    ViewChange(MEMBERS[0].sign(CHANGE, G), PREPARED),
    ViewChange(MEMBERS[0].sign(CHANGE, G)),
    NEW_VIEW,
    replace(NEW_VIEW, prepared=None),
    DecidedNotice(DECIDED),
    HeightNotice(Height(7)),
]


def forged(signed: SignedVote) -> SignedVote:
    return replace(signed, signature=signed.signature[:-1] + bytes([signed.signature[-1] ^ 1]))


def forged_certificate(certificate: Certificate) -> Certificate:
    first = certificate.signatures[0]
    return replace(certificate, signatures=(first[:-1] + bytes([first[-1] ^ 1]), *certificate.signatures[1:]))


@pytest.mark.parametrize("message", GOOD, ids=lambda message: type(message).__name__)
def test_what_verifies_is_fed_unchanged(message: Message) -> None:
    assert message_fault(message, VALIDATORS) is None
    assert authenticate(message, G, VALIDATORS, fake_verify_all) == message


@pytest.mark.parametrize(
    ("message", "number"), list(zip(GOOD, [1, 1, 1, 4 + 3, 4, 3, 0], strict=True)), ids=lambda item: type(item).__name__
)
def test_exactly_the_signatures_that_matter_are_listed(message: Message, number: int) -> None:
    checks = signature_checks(message, G, VALIDATORS)
    assert len(checks) == number
    assert all(fake_verify_all(checks))


@pytest.mark.parametrize(
    "message",
    [
        Ballot(forged(MEMBERS[0].sign(PREPARE, G))),
        Ballot(MEMBERS[0].sign(PREPARE, some_hash("another chain"))),
        Ballot(replace(MEMBERS[0].sign(PREPARE, G), signer=MEMBERS[1].address)),
        ViewChange(forged(MEMBERS[0].sign(CHANGE, G)), PREPARED),
        replace(NEW_VIEW, signed=forged(NEW_VIEW.signed)),
        replace(NEW_VIEW, justification=(forged(NEW_VIEW.justification[0]), *NEW_VIEW.justification[1:])),
        replace(NEW_VIEW, prepared=forged_certificate(PREPARED)),
        DecidedNotice(forged_certificate(DECIDED)),
    ],
    ids=[
        "a ballot",
        "a ballot of another chain",
        "a ballot under another name",
        "a view change",
        "a proposal",
        "an entry of a justification",
        "a prepared certificate",
        "a decision",
    ],
)
def test_a_bad_signature_anywhere_refuses_the_message(message: Message) -> None:
    assert authenticate(message, G, VALIDATORS, fake_verify_all) is Rule.BAD_SIGNATURE


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (Ballot(STRANGER.sign(PREPARE, G)), Rule.NOT_A_MEMBER),
        (ViewChange(STRANGER.sign(CHANGE, G)), Rule.NOT_A_MEMBER),
        (replace(NEW_VIEW, justification=(STRANGER.sign(CHANGE, G),)), Rule.NOT_A_MEMBER),
        (replace(NEW_VIEW, justification=NEW_VIEW.justification * 2), Rule.REPEATED_SIGNER),
        (replace(NEW_VIEW, prepared=DECIDED), Rule.BAD_CERTIFICATE),
        (DecidedNotice(PREPARED), Rule.BAD_CERTIFICATE),
        (DecidedNotice(replace(DECIDED, signers=DECIDED.signers + b"\0")), Rule.BAD_CERTIFICATE),
        (DecidedNotice(replace(DECIDED, signers=b"\xf7")), Rule.BAD_CERTIFICATE),
        (DecidedNotice(replace(DECIDED, signatures=DECIDED.signatures * 2)), Rule.BAD_CERTIFICATE),
        (DecidedNotice(certify(COMMIT, MEMBERS[:2], G, VALIDATORS)), Rule.BAD_CERTIFICATE),
        (DecidedNotice(certify(COMMIT, fake_members([1] * 10, 90), G)), Rule.BAD_CERTIFICATE),
    ],
    ids=[
        "a stranger's ballot",
        "a stranger's view change",
        "a stranger in the justification",
        "more entries than validators",
        "COMMITs as a prepared certificate",
        "PREPAREs as a decision",
        "a bitmap that is too long",
        "a bit beyond the set",
        "signatures twice",
        "no quorum",
        "a certificate of another set",
    ],
)
def test_a_fault_of_shape_costs_no_verification(message: Message, rule: Rule) -> None:
    def never(checks: Sequence[object]) -> list[bool]:
        raise AssertionError("nothing should be verified")

    assert authenticate(message, G, VALIDATORS, never) is rule


def test_votes_of_two_views_are_no_certificate() -> None:
    """Mixed views: half of the signatures are of view 0, half of view 1; whichever the certificate names, it fails."""
    other = certify(replace(COMMIT, view=View(1)), MEMBERS[:3], G, VALIDATORS)
    mixed = replace(DECIDED, signatures=(*DECIDED.signatures[:2], other.signatures[2]))
    assert authenticate(DecidedNotice(mixed), G, VALIDATORS, fake_verify_all) is Rule.BAD_SIGNATURE


def test_a_view_change_outlives_its_bad_certificate() -> None:
    vote = MEMBERS[0].sign(CHANGE, G)
    for bad in (forged_certificate(PREPARED), DECIDED, certify(PREPARE, MEMBERS[:2], G, VALIDATORS)):
        assert authenticate(ViewChange(vote, bad), G, VALIDATORS, fake_verify_all) == ViewChange(vote, None)
    assert certificate_checks(ViewChange(vote), G, VALIDATORS) is None
    assert len(certificate_checks(ViewChange(vote, PREPARED), G, VALIDATORS) or ()) == 3


def test_listing_the_signatures_of_a_stranger_is_host_misuse() -> None:
    with pytest.raises(ValueError, match="message_fault"):
        signature_checks(Ballot(STRANGER.sign(PREPARE, G)), G, VALIDATORS)
