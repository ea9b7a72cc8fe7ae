"""Receipts that hold and receipts that do not: one table, for the tests of `verify` and for its mutation test.

Cases are bytes and trust, so that a mutated copy of the receipt module can be asked about the same files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache

from tests.chains import (
    Member,
    ReceiptStory,
    certify,
    commit,
    fake_members,
    payment,
    receipt_story,
    set_of,
    small_genesis,
    some_hash,
)
from tests.signing import FakeSigner
from trellis.block import transaction_leaf
from trellis.certificate import Certificate
from trellis.genesis import Genesis
from trellis.header import Header
from trellis.merkle import merkle_root, prove_inclusion
from trellis.outcome import Outcome
from trellis.receipt import FinalityReceipt, Transition
from trellis.transaction import txid_of
from trellis.types import Hash, Height, View
from trellis.validators import ValidatorSet
from trellis.votes import Vote, VoteKind


@dataclass(frozen=True)
class TrustedBlock:
    """A checkpoint, before there is a class for it."""

    genesis_hash: Hash
    height: int
    validators: ValidatorSet


@dataclass(frozen=True)
class Case:
    name: str
    data: bytes
    trust: Genesis | TrustedBlock
    fault: str | None
    """None: it holds. Else the fault, or the reason for which the file does not decode."""
    detail: str = ""
    """What the explanation must contain: for certificates the certificate's own fault."""


SETS = tuple(fake_members([30, 20, 20, 10], first_seed=100 * epoch) for epoch in range(4))
"""Four sets of four that share nobody; a quorum needs 54 of 80."""
THIEVES = fake_members([1, 1, 1, 1], first_seed=5_000)


@cache
def plain() -> ReceiptStory:
    return receipt_story(SETS[:1])


@cache
def crossing() -> ReceiptStory:
    """Three changes of the set: at heights 10, 20, 30; the transaction at 31."""
    return receipt_story(SETS)


def checkpoint_of(story: ReceiptStory, height: int, members: Sequence[Member]) -> TrustedBlock:
    return TrustedBlock(story.genesis.hash, height, set_of(members))


def moved(header: Header, **fields: object) -> Header:
    return replace(header, **fields)  # type: ignore[arg-type]  # the caller names fields of a header


def recertified(story: ReceiptStory, members: Sequence[Member], **fields: object) -> FinalityReceipt:
    """The receipt with another header, properly committed by `members`."""
    header = moved(story.receipt.header, **fields)
    return replace(story.receipt, header=header, certificate=commit(header, members))


def with_transition(receipt: FinalityReceipt, place: int, transition: Transition) -> FinalityReceipt:
    steps = list(receipt.transitions)
    steps[place] = transition
    return replace(receipt, transitions=tuple(steps))


def bad_certificates(header: Header, members: Sequence[Member], genesis_hash: Hash) -> list[tuple[str, Certificate]]:
    """Each way in which a certificate of this header proves nothing, with the name of the fault."""
    good, validators = commit(header, members), set_of(members)

    def of(kind: VoteKind, height: int, view: int, block_hash: Hash) -> Certificate:
        return certify(Vote(kind, Height(height), View(view), block_hash), members, genesis_hash)

    spoiled = bytearray(good.signatures[0])
    spoiled[0] ^= 1
    few = [member for member in members if member.power < 30]
    exactly = [member for member in members if member.power in (30, 20)][:2]
    return [
        ("wrong_kind", of(VoteKind.PREPARE, header.height, header.view, header.hash)),
        ("wrong_height", of(VoteKind.COMMIT, header.height + 1, header.view, header.hash)),
        ("wrong_view", of(VoteKind.COMMIT, header.height, header.view - 1, header.hash)),
        ("wrong_hash", of(VoteKind.COMMIT, header.height, header.view, some_hash("another block"))),
        ("bitmap_length", replace(good, signers=good.signers + b"\0")),
        ("bitmap_length", replace(good, signers=b"", signatures=())),
        ("bitmap_padding", replace(good, signers=b"\x1f", signatures=(*good.signatures, good.signatures[0]))),
        ("bitmap_padding", replace(good, signers=b"\x87")),
        ("signature_count", replace(good, signatures=good.signatures[:-1])),
        ("signature_count", replace(good, signatures=(*good.signatures, good.signatures[0]))),
        ("signature_size", replace(good, signatures=(good.signatures[0][:-1], *good.signatures[1:]))),
        ("no_quorum", replace(good, signers=b"\0", signatures=())),
        ("no_quorum", certify(good.vote, few, genesis_hash, validators)),
        ("no_quorum", certify(good.vote, exactly, genesis_hash, validators)),
        ("bad_signature", replace(good, signatures=(bytes(spoiled), *good.signatures[1:]))),
        ("bad_signature", replace(good, signatures=good.signatures[::-1])),
        ("bad_signature", commit(header, THIEVES)),
        ("bad_signature", replace(certify(good.vote, members, some_hash("another chain")))),
    ]


