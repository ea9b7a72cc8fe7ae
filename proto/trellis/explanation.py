"""Evidence in words: what was signed, which rule that breaks, and how anyone can check it for themselves."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

from trellis.address import format_address
from trellis.constants import Context
from trellis.evidence import ConflictingVotes, Evidence, InvalidProofPrepare, LockLie
from trellis.types import Hash
from trellis.votes import SignedVote, VoteKind


@dataclass(frozen=True, slots=True)
class Explanation:
    """An accusation in words, for whoever has to judge it. It says what to check; it does not check."""

    signed: tuple[str, ...]
    """What the accused put its name to, vote by vote, with the very bytes under the signature."""
    rule: str
    """Which rule that breaks, and what it costs."""
    checks: tuple[str, ...]
    """How anyone can check it, step by step; nothing if the bytes already show that it proves nothing."""

    def __str__(self) -> str:
        steps = [f"{number}. {step}" for number, step in enumerate(self.checks, 1)]
        return "\n".join([*self.signed, self.rule, *steps])


def explain(evidence: Evidence, genesis_hash: Hash) -> Explanation:
    """What was signed, which rule it breaks, and how to check it, on the chain of this genesis."""
    accused = format_address(evidence.offender)
    signed = tuple(_told(signed, accused, genesis_hash) for signed in evidence.signed_votes())
    fault = evidence.fault(genesis_hash)
    if fault is not None:
        return Explanation(signed, f"This proves no offence: {fault.replace('_', ' ')}.", ())
    rule, steps = _judged(evidence, genesis_hash)
    key = (
        f"Take the consensus key that {accused} has in the validator set of height {evidence.height}; "
        "each header names the hash of its set (validators_hash)."
    )
    which = "both signatures" if len(signed) > 1 else "the signature"
    context = Context.VOTE.value.decode()
    verify = f'Verify {which} with that key over the bytes above, under the context "{context}" (FIPS 204).'
    return Explanation(signed, rule, (key, verify, *steps))


def _told(signed: SignedVote, accused: str, genesis_hash: Hash) -> str:
    vote = signed.vote
    if vote.block_hash is not None:
        content = f"of block {vote.block_hash.hex()}"
    elif vote.prepared is None:
        content = "that names no prepared block"
    else:
        content = f"that names block {vote.prepared.hash.hex()} as prepared in view {vote.prepared.view}"
    return (
        f"{accused} signed a {vote.kind.name.replace('_', '-')} {content} at height {vote.height}, view {vote.view}; "
        f"the signed bytes are {vote.signing_bytes(genesis_hash).hex()}."
    )


def _judged(evidence: Evidence, genesis_hash: Hash) -> tuple[str, tuple[str, ...]]:
    match evidence:
        case ConflictingVotes():
            compare = "Compare the two contents, not the signatures: two signatures of one vote differ too."
            return _conflict_rule(evidence), (compare,)
        case LockLie():
            compare = (
                "Compare the views: the VIEW-CHANGE moves above the view of the COMMIT, and names a prepared view "
                "below it, or none."
            )
            return _lock_rule(evidence), (compare,)
        case InvalidProofPrepare():
            return _proof_rule(evidence, genesis_hash)
        case _:
            assert_never(evidence)


def _conflict_rule(evidence: ConflictingVotes) -> str:
    first, second = evidence.first.vote, evidence.second.vote
    if first.kind is not second.kind:
        broken = "COMMITs only the block that it PREPAREd in that view (rule C7)"
    else:
        match first.kind:
            case VoteKind.PRE_PREPARE:
                broken = "proposes at most one block in a view (rule C4)"
            case VoteKind.PREPARE:
                broken = "PREPAREs at most one block in a view (rule C6)"
            case VoteKind.COMMIT:
                broken = "COMMITs at most one block in a view (rule C7)"
            case VoteKind.VIEW_CHANGE:
                broken = "asks for a view once, naming one lock (rule C10)"
            case _:
                assert_never(first.kind)
    return f"An honest validator {broken}. This one signed both: double signing, which costs 20 % of stake."


def _lock_rule(evidence: LockLie) -> str:
    commit, change = evidence.commit.vote, evidence.view_change.vote
    named = "none at all" if change.prepared is None else f"only one of view {change.prepared.view}"
    return (
        f"By its COMMIT in view {commit.view} it was locked on that block, and locks only rise (rule C7). Asking for "
        f"view {change.view} it had to name a block prepared in view {commit.view} or above, and named {named}: a lie "
        "about its lock, which costs 20 % of stake."
    )


def _proof_rule(evidence: InvalidProofPrepare, genesis_hash: Hash) -> tuple[str, tuple[str, ...]]:
    txid = evidence.transaction.txid(genesis_hash).hex()
    rule = (
        "A validator checks every proof of a block itself before it PREPAREs it (rule C6). This one stood for a block "
        "that claims an invalid proof accepted, which costs 5 % of stake."
    )
    return rule, (
        f"Hash the header that comes with it: it is the block that was PREPAREd, {evidence.header.hash.hex()}.",
        "Follow the Merkle path from the transaction, its outcome OK and its fee, to the header's tx_root.",
        f"Run the statement's verifier on the proof of transaction {txid}: it answers exactly INVALID, not LIMIT.",
    )


def summary(evidence: Evidence) -> str:
    """In a sentence, without the chain at hand."""
    match evidence:
        case ConflictingVotes():
            return (
                f"In height {evidence.height} the validator signed {_named(evidence.first)}, and also "
                f"{_named(evidence.second)}. An honest validator signs one of them."
            )
        case LockLie():
            return (
                f"In height {evidence.height} the validator signed {_named(evidence.commit)}, by which it locked on "
                f"that block, and later {_named(evidence.view_change)}, which denies the lock."
            )
        case InvalidProofPrepare():
            return (
                f"In height {evidence.height} the validator signed {_named(evidence.prepare)}, which claims a proof "
                "valid. Whoever runs the proof's verifier on it finds exactly INVALID."
            )
        case _:
            assert_never(evidence)


def _named(signed: SignedVote) -> str:
    vote = signed.vote
    name = vote.kind.name.replace("_", "-")
    if vote.block_hash is not None:
        return f"{name} in view {vote.view} for block {vote.block_hash.hex()[:16]}…"
    prepared = "no prepared block" if vote.prepared is None else f"a block prepared in view {vote.prepared.view}"
    return f"{name} for view {vote.view} naming {prepared}"
