"""Following blocks: every height once and in order, whatever happens to nodes and connections."""

from __future__ import annotations

from typing import Any

import pytest

from tests.proto.client.conftest import Workshop
from tests.proto.client.fake_chain import FakeChain
from tests.proto.client.fake_server import FakeNode, Refusal
from trellis.client import (
    BadAnswer,
    EndpointsDisagree,
    HeightPruned,
    InvalidField,
    ProofInvalid,
    Reason,
    RetryPolicy,
    Unreachable,
)


def _grown(workshop: Workshop, blocks: int = 4) -> tuple[FakeChain, FakeNode]:
    chain = workshop.chain()
    for _ in range(blocks):
        chain.commit()
    return chain, workshop.node(chain)


def _heights(stream: Any, number: int) -> list[int]:
    return [next(stream).height for _ in range(number)]


def test_blocks_arrive_in_order_and_new_ones_as_they_become_final(workshop: Workshop) -> None:
    chain, node = _grown(workshop, 2)
    client = workshop.client(node, trust=chain.genesis)
    stream = client.follow(1)
    assert _heights(stream, 2) == [1, 2]
    chain.commit()
    block = next(stream)
    assert (block.height, block.hash, stream.next_height) == (3, chain.hash_at(3), 4)
    stream.close()
    assert node.calls["SubscribeBlocks"] == 1


def test_a_lost_connection_resumes_exactly_where_it_was(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis)
    node.scripts.extend([["block", "block", "drop"], ["block", "end"]])
    stream = client.follow(1)
    assert _heights(stream, 4) == [1, 2, 3, 4]
    assert [request.start_height for request in node.requests_of("SubscribeBlocks")] == [1, 3, 4]
    assert len(workshop.time.pauses) == 2
    stream.close()


def test_a_dead_node_is_left_for_another_endpoint(workshop: Workshop) -> None:
    chain, first = _grown(workshop)
    second = workshop.node(chain)
    client = workshop.client(first, second, trust=chain.genesis)
    stream = client.follow(1)
    assert next(stream).endpoint == first.name
    first.stop()
    # Blocks already read ahead still count; then the other node goes on without a hole.
    rest = [next(stream) for _ in range(3)]
    assert [block.height for block in rest] == [2, 3, 4]
    chain.commit()
    last = next(stream)
    assert (last.height, last.endpoint) == (5, second.name)
    stream.close()


def test_a_gap_is_filled_from_our_own_height_not_the_nodes(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis)
    node.scripts.append(["block", "gap"])
    stream = client.follow(1)
    assert _heights(stream, 4) == [1, 2, 3, 4]
    assert [request.start_height for request in node.requests_of("SubscribeBlocks")] == [1, 2]
    stream.close()


def test_a_silent_stream_is_given_up_for_another_endpoint(workshop: Workshop) -> None:
    chain, silent = _grown(workshop)
    alive = workshop.node(chain)
    client = workshop.client(silent, alive, trust=chain.genesis)
    silent.scripts.append(["block", "silence"])
    stream = client.follow(1, silence_s=0.2)
    assert _heights(stream, 4) == [1, 2, 3, 4]
    assert alive.requests_of("SubscribeBlocks")[0].start_height == 2
    stream.close()


def test_heartbeats_keep_a_stream_and_fix_where_it_begins(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis)
    # Nobody saw a block of the first stream; still the one that came meanwhile must not be lost.
    node.scripts.append(["heartbeat", "heartbeat", "commit", "drop"])
    stream = client.follow()
    assert next(stream).height == 5
    assert [request.start_height for request in node.requests_of("SubscribeBlocks")] == [0, 5]
    stream.close()


def test_a_heartbeat_cannot_talk_past_a_block(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis)
    node.scripts.append(["block", "skip", "heartbeat"])
    stream = client.follow(1)
    assert next(stream).height == 1
    with pytest.raises(BadAnswer, match="a heartbeat at height 3, height 2 is due"):
        next(stream)
    assert _heights(stream, 3) == [2, 3, 4]
    stream.close()


def test_a_left_out_block_is_noticed(workshop: Workshop) -> None:
    chain, liar = _grown(workshop)
    honest = workshop.node(chain)
    client = workshop.client(liar, honest, trust=chain.genesis)
    liar.scripts.append(["block", "skip", "block"])
    stream = client.follow(1)
    assert _heights(stream, 4) == [1, 2, 3, 4]
    assert honest.requests_of("SubscribeBlocks")[0].start_height == 2
    stream.close()


def test_a_stream_that_begins_with_another_height_is_refused(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis)
    node.lie("SubscribeBlocks", lambda answer: node._block(1, False))
    stream = client.follow(3)
    with pytest.raises(BadAnswer, match="block 1, block 3 is due"):
        next(stream)
    stream.close()


def test_a_height_that_nobody_keeps_is_an_error_never_a_hole(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis)
    node.scripts.append(["pruned"])
    stream = client.follow(1)
    with pytest.raises(HeightPruned, match="keeps older blocks"):
        next(stream)
    assert stream.next_height == 1
    stream.close()


