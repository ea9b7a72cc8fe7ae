"""Evidence in words: each kind says what was signed, which rule it breaks, and what to check."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trellis.address import format_address
from trellis.evidence import ConflictingVotes, Evidence, decode_evidence
from trellis.explanation import explain
from trellis.types import Hash, Height, View
from trellis.votes import SignedVote, Vote, VoteKind

_VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "evidence.json").read_text())
CHAIN = Hash(bytes.fromhex(_VECTORS["genesis_hash"]))
BY_NAME: dict[str, Evidence] = {
    case["name"]: decode_evidence(bytes.fromhex(case["encoded"])) for case in _VECTORS["evidence"]
}


@pytest.mark.parametrize(
    ("name", "votes", "rule"),
    [
        ("two PREPAREs of one view", ["PREPARE", "PREPARE"], "PREPAREs at most one block in a view (rule C6)"),
        ("two VIEW-CHANGEs to one view", ["VIEW-CHANGE", "VIEW-CHANGE"], "asks for a view once, naming one lock"),
        (
            "PREPARE and COMMIT of one view for different blocks",
            ["PREPARE", "COMMIT"],
            "COMMITs only the block that it PREPAREd",
        ),
        ("a lock denied", ["COMMIT", "VIEW-CHANGE"], "a lie about its lock"),
        ("a PREPARE on an invalid proof", ["PREPARE"], "claims an invalid proof accepted"),
    ],
)
def test_each_offence_is_told_by_what_was_signed_and_the_rule_it_breaks(name: str, votes: list[str], rule: str) -> None:
    evidence = BY_NAME[name]
    told = explain(evidence, CHAIN)
    assert rule in told.rule
    assert ("5 % of stake" if "proof" in name else "20 % of stake") in told.rule
    assert len(told.signed) == len(votes)
    for line, vote, signed in zip(told.signed, votes, evidence.signed_votes(), strict=True):
        assert f"signed a {vote} " in line
        assert line.startswith(format_address(evidence.offender))
        assert signed.vote.signing_bytes(CHAIN).hex() in line, "the bytes that anyone can verify"
        assert f"view {signed.vote.view}" in line


def test_the_steps_name_the_key_the_context_and_what_to_compare() -> None:
    for evidence in BY_NAME.values():
        told = explain(evidence, CHAIN)
        assert f"validator set of height {evidence.height}" in told.checks[0]
        assert '"trellis/vote/1"' in told.checks[1]
        assert len(told.checks) >= 3
        assert str(told).count("\n") == len(told.signed) + len(told.checks)


def test_a_lock_lie_says_which_view_had_to_be_named() -> None:
    evidence = BY_NAME["a lock denied"]
    commit, change = (signed.vote for signed in evidence.signed_votes())
    told = explain(evidence, CHAIN).rule
    assert f"prepared in view {commit.view} or above" in told
    assert ("none at all" if change.prepared is None else f"view {change.prepared.view}") in told


def test_an_invalid_proof_says_how_to_come_from_the_vote_to_the_proof() -> None:
    told = "\n".join(explain(BY_NAME["a PREPARE on an invalid proof"], CHAIN).checks)
    assert told.index("Hash the header") < told.index("Merkle path") < told.index("exactly INVALID")


@pytest.mark.parametrize(
    ("kind", "rule"), [(VoteKind.PRE_PREPARE, "proposes at most one block"), (VoteKind.COMMIT, "COMMITs at most one")]
)
def test_every_ballot_has_a_rule_of_its_own(kind: VoteKind, rule: str) -> None:
    told = explain(_pair(kind, b"a", b"b"), CHAIN)
    assert rule in told.rule


def test_what_proves_nothing_is_told_as_such_and_gives_nothing_to_check() -> None:
    told = explain(_pair(VoteKind.PREPARE, b"a", b"a"), CHAIN)
    assert told.rule == "This proves no offence: no conflict."
    assert told.checks == ()


def _pair(kind: VoteKind, one: bytes, other: bytes) -> ConflictingVotes:
    signer = BY_NAME["a lock denied"].offender
    votes = [Vote(kind, Height(7), View(1), Hash(name * 32)) for name in (one, other)]
    first, second = (SignedVote(vote, signer, b"s") for vote in votes)
    return ConflictingVotes(first, second)
