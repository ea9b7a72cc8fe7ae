"""C12's buffer: one slot a signer and kind, the highest view."""

from __future__ import annotations

from dataclasses import replace

from consensus.buffer import MAX_BUFFERED_PROPOSAL_BYTES, Buffer
from tests.chains import certify, fake_members, header_of, small_genesis, some_hash
from trellis.messages import Ballot, Proposal, ViewChange
from trellis.types import Height, View
from trellis.votes import Prepared, Vote, VoteKind

MEMBERS = fake_members([1] * 4)
GENESIS = small_genesis(MEMBERS)
A = some_hash("A")


def ballot(node: int, view: int, kind: VoteKind = VoteKind.PREPARE, block: str = "A") -> Ballot:
    return Ballot(MEMBERS[node].sign(Vote(kind, Height(2), View(view), some_hash(block)), GENESIS.hash))


def proposal(node: int, body: bytes = b"") -> Proposal:
    header = header_of(GENESIS, 2, MEMBERS[node].address)
    vote = Vote(VoteKind.PRE_PREPARE, Height(2), View(0), header.hash)
    return Proposal(MEMBERS[node].sign(vote, GENESIS.hash), header, None, body=body)


def test_of_two_votes_the_one_with_the_higher_view_stays_and_of_one_view_the_first() -> None:
    buffer = Buffer()
    assert buffer.put(ballot(0, 2))
    assert not buffer.put(ballot(0, 1))
    assert not buffer.put(ballot(0, 2, block="B"))
    assert buffer.put(ballot(0, 3))
    assert buffer.take_up_to(View(9)) == [ballot(0, 3)]
    assert len(buffer) == 0


def test_a_flooder_evicts_nobody_but_itself() -> None:
    buffer = Buffer()
    honest = [ballot(1, 1), ballot(1, 1, VoteKind.COMMIT), ballot(2, 1)]
    for message in honest:
        assert buffer.put(message)
    for view in range(1, 500):
        buffer.put(ballot(0, view))
    assert len(buffer) == 4
    assert sorted(buffer.take_up_to(View(1)), key=repr) == sorted(honest, key=repr)


def test_only_what_is_due_is_taken() -> None:
    buffer = Buffer()
    buffer.put(ballot(0, 1))
    buffer.put(ballot(1, 2))
    assert buffer.take_up_to(View(1)) == [ballot(0, 1)]
    assert buffer.take_up_to(View(1)) == []
    assert buffer.take_up_to(View(2)) == [ballot(1, 2)]


def test_a_proposal_of_the_next_height_waits_only_if_it_is_small() -> None:
    buffer = Buffer()
    assert not buffer.put(proposal(0, bytes(MAX_BUFFERED_PROPOSAL_BYTES + 1)))
    vote = Vote(VoteKind.COMMIT, Height(1), View(0), A)
    heavy = replace(proposal(0), parent_certificate=certify(vote, MEMBERS, GENESIS.hash))
    assert not buffer.put(replace(heavy, body=bytes(MAX_BUFFERED_PROPOSAL_BYTES - 15_000)))
    assert buffer.put(heavy)


def test_proposals_are_taken_before_the_votes_that_need_them() -> None:
    buffer = Buffer()
    buffer.put(ballot(3, 0, VoteKind.COMMIT))
    buffer.put(ballot(2, 0))
    buffer.put(proposal(0))
    assert [message.signed.vote.kind for message in buffer.take_all()] == [
        VoteKind.PRE_PREPARE,
        VoteKind.PREPARE,
        VoteKind.COMMIT,
    ]


def test_a_view_change_without_its_certificate_does_not_mask_the_same_one_with_it() -> None:
    vote = Vote(VoteKind.VIEW_CHANGE, Height(2), View(1), prepared=Prepared(View(0), A))
    signed = MEMBERS[0].sign(vote, GENESIS.hash)
    certificate = certify(Vote(VoteKind.PREPARE, Height(2), View(0), A), MEMBERS, GENESIS.hash)
    buffer = Buffer()
    assert buffer.put(ViewChange(signed, None))
    assert not buffer.holds(ViewChange(signed, certificate))
    assert buffer.put(ViewChange(signed, certificate))
    assert buffer.holds(ViewChange(signed, None))
    assert not buffer.put(ViewChange(signed, None))
    assert buffer.take_all() == [ViewChange(signed, certificate)]