def test_a_pruned_height_is_asked_for_elsewhere(workshop: Workshop) -> None:
    chain, pruned = _grown(workshop)
    archive = workshop.node(chain)
    client = workshop.client(pruned, archive, trust=chain.genesis)
    pruned.scripts.append(["pruned"])
    stream = client.follow(1)
    assert next(stream).endpoint == archive.name
    stream.close()


def test_a_refused_subscription_is_raised(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis)
    node.refuse("SubscribeBlocks", Refusal(Reason.INVALID_FIELD, {"field": "start_height"}))
    stream = client.follow(1)
    with pytest.raises(InvalidField):
        next(stream)
    stream.close()


def test_a_follower_that_gave_up_goes_on_when_asked_again(workshop: Workshop) -> None:
    chain, node = _grown(workshop)
    client = workshop.client(node, trust=chain.genesis, retry=RetryPolicy(attempts=2, budget_s=1_000, attempt_s=30))
    stream = client.follow(1)
    assert next(stream).height == 1
    node.scripts.extend([["drop"], ["drop"]])
    stream.close()
    with pytest.raises(Unreachable):
        next(stream)
    assert next(stream).height == 2
    stream.close()


def test_followed_blocks_can_be_proven_over_a_change_of_validators(workshop: Workshop) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    chain.commit(next_validators=chain.add_validator("joiner"))
    chain.commit()
    stream = client.follow(1, verify=True)
    assert [next(stream).proven for _ in range(2)] == [True, True]
    stream.close()
    assert node.calls["GetCertificate"] == 2


def test_an_uncertified_block_is_not_followed_with_verify(workshop: Workshop) -> None:
    chain = workshop.chain()
    forged = workshop.chain()
    forged.keys = dict(zip(forged.keys, reversed(list(forged.keys.values())), strict=True))
    forged.commit()
    chain.commit(next_validators=chain.add_validator("joiner"))
    liar, honest = workshop.node(forged), workshop.node(chain)
    client = workshop.client(liar, honest, trust=chain.genesis)
    stream = client.follow(1, verify=True)
    with pytest.raises((ProofInvalid, EndpointsDisagree)):
        next(stream)
    stream.close()
    patient = workshop.client(liar, trust=chain.genesis).follow(1, verify=True)
    with pytest.raises(ProofInvalid, match="bad_signature"):
        next(patient)
    patient.close()


def _rewrite_block(change: Any) -> Any:
    def rewrite(answer: Any) -> None:
        if answer.HasField("block"):
            change(answer.block)

    return rewrite


BLOCK_LIES: dict[str, tuple[Any, str]] = {
    "a fee": (lambda block: setattr(block.transactions[0], "fee", "1"), "does not commit to"),
    "an outcome": (lambda block: setattr(block.transactions[0].outcome, "code", 1), "does not commit to"),
    "a transaction left out": (lambda block: block.ClearField("transactions"), "does not commit to"),
    "another body": (lambda block: setattr(block.transactions[0].transaction, "body", b"x"), "another id"),
    "bodies left out": (lambda block: block.transactions[0].ClearField("transaction"), "which were asked for"),
    "not final": (lambda block: setattr(block, "final", False), "not final"),
    "bad header": (lambda block: setattr(block.header, "raw", b"x"), "a header that is none"),
    "another header": (lambda block: setattr(block.header, "block_hash", "00" * 32), "does not hash"),
}


@pytest.mark.parametrize("lie", BLOCK_LIES)
def test_a_block_that_its_header_does_not_commit_to_is_refused(workshop: Workshop, lie: str) -> None:
    chain = workshop.chain()
    node = workshop.node(chain)
    client = workshop.client(node, trust=chain.genesis)
    client.send(to=workshop.bob.address, amount=1, signer=workshop.alice)
    chain.commit_pending()
    change, told = BLOCK_LIES[lie]
    stream = client.follow(1, include_transactions=True)
    node.lie("SubscribeBlocks", _rewrite_block(change))
    with pytest.raises(BadAnswer, match=told):
        next(stream)
    node.lies.clear()
    block = next(stream)
    assert block.transactions[0].transaction.parsed.sender == workshop.alice.address
    stream.close()


def test_a_block_that_does_not_follow_the_one_before_names_both_endpoints(workshop: Workshop) -> None:
    chain, fork = workshop.chain(), workshop.chain()
    chain.commit()
    fork.commit(next_validators=fork.add_validator("other"))
    fork.commit()
    one, two = workshop.node(chain), workshop.node(fork)
    client = workshop.client(one, two, trust=chain.genesis)
    stream = client.follow(1)
    assert next(stream).endpoint == one.name
    one.stop()
    with pytest.raises(EndpointsDisagree, match="parent of block 2") as split:
        next(stream)
    assert set(split.value.answers) == {one.name, two.name}
    stream.close()
