"""The ledger as a host drives it: execute, propose, commit, undo, refuse other histories."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from state.claims import VerdictMissing, known_verdicts, verify_claims
from state.conservation import ConservationValidator
from state.errors import InvalidBlock, InvalidReason
from state.execution import Receipt
from state.genesis_state import GenesisRefused, genesis_changes
from state.ledger import MAX_CHILDREN, Ledger, ParentUnknown
from state.scope import SignatureClaim, Verdicts
from state.store.chain import create_chain, load_chain
from state.store.memory import MemoryStore
from state.store.rows import ChainIdentity
from state.transition import Applied, Proposal, build_block
from tests.chains import certify, fake_members, some_hash
from tests.signing import FakeSigner, fake_verify_all
from tests.state.kit import PARAMETERS, RICH, accounts, address, make_chain, make_genesis, pay
from trellis.block import Block, decode_block
from trellis.certificate import Certificate
from trellis.genesis import EngineKind, Genesis
from trellis.header import Seal
from trellis.outcome import Outcome
from trellis.transaction import Data, Transaction
from trellis.types import Hash, Height, View
from trellis.votes import Vote, VoteKind

MEMBERS = fake_members((1_000, 1_000, 1_000, 1_000))
SIGNERS = accounts(2)
GENESIS = make_genesis(MEMBERS, SIGNERS)


def open_ledger(
    genesis: Genesis = GENESIS, store: MemoryStore | None = None, checkpoints: dict[int, Hash] | None = None
) -> Ledger:
    identity = ChainIdentity(genesis.hash, genesis.parameters.state_buckets_log2)
    chain = create_chain(store or MemoryStore(), identity, genesis_changes(genesis))
    return Ledger(genesis, chain, checkpoints=checkpoints)


def verdicts(claims: Sequence[SignatureClaim]) -> Verdicts:
    return known_verdicts(verify_claims(tuple(claims), fake_verify_all))


def execute(ledger: Ledger, block: Block) -> Applied | InvalidBlock | ParentUnknown:
    return ledger.execute(block, verdicts(ledger.claims(block)))


def certificate_of(block: Block) -> Certificate:
    header = block.header
    vote = Vote(VoteKind.COMMIT, header.height, header.view, header.hash)
    return certify(vote, MEMBERS, header.genesis_hash)


def propose(
    ledger: Ledger,
    parent: Block | None = None,
    transactions: Sequence[Transaction] = (),
    certificate: Certificate | None = None,
    view: int = 0,
) -> Block:
    parent_hash = ledger.tip.block_hash if parent is None else parent.hash
    facts = ledger.facts_after(parent_hash)
    assert facts is not None
    carried = certificate or (None if parent is None else certificate_of(parent))
    proposer = facts.schedule.leader_of(View(view), facts.validators)
    proposal = Proposal(proposer, View(view), facts.parent_timestamp_ms + 100, carried)
    return ledger.propose(proposal, transactions, lambda key: True, parent_hash).applied.block


def story(length: int, genesis: Genesis = GENESIS) -> list[Block]:
    """A valid chain of blocks, as bytes made it."""
    world = make_chain(rich=2)
    assert world.genesis == genesis
    for place in range(length):
        world.step(world.tx(world.rich[place % 2], pay(address(world.rich[0]), place + 1)))
    return [decode_block(block.encode()) for block in world.blocks]


def test_blocks_are_executed_ahead_committed_in_order_and_found_again_after_a_restart() -> None:
    store = MemoryStore()
    ledger = open_ledger(store=store)
    blocks = story(4)
    for block in blocks:
        assert isinstance(execute(ledger, block), Applied)
    assert ledger.children == tuple(block.hash for block in blocks)
    for block in blocks[:3]:
        done = ledger.commit(block.hash, certificate_of(block), b"metadata")
        assert done.tip.state_root == block.header.state_root
        assert done.dropped == ()
    assert ledger.children == (blocks[3].hash,)
    again = Ledger(GENESIS, load_chain(store))
    assert again.tip.block_hash == blocks[2].hash
    assert again.head.height == 3
    assert isinstance(execute(again, blocks[3]), Applied)
    assert again.commit(blocks[3].hash, None).tip.state_root == blocks[3].header.state_root


def test_rivals_live_side_by_side_until_one_is_committed() -> None:
    ledger = open_ledger()
    world = make_chain(rich=2)
    one = propose(ledger, transactions=[world.tx(world.rich[0], Data(b"one"))])
    other = propose(ledger, view=1)
    child = propose(ledger, parent=other)
    assert ledger.children == (one.hash, other.hash, child.hash)
    before = ledger.state.root
    done = ledger.commit(other.hash, certificate_of(other))
    assert before != ledger.state.root == other.header.state_root
    assert done.dropped == (one.hash,)
    assert ledger.children == (child.hash,)
    ledger.commit(child.hash, None)


def test_only_an_executed_child_of_the_head_can_be_committed() -> None:
    ledger = open_ledger()
    first, second = story(2)
    execute(ledger, first)
    execute(ledger, second)
    for unfit in (second.hash, some_hash("nothing")):
        with pytest.raises(ValueError, match="on top of the head"):
            ledger.commit(unfit, None)


def test_a_dropped_block_takes_what_stands_on_it_along() -> None:
    ledger = open_ledger()
    first, second, third = story(3)
    for block in (first, second, third):
        execute(ledger, block)
    ledger.drop(second.hash)
    assert ledger.children == (first.hash,)
    assert execute(ledger, third) == ParentUnknown(second.hash)


def test_uncommitted_blocks_are_bounded_and_the_oldest_leaf_goes_first() -> None:
    ledger = open_ledger()
    made = [propose(ledger, view=view) for view in range(MAX_CHILDREN + 3)]
    assert len(ledger.children) == MAX_CHILDREN
    assert made[0].hash not in ledger.children
    assert made[-1].hash in ledger.children


def test_undoing_blocks_gives_the_older_state_back_and_the_chain_goes_on() -> None:
    ledger = open_ledger()
    blocks = story(4)
    roots = [ledger.state.root]
    for block in blocks:
        execute(ledger, block)
        ledger.commit(block.hash, None)
        roots.append(ledger.state.root)
    ledger.rollback(2)
    assert ledger.state.root == roots[2]
    assert ledger.head.height == 2
    assert isinstance(execute(ledger, blocks[2]), Applied)


def test_a_forgotten_verdict_is_the_hosts_mistake_and_never_a_bad_signature() -> None:
    ledger = open_ledger()
    (block,) = story(1)
    with pytest.raises(VerdictMissing):
        ledger.execute(block, known_verdicts({}))


def test_another_body_under_a_known_header_is_looked_at_anew() -> None:
    """What was found valid is remembered for that body alone."""
    ledger = open_ledger()
    (block,) = story(1)
    assert isinstance(execute(ledger, block), Applied)
    other = replace(block, transactions=())
    assert execute(ledger, other) == InvalidBlock(InvalidReason.WITNESS_ROOT)


def test_what_would_become_of_a_transaction_is_told_without_changing_anything() -> None:
    ledger, world = open_ledger(), make_chain(rich=2)
    root = ledger.state.root
    a, b = world.rich
    good = world.tx(a, pay(address(b), 5))
    receipt = ledger.simulate(good, lambda key: True)
    assert receipt == Receipt(good.txid(GENESIS.hash), Outcome.OK, 20_000)
    poor = ledger.simulate(world.tx(a, pay(address(b), RICH)), lambda key: True)
    assert isinstance(poor, Receipt)
    assert poor.outcome is Outcome.INSUFFICIENT_FUNDS
    assert ledger.simulate(world.tx(a, Data(b"x"), after=1), lambda key: True) is InvalidReason.NONCE_GAP
    assert ledger.simulate(good, lambda key: False) is InvalidReason.BAD_SIGNATURE
    assert ledger.state.root == root


# Histories.

STORY = story(6)


@settings(max_examples=100)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 10**6))
def test_long_range_attack_prevention(fork_at: int, longer: int, theft: int) -> None:
    """Old keys, stolen, certify another past: longer, valid in every block. A node that has the chain refuses it, and
    so does a fresh node with a checkpoint; a fresh node without one cannot tell, and is not asked to."""
    honest = STORY[:5]
    thief = make_chain(rich=2)
    for block in honest[: fork_at - 1]:
        thief.accept(block)
    for place in range(5 - fork_at + 1 + longer):
        thief.step(thief.tx(thief.rich[1], pay(address(thief.rich[0]), theft + place)))
    forged = thief.blocks

    settled = open_ledger()
    for block in honest:
        execute(settled, block)
        settled.commit(block.hash, None)
    careful = open_ledger(checkpoints={5: honest[4].hash})
    naive = open_ledger()
    answers = []
    for block in forged:
        if block.header.height >= fork_at:
            answers.append(execute(settled, block))
        assert isinstance(execute(naive, block), Applied)
        result = execute(careful, block)
        if isinstance(result, Applied):
            assert block.header.height < 5
            careful.commit(block.hash, None)
    below = [each for each in answers if isinstance(each, InvalidBlock)]
    assert len(below) == 5 - fork_at + 1
    assert all(each.reason is InvalidReason.BELOW_FINAL for each in below)
    assert all(isinstance(each, ParentUnknown) for each in answers[len(below) :])
    assert settled.tip.block_hash == honest[4].hash
    assert careful.tip.height == 4
    refused = execute(careful, forged[4])
    assert isinstance(refused, InvalidBlock)
    assert refused.reason is InvalidReason.CHECKPOINT


def test_a_history_without_certificates_is_refused_at_its_second_block() -> None:
    ledger = open_ledger()
    first, second = story(2)
    execute(ledger, first)
    bare = replace(second, parent_certificate=None)
    assert execute(ledger, bare) == InvalidBlock(InvalidReason.CERTIFICATE_PRESENCE)


@dataclass
class Host:
    """The smallest host: it owns the orphan buffer, because only a host knows who sent what."""

    ledger: Ledger
    orphans: dict[Hash, Block]

    def receive(self, block: Block) -> None:
        result = execute(self.ledger, block)
        if isinstance(result, ParentUnknown):
            self.orphans[result.parent_hash] = block
            return
        assert isinstance(result, Applied)
        while (waiting := self.orphans.pop(block.hash, None)) is not None:
            assert isinstance(execute(self.ledger, waiting), Applied)
            block = waiting


@settings(max_examples=100)
@given(st.lists(st.permutations(range(6)), min_size=3, max_size=3))
def test_eventual_consistency(orders: list[list[int]]) -> None:
    """Nodes that get the same blocks in any order end in one root, with value conserved."""
    roots = []
    for order in orders:
        host = Host(open_ledger(), {})
        for place in order:
            host.receive(STORY[place])
        assert not host.orphans
        for block in STORY:
            host.ledger.commit(block.hash, None)
        roots.append((host.ledger.state.root, host.ledger.tip.block_hash))
    assert set(roots) == {(STORY[-1].header.state_root, STORY[-1].hash)}


# Genesis and engines.


def test_a_genesis_with_more_validators_than_it_allows_is_refused() -> None:
    small = replace(GENESIS, parameters=replace(PARAMETERS, max_validators=3))
    with pytest.raises(GenesisRefused, match="max_validators"):
        genesis_changes(small)


def test_a_genesis_with_a_verifier_that_this_software_lacks_is_refused() -> None:
    with pytest.raises(GenesisRefused, match="magic"):
        genesis_changes(replace(GENESIS, verifiers=(("magic.v1", b""),)))


def test_the_genesis_state_conserves_value_and_everything_is_in_its_rows() -> None:
    rows = {key: row for key, row in genesis_changes(GENESIS).items() if row is not None}
    validator = ConservationValidator(rows.items())
    assert validator.validate()
    assert validator.calculate_total_value() == GENESIS.supply


def test_under_proof_of_work_the_finder_is_paid_and_the_seal_is_bound() -> None:
    chain = make_chain(engine=EngineKind.POW)
    miner = address(FakeSigner(77))
    proposal = Proposal(miner, View(0), chain.timestamp_ms + 1, None)
    built = build_block(chain.state, proposal, (), chain.context(lambda key: True))
    seal = Seal(2**200, 7)
    header = replace(built.applied.block.header, engine_seal_hash=seal.hash)
    block = Block(header, None, (), seal)
    assert chain.apply(replace(block, seal=Seal(2**200, 8))) == InvalidBlock(InvalidReason.ENGINE_SEAL)
    chain.accept(block)
    assert chain.account(miner).balance == 1_000
    assert chain.height == Height(1)