def _holding() -> list[Case]:
    one, three = plain(), crossing()
    later = recertified(one, SETS[0], view=View(2))
    failed_leaf = transaction_leaf(one.receipt.txid, Outcome.INSUFFICIENT_FUNDS, 7)
    failed = replace(
        recertified(one, SETS[0], tx_root=failed_leaf),
        outcome=Outcome.INSUFFICIENT_FUNDS,
        fee=7,
        path=prove_inclusion([failed_leaf], [0]),
    )
    quorum = [SETS[0][0], SETS[0][1], SETS[0][3]]
    some = certify(one.receipt.certificate.vote, quorum, one.genesis.hash, set_of(SETS[0]))
    from_second = replace(three.receipt, transitions=three.receipt.transitions[1:])
    return [
        Case("from genesis, no change", one.receipt.encode(), one.genesis, None),
        Case("from genesis, over three changes", three.receipt.encode(), three.genesis, None),
        Case("signed by a bare quorum", replace(one.receipt, certificate=some).encode(), one.genesis, None),
        Case("decided in the view it was made in", later.encode(), one.genesis, None),
        Case(
            "decided in a later view",
            replace(later, certificate=commit(later.header, SETS[0], view=5)).encode(),
            one.genesis,
            None,
        ),
        Case("a failed transaction", failed.encode(), one.genesis, None),
        Case("from a checkpoint", from_second.encode(), checkpoint_of(three, 10, SETS[1]), None),
        Case("right after a checkpoint", one.receipt.encode(), checkpoint_of(one, 0, SETS[0]), None),
    ]


def _wrong_trust() -> list[Case]:
    one, three = plain(), crossing()
    other = small_genesis(SETS[0], "another chain")
    elsewhere = TrustedBlock(other.hash, 0, set_of(SETS[0]))
    return [
        Case("another chain with the same validators", one.receipt.encode(), other, "wrong_chain"),
        Case("a checkpoint of another chain", one.receipt.encode(), elsewhere, "wrong_chain"),
        Case("at the checkpoint", one.receipt.encode(), checkpoint_of(one, 1, SETS[0]), "before_trust"),
        Case("before the checkpoint", one.receipt.encode(), checkpoint_of(one, 9, SETS[0]), "before_trust"),
        Case("a checkpoint with other validators", one.receipt.encode(), checkpoint_of(one, 0, THIEVES), "unknown_set"),
        Case(
            "a change at the checkpoint's height",
            three.receipt.encode(),
            checkpoint_of(three, 10, SETS[0]),
            "transition_order",
        ),
    ]


def _wrong_transitions() -> list[Case]:
    story = crossing()
    receipt, genesis = story.receipt, story.genesis
    first, second, third = receipt.transitions
    other = small_genesis(SETS[0], "another chain")

    def case(name: str, changed: FinalityReceipt, fault: str, detail: str = "") -> Case:
        return Case(name, changed.encode(), genesis, fault, detail)

    def remade(transition: Transition, members: Sequence[Member], **fields: object) -> Transition:
        header = moved(transition.header, **fields)
        return replace(transition, header=header, certificate=commit(header, members))

    foreign = remade(second, SETS[1], genesis_hash=other.hash)
    idle_header = moved(second.header, height=Height(15), next_validators_hash=set_of(SETS[1]).hash)
    idle = Transition(idle_header, commit(idle_header, SETS[1]), set_of(SETS[1]))
    robbed = with_transition(receipt, 2, replace(third, following=set_of(THIEVES)))
    stolen = moved(receipt.header, validators_hash=set_of(THIEVES).hash)
    cases = [
        case("changes out of order", replace(receipt, transitions=(second, first, third)), "transition_set"),
        case("a change twice", replace(receipt, transitions=(first, first, second, third)), "transition_order"),
        case(
            "a change at the block's own height",
            with_transition(receipt, 2, remade(third, SETS[2], height=Height(31))),
            "transition_order",
        ),
        case(
            "a change after the block",
            with_transition(receipt, 2, remade(third, SETS[2], height=Height(40))),
            "transition_order",
        ),
        case(
            "two changes at one height",
            with_transition(receipt, 1, remade(second, SETS[1], height=Height(10))),
            "transition_order",
        ),
        case("a change of another chain", with_transition(receipt, 1, foreign), "wrong_chain"),
        case(
            "a change under a set that was not in force",
            with_transition(receipt, 1, remade(second, SETS[1], validators_hash=some_hash("a set"))),
            "transition_set",
        ),
        case("a change left out", replace(receipt, transitions=(first, third)), "transition_set"),
        case("the last change left out", replace(receipt, transitions=(first, second)), "unknown_set"),
        case("all changes left out", replace(receipt, transitions=()), "unknown_set"),
        case(
            "thieves put in place of the next set",
            with_transition(receipt, 2, replace(third, following=set_of(THIEVES))),
            "transition_next_set",
        ),
        case(
            "thieves put in place of the next set, who then sign the block",
            replace(robbed, header=stolen, certificate=commit(stolen, THIEVES)),
            "transition_next_set",
        ),
        case(
            "a change that changes nothing",
            replace(receipt, transitions=(first, idle, second, third)),
            "transition_next_set",
        ),
        case(
            "the retired first set certifies the last change",
            with_transition(receipt, 2, remade(third, SETS[0])),
            "transition_certificate",
            "bad_signature",
        ),
    ]
    lifted = moved(second.header, view=View(3))
    cases += [
        case(
            f"a change certified wrongly, {place}: {fault}",
            with_transition(receipt, 1, Transition(lifted, certificate, second.following)),
            "transition_certificate",
            fault,
        )
        for place, (fault, certificate) in enumerate(bad_certificates(lifted, SETS[1], genesis.hash))
    ]
    return cases


