"""Catching up by whole engines: headers first, several peers, liars, silence, restarts, and two certified histories."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from node.inputs import BlocksFetched, HeadersFetched
from node.sources import Sources
from node.trust import Sampling
from node.work import FetchBlocks, FetchHeaders, Offence
from tests.node.engines import EngineNet, Node
from trellis.block import Block, decode_block
from trellis.certificate import decode_certificate, make_certificate
from trellis.constants import Context
from trellis.header import decode_header
from trellis.parameters import Parameters
from trellis.types import Hash, Height, PeerId, View
from trellis.votes import SignedVote, Vote, VoteKind

Answer = HeadersFetched | BlocksFetched
QUICK = Parameters(state_buckets_log2=4, heartbeat_ms=150, block_interval_ms=50)


def chain_of(height: int, followers: int = 1) -> EngineNet:
    """A network whose validators are at least that high, with transactions in some blocks."""
    net = EngineNet(parameters=QUICK, followers=followers)
    for nonce in range(4):
        for sender in net.accounts[1:4]:
            net.submit(0, net.transaction(sender, nonce))
        reached = net.heights()[0]
        net.run_until(lambda above=reached + 2: min(net.heights()[:4]) >= above)  # type: ignore[misc] # bound at once
    net.run_until(lambda: min(net.heights()[:4]) >= height, within_ms=120_000)
    return net


def same_chain(net: EngineNet, one: Node, other: Node, height: int) -> bool:
    return hash_at(one, height) == hash_at(other, height)


def hash_at(node: Node, height: int) -> Hash:
    return next(each.block_hash for each in node.committed if each.height == height)


def answers(net: EngineNet, liar: Node, change: Callable[[Answer], Answer | None]) -> None:
    net.answer = lambda source, asker, answer: change(answer) if source is liar else answer


def test_a_follower_that_joins_late_gets_the_chain_from_one_peer_and_then_follows() -> None:
    net = chain_of(20)
    follower = net.nodes[4]
    net.follow(follower, net.nodes[2])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 20)
    assert same_chain(net, follower, net.nodes[0], 20)
    assert (
        follower.engine.ledger.tip.state_root
        == net.nodes[0].committed[follower.engine.ledger.tip.height - 1].done.tip.state_root
    )
    net.submit(1, net.transaction(net.accounts[5], 0))
    before = len(follower.fetches)
    net.run_until(lambda: len(net.included(4)) == 13)
    assert not follower.blamed
    assert len(follower.fetches) - before < 40, "one new block costs a question or two, not a flood of them"


def test_headers_come_before_bodies_and_no_body_is_asked_for_that_is_not_certified() -> None:
    net = chain_of(12)
    follower = net.nodes[4]
    net.follow(follower, net.nodes[0])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 12)
    first = follower.fetches[0]
    assert isinstance(first, FetchHeaders)
    bodies = [each for each in follower.fetches if isinstance(each, FetchBlocks)]
    assert bodies[0].first == 1


@pytest.mark.parametrize(
    ("offence", "spoil"),
    [
        (Offence.MALFORMED, lambda headers: tuple((header[:-1], raw) for header, raw in headers)),
        (Offence.MALFORMED, lambda headers: headers[::2] if len(headers) > 2 else headers),
        (Offence.BAD_CERTIFICATE, lambda headers: tuple((header, _forged(raw)) for header, raw in headers)),
        (Offence.BAD_CERTIFICATE, lambda headers: tuple((header, _thin(raw)) for header, raw in headers)),
    ],
    ids=["cut headers", "headers with gaps", "forged signatures", "certificates without a quorum"],
)
def test_a_peer_that_lies_about_headers_is_blamed_and_the_chain_comes_from_another(
    offence: Offence, spoil: Callable[[tuple[tuple[bytes, bytes], ...]], tuple[tuple[bytes, bytes], ...]]
) -> None:
    net = chain_of(12)
    follower, liar = net.nodes[4], net.nodes[0]

    def lie(answer: Answer) -> Answer:
        if isinstance(answer, HeadersFetched) and answer.headers:
            return replace(answer, headers=spoil(answer.headers))
        return answer

    answers(net, liar, lie)
    net.follow(follower, liar, net.nodes[1])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 12)
    assert {(each.peer, each.offence) for each in follower.blamed} == {(liar.peer, offence)}


@pytest.mark.parametrize(
    "spoil",
    [
        lambda block: replace(block, transactions=block.transactions[:-1]),
        lambda block: replace(block, parent_certificate=None),
        lambda block: replace(block, header=replace(block.header, timestamp_ms=block.header.timestamp_ms + 1)),
        lambda block: replace(block, transactions=tuple(_other_body(each) for each in block.transactions)),
    ],
    ids=["a missing transaction", "no parent certificate", "another header", "other bodies under the same witnesses"],
)
@pytest.mark.parametrize("sampling", [None, Sampling(bytes(32))], ids=["verify", "certificate-trust"])
def test_a_peer_that_sends_another_body_is_blamed_and_the_body_comes_from_another(
    sampling: Sampling | None, spoil: Callable[[Block], Block]
) -> None:
    net = chain_of(12)
    net.sampling = sampling
    follower, liar = net.nodes[4], net.nodes[0]
    follower.engine = net._engine(4, follower.store, (), ())

    def lie(answer: Answer) -> Answer:
        if isinstance(answer, HeadersFetched) or answer.blocks is None:
            return answer
        return replace(answer, blocks=tuple(_spoilt(block, spoil) for block in answer.blocks))

    answers(net, liar, lie)
    net.follow(follower, liar)
    net.run_until(lambda: bool(follower.blamed))
    net.meet(follower, net.nodes[1])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 12, within_ms=60_000)
    assert {(each.peer, each.offence) for each in follower.blamed} == {(liar.peer, Offence.WRONG_BODY)}
    assert len(net.included(4)) == 12


def test_a_silent_peer_is_left_for_another_and_blamed_for_nothing() -> None:
    net = chain_of(12)
    follower, silent = net.nodes[4], net.nodes[0]
    answers(net, silent, lambda _answer: None)
    net.follow(follower, silent, net.nodes[1])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 12)
    assert not follower.blamed


def test_a_peer_that_says_more_than_it_has_holds_nobody_up() -> None:
    net = chain_of(12)
    follower, boaster = net.nodes[4], net.nodes[0]
    net.follow(follower, boaster)
    follower.engine.catch_up.sources.stands(boaster.peer, Height(10**12), Height(1))
    net.run_until(lambda: follower.engine.ledger.tip.height >= 12)
    net.run_for(1_000)
    assert not follower.blamed
    assert not follower.engine.catch_up.behind
    assert follower.engine.catch_up.sources.highest() < 10**6


def test_a_peer_that_has_pruned_is_left_for_one_that_has_not() -> None:
    net = chain_of(12)
    follower, pruned = net.nodes[4], net.nodes[0]

    def answer(given: Answer) -> Answer:
        return BlocksFetched(given.job, (), pruned=True) if isinstance(given, BlocksFetched) else given

    answers(net, pruned, answer)
    net.follow(follower, pruned)
    net.run_for(10_000)
    firsts = [each.first for each in follower.fetches if isinstance(each, FetchBlocks)]
    assert firsts.count(Height(1)) == 1, "it said so once, and is not asked for those again"
    net.meet(follower, net.nodes[1])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 12)
    assert not follower.blamed


def test_a_follower_that_restarts_goes_on_where_it_was() -> None:
    net = chain_of(30)
    follower = net.nodes[4]
    net.follow(follower, net.nodes[0])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 5)
    net.crash(follower)
    reached = follower.engine.ledger.tip.height
    follower.fetches.clear()
    net.restart(follower)
    net.meet(follower, net.nodes[1])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 30)
    bodies = [each for each in follower.fetches if isinstance(each, FetchBlocks)]
    assert bodies[0].first == reached + 1


def test_the_signatures_of_several_blocks_are_with_the_verifier_at_once() -> None:
    net = chain_of(14)
    follower = net.nodes[4]
    net.follow(follower, net.nodes[0])
    most = 0

    def there() -> bool:
        nonlocal most
        checking = [each for each in follower.engine.catch_up.windows.entries if each.stage.value == "checking"]
        most = max(most, len(checking))
        return follower.engine.ledger.tip.height >= 14

    net.run_until(there)
    assert most >= 2


def test_in_certificate_trust_mode_far_fewer_signatures_are_verified() -> None:
    counts = []
    for sampling in (None, Sampling(bytes(32))):
        net = chain_of(14, followers=1)
        net.sampling = sampling
        follower = net.nodes[4]
        follower.engine = net._engine(4, follower.store, (), ())
        net.follow(follower, net.nodes[0])
        net.run_until(lambda follower=follower: follower.engine.ledger.tip.height >= 14)  # type: ignore[misc] # at once
        counts.append(follower.verified)
    assert counts[1] <= counts[0] - 8


def test_a_second_certified_history_stops_the_node_with_both_certificates() -> None:
    net = chain_of(8)
    net.may_stop = True
    follower, traitor = net.nodes[4], net.nodes[0]
    net.follow(follower, net.nodes[1])
    net.run_until(lambda: follower.engine.ledger.tip.height >= 8)
    tip = follower.engine.ledger.tip.height

    def lie(answer: Answer) -> Answer:
        if isinstance(answer, BlocksFetched):
            return answer
        return replace(answer, headers=_other_history(net, follower, Height(tip - 2)))

    answers(net, traitor, lie)
    follower.engine.catch_up.sources.left(net.nodes[1].peer)
    follower.met.clear()
    net.meet(follower, traitor)
    net.run_until(lambda: follower.stopped is not None)
    assert follower.stopped is not None
    hashes = {certificate.block_hash for certificate in follower.stopped.certificates}
    assert len(hashes) == 2
    assert {certificate.height for certificate in follower.stopped.certificates} == {tip - 2}


def test_a_validator_that_was_away_catches_up_by_the_same_way_and_votes_again() -> None:
    net = chain_of(6)
    absent = net.nodes[3]
    net.crash(absent)
    reached = net.heights()[0]
    net.run_until(lambda: net.heights()[0] >= reached + 20, within_ms=120_000)
    net.restart(absent)
    net.run_until(lambda: absent.engine.ledger.tip.height >= reached + 20, within_ms=60_000)
    assert any(isinstance(each, FetchBlocks) for each in absent.fetches)
    net.crash(net.nodes[1])
    reached = net.heights()[0]
    net.run_until(lambda: net.heights()[0] >= reached + 3, within_ms=60_000)
    assert not absent.blamed, "three of four need its votes, and have them"


def _forged(raw: bytes) -> bytes:
    certificate = decode_certificate(raw)
    flipped = tuple(bytes([signature[0] ^ 1]) + signature[1:] for signature in certificate.signatures)
    return replace(certificate, signatures=flipped).encode()


def _thin(raw: bytes) -> bytes:
    """One good signature is left."""
    certificate = decode_certificate(raw)
    first = certificate.signers[0] & -certificate.signers[0]
    return replace(certificate, signers=bytes([first]), signatures=certificate.signatures[:1]).encode()


def _other_body(transaction: object) -> object:
    return replace(transaction, body=transaction.body[:-1] + bytes([transaction.body[-1] ^ 1]))  # type: ignore[type-var, attr-defined] # a transaction


def _spoilt(data: bytes, spoil: Callable[[Block], Block]) -> bytes:
    block = decode_block(data)
    return spoil(block).encode() if block.transactions else data


def _other_history(net: EngineNet, follower: Node, height: Height) -> tuple[tuple[bytes, bytes], ...]:
    """What three faithless validators of four could make: another certified block at a height that is final."""
    kept = next(each for each in follower.committed if each.height == height)
    header = replace(kept.done.applied.block.header, timestamp_ms=kept.done.applied.block.header.timestamp_ms + 1)
    vote = Vote(VoteKind.COMMIT, height, View(0), header.hash)
    message = vote.signing_bytes(net.genesis.hash)
    votes = [
        SignedVote(vote, member.address, member.signer.sign(message, Context.VOTE.value)) for member in net.members[:3]
    ]
    certificate = make_certificate(votes, net.genesis.validators)
    assert decode_header(header.encode()) == header
    return ((header.encode(), certificate.encode()),)


def test_a_clock_that_is_set_back_does_not_make_a_source_rest_for_longer() -> None:
    sources = Sources()
    peer = PeerId(b"peer")
    sources.stands(peer, Height(10), Height(1))
    source = sources.get(peer)
    assert source is not None
    sources.failed(source, 10_000_000)
    assert sources.for_headers(Height(5), 10_000_000) is None
    assert sources.for_headers(Height(5), 10_000_000 - 600_000) is source
