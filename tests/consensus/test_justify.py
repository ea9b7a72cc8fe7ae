"""C5 as tables: which PRE-PREPARE is justified, which VIEW-CHANGE counts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from consensus.justify import Terms, counts_for_leader, highest_prepared, proposal_fault, view_change_fault
from consensus.rules import Rule
from tests.chains import Member, certify, fake_members, header_of, set_of, small_genesis, some_hash
from trellis.certificate import Certificate
from trellis.header import Header
from trellis.messages import Proposal, ViewChange
from trellis.types import Hash, Height, View
from trellis.votes import Prepared, SignedVote, Vote, VoteKind

MEMBERS = tuple(sorted(fake_members([1] * 4), key=lambda member: member.address))
GENESIS = small_genesis(MEMBERS)
VALIDATORS = set_of(MEMBERS)
H = Height(5)
TERMS = Terms(GENESIS.hash, H, VALIDATORS, tuple(member.address for member in MEMBERS))
PARENT = certify(Vote(VoteKind.COMMIT, Height(4), View(0), some_hash("parent")), MEMBERS[:3], GENESIS.hash, VALIDATORS)


def header(proposer: int, view: int, **fields: object) -> Header:
    return header_of(
        GENESIS, H, MEMBERS[proposer].address, view=View(view), parent_certificate_hash=PARENT.hash, **fields
    )


A = header(0, 0)
B = header(1, 1)


def asks(node: int, view: int, prepared: tuple[int, Hash] | None = None, height: int = H) -> SignedVote:
    named = None if prepared is None else Prepared(View(prepared[0]), prepared[1])
    return MEMBERS[node].sign(Vote(VoteKind.VIEW_CHANGE, Height(height), View(view), prepared=named), GENESIS.hash)


def prepared(view: int, block_hash: Hash, signers: tuple[int, ...] = (0, 1, 2), height: int = H) -> Certificate:
    vote = Vote(VoteKind.PREPARE, Height(height), View(view), block_hash)
    return certify(vote, [MEMBERS[i] for i in signers], GENESIS.hash, VALIDATORS)


def proposal(
    block: Header,
    view: int,
    votes: tuple[SignedVote, ...] = (),
    certificate: Certificate | None = None,
    signer: int | None = None,
    block_hash: Hash | None = None,
) -> Proposal:
    vote = Vote(VoteKind.PRE_PREPARE, H, View(view), block_hash or block.hash)
    leader: Member = MEMBERS[view % 4 if signer is None else signer]
    return Proposal(leader.sign(vote, GENESIS.hash), block, PARENT, votes, certificate)


FRESH = tuple(asks(node, 1) for node in (1, 2, 3))
LOCKED_A = (asks(0, 1, (0, A.hash)), asks(2, 1), asks(3, 1))
RIVAL = header(0, 0, timestamp_ms=7)

CASES: list[tuple[str, Callable[[], Proposal], Rule | None]] = [
    ("view 0, the leader's block", lambda: proposal(A, 0), None),
    ("view 0 with a justification", lambda: proposal(A, 0, FRESH), Rule.UNEXPECTED_JUSTIFICATION),
    ("view 0 with a certificate", lambda: proposal(A, 0, (), prepared(0, A.hash)), Rule.UNEXPECTED_JUSTIFICATION),
    ("view 0 with a block of view 4, same leader", lambda: proposal(header(0, 4), 0), Rule.WRONG_HEADER_VIEW),
    ("not the leader's signature", lambda: proposal(A, 0, signer=2), Rule.NOT_THE_LEADER),
    ("another proposer in the header", lambda: proposal(header(2, 0), 0), Rule.WRONG_PROPOSER),
    ("a vote for another block", lambda: proposal(A, 0, block_hash=B.hash), Rule.HASH_MISMATCH),
    ("a header of another height", lambda: proposal(replace(A, height=Height(6)), 0), Rule.FOREIGN_HEADER),
    (
        "a header of another chain",
        lambda: proposal(replace(A, genesis_hash=some_hash("other")), 0),
        Rule.FOREIGN_HEADER,
    ),
    (
        "a parent certificate that the header does not name",
        lambda: replace(proposal(A, 0), parent_certificate=prepared(0, A.hash)),
        Rule.PARENT_CERTIFICATE_MISMATCH,
    ),
    (
        "no parent certificate though the header names one",
        lambda: replace(proposal(A, 0), parent_certificate=None),
        Rule.PARENT_CERTIFICATE_MISMATCH,
    ),
    ("view 1, nobody prepared, a fresh block", lambda: proposal(B, 1, FRESH), None),
    ("view 1 without a justification", lambda: proposal(B, 1), Rule.NO_QUORUM),
    ("view 1, a justification of two of four", lambda: proposal(B, 1, FRESH[:2]), Rule.NO_QUORUM),
    ("view 1, two entries of one validator", lambda: proposal(B, 1, (*FRESH[:2], FRESH[0])), Rule.REPEATED_SIGNER),
    ("view 1, entries for view 2", lambda: proposal(B, 1, (*FRESH[:2], asks(0, 2))), Rule.FOREIGN_ENTRY),
    (
        "view 1, entries of another height",
        lambda: proposal(B, 1, (*FRESH[:2], asks(0, 1, None, 4))),
        Rule.FOREIGN_ENTRY,
    ),
    (
        "view 1, an entry of a stranger",
        lambda: proposal(B, 1, (*FRESH[:2], replace(FRESH[2], signer=some_hash("stranger")))),  # type: ignore[arg-type]  # an address is 32 bytes too
        Rule.NOT_A_MEMBER,
    ),
    (
        "view 1, an entry prepared in view 1",
        lambda: proposal(B, 1, (*FRESH[:2], asks(0, 1, (1, B.hash)))),
        Rule.PREPARED_TOO_HIGH,
    ),
    ("view 1, a fresh block made for view 0", lambda: proposal(A, 1, FRESH), Rule.WRONG_HEADER_VIEW),
    ("view 1, a needless certificate", lambda: proposal(B, 1, FRESH, prepared(0, A.hash)), Rule.NEEDLESS_CERTIFICATE),
    ("view 1, A prepared, A again", lambda: proposal(A, 1, LOCKED_A, prepared(0, A.hash)), None),
    ("view 1, A prepared, fresh B", lambda: proposal(B, 1, LOCKED_A), Rule.NOT_THE_PREPARED_BLOCK),
    ("view 1, A prepared, no certificate", lambda: proposal(A, 1, LOCKED_A), Rule.UNPROVEN_PREPARED),
    (
        "view 1, A prepared, a certificate of a rival block",
        lambda: proposal(A, 1, LOCKED_A, prepared(0, RIVAL.hash)),
        Rule.UNPROVEN_PREPARED,
    ),
    (
        "view 1, A prepared, a certificate of another height",
        lambda: proposal(A, 1, LOCKED_A, prepared(0, A.hash, height=4)),
        Rule.UNPROVEN_PREPARED,
    ),
    (
        "view 1, A prepared, a certificate of two of four",
        lambda: proposal(A, 1, LOCKED_A, prepared(0, A.hash, (0, 1))),
        Rule.UNPROVEN_PREPARED,
    ),
    (
        "view 2, A prepared in 0 and B in 1: B",
        lambda: proposal(B, 2, (asks(0, 2, (0, A.hash)), asks(1, 2, (1, B.hash)), asks(3, 2)), prepared(1, B.hash)),
        None,
    ),
    (
        "view 2, A prepared in 0 and B in 1: not A",
        lambda: proposal(A, 2, (asks(0, 2, (0, A.hash)), asks(1, 2, (1, B.hash)), asks(3, 2)), prepared(0, A.hash)),
        Rule.NOT_THE_PREPARED_BLOCK,
    ),
    (
        "view 2, the certificate is of the lower prepared view",
        lambda: proposal(B, 2, (asks(0, 2, (0, B.hash)), asks(1, 2, (1, B.hash)), asks(3, 2)), prepared(0, B.hash)),
        Rule.UNPROVEN_PREPARED,
    ),
    (
        "view 2, two hashes named at the highest prepared view, one proven",
        lambda: proposal(B, 2, (asks(0, 2, (1, RIVAL.hash)), asks(1, 2, (1, B.hash)), asks(3, 2)), prepared(1, B.hash)),
        None,
    ),
    (
        "view 2, a block created after the view that prepared it",
        lambda: proposal(B, 2, (asks(0, 2, (0, B.hash)), asks(1, 2), asks(3, 2)), prepared(0, B.hash)),
        Rule.HEADER_ABOVE_PREPARED,
    ),
]


@pytest.mark.parametrize(("name", "make", "rule"), CASES, ids=[case[0] for case in CASES])
def test_a_proposal_is_justified_or_refused_by_its_rule(
    name: str, make: Callable[[], Proposal], rule: Rule | None
) -> None:
    assert proposal_fault(make(), TERMS) is rule, name


def test_the_block_of_height_one_carries_no_certificate() -> None:
    block = header_of(GENESIS, 1, MEMBERS[0].address)
    terms = replace(TERMS, height=Height(1))
    vote = Vote(VoteKind.PRE_PREPARE, Height(1), View(0), block.hash)
    assert proposal_fault(Proposal(MEMBERS[0].sign(vote, GENESIS.hash), block, None), terms) is None


@pytest.mark.parametrize(
    ("message", "rule"),
    [
        (ViewChange(asks(0, 1)), None),
        (ViewChange(asks(0, 0)), Rule.MALFORMED_VIEW_CHANGE),
        (ViewChange(asks(0, 1, (0, A.hash))), None),
        (ViewChange(asks(0, 1, (1, A.hash))), Rule.PREPARED_TOO_HIGH),
        (ViewChange(asks(0, 1, (9, A.hash))), Rule.PREPARED_TOO_HIGH),
        (ViewChange(asks(0, 1), prepared(0, A.hash)), Rule.NEEDLESS_CERTIFICATE),
    ],
    ids=["plain", "to view 0", "unproven", "prepared in its own view", "prepared later", "a needless certificate"],
)
def test_a_view_change_that_contradicts_itself_is_refused(message: ViewChange, rule: Rule | None) -> None:
    assert view_change_fault(message, TERMS) is rule


@pytest.mark.parametrize(
    ("message", "counts"),
    [
        (ViewChange(asks(0, 1)), True),
        (ViewChange(asks(0, 1, (0, A.hash))), False),
        (ViewChange(asks(0, 1, (0, A.hash)), prepared(0, A.hash)), True),
        (ViewChange(asks(0, 1, (0, A.hash)), prepared(0, B.hash)), False),
        (ViewChange(asks(0, 2, (0, A.hash)), prepared(1, A.hash)), False),
        (ViewChange(asks(0, 1, (0, A.hash)), prepared(0, A.hash, height=4)), False),
        (ViewChange(asks(0, 1, (0, A.hash)), prepared(0, A.hash, (0, 1))), False),
    ],
    ids=["none named", "no certificate", "proven", "another block", "another view", "another height", "no quorum"],
)
def test_a_leader_counts_a_prepared_view_only_with_its_certificate(message: ViewChange, counts: bool) -> None:
    assert counts_for_leader(message, TERMS) is counts


def test_the_highest_prepared_view_wins_whatever_the_order_of_the_votes() -> None:
    votes = [asks(0, 3, (0, A.hash)), asks(1, 3, (2, B.hash)), asks(2, 3), asks(3, 3, (1, A.hash))]
    for turn in range(4):
        assert highest_prepared(votes[turn:] + votes[:turn]) == Prepared(View(2), B.hash)
    assert highest_prepared([asks(2, 3)]) is None