def _wrong_blocks() -> list[Case]:
    one, three = plain(), crossing()
    genesis = one.genesis
    lifted = recertified(one, SETS[0], view=View(3))
    cases = [
        Case(
            "a retired set certifies a later header in the name of the new one",
            replace(three.receipt, certificate=commit(three.receipt.header, SETS[0])).encode(),
            three.genesis,
            "certificate",
            "bad_signature",
        ),
        Case(
            "a retired set certifies a later header in its own name",
            recertified(three, SETS[2], validators_hash=set_of(SETS[2]).hash).encode(),
            three.genesis,
            "unknown_set",
        ),
        Case(
            "a header that names no set that anyone knows",
            recertified(one, SETS[0], validators_hash=some_hash("a set")).encode(),
            genesis,
            "unknown_set",
        ),
    ]
    cases += [
        Case(
            f"the block certified wrongly, {place}: {fault}",
            replace(lifted, certificate=certificate).encode(),
            genesis,
            "certificate",
            fault,
        )
        for place, (fault, certificate) in enumerate(bad_certificates(lifted.header, SETS[0], genesis.hash))
    ]
    return cases


def _wrong_transactions() -> list[Case]:
    story = plain()
    receipt, genesis = story.receipt, story.genesis
    leaves = [transaction_leaf(some_hash(("other", place)), Outcome.OK, 7) for place in range(3)]
    leaves.insert(1, transaction_leaf(receipt.txid, receipt.outcome, receipt.fee))
    other = payment(FakeSigner(901)).encode()
    junk = b"\x0a\x01x"
    junk_leaf = transaction_leaf(txid_of(genesis.hash, junk), Outcome.OK, 7)
    unparsable = replace(
        recertified(story, SETS[0], tx_root=merkle_root([junk_leaf])),
        body=junk,
        fee=7,
        path=prove_inclusion([junk_leaf], [0]),
    )
    changed = [
        ("another outcome", replace(receipt, outcome=Outcome.NOT_JAILED)),
        ("another fee", replace(receipt, fee=receipt.fee + 1)),
        ("another transaction", replace(receipt, body=other)),
        ("the path of a neighbour", replace(receipt, path=prove_inclusion(leaves, [2]))),
        ("a path for two", replace(receipt, path=prove_inclusion(leaves, [1, 2]))),
        ("a path in a smaller tree", replace(receipt, path=replace(receipt.path, count=3))),
        ("a path cut short", replace(receipt, path=replace(receipt.path, hashes=receipt.path.hashes[:-1]))),
        ("another root", recertified(story, SETS[0], tx_root=some_hash("root"))),
    ]
    return [Case(name, item.encode(), genesis, "not_in_block") for name, item in changed] + [
        Case("bytes that are no transaction", unparsable.encode(), genesis, "malformed")
    ]


def _wrong_files() -> list[Case]:
    story = plain()
    data, genesis = story.receipt.encode(), story.genesis
    body = len(story.receipt.body)
    outcome_at = 16 + 2 + 4 + body
    header_at = data.index(story.receipt.header.encode())
    kind_at = header_at + 458 + 4

    def spliced(at: int, new: bytes) -> bytes:
        return data[:at] + new + data[at + len(new) :]

    return [
        Case("another magic", spliced(0, b"T"), genesis, "unknown_kind"),
        Case("a version to come", spliced(16, b"\x00\x02"), genesis, "unknown_version"),
        Case("an outcome to come", spliced(outcome_at, b"\x7f\xff"), genesis, "unknown_kind"),
        Case("a certificate of PRE-PREPAREs", spliced(kind_at, b"\x01"), genesis, "unknown_kind"),
        Case("a certificate of no kind", spliced(kind_at, b"\x09"), genesis, "unknown_kind"),
        Case("something behind", data + b"\0", genesis, "trailing_bytes"),
        Case("cut short", data[:-1], genesis, "truncated"),
        Case("empty", b"", genesis, "truncated"),
    ]


@cache
def all_cases() -> tuple[Case, ...]:
    return tuple(
        _holding() + _wrong_trust() + _wrong_transitions() + _wrong_blocks() + _wrong_transactions() + _wrong_files()
    )
